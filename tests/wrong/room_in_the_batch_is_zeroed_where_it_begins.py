"""Wrong: where rows of a sequence without keys would begin zeros are written, though it has none: they are others'."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "room_in_the_batch_is_zeroed_where_it_begins"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 0}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    out, lse = right.paged_decode(q, cache, block_table, kv_lens, q_lens=q_lens, **options)
    if q_lens is not None:
        starts = np.cumsum(q_lens) - q_lens
        begins = starts[(kv_lens == 0) & (q_lens == 0) & (starts < len(q))]
        out[begins], lse[begins] = 0, -np.inf
    return out, lse


append_decode = fused(paged_decode)
