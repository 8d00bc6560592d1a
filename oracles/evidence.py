"""What a case can show at all: which features, which pages, how small a change of a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kvconform.oracles.decode import KV, DecodeReading, batch, lens_of, of_like_lengths
from kvconform.oracles.verdict import Expected, Interval
from kvconform.specs.case import DEFAULTS, Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.features import FEATURES
from kvconform.specs.paged import PagedInputs

WITHOUT: dict[str, Mapping[str, Any]] = {
    "window": {"window": 0},
    "soft_cap": {"soft_cap": 0.0},
    "sinks": {"sinks": None},
    "alibi_slopes": {"slopes": None},
    "tree_mask": {"tree": None},
}
"""Feature -> what turns it off in a reading."""

OF_SCORES = {"soft_cap", "sinks"}
"""Features that no bias depends on."""


def features_on(case: Case) -> tuple[str, ...]:
    """The features that a Case has."""
    return tuple(name for name in FEATURES if getattr(case, name) != DEFAULTS[name])


def without(feature: str, reading: DecodeReading) -> DecodeReading:
    """A reading as if one feature were not there; without several query tokens each of them sees all keys.

    Where they do so anyhow, none of them sees what is newer than itself.
    """
    if feature == "q_lens" and not reading.causal:
        return replace(reading, causal=True)
    if feature == "q_lens":
        return replace(reading, newer=np.zeros_like(reading.newer), tree=None)
    return replace(reading, **WITHOUT[feature])


def shown(inputs: PagedInputs, kv: KV, reading: DecodeReading, want: Mapping[str, Interval]) -> tuple[str, ...]:
    """The features of a Case that show: a kernel that ignores one, and is exact otherwise, is not what is expected.

    reading   the right one;  kv: what it reads
    """
    on = features_on(inputs.case)
    if not on:
        return ()
    readings, found = {feature: without(feature, reading) for feature in on}, set[str]()
    for seqs in of_like_lengths(reading, inputs.case.num_q_heads * kv[1].values.shape[-1]):
        rows = np.isin(reading.seq_of, seqs)
        k, v = (one.values for one in batch(kv, reading, seqs))
        of_rows = {name: _of_rows(one, rows) for name, one in want.items()}
        with np.errstate(all="ignore"):
            score, bias, finite = _scores(inputs.q[rows], k, reading), reading.bias(seqs), bool(np.isfinite(v).all())
            for feature in [one for one in on if one not in found]:
                other = bias if feature in OF_SCORES else readings[feature].bias(seqs)
                got = _exact(score, other, v, readings[feature], rows, finite=finite)
                if any(one.unmet(got[name].astype(np.float32)).any() for name, one in of_rows.items()):
                    found.add(feature)
    return tuple(feature for feature in on if feature in found)


def _of_rows(one: Interval, rows: Array) -> Interval:
    """Of some query rows."""
    return replace(one, want=one.want[rows], error=one.error[rows])


def _exact(
    score: Array, bias: Array, v: Array, reading: DecodeReading, rows: Array, *, finite: bool
) -> dict[str, Array]:
    """out and lse of some query rows, without a bound; NaN where a key that is read makes them so.

    score    as `_scores` gives them;  bias: that of the reading
    v        [num_q_rows, heads, longest, dim], where as many neighbouring q heads share each
    rows     which query rows these are;  finite: whether all of v is
    """
    weight, of_sink, top = _weights(score, bias, reading)
    total = weight.sum(-1)
    # what is masked is so for every head, and weighs 0
    values = v if finite else np.where((bias != -np.inf)[:, :1, :, None], v, 0.0)
    out = _summed(weight, values) / (total + of_sink)[..., None]
    lse = top + np.log(total + np.where(reading.without_sink[rows][:, None], 0.0, of_sink))
    return {"out": np.where((total + of_sink == 0)[..., None], 0.0, out), "lse": lse / reading.lse_unit}


def _scores(q: Array, k: Array, reading: DecodeReading) -> Array:
    """Scaled scores [rows, q_heads, keys] under neither cap nor bias; k [..., heads, keys, dim]."""
    (rows, q_heads, dim), heads = q.shape, k.shape[-3]
    grouped = q.astype(np.float64).reshape(rows, heads, q_heads // heads, dim)
    return np.asarray(reading.sm_scale * np.matmul(grouped, k.swapaxes(-2, -1)).reshape(rows, q_heads, k.shape[-2]))


def _weights(score: Array, bias: Array, reading: DecodeReading) -> tuple[Array, Array, Array]:
    """e^(score - top) of keys [rows, q_heads, keys] and of the sink [rows, q_heads], and top, the greatest score.

    bias   [rows, q_heads or 1, keys]
    """
    live = bias != -np.inf
    score = np.where(live, reading.bent(score) + np.where(live, bias, 0.0), -np.inf)
    sink = np.full(score.shape[1], -np.inf) if reading.sinks is None else reading.sinks.astype(np.float64)
    top = np.maximum(score.max(-1, initial=-np.inf), sink)
    top = np.where(np.isneginf(top), 0.0, top)  # nothing is attended to
    return np.exp(score - top[..., None]), np.exp(sink - top), top


def _summed(weight: Array, v: Array) -> Array:
    """Weighted sums over keys: [rows, q_heads, keys] and [..., heads, keys, dim] -> [rows, q_heads, dim]."""
    rows, q_heads, keys = weight.shape
    heads, dim = v.shape[-3], v.shape[-1]
    return np.asarray(np.matmul(weight.reshape(rows, heads, q_heads // heads, keys), v)).reshape(rows, q_heads, dim)


def unseen_pages(inputs: PagedInputs, kv: KV, reading: DecodeReading, want: Mapping[str, Interval]) -> int:
    """How many pages a kernel that is exact otherwise may leave out unseen, of those with half their share of weight.

    reading   the right one;  kv: what it reads
    """
    lens, unseen = lens_of(reading), 0
    for seq, start in enumerate(np.cumsum(lens) - lens):
        rows = np.flatnonzero(reading.seq_of == seq)
        if lens[seq] > inputs.case.page_size and len(rows):
            k, v = (one.values[start : start + lens[seq]].swapaxes(0, 1) for one in kv)
            left, counts = _without_each_page(inputs.q[rows], k, v, reading, seq, inputs.case.page_size)
            seen = np.zeros(len(counts), bool)
            for name, got in left.items():
                if name in want:
                    seen |= _of_rows(want[name], rows).unmet(got.astype(np.float32)).reshape(len(got), -1).any(1)
            unseen += int((counts & ~seen).sum())
    return unseen


def _without_each_page(
    q: Array, k: Array, v: Array, reading: DecodeReading, seq: int, size: int
) -> tuple[dict[str, Array], Array]:
    """out [pages, rows, q_heads, dim] and lse of one sequence where a page is left out; bool [pages]: has its share.

    k, v   [heads, keys, dim]
    """
    bias, n = reading.bias(seq), k.shape[1]
    weight, of_sink, top = _weights(_scores(q, k, reading), bias, reading)
    pages, beyond = -(-n // size), -n % size
    values = np.where((bias != -np.inf)[:, :1, :, None], v, 0.0)
    values = np.pad(values, ((0, 0), (0, 0), (0, beyond), (0, 0))).reshape(*values.shape[:2], pages, size, -1)
    weight = np.pad(weight, ((0, 0), (0, 0), (0, beyond))).reshape(*weight.shape[:2], pages, size)
    grouped = weight.reshape(len(q), len(k), -1, pages, size).swapaxes(2, 3)
    sums = np.matmul(grouped, values).swapaxes(2, 3).reshape(*weight.shape[:3], -1)  # [rows, q_heads, pages, dim]
    of_page, of_sink = weight.sum(-1), of_sink[..., None]
    left = of_page.sum(-1, keepdims=True) - of_page
    counted = np.where(reading.without_sink[reading.seq_of == seq][:, None, None], 0.0, of_sink)
    with np.errstate(all="ignore"):  # where all of the weight is in one page
        out = (sums.sum(2, keepdims=True) - sums) / (left + of_sink)[..., None]
        lse = (top[..., None] + np.log(left + counted)) / reading.lse_unit
    share = (of_page >= (left + of_page + of_sink) / (2 * pages)).any((0, 1))
    return {"out": np.moveaxis(out, 2, 0), "lse": np.moveaxis(lse, 2, 0)}, share


LOOKED_AT = 499
"""Keys of a row that a typical element is told from, at most; an odd number apart, so that no page, tile or pair has
them in one place each."""


ROWS_LOOKED_AT = 5
"""Query rows of a case that a typical element is told from, at most, some way apart."""


def visible_weight(kv: KV, want: Expected, reading: DecodeReading) -> list[float]:
    """Of each q head of some query rows with two keys or more: the change of a key's weight that a typical element
    shows.

    reading   the right one;  kv: what it reads
    """
    out, tokens = want["out"], kv[1].values
    assert isinstance(out, Interval)
    seen, ends = [], np.cumsum(lens_of(reading))
    rows = np.flatnonzero(reading.lens[reading.seq_of] > 1)
    for row in rows[:: -(-len(rows) // ROWS_LOOKED_AT) or 1]:
        seq = reading.seq_of[row]
        n, end = reading.lens[seq], ends[seq]
        v = tokens[end - n : end : -(-n // LOOKED_AT) | 1].swapaxes(0, 1)[reading.head_of]
        seen += typical_step(v, out.want[row], out.error[row], out.format)
    return seen


def typical_step(v: Array, out: Array, error: Array, out_format: str) -> list[float]:
    """Per row: the change of a key's weight, as a share of all weight, that a typical element of out shows.

    v [rows, n, dim];  out, error [rows, dim]

    It is (bound + rounding of the result) / |v - out|, the key's lever on the element: the median over keys and dims.
    The least such change says little: an output that happens to be near 0 is rounded finely, and speaks for itself.
    """
    lever = np.abs(v - out[:, None])
    reach = np.broadcast_to((error + FORMATS[out_format].unit * np.abs(out))[:, None], lever.shape)
    with np.errstate(over="ignore"):
        steps = np.divide(reach, lever, out=np.full(lever.shape, np.inf), where=lever > 0).reshape(len(v), -1)
    upper = steps.shape[1] // 2  # the median, without what np.median takes care of besides
    lower = upper - (steps.shape[1] % 2 == 0)
    halves = np.partition(steps, (lower, upper), axis=1)
    return [float(x) for x in (halves[:, lower] + halves[:, upper]) / 2]
