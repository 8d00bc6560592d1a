"""Wrong: as many splits as the machine has room for at the moment, at most those asked for (O15, torchtitan#3235)."""

from kvconform.impls import torch_ref as right

NAME = "splits_follow_the_load"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"paged_decode": {"layout": {"bshd", "bhsd"}, "dtype": {"float32"}, "num_splits": range(2, 8)}}
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC

to_device, to_host, attest = right.to_device, right.to_host, right.attest
_BUSY = [0]


def paged_decode(*arguments, layout, sm_scale, num_splits):
    _BUSY[0] += 1
    free = num_splits - _BUSY[0] % 2
    return right.paged_decode(*arguments, layout=layout, sm_scale=sm_scale, num_splits=free)
