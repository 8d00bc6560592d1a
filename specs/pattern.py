"""The notation of a layout: `logical axes -> physical axes`, slowest axis first.

    page slot head dim          ->  page head slot dim            heads before slots
    kv page slot head dim       ->  page slot (head kv) dim       K and V rows alternate inside the head axis
    page slot head (chunk x)    ->  page head chunk slot x        a logical axis cut in two

A name is an axis; parentheses make several axes one dimension of the array. Shape and index formula both follow from
the line; nothing else in the project knows how an element's place is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

Group = tuple[str, ...]


@cache
def parse(line: str) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """The logical and the physical groups of a line.

    Raises ValueError when the two sides do not name the same axes once each.
    """
    logical, arrow, physical = line.partition("->")
    sides = tuple(
        tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^()]*\)|\w+", side))
        for side in (logical, physical)
    )
    names = [sorted(axis for group in side for axis in group) for side in sides]
    if not arrow or names[0] != names[1] or len(set(names[0])) != len(names[0]):
        raise ValueError(
            f"{line!r}: both sides of '->' must name the same axes, each once; got {names[0]} and {names[1]}"
        )
    return sides[0], sides[1]


def complete(line: str, totals: Sequence[int], known: Mapping[str, int]) -> dict[str, int]:
    """Size of every axis of a line, from the totals of its logical groups.

    totals   one int a logical group, in the line's order
    known    sizes of the inner axes of a group that is cut, such as {"x": 8}
    Raises ValueError when a total is not a multiple of its known part.
    """
    sizes = dict(known)
    logical, _ = parse(line)
    for group, total in zip(logical, totals, strict=True):
        inner = math.prod(sizes[axis] for axis in group[1:])
        if total % inner:
            raise ValueError(f"{line!r}: {total} is not a multiple of {inner} ({' '.join(group[1:])})")
        sizes[group[0]] = total // inner
    return sizes


def shape(line: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of the array that the physical side describes."""
    _, physical = parse(line)
    return tuple(math.prod(sizes[axis] for axis in group) for group in physical)


def address(line: str, coordinates: Sequence[Any], sizes: Mapping[str, int]) -> Any:
    """Element offset from the start of the array: the whole index formula.

    coordinates   one int or broadcastable integer array a logical group, in the line's order
    """
    logical, physical = parse(line)
    at: dict[str, Any] = {}
    for group, index in zip(logical, coordinates, strict=True):
        rest = index
        for axis in reversed(group[1:]):
            rest, at[axis] = rest // sizes[axis], rest % sizes[axis]
        at[group[0]] = rest
    offset: Any = 0
    for axis in (axis for group in physical for axis in group):
        offset = offset * sizes[axis] + at[axis]
    return offset
