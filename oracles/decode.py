"""Paged decode attention by the definition in float64, with the error that the declared profile allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from kvconform.oracles import keys, screen
from kvconform.oracles.bound import Bounded, attention_bound, require_range, unit
from kvconform.oracles.keys import Numbers
from kvconform.oracles.paged import Reading
from kvconform.oracles.verdict import Interval, Locate, by_axes
from kvconform.specs.data import FLAT, Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.lse import NATS
from kvconform.specs.paged import PagedInputs
from kvconform.specs.profile import Profile

LOCATE = {"out": by_axes("seq", "q_head", "dim"), "lse": by_axes("seq", "q_head")}
"""How an index of each result of attention is named by its axes alone, where a sequence is a row."""


def locate(inputs: PagedInputs, reading: DecodeReading) -> dict[str, Locate]:
    """How an index of each result is named: by its query token's place in its sequence, and in the cache."""

    def named(name: str) -> Locate:
        def where(index: tuple[int, ...]) -> str:
            seq = int(reading.seq_of[index[0]])
            of_seq, *inside = LOCATE[name]((seq, *index[1:])).split(", ")
            return ", ".join([of_seq, *_place(inputs, reading, index[0], seq), *inside])

        return where

    return {name: named(name) for name in LOCATE}


def _place(inputs: PagedInputs, reading: DecodeReading, row: int, seq: int) -> list[str]:
    """Where a query token stands, for people; without a key it has no position, and its number says which it is."""
    position = int(reading.lens[seq]) - 1 - int(reading.newer[row])
    if not 0 <= position < reading.lens[seq]:
        alone = np.array_equal(reading.seq_of, np.arange(len(reading.lens)))
        return [] if alone else [f"query token {row - int(np.argmax(reading.seq_of == seq))}"]
    if inputs.row.contiguous:
        return [f"position {position}"]
    page, slot = divmod(position, inputs.case.page_size)
    of = "page of K" if inputs.row.pairs_pages else "page"
    return [f"position {position} ({of} {reading.tables[0][seq, page]}, slot {slot})"]


COARSE = FORMATS["bfloat16"].unit
"""An exponential that errs by more than this is taken for none."""


@dataclass(frozen=True)
class DecodeReading(Reading):
    """A Reading, and how attention is made of it.

    head_of    [num_q_heads] the kv head of each q head
    sm_scale   factor of q . k
    seq_of     [num_q_rows] the sequence of each query row
    newer      [num_q_rows] how many keys are newer than a row's own position; below 0 where it stands behind the last
    window     keys that a row sees at most; 0: all;  one_window: counted from the newest key, for all rows
    tree       bool [num_q_rows, columns], or None: which query tokens of its sequence a row sees; all older keys, too
    tree_from  which key the first column is of: the first query token's, or the first one
    tree_alone whether a row sees no older keys beside them
    causal     whether a row sees nothing newer than itself, whatever a tree says
    soft_cap   what scaled scores are bent to; 0: they are not
    sinks      [num_q_heads] a score each, or None
    slopes     [num_q_heads], or None;  origin: where distances are counted from (convention alibi_from)
    lse_unit   nats in a unit of lse
    lse_sinks  whether lse counts the sink;  sink_of_empty: that of a sequence without keys, too
    join       how the partial results of splits become one; None: by log-sum-exp
    cut        with `join`: (kv_len, num_splits, page_size) -> where each split ends
    """

    head_of: Array
    sm_scale: float
    seq_of: Array
    newer: Array
    window: int = 0
    one_window: bool = False
    tree: Array | None = None
    tree_from: str = "first_query"
    tree_alone: bool = False
    causal: bool = True
    soft_cap: float = 0.0
    sinks: Array | None = None
    slopes: Array | None = None
    origin: str = "query"
    lse_unit: float = 1.0
    lse_sinks: bool = True
    sink_of_empty: bool = True
    join: Callable[[list[Bounded]], Bounded] | None = None
    cut: Callable[[int, int, int], list[int]] | None = None

    @staticmethod
    def right(inputs: PagedInputs, conventions: Mapping[str, Any]) -> DecodeReading:
        """The right reading of a Case, by an implementation's conventions."""
        case = inputs.case
        return DecodeReading(
            **vars(Reading.of(inputs)),
            head_of=np.arange(case.num_q_heads) // case.group,
            sm_scale=inputs.sm_scale,
            seq_of=inputs.q_rows[0],
            newer=inputs.newer(conventions["causal"]),
            causal=conventions["causal"] != "none",
            window=case.window,
            tree=inputs.tree_mask,
            soft_cap=case.soft_cap * (abs(inputs.sm_scale) if conventions["soft_cap_order"] == "unscaled" else 1.0),
            sinks=inputs.sinks_in(conventions["sinks_dtype"]),
            slopes=inputs.alibi_slopes,
            origin=conventions["alibi_from"],
            lse_unit=NATS[conventions["lse_base"]],
            lse_sinks=conventions["sinks_in_lse"],
            sink_of_empty=conventions["empty_with_sink"] == "sink",
        )

    @property
    def without_sink(self) -> Array:
        """bool [num_q_rows]: rows in whose lse no sink is counted."""
        keyless = (lens_of(self) == 0)[self.seq_of] & (not self.sink_of_empty)
        return np.asarray(keyless | (self.sinks is None) | (not self.lse_sinks))

    def _at(self, seqs: Any) -> tuple[Array, Array, Array, Array]:
        """Query rows; positions of keys, [longest]; of each row its own position, and where its keys end, [rows, 1].

        seqs   numbers of sequences, or one
        """
        rows = np.flatnonzero(np.isin(self.seq_of, seqs))
        ends = self.lens[self.seq_of[rows]][:, None].astype(np.int64)
        longest = lens_of(self)[np.atleast_1d(seqs)].max(initial=0)
        return rows, self.first + np.arange(longest), ends - 1 - self.newer[rows][:, None], ends

    def seen(self, seqs: Any) -> Array:
        """bool [rows, longest]: keys of some sequences that are there, and not masked."""
        rows, key, own, ends = self._at(seqs)
        oldest = (ends - 1 if self.one_window else own) - self.window
        seen = (key < ends) & ((key <= own) | (not self.causal)) & ((key > oldest) | (self.window == 0))
        return np.asarray(seen if self.tree is None else seen & self._in_tree(rows, key, ends))

    def _in_tree(self, rows: Array, key: Array, ends: Array) -> Array:
        """bool [rows, longest]: keys that the trees of their sequences let through."""
        assert self.tree is not None
        q_lens = np.bincount(self.seq_of)[self.seq_of[rows]][:, None]
        column = key - (ends - q_lens if self.tree_from == "first_query" else np.zeros_like(ends))
        there = (column >= 0) & (column < q_lens)  # columns behind those are of no token of this sequence
        return np.where(there, self.tree[rows[:, None], np.where(there, column, 0)], not self.tree_alone)

    def slant(self, seqs: Any) -> Array:
        """[rows, num_q_heads or 1, longest] what ALiBi adds to the scores of some sequences."""
        rows, key, own, ends = self._at(seqs)
        if self.slopes is None:
            return np.zeros((len(rows), 1, len(key)))
        _, starts, of = np.unique(self.seq_of[rows], return_index=True, return_inverse=True)
        first = own[starts][of]
        origins = {"query": own, "last_key": ends - 1, "first_key": 0 * own}
        origins |= {"first_query": first, "query_index": own - first}
        return np.asarray(self.slopes.astype(np.float64)[:, None] * (key - origins[self.origin])[:, None])

    def bias(self, seqs: Any) -> Array:
        """[rows, num_q_heads or 1, longest] what is added to scores, -inf where a key is masked, or not there."""
        return np.where(self.seen(seqs)[:, None], self.slant(seqs), -np.inf)

    def bent(self, score: Array) -> Array:
        """Scaled scores under the soft cap."""
        return np.asarray(self.soft_cap * np.tanh(score / self.soft_cap)) if self.soft_cap else score


def rounding(profile: Profile, dtype: str, **parts: Any) -> Profile:
    """The adapter's profile, completed by what the Case decides: the result's format and the number of splits."""
    return replace(profile, out_format=dtype, table_format=None, **parts)


def tree(profile: Profile, dtype: str, num_parts: int, depth: int) -> Profile:
    """The profile of `num_parts` results merged by calls, `depth` calls deep; each call stores its result."""
    one_call = profile.merge_levels or 2
    stored = {"partial_format": dtype, "partial_lse_format": profile.lse_format}
    return rounding(profile, dtype, splits=num_parts, merge_levels=one_call * depth, **stored)


def twice_merged(profile: Profile, dtype: str, num_splits: int, num_parts: int) -> Profile:
    """The profile of decoding `num_parts` parts in `num_splits` splits each, and merging once more."""
    return _merged_again(profile, dtype, num_splits, num_parts, profile.merge_levels or num_parts)


def dealt_out(profile: Profile, dtype: str, num_splits: int, num_parts: int, depth: int) -> Profile:
    """The same where the parts are merged two at a time, `depth` calls deep."""
    return _merged_again(profile, dtype, num_splits, num_parts, (profile.merge_levels or 2) * depth)


def _merged_again(profile: Profile, dtype: str, num_splits: int, num_parts: int, levels: int) -> Profile:
    """`levels` of merging beside those inside each part, whose results are stored: in the coarser of both formats."""
    inside = (profile.merge_levels or num_splits) if num_splits > 1 else 0
    stored = {"partial_format": dtype, "partial_lse_format": profile.lse_format}
    if inside:
        stored = {name: max(own, getattr(profile, name) or own, key=unit) for name, own in stored.items()}
    return rounding(profile, dtype, splits=num_splits * num_parts, merge_levels=inside + levels, **stored)


KV = tuple[Numbers, Numbers]
"""K and V of all sequences, one after another, as `keys.of_all` gives them for a cache and a reading."""


@dataclass(frozen=True)
class Attended(Bounded):
    """What attention of a batch is bounded by, one row a query token.

    likely   float64 like out: how far chance alone would take it, where that was asked for
    """

    likely: Array | None = None


def attended(
    inputs: PagedInputs, kv: KV, profile: Profile, reading: DecodeReading, *, lam: float | None = None
) -> Attended:
    """out [num_q_rows, num_q_heads, head_dim], lse [num_q_rows, num_q_heads], their errors: sequences of like length
    at once.

    lam   what the screen multiplies the root of a sum of squares with; None: there is none
    """
    row_size = inputs.case.num_q_heads * kv[1].values.shape[-1]
    groups = of_like_lengths(reading, row_size)
    parts = [_attended(inputs, kv, profile, reading, seqs, lam) for seqs in groups]
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([np.flatnonzero(np.isin(reading.seq_of, seqs)) for seqs in groups])
    return _stacked(parts, np.argsort(rows, kind="stable"))


PADDED = 1 << 17
"""Elements of zeros that sequences of one batch are padded with, at most: to bound some more costs less than another
batch does."""


def all_of(reading: DecodeReading) -> Array:
    return np.arange(len(reading.lens))


def of_like_lengths(reading: DecodeReading, row_size: int) -> list[Array]:
    """The sequences in groups that are bounded at once, so that few are padded to one that is far longer.

    row_size   elements of a key for one query row, in all its heads
    """
    lens = lens_of(reading)
    rows = np.bincount(reading.seq_of, minlength=len(lens))
    groups: list[list[int]] = []
    padded, longest = 0, 0
    for seq in np.argsort(-lens, kind="stable"):
        padded += int((longest - lens[seq]) * rows[seq]) * row_size
        if not groups or padded > PADDED:
            groups, padded, longest = [*groups, []], 0, int(lens[seq])
        groups[-1].append(int(seq))
    return [np.sort(group) for group in groups] or [all_of(reading)]


def _attended(
    inputs: PagedInputs, kv: KV, profile: Profile, reading: DecodeReading, seqs: Array, lam: float | None
) -> Attended:
    """The rows of some sequences. q heads of one kv head share its K and V."""
    k, v = batch(kv, reading, seqs)
    rows, num_q_heads = np.isin(reading.seq_of, seqs), len(reading.head_of)
    heads = (k.values.shape[1], num_q_heads // k.values.shape[1])

    def by_group(array: Array, axis: int = 1) -> Array:
        shape = array.shape[:axis], heads if array.shape[axis] == num_q_heads else (1, 1)
        return array.reshape(*shape[0], *shape[1], *array.shape[axis + 1 :])

    given: dict[str, Any] = {"k_roundings": k.roundings, "v_roundings": v.roundings}
    shared = {"k": k.values, "v": v.values, "k_magnitude": k.size, "v_magnitude": v.size}
    given |= {name: one[:, :, None] for name, one in shared.items() if one is not None}
    bias = by_group(reading.bias(seqs))
    scored: dict[str, Any] = {"sm_scale": reading.sm_scale, "bias": bias, "soft_cap": reading.soft_cap}
    bounded = partial(attention_bound, by_group(inputs.q[rows]), profile=profile, **given, **scored)
    sink = None if reading.sinks is None else by_group(np.asarray(reading.sinks), 0)
    result = bounded(sink=sink, keep_terms=lam is not None)
    likely = None if lam is None else screen.out_error(result, profile, lam)
    if sink is not None and reading.without_sink.any():
        without = bounded()
        at = reading.without_sink[rows].reshape(-1, 1, 1)
        own = {name: np.where(at, getattr(without, name), getattr(result, name)) for name in ("lse", "lse_error")}
        result = replace(result, **own)
    whole = (int(rows.sum()), num_q_heads)
    out, out_error, lse, lse_error = (
        one.reshape(*whole, *one.shape[3:]) for one in (result.out, result.out_error, result.lse, result.lse_error)
    )
    return Attended(out, out_error, lse, lse_error, likely=None if likely is None else likely.reshape(out.shape))


def lens_of(reading: DecodeReading) -> Array:
    """Keys that are read of each sequence."""
    return np.asarray(np.maximum(reading.lens - reading.first, 0))


def batch(kv: KV, reading: DecodeReading, seqs: Array) -> KV:
    """K and V that each query row and head of some sequences reads, [num_q_rows, heads, longest, dim].

    heads   of K and V, where neighbouring q heads share one of them, as many of each; else of q
    """
    lens = lens_of(reading)[seqs]
    there = np.arange(lens.max(initial=0)) < lens[:, None]
    seq_of = np.searchsorted(seqs, reading.seq_of[np.isin(reading.seq_of, seqs)])
    tokens: Any = slice(None)
    if len(seqs) < len(reading.lens):
        tokens = np.isin(np.repeat(all_of(reading), lens_of(reading)), seqs)

    def of_rows(rows: Array) -> Array:
        padded = _padded(rows[tokens], there)
        heads = padded.shape[1]
        share = np.array_equal(reading.head_of, np.arange(len(reading.head_of)) * heads // len(reading.head_of))
        for axis, which in enumerate((seq_of, np.arange(heads) if share else reading.head_of)):
            if not np.array_equal(which, np.arange(padded.shape[axis])):  # else they are as they should be: no copy
                padded = padded.take(which, axis)
        return padded

    def batched(one: Numbers) -> Numbers:
        return Numbers(of_rows(one.values), None if one.size is None else of_rows(one.size), one.roundings)

    return batched(kv[0]), batched(kv[1])


def _padded(rows: Array, there: Array) -> Array:
    """Rows of all sequences, one after another, as float64 [num_seqs, heads, longest, dim]; 0 where there is none."""
    padded = np.zeros((*there.shape, *rows.shape[1:]))
    padded[there] = rows
    return padded.swapaxes(1, 2)


def _joined(
    inputs: PagedInputs, cache: Mapping[str, Array], profile: Profile, reading: DecodeReading, seq: int
) -> Bounded:
    """One sequence whose splits are joined as the reading says."""
    assert reading.join is not None
    k, v = (one.values.swapaxes(0, 1)[reading.head_of] for one in keys.of_some(inputs, cache, reading, [seq]))
    q, bias = inputs.q[reading.seq_of == seq].astype(np.float64), reading.bias(seq)
    scored = partial(attention_bound, q, sm_scale=reading.sm_scale, profile=profile, soft_cap=reading.soft_cap)
    ends = reading.cut(k.shape[1], inputs.case.num_splits, inputs.case.page_size) if reading.cut else [k.shape[1]]
    parts = [
        scored(k[:, a:b], v[:, a:b], bias=bias[..., a:b], sink=None if a else reading.sinks)
        for a, b in zip([0, *ends], ends, strict=False)
    ]
    return reading.join(parts)


def expected(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    profile: Profile,
    reading: DecodeReading,
    *,
    screened: bool = False,
    kv: KV | None = None,
) -> dict[str, Interval]:
    """What `out` and `lse` must be (of a mistaken join: `out` at least). `profile` is complete (see `rounding`).

    screened   whether `out` is to say how far chance alone would take it (oracles/screen.py)
    kv         what the reading reads, where it was read before
    """
    if reading.join is None:
        kv = keys.of_all(inputs, cache, reading) if kv is None else kv
        lam = screen.multiple(inputs.q.size, max(reading.lens, default=0)) if screened else None
        found = attended(inputs, kv, profile, reading, lam=lam)
    else:
        found = _stacked([_joined(inputs, cache, profile, reading, seq) for seq in range(len(reading.lens))])
    unit = reading.lse_unit
    said = locate(inputs, reading)
    want = {"out": Interval(found.out, found.out_error, profile.out_format, said["out"], found.likely)}
    if reading.join is None or not np.isnan(found.lse_error).any():  # a mistaken join may leave it open
        require_range("lse", np.abs(np.where(np.isinf(found.lse), 0.0, found.lse)) / unit, profile.lse_format)
        want["lse"] = Interval(found.lse / unit, found.lse_error / unit, profile.lse_format, said["lse"])
    return want


def _stacked(parts: Sequence[Bounded], order: Any = slice(None)) -> Attended:
    """The rows of several, one after another, or in an order."""
    out, out_error, lse, lse_error = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("out", "out_error", "lse", "lse_error")
    )
    likely = [part.likely for part in parts if isinstance(part, Attended) and part.likely is not None]
    return Attended(out, out_error, lse, lse_error, likely=np.concatenate(likely)[order] if likely else None)


def required(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    profile: Profile,
    reading: DecodeReading,
    *,
    screened: bool = False,
    kv: KV | None = None,
) -> dict[str, Interval]:
    """What is expected, and exp(0) = 1: where all keys score 0, no exponential in the sum of an unsplit lse errs."""
    want = expected(inputs, cache, profile, reading, screened=screened, kv=kv)
    plain = reading.sinks is None and reading.slopes is None
    if profile.splits == 1 and not profile.max_lag and inputs.case.family == FLAT and plain:
        want["lse"] = expected(inputs, cache, replace(profile, exp_error=0.0), reading, kv=kv)["lse"]
    return want


def error_of_exp_at_0(got: Mapping[str, Array], want: Mapping[str, Interval], lse_unit: float) -> float:
    """How far exp(0) is from 1, judged by what is required where all keys score 0; 0 where that does not show.

    It shows in every lse of the call, as log exp(0), and in tiles that are rescaled, once more for each.
    """
    if "lse" not in got:
        return 0.0
    off = got["lse"].astype(np.float64) - want["lse"].want
    off = off[np.isfinite(want["lse"].want)]
    shows = want["lse"].unmet(got["lse"])[np.isfinite(want["lse"].want)]
    size = float(np.abs(off).max(initial=0.0)) * lse_unit
    return size if shows.all() and size <= COARSE else 0.0
