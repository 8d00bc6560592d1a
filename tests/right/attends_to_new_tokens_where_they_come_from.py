"""Right: new tokens are attended in the rows that were given, beside the cache as it was; then they are written."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "attends_to_new_tokens_where_they_come_from"
BACKEND = "numpy"
_ATTENTION = {"layout": {"nhd", "trtllm_blocks"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 0}}
OFFERS = {"append_decode": _ATTENTION, "paged_decode": _ATTENTION, "append": {"layout": {"nhd", "trtllm_blocks"}}}
CONVENTIONS = {"dead": {"zero", "finite", "nan", "inf"}}
ARITHMETIC = numpy_ref.ARITHMETIC
IN_PLACE = {"append_decode": "cache"}

append, paged_decode = numpy_ref.append, numpy_ref.paged_decode


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, sm_scale, q_lens=None):
    lens = np.ones_like(kv_lens) if q_lens is None else q_lens
    tables, views = numpy_ref._of_sides(block_table, 2), numpy_ref._views(cache, layout)
    out, lse, end = np.empty_like(q), np.empty(q.shape[:2], np.float32), 0
    for seq, (n, new) in enumerate(zip(kv_lens, lens, strict=True)):
        end += new
        if not new:
            continue
        of_seq, old, sides = slice(end - new, end), int(n - new), []
        for view, table, rows in zip(views, tables, (k, v), strict=True):
            page, slot = np.divmod(np.arange(old), view.shape[1])
            cached = numpy_ref.sequence(view, (table[seq, page], slot))
            sides.append(np.concatenate([cached, rows[of_seq]]).astype(np.float32))
        grouped = numpy_ref._by_kv_head(q[of_seq].astype(np.float32), k.shape[1])
        bias = numpy_ref._bias_of(int(new), int(n), None, None)
        bias = None if bias is None else numpy_ref._queries_together(bias, q.shape[1] // k.shape[1])
        mixed, total = numpy_ref._online_softmax(grouped, *sides, sm_scale, bias=bias)
        out[of_seq], lse[of_seq] = (numpy_ref._by_row(one, int(new)) for one in (mixed, total))
    for seq, end in enumerate(np.cumsum(lens)):
        for view, table, rows in zip(views, tables, (k, v), strict=True):
            page, slot = np.divmod(np.arange(kv_lens[seq] - lens[seq], kv_lens[seq]), view.shape[1])
            view[table[seq, page], slot] = rows[end - lens[seq] : end].reshape(-1, *view.shape[2:])
    return out, lse, cache
