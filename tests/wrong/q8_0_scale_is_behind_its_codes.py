"""Wrong: a block holds 32 codes and then their scale."""

import numpy as np

from kvconform.tests.wrong._reference import reference_with

NAME = "q8_0_scale_is_behind_its_codes"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"cells_q8_0"}} for op in ("append", "gather")}


def _side(blocks, name):
    codes, scale = blocks[..., :32], blocks[..., 32:]
    return {f"{name}_scale": scale.view(np.float16)[..., 0], name: codes.view(np.int8)}


def _views(cache, layout):
    return _side(cache["k"], "k"), _side(cache["v"], "v")


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
