"""How many splits attention over codes is cut into where a caller leaves it open."""

SPLITS = ((2048, 32), (256, 16), (128, 4), (64, 2), (0, 1))
"""MILLION's rule: (more tokens than so many, number of splits)."""


def num_splits_for(num_tokens: int) -> int:
    """How many splits that many coded tokens are cut into."""
    return next((splits for more_than, splits in SPLITS if num_tokens > more_than), 1)
