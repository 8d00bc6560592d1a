"""Right: a chunk has eight keys whatever number of splits is asked for, so that neither splits nor batch matter."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "chunks_are_of_a_fixed_size"
BACKEND = "numpy"
CHUNK = 8
OFFERS = {
    "append": {"layout": {"nhd"}, "dtype": {"float32"}},
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)},
}
CONVENTIONS = {"invariances": {"batch", "splits"}}
ARITHMETIC = numpy_ref.ARITHMETIC | {"tile": 1, "splits": 2**20, "merge_levels": 1}

append = numpy_ref.append


def _row(q, k, v, sm_scale):
    starts = range(0, len(k), CHUNK) or [0]
    parts = [numpy_ref._online_softmax(q, k[a : a + CHUNK], v[a : a + CHUNK], sm_scale) for a in starts]
    return numpy_ref._merge(*map(np.stack, zip(*parts, strict=True)))


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale, num_splits):
    k, v = (rows.astype(np.float32) for rows in numpy_ref.gather(cache, block_table, kv_lens, layout=layout))
    ends = np.cumsum(kv_lens)[:-1]
    grouped = q.astype(np.float32).reshape(len(q), k.shape[1], -1, q.shape[2])
    rows = [_row(*one, sm_scale) for one in zip(grouped, np.split(k, ends), np.split(v, ends), strict=True)]
    out, lse = map(np.stack, zip(*rows, strict=True))
    return out.reshape(q.shape).astype(q.dtype), lse.reshape(q.shape[:2])
