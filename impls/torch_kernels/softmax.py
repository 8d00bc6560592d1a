"""The mean of values under a softmax, which every attention here ends in, and every merge of parts."""

from __future__ import annotations

import torch
from torch import Tensor


def mean(score: Tensor, value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean of the values under softmax(score) along an axis, and log-sum-exp; 0 and -inf where every score is -inf.

    score [...] and value [..., dim] broadcast; what the value of a score of -inf holds does not matter, NaN included.
    """
    top = score.amax(axis, keepdim=True).clamp(min=torch.finfo(score.dtype).min)  # finite, for -inf - top to be -inf
    weight = (score - top).exp()
    total = weight.sum(axis, keepdim=True)  # at least exp(0), or 0
    share = (weight / total.clamp(min=1)).unsqueeze(-1)
    mean = (share * value).masked_fill_(score.isneginf().unsqueeze(-1), 0).sum(axis)
    return mean, (top + total.log()).squeeze(axis)
