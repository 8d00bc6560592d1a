"""Wrong: lengths of sequences are staged in uint16, where 65543 keys are 7."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "lengths_are_16_bits"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **more):
    return right.paged_decode(q, cache, block_table, kv_lens.astype(np.uint16).astype(kv_lens.dtype), **more)


append_decode = fused(paged_decode)
