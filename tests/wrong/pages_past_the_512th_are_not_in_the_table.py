"""Wrong: 512 pages of a block table row are copied into shared memory, and the loop ends with them."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "pages_past_the_512th_are_not_in_the_table"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    room = 512 * right._views(cache, layout)[0].shape[1]
    lens = np.minimum(kv_lens, room)
    return right.paged_decode(q, cache, block_table, lens, layout=layout, sm_scale=sm_scale)


append_decode = fused(paged_decode)
