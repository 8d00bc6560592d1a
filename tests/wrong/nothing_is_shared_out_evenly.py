"""Wrong: dead slots score the least float, so that a sequence without keys gets the mean of them (O57)."""

import torch

from kvconform.impls import torch_ref as right
from kvconform.tests.wrong._reference import reference_with

NAME = "nothing_is_shared_out_evenly"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"dead": {"zero", "finite"}, "table_padding": {"valid", "minus_one"}}
ARITHMETIC = right.ARITHMETIC


def _mean(score, value, axis):
    score = score.clamp(min=torch.finfo(score.dtype).min)
    return (score.softmax(axis).unsqueeze(-1) * value).sum(axis), score.logsumexp(axis)


_wrong = reference_with(of="torch_ref", _mean=_mean)
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
