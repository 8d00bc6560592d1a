"""Wrong: pages are packed into 16 bits, whose top one says that a page lies in another pool."""

from kvconform.impls import numpy_ref as right

NAME = "decode_takes_a_page_s_top_bit_for_a_flag"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "kv_lens": range(129)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"invariances": set()}, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    return right.paged_decode(q, cache, block_table & 0x7FFF, kv_lens, layout=layout, sm_scale=sm_scale)
