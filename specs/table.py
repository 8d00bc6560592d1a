"""What a page table is: the pages of sequences, written in a form that kernels take, and read from it.

All forms say the same, `Pages`: for each sequence the pages of K, those of V, and how many tokens they hold. They
differ in where the entries of a sequence begin and in what says how many there are. A conversion reads one form and
writes another; what the other cannot say it refuses. Pages that a sequence owns beyond its tokens are in no form: they
cannot be told from padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.row import SIDE_NAMES, SIDES

Arrays = Mapping[str, Array]
Entries = int | Sequence[int] | Array
"""One entry for all places, or several that are taken in turn."""

Runs = tuple[tuple[int, ...], ...]
"""For each sequence a run of pages or of slots."""


class TableError(ValueError):
    """Arrays that are no page table of their form, or pages that a form cannot say."""


@dataclass(frozen=True)
class Pages:
    """What every page table says.

    k, v      for each sequence the pages of K, of V, that hold a token, in the order of the tokens
    kv_lens   for each sequence its number of tokens
    """

    k: Runs
    v: Runs
    kv_lens: tuple[int, ...]

    @classmethod
    def shared(cls, pages: Iterable[Iterable[int]], kv_lens: Iterable[int]) -> Pages:
        """K and V of a token in the same page."""
        runs = tuple(tuple(int(page) for page in run) for run in pages)
        return cls(runs, runs, tuple(int(n) for n in kv_lens))

    def of(self, side: int) -> Runs:
        """The pages of K or of V."""
        return (self.k, self.v)[side]

    def flaw(self, page_size: int) -> str:
        """Why these cannot be pages of `page_size` slots, or nothing."""
        for side in SIDES:
            name, runs = SIDE_NAMES[side].upper(), self.of(side)
            if len(runs) != len(self.kv_lens):
                return f"{len(runs)} sequences have pages of {name} and {len(self.kv_lens)} have a kv_len"
            for seq, (run, kv_len) in enumerate(zip(runs, self.kv_lens, strict=True)):
                if kv_len < 0:
                    return f"sequence {seq} has kv_len {kv_len}"
                if len(run) != cdiv(kv_len, page_size):
                    needs = f"kv_len {kv_len} needs {cdiv(kv_len, page_size)} of {page_size} slots"
                    return f"sequence {seq} has {len(run)} pages of {name}; {needs}"
                if min(run, default=0) < 0:
                    return f"sequence {seq} has {name} in page {min(run)}, which is no page"
        return ""


Reader = Callable[[Arrays, int], Pages]


@dataclass(frozen=True)
class Entry:
    """One array of a page table.

    dtype     what the source has; `write` takes another
    axes      its shape in words; a word means the same size in all arrays of a table
    meaning   what it says
    """

    dtype: str
    axes: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Form:
    """What a writer has to know beside the pages; see `Table.write`."""

    page_size: int
    padding: Entries
    width: int | None
    empty_last_page_len: Entries


@dataclass(frozen=True, kw_only=True)
class Table:
    """One row.

    name        what `Layout.table` names
    arrays      name -> Entry
    empty       what it says of a sequence without a token
    cannot      what it cannot say
    source      who documents it
    writer      (pages, form) -> arrays; `write` checks before and after
    reader      (arrays, page_size) -> pages; `read` checks before and after
    limit       why it cannot say these pages, or nothing
    sides       whether K and V may be in pages of their own
    of_tokens   whether its entries are slots of tokens rather than pages
    sentinels   entries with a meaning of their own
    """

    name: str
    arrays: Mapping[str, Entry]
    empty: str
    cannot: str
    source: str
    writer: Callable[[Pages, Form], Mapping[str, Any]]
    reader: Reader
    limit: Callable[[Pages], str] = lambda pages: ""
    sides: bool = False
    of_tokens: bool = False
    sentinels: str = ""

    def write(
        self,
        pages: Pages,
        page_size: int,
        *,
        index_dtype: str = "int32",
        padding: Entries = -1,
        width: int | None = None,
        empty_last_page_len: Entries = 1,
    ) -> dict[str, Array]:
        """The arrays that say these pages.

        padding               entries that no token is behind
        width                 entries a sequence; where sequences are packed, the total is that many times their number.
                              None: as many as needed, at least one in a table of rows
        empty_last_page_len   last_page_len of a sequence without pages

        Raises TableError where something would be lost.
        """
        form = Form(page_size, padding, width, empty_last_page_len)
        with _naming(self.name):
            require(no_size(page_size) or pages.flaw(page_size) or self.loss(pages))
            return {name: cast(name, array, index_dtype) for name, array in self.writer(pages, form).items()}

    def read(self, arrays: Arrays, page_size: int) -> Pages:
        """The pages that these arrays say. Raises TableError where they say none."""
        with _naming(self.name):
            require(no_size(page_size))
            pages = self.reader(self._checked(arrays), page_size)
            require(pages.flaw(page_size), self.sentinels)
            return pages

    def loss(self, pages: Pages) -> str:
        """What the table cannot say of these pages, or nothing."""
        for seq, (k, v) in enumerate(zip(pages.k, pages.v, strict=True)):
            if k != v and not self.sides:
                return f"sequence {seq} has K in pages {listed(k)} and V in {listed(v)}; one list stands for both here"
        return self.limit(pages)

    def _checked(self, arrays: Arrays) -> Arrays:
        """The arrays as int64, of the shapes that the row states."""
        if set(arrays) != set(self.arrays):
            raise TableError(f"takes {', '.join(self.arrays)}, not {', '.join(arrays) or 'nothing'}")
        sizes = {"2": 2}
        for name, entry in self.arrays.items():
            array = np.asarray(arrays[name])
            if array.dtype.kind not in "iu":
                raise TableError(f"{name} is {array.dtype}; its entries are integers")
            _bind(name, array.shape, entry.axes, sizes)
        return {name: np.asarray(arrays[name], np.int64) for name in self.arrays}


@contextmanager
def _naming(row: str) -> Iterator[None]:
    """Errors begin with the row that they are of."""
    try:
        yield
    except TableError as e:
        raise TableError(f"{row}: {e}") from None


def require(flaw: str, hint: str = "") -> None:
    if flaw:
        raise TableError(f"{flaw}; {hint}" if hint else flaw)


def no_size(page_size: int) -> str:
    return "" if page_size > 0 else f"page_size is {page_size}; it is 1 or more"


def _bind(name: str, shape: tuple[int, ...], axes: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Give each word of a shape its size; one that has another already raises TableError."""
    words = f"({', '.join(axes)})"
    if len(shape) != len(axes):
        raise TableError(f"{name} has shape {shape}, not {words}")
    for axis, size in zip(axes, shape, strict=True):
        word, _, more = axis.partition(" + ")
        if sizes.setdefault(word, size - int(more or 0)) != size - int(more or 0) or sizes[word] < 0:
            known = ", ".join(f"{word} = {n}" for word, n in sizes.items() if word in words and not word.isdigit())
            raise TableError(f"{name} has shape {shape}, not {words} with {known}")


def cast(name: str, values: Any, index_dtype: str) -> Array:
    array, holds = np.asarray(values, np.int64), np.iinfo(index_dtype)
    for most in (array.min(initial=0), array.max(initial=0)):
        if not holds.min <= most <= holds.max:
            raise TableError(f"{name} would hold {most}, beyond {index_dtype}")
    return array.astype(index_dtype)


def cdiv(n: Any, size: int) -> Any:
    return -(-n // size)


def sums(counts: Any) -> Array:
    """Where each of them begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))])


def listed(run: Iterable[int]) -> str:
    return ", ".join(map(str, run)) or "none"


# --- writers


def rows(runs: Runs, form: Form) -> Array:
    """[num_seqs, width]: each run in a row of its own, then padding."""
    most = max(map(len, runs), default=0)
    table = _in_turn(form.padding, (len(runs), max(1, most) if form.width is None else form.width))
    if most > table.shape[1]:
        raise TableError(f"a width of {form.width} has no room for a sequence of {most} pages")
    for row, run in zip(table, runs, strict=True):
        row[: len(run)] = run
    return table


def matrix(runs: Iterable[Iterable[int]]) -> Array:
    """The rows of a block table that is padded with page 0."""
    some = tuple(tuple(run) for run in runs)
    return rows(some, Form(page_size=1, padding=0, width=None, empty_last_page_len=1))


def _packed(runs: Runs, form: Form, each: int = 1) -> Array:
    """Runs one behind another, then padding up to the width, of `each` entries, for every sequence."""
    flat = [one for run in runs for one in run]
    room = len(flat) if form.width is None else len(runs) * form.width * each
    if room < len(flat):
        raise TableError(f"a width of {form.width} has no room for {len(flat)} entries of {len(runs)} sequences")
    return np.concatenate([np.array(flat, np.int64), _in_turn(form.padding, (room - len(flat),))])


def _in_turn(entries: Entries, shape: tuple[int, ...]) -> Array:
    return np.resize(np.asarray(entries, np.int64), shape)


def slots_of(runs: Runs, kv_lens: Iterable[int], page_size: int) -> Runs:
    """The slot of every token; -1 where its page is none."""
    return tuple(
        tuple(max(-1, run[token // page_size] * page_size + token % page_size) for token in range(kv_len))
        for run, kv_len in zip(runs, kv_lens, strict=True)
    )


def write_csr(pages: Pages, form: Form) -> Mapping[str, Any]:
    empty = _in_turn(form.empty_last_page_len, (len(pages.kv_lens),))
    last = [(n - 1) % form.page_size + 1 if n else none for n, none in zip(pages.kv_lens, empty, strict=True)]
    indptr = sums([len(run) for run in pages.k])
    return {"kv_indptr": indptr, "kv_indices": _packed(pages.k, form), "last_page_len": last}


def write_token_slots(pages: Pages, form: Form) -> Mapping[str, Any]:
    slots = slots_of(pages.k, pages.kv_lens, form.page_size)
    return {"kv_indptr": sums(pages.kv_lens), "kv_indices": _packed(slots, form, form.page_size)}


def write_ragged(pages: Pages, form: Form) -> Mapping[str, Any]:
    aligned = [len(run) * form.page_size for run in pages.k]
    return {"page_indices": _packed(pages.k, form), "kv_lens": pages.kv_lens, "cu_kv_lens": sums(aligned)}


def write_block_pairs(pages: Pages, form: Form) -> Mapping[str, Any]:
    return {"block_table": np.stack([rows(pages.of(side), form) for side in SIDES], 1), "kv_lens": pages.kv_lens}


# --- readers


def slices(entries: Array, starts: Iterable[int], counts: Iterable[int]) -> Runs:
    """The runs that begin at `starts`, as far as there are entries."""
    return tuple(tuple(entries[start : start + count].tolist()) for start, count in zip(starts, counts, strict=True))


def _runs(name: str, entries: Array, starts: Array, counts: Array) -> Runs:
    """The runs that begin at `starts`, all of them inside of the array."""
    for seq, (start, count) in enumerate(zip(starts, counts, strict=True)):
        if count < 0 or start < 0 or start + count > len(entries):
            raise TableError(f"sequence {seq} has entries {start} to {start + count} of {len(entries)} of {name}")
    return slices(entries, starts, counts)


def _require_room(counts: Array, room: Array, kv_lens: Array, name: str) -> None:
    for seq in np.flatnonzero(counts > room)[:1]:
        takes = f"kv_len {kv_lens[seq]} takes {counts[seq]} pages"
        raise TableError(f"sequence {seq}: {takes}, and {name} has {room[seq]} for it")


def row_runs(name: str, table: Array, kv_lens: Array, page_size: int) -> Runs:
    """The pages of each row."""
    counts = cdiv(kv_lens, page_size)
    _require_room(counts, np.full_like(counts, table.shape[1]), kv_lens, name)
    return _runs(name, table.ravel(), np.arange(len(table)) * table.shape[1], counts)


def read_block_table(arrays: Arrays, page_size: int) -> Pages:
    table, kv_lens = arrays["block_table"], arrays["kv_lens"]
    return Pages.shared(row_runs("block_table", table, kv_lens, page_size), kv_lens)


def read_block_pairs(arrays: Arrays, page_size: int) -> Pages:
    table, kv_lens = arrays["block_table"], arrays["kv_lens"]
    k, v = (row_runs("block_table", table[:, side], kv_lens, page_size) for side in SIDES)
    return Pages(k, v, tuple(kv_lens.tolist()))


def read_flat(arrays: Arrays, page_size: int) -> Pages:
    entries, kv_lens = arrays["page_indices"], arrays["kv_lens"]
    if len(entries) % max(1, len(kv_lens)):
        raise TableError(f"page_indices has {len(entries)} entries for {len(kv_lens)} sequences, not as many for each")
    table = entries.reshape(len(kv_lens), len(entries) // max(1, len(kv_lens)))
    return Pages.shared(row_runs("page_indices", table, kv_lens, page_size), kv_lens)


def read_ragged(arrays: Arrays, page_size: int) -> Pages:
    entries, kv_lens, cu = (arrays[name] for name in ("page_indices", "kv_lens", "cu_kv_lens"))
    for i in np.flatnonzero(cu % page_size)[:1]:
        raise TableError(f"cu_kv_lens[{i}] is {cu[i]}; it sums whole pages of {page_size}")
    counts, starts = cdiv(kv_lens, page_size), cdiv(cu, page_size)
    _require_room(counts, np.diff(starts), kv_lens, "cu_kv_lens")
    return Pages.shared(_runs("page_indices", entries, starts[:-1], counts), kv_lens)


def read_csr(arrays: Arrays, page_size: int) -> Pages:
    indptr, indices, last = (arrays[name] for name in ("kv_indptr", "kv_indices", "last_page_len"))
    counts = np.diff(indptr)
    for seq in np.flatnonzero((counts > 0) & ((last < 1) | (last > page_size)))[:1]:
        raise TableError(f"last_page_len of sequence {seq} is {last[seq]}; of one with pages it is 1 to {page_size}")
    kv_lens = np.where(counts > 0, (counts - 1) * page_size + last, 0)
    return Pages.shared(_runs("kv_indices", indices, indptr[:-1], counts), kv_lens)


def read_token_slots(arrays: Arrays, page_size: int) -> Pages:
    indptr, kv_lens = arrays["kv_indptr"], np.diff(arrays["kv_indptr"])
    slots = _runs("kv_indices", arrays["kv_indices"], indptr[:-1], kv_lens)
    pages = Pages.shared(([slot // page_size for slot in run[::page_size]] for run in slots), kv_lens)
    whole = slots_of(pages.k, pages.kv_lens, page_size)
    for seq, run in enumerate(slots):
        for token, (slot, wants) in enumerate(zip(run, whole[seq], strict=True)):
            if slot != wants:
                means = f"pages of {page_size} would have it in slot {wants}"
                raise TableError(f"token {token} of sequence {seq} is in slot {slot}; {means}")
    return pages


def read_none(arrays: Arrays, page_size: int) -> Pages:
    kv_lens = arrays["kv_lens"]
    counts = cdiv(kv_lens, page_size)
    _require_room(counts, np.ones_like(counts), kv_lens, f"page_size {page_size}")
    return Pages.shared(([seq] * int(n) for seq, n in enumerate(counts)), kv_lens)


def own_page(pages: Pages) -> str:
    """Why sequence i is not in page i, or nothing."""
    for seq, run in enumerate(pages.k):
        if run not in ((), (seq,)):
            return f"sequence {seq} is in pages {listed(run)}; without a table it is in page {seq} alone"
    return ""
