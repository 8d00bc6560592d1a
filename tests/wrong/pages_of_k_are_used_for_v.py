"""Wrong: V is looked up in the pages of K, where each has pages of its own in one pool."""

from kvconform.impls import numpy_ref as right

NAME = "pages_of_k_are_used_for_v"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"trtllm_blocks"}, "dtype": {"float32", "bfloat16"}},
    "gather": {"layout": {"trtllm_blocks"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"trtllm_blocks"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def append(cache, k, v, slot_mapping, *, layout):
    return right.append(cache, k, v, slot_mapping[[0, 0]], layout=layout)


def gather(cache, block_table, kv_lens, *, layout):
    return right.gather(cache, block_table[:, [0, 0]], kv_lens, layout=layout)


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache, block_table[:, [0, 0]], kv_lens, **options)
