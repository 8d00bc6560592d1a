"""Wrong: pages are packed into 16 bits, whose top one says that a page lies in another pool."""

from kvconform.impls import numpy_ref as right

NAME = "gather_takes_a_page_s_top_bit_for_a_flag"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, block_table & 0x7FFF, kv_lens, layout=layout)
