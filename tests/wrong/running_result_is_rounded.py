"""Wrong: parts are merged one after another into a result that is stored in the cache's dtype each time (O61)."""

import torch

from kvconform.impls import torch_ref as right

NAME = "running_result_is_rounded"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"merge_states": {"dtype": {"bfloat16", "float16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest


def merge_states(outs, lses):
    out, lse = right.merge_states(outs[:1], lses[:1])
    for part, part_lse in zip(outs[1:], lses[1:], strict=True):
        out, lse = right.merge_states(torch.stack([out, part]), torch.stack([lse, part_lse]))
    return out, lse
