"""Wrong: the number of heads is taken from the first tensors that a head_dim comes with (O88, T12)."""

from kvconform.impls import torch_ref as right

NAME = "merge_keeps_its_first_number_of_heads"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"merge_kv": {"dtype": {"float32"}, "static": True}}

to_device, to_host, attest = right.to_device, right.to_host, right.attest
_HEADS = {}


def merge_kv(k, v):
    _, heads, dim = k.shape
    return right.merge_kv(k, v).view(-1, 2 * _HEADS.setdefault(dim, heads), dim)
