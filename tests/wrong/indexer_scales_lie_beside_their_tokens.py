"""Wrong: the scale of a token is looked for behind its own values."""

import ml_dtypes
import numpy as np

from kvconform.tests.wrong._reference import reference_with

NAME = "indexer_scales_lie_beside_their_tokens"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"indexer_k"}} for op in ("append", "gather")}


def _views(cache, layout, *, head_dim, **told):
    rows = cache["kv_cache"].reshape(len(cache["kv_cache"]), -1, head_dim + 4 * head_dim // 128)
    values, scales = rows[..., :head_dim], rows[..., head_dim:]
    return {"k": values.view(ml_dtypes.float8_e4m3fn), "k_scale": scales.view(np.float32)}, None


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
