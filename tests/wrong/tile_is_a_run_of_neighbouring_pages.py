"""Wrong: a tile holds as many pages as the block table has neighbours in a row, to be fetched at once (R08)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "tile_is_a_run_of_neighbouring_pages"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, right.ARITHMETIC | {"tile": 1}

_wrong = reference_with()


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    page_size = right._views(cache, layout)[0].shape[1]
    breaks = np.flatnonzero(np.diff(block_table, append=-2).ravel() != 1)
    _wrong.TILE = int(np.diff(breaks, prepend=-1).max()) * page_size
    return _wrong.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)


append_decode = fused(paged_decode)
