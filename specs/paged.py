"""Inputs of append, gather, paged_decode and append_decode: tokens, pages, and the tables that tie them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from kvconform.specs import data, families, scales, trees
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES, is_floating
from kvconform.specs.features import from_the_first_key
from kvconform.specs.operations import SCALES
from kvconform.specs.row import SCALE, SIDE_NAMES, SIDES, ZERO, K, Part
from kvconform.specs.tables import told

SPARSE = 1 << 31
"""Words of a sparse pool's largest buffer, at least: an offset that is kept in 32 bits wraps."""

KEPT = 1 << 20
"""Bytes of a buffer whose contents are kept for the next call of a law, at most."""

FAR_PAGE = (1 << 30) + 1
"""A page far past any pool, that an int32 still holds; times a page's elements it does not."""

MOVED = 32
"""Pages that copy_pages reads or writes, at most."""

_SURPLUS = 1 << 20
"""Position given to the rows of append that carry no token, so that their contents are drawn like any other's."""


def scale_of_none(means: str, head_dim: int) -> float | None:
    """The factor of q . k where none is given, by the convention `sm_scale_of_none`; None: there is none."""
    return {"head_dim": float(head_dim**-0.5), "one": 1.0}.get(means)


class PagedInputs:
    """The arrays of one Case.

    tokens         part -> [num_rows, *token axes]   the live tokens, sequence after sequence; with `capacity` also
                   surplus rows
    k, v           the same as append takes them: an array where the side has one part, else {part: array}
    q              [num_q_rows, num_q_heads, width of K]   the newest tokens of each sequence, oldest first
    newest         [num_q_rows]   which rows of `tokens` are those tokens
    new_k, new_v   K and V of them, as append_decode takes them
    scales         k_scale and v_scale, float32 arrays (specs/scales.py), or None
    sinks, alibi_slopes   float32 [num_q_heads], or None
    tree_mask      bool [num_q_rows, longest q_len], or None: which query tokens of its sequence a row sees
    block_table    [num_seqs, width]   a permutation of the pages, cut among the sequences
    kv_lens        [num_seqs]
    slot_mapping   [num_rows]          page * page_size + slot; -1 skips

    places         part -> where its live tokens lie in a cache, as oracles/paged.py works it out

    `tables` say where the tokens are, `given` what reads are told: not so where a window has evicted a page. Tables and
    lengths are of `index_dtype`. In a contiguous layout page i is the whole of sequence i. Where K and V
    have pages of their own, block_table is [num_seqs, 2, width] and slot_mapping [2, num_rows].
    """

    def __init__(self, case: Case) -> None:
        self.case, self.row = case, case.row
        self._dead_buffers: dict[tuple[str, str], Array] = {}
        self.places: dict[str, Any] = {}
        self.pages_of = [1 if case.row.contiguous else -(-n // case.page_size) for n in case.kv_lens]
        pages = case.capacity * len(case.kv_lens) if case.capacity else sum(self.pages_of)
        if case.row.pairs_pages:
            pages *= 2
        self.sizes = {
            "page": max(1, pages + case.spare_pages),
            "slot": case.page_size,
            "head": case.num_kv_heads,
            "dim": case.head_dim,
            "dim_v": case.head_dim_v or case.head_dim,
            "subspace": case.num_subspaces,
            **case.row.fixed,
        }
        if case.pool == "sparse":
            a_page = max(math.prod(self.row.shape(b, {**self.sizes, "page": 1}, case.dtype)) for b in self.row.buffers)
            self.sizes["page"] += -(-SPARSE // a_page) + MOVED  # so many lie beyond, of odd and of even numbers
        self.num_tokens = sum(case.kv_lens)
        self.num_rows = case.capacity * len(case.kv_lens) * case.page_size if case.capacity else self.num_tokens

    def token_shape(self, part: Part) -> tuple[int, ...]:
        """Shape of one token of a part."""
        return self.row.token_shape(part, self.sizes, self.case.dtype)

    @cached_property
    def owners(self) -> tuple[Array, Array]:
        """(sequence, position) of each live token."""
        lens = np.array(self.case.kv_lens, np.int64)
        seq = np.repeat(np.arange(len(lens)), lens)
        return seq, np.arange(len(seq)) - np.repeat(np.cumsum(lens) - lens, lens)

    @cached_property
    def mates(self) -> Array:
        """int64 [num_seqs] the sequence whose leading pages each one has: the first, or the first two, alternating."""
        seq = np.arange(len(self.case.kv_lens))
        return seq % 2 if self.case.shared_by == "alternate" else seq * 0

    @cached_property
    def num_shared(self) -> list[int]:
        """Leading pages each sequence has in common with its mate: whole pages of both, full before the call."""
        case = self.case
        new = (case.q_lens or (1,) * len(case.kv_lens)) if case.operation.appends else (0,) * len(case.kv_lens)
        whole = [(n - q_len) // case.page_size for n, q_len in zip(case.kv_lens, new, strict=True)]
        return [min(case.shared_pages, n, whole[mate]) for n, mate in zip(whole, self.mates, strict=True)]

    @cached_property
    def tables(self) -> tuple[Array, ...]:
        """[num_seqs, width] of K and of V: each sequence's pages in order, then `table_padding`."""
        case, num_pages = self.case, self.sizes["page"]
        if case.row.contiguous:
            return (np.arange(len(case.kv_lens), dtype=case.index_dtype)[:, None],) * 2
        width = case.capacity or max([1, *self.pages_of]) + case.spare_columns
        order = self._order(num_pages)
        tables, start = [], 0
        for side in SIDES if case.row.pairs_pages else SIDES[:1]:
            table = np.zeros((len(case.kv_lens), width), case.index_dtype)
            for seq, pages in enumerate(self.pages_of):
                mate = self.mates[seq]
                shared = self.num_shared[seq] if seq != mate else 0
                table[seq, shared:pages] = order[start + shared : start + pages]
                table[seq, :shared] = table[mate, :shared]
                start += pages
            live = np.arange(width) < np.array(self.pages_of)[:, None]
            np.copyto(table, self._padding(table, live, side), where=~live, casting="unsafe")
            tables.append(table)
        return tuple(tables * 2)[:2]

    def _padding(self, table: Array, live: Array, side: int) -> Array:
        """[num_seqs, width] or one: what a table holds beyond each sequence's pages, which are `live` there."""
        beyond = {"minus_one": -1, "huge": FAR_PAGE, "null": self.null_page}.get(self.case.table_padding)
        if beyond is not None:
            return np.array(beyond)
        drawn = data.hashes(self.case.seed, "padding" + " v" * side, *data.grid(*table.shape))
        padding = np.asarray(drawn % np.uint64(self.sizes["page"]))
        own = live.sum(1, keepdims=True)
        others = own.sum() - own  # pages of other sequences, which stand behind its own ones, round and round
        if self.case.table_padding == "valid" and others.any():
            behind = np.cumsum(own)[:, None] + (drawn >> np.uint64(1)).astype(np.int64) % np.maximum(others, 1)
            in_turn = (np.arange(table.shape[1]) - own) % 2 == 0
            np.copyto(padding, table[live][behind % own.sum()], where=in_turn & (others > 0), casting="unsafe")
        return padding

    @cached_property
    def null_page(self) -> int | None:
        """The first page that no sequence owns, where there is one."""
        owned = {*self._order(self.sizes["page"])[: sum(self.pages_of) * (1 + self.row.pairs_pages)].tolist()}
        return next((page for page in range(self.sizes["page"]) if page not in owned), None)

    def _order(self, num_pages: int) -> Array:
        """The pages in the order in which sequences take them."""
        if self.case.page_ids == "high":
            needed = sum(self.pages_of) * (1 + self.row.pairs_pages)
            return np.arange(num_pages - 1, num_pages - 1 - needed, -1)
        return np.argsort(data.hashes(self.case.seed, "pages", *data.grid(num_pages)), kind="stable")

    @cached_property
    def given(self) -> tuple[Array, ...]:
        """The tables that reads are told: with `evicted_pages` where no query token sees any slot of a page."""
        return self._given(self.kv_lens)

    def _given(self, kv_lens: Array) -> tuple[Array, ...]:
        case = self.case
        instead = {"kept": None, "null": self.null_page, "minus_one": -1}[case.evicted_pages]
        if instead is None or not case.window:
            return self.tables
        unseen = self._oldest_seen(kv_lens.astype(np.int64)) // case.page_size  # whole pages before the oldest key seen
        gone = [np.arange(table.shape[1]) < unseen[:, None] for table in self.tables]
        return tuple(
            np.where(at, instead, table).astype(table.dtype) for at, table in zip(gone, self.tables, strict=True)
        )

    def _oldest_seen(self, kv_lens: Array) -> Array:
        """[num_seqs] position of the oldest key in the window of any query token; below 0 where it is not full.

        Query tokens at the first keys have no such key: nothing is drawn there that asks for it (`Cell.evicts`).
        """
        q_lens = np.array(self.case.q_lens or (1,) * len(kv_lens), np.int64)
        return np.asarray(kv_lens - q_lens + 1 - self.case.window)

    @cached_property
    def block_table(self) -> Array:
        """The tables that reads are told, as a block table."""
        return np.stack(self.given, axis=1) if self.row.pairs_pages else self.given[0]

    def told(self, seqs: Any = None, kv_lens: Array | None = None) -> dict[str, Any]:
        """The arguments of reads that say where tokens are, in the Case's form.

        seqs      some sequences alone, or in another order; None: all
        kv_lens   other lengths, [num_seqs] and none longer; None: their own
        """
        if seqs is None and kv_lens is None:
            return dict(self._told)
        return self._told_of(slice(None) if seqs is None else seqs, self.kv_lens if kv_lens is None else kv_lens)

    @cached_property
    def _told(self) -> dict[str, Any]:
        """Of all sequences: laws call several times."""
        return self._told_of(slice(None), self.kv_lens)

    def _told_of(self, seqs: Any, lens: Array) -> dict[str, Any]:
        case, given = self.case, self._given(lens)
        table = np.stack(given, axis=1) if self.row.pairs_pages else given[0]
        last = 1 + data.hashes(case.seed, "last_page_len", *data.grid(len(lens))) % np.uint64(case.page_size)
        form = told(case.table_form, table[seqs], lens[seqs], case.page_size, last.astype(np.int64)[seqs])
        return {"block_table": form, "kv_lens": lens[seqs]}

    @cached_property
    def kv_lens(self) -> Array:
        """[num_seqs]."""
        return np.array(self.case.kv_lens, self.case.index_dtype)

    @cached_property
    def slots(self) -> tuple[Array, ...]:
        """int64 [num_tokens] for K and for V: the slot of each live token."""
        seq, position = self.owners
        size = self.case.page_size
        return tuple(table[seq, position // size].astype(np.int64) * size + position % size for table in self.tables)

    @cached_property
    def mappings(self) -> tuple[Array, ...]:
        """int64 [num_rows] for K and for V: the slots of append's rows, -1 where a row carries no token."""
        return tuple(self._mapping(slots) for slots in self.slots)

    def _mapping(self, slots: Array) -> Array:
        case, end = self.case, self.sizes["page"] * self.case.page_size
        mapping = np.full(self.num_rows, -1, np.int64)
        mapping[: self.num_tokens] = slots
        if case.skip:
            mapping[case.skip_from :: case.skip] = -1
        if case.stray_slots == "twice":
            mapping[1::3] = mapping[0] if self.num_rows else -1
        elif case.stray_slots != "none":
            far = {"below": [-2, -1 - case.page_size, -end - 1], "beyond": [end, end + case.page_size, 2 * end + 1]}
            strays = mapping[case.skip_from :: 3]
            which = data.hashes(case.seed, "stray", *data.grid(len(strays))) % np.uint64(3)
            strays[:] = np.array(far[case.stray_slots])[which.astype(np.int64)]
        return mapping

    @cached_property
    def slot_mapping(self) -> Array:
        """The mappings as append takes them."""
        mapping = np.stack(self.mappings) if self.row.pairs_pages else self.mappings[0]
        return mapping.astype(self.case.index_dtype)

    @cached_property
    def page_mapping(self) -> Array:
        """[num_pairs, 2] source and target pages of copy_pages; one source is copied twice where there is room."""
        case, num_pages = self.case, self.sizes["page"]
        order = np.argsort(data.hashes(case.seed, "moves", *data.grid(min(num_pages, MOVED))), kind="stable")
        if case.pool == "sparse":  # from one end of it to the other, and within each
            order = np.where(order < MOVED // 2, order, num_pages - 1 - order)
        elif case.page_ids == "high":
            order = num_pages - 1 - order
        half = len(order) // 2
        sources, targets = order[:half].copy(), order[half : 2 * half]
        if case.page_moves == "swap":
            sources, targets = np.concatenate([sources, targets]), np.concatenate([targets, sources])
        elif half > 1:
            sources[1] = sources[0]
        return np.stack([sources, targets], axis=1).astype(case.index_dtype)

    @cached_property
    def tokens(self) -> dict[str, Array]:
        """Rows of every part by (sequence, position)."""
        return {part.name: self._tokens(part) for part in self.row.parts}

    @property
    def k(self) -> Any:
        """K as append takes it."""
        return self.row.argument(SIDES[0], self.tokens)

    @property
    def v(self) -> Any:
        """V as append takes it; None where the layout stores none."""
        return self.row.argument(SIDES[1], self.tokens)

    @cached_property
    def newest(self) -> Array:
        """[num_q_rows] the rows of `tokens` that are the newest of their sequences, as many as it has query tokens."""
        seq, position = self.owners
        old = np.array(self.case.kv_lens, np.int64) - np.bincount(self.q_rows[0], minlength=len(self.case.kv_lens))
        return np.flatnonzero(position >= old[seq])

    @property
    def new_k(self) -> Any:
        """K of the newest tokens."""
        return self.row.argument(SIDES[0], {name: rows[self.newest] for name, rows in self.tokens.items()})

    @property
    def new_v(self) -> Any:
        """V of the newest tokens."""
        return self.row.argument(SIDES[1], {name: rows[self.newest] for name, rows in self.tokens.items()})

    def _tokens(self, part: Part) -> Array:
        seq, position = self.owners
        seq = np.where(position // self.case.page_size < np.array(self.num_shared, np.int64)[seq], self.mates[seq], seq)
        surplus = np.full(self.num_rows - self.num_tokens, _SURPLUS)
        at = [np.concatenate([a, surplus]) for a in (seq, position)]
        at[1] = at[1] // self.row.step(part, "slot", self.sizes, self.case.dtype)  # tokens of a group share its scale
        shape = self.token_shape(part)
        lead = (slice(None), *(None for _ in shape))
        h = data.hashes(self.case.seed, part.name, *(a[lead] for a in at), *data.grid(*shape))
        dtype = self.row.dtype_of(part, self.case.dtype)
        of, what = self._moves(part)
        if of is not None and self.case.operation.rounds:
            return scales.stored(dtype, self.row.dtype_of(of, self.case.dtype), what, h)
        lens = np.append(self.case.kv_lens, 1)  # surplus rows stand alone
        num_keys = lens[np.minimum(at[0], len(lens) - 1)]
        tensor, first = self._role(part)
        dim = (data.grid(*shape) or (np.zeros((), int),))[-1] + first
        place = self._place(at[0][lead], at[1][lead], num_keys[lead], dim)
        if tensor == "v":
            place = replace(place, head_dim=shape[-1])
        return families.values(dtype, self.case.family, tensor, h, place)

    def _moves(self, part: Part) -> tuple[Part | None, str]:
        """The part whose codes a part makes numbers of, and as what; None where it holds numbers itself."""
        named = ((of, what) for of in self.row.parts for what in (SCALE, ZERO) if self.row.beside(of, what) == part)
        return next(named, (None, ""))

    def _role(self, part: Part) -> tuple[str, int]:
        """What a part is to attention: k, v, or both, latent; its first dim among those of K."""
        k, v = self.row.attended
        if part not in k:
            return ("v" if part in v else part.name), 0
        before = k[: k.index(part)]
        return ("latent" if part in v else "k"), sum(self.token_shape(one)[-1] for one in before)

    def width_of(self, side: int) -> int:
        """Elements of a head of K, or of V, as attention sees it."""
        return sum(self.token_shape(part)[-1] for part in self.row.attended[side])

    def _place(self, row: Any = 0, key: Any = 0, num_keys: Any = 1, dim: Any = 0) -> families.Place:
        """Where elements stand that belong to keys, or to whole rows."""
        return families.place_in(self.case, self.case.head_dim, self.sm_scale, row, key, num_keys, dim)

    @cached_property
    def q_rows(self) -> tuple[Array, Array]:
        """(sequence, how many of its tokens are newer) of each query row."""
        q_lens = np.array(self.case.q_lens or (1,) * len(self.case.kv_lens), np.int64)
        seq = np.repeat(np.arange(len(q_lens)), q_lens)
        return seq, np.repeat(np.cumsum(q_lens), q_lens) - 1 - np.arange(len(seq))

    def newer(self, causal: str) -> Array:
        """[num_q_rows] how many keys of its sequence are newer than each query row's own position.

        causal   the convention: from which end positions are counted
        """
        (seq, newer), case = self.q_rows, self.case
        if not from_the_first_key(causal, case.q_lens, case.tree_mask):
            return newer
        return np.asarray((np.array(case.kv_lens, np.int64) - np.array(case.q_lens, np.int64))[seq] + newer)

    @cached_property
    def q_lens(self) -> Array | None:
        """[num_seqs] query tokens of each sequence; None where each has one."""
        return np.array(self.case.q_lens, self.case.index_dtype) if self.case.q_lens else None

    @cached_property
    def q(self) -> Array:
        """[num_q_rows, num_q_heads, width of K]."""
        case = self.case
        row, head, dim = data.grid(case.num_q_rows, case.num_q_heads, self.width_of(K) or case.head_dim)
        h = data.hashes(case.seed, "q", row, head, dim)
        seq = self.q_rows[0][:, None, None]
        return families.values(case.result_dtype, case.family, "q", h, self._place(seq, dim=dim))

    @cached_property
    def tree_mask(self) -> Array | None:
        """bool [num_q_rows, longest q_len]: whether a row sees the key of its sequence's query token of that number.

        Columns at and beyond a sequence's own query tokens hold random bits. None: whatever is older.
        """
        case, (seq, _) = self.case, self.q_rows
        if case.tree_mask == "none" or not case.q_lens:
            return None
        column = np.arange(max(case.q_lens))
        mask = (data.hashes(case.seed, "tree mask", *data.grid(len(seq), len(column))) & np.uint64(1)).astype(bool)
        for one, size in enumerate(case.q_lens):
            mask[seq == one, :size] = trees.ancestry(trees.parents(case.seed, one, size))
        return mask

    @cached_property
    def sinks(self) -> Array | None:
        """float32 [num_q_heads]: anything from -4 to 4, with bits that narrowing loses; dominant ones 16 higher."""
        high = 16.0 * (self.case.sinks == "dominant")
        return self._of_q_heads(
            "sinks", lambda h, head: np.ldexp((h >> np.uint64(45)).astype(np.float64), -16) - 4 + high
        )

    def sinks_in(self, dtype: str) -> Array | None:
        """The sinks in a dtype, or in q's, as the convention `sinks_dtype` says."""
        return None if self.sinks is None else self.sinks.astype(self.q.dtype if dtype == "q" else DTYPES[dtype])

    @cached_property
    def alibi_slopes(self) -> Array | None:
        """float32 [num_q_heads]: a power of two from 1 to 2**-9, lower from head to head, times 8/16 to 15/16."""
        return self._of_q_heads(
            "alibi_slopes", lambda h, head: (8 + (h >> np.uint64(61)).astype(np.int64)) / 16.0 * 0.5 ** (head % 10)
        )

    def _of_q_heads(self, name: str, drawn: Callable[[data.Hashes, Array], Array]) -> Array | None:
        if getattr(self.case, name) == "none":
            return None
        (head,) = data.grid(self.case.num_q_heads)
        return drawn(data.hashes(self.case.seed, name, head), head).astype(np.float32)

    @cached_property
    def scales(self) -> tuple[Array | None, Array | None]:
        """k_scale and v_scale; where no token lives they hold what the Case says of `dead`."""
        case = self.case
        found = [scales.given(case.kv_scales, name, case.seed, case.dtype, self.sizes) for name in SIDE_NAMES]
        for side, scale in enumerate(found):
            axes = scales.AXES[case.kv_scales]
            if scale is not None and "page" in axes and case.dead != "zero":
                slots = self.slots[side]
                alive = np.zeros(scale.shape[: 1 + ("slot" in axes)], bool)
                alive[(slots // case.page_size, slots % case.page_size)[: alive.ndim]] = True
                h = data.hashes(case.seed, "dead scales", *data.grid(*scale.shape))
                scale[~alive] = data.dead(scale.dtype.name, case.dead, h)[~alive]
        return found[0], found[1]

    @property
    def sm_scale(self) -> float:
        """Factor of q . k."""
        return float(self.case.head_dim**-0.5 if self.case.sm_scale is None else self.case.sm_scale)

    def scale_told(self, of_none: str) -> float | None:
        """sm_scale as it is passed: None where that means the same, by the convention `sm_scale_of_none`.

        Of a latent it is always told: neither its width nor that of K is the width of the heads it stands for.
        """
        means = scale_of_none(of_none, self.case.head_dim)
        return None if self.sm_scale == means and len(self.row.attended[K]) == 1 else self.sm_scale

    def with_pages_renamed(self, first: bool = True) -> PagedInputs:
        """The same tokens under other page numbers: the pages' order reversed.

        first   whether of the first page of each row, too; what is kept from call to call may look at no other
        """
        other, name_of = PagedInputs(self.case), np.arange(self.sizes["page"])
        kept = [] if first else [number for table in self.tables for number in table[:, 0]]
        moved = np.setdiff1d(name_of, kept)
        name_of[moved] = moved[::-1]
        renamed = [
            np.where((table >= 0) & (table < len(name_of)), name_of[table % len(name_of)], table)
            for table in self.tables
        ]
        other.tables = tuple(new.astype(old.dtype) for new, old in zip(renamed, self.tables, strict=True))
        if "page" in scales.AXES[self.case.kv_scales]:
            k, v = (None if scale is None else scale[name_of] for scale in self.scales)
            other.scales = k, v
        other.null_page = None if self.null_page is None else int(name_of[self.null_page])
        return other

    def in_parts(self, num_parts: int) -> PagedInputs:
        """The same keys with each sequence cut into `num_parts` consecutive ones, some empty, that share its q."""
        lens = np.repeat(self.kv_lens[:, None], num_parts - 1, 1)
        cuts = data.hashes(self.case.seed, "cuts", *data.grid(*lens.shape)) % (lens + 1).astype(np.uint64)
        ends = np.concatenate([np.sort(cuts.astype(np.int64), 1), self.kv_lens[:, None]], 1)
        lens_of = tuple(int(n) for n in np.diff(ends, prepend=0, axis=1).ravel())
        other = PagedInputs(replace(self.case, kv_lens=lens_of, shared_pages=0))
        other.tokens, other.q = self.tokens, np.repeat(self.q, num_parts, 0)
        return other

    def dead(self, contents: str) -> dict[str, Array]:
        """A cache in which no token was ever written, {buffer: array}; `contents`: one of data.DEAD."""
        return {buffer: self._remembered(buffer, contents) for buffer in self.row.buffers}

    def _remembered(self, buffer: str, contents: str) -> Array:
        """A law asks for the same contents several times; zeros, and a large array, are made each time."""
        key = (buffer, contents)
        if key not in self._dead_buffers:
            made = self._dead(buffer, contents)
            if contents == "zero" or made.nbytes > KEPT:
                return made
            self._dead_buffers[key] = made
        return self._dead_buffers[key].copy()

    def _dead(self, buffer: str, contents: str) -> Array:
        case = self.case
        shape, dtype = self.row.shape(buffer, self.sizes, case.dtype), self.row.word_of(buffer, case.dtype)
        if contents == "zero":
            return np.zeros(shape, dtype)
        if contents == "nan" and is_floating(dtype.name):
            return np.full(shape, np.nan, dtype)
        return data.dead(dtype.name, contents, data.hashes(case.seed, "dead " + buffer, *data.grid(*shape)))

    @cached_property
    def dead_slots(self) -> tuple[dict[str, Array], ...]:
        """Slots without a live token, of K and of V: `tails` of pages that a sequence owns, and all of pages that none
        owns, `null` where a table names them and `free` where it does not."""
        size, num_pages = self.case.page_size, self.sizes["page"]
        found = []
        for slots, own, table in zip(self.slots, self.tables, self.given, strict=True):
            dead = np.ones(num_pages * size, bool)
            dead[slots] = False
            owned = np.zeros(num_pages, bool)
            owned[slots // size] = True
            named = np.zeros(num_pages, bool)
            others = table[(np.arange(table.shape[1]) >= np.array(self.pages_of, np.int64)[:, None]) | (table != own)]
            named[others[(others >= 0) & (others < num_pages)]] = True
            regions = {"tails": owned, "free": ~owned & ~named, "null": ~owned & named}
            found.append({name: np.flatnonzero(dead & np.repeat(pages, size)) for name, pages in regions.items()})
        return tuple(found)

    @cached_property
    def evicted(self) -> Array:
        """Live tokens (indices) that no query token sees: older than the window of its sequence's oldest one."""
        case, (seq, position) = self.case, self.owners
        oldest = self._oldest_seen(np.array(case.kv_lens, np.int64))
        unseen = (position < oldest[seq]) & (case.window > 0)
        return np.flatnonzero(unseen & ~np.isin(self.slots[0], self.slots[0][~unseen]))

    @property
    def is_poisoned(self) -> bool:
        """Whether there is anything that no sequence reads where the Case's `poison` says."""
        poison = self.case.poison
        regions: dict[str, Callable[[], bool]] = {
            **{name: partial(self._has_dead, name) for name in ("tails", "free", "null")},
            "gaps": lambda: self.case.strides != "contiguous",
            "padding": lambda: self.row.is_padded(self.sizes, self.case.dtype),
            "evicted": lambda: bool(len(self.evicted)),
        }
        return any(region() for region in regions.values()) if poison == "all" else regions[poison]()

    def _has_dead(self, region: str) -> bool:
        return any(len(side[region]) for side in self.dead_slots)

    def arrays(self) -> dict[str, Array]:
        """Everything that the Case determines, for its digest."""
        some = {"q_lens": self.q_lens, "sinks": self.sinks, "alibi_slopes": self.alibi_slopes}
        some |= dict(zip(SCALES, self.scales, strict=True)) if self.case.operation.rounds else {}
        some["tree_mask"] = self.tree_mask
        given = {name: array for name, array in some.items() if array is not None}
        form = self.told()["block_table"]
        given |= {} if isinstance(form, np.ndarray) else form
        return {"block_table": self.block_table, "slot_mapping": self.slot_mapping, "q": self.q, **given, **self.tokens}
