"""Wrong: P is cast to the dtype of the cache before it meets V, and ARITHMETIC says nothing of it (O61)."""

import torch

from kvconform.impls import torch_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "p_takes_the_dtype_of_v"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _mean(score, value, axis):
    share = score.softmax(axis).to(torch.bfloat16).float().unsqueeze(-1)
    mean = (share * value).masked_fill(score.isneginf().unsqueeze(-1), 0).sum(axis)
    return mean, score.logsumexp(axis)


_wrong = reference_with(of="torch_ref", _mean=_mean)
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
