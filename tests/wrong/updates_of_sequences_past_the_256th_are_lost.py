"""Wrong: a block of 256 threads writes new tokens, a sequence each."""

from kvconform.impls import numpy_ref as right

NAME = "updates_of_sequences_past_the_256th_are_lost"
BACKEND = "numpy"
OFFERS = {"append_decode": {"layout": {"nhd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append_decode(q, k, v, cache, block_table, kv_lens, *, layout, sm_scale):
    *attention, updated = right.append_decode(q, k, v, cache, block_table, kv_lens, layout=layout, sm_scale=sm_scale)
    written = right.append_decode(
        q[:256], k[:256], v[:256], cache, block_table[:256], kv_lens[:256], layout=layout, sm_scale=sm_scale
    )[-1]
    return *attention, written if len(kv_lens) > 256 else updated
