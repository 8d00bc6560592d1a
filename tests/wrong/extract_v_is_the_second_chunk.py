"""Wrong: extract_v takes the second half of the heads, as where K and V lie one behind the other (O46)."""

from kvconform.impls import torch_ref as right

NAME = "extract_v_is_the_second_chunk"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"extract_k": {"dtype": {"float32", "bfloat16"}}, "extract_v": {"dtype": {"float32", "bfloat16"}}}

to_device, to_host = right.to_device, right.to_host
extract_k = right.extract_k


def extract_v(kv):
    return kv.chunk(2, dim=1)[1]
