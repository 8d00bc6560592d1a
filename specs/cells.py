"""Cells: what is offered of an operation, layout by layout and dtype by dtype, and what its cases may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, wraps
from itertools import islice, product
from typing import Any, Concatenate, ParamSpec, TypeVar

from kvconform.specs import data
from kvconform.specs import families as structured
from kvconform.specs.case import DEFAULTS, Case
from kvconform.specs.conventions import CONVENTIONS, barred
from kvconform.specs.dtypes import DTYPES, PACKED, width
from kvconform.specs.features import FEATURES, from_the_first_key
from kvconform.specs.layouts import LAYOUTS, Layout
from kvconform.specs.offers import holds, is_span, members
from kvconform.specs.operations import OPERATIONS, ROUNDED
from kvconform.specs.storage import STRIDES
from kvconform.specs.tables import FORMS

POOL: dict[str, tuple[Any, ...]] = {
    "num_tokens": (1, 0, 2, 3, 5, 8),
    "num_seqs": (1, 2, 3),
    "page_size": (1, 2, 3, 4, 8, 16),
    "num_kv_heads": (1, 2, 3, 5),
    "group": (1, 2, 3, 4),
    "head_dim": (1, 3, 4, 8, 16, 24, 40),
    "head_dim_v": (1, 4, 3, 16, 8, 24, 40),  # in no order of head_dim: small cases have two widths, too
    "num_subspaces": (1, 2, 3, 8, 16, 64, 32),
    "sub_dim": (1, 2, 3, 4, 8),
    "num_centroids": (2, 3, 16, 256),
    "codes": ("in_order", "mixed"),
    "residual": (0, 1, 3, 8, 4),
    "moved": (1, 2, 4, 8),
    "num_layers": (1, 2),
    "num_pages": (1, 2, 3, 8, 64),
    "vectors": ("anywhere", "centroids", "between", "beside"),
    "spare_pages": (0, 1, 3),
    "spare_columns": (0, 1, 3),
    "index_dtype": ("int32", "int64"),
    "skip": (0, 2, 3),
    "skip_from": (0, 1),
    "num_splits": (1, 2, 3, 5, 7),
    "sm_scale": (None, 1.0, 0.25),
    "q_dtype": ROUNDED,
    "kv_scales": ("tensor", "none", "head", "page", "token"),
    "num_parts": (1, 2, 3, 5, 8),
    "empty_parts": ("none", "some", "all"),
    "dead": ("finite", "zero", "nan", "inf"),
    "poison": ("all", "tails", "free", "padding", "null", "gaps", "evicted"),
    "table_padding": ("valid", "null", "minus_one", "huge"),
    "table_form": FORMS,
    "evicted_pages": ("kept", "null", "minus_one"),
    "strides": STRIDES,
    "buffers": ("own", "nan", "used"),
    "stray_slots": ("none", "below", "beyond", "twice"),
    "page_ids": ("any", "high"),
    "shared_pages": (0, 1, 2),
    "shared_by": ("all", "alternate"),
    "page_moves": ("apart", "swap"),
    "pool": ("dense", "sparse"),
    **{name: row.pool for name, row in FEATURES.items()},
}
"""Values of each axis that are drawn where an offer allows them, simplest first."""

LONGEST = 40
"""Tokens of the longest sequence that is drawn where lengths are free and two pages are not longer."""

SIZE_OF = {"page_size": "slot", "num_kv_heads": "head", "head_dim": "dim", "num_subspaces": "subspace"}
SIZE_OF |= {"head_dim_v": "dim_v"}
"""Fields of a Case that are sizes of a layout's axes."""

_Beside = tuple[tuple[str, tuple[int, ...]], ...]

_ROOM = 1 << 12
"""A size that every row can be built with along an axis that it does not fix: all that is asked is whole multiples."""

CONTIGUOUS: dict[str, tuple[Any, ...]] = {
    "page_size": (1, 4, 16, LONGEST),  # mostly longer than the longest sequence drawn
    "spare_pages": (0,),
    "spare_columns": (0,),
    "table_padding": ("valid",),
    "evicted_pages": ("kept",),
    "shared_pages": (0,),
    "shared_by": ("all",),
    "poison": ("all", "tails", "gaps", "evicted"),
}
"""Values that replace those of POOL in a contiguous layout, where a sequence's page is all it has."""

ON_DEMAND: dict[str, tuple[Any, ...]] = {"pool": ("sparse",), "buffers": ("used",)}
"""Values that no law draws unless it asks for them: of 2**31 elements none is looked at twice, and what a buffer holds
from the call before matters where there is one."""

STATIC_AXES = (
    "page_size",
    "num_kv_heads",
    "group",
    "head_dim",
    "head_dim_v",
    "num_subspaces",
    "sub_dim",
    "num_centroids",
    "residual",
    "num_splits",
    "num_parts",
)
"""Axes that a compiled kernel is specialised on."""

STATIC_GEOMETRIES = 3
"""How many geometries a static cell is drawn from, unless a run asks for fewer."""


NUM_SEQS = (1, 2, 3, 4, 9)
"""Sequences of a drawn call, unless a run asks for others; 9: more than whoever hands out eight at a time expects."""


def vocabulary(axis: str) -> tuple[str, ...]:
    """The words that an axis of a Case is drawn from; none where it is a number."""
    named: dict[str, Iterable[str]] = {"op": OPERATIONS, "layout": LAYOUTS, "dtype": (*DTYPES, *PACKED)}
    named["family"] = (*data.FAMILIES, *structured.FAMILIES)
    words = tuple(named.get(axis, POOL.get(axis, ())))
    return words if all(isinstance(word, str) for word in words) else ()


class OfferError(ValueError):
    """An offer from which no case can be drawn; the text says which axis and why."""


_P = ParamSpec("_P")
_T = TypeVar("_T")


def once_a_cell(what: Callable[Concatenate[Cell, _P], _T]) -> Callable[Concatenate[Cell, _P], _T]:
    """What a function says of a cell is worked out once; never write into it. An error is worked out every time."""

    @wraps(what)
    def asked(cell: Cell, /, *about: _P.args, **named: _P.kwargs) -> _T:
        key = (what, *about, *named.items()) if named else (what, *about)
        found: _T
        if key in cell._memo:
            found = cell._memo[key]
        else:
            found = cell._memo[key] = what(cell, *about, **named)
        return found

    return asked


_EACH_SEQUENCE = {axis for name, row in FEATURES.items() if row.beside for axis in (name, *row.beside)}
"""Features that every sequence of a batch is offered for itself: query tokens, and the trees that these may have."""


@dataclass(frozen=True)
class Cell:
    """One (operation, layout, dtype) of an offer, with what bounds its cases.

    offer            the operation's entry of OFFERS
    conventions      the adapter's conventions, completed (specs/conventions.py)
    num_geometries   how many shapes a static offer is drawn from
    num_seqs         how many sequences a call of any other offer is drawn with
    also             claims of further operations that a law calls on the same Case
    """

    op: str
    layout: str
    dtype: str
    offer: Mapping[str, Any]
    conventions: Mapping[str, Any]
    num_geometries: int = STATIC_GEOMETRIES
    num_seqs: tuple[int, ...] = NUM_SEQS
    also: tuple[Mapping[str, Any], ...] = ()
    _memo: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def static(self) -> bool:
        """Whether shapes are to be shared among many cases."""
        return bool(self.offer.get("static"))

    @property
    def one_q_len(self) -> bool:
        """Whether all sequences of a call have as many query tokens: their number is compiled in."""
        return self.static and not self.offer.get("ragged")

    @cached_property
    def claims(self) -> dict[str, Any]:
        """Axis -> predicate: the offer's, else the conventions', else what leaving out an optional keyword means."""
        several = {name: self.conventions[name] for name, row in CONVENTIONS.items() if row.several}
        operation = OPERATIONS[self.op]
        own = {} if self.offer.get("into") or not operation.lends else {"buffers": "own"}
        return {**operation.optional, **operation.unasked, **own, **several, **self.offer}

    @once_a_cell
    def predicates(self, axis: str) -> list[Any]:
        """What a value of an axis has to satisfy; where layout and dtype leave no choice, what they leave."""
        if self._is_moot(axis):
            return [DEFAULTS[axis]]
        return [claims[axis] for claims in (self.claims, *self.also) if axis in claims]

    def _is_moot(self, axis: str) -> bool:
        """Whether layout and dtype leave no choice along an axis: a Case says nothing of it, whatever is offered."""
        if axis == "num_kv_heads":
            return self.row.holds == "pages" and SIZE_OF[axis] not in self.row.every_axis
        if axis == "kv_scales":
            return self.dtype in ROUNDED or self.row.has_scales
        return not self._has_own_v if axis == "head_dim_v" else axis == "q_dtype" and self.dtype in ROUNDED

    def takes(self, **values: tuple[Any, ...]) -> bool:
        """Whether the offer allows each of some values of each axis."""
        return all(_all_hold_for_each(self.predicates(axis), some) for axis, some in values.items())

    def taken(self, axis: str, values: Iterable[Any]) -> Iterator[Any]:
        """Those of many values of an axis that the offer allows, in their order; sought where few are named."""
        predicates = self.predicates(axis)
        named = [set(members(one)) for one in predicates if not is_span(one)]
        some = (v for v in values if all(v in one for one in named)) if named else values
        return (v for v in some if all_hold(predicates, v))

    @property
    def row(self) -> Layout:
        """The row of the layout."""
        return LAYOUTS[self.layout]

    def allowed(self, axis: str, only: Iterable[Any] | None = None) -> list[Any]:
        """Values of an axis that may be drawn, simplest first.

        only   values a law restricts itself to
        Raises OfferError when nothing is left.
        """
        return list(self._allowed(axis, None if only is None else tuple(only)))

    @once_a_cell
    def _allowed(self, axis: str, only: tuple[Any, ...] | None) -> list[Any]:
        if self._is_moot(axis):
            return [DEFAULTS[axis]]
        predicates = self.predicates(axis)
        pool = list((POOL | CONTIGUOUS if self.row.contiguous else POOL)[axis])
        if predicates and len(pool) > 1:
            pool = [v for v in _with_members(pool, predicates) if all_hold(predicates, v)]
        if axis in SIZE_OF:
            pool = self._sizes(axis, pool, predicates)
        if axis == "poison":
            pool = [v for v in pool if self._has_region(v)]
        if axis == "evicted_pages" and not self._has_region("evicted"):
            pool = [v for v in pool if v == DEFAULTS[axis]]
        if axis == "table_form":
            pool = [v for v in pool if v in forms_of(self.row)]
        if axis == "num_centroids":
            pool = [v for v in pool if v <= 1 << width(self.dtype)]
        if axis == "q_lens":  # the most that a sequence has; none is for some of a batch (strategies.query_tokens)
            pool = [v for v in pool if v]
        if axis == "q_lens" and self.one_q_len:
            least = FEATURES["tree_mask"].beside[axis] if self.takes(tree_mask=("drawn",)) else 2
            pool = [*pool[:1], *[n for n in pool[1:] if n >= least][:1]]  # each is a shape to compile
        gone = barred(self.conventions, axis, asked=only is not None)
        pool = [v for v in pool if v not in gone]
        if only is None:
            pool = [v for v in pool if v not in ON_DEMAND.get(axis, ())]
        if only is not None:
            pool = [v for v in pool if v in set(only)]
        if only is None and axis in _EACH_SEQUENCE and FEATURES[axis].off not in pool:
            asked, off = " and ".join(map(repr, predicates)), FEATURES[axis].off
            raise OfferError(
                f"{self.op} on {self.layout} in {self.dtype}: {axis} {asked} leaves out {off!r}, which is all that a "
                "sequence of one token has"
            )
        if not pool:
            asked = " and ".join(map(repr, predicates))
            among = "" if only is None else f" among {', '.join(map(str, only))}"
            raise OfferError(f"{self.op} on {self.layout} in {self.dtype}: no {axis}{among} to draw from {asked}")
        return pool

    def evicts(self, case: Mapping[str, Any]) -> bool:
        """Whether what the windows of a Case's query tokens leave behind is seen by none of them."""
        told = {**DEFAULTS, **case}
        at_first = from_the_first_key(self.conventions["causal"], told["q_lens"], told["tree_mask"])
        return bool(told["window"]) and not at_first

    def _has_region(self, poison: str) -> bool:
        """Whether what is offered has such a region of dead bytes."""
        if poison == "padding":
            return bool(self.row.pad)
        if poison == "evicted":
            return any(self.allowed("window")) and not self.row.shares_slots
        if poison == "gaps":
            return any(self.takes(strides=(one,)) for one in STRIDES[1:])
        named = {"table_padding": ("valid", "null"), "evicted_pages": ("null",)}
        return poison != "null" or any(self.takes(**{axis: (one,)}) for axis in named for one in named[axis])

    @property
    def _has_own_v(self) -> bool:
        """Whether V has a width of its own."""
        return SIZE_OF["head_dim_v"] in self.row.every_axis

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The fields of a Case that shape the inputs of this cell."""
        seen = OPERATIONS[self.op].case_axes
        return seen if self._has_own_v else tuple(axis for axis in seen if axis != "head_dim_v")

    def admits(self, axis: str, value: Any) -> bool:
        """Whether the layout can be built with one size, whatever others are allowed beside it."""
        return axis not in SIZE_OF or _admits(self.layout, self.dtype, axis, value, self._beside(axis))

    def _beside(self, axis: str) -> _Beside:
        """The sizes that the one along an axis has to go with: a row that cuts what it has joined asks of both."""
        if axis != "head_dim" or not self.row.cuts_again:
            return ()
        names = ("page_size", "num_kv_heads")
        return tuple((SIZE_OF[name], tuple(self.allowed(name))) for name in names if SIZE_OF[name] in self.row.axes)

    def _sizes(self, axis: str, pool: list[int], predicates: list[Any]) -> list[int]:
        """Those of a pool that the layout can be built with; where they are not two, the least that it can, too."""
        if SIZE_OF[axis] in self.row.fixed:
            pool = [n for n in (self.row.fixed[SIZE_OF[axis]],) if all_hold(predicates, n)]
        beside = self._beside(axis)
        fits = [n for n in pool if _admits(self.layout, self.dtype, axis, n, beside)]
        if len(fits) > 1 or (fits and (SIZE_OF[axis] in self.row.fixed or len(fits) == len(pool))):
            return fits
        others = (n for n in range(1, _ROOM) if n not in fits and all_hold(predicates, n))
        return [*fits, *islice((n for n in others if _admits(self.layout, self.dtype, axis, n, beside)), 2 - len(fits))]

    def narrows(self, only: Mapping[str, tuple[Any, ...]]) -> bool:
        """Whether a law's restriction, or the offers of several operations, could leave nothing to draw between them.

        Quick, and no where it is certain alone: what is left says `allowed`.
        """
        asked = [self.predicates(axis) for claims in self.also for axis in claims]
        apart = any(one != other for one, *others in asked for other in others) or bool(self.unheld)
        sized = any(axis in SIZE_OF or (self.row.contiguous and axis in CONTIGUOUS) for axis in only)
        free = {axis: values for axis, values in only.items() if not self._is_moot(axis)}
        return apart or sized or not self.takes(**free)

    @property
    def unheld(self) -> dict[str, Any]:
        """Axes that this operation's cases have no choice of, at values that another operation is not offered with."""
        alone = {axis: DEFAULTS[axis] for claims in self.also for axis in claims if axis in POOL}
        silent = {axis: value for axis, value in alone.items() if axis not in OPERATIONS[self.op].offered_axes}
        return {axis: v for axis, v in silent.items() if axis not in FEATURES and not self.takes(**{axis: (v,)})}

    def draws(self, case: Case) -> bool:
        """Whether a Case of another cell, moved here, is one that this offer allows."""
        shapes = [{k: v for k, v in g.items() if k != "num_seqs"} for g in self.geometries()] if self.static else [{}]
        fits = any(all(getattr(case, axis) == value for axis, value in shape.items()) for shape in shapes)
        return fits and self.takes_case(case)

    def takes_case(self, case: Case) -> bool:
        """Whether a Case, moved here, is one that this offer allows, in whatever shapes."""
        return (
            all(self.admits(axis, getattr(case, axis)) for axis in SIZE_OF)
            and case.table_form in forms_of(self.row)
            and self.has_room_for(case)
            and case.counts_new_tokens
            and all(
                all_hold(self.predicates(axis), value)
                for axis in OPERATIONS[self.op].case_axes
                for value in each(case, axis)
            )
        )

    def has_room_for(self, case: Case) -> bool:
        """Whether so many sequences are offered in one call."""
        return not case.kv_lens or self.takes(num_seqs=(len(case.kv_lens),))

    def within(
        self, region: Mapping[str, Any], families: Iterable[str] | None, only: Mapping[str, Iterable[Any]]
    ) -> bool:
        """Whether every Case that could be drawn lies in a region; lengths and seeds are never all in one.

        families, only   as in `cases`
        """
        drawn: dict[str, Iterable[Any]] = {"op": (self.op,), "layout": (self.layout,), "dtype": (self.dtype,)}
        drawn["family"] = self.families(families)
        for axis in region:
            if axis in POOL and axis in OPERATIONS[self.op].case_axes:
                drawn[axis] = self.allowed(axis, only.get(axis))
        return all(axis in drawn and all(holds(region[axis], v) for v in drawn[axis]) for axis in region)

    def families(self, families: Iterable[str] | None) -> tuple[str, ...]:
        """The kinds of contents that are drawn: a law's own, or those of the operation's verdict."""
        arithmetic = (*data.ARITHMETIC_FAMILIES, *structured.FAMILIES)
        default = arithmetic if OPERATIONS[self.op].rounds else ("plain", "bits")
        return tuple(default if families is None else families)

    @once_a_cell
    def geometries(self) -> list[dict[str, Any]]:
        """The few shapes of a static cell, smallest first; a cell that has only one has a telling one.

        They depend on the layout and the width of the dtype, never on the law: laws share compilations, and so do
        dtypes that an implementation moves as integers of one width.
        """
        kinds = ["telling"] if self.num_geometries == 1 else ["smallest", "telling", "third", "fourth"]
        return [self._geometry(kind) for kind in kinds[: self.num_geometries]]

    def _geometry(self, kind: str) -> dict[str, Any]:
        seen = self.axes

        def pick(axis: str) -> Any:
            pool = self.allowed(axis)
            if kind == "smallest" or len(pool) == 1:
                return pool[0]
            rest = pool[1:] if kind == "telling" else pool  # a telling shape has no axis of its simplest size
            return rest[int(data.hashes(width(self.dtype) // 8, f"{kind} {self.layout} {axis}")) % len(rest)]

        num_seqs, capacity = {"smallest": (1, 1), "telling": (2, 2)}.get(kind, (3, 4))
        fixed = {"capacity": capacity, "num_tokens": 4 * capacity, "spare_pages": 1, "spare_columns": 0}
        if self.row.contiguous:
            fixed |= {"capacity": 1, "spare_pages": 0}
        shape = {axis: pick(axis) for axis in STATIC_AXES if axis in seen}
        wish = {"num_seqs": num_seqs, **{k: v for k, v in fixed.items() if k in seen}}
        kept = {k: v if k not in POOL or self.takes(**{k: (v,)}) else pick(k) for k, v in wish.items()}
        return kept | shape


def forms_of(row: Layout) -> tuple[str, ...]:
    """The page tables that reads of a row may be told: of all but the usual one the arrays say one page for K and V."""
    return FORMS[:1] if row.contiguous or row.pairs_pages else FORMS


def each(case: Case, axis: str) -> tuple[Any, ...]:
    """What an offer is asked of an axis: of lengths, each."""
    value = getattr(case, axis)
    if axis == "q_lens":
        return value or (FEATURES[axis].off,)
    return value if isinstance(value, tuple) else (value,)


@cache
def _admits(layout: str, dtype: str, axis: str, value: int, beside: _Beside) -> bool:
    """Whether a row can be built with one size, with every one of those beside it, and with room along further axes."""
    row = LAYOUTS[layout]
    room = {name: row.fixed.get(name, _ROOM) for name in SIZE_OF.values()}
    sizes = {**dict.fromkeys(row.axes, 1), "page": 1, **room, SIZE_OF[axis]: value}
    names = [name for name, _ in beside]
    together = [dict(zip(names, some, strict=True)) for some in product(*(values for _, values in beside))]
    return all(row.admits({**sizes, **one}, dtype) for one in together)


def _with_members(pool: list[Any], predicates: list[Any]) -> list[Any]:
    """A pool and what predicates name beside it: each value of a set, and of ranges where the pool has none."""
    named = [v for predicate in predicates if not is_span(predicate) for v in members(predicate)]
    if not any(all_hold(predicates, v) for v in [*pool, *named]):
        named = [v for predicate in predicates for v in members(predicate)]
    return list(dict.fromkeys([*pool, *named]))


def all_hold(predicates: list[Any], value: Any) -> bool:
    return all(holds(predicate, value) for predicate in predicates)


def _all_hold_for_each(predicates: list[Any], values: tuple[Any, ...]) -> bool:
    return not predicates or all(all_hold(predicates, value) for value in dict.fromkeys(values))


def cells(
    op: str,
    offer: Mapping[str, Any],
    conventions: Mapping[str, Any],
    num_geometries: int = STATIC_GEOMETRIES,
    num_seqs: tuple[int, ...] = NUM_SEQS,
) -> list[Cell]:
    """The cells of one entry of OFFERS, in the order of the tables."""
    operation = OPERATIONS[op]
    return [
        Cell(op, row.name, dtype, offer, conventions, num_geometries, num_seqs)
        for row in operation.layouts
        for dtype in operation.dtypes
        if offers_cell(op, offer, row, dtype)
    ]


def offers_cell(op: str, offer: Mapping[str, Any], row: Layout, dtype: str) -> bool:
    """Whether an entry of OFFERS takes a layout that its operation works on, in a dtype."""
    silent = OPERATIONS[op].unasked
    asked = (("layout", row.name), ("dtype", dtype))
    return dtype in row.dtypes and all(holds(offer.get(axis, silent.get(axis, value)), value) for axis, value in asked)
