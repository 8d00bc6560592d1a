"""The predicate language of OFFERS and of expectations' `when`: an axis is a set, a range, multiples, or one value.

    {"layout": {"nhd"}, "page_size": {16, 32}, "head_dim": range(8, 257, 8), "kv_lens": {"max": 4096}, "num_splits": 1,
     "num_tokens": {"multiple_of": 8, "min": 8}}

In TOML a set is a list and a range is a table such as `{min = 8, max = 256, step = 8}`. Bounds are inclusive in a
table, whatever is left out of it is unbounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvconform.specs.case import Case

TABLE_KEYS = ("min", "max", "step", "multiple_of")
"""Keys of a predicate written as a table."""


def flaw(predicate: Any) -> str:
    """What is wrong with a predicate, or nothing."""
    if isinstance(predicate, Mapping):
        unknown = [key for key in predicate if key not in TABLE_KEYS]
        if unknown or not predicate:
            return f"a table of {', '.join(TABLE_KEYS)}, not {dict(predicate)!r}"
        wrong = [key for key, value in predicate.items() if not isinstance(value, int | float)]
        if wrong:
            return f"{wrong[0]} = {predicate[wrong[0]]!r} is no number"
        if predicate.get("step", 1) <= 0 or predicate.get("multiple_of", 1) <= 0:
            return f"step and multiple_of must be above 0, not {dict(predicate)!r}"
        if predicate.get("min", 0) > predicate.get("max", float("inf")):
            return f"no number lies in {dict(predicate)!r}"
    elif isinstance(predicate, set | frozenset | range | list | tuple) and not len(predicate):
        return f"nothing lies in {predicate!r}"
    return ""


def holds(predicate: Any, value: Any) -> bool:
    """Whether a value satisfies a predicate."""
    if isinstance(predicate, Mapping):
        if not isinstance(value, int | float):
            return False
        low, high = predicate.get("min", float("-inf")), predicate.get("max", float("inf"))
        steps = (value - predicate.get("min", 0)) % predicate.get("step", 1) == 0 if "step" in predicate else True
        return bool(low <= value <= high and steps and value % predicate.get("multiple_of", value or 1) == 0)
    if isinstance(predicate, set | frozenset | range | list | tuple):
        return value in predicate
    return bool(value == predicate)


def is_span(predicate: Any) -> bool:
    """Whether a predicate gives bounds rather than names values."""
    return isinstance(predicate, Mapping | range)


def members(predicate: Any) -> list[Any]:
    """Values of a predicate, smallest first; of a long range or of a table the first four."""
    if isinstance(predicate, Mapping):
        start = predicate.get("min", predicate.get("multiple_of", 1))
        step = predicate.get("step", predicate.get("multiple_of", 1))
        return [v for v in (start + i * step for i in range(4)) if holds(predicate, v)]
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
