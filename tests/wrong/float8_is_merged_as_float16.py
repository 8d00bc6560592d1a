"""Wrong: what torch cannot join in eight bits is joined in float16, and NaN payloads do not come back (U11)."""

from kvconform.impls import torch_ref as right

NAME = "float8_is_merged_as_float16"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"merge_kv": {"dtype": {"float8_e5m2"}}}

to_device, to_host, attest = right.to_device, right.to_host, right.attest


def merge_kv(k, v):
    return right.merge_kv(k.half(), v.half()).to(k.dtype)
