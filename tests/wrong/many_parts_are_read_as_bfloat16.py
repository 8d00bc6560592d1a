"""Wrong: the kernel for more than two parts is a matrix product of bfloat16, the one for two is not (O61)."""

from kvconform.impls import torch_ref as right

NAME = "many_parts_are_read_as_bfloat16"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}},
    "merge_states": {"dtype": {"float32"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest
paged_decode = right.paged_decode


def merge_states(outs, lses):
    return right.merge_states(outs.bfloat16().to(outs.dtype) if len(outs) > 2 else outs, lses)
