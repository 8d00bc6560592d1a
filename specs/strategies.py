"""Strategies: every Case that a cell allows, simplest first.

Sizes, page tables and a seed are drawn, never thousands of floats. Half of the lengths sit on a boundary (0, 1, a
page, its window, its splits, the table's end), half are anywhere or beside a tile: boundaries alone make most rows tiny
and blind to the online softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st

from kvconform.specs.case import DEFAULTS, Case
from kvconform.specs.cells import LONGEST, POOL, Cell, OfferError, all_hold, once_a_cell
from kvconform.specs.features import FEATURES, covering
from kvconform.specs.offers import members
from kvconform.specs.operations import OPERATIONS

_QUARTER = tuple(range(16))
_FEW = 40  # of each half that lengths are drawn from

TILES = (16, 32, 64, 128)
"""Tokens that kernels take at a time: a length beside each is drawn now and then where lengths are free."""

_TILE_EDGES = tuple(tile + beside for tile in TILES for beside in (-1, 0, 1))


@dataclass(frozen=True)
class _Lengths:
    """Lengths of one sequence that a cell allows: simplest first, half of them on an edge; the longest; whether 0."""

    some: tuple[int, ...]
    longest: int
    empty: bool


@once_a_cell
def _lengths(cell: Cell, page_size: int, capacity: int, window: int, num_splits: int) -> _Lengths:
    bounded = capacity * page_size if capacity else page_size if cell.row.contiguous else 0
    longest = bounded or max(LONGEST, 2 * page_size)
    edges = dict.fromkeys([1, 0, *(n + beside for n in (page_size, 2 * page_size) for beside in (-1, 0, 1))])
    edges |= dict.fromkeys([longest - 1, longest])
    edges |= dict.fromkeys([window - 1, window, window + 1] if window else [])
    pages = num_splits * page_size
    if num_splits > 1:  # fewer keys than splits, one each, one more
        edges |= dict.fromkeys([num_splits - 1, num_splits, num_splits + 1])
    least = 1 if cell.conventions["empty_rows"] == "undefined" or OPERATIONS[cell.op].appends else 0
    limits = cell.predicates("kv_lens")
    fits = [n for n in edges if least <= n <= longest and all_hold(limits, n)]
    anywhere = [n for n in range(1, longest + 1) if all_hold(limits, n)]
    if not fits and not anywhere:
        asked = " and ".join(map(repr, limits))
        raise OfferError(f"{cell.op} on {cell.layout}: no length up to {longest} lies in kv_lens {asked}")
    fits, anywhere = fits or anywhere, anywhere or fits
    beyond = (*_TILE_EDGES, *((pages - 1, pages, pages + 1) if num_splits > 1 else ()))  # a page a split
    tiles = [n for n in beyond if least <= n and (n <= longest or not bounded) and all_hold(limits, n)]
    thinned = anywhere[:: -(-len(anywhere) // _FEW)]
    on_edges = (fits * (len(thinned) // len(fits) or 1))[:_FEW]
    shortest_first = sorted((*on_edges, *thinned, *tiles), key=lambda n: n or 1.5)  # but an empty one says little
    return _Lengths(tuple(shortest_first), max(fits), 0 in fits)


def _restricted(cell: Cell, only: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The geometries that a law's restriction leaves; where it leaves none, the last one made to fit."""
    shapes = cell.geometries()
    fixed = {axis: values for axis, values in only.items() if axis in shapes[0]}
    fits = [shape for shape in shapes if all(shape[axis] in values for axis, values in fixed.items())]
    return fits or [shapes[-1] | {axis: cell.allowed(axis, values)[0] for axis, values in fixed.items()}]


def cases(
    cell: Cell,
    families: tuple[str, ...] | None = None,
    only: Mapping[str, tuple[Any, ...]] | None = None,
) -> st.SearchStrategy[Case]:
    """Cases of a cell. They shrink towards one sequence, one page, the first entry of each pool, seed 0.

    families   kinds of contents; None: those of the operation's verdict
    only       axes a law restricts, such as {"dead": ("nan",)}
    Raises OfferError where the offer leaves nothing to draw.
    """
    return _drawn(_Drawn.of(cell, families, only))


def simplest(
    cell: Cell,
    families: tuple[str, ...] | None = None,
    only: Mapping[str, tuple[Any, ...]] | None = None,
) -> Case:
    """The case that those of a cell shrink towards. Arguments, and what is raised, as in `cases`."""
    return _Drawn.of(cell, families, only).case(lambda some: some[0], list)


def _schedule(pools: Mapping[str, tuple[Any, ...]]) -> tuple[dict[str, Any], ...]:
    """Combinations of features, drawn as one: the simplest a third of the time, else any two values meet somewhere."""
    rows = covering(pools)
    return (rows[0],) * max(1, len(rows) // 2) + rows[1:]


@dataclass(frozen=True)
class _Drawn:
    """What the cases of a cell are drawn from.

    shapes     geometries of a static cell, else one that says nothing
    allowed    axis -> values
    features   combinations of features
    num_seqs   sequences of a call, where lengths say how many
    """

    cell: Cell
    shapes: list[dict[str, Any]]
    allowed: Mapping[str, tuple[Any, ...]]
    features: tuple[dict[str, Any], ...]
    families: tuple[str, ...]
    num_seqs: tuple[int, ...]

    @classmethod
    def of(cls, cell: Cell, families: tuple[str, ...] | None, only: Mapping[str, tuple[Any, ...]] | None) -> _Drawn:
        """Arguments, and what is raised, as in `cases`."""
        for axis, value in cell.unheld.items():
            raise OfferError(
                f"{cell.op} on {cell.layout} in {cell.dtype}: a case of it has {axis} {value}, not offered there"
            )
        shapes = _restricted(cell, only or {}) if cell.static else [{}]
        free = [axis for axis in cell.axes if axis in POOL and axis not in shapes[0]]
        allowed = {axis: tuple(cell.allowed(axis, (only or {}).get(axis))) for axis in free}
        features = _schedule({axis: allowed.pop(axis) for axis in free if axis in FEATURES})
        return cls(cell, shapes, allowed, features, cell.families(families), _num_seqs(cell))

    def case(self, one_of: Callable[[Sequence[Any]], Any], history: Callable[[], list[int]]) -> Case:
        """One of them.

        one_of    picks one of several, simplest first
        history   operations on an object
        """
        cell, seen = self.cell, self.cell.axes
        values = dict(self.shapes[one_of(range(len(self.shapes)))])
        values |= {axis: one_of(some) for axis, some in self.allowed.items()}
        values |= self.features[one_of(range(len(self.features)))]
        num_seqs = values.pop("num_seqs", None)
        if "num_seqs" in seen:
            values["num_seqs"] = num_seqs
        if "kv_lens" in seen:
            told = DEFAULTS | values
            length = _lengths(cell, *(told[axis] for axis in ("page_size", "capacity", "window", "num_splits")))
            count = num_seqs or one_of(self.num_seqs)
            values["kv_lens"] = tuple(one_of(length.some) for _ in range(count))
            batch = one_of(_BATCHES) if count > 1 else _BATCHES[0]
            if batch != "ragged":  # lengths are drawn all the same: Hypothesis takes fewer choices for simpler
                values["kv_lens"] = _uneven(batch, length, count, one_of(range(count)))
            values |= query_tokens(cell, values["kv_lens"], values.pop("q_lens", 1), one_of)
            values |= without_room(values)
        if not cell.evicts(values):
            values.pop("evicted_pages", None)
            if values.get("window") and values.get("poison") == "evicted":
                values.pop("poison")
        alternate = len(values.get("kv_lens", ())) > 2 and values.get("shared_pages")
        if not alternate and cell.takes(shared_by=(DEFAULTS["shared_by"],)):
            values.pop("shared_by", None)
        if "history" in seen:
            values["history"] = tuple(step for step in history() if step)
        family, seed = one_of(self.families), sum(one_of(_QUARTER) << 4 * i for i in range(4))
        return Case(op=cell.op, layout=cell.layout, dtype=cell.dtype, family=family, seed=seed, **values)


def _num_seqs(cell: Cell) -> tuple[int, ...]:
    limits = cell.predicates("num_seqs") if "kv_lens" in cell.axes else []
    some = tuple(n for n in (*cell.num_seqs, *(n for limit in limits for n in members(limit))) if all_hold(limits, n))
    if not some:
        raise OfferError(f"{cell.op} on {cell.layout}: no num_seqs to draw from {' and '.join(map(repr, limits))}")
    return tuple(sorted(set(some)))


@st.composite  # once: Hypothesis reads the source of what it decorates
def _drawn(draw: st.DrawFn, some: _Drawn) -> Case:
    def one_of(several: Sequence[Any]) -> Any:
        return several[0] if len(several) == 1 else draw(_sampled(tuple(several)))

    return some.case(one_of, lambda: draw(_HISTORY))


def query_tokens(
    cell: Cell, kv_lens: tuple[int, ...], most: int, one_of: Callable[[Sequence[int]], int] = lambda some: some[0]
) -> dict[str, tuple[int, ...]]:
    """So many query tokens a sequence; fewer where it has fewer keys, but of a compiled shape the same in each.

    one_of   picks one of several, simplest first: a sequence may also have but one of them (decode), where the tokens
             are new nothing else (prefill), or none: one that waits, or room in a batch that nobody has taken. Some
             sequence has one.
    """
    if most == FEATURES["q_lens"].off:
        return {}
    appends = OPERATIONS[cell.op].appends
    if not cell.one_q_len:
        others = [(1, n, 0) if appends else (1, 0) for n in kv_lens]
        some = [(min(most, max(n, 1)), *more) for n, more in zip(kv_lens, others, strict=True)]
        taken = {pool: _taken(cell, dict.fromkeys(pool)) for pool in set(some)}
        q_lens = tuple(one_of(taken[pool]) for pool in some)
        return {"q_lens": q_lens if any(q_lens) else (some[0][0], *q_lens[1:])}
    needed = most if appends or cell.conventions["empty_rows"] == "undefined" else 0
    return {"q_lens": (most,) * len(kv_lens)} if min(kv_lens, default=0) >= needed else {}


def _taken(cell: Cell, some: Iterable[int]) -> tuple[int, ...]:
    """The first of some numbers of query tokens, and those of the others that are offered."""
    first, *others = some
    return (first, *(n for n in others if cell.takes(q_lens=(n,))))


def without_room(values: Mapping[str, Any]) -> dict[str, Any]:
    """The features that are off after all, since sequences turned out too short for what they need."""
    longest = {axis: max(some, default=1) for axis, some in values.items() if axis == "q_lens"}
    asked = {name: row for name, row in FEATURES.items() if name in values and row.beside}
    return {
        name: row.off
        for name, row in asked.items()
        if any(longest.get(axis, 1) < least for axis, least in row.beside.items())
    }


_sampled = cache(st.sampled_from)

_HISTORY = st.lists(st.sampled_from(range(64)), min_size=20, max_size=60)
"""Operations on an object; 0 is none, so that a history becomes shorter than any that is drawn."""

_BATCHES = ("ragged", "ragged", "ragged", "one_empty", "one_long")
"""How the lengths of a batch stand to each other: free, all full but one that is empty, all short but one."""


def _uneven(batch: str, length: _Lengths, count: int, odd: int) -> tuple[int, ...]:
    """A batch in which one sequence is unlike the others."""
    shortest = min((n for n in length.some if n), default=0)
    if batch == "one_empty":
        one, others = 0 if length.empty else shortest, length.longest
    else:
        one, others = length.longest, shortest
    return tuple(one if seq == odd else others for seq in range(count))
