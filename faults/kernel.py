"""Attention as a kernel computes it, in steps that a fault can take out or bend: read, mask, score, split, merge.

It is float64 throughout and rounds its results alone, so that nothing but the fault is wrong with it; without a fault
every law holds. It stands in for an implementation: same offers, same conventions, same declared arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.oracles import keys, paged
from kvconform.oracles.paged import Reading
from kvconform.specs import scales
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.operations import SCALES
from kvconform.specs.paged import PagedInputs, scale_of_none
from kvconform.specs.row import SCALE, SIDES, ZERO, V
from kvconform.specs.table import matrix

Floats = npt.NDArray[np.float64]
Bend = Callable[["Sequence", Floats], Floats]
Partials = list[tuple[Floats, Floats]]
"""(out [rows, num_q_heads, dim], lse [rows, num_q_heads]) of each split."""


@dataclass(frozen=True)
class Sequence:
    """One sequence, read and masked.

    case      of the call
    index     which one of the batch
    q         [rows, num_q_heads, dim];  k, v [num_q_heads, keys, dim], those of each q head's kv head
    own       [rows, 1, 1] the position of each query row
    seen      bool [rows, num_q_heads, keys];  slant: what is added to scores, of the same shape
    tree      bool [rows, columns] what each row sees of the query tokens, or None;  in_tree: [rows, 1, keys], of it
    sinks     [num_q_heads], or None
    sm_scale  factor of q . k;  soft_cap: None where there is none;  window, slopes: as given
    ends      where each split begins and ends
    """

    case: Case
    index: int
    q: Floats
    k: Floats
    v: Floats
    own: Array
    seen: npt.NDArray[np.bool_]
    slant: Floats
    sinks: Floats | None
    slopes: Floats | None
    sm_scale: float
    soft_cap: float | None
    window: int | None
    ends: tuple[tuple[int, int], ...]
    tree: Array | None = None
    in_tree: Array | bool = True

    @property
    def keys(self) -> Array:
        """[keys] positions."""
        return np.arange(self.k.shape[1])


def over_keys(s: Sequence, tree: Array, *, start: int | None = None, older: bool = True) -> Array:
    """bool [rows, 1, keys]: a mask of query tokens as one of keys.

    start   the key of its first column; None: of the first query token
    older   what it says of all others
    """
    column = s.keys - (s.k.shape[1] - len(s.q) if start is None else start)
    there = (column >= 0) & (column < tree.shape[1])
    return np.where(there, tree[:, np.where(there, column, 0)], older)[:, None]


def bent(s: Sequence, t: Floats) -> Floats:
    """Scaled scores under the soft cap."""
    return t if s.soft_cap is None else np.asarray(s.soft_cap * np.tanh(t / s.soft_cap))


def by_lse(parts: Partials) -> tuple[Floats, Floats]:
    """Partial results as one, each weighted by exp(lse)."""
    outs, lses = (np.stack(some) for some in zip(*parts, strict=True))
    top = lses.max(0)
    weight = np.exp(lses - np.where(np.isneginf(top), 0.0, top))
    total = weight.sum(0)
    live = ~(total <= 0)  # NaN stays NaN
    out = (weight[..., None] * outs).sum(0) / np.where(live, total, 1.0)[..., None]
    return out, np.where(live, top + np.log(np.where(live, total, 1.0)), -np.inf)


def found(case: Case, given: Mapping[str, Any]) -> tuple[tuple[Array, ...], Array]:
    """Tables of K and of V, and lengths, from a page table of any form."""
    table, lens = given["block_table"], np.asarray(given["kv_lens"]).astype(np.int64)
    if not isinstance(table, dict):
        return ((table[:, 0], table[:, 1]) if case.row.pairs_pages else (table, table)), lens
    indptr, entries = (table[name].astype(np.int64) for name in ("kv_indptr", "kv_indices"))
    counts, size = np.diff(indptr), case.page_size
    runs = [entries[start : start + count] for start, count in zip(indptr, counts, strict=False)]
    if "last_page_len" not in table:
        return (matrix([run[::size] // size for run in runs]),) * 2, counts
    last = table["last_page_len"].astype(np.int64)
    return (matrix(runs),) * 2, np.where(counts > 0, (counts - 1) * size + last, 0)


def _same(s: Sequence) -> Sequence:
    return s


def scaled(codes: Floats, beside: Mapping[str, Floats]) -> Floats:
    """Codes times their scales, plus their zeros."""
    return codes * beside.get(SCALE, 1.0) + beside.get(ZERO, 0.0)


@dataclass(frozen=True)
class Scaled:
    """Tokens of one side of one sequence that a scale is to be found for.

    case          of the call;  num_pages: of the cache
    side, scale   K or V; k_scale or v_scale, float64
    other         the scale of the other side
    seq           which sequence
    page, slot    of each token;  position: in its sequence
    """

    case: Case
    num_pages: int
    side: int
    scale: Floats
    other: Floats
    seq: int
    page: Array
    slot: Array
    position: Array

    def at(self, page: Any, slot: Any, scale: Floats | None = None) -> Array:
        """The scales of some places, [tokens, heads or 1]."""
        return scales.at(self.scale if scale is None else scale, self.case.kv_scales, page % self.num_pages, slot)


def factor_of(s: Scaled) -> Array:
    """The scale of each token's own place."""
    return s.at(s.page, s.slot)


@dataclass(frozen=True)
class Steps:
    """What a kernel does; each step may be replaced by a wrong one.

    numbers    codes of the cache, and what lies beside them -> numbers
    factor     what the numbers of some tokens are multiplied with, [tokens, heads or 1]
    finds      (case, arguments) -> tables of pages, [num_seqs, width] for K and for V, and lengths
    scale      (case, what None means by the conventions) -> the scale where none is given
    reads      arguments of the call -> arguments as they are taken;  memory: what it kept of earlier calls
    takes      a sequence -> what it is taken for
    bends      the soft cap
    slant_first  whether ALiBi is added before the soft cap
    masked     score of a masked key
    leaks      whether V of masked keys is multiplied by 0 and added
    sink_in    whether a split counts the sink
    merges     partial results -> the result
    returns    (out, lse) of one sequence -> as they are stored
    """

    numbers: Callable[[Floats, Mapping[str, Floats]], Floats] = scaled
    factor: Callable[[Scaled], Array] = factor_of
    finds: Callable[[Case, Mapping[str, Any]], tuple[tuple[Array, ...], Array]] = found
    scale: Callable[[Case, float | None], float | None] = lambda case, means: means
    reads: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda arguments, memory: arguments
    takes: Callable[[Sequence], Sequence] = _same
    bends: Bend = bent
    slant_first: bool = False
    masked: Callable[[Sequence], float] = lambda s: -np.inf
    leaks: bool = False
    sink_in: Callable[[int, Sequence], bool] = lambda split, s: split == 0
    merges: Callable[[Partials], tuple[Floats, Floats]] = by_lse
    returns: Callable[[Sequence, Floats, Floats], tuple[Floats, Floats]] = lambda s, out, lse: (out, lse)


def attend(
    case: Case, arguments: Mapping[str, Any], conventions: Mapping[str, Any], steps: Steps, memory: dict[str, Any]
) -> tuple[Floats, Floats]:
    """out [num_q_rows, num_q_heads, dim] and lse [num_q_rows, num_q_heads] in nats, of a call in the suite's terms.

    arguments   as suites/calls.py gives them, with window in keys
    """
    x = PagedInputs(case)
    given = steps.reads(dict(arguments), memory)
    tables, lens = steps.finds(case, given)
    if given.get("sm_scale") is None:
        given["sm_scale"] = steps.scale(case, scale_of_none(conventions["sm_scale_of_none"], case.head_dim))
    reading = Reading(case.row, case.row.parts, tables, lens, ())
    q_lens = given.get("q_lens")
    q_lens = np.ones(len(lens), np.int64) if q_lens is None else np.asarray(q_lens).astype(np.int64)
    starts = np.cumsum(q_lens) - q_lens
    trees = _trees(given, np.asarray(arguments["kv_lens"]), q_lens, conventions["tree_mask_form"])
    q = np.asarray(given["q"]).astype(np.float64)
    results = []
    with np.errstate(all="ignore"):
        for seq in np.flatnonzero(q_lens).tolist():
            k, v = (_read(x, given, reading, seq, side, steps) for side in SIDES)
            rows = q[starts[seq] : starts[seq] + q_lens[seq]]
            one = _in_tree(_sequence(case, seq, rows, k, v, given, conventions), trees[seq])
            out, lse = _of_sequence(one, steps)
            bare = not conventions["sinks_in_lse"] or (not len(k) and conventions["empty_with_sink"] != "sink")
            if one.sinks is not None and bare:
                lse = _of_sequence(replace(one, sinks=None), steps)[1]
            results.append((out, lse))
    if not results:
        return np.zeros((*q.shape[:2], x.width_of(V))), np.zeros(q.shape[:2])
    out, lse = (np.concatenate(some) for some in zip(*results, strict=True))
    return out, lse


def _read(x: PagedInputs, given: Mapping[str, Any], reading: Reading, seq: int, side: int, steps: Steps) -> Floats:
    """K or V of one sequence, [tokens, heads, dim]."""
    case, slots = x.case, [paged.slots_of(x, reading, [seq], one) for one in SIDES]
    found = [keys.stored(x, given["cache"], reading, part, slots) for part in x.row.attended[side]]
    rows = np.concatenate([steps.numbers(codes, beside) for codes, beside in found], -1)
    both = [given.get(name) for name in SCALES]
    if both[side] is None:
        return rows
    scale, other = (np.asarray(both[one]).astype(np.float64) for one in (side, 1 - side))
    page, slot = np.divmod(slots[side], case.page_size)
    num_pages = x.sizes["page"]
    factor = steps.factor(Scaled(case, num_pages, side, scale, other, seq, page, slot, np.arange(len(rows))))
    return rows * factor[..., None]


def _trees(given: Mapping[str, Any], kv_lens: Array, q_lens: Array, form: str) -> list[Array | None]:
    """Of each sequence the rows of the mask, a column for each query token at least; None where there is none."""
    mask = given.get("tree_mask")
    if mask is None:
        return [None] * len(q_lens)
    if form == "tree":
        return [*np.split(mask, np.cumsum(q_lens)[:-1])]
    found: list[Array | None] = []
    for rows, flat in zip(q_lens, np.split(mask, np.cumsum(q_lens * kv_lens)[:-1]), strict=True):
        keys = flat.reshape(rows, -1)[:, -rows:] if len(flat) else flat.reshape(rows, 0)
        found.append(np.pad(keys, ((0, 0), (rows - keys.shape[1], 0))))
    return found


def _in_tree(s: Sequence, tree: Array | None) -> Sequence:
    if tree is None:
        return s
    in_tree = over_keys(s, tree)
    return replace(s, tree=tree, in_tree=in_tree, seen=s.seen & in_tree)


def _sequence(
    case: Case, seq: int, q: Floats, k: Floats, v: Floats, given: Mapping[str, Any], conventions: Mapping[str, Any]
) -> Sequence:
    head_of = np.arange(q.shape[1]) // case.group
    num_keys, num_rows = len(k), len(q)
    causal, several = conventions["causal"], given.get("q_lens") is not None
    at_first = causal == "top_left" and several and given.get("tree_mask") is None
    start = 0 if at_first else num_keys - num_rows
    own: Array = start + np.arange(num_rows)[:, None, None]
    key = np.arange(num_keys)
    window, slopes, sinks = given.get("window"), given.get("alibi_slopes"), given.get("sinks")
    seen = ((key <= own) | (causal == "none")) & ((key > own - window) if window else True)
    shape = (num_rows, q.shape[1], num_keys)
    origins: dict[str, Any] = {"query": own, "last_key": num_keys - 1, "first_key": 0}
    origins |= {"first_query": start, "query_index": np.arange(num_rows)[:, None, None]}
    origin = origins[conventions["alibi_from"]]
    slant = np.zeros(shape) if slopes is None else slopes.astype(np.float64)[:, None] * (key - origin)
    num_splits = given.get("num_splits", 1)
    bounds = [num_keys * i // num_splits for i in range(num_splits + 1)]
    cap = given.get("soft_cap")
    if cap is not None and conventions["soft_cap_order"] == "unscaled":
        cap = cap * abs(given["sm_scale"])
    return Sequence(
        case=case,
        index=seq,
        q=q,
        k=k.swapaxes(0, 1)[head_of],
        v=v.swapaxes(0, 1)[head_of],
        own=own,
        seen=np.broadcast_to(seen, shape),
        slant=np.broadcast_to(slant, shape),
        sinks=None if sinks is None else sinks.astype(np.float64),
        slopes=None if slopes is None else slopes.astype(np.float64),
        sm_scale=given["sm_scale"],
        soft_cap=cap,
        window=window or None,
        ends=tuple(pairwise(bounds)),
    )


def _of_sequence(right: Sequence, steps: Steps) -> tuple[Floats, Floats]:
    s = steps.takes(right)
    scores = s.sm_scale * np.einsum("rhd,hnd->rhn", s.q, s.k)
    scores = steps.bends(s, scores + s.slant) if steps.slant_first else steps.bends(s, scores) + s.slant
    scores = np.where(s.seen, np.asarray(scores), steps.masked(s))
    parts: Partials = []
    for split, (a, b) in enumerate(s.ends):
        sinks = s.sinks if s.sinks is not None and steps.sink_in(split, s) else None
        counts = np.asarray(s.seen[..., a:b].any(0))
        values = s.v[:, a:b] if steps.leaks else np.where(counts[..., None], s.v[:, a:b], 0.0)
        parts.append(_softmax(scores[..., a:b], values, sinks))
    out, lse = steps.merges(parts) if len(parts) > 1 else parts[0]
    return steps.returns(s, out, lse)


def _softmax(scores: Floats, v: Floats, sinks: Floats | None) -> tuple[Floats, Floats]:
    """scores [rows, heads, keys], v [heads, keys, dim]: one split."""
    sink = np.full(scores.shape[:2], -np.inf) if sinks is None else np.broadcast_to(sinks, scores.shape[:2])
    top = np.maximum(scores.max(-1, initial=-np.inf), sink)
    level = np.where(np.isneginf(top), 0.0, top)
    p = np.exp(scores - level[..., None])
    total = p.sum(-1) + np.exp(sink - level)
    live = total != 0
    out = np.einsum("rhn,hnd->rhd", p, v) / np.where(live, total, 1.0)[..., None]
    return out, np.where(live, level + np.log(np.where(live, total, 1.0)), -np.inf)


def with_lens(given: dict[str, Any], change: Callable[[Array], Array]) -> dict[str, Any]:
    """Arguments with other kv_lens, which stay within the table."""
    lens = np.asarray(given["kv_lens"])
    return given | {"kv_lens": np.maximum(change(lens), 0).astype(lens.dtype)}


def in_ends(s: Sequence, change: Callable[[int, int], tuple[int, int]]) -> Sequence:
    """A sequence whose splits begin and end elsewhere, within its keys."""
    n = s.k.shape[1]
    moved = (change(a, b) for a, b in s.ends)
    return replace(s, ends=tuple((min(max(a, 0), n), min(max(b, 0), n)) for a, b in moved))
