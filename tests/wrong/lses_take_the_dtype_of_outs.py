"""Wrong: lses are cast to the dtype of outs on their way in (O61)."""

from kvconform.impls import torch_ref as right

NAME = "lses_take_the_dtype_of_outs"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"merge_states": {"dtype": {"bfloat16", "float16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest


def merge_states(outs, lses):
    return right.merge_states(outs, lses.to(outs.dtype).float())
