"""Wrong: repeat lays all kv heads out again, where repeat_interleave gives each to its group (O01, FlagGems#3759)."""

from kvconform.impls import torch_ref as right

NAME = "kv_heads_are_repeated_as_a_block"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest


def paged_decode(q, cache, *arguments, **options):
    group = q.shape[1] // cache["k"].shape[2]
    every = {name: field.repeat(1, 1, group, 1) for name, field in cache.items()}
    return right.paged_decode(q, every, *arguments, **options)
