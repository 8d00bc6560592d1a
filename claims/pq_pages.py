"""System 3, what it keeps where: bytes of codes, pools and whole caches, pages, and the manager that hands them out.

Bytes are those of the arrays that the layouts give (specs/layouts.py), not of a formula.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from types import FrameType
from typing import Any, Protocol

from kvconform.claims.claim import Claim, Figure, Judged, settled, share
from kvconform.impls import numpy_ref
from kvconform.oracles import cache_model
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.layouts import LAYOUTS

PAGE_SIZE = 64
ID_BYTES = 4
HEAD_DIMS, SUBSPACES, CENTROIDS = (64, 128), (32, 64), (256,)
"""The published instances have these."""

HALF = DTYPES["float16"].itemsize
CONTEXTS = tuple(1 << n for n in range(11, 18))
"""2 K to 128 K."""


class Manager(Protocol):
    """What a pool's pages are handed out by."""

    def allocate(self) -> int:
        """A page that nobody owned."""
        ...

    def free(self, page: int) -> None:
        """Give it back."""
        ...


MakeManager = Callable[[int], Manager]


def pool_bytes(num_pages: int, page_size: int, num_subspaces: int, layout: str = "pq_columns", pool: str = "v") -> int:
    """Bytes of a pool of codes of 8 bits."""
    row, sizes = LAYOUTS[layout], {"page": num_pages, "slot": page_size, "subspace": num_subspaces}
    return math.prod(row.shape(pool, sizes, "uint8")) * row.word_of(pool, "uint8").itemsize


# --- bits


def codes_take_4_bits(seed: int, page_bytes: Callable[[int, int, int], int] = pool_bytes) -> Judged:
    """Bits that a page of codes takes for each element of the heads it holds, of every published instance."""
    found, agree = {}, 0
    for head_dim, num_subspaces in product(HEAD_DIMS, SUBSPACES):
        bits = 8 * page_bytes(1, PAGE_SIZE, num_subspaces) / (PAGE_SIZE * head_dim)
        found[head_dim, num_subspaces] = bits
        agree += bits == num_subspaces * 8 / head_dim
    four = [f"d = {d}, M = {m}" for (d, m), bits in found.items() if bits == 4]
    return Judged(
        settled(agree == len(found) and found[128, 64] == 4),
        {
            "an element of a head, d = 128, M = 64": Figure(found[128, 64], "bits"),
            "M * nbits / d is what a page takes": share(agree, len(found), "published (d, M), 8 bits a code"),
            "other instances": Figure(
                ", ".join(f"d = {d}, M = {m}: {bits:g}" for (d, m), bits in found.items() if bits != 4), "bits"
            ),
            "instances of 4 bits": Figure("; ".join(four) or "none"),
        },
        "M codes of 8 bits stand for d elements. 4 bits is d = 128 with M = 64, and d = 64 with M = 32; codebooks and "
        "unquantised tokens come on top (next claim).",
    )


# --- memory saved


@dataclass(frozen=True)
class Kept:
    """What one layer's paged cache keeps for one sequence, as published: d = 128, M = 64, C = 256, float16.

    capacity   rows of the buffer of unquantised tokens; when it is full, its `moved` oldest go into a page
    books      how many sets of codebooks, of K and of V, a layer has
    """

    num_kv_heads: int = 8
    head_dim: int = 128
    num_subspaces: int = 64
    num_centroids: int = 256
    capacity: int = 128
    moved: int = PAGE_SIZE
    books: int = 1

    def coded(self, length: int) -> int:
        """Tokens of a sequence that are in pages by then."""
        return cache_model.coded(length, self.capacity, self.moved) if self.capacity else length

    def parts(self, length: int) -> dict[str, int]:
        """Bytes of K and V together, by what they are for."""
        pages = self.num_kv_heads * -(-self.coded(length) // PAGE_SIZE)
        pools = sum(pool_bytes(pages, PAGE_SIZE, self.num_subspaces, pool=pool) for pool in ("k", "v"))
        return {
            "codes": pools,
            "page ids": pages * ID_BYTES,
            "codebooks": 2 * self.books * self.head_dim * self.num_centroids * HALF,
            "unquantised": 2 * self.capacity * self.num_kv_heads * self.head_dim * HALF,
        }

    def saved(self, length: int) -> float:
        """Share of the bytes that the same tokens take in float16."""
        return 1 - sum(self.parts(length).values()) / (2 * length * self.num_kv_heads * self.head_dim * HALF)


def memory_saved_is_75_percent(seed: int, kept: Kept | None = None) -> Judged:
    """Everything a layer keeps, against float16, at each length of 1 to 128 K tokens."""
    kept = kept or Kept()
    lengths = range(1, CONTEXTS[-1] + 1)
    saved = [kept.saved(length) for length in lengths]
    reached = [round(100 * saved[length - 1]) == 75 for length in CONTEXTS]
    bare = replace(kept, capacity=0, books=0)
    figures = {
        "contexts of 2 K to 128 K that save 75 %, to a whole per cent": share(sum(reached), len(reached), "contexts"),
        **{f"saved at {length // 1024} K": Figure(100 * saved[length - 1], "%") for length in CONTEXTS},
        "75 %, to a whole per cent, of every longer context than": _from(saved, 0.745),
        "saves anything, of every longer context than": _from(saved, 0.0),
        "codes alone": Figure(100 * (1 - kept.num_subspaces * 8 / (kept.head_dim * 16)), "% at any context"),
        "codes and page ids at 32 K": Figure(100 * bare.saved(1 << 15), "%"),
        "codebooks of a layer": Figure(kept.parts(1)["codebooks"], "bytes of K and V"),
        "buffer of unquantised tokens": Figure(kept.parts(1)["unquantised"], "bytes of K and V, a sequence"),
    }
    return Judged(
        settled(all(reached)),
        figures,
        "75 % is what codes alone save. A layer also keeps codebooks and up to 128 tokens of each sequence in float16 "
        "(one sequence of 8 kv heads here; more sequences share the codebooks, no sequence shares its buffer), so "
        "short contexts save less, the shortest nothing."
        if not all(reached)
        else "With all that it keeps counted, every context saves 75 % to a whole per cent.",
    )


def _from(saved: list[float], least: float) -> Figure:
    """The last length that saves less."""
    short = [length for length, one in enumerate(saved, 1) if one < least]
    if short and short[-1] == len(saved):
        return Figure("none", "tokens, to 128 K")
    return Figure(short[-1] if short else 0, "tokens")


# --- the pool

_MB = {"10^6 bytes": 10**6, "2^20 bytes": 1 << 20}


def pool_takes_2_44_mb(seed: int, bytes_of: Callable[[int, int, int], int] = pool_bytes) -> Judged:
    """1000 pages of 8 subspaces and 64 slots, in either megabyte."""
    size = bytes_of(1000, PAGE_SIZE, 8)
    found = {unit: size / mb for unit, mb in _MB.items()}
    return Judged(
        settled(any(round(one, 2) == 2.44 for one in found.values())),
        {
            "1000 x 8 x 64 codes of 8 bits": Figure(size, "bytes"),
            **{f"MB of {unit}": Figure(one, "MB") for unit, one in found.items()},
            "claimed over true": Figure(", ".join(f"{2.44 / one:.2f}" for one in found.values()), "in either MB"),
        },
        "A byte a code makes 512000 bytes; 2.44 MB is about five times that."
        if size == 512000
        else "What the pool takes, in either megabyte.",
    )


# --- pages


def page_overhead_below_5_percent(seed: int, page_size: int = PAGE_SIZE) -> Judged:
    """Page ids and unused slots of the last page, against the codes in use, at each length of 1 to 8192 tokens."""
    num_subspaces, longest = 64, 8192
    page = sum(pool_bytes(1, page_size, num_subspaces, pool=pool) for pool in ("k", "v"))
    over = []
    for length in range(1, longest + 1):
        pages = -(-length // page_size)
        used = length * page // page_size
        over.append((pages * (page + ID_BYTES) - used) / used)
    above = [length for length, one in enumerate(over, 1) if one >= 0.05]
    full = ID_BYTES / page
    return Judged(
        settled(not above),
        {
            "lengths at which it is 5 % or more": share(len(above), longest, "lengths of 1 to 8192 tokens"),
            "below 5 % at every length above": Figure(above[-1] if above else 0, "tokens"),
            "shortest length below 5 %": Figure(next(n for n, one in enumerate(over, 1) if one < 0.05), "tokens"),
            "at 1 token": Figure(100 * over[0], "%"),
            "worst at 2 K to 4 K tokens": Figure(100 * max(over[2047:4096]), "%"),
            "full pages, at any length": Figure(100 * full, "%, page ids of 4 bytes alone"),
        },
        "A head of a sequence owns whole pages, so up to 63 of their slots hold nothing: that share falls with the "
        "length, and no page id weighs anything beside it. A cache that moves 64 tokens at a time fills every page "
        "and pays for ids alone; what waits is then in the buffer of unquantised tokens, at four times the bytes."
        if above
        else "At no length do unused slots and page ids take 5 %.",
    )


# --- the manager

SIZES = (10**3, 10**4, 10**5, 10**6)
_CALLS = 200


def _drained(make: MakeManager, num_pages: int) -> Manager:
    """A manager that has handed out all pages but the last few, so that whoever looks for one has to look far."""
    manager = make(num_pages)
    for _ in range(num_pages - _CALLS):
        manager.allocate()
    return manager


class _Counted(list[Any]):
    """A list that counts its elements as they are looked at or changed."""

    touched = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.touched += len(found) if isinstance(at, slice) else 1
        return found

    def __setitem__(self, at: Any, value: Any) -> None:
        self.touched += len(range(*at.indices(len(self)))) if isinstance(at, slice) else 1
        super().__setitem__(at, value)

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            self.touched += 1
            yield one

    def append(self, value: Any) -> None:
        self.touched += 1
        super().append(value)

    def pop(self, at: Any = -1) -> Any:
        self.touched += 1 if at in (-1, len(self) - 1) else len(self) - at % len(self)  # the rest moves up
        return super().pop(at)

    def index(self, value: Any, *bounds: Any) -> int:
        found = super().index(value, *bounds)
        self.touched += found + 1 - (bounds[0] if bounds else 0)
        return found

    def __contains__(self, value: Any) -> bool:
        return any(one == value for one in self)


def _steps(make: MakeManager, num_pages: int) -> tuple[int, int]:
    """Most lines of Python and elements of lists that any allocate, and any free, goes through."""
    manager = _drained(make, num_pages)
    lists = []
    for name, value in vars(manager).items():
        if type(value) is list:
            lists.append(_Counted(value))
            setattr(manager, name, lists[-1])
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line" and frame.f_code.co_filename != __file__
        return trace

    def counted(call: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
        nonlocal lines
        before, lines = sum(one.touched for one in lists), 0
        outer, collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # what collects garbage calls back, and its lines are nobody's
        sys.settrace(trace)
        try:
            found = call(*arguments)
        finally:
            sys.settrace(outer)
            if collects:
                gc.enable()
        return found, lines + sum(one.touched for one in lists) - before

    taken = [counted(manager.allocate) for _ in range(_CALLS)]
    given = [counted(manager.free, page) for page, _ in taken[::3]]
    again = [counted(manager.allocate) for _ in given]
    return max(steps for _, steps in taken + again), max(steps for _, steps in given)


def _seconds(make: MakeManager, num_pages: int) -> tuple[float, float]:
    """Median of an allocate, and of a free, one call at a time."""
    manager, clock = _drained(make, num_pages), time.perf_counter_ns
    pages, times = [], {True: [], False: []}  # type: tuple[list[int], dict[bool, list[int]]]
    for turn in range(2 * _CALLS):
        takes = turn < _CALLS or turn % 2 == 1
        page = None if takes else pages.pop(0)
        start = clock()
        if page is None:
            page = manager.allocate()
            end = clock()
            pages.append(page)
        else:
            manager.free(page)
            end = clock()
        times[takes].append(end - start)
    return median(times[True]) * 1e-9, median(times[False]) * 1e-9


def allocation_takes_constant_steps(seed: int, make: MakeManager = numpy_ref.page_manager) -> Judged:
    """Count steps and time of allocate and free, pools of 10^3 to 10^6 pages, as far as both stay what they were."""
    steps, times = [], []
    for size in SIZES:
        steps.append(_steps(make, size))
        times.append(_seconds(make, size))
        constant, level = len(set(steps)) == 1, all(round(one) < 1 for one in _growth(times[-2:]))
        if not (constant and level):
            break  # larger pools might take hours
    sizes = ", ".join(f"10^{len(str(size)) - 1}" for size in SIZES[: len(steps)]) + " pages"
    return Judged(
        settled(constant and level),
        {
            f"steps of an allocate, {sizes}": Figure(_listed(a for a, _ in steps), "lines and elements, at most"),
            f"steps of a free, {sizes}": Figure(_listed(f for _, f in steps), "lines and elements, at most"),
            f"time of an allocate, {sizes}": Figure(_listed(f"{a * 1e6:.2g}" for a, _ in times), "microseconds"),
            f"time of a free, {sizes}": Figure(_listed(f"{f * 1e6:.2g}" for _, f in times), "microseconds"),
            "x of time ~ pages ** x, allocate and free": Figure(
                _listed(f"{one:.2f}" for one in _growth(times)), "first to last"
            ),
        },
        "Of a stack of free pages (impls/host_kernels/pq_caches.py), all but 200 handed out: no step depends on how "
        "many pages there are, and time grows with an exponent that is nearer to 0 than to 1."
        if constant and level
        else "Larger pools take more steps."
        if not constant
        else "Larger pools take more time, in steps that Python does not show.",
    )


def _growth(times: list[tuple[float, float]]) -> list[float]:
    """x of time ~ pages ** x, of allocate and free, each pool ten times the one before."""
    tenfold = max(1, len(times) - 1)
    return [math.log10(last / first) / tenfold for first, last in zip(times[0], times[-1], strict=True)]


def allocation_takes_less_than_1_ms(
    seed: int, make: MakeManager = numpy_ref.page_manager, sizes: tuple[int, ...] = SIZES
) -> Judged:
    """The same times; no part of it is a GPU's."""
    slowest = max(_seconds(make, size)[0] for size in sizes)
    return Judged(
        settled(slowest < 1e-3),
        {
            "an allocate": Figure(1e6 * slowest, "microseconds, the slowest median of pools of 10^3 to 10^6 pages"),
            "claimed over measured": Figure(1e-3 / slowest, "times"),
        },
        "Handing out a page is bookkeeping on the host, measured on this CPU: the pool is there already. Measured is "
        "the manager of this repository; the published one is not part of it.",
    )


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


CLAIMS = (
    Claim("codes_take_4_bits", 3, "codes take M * nbits / d = 4 bits an element", codes_take_4_bits),
    Claim("memory_saved_is_75_percent", 3, "75 % of the KV cache's memory is saved", memory_saved_is_75_percent),
    Claim("pool_takes_2_44_mb", 3, "a page pool of 1000 x 8 x 64 bytes takes 2.44 MB", pool_takes_2_44_mb),
    Claim("page_overhead_below_5_percent", 3, "pages cost less than 5 % of memory", page_overhead_below_5_percent),
    Claim(
        "allocation_takes_constant_steps",
        3,
        "allocating and freeing a page is O(1)",
        allocation_takes_constant_steps,
    ),
    Claim(
        "allocation_takes_less_than_1_ms", 3, "allocating a page takes less than 1 ms", allocation_takes_less_than_1_ms
    ),
)
