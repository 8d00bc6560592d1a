"""The predicate language of OFFERS and of expectations' `when`: an axis is a set, a range, or one value.

    {"layout": {"nhd"}, "dtype": {"float32"}, "page_size": {16, 32}, "head_dim": range(8, 257, 8), "num_splits": 1}

In TOML a set is a list and a range is a table `{min = 8, max = 256, step = 8}`, ends included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvconform.specs.case import Case


def holds(predicate: Any, value: Any) -> bool:
    """Whether a value satisfies a predicate."""
    if isinstance(predicate, Mapping):
        return value in range(predicate.get("min", 0), predicate["max"] + 1, predicate.get("step", 1))
    if isinstance(predicate, set | frozenset | range | list | tuple):
        return value in predicate
    return bool(value == predicate)


def members(predicate: Any) -> list[Any]:
    """Values of a predicate, smallest first; of a long range the first four."""
    if isinstance(predicate, range):
        return list(predicate[:4])
    if isinstance(predicate, set | frozenset | list | tuple):
        return sorted(predicate, key=lambda value: (str(type(value)), value))
    return [predicate]


def inside(region: Mapping[str, Any], case: Case) -> bool:
    """Whether a Case lies in a region: every axis holds, for kv_lens at least one length."""
    for axis, predicate in region.items():
        value = getattr(case, axis)
        if not (any(holds(predicate, n) for n in value) if isinstance(value, tuple) else holds(predicate, value)):
            return False
    return True
