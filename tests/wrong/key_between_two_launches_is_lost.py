"""Wrong: a launch takes 4096 keys, and the first one of each further launch is in none (O26, `>` for `>=`)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "key_between_two_launches_is_lost"
BACKEND = "numpy"
LAUNCH = 4096
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"bfloat16"}, "head_dim": {8}}}
CONVENTIONS = right.CONVENTIONS
ARITHMETIC = right.ARITHMETIC | {"pv_depth": 1024}  # a tile of 16 and 513 tiles


def _online_softmax(q, k, v, sm_scale):
    taken = (np.arange(len(k)) % LAUNCH > 0) | (np.arange(len(k)) < LAUNCH)
    return right._online_softmax(q, k[taken], v[taken], sm_scale)


paged_decode = reference_with(_online_softmax=_online_softmax).paged_decode
