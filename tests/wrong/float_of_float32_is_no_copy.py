"""Wrong: q.float() is scaled in place, and where q is float32 already that is q itself (O82b)."""

from kvconform.impls import torch_ref as right

NAME = "float_of_float32_is_no_copy"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest


def paged_decode(q, *arguments, layout, sm_scale):
    out, lse = right.paged_decode(q.float().mul_(sm_scale), *arguments, layout=layout, sm_scale=1.0)
    return out.to(q.dtype), lse
