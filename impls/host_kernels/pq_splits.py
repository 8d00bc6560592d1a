"""How many splits attention over codes is cut into where a caller leaves it open."""

from __future__ import annotations

from typing import Any

from kvconform.specs.offers import holds

SPLITS = ((2048, 32), (256, 16), (128, 4), (64, 2), (0, 1))
"""MILLION's rule: (more tokens than so many, number of splits)."""


def num_splits_for(num_tokens: int, offered: Any = None) -> int:
    """How many splits that many coded tokens are cut into; of an adapter's offer the most that are not more."""
    asked = next((splits for more_than, splits in SPLITS if num_tokens > more_than), 1)
    return asked if offered is None else next((n for n in range(asked, 0, -1) if holds(offered, n)), 1)
