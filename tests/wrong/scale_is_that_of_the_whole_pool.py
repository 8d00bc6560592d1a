"""Wrong: K is held in float16 relative to the largest number of the pool, pages included that nobody owns (O65)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "scale_is_that_of_the_whole_pool"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"k_format": "float16", "qk_error": 2.0**-22}


def paged_decode(q, cache, *arguments, **options):
    largest = np.abs(cache["k"]).max() or np.float32(1)
    held = (cache["k"] / largest).astype(np.float16) * largest
    return right.paged_decode(q, cache | {"k": held}, *arguments, **options)
