"""Wrong: the denominator is kept from zero by an epsilon, which takes part in every quotient (O56)."""

import torch

from kvconform.impls import torch_ref as right

NAME = "denominator_has_an_epsilon"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"merge_states": {"dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

to_device, to_host = right.to_device, right.to_host


def merge_states(outs, lses):
    top = lses.amax(0).clamp(min=torch.finfo(lses.dtype).min)
    weight = (lses - top).exp()
    total = weight.sum(0)
    terms = (weight.unsqueeze(-1) * outs).masked_fill(lses.isneginf().unsqueeze(-1), 0)
    return terms.sum(0) / (total + 1e-7).unsqueeze(-1), top + total.log()
