"""Operations on codes of product quantisation by the definition in float64, with the error that the profile allows.

Attention is attention over decoded keys and values and over the tokens that are not coded yet. Two other forms of the
same sum are here to be held against it: scores from a table of q against the centroids, and V by the weight that falls
on each centroid, out_m = sum_c (sum of p_j over j with code_jm = c) centroid_mc.

Source: ../specs/pq.py. That V "cannot use a table" (MILLION) is what the third form refutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.oracles import memory, paged
from kvconform.oracles.bound import Bounded, attention_bound, require_range
from kvconform.oracles.decode import LOCATE
from kvconform.oracles.memory import Cache
from kvconform.oracles.nearest import nearest
from kvconform.oracles.paged import Reading
from kvconform.oracles.verdict import Choice, Exact, Interval, Locate, by_axes
from kvconform.specs import data
from kvconform.specs.data import Array
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.lse import NATS
from kvconform.specs.pq import CodeInputs, PQInputs
from kvconform.specs.profile import Profile
from kvconform.specs.row import SIDE_NAMES, SIDES, K, V

Floats = npt.NDArray[np.float64]


# --- codes by themselves


def _coordinates(codes: tuple[int, ...]) -> tuple[dict[str, int], tuple[Array, ...]]:
    return dict(zip(("token", "head", "subspace"), codes, strict=True)), data.grid(*codes)


def stored(codes: Array, dtype: str) -> Array:
    """Codes [num_tokens, num_kv_heads, num_subspaces] as the layout of codes stores them."""
    row = LAYOUTS["codes"]
    sizes, at = _coordinates(codes.shape)
    found = {"codes": np.zeros(row.shape("codes", sizes, dtype), row.word_of("codes", dtype))}
    memory.store(row, found, row.parts[0], at, codes, sizes, dtype)
    return found["codes"]


def loaded(array: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """The codes that an array of them holds, one a byte; shape: [num_tokens, num_kv_heads, num_subspaces]."""
    row = LAYOUTS["codes"]
    sizes, at = _coordinates(shape)
    return memory.load(row, {"codes": np.ascontiguousarray(array)}, row.parts[0], at, sizes, dtype)


def expect_encode(inputs: CodeInputs, profile: Profile) -> dict[str, Choice]:
    """The codes, one a byte, that a correct encoder can choose."""
    return {"codes": nearest(inputs.x, inputs.codebooks[K], profile)}


def expect_decode(inputs: CodeInputs) -> dict[str, Exact]:
    """Centroids side by side, bit for bit."""
    return {"x": Exact(inputs.decoded(inputs.codes, K), by_axes("token", "head", "dim"))}


# --- pages of codes


@dataclass(frozen=True)
class PQReading(Reading):
    """A Reading of the pools, one (sequence, kv head) a sequence, and how attention is made of it.

    head_of         [num_q_heads] the kv head of each q head
    sm_scale        factor of q . k
    residual_first  [num_seqs] the first row of the residual that counts;  residual_lens: one behind the last
    books           the sides whose codebooks K and V are decoded with
    swaps_nibbles   whether the two codes of a byte change places
    lse_unit        nats in a unit of lse
    """

    head_of: Array = field(kw_only=True)
    sm_scale: float = field(kw_only=True)
    residual_first: Array = field(kw_only=True)
    residual_lens: Array = field(kw_only=True)
    books: tuple[int, int] = field(default=SIDES, kw_only=True)
    swaps_nibbles: bool = field(default=False, kw_only=True)
    lse_unit: float = field(default=1.0, kw_only=True)

    @staticmethod
    def right(inputs: PQInputs, conventions: Mapping[str, Any]) -> PQReading:
        """The right reading of a Case, by an implementation's conventions."""
        case = inputs.case
        lens = inputs.residual_lens.astype(np.int64)
        return PQReading(
            **vars(Reading.of(inputs.pages)),
            head_of=np.arange(case.num_kv_heads * case.group) // case.group,
            sm_scale=inputs.sm_scale,
            residual_first=np.zeros_like(lens),
            residual_lens=lens,
            lse_unit=NATS[conventions["lse_base"]],
        )


def coded(inputs: PQInputs, cache: Mapping[str, Array], reading: PQReading, side: int) -> Array:
    """The codes of all (sequence, kv head)s, one after another, [tokens, num_subspaces]."""
    pages, part = inputs.pages, reading.parts[side]
    slots = paged.slots_of(pages, reading, list(range(len(reading.lens))), side)
    at = paged.token_coordinates(pages, part, slots, reading.row)
    if reading.swaps_nibbles:
        last = pages.row.fields[part.field].line.split()[-1]
        axis = part.axes.index(last)
        at = (*at[:axis], at[axis] ^ 1, *at[axis + 1 :])
    return memory.load(reading.row, cache, part, at, pages.sizes, inputs.case.dtype)


def decoded(inputs: PQInputs, cache: Mapping[str, Array], reading: PQReading, side: int) -> Floats:
    """The numbers that they stand for, [tokens, head_dim]; of a code that has no centroid NaN."""
    book = inputs.codebooks[reading.books[side]].astype(np.float64)
    codes = coded(inputs, cache, reading, side)
    last = book.shape[1] - 1
    found = book[np.arange(len(book)), np.minimum(codes, last)]
    found[codes > last] = np.nan
    return np.asarray(found.reshape(len(codes), inputs.head_dim))


@dataclass(frozen=True)
class Batch:
    """K and V of every kv head of every sequence, [num_seqs, num_kv_heads, longest + residual, head_dim]; which of them
    are there, bool [num_seqs, num_kv_heads, longest + residual]; so many of them are codes."""

    k: Floats
    v: Floats
    there: Array
    longest: int


def batch(inputs: PQInputs, cache: Mapping[str, Array], reading: PQReading) -> Batch:
    """Decoded tokens, then those of the residual."""
    lens = np.maximum(reading.lens - reading.first, 0)
    longest = int(lens.max(initial=0))
    is_coded = np.arange(longest) < lens[:, None]
    row, heads = np.arange(inputs.case.residual), inputs.case.num_kv_heads
    is_left = (row >= reading.residual_first[:, None]) & (row < reading.residual_lens[:, None])
    there = np.concatenate([is_coded, np.repeat(is_left, heads, 0)], 1)
    sides = []
    for side in SIDES:
        numbers = np.zeros((len(lens), longest, inputs.head_dim))
        numbers[is_coded] = decoded(inputs, cache, reading, side)
        left = inputs.residual[side].astype(np.float64).swapaxes(1, 2).reshape(len(lens), len(row), inputs.head_dim)
        sides.append(np.concatenate([numbers, left], 1))
    num_seqs = len(inputs.case.kv_lens)
    k, v, live = (a.reshape(num_seqs, heads, *a.shape[1:]) for a in (*sides, there))
    return Batch(k, v, live, longest)


def rounding(profile: Profile, dtype: str, num_splits: int) -> Profile:
    """The adapter's profile, completed by the result's format and the number of splits: the residual is one more.

    Chains of additions that it declares are those of its other kernel: sums over a table, and over keys, go by length.
    """
    by_length = replace(profile, qk_depth=None, pv_depth=None)
    return replace(by_length, out_format=dtype, splits=num_splits + 1)


def expected(inputs: PQInputs, cache: Mapping[str, Array], profile: Profile, reading: PQReading) -> dict[str, Interval]:
    """What `out` and `lse` of pq_decode_attention must be. `profile` is complete (see `rounding`)."""
    found = attended(inputs, batch(inputs, cache, reading), profile, reading)
    unit = reading.lse_unit
    require_range("lse", np.abs(np.where(np.isinf(found.lse), 0.0, found.lse)) / unit, profile.lse_format)
    return {
        "out": Interval(found.out, found.out_error, profile.out_format, LOCATE["out"]),
        "lse": Interval(found.lse / unit, found.lse_error / unit, profile.lse_format, LOCATE["lse"]),
    }


def attended(inputs: PQInputs, of: Batch, profile: Profile, reading: PQReading) -> Bounded:
    """Attention of every q head over a batch, and how far a correct kernel may be from it."""
    k, v, there = (a[:, reading.head_of] for a in (of.k, of.v, of.there))
    bias = np.where(there, 0.0, -np.inf)
    return attention_bound(inputs.q, k, v, reading.sm_scale, profile, bias=bias)


# --- appending


def encoded(inputs: PQInputs, profile: Profile) -> tuple[Choice, Choice]:
    """The codes that a correct encoder can choose for K and V of append's rows."""
    k, v = (nearest((inputs.k, inputs.v)[side], inputs.codebooks[side], profile) for side in SIDES)
    return k, v


def live_slots(inputs: PQInputs) -> tuple[Array, Array]:
    """(row of append * num_kv_heads + head, slot) of everything that append writes."""
    mapping = inputs.slot_mapping.astype(np.int64).reshape(-1)
    at = np.flatnonzero(mapping >= 0)
    return at, mapping[at]


def written(inputs: PQInputs, cache: Mapping[str, Array], side: int, slots: Array) -> Array:
    """The codes that slots of a cache hold for K or V, [slots, num_subspaces]."""
    pages = inputs.pages
    part = pages.row.parts[side]
    at = paged.token_coordinates(pages, part, slots)
    return memory.load(pages.row, cache, part, at, pages.sizes, inputs.case.dtype)


def appended(inputs: PQInputs, cache: Mapping[str, Array], codes: Mapping[int, Array]) -> Cache:
    """A copy of a cache with codes in append's slots; side -> uint8 [rows * num_kv_heads that are live, subspaces]."""
    pages, (_, slots) = inputs.pages, live_slots(inputs)
    cache = {name: array.copy() for name, array in cache.items()}
    for side in SIDES:
        part = pages.row.parts[side]
        at = paged.token_coordinates(pages, part, slots)
        memory.store(pages.row, cache, part, at, codes[side], pages.sizes, inputs.case.dtype)
    return cache


def named(inputs: PQInputs, at: Array, side: int) -> Locate:
    """How an index of codes [live slots, num_subspaces] that append wrote is named; at: as `live_slots` gives it."""
    heads, where = inputs.case.num_kv_heads, by_axes("token", "head", "subspace")
    return lambda index: f"{SIDE_NAMES[side]} of " + where((*divmod(int(at[index[0]]), heads), index[1]))


# --- two other forms of the same sum


def by_table(
    inputs: PQInputs, of: Batch, reading: PQReading, codes: tuple[Array, Array], by_masses: bool = True
) -> dict[str, Floats]:
    """out and lse from a table of q against the centroids, in float64.

    codes       of K and V of every (sequence, kv head), one after another, as `coded` gives them
    by_masses   whether V comes by the weight that falls on each centroid, and is never decoded
    """
    q, heads = inputs.q.astype(np.float64), inputs.case.num_kv_heads
    books = [inputs.codebooks[side].astype(np.float64) for side in SIDES]
    subspace = np.arange(inputs.case.num_subspaces)
    out, lse = np.zeros(q.shape), np.full(q.shape[:2], -np.inf)
    starts = np.cumsum([0, *reading.lens])
    for seq, q_head in np.ndindex(*lse.shape):
        head = int(reading.head_of[q_head])
        flat = seq * heads + head
        k_codes, v_codes = (side[starts[flat] : starts[flat + 1]] for side in codes)
        table = np.einsum("md,mcd->mc", q[seq, q_head].reshape(len(subspace), -1), books[K])
        left = of.there[seq, head, of.longest :]
        k_left, v_left = (a[seq, head, of.longest :][left] for a in (of.k, of.v))
        score = reading.sm_scale * np.concatenate([table[subspace, k_codes].sum(-1), k_left @ q[seq, q_head]])
        if not len(score):
            continue
        top = score.max()
        weight = np.exp(score - top)
        lse[seq, q_head] = top + np.log(weight.sum())
        p = weight / weight.sum()
        if by_masses:
            mass = np.zeros(books[V].shape[:2])
            for m in subspace:
                np.add.at(mass[m], v_codes[:, m], p[: len(v_codes)])
            of_codes = np.einsum("mc,mcd->md", mass, books[V]).reshape(-1)
        else:
            of_codes = np.einsum("n,nd->d", p[: len(v_codes)], of.v[seq, head, : len(v_codes)])
        out[seq, q_head] = of_codes + p[len(v_codes) :] @ v_left
    return {"out": out, "lse": lse}
