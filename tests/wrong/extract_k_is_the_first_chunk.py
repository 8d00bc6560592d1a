"""Wrong: extract_k takes the first half of the heads, as where K and V lie one behind the other (O46)."""

from kvconform.impls import torch_ref as right

NAME = "extract_k_is_the_first_chunk"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"extract_k": {"dtype": {"float32", "bfloat16"}}, "extract_v": {"dtype": {"float32", "bfloat16"}}}

to_device, to_host = right.to_device, right.to_host
extract_v = right.extract_v


def extract_k(kv):
    return kv.chunk(2, dim=1)[0]
