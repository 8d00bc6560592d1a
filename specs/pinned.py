"""Pinned cases: what a law tries whatever is drawn, since chance would not bring it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from kvconform.specs import data
from kvconform.specs.case import DEFAULTS, Case
from kvconform.specs.cells import POOL, SIZE_OF, Cell, all_hold, once_a_cell
from kvconform.specs.dtypes import width
from kvconform.specs.features import FEATURES, covering
from kvconform.specs.operations import OPERATIONS, ROUNDED
from kvconform.specs.paged import SPARSE, PagedInputs
from kvconform.specs.strategies import query_tokens, without_room


def every_bit_pattern(cell: Cell) -> tuple[Case, ...]:
    """One Case of a fused operation in which K and V each hold every bit pattern of an 8- or 16-bit type."""
    bits = width(cell.dtype)
    if bits > 16:
        return ()
    heads, dim = cell.allowed("num_kv_heads")[-1], cell.allowed("head_dim")[-1]
    least = -(-(2**bits) // (heads * dim))
    tokens = next((n for n in range(least, 2 * least + 1) if cell.takes(num_tokens=(n,))), 0)
    case = Case(
        op=cell.op,
        layout=cell.layout,
        dtype=cell.dtype,
        family="patterns",
        num_tokens=tokens,
        num_kv_heads=heads,
        head_dim=dim,
    )
    return (case,) if tokens else ()


HIGH_PAGES = (1 << 15, 1 << 16)
"""Page numbers that a signed and an unsigned 16-bit integer cannot hold."""

LARGEST = 1 << 23
"""Bytes of the largest cache that is allocated to have pages of such numbers."""


def _every_bit(cell: Cell) -> str:
    """The family whose values use every bit that the operation's verdict allows for."""
    return data.FINE if OPERATIONS[cell.op].rounds else "bits"


def pinned(cell: Cell, **values: Any) -> Case:
    """A Case of some values, and of the simplest one that is offered along any axis whose default is not."""
    needed = {axis: cell.allowed(axis)[0] for axis in _needed(cell) if axis not in values}
    return Case(op=cell.op, layout=cell.layout, dtype=cell.dtype, **(needed | values))


@once_a_cell
def _needed(cell: Cell) -> tuple[str, ...]:
    """Axes whose default is not offered."""
    silent = DEFAULTS | {name: row.off for name, row in FEATURES.items()}
    free = (axis for axis in cell.axes if axis in POOL)
    return tuple(axis for axis in free if not cell.takes(**{axis: (silent[axis],)}))


def _sizes(cell: Cell, which: int) -> dict[str, Any]:
    """Of each size of the layout the first that is offered, or the last."""
    return {axis: cell.allowed(axis)[which] for axis in SIZE_OF if axis in cell.axes}


@once_a_cell
def high_pages(cell: Cell) -> tuple[Case, ...]:
    """Small caches in which the pages that hold tokens have numbers beyond 16 bits; none where they are too large."""
    least = _sizes(cell, 0)
    sizes = {**{axis: least.get(name, 1) for name, axis in SIZE_OF.items()}, **cell.row.fixed}
    found = []
    lens = (2 * least["page_size"] + 1, 1)
    if cell.row.contiguous or not cell.takes(kv_lens=lens):
        return ()
    shape = {**least, "kv_lens": lens, "page_ids": "high", "family": _every_bit(cell), "capacity": 3 * cell.static}
    if "dead" in cell.axes and cell.takes(dead=("finite",)):
        shape["dead"] = "finite"  # whatever else is read shows, and is told from zeros
    for number in HIGH_PAGES:
        if _num_bytes(cell, {**sizes, "page": number}) <= LARGEST and cell.takes(spare_pages=(number,)):
            found.append(pinned(cell, spare_pages=number, **shape))
    return (*found, *(replace(found[-1], **{axis: word}) for axis, word in _told_by_page(cell) if found))


def _num_bytes(cell: Cell, sizes: Mapping[str, int]) -> int:
    return sum(cell.row.num_bytes(buffer, sizes, cell.dtype) for buffer in cell.row.buffers)


def _told_by_page(cell: Cell) -> list[tuple[str, Any]]:
    """What else is looked up by the number of a page, or of a slot: other forms of page tables, scales."""
    scales = [one for one in ("page", "token") if "kv_scales" in cell.axes and cell.takes(kv_scales=(one,))]
    told = {"table_form": _other_forms(cell), "kv_scales": scales}
    return [(axis, word) for axis, words in told.items() for word in words]


def _other_forms(cell: Cell) -> list[str]:
    """Forms of page tables but for the one that is silent."""
    offered = cell.allowed("table_form") if "table_form" in cell.axes else ()
    return [form for form in offered if form != DEFAULTS["table_form"]]


LARGE = {
    "num_seqs": (257,),
    "num_tokens": (1025,),
    "num_parts": (65, 32, 4),
    "num_splits": (33,),
    "page_size": (257,),
    "num_kv_heads": (65,),
    "group": (129, 17),
    "head_dim": (257, 128, 96, 80),
    "head_dim_v": (257,),
}
"""Sizes one past what a warp, a wavefront, a tile of rows, a byte or a block has room for, and usual ones."""


@once_a_cell
def large(cell: Cell) -> tuple[Case, ...]:
    """A Case for each size that is offered so large, or else the largest there is, all others as small as may be; none
    where shapes are compiled.
    """
    if cell.static:
        return ()
    found = []
    for axis, several in LARGE.items():
        if axis not in cell.axes and axis not in OPERATIONS[cell.op].offered_axes:
            continue
        for value in dict.fromkeys(_offered_near(cell, axis, least) for least in several):
            shape = None if value is None else _one_large(cell, axis, value)
            if shape is not None:
                found.append(pinned(cell, family=_every_bit(cell), **shape))
    return tuple(found)


def _offered_near(cell: Cell, axis: str, least: int) -> int | None:
    """A size that is offered: the first that is no less, or the last below it, if larger than those that are drawn."""
    near = (*range(least, 2 * least), *range(least - 1, max(POOL[axis]), -1))
    return next((n for n in cell.taken(axis, near) if cell.admits(axis, n)), None)


def many_rows(cell: Cell) -> tuple[Case, ...]:
    """Cases of more query tokens than a tile has rows, where so many are offered: plain, in a window that is narrower
    than these are, and in a tree of more than a word of 64 bits tells."""
    sizes, tokens = _sizes(cell, 0), 131
    lens = (tokens + 71, 7)
    told = query_tokens(cell, lens, tokens) if not cell.static and cell.takes(q_lens=(tokens,)) else {}
    if not told or cell.row.contiguous or not cell.takes(kv_lens=lens):
        return ()
    sizes["page_size"] = cell.allowed("page_size")[-1]
    window = next(cell.taken("window", range(90, tokens)), 0)
    features: dict[str, Any] = {"window": window, "tree_mask": next(iter(cell.allowed("tree_mask")[1:]), "none")}
    shown = [{}, *({name: value} for name, value in features.items() if value != DEFAULTS[name])]
    return tuple(pinned(cell, family=_every_bit(cell), **(sizes | told | more | {"kv_lens": lens})) for more in shown)


def wide_windows(cell: Cell) -> tuple[Case, ...]:
    """Cases of a window that holds whole tiles of keys, in one split and in many."""
    window = 0 if cell.static else next(cell.taken("window", range(129, LONG)), 0)
    lens = (3 * window + 5, window + 1)
    if not window or cell.row.contiguous or not cell.takes(kv_lens=lens):
        return ()
    sizes = _sizes(cell, 0) | {"page_size": cell.allowed("page_size")[-1], "kv_lens": lens, "window": window}
    splits = dict.fromkeys((cell.allowed("num_splits")[0], cell.allowed("num_splits")[-1]))
    return tuple(pinned(cell, family=_every_bit(cell), num_splits=n, **sizes) for n in splits)


BESIDE: tuple[dict[str, tuple[Any, ...]], ...] = (
    {
        "num_seqs": (2,),
        "page_size": (16, 64),
        "num_kv_heads": (1, 2),
        "group": (1, 8),
        "head_dim": (16, 64),
        "num_splits": (1, 32),
        "longest": (35, 512, 1100),
        "q_lens": (1, 2),
        "window": (0, 300),
        "kv_scales": ("page", "tensor"),
    },
    {
        "num_seqs": (2, 17),
        "page_size": (16,),
        "num_kv_heads": (5,),
        "group": (8,),
        "head_dim": (8,),
        "num_splits": (1, 2),
        "longest": (39, 67),
        "q_lens": (9, 37),
        "window": (0, 20),
        "kv_scales": ("token", "none"),
    },
    {
        "num_seqs": (2,),
        "page_size": (32, 128),
        "num_kv_heads": (2,),
        "group": (1, 7),
        "head_dim": (128, 136),
        "num_splits": (1, 3),
        "longest": (67, 131),
        "q_lens": (1, 2),
        "window": (0, 65),
        "soft_cap": (0.0, 1.5),
        "kv_scales": ("page", "head"),
    },
    {
        "num_seqs": (2,),
        "page_size": (16,),
        "num_kv_heads": (1, 9),
        "group": (17,),
        "head_dim": (8,),
        "num_splits": (1, 3),
        "longest": (67, 131),
        "q_lens": (1, 2),
        "window": (0, 65),
        "kv_scales": ("head", "none"),
    },
)
"""Usual sizes, most of them beyond those that are drawn, by which kernels choose among their paths; `longest`: tokens
of the one sequence that is not short, which is the first and the last one in turns; a cap that is no whole number."""


@once_a_cell
def sizes_beside(cell: Cell) -> tuple[Case, ...]:
    """Cases in which any two of these sizes meet, and each of them each feature that is offered: a path that is taken
    for long sequences, wide groups or many query tokens alone may lack one. No more than two sequences of a batch have
    several query tokens.

    None where shapes are compiled, or where a page is all that a sequence has.
    """
    if cell.static or cell.row.contiguous:
        return ()
    return tuple(case for sizes in BESIDE for case in beside(cell, sizes))


def beside(cell: Cell, sizes: dict[str, tuple[Any, ...]]) -> list[Case]:
    """Those of one row."""

    def offered(axis: str, some: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(n for n in some if cell.takes(**{axis: (n,)}) and cell.admits(axis, n))

    pools = {name: (row.off, SHOWN.get(name, row.values)[0]) for name, row in FEATURES.items()} | sizes
    longest = tuple(n for n in pools.pop("longest") if cell.takes(kv_lens=(n, *_SHORT)))
    num_seqs = offered("num_seqs", pools.pop("num_seqs"))
    if not longest or not num_seqs:
        return []
    pools = {axis: offered(axis, some) or (cell.allowed(axis)[0],) for axis, some in pools.items()}
    pools |= {"num_seqs": num_seqs, "longest": longest, "family": _SHOWING[:2]}
    made = []
    for seed, row in enumerate(covering(pools)):
        lens = (row["longest"], *(_SHORT * row["num_seqs"])[: row["num_seqs"] - 1])
        values = _sizes(cell, 0) | {axis: n for axis, n in row.items() if axis in (*cell.axes, "family")}
        told = query_tokens(cell, lens, values.pop("q_lens", 1), _several_of_two())
        order = -1 if seed % 2 else 1
        values |= {axis: numbers[::order] for axis, numbers in ({"kv_lens": lens} | told).items()}
        made.append(pinned(cell, **(values | without_room(values) | {"seed": seed})))
    return made


def _several_of_two() -> Callable[[Sequence[int]], int]:
    """What picks query tokens: many of two sequences, and one of all others, which decode; to judge those costs less,
    and is usual."""
    most = iter((True, True))
    return lambda some: some[0] if next(most, False) or 1 not in some else 1


_SHORT = (5, 7)
"""Tokens of the sequences beside a long one."""


def _one_large(cell: Cell, axis: str, value: int) -> dict[str, Any] | None:
    """Axes of a Case that is large along one; None where no lengths are offered that show it."""
    shape = _sizes(cell, 0)
    if axis == "head_dim" and "num_kv_heads" in cell.axes:  # more elements of a token than a block has threads
        shape["num_kv_heads"] = cell.allowed("num_kv_heads")[-1]
    if cell.row.contiguous:
        shape["page_size"] = cell.allowed("page_size")[-1]
    shape |= {counted: cell.allowed(counted)[-1] for counted in ("num_seqs", "num_tokens") if counted in cell.axes}
    if axis in cell.axes:
        shape[axis] = value
    if "kv_lens" in cell.axes:
        room = shape["page_size"] if cell.row.contiguous else 2 * value
        longest = value + 2 if axis in ("page_size", "num_splits") else 4
        lens = (longest, *((3, 4, 5) * value)[: value - 1 if axis == "num_seqs" else 1])
        shape["kv_lens"] = tuple(min(n, room) for n in lens)
        if not cell.takes(kv_lens=shape["kv_lens"]):
            return None
    if "dead" in cell.axes and cell.takes(dead=("finite",)):
        shape["dead"] = "finite"  # whatever else is read shows, and is told from zeros
    if axis == "num_seqs" and "num_splits" in cell.axes:
        shape |= _of_unequal_work(cell, shape["kv_lens"])
    return shape


def _of_unequal_work(cell: Cell, lens: tuple[int, ...]) -> dict[str, Any]:
    """Axes of a Case of many sequences with which a scheduler has something to do: splits, sinks that one of them has,
    and every third sequence with two query tokens."""
    turns = cycle((1, 0, 0))
    several = cell.takes(q_lens=(2,))
    told = query_tokens(cell, lens, 2, lambda some: some[0] if next(turns) else some[-1]) if several else {}
    sinks = [one for one in cell.allowed("sinks") if one != DEFAULTS["sinks"]]
    return {"num_splits": cell.allowed("num_splits")[-1]} | told | ({"sinks": sinks[0]} if sinks else {})


SHOWN = {"window": (3,), "soft_cap": (2.0,), "sinks": ("drawn",), "alibi_slopes": ("drawn",), "q_lens": (3, 2)}
"""Of each feature the value of the covering schedule; of query tokens that of a compiled shape as well."""


_SHOWING = ("plain", "sharp", "huge")
"""Contents that each feature meets: scores of about 1, of a few units, far above a cap and any finite mask."""


def loud_garbage(cell: Cell) -> tuple[Case, ...]:
    """One Case of large q, in which finite K of dead slots scores tens of thousands: more than masks by addition take.

    None where shapes are compiled.
    """
    sizes = _sizes(cell, -1)
    lens = (sizes["page_size"] + 1, 1)
    if cell.row.contiguous:
        lens = (sizes["page_size"] // 2 + 1, 1)
    if cell.static or not (cell.takes(dead=("finite",), sm_scale=(1.0,)) and cell.takes(kv_lens=lens)):
        return ()
    return (pinned(cell, family="steep", dead="finite", sm_scale=1.0, kv_lens=lens, **sizes),)


@once_a_cell
def schedule(cell: Cell) -> tuple[Case, ...]:
    """Cases in which any two features that are offered meet, and each with several splits and with one.

    Sequences are longer than the window, and scores such that every feature shows in some of them.
    """
    pools = {}
    for axis in (*FEATURES, "num_splits"):
        offered = cell.allowed(axis)
        pools[axis] = (offered[0], *[v for v in SHOWN.get(axis, offered[1:]) if v in offered and v != offered[0]][:1])
    if all(len(some) == 1 for some in pools.values()):
        return ()
    if "kv_scales" in cell.axes:
        pools["kv_scales"] = tuple(dict.fromkeys(cell.allowed("kv_scales")[:: len(POOL["kv_scales"]) - 1]))
    shapes = cell.geometries() if cell.static else [_sizes(cell, -1) | {"page_size": cell.allowed("page_size")[-1]}]
    shape = {axis: value for axis, value in shapes[-1].items() if axis in OPERATIONS[cell.op].case_axes}
    if cell.static:
        pools["num_splits"] = (shape["num_splits"],)
    size = shape["page_size"]
    room = shape["capacity"] * size if cell.static else size if cell.row.contiguous else 0
    lengths = (room or 2 * size + 3, 5, 7)
    wish = [n for n in lengths if (not room or n <= room) and cell.takes(kv_lens=(n,))]
    if not wish:
        return ()
    shape["kv_lens"] = tuple((wish * 3)[: shapes[-1].get("num_seqs", 2)])
    narrower = [w for w in cell.allowed("window") if 0 < w < max(shape["kv_lens"])]
    if len(pools["window"]) > 1 and narrower:
        pools["window"] = (pools["window"][0], narrower[0])
    made = []
    for seed, row in enumerate(covering(pools | {"family": _SHOWING})):
        values = {axis: value for axis, value in row.items() if axis != "q_lens"}
        values |= query_tokens(cell, shape["kv_lens"], row["q_lens"])
        values |= without_room(values)
        made.append(pinned(cell, **(shape | values | {"seed": seed})))
    return tuple(made)


def mixtures(cell: Cell) -> tuple[Case, ...]:
    """Cases of new tokens: a sequence of nothing else, some that cross into another page, one that begins a page.

    Prefill from nothing, prefill in chunks and decode in one call; where their number is compiled in, in two.
    """
    page_sizes = cell.allowed("page_size")
    small = page_sizes[-1] if cell.row.contiguous else next((n for n in page_sizes if n > 2), page_sizes[-1])
    shapes = cell.geometries() if cell.static else [_sizes(cell, -1) | {"page_size": small}]
    shape = {axis: value for axis, value in shapes[-1].items() if axis in OPERATIONS[cell.op].case_axes}
    size, num_seqs = shape["page_size"], shapes[-1].get("num_seqs", 4)
    room = shape["capacity"] * size if cell.static else size if cell.row.contiguous else 0
    new = {"all": (size + 2, size + 2), "crossing": (2 * size + 1, 3), "first": (size + 1, 1), "one": (3, 1)}
    if cell.one_q_len:
        new = {"all": (2, 2), "crossing": (size + 1, 2), "last": (2 * size, 2)}
    fits = [
        (n, q_len)
        for n, q_len in new.values()
        if (not room or n <= room) and q_len <= n and cell.takes(kv_lens=(n,), q_lens=(q_len,))
    ]
    if not fits:
        return ()
    lens = tuple(zip(*(fits * num_seqs)[:num_seqs], strict=True))
    shape |= {
        "kv_lens": lens[0],
        "q_lens": lens[1],
        "num_splits": shape.get("num_splits", cell.allowed("num_splits")[0]),
    }
    if cell.takes(dead=("nan",)):
        shape |= {"dead": "nan"}
    return (pinned(cell, **shape),)


def _alone(case: Case, *kept: str) -> Case:
    """A Case without features but for some."""
    off: dict[str, Any] = {name: DEFAULTS[name] for name in FEATURES if name not in kept}
    return replace(case, **off)


def branches(cell: Cell) -> tuple[Case, ...]:
    """One Case of trees of unequal sizes in sequences no longer than they need to be, in as many splits as are offered:
    drafts of one tree are in several of them."""
    shapes = sorted(cell.geometries(), key=lambda shape: int(shape["num_splits"])) if cell.static else [{}]
    with_trees = [case for case in schedule(cell) if case.tree_mask != "none"]
    tokens = max((n for n in cell.allowed("q_lens") if n in FEATURES["q_lens"].pool), default=1)
    room = shapes[-1]["capacity"] * shapes[-1]["page_size"] if cell.static else tokens + 1
    room = min(room, cell.allowed("page_size")[-1]) if cell.row.contiguous else room
    wish = (max(tokens - 2, FEATURES["tree_mask"].beside["q_lens"]), tokens + 1)
    lens = tuple(min(wish[seq % 2], room) for seq in range(shapes[-1].get("num_seqs", 2)))
    told = query_tokens(cell, lens, tokens)
    if not with_trees or not told or not cell.takes(kv_lens=lens):
        return ()
    values: dict[str, Any] = {} if cell.static else {"num_splits": cell.allowed("num_splits")[-1]}
    values |= {axis: value for axis, value in shapes[-1].items() if axis in OPERATIONS[cell.op].case_axes}
    return (replace(_alone(with_trees[0], "tree_mask"), **(values | told | {"kv_lens": lens})),)


def far_below(cell: Cell) -> tuple[Case, ...]:
    """One Case of a window alone whose scores are of either sign and so large that no finite number is below them."""
    of_window = [case for case in schedule(cell) if case.window]
    return (replace(_alone(of_window[0], "window", "q_lens"), family="huge"),) if of_window else ()


def evicted(cell: Cell) -> tuple[Case, ...]:
    """One Case of attention in which the worst that dead slots may hold lies where a window keeps everybody from."""
    of_window = _of_window(cell)
    if not of_window or of_window[0].dead == "zero" or "evicted" not in cell.allowed("poison"):
        return ()
    return (replace(of_window[0], poison="evicted"),)


def _of_window(cell: Cell) -> list[Case]:
    """Cases of the schedule in which a window hides keys, with the worst that dead slots may hold."""
    (*worst,) = (contents for contents in ("nan", "inf", "finite", "zero") if cell.takes(dead=(contents,)))
    hiding = (case.window + max(case.q_lens, default=1) for case in schedule(cell))
    return [
        replace(case, dead=worst[0])
        for case, most in zip(schedule(cell), hiding, strict=True)
        if cell.evicts(vars(case)) and max(case.kv_lens) > most
    ]


def evicted_pages(cell: Cell) -> tuple[Case, ...]:
    """A Case of attention for each thing that a table may hold, other than the page, where a window has evicted one."""
    spare: dict[str, Any] = {} if cell.static or not cell.takes(spare_pages=(1,)) else {"spare_pages": 1}
    found = []
    for instead in cell.allowed("evicted_pages"):
        moved = (replace(case, evicted_pages=instead, **spare) for case in _of_window(cell))
        found += list(islice((case for case in moved if _tells_otherwise(case)), 1))
    return tuple(found)


def _tells_otherwise(case: Case) -> bool:
    """Whether reads are told other pages than tokens are in."""
    x = PagedInputs(case)
    return any((told != own).any() for told, own in zip(x.given, x.tables, strict=True))


def table_forms(cell: Cell) -> tuple[Case, ...]:
    """In each form of page table but the usual one: a page exactly full, none where that is allowed, a page begun."""
    forms = [form for form in cell.allowed("table_form") if form != DEFAULTS["table_form"]]
    shapes = cell.geometries() if cell.static else [_sizes(cell, -1)]
    shape = {axis: value for axis, value in shapes[-1].items() if axis in OPERATIONS[cell.op].case_axes}
    size, room = shape["page_size"], shape.get("capacity", 0) * shape["page_size"]
    least = cell.conventions["empty_rows"] == "undefined" or OPERATIONS[cell.op].appends
    lens = [n for n in (size, 0, size + 1) if least <= n <= (room or n) and cell.takes(kv_lens=(n,))]
    if not lens:
        return ()
    shape["kv_lens"] = tuple((lens * 3)[: shapes[-1].get("num_seqs", 3)])
    if cell.takes(spare_columns=(1,)) and not cell.static:
        shape["spare_columns"] = 1
    return tuple(pinned(cell, table_form=form, family=_every_bit(cell), **shape) for form in forms)


def two_prefixes(cell: Cell) -> tuple[Case, ...]:
    """One Case of five sequences of which every other one has its first pages in common with the first one, and those
    between with the second: what the first and the last have in common is not what all have.

    None where shapes are compiled, where a page is all that a sequence has, or where no such sharing is offered.
    """
    size, shared = cell.allowed("page_size")[-1], {"shared_pages": cell.allowed("shared_pages")[-1]}
    lens = (2 * size + 3, 2 * size + 1, 3 * size, 2 * size + 2, 2 * size + 5)
    offered = shared["shared_pages"] and cell.takes(kv_lens=lens, shared_by=("alternate",))
    if cell.static or cell.row.contiguous or not offered:
        return ()
    sizes = _sizes(cell, 0) | {"page_size": size, "num_splits": cell.allowed("num_splits")[-1]}
    return (pinned(cell, family=_every_bit(cell), kv_lens=lens, shared_by="alternate", **(sizes | shared)),)


def waiting(cell: Cell) -> tuple[Case, ...]:
    """One Case of a batch in which some sequences have no query token: one that waits, and room that nobody has taken,
    between others and at the end.

    Source: vLLM pads query_start_loc with its last entry, and seq_lens with 0, for batches of captured sizes.
    """
    if cell.one_q_len or not cell.takes(q_lens=(0, 1)):
        return ()
    size, most = cell.allowed("page_size")[-1], 2 if cell.takes(q_lens=(2,)) else 1
    wish = ((2 * size + 1, 1), (size, 0), (0, 0), (3, most), (0, 0))
    room = size if cell.row.contiguous else 2 * size + 1
    lens = [(n if cell.takes(kv_lens=(n,)) else 1, q_len) for n, q_len in ((min(n, room), q) for n, q in wish)]
    if any(not cell.takes(kv_lens=(n,)) or n < q_len for n, q_len in lens):
        return ()
    sizes = _sizes(cell, 0) | {"page_size": size, "num_splits": cell.allowed("num_splits")[-1]}
    kv_lens, q_lens = zip(*lens, strict=True)
    return (pinned(cell, family=_every_bit(cell), kv_lens=kv_lens, q_lens=q_lens, **sizes),)


def equal_scores(cell: Cell) -> tuple[Case, ...]:
    """One unsplit Case of paged decode in which all keys score 0: a key alone, and as many as there is room for."""
    shapes = cell.geometries() if cell.static else [_sizes(cell, 0) | {"page_size": cell.allowed("page_size")[-1]}]
    unsplit = [shape for shape in shapes if shape.get("num_splits", 1) == 1]
    if not unsplit or not cell.takes(num_splits=(1,)):
        return ()
    shape = unsplit[-1]
    fits = [n for n in range(1, (shape.get("capacity", 0) or 1) * shape["page_size"] + 1) if cell.takes(kv_lens=(n,))]
    if not fits:
        return ()
    lens = (fits[0], *[fits[-1]] * (shape.get("num_seqs", 2) - 1))
    axes = {axis: value for axis, value in shape.items() if axis in OPERATIONS[cell.op].case_axes}
    return (pinned(cell, **(axes | {"num_splits": 1, "kv_lens": lens, "family": data.FLAT})),)


def is_narrowest(cell: Cell, among: tuple[str, ...] = ()) -> bool:
    """Whether a cell is that of its layout's narrowest dtype that is offered: of several of one width the first.

    among   the dtypes that count, where any of them is offered
    """
    specified = [dtype for dtype in cell.row.dtypes if dtype in OPERATIONS[cell.op].dtypes]
    offered = [dtype for dtype in specified if all_hold(cell.predicates("dtype"), dtype)]
    return cell.dtype == min([dtype for dtype in offered if dtype in among] or offered, key=width)


FLOAT32_COUNTS = 1 << 24
"""Number up to which float32 has every whole one: page numbers that pass through it are even beyond."""


def sparse_pool(cell: Cell) -> tuple[Case, ...]:
    """Cases whose cache has more elements than 31 bits count, where that is offered: of the largest pages, told in all
    forms of page tables, and of pages so small that their numbers need more than 24 bits; and one of a type of two
    bytes or more, which 32 bits do not count the bytes of."""
    if cell.row.contiguous:
        return ()
    large = _sparse(cell, _sizes(cell, -1))
    if not is_narrowest(cell):
        return large if is_narrowest(cell, ROUNDED) else ()
    small = _of_small_pages(cell)
    told = [replace(case, table_form=form) for case in large for form in _other_forms(cell) if not cell.static]
    return tuple(dict.fromkeys((*large, *small, *(case for case in told if _counts_its_slots(case)))))


def _counts_its_slots(case: Case) -> bool:
    """Whether the slots of a cache are numbers of the type that indices have: some tables tell tokens by theirs."""
    return PagedInputs(case).sizes["page"] * case.page_size <= np.iinfo(case.index_dtype).max


def _sparse(cell: Cell, sizes: dict[str, Any]) -> tuple[Case, ...]:
    """One of some sizes, where it is offered."""
    lens = (2 * sizes["page_size"] + 1, 1)
    if not cell.takes(pool=("sparse",), kv_lens=lens):
        return ()
    return (pinned(cell, kv_lens=lens, page_ids="high", pool="sparse", family=_every_bit(cell), **sizes),)


def _of_small_pages(cell: Cell) -> tuple[Case, ...]:
    """One of pages of one slot and of so few dims that there are more pages than float32 tells apart."""
    sizes = _sizes(cell, 0)
    if sizes["page_size"] != 1 or "head_dim" not in sizes:
        return ()
    offered = cell.taken("head_dim", range(32, SPARSE // FLOAT32_COUNTS))
    for n in (n for n in offered if cell.admits("head_dim", n)):
        made = _sparse(cell, sizes | {"head_dim": n})
        if not made or PagedInputs(made[0]).sizes["page"] <= FLOAT32_COUNTS:  # of more dims there are no more pages
            return ()
        if PagedInputs(made[0]).sizes["page"] < 4 * FLOAT32_COUNTS:
            return made
    return ()


LONG = 8192 + 3
"""Tokens of a long context: no whole number of pages, tiles or splits."""

_LONG_DIMS = {"read_out": 64, "needle": 16, "zero_sum": 16}
"""Contents of long contexts -> their dims, at most: weights of pages that are spread among many show the more in one.

Of 32 one page of 4 tokens is inside the bound of a kernel that declares nothing of its arithmetic; of 16 each is.
"""


@once_a_cell
def long_contexts(cell: Cell) -> tuple[Case, ...]:
    """One sequence of thousands of tokens beside a short one, with contents that show each page; none where that is too
    long for the offer. Where shapes are compiled a single one, in the narrowest dtype of a layout, of fewer pages."""
    if cell.static:
        longest = min(LONG, SOME_PAGES * cell.allowed("page_size")[-1] + 3)
        return tuple(_of_length(cell, longest, _LONG_DIMS)[:1]) if is_narrowest(cell) else ()
    made = _of_length(cell, LONG, _LONG_DIMS)
    if not made:
        return ()
    several = {axis: cell.allowed(axis)[-1] for axis in ("num_splits", "group")}
    in_splits = (replace(made[0], **several), replace(made[-1], **several))
    return tuple(dict.fromkeys((*made[:-1], *in_splits, *_of_many_pages(cell, made[0]))))


def contexts_beyond_16_bits(cell: Cell) -> tuple[Case, ...]:
    """One sequence of more tokens than 16 bits count, by an eighth, in the narrowest dtype of a layout; none where the
    cache is too large."""
    if cell.static or not is_narrowest(cell):
        return ()
    made = _of_length(cell, (1 << 16) + (1 << 13) + 7, {"read_out": 8})
    return tuple(case for case in made if _num_bytes(cell, PagedInputs(case).sizes) <= LARGEST)


def _of_length(cell: Cell, longest: int, dims: Mapping[str, int]) -> list[Case]:
    """A Case of each of some contents, of so many dims at most, in which one sequence is so long."""
    lens, page_size = (longest, 5), cell.allowed("page_size")[-1]
    if cell.row.contiguous:
        page_size = next(n for n in range(longest, 2 * longest) if cell.admits("page_size", n))
    sizes = _sizes(cell, 0) | {"page_size": page_size}
    if not cell.takes(kv_lens=lens, page_size=(page_size,)):
        return []
    if cell.static:
        sizes["capacity"] = -(-longest // page_size)
    shapes = {family: sizes | _dims(cell, most) for family, most in dims.items()}
    return [pinned(cell, kv_lens=lens, family=family, **shape) for family, shape in shapes.items()]


def _of_many_pages(cell: Cell, case: Case) -> tuple[Case, ...]:
    """A long context of more pages than a row of a table is likely to have room for, where pages are small enough: in
    the last sequence, behind one of half as many, whose tiles and splits are others."""
    size = cell.allowed("page_size")[0]
    lens = (MANY_PAGES // 2 * size + 1, case.kv_lens[1], (MANY_PAGES + 1) * size + 1)
    fits = not cell.row.contiguous and lens[-1] <= LONG and cell.takes(kv_lens=lens)
    return (replace(case, page_size=size, kv_lens=lens),) if fits else ()


SOME_PAGES = 257
"""Whole pages of a long context where calls may be slow, since an interpreter takes a while for each: more than a byte
counts."""

MANY_PAGES = 1024
"""Entries of a row of a block table that a block of threads may stage."""


def _dims(cell: Cell, most: int) -> dict[str, int]:
    """As many dims as are offered of so many; the fewest that are, where those are more."""
    offered = {axis: cell.taken(axis, range(most, 0, -1)) for axis in ("head_dim", "head_dim_v") if axis in cell.axes}
    return {
        axis: next((n for n in some if cell.admits(axis, n)), cell.allowed(axis)[0]) for axis, some in offered.items()
    }


BENCH_LENGTHS = (512, 1, 130, 64)
"""kv_lens that benchmarks use where shapes are free: long, shortest, ragged, whole pages."""


def bench_case(cell: Cell) -> Case:
    """The one Case of a cell that is timed: its largest static geometry, or a modest serving batch.

    Raises OfferError where the offer leaves nothing to draw.
    """
    seen = cell.axes
    wish: dict[str, Any] = {
        "page_size": 16,
        "num_kv_heads": 2,
        "group": 4,
        "head_dim": 64,
        "head_dim_v": 64,
        "num_subspaces": 32,
        "sub_dim": 2,
        "num_centroids": 256,
        "residual": 8,
        "num_splits": 2,
    }
    wish |= {"num_parts": 8, "num_seqs": 4, "num_tokens": 256, "spare_pages": 1}
    if cell.row.contiguous:
        wish |= {"page_size": max(BENCH_LENGTHS), "spare_pages": 0}
    if cell.static:
        wish |= cell.geometries()[-1]
    for axis, value in wish.items():
        if axis not in seen or axis not in POOL:
            continue
        some = cell.allowed(axis)
        if len(some) == 1 or not (all_hold(cell.predicates(axis), value) and cell.admits(axis, value)):
            wish[axis] = some[-1]
    if "kv_lens" in seen:
        longest = wish.get("capacity", 0) * wish["page_size"]
        wish["kv_lens"] = (longest,) * wish["num_seqs"] if cell.static else BENCH_LENGTHS
    simplest = {axis: cell.allowed(axis)[0] for axis in ("sm_scale", "q_dtype", "kv_scales") if axis in seen}
    values = {axis: value for axis, value in (wish | simplest).items() if axis in seen}
    return Case(op=cell.op, layout=cell.layout, dtype=cell.dtype, seed=1, **values)
