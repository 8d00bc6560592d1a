"""Wrong: K is held in float16 relative to the largest number of its page, dead slots included (O65, lmdeploy#4849)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "page_scale_sees_dead_keys"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"k_format": "float16", "qk_error": 2.0**-22}


def paged_decode(q, cache, block_table, kv_lens, **options):
    largest = np.abs(cache["k"]).max((1, 2, 3), keepdims=True)
    largest = np.where(largest > 0, largest, np.float32(1))
    held = (cache["k"] / largest).astype(np.float16)
    return right.paged_decode(q, cache | {"k": held * largest}, block_table, kv_lens, **options)


append_decode = fused(paged_decode)
