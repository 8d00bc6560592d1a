"""Wrong: the offset of the sequence is missing, so that all read the first row of a contiguous cache (O46)."""

from kvconform.impls import torch_ref as right

NAME = "first_row_for_all"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {
    "gather": {"layout": {"bhsd"}, "dtype": {"float32", "bfloat16"}},
    "paged_decode": {"layout": {"bhsd"}, "dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest


def gather(cache, block_table, kv_lens, **options):
    return right.gather(cache, block_table[:1].expand_as(block_table), kv_lens, **options)


def paged_decode(q, cache, block_table, kv_lens, **options):
    return right.paged_decode(q, cache, block_table[:1].expand_as(block_table), kv_lens, **options)
