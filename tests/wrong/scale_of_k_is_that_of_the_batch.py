"""Wrong: K is held in float16 relative to the largest number of the whole batch, one scale for all its sequences."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "scale_of_k_is_that_of_the_batch"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}}}
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"k_format": "float16", "qk_error": 2.0**-22}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    k, _ = right.gather(cache, block_table, kv_lens, layout=layout)
    largest = np.abs(k).max(initial=0) or np.float32(1)
    with np.errstate(over="ignore"):  # in slots that no sequence reads
        held = (cache["k"] / largest).astype(np.float16) * largest
    return right.paged_decode(q, cache | {"k": held}, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
