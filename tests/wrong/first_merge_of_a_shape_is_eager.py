"""Wrong: the first call of a shape runs op by op, later ones run what was made of it, which sums in pairs (R08)."""

import torch

from kvconform.impls import torch_ref as right

NAME = "first_merge_of_a_shape_is_eager"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"merge_states": {"dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"merge_levels": 4}

to_device, to_host, attest = right.to_device, right.to_host, right.attest
_SEEN = set()


def merge_states(outs, lses):
    if outs.shape not in _SEEN:
        _SEEN.add(outs.shape)
        return right.merge_states(outs, lses)
    while len(outs) > 1:
        pairs = [right.merge_states(*pair) for pair in zip(outs.split(2), lses.split(2), strict=True)]
        outs, lses = (torch.stack(several) for several in zip(*pairs, strict=True))
    return right.merge_states(outs, lses)
