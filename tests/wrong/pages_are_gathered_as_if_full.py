"""Wrong: whole pages are laid side by side and cut to the number of tokens, as if only the last had a rest (O39b)."""

from kvconform.impls import torch_ref as right

NAME = "pages_are_gathered_as_if_full"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "num_kv_heads": 1}}

to_device, to_host = right.to_device, right.to_host


def gather(cache, block_table, kv_lens, *, layout):
    num_pages = -(-kv_lens // cache["k"].shape[1])
    used = block_table.new_tensor(range(block_table.shape[1])) < num_pages[:, None]
    pages = block_table[used].long()
    return tuple(cache[name][pages].flatten(0, 1)[: kv_lens.sum()] for name in ("k", "v"))
