"""Wrong: a block of 256 threads, a dim each: scores lack what is behind them."""

from kvconform.impls import numpy_ref as right

NAME = "dims_past_the_256th_are_not_in_the_dot"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    q = q.copy()
    q[..., 256:] = 0
    return right.paged_decode(q, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
