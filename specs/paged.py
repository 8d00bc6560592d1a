"""Inputs of append, gather and paged_decode: tokens, pages, and the tables that tie them together."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from kvconform.specs import data
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES

_SURPLUS = 1 << 20
"""Position given to the rows of append that carry no token, so that their contents are drawn like any other's."""


class PagedInputs:
    """The arrays of one Case.

    k, v           [num_rows, *token axes]   the live tokens, sequence after sequence; with `capacity` also surplus rows
    q              [num_seqs, num_q_heads, head_dim]
    block_table    [num_seqs, width]   a permutation of the pages, cut among the sequences
    kv_lens        [num_seqs]
    slot_mapping   [num_rows]          page * page_size + slot; -1 skips

    The last three are of `index_dtype`. In a contiguous layout page i is the whole of sequence i.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.pages_of = [1 if case.row.contiguous else -(-n // case.page_size) for n in case.kv_lens]
        pages = case.capacity * len(case.kv_lens) if case.capacity else sum(self.pages_of)
        self.sizes = {
            "page": max(1, pages + case.spare_pages),
            "slot": case.page_size,
            "head": case.num_kv_heads,
            "dim": case.head_dim,
            "subspace": case.num_subspaces,
        }
        self.num_tokens = sum(case.kv_lens)
        self.num_rows = case.capacity * len(case.kv_lens) * case.page_size if case.capacity else self.num_tokens

    @cached_property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of one token of one side."""
        return tuple(self.sizes[axis] for axis in self.case.row.token_axes)

    @cached_property
    def owners(self) -> tuple[Array, Array]:
        """(sequence, position) of each live token."""
        lens = np.array(self.case.kv_lens, np.int64)
        seq = np.repeat(np.arange(len(lens)), lens)
        return seq, np.arange(len(seq)) - np.repeat(np.cumsum(lens) - lens, lens)

    @cached_property
    def block_table(self) -> Array:
        """[num_seqs, width]: each sequence's pages in order, then `table_padding`."""
        case = self.case
        if case.row.contiguous:
            return np.arange(len(case.kv_lens), dtype=case.index_dtype)[:, None]
        width = case.capacity or max([1, *self.pages_of]) + case.spare_columns
        order = np.argsort(data.hashes(case.seed, "pages", *data.grid(self.sizes["page"])), kind="stable")
        table = np.full((len(case.kv_lens), width), -1, case.index_dtype)
        if case.table_padding == "valid" and self.sizes["page"]:
            table[:] = data.hashes(case.seed, "padding", *data.grid(*table.shape)) % np.uint64(self.sizes["page"])
        start = 0
        for seq, pages in enumerate(self.pages_of):
            table[seq, :pages] = order[start : start + pages]
            start += pages
        return table

    @cached_property
    def kv_lens(self) -> Array:
        """[num_seqs]."""
        return np.array(self.case.kv_lens, self.case.index_dtype)

    @cached_property
    def slots(self) -> Array:
        """int64 [num_tokens]: the slot of each live token."""
        seq, position = self.owners
        size = self.case.page_size
        return np.asarray(self.block_table[seq, position // size].astype(np.int64) * size + position % size)

    @cached_property
    def slot_mapping(self) -> Array:
        """The slots of append's rows, -1 where a row is skipped or carries no token."""
        slots = np.full(self.num_rows, -1, np.int64)
        slots[: self.num_tokens] = self.slots
        if self.case.skip:
            slots[:: self.case.skip] = -1
        return slots.astype(self.case.index_dtype)

    @cached_property
    def tokens(self) -> tuple[Array | None, Array | None]:
        """K and V, rows by (sequence, position); None for a side that the layout does not store."""
        k, v = ((self._tokens(side) if side in self.case.row.sides else None) for side in (0, 1))
        return k, v

    def _tokens(self, side: int) -> Array:
        seq, position = self.owners
        surplus = np.full(self.num_rows - self.num_tokens, _SURPLUS)
        at = [np.concatenate([a, surplus]) for a in (seq, position)]
        lead = (slice(None), *(None for _ in self.token_shape))
        h = data.hashes(self.case.seed, "kv"[side], *(a[lead] for a in at), *data.grid(*self.token_shape))
        return data.values(self.case.dtype, self.case.family, "kv"[side], h)

    @cached_property
    def q(self) -> Array:
        """[num_seqs, num_q_heads, head_dim]."""
        case = self.case
        h = data.hashes(case.seed, "q", *data.grid(len(case.kv_lens), case.num_q_heads, case.head_dim))
        return data.values(case.dtype, case.family, "q", h)

    @property
    def sm_scale(self) -> float:
        """Factor of q . k."""
        return float(self.case.head_dim**-0.5 if self.case.sm_scale is None else self.case.sm_scale)

    def with_pages_renamed(self) -> PagedInputs:
        """The same tokens under other page numbers: the pages' order reversed."""
        other = PagedInputs(self.case)
        renamed = np.where(self.block_table < 0, -1, self.sizes["page"] - 1 - self.block_table)
        other.block_table = renamed.astype(self.block_table.dtype)
        return other

    def in_parts(self, num_parts: int) -> PagedInputs:
        """The same keys with each sequence cut into `num_parts` consecutive ones, some empty, that share its q."""
        lens = np.repeat(self.kv_lens[:, None], num_parts - 1, 1)
        cuts = data.hashes(self.case.seed, "cuts", *data.grid(*lens.shape)) % (lens + 1).astype(np.uint64)
        ends = np.concatenate([np.sort(cuts.astype(np.int64), 1), self.kv_lens[:, None]], 1)
        other = PagedInputs(replace(self.case, kv_lens=tuple(int(n) for n in np.diff(ends, prepend=0, axis=1).ravel())))
        other.tokens, other.q = self.tokens, np.repeat(self.q, num_parts, 0)
        return other

    def dead(self, contents: str) -> dict[str, Array]:
        """A cache in which no token was ever written, {field: array}; `contents`: zero, finite, nan, bits."""
        case = self.case
        cache = {}
        for name in case.row.fields:
            shape = case.row.shape(name, self.sizes, case.dtype)
            h = data.hashes(case.seed, "dead " + name, *data.grid(*shape))
            if contents in ("zero", "nan"):
                array = np.full(shape, np.nan if contents == "nan" else 0.0).astype(DTYPES[case.dtype])
            else:
                array = data.bits(case.dtype, h) if contents == "bits" else data.garbage(case.dtype, h)
            cache[name] = array
        return cache

    def arrays(self) -> dict[str, Array]:
        """Everything that the Case determines, for its digest."""
        named = {"block_table": self.block_table, "slot_mapping": self.slot_mapping, "q": self.q}
        return named | {"kv"[side]: rows for side, rows in enumerate(self.tokens) if rows is not None}
