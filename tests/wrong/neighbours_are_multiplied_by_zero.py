"""Wrong: all sequences meet all keys in one product, and the weights of other sequences' keys are zeros (O30).

As in torch's PagedAttention: what a score is masked with does not help where the zero then meets a NaN in V.
"""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "neighbours_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "kv_lens": {"max": 512}}}
CONVENTIONS = {"dead": {"zero", "finite", "nan"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 2**31}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    k, v = right.gather(cache, block_table, kv_lens, layout=layout)
    other = np.repeat(np.arange(len(kv_lens)), kv_lens) != np.arange(len(kv_lens))[:, None]
    score = np.einsum("shgd,nhd->shgn", q.reshape(len(q), k.shape[1], -1, k.shape[2]), k) * np.float32(sm_scale)
    score = np.where(other[:, None, None], -np.inf, score)
    top = np.maximum(score.max(-1, initial=-np.inf, keepdims=True), np.finfo(np.float32).min)
    p = np.exp(score - top)
    total = p.sum(-1, keepdims=True)
    out = np.einsum("shgn,nhd->shgd", p, v) / np.where(total, total, 1)
    lse = np.where(total > 0, top + np.log(total), -np.inf)
    return out.reshape(q.shape).astype(np.float32), lse.reshape(q.shape[:2]).astype(np.float32)
