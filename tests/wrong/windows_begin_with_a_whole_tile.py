"""Wrong: the first tile of keys of a window is taken whole, from where the tile begins."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "windows_begin_with_a_whole_tile"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "window": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, window=None):
    calls = [np.array([seq]) for seq in range(len(kv_lens))]
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    for seq in calls:
        oldest = int(kv_lens[seq[0]]) - (window or 0)
        wider = window if window is None or window < 64 or oldest < 0 else window + oldest % 64
        given = q[seq], cache, block_table[seq], kv_lens[seq]
        out[seq], lse[seq] = right.paged_decode(*given, layout=layout, sm_scale=sm_scale, window=wider)
    return out, lse
