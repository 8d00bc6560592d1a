"""Inputs of product quantisation: codebooks, vectors to encode, pages of codes, and the tokens that are not coded yet.

A head of head_dim = num_subspaces * sub_dim numbers is cut into subspaces, and each of them stored as the number of its
nearest centroid. Centroid c holds what key c would hold in a family of contents (specs/families.py), so that a sequence
whose token i has the i-th code everywhere has the structure of that family.

Source: Jegou, Douze and Schmid 2011 (product quantisation, asymmetric distances); MILLION (DAC 2025), which codes the
KV cache so, in pages of one (sequence, kv head) each, those of V transposed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from kvconform.specs import data, families
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES, FORMATS
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import SIDE_NAMES, SIDES, K, Part

BESIDE = range(6, 21)
"""How far a vector beside the middle of two centroids is from it: 2 ** -one of these of their distance, by token."""


FINEST = 9
"""Bits behind the point of a cache's tokens, where their type has so many: squares of differences count 24."""


def of_side(side: int) -> str:
    """The name of K's or V's codebooks among arguments."""
    return f"{SIDE_NAMES[side]}_codebooks"


class CodebookInputs:
    """What every operation on codes starts from.

    codebooks   of K and of V, [num_subspaces, num_centroids, sub_dim] of `q_dtype`
    """

    def __init__(self, case: Case) -> None:
        self.case, self.row = case, case.row
        self.head_dim = case.num_subspaces * case.sub_dim
        self.num_keys = max(1, case.num_tokens, max(case.kv_lens, default=0) + case.residual)
        self.sizes = {"head": case.num_kv_heads, "subspace": case.num_subspaces, "token": case.num_tokens}

    @property
    def sm_scale(self) -> float:
        """Factor of q . k."""
        return float(self.head_dim**-0.5 if self.case.sm_scale is None else self.case.sm_scale)

    def place(self, row: Any = 0, key: Any = 0, num_keys: Any = 1, dim: Any = 0) -> families.Place:
        """Where elements stand that belong to keys, or to whole rows."""
        return families.place_in(self.case, self.head_dim, self.sm_scale, row, key, num_keys, dim)

    @cached_property
    def codebooks(self) -> tuple[Array, Array]:
        """Of K and of V."""
        case = self.case
        subspace, centroid, inner = data.grid(case.num_subspaces, case.num_centroids, case.sub_dim)
        dim, key = subspace * case.sub_dim + inner, np.minimum(centroid, self.num_keys - 1)
        found = []
        for name in SIDE_NAMES:
            h = data.hashes(case.seed, f"{name} codebooks", subspace, centroid, inner)
            place = self.place(key=key, num_keys=self.num_keys, dim=dim)
            found.append(families.values(case.result_dtype, case.family, name, h, place))
        return found[0], found[1]

    def drawn_codes(self, what: str, *axes: Array) -> Array:
        """A code of each subspace by hash, uint8 [*axes, num_subspaces]."""
        h = data.hashes(self.case.seed, what, *(axis[..., None] for axis in axes), np.arange(self.case.num_subspaces))
        return (h % np.uint64(self.case.num_centroids)).astype(np.uint8)

    def decoded(self, codes: Array, side: int) -> Array:
        """The centroids that codes [..., num_subspaces] name, side by side, [..., head_dim]."""
        book = self.codebooks[side]
        return np.ascontiguousarray(book[np.arange(len(book)), codes]).reshape(*codes.shape[:-1], self.head_dim)

    def vectors(self, side: int, num_tokens: int) -> Array:
        """[num_tokens, num_kv_heads, head_dim] of `q_dtype`, as the Case's `vectors` says."""
        case, name = self.case, SIDE_NAMES[side]
        token, head, dim = data.grid(num_tokens, case.num_kv_heads, self.head_dim)
        if case.vectors == "anywhere":
            h = data.hashes(case.seed, f"{name} vectors", token, head, dim)
            place = self.place(key=np.minimum(token, self.num_keys - 1), num_keys=self.num_keys, dim=dim)
            return families.values(case.result_dtype, case.family, name, h, place)
        pair = [self.drawn_codes(f"{name} {which} codes", token[..., 0], head[..., 0]) for which in ("some", "other")]
        one, other = (self.decoded(codes, side) for codes in pair)
        if case.vectors == "centroids":
            return one
        with np.errstate(all="ignore"):
            a, b = one.astype(np.float64), other.astype(np.float64)
            away = data.hashes(case.seed, f"{name} beside", token[..., :1], head[..., :1]) % np.uint64(len(BESIDE))
            aside = 2.0 ** -(BESIDE[0] + away.astype(np.float64)) * (b - a) if case.vectors == "beside" else 0.0
            return np.asarray((0.5 * a + 0.5 * b + aside).astype(DTYPES[case.result_dtype]))


class CodeInputs(CodebookInputs):
    """Inputs of pq_encode and pq_decode.

    x       [num_tokens, num_kv_heads, head_dim]
    codes   uint8 [num_tokens, num_kv_heads, num_subspaces], one a byte
    """

    @cached_property
    def x(self) -> Array:
        """What is encoded."""
        return self.vectors(K, self.case.num_tokens)

    @cached_property
    def codes(self) -> Array:
        """What is decoded."""
        token, head = data.grid(self.case.num_tokens, self.case.num_kv_heads)
        return self.drawn_codes("codes", token, head)

    def arrays(self) -> dict[str, Array]:
        """Everything that the Case determines, for its digest."""
        return {"x": self.x, "codes": self.codes, "codebooks": self.codebooks[K]}


class CodePages(PagedInputs):
    """The pools as a cache of one head: a sequence there is one (sequence, kv head), sequence * num_kv_heads + head."""

    def __init__(self, of: PQInputs) -> None:
        case = of.case
        lens = tuple(n for n in case.kv_lens for _ in range(case.num_kv_heads))
        super().__init__(replace(case, kv_lens=lens, num_kv_heads=1))
        self.of = of

    def _tokens(self, part: Part) -> Array:
        case, (seq, position) = self.of.case, self.owners
        if case.codes == "mixed":
            one, head = np.divmod(seq, case.num_kv_heads)
            return self.of.drawn_codes(f"{part.name} codes", one, head, position)
        ordered = (position % case.num_centroids).astype(np.uint8)
        return np.repeat(ordered[:, None], case.num_subspaces, 1)


class PQInputs(CodebookInputs):
    """Inputs of pq_append and pq_decode_attention.

    pages           the pools, their page table, and what lies in slots without a token
    page_ids        [num_seqs, num_kv_heads, width]
    kv_lens         [num_seqs]   tokens in codes
    k, v            [num_rows, num_kv_heads, head_dim]   what append encodes, sequence after sequence; with `capacity`
                    also rows that carry no token
    slot_mapping    [num_rows, num_kv_heads]   page * page_size + slot; -1 skips
    q               [num_seqs, num_q_heads, head_dim]
    residual        of K and of V, [num_seqs, residual, num_kv_heads, head_dim]; rows without a token hold `dead`
    residual_lens   [num_seqs]
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.pages = CodePages(self)

    def _of_heads(self, flat: Array) -> Array:
        """[num_seqs * num_kv_heads, ...] -> [num_seqs, num_kv_heads, ...]."""
        return flat.reshape(len(self.case.kv_lens), self.case.num_kv_heads, *flat.shape[1:])

    @property
    def page_ids(self) -> Array:
        """The pages of each (sequence, kv head) in order, then `table_padding`."""
        return self._of_heads(self.pages.tables[K])

    @cached_property
    def kv_lens(self) -> Array:
        """[num_seqs]."""
        return np.array(self.case.kv_lens, self.case.index_dtype)

    @cached_property
    def owners(self) -> tuple[Array, Array]:
        """(sequence, position) of each token in codes."""
        lens = np.array(self.case.kv_lens, np.int64)
        seq = np.repeat(np.arange(len(lens)), lens)
        return seq, np.arange(len(seq)) - np.repeat(np.cumsum(lens) - lens, lens)

    @property
    def num_rows(self) -> int:
        """Rows of append."""
        return self.pages.num_rows // self.case.num_kv_heads

    @cached_property
    def k(self) -> Array:
        """K of what append encodes."""
        return self.vectors(SIDES[0], self.num_rows)

    @cached_property
    def v(self) -> Array:
        """V of what append encodes."""
        return self.vectors(SIDES[1], self.num_rows)

    @cached_property
    def slot_mapping(self) -> Array:
        """Where append puts the codes of each token and head."""
        case, (seq, position) = self.case, self.owners
        mapping = np.full((self.num_rows, case.num_kv_heads), -1, np.int64)
        page = self.page_ids[seq, :, position // case.page_size].astype(np.int64)
        mapping[: len(seq)] = page * case.page_size + position[:, None] % case.page_size
        if case.skip:
            mapping.reshape(-1)[case.skip_from :: case.skip] = -1
        return mapping.astype(case.index_dtype)

    @cached_property
    def q(self) -> Array:
        """The newest token of each sequence."""
        case = self.case
        row, head, dim = data.grid(len(case.kv_lens), case.num_kv_heads * case.group, self.head_dim)
        h = data.hashes(case.seed, "q", row, head, dim)
        return families.values(case.result_dtype, case.family, "q", h, self.place(row, dim=dim))

    @cached_property
    def residual_lens(self) -> Array:
        """[num_seqs]; the first sequence has as many as there may be."""
        case = self.case
        lens = data.hashes(case.seed, "residual", *data.grid(len(case.kv_lens))) % np.uint64(case.residual + 1)
        lens[:1] = case.residual
        return lens.astype(case.index_dtype)

    @cached_property
    def residual(self) -> tuple[Array, Array]:
        """K and V of the tokens that are not coded yet, oldest first."""
        case = self.case
        shape = (len(case.kv_lens), case.residual, case.num_kv_heads, self.head_dim)
        seq, row, head, dim = data.grid(*shape)
        coded, there = self.kv_lens.astype(np.int64)[seq], self.residual_lens.astype(np.int64)[seq]
        place = self.place(seq, np.minimum(coded + row, coded + there), coded + np.maximum(there, 1), dim)
        dead = "zero" if case.poison not in ("all", "tails") else case.dead
        found = []
        for name in SIDE_NAMES:
            h = data.hashes(case.seed, f"residual {name}", seq, row, head, dim)
            live = families.values(case.result_dtype, case.family, name, h, place)
            found.append(np.where(row < there, live, data.dead(case.result_dtype, dead, h)).astype(live.dtype))
        return found[0], found[1]

    def with_pages_renamed(self) -> PQInputs:
        """The same tokens under other page numbers: the pages' order reversed."""
        other = PQInputs(self.case)
        renamed = self.pages.with_pages_renamed()
        other.pages.tables, other.pages.null_page = renamed.tables, renamed.null_page
        return other

    def with_newest(self, most: int) -> PQInputs:
        """The tokens in codes alone, of which the newest, so many at most, are taken for the residual as they are."""
        other, case = PQInputs(self.case), self.case
        lens = np.minimum(self.kv_lens, most)
        other.residual_lens, other.kv_lens = lens, self.kv_lens - lens
        other.pages.kv_lens = np.repeat(other.kv_lens, case.num_kv_heads)
        seq, row, head = data.grid(len(lens), case.residual, case.num_kv_heads)
        starts = np.cumsum([0, *self.pages.case.kv_lens])[seq * case.num_kv_heads + head]
        at = np.where(row < lens[seq], starts + other.kv_lens.astype(np.int64)[seq] + row, -1)
        found = []
        for side, part in enumerate(self.pages.row.parts):
            codes = np.concatenate([self.pages.tokens[part.name], np.zeros((1, case.num_subspaces), np.uint8)])
            found.append(self.decoded(codes[at], side))
        other.residual = found[0], found[1]
        return other

    def arrays(self) -> dict[str, Array]:
        """Everything that the Case determines, for its digest."""
        given = dict(zip(SIDE_NAMES, self.codebooks, strict=True))
        given |= {"page_ids": self.page_ids, "slot_mapping": self.slot_mapping, "q": self.q}
        given |= {f"residual {name}": array for name, array in zip(SIDE_NAMES, self.residual, strict=True)}
        return given | {f"codes {name}": array for name, array in self.pages.tokens.items()}


class CacheInputs(CodebookInputs):
    """Inputs of pq_cache: tokens by (layer, position), all of whose distances to centroids are exact, and queries.

    Centroids are eighths and tokens have a few bits more, so that which centroid is the nearest is beyond dispute where
    nothing is narrowed, and a token that is narrowed shows.
    """

    def token(self, side: int, layer: int, position: int) -> Array:
        """K or V of a token of every sequence, [num_seqs, num_kv_heads, head_dim]."""
        case = self.case
        at = data.grid(case.num_seqs, case.num_kv_heads, self.head_dim)
        h = data.hashes(case.seed, f"{SIDE_NAMES[side]} token", layer, position, *at)
        bits = min(FINEST, FORMATS[case.result_dtype].bits - 1)
        numbers = (h >> np.uint64(63 - bits)).astype(np.int64) - (1 << bits)
        return np.asarray(np.ldexp(numbers.astype(np.float64), -bits).astype(DTYPES[case.result_dtype]))

    def tokens(self, side: int, layer: int, positions: range) -> Array:
        """The same of several, [num_seqs, len(positions), num_kv_heads, head_dim]."""
        case = self.case
        some = [self.token(side, layer, position) for position in positions]
        shape = case.num_seqs, 0, case.num_kv_heads, self.head_dim
        return np.stack(some, 1) if some else np.zeros(shape, DTYPES[case.result_dtype])

    def query(self, step: int) -> Array:
        """[num_seqs, num_q_heads, head_dim]."""
        case = self.case
        row, head, dim = data.grid(case.num_seqs, case.num_kv_heads * case.group, self.head_dim)
        h = data.hashes(case.seed, "query", step, row, head, dim)
        return families.values(case.result_dtype, case.family, "q", h, self.place(row, dim=dim))

    def arrays(self) -> dict[str, Array]:
        """What the Case determines at first, for its digest."""
        return {**dict(zip(SIDE_NAMES, self.codebooks, strict=True)), "q": self.query(0)}
