"""Slots that tokens are written to."""

from __future__ import annotations

import torch
from torch import Tensor


def last_of_each(slots: Tensor) -> Tensor:
    """Indices of the tokens that stay where several go to one slot."""
    ordered, order = slots.sort(stable=True)
    return order[torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])[: len(order)]]
