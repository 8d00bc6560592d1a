"""Wrong: a call on the arguments of the last one scales q and not the scores."""

import numpy as np

from kvconform.tests.wrong._pq import again, attend, attention

NAME = "pq_repeated_call_scales_q"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_heads"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, {}

pq_decode_attention = again(attention(), attention(lambda x, q, k, v: attend(q * np.float32(x.sm_scale), k, v, 1.0)))
