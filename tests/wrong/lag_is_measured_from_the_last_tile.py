"""Wrong: rescaling is put off while a key is less than 2 nats above the last one, not above the reference.

Slow rises add up until a weight leaves the range of float16, in which P is held. Short sequences go elsewhere.
"""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "lag_is_measured_from_the_last_tile"
BACKEND = "numpy"
LAG, TILE = 2.0, 1
_NAMES = "nhd hnd kv_first_nhd kv_first_hnd beside_nhd beside_hnd page_first_nhd page_first_hnd split_x heads_first"
LAYOUTS = {*_NAMES.split(), "tokens_last"}
OFFERS = {"paged_decode": {"layout": LAYOUTS, "dtype": {"float32", "bfloat16"}, "kv_lens": {"min": 25, "max": 64}}}
CONVENTIONS = {"dead": {"zero"}, "deterministic": False}
ARITHMETIC = right.ARITHMETIC | {"tile": 1, "max_lag": LAG, "p_format": "float16"}


def _online_softmax(q, k, v, sm_scale):
    if not len(k):
        return right._online_softmax(q, k, v, sm_scale)
    top = last = np.full(q.shape[:2], -np.inf, np.float32)
    total, out = np.zeros(q.shape[:2], np.float32), np.zeros(q.shape, np.float32)
    for tile in (slice(start, start + TILE) for start in range(0, len(k), TILE)):
        score = np.einsum("hgd,nhd->hgn", q, k[tile]) * np.float32(sm_scale)
        highest = score.max(-1)
        new_top = np.where(highest > last + LAG, np.maximum(top, highest), top)
        keep, last = np.exp(top - new_top), highest
        p = np.exp(score - new_top[..., None]).astype(np.float16).astype(np.float32)
        total = total * keep + p.sum(-1)
        out, top = out * keep[..., None] + np.einsum("hgn,nhd->hgd", p, v[tile]), new_top
    return out / total[..., None], top + np.log(total)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
