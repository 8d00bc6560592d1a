"""Wrong: scores of a row are kept in memory that has room for 65536 of them; keys behind those are left out."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "logits_have_room_for_65536_keys"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, **more):
    return right.paged_decode(q, cache, block_table, np.minimum(kv_lens, 1 << 16), **more)


append_decode = fused(paged_decode)
