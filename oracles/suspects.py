"""Which key a wrong result of attention left out, read twice, or took from where no token of the sequence lives.

A row of out is a mean of values. Taking a key of weight p out of it moves the row by -p / (1 - p) (v - out); reading it
once more moves it by p / (1 + p) (v - out), and so does any other slot of the cache, with the weight that its K would
have. The row's residual is matched against each of those moves (a matched filter). A key is named only where its move
lies within the row's own bound and no other one does. Of rows that are no numbers it is told whether exp of a score
overflows. This is a hint for people and never a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvconform.oracles import keys, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.verdict import Interval
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.paged import PagedInputs
from kvconform.specs.row import SIDES, K

Floats = npt.NDArray[np.float64]

MOST_ROWS = 8
"""Wrong rows of the first wrong sequence that are looked at; a hint has to account for each of them."""


OVERFLOWS = float(np.log(FORMATS["float32"].largest))
"""Scores beyond it have no exp in float32, from which no maximum is taken away."""


@dataclass(frozen=True)
class _Moves:
    """What a row would become: out [n, dim] if the i-th suspect were at work, and its name; the last one is none.

    top   the largest score of the row
    """

    top: float
    out: Floats
    name: Callable[[int], str]


def suspect(
    inputs: PagedInputs, cache: Mapping[str, Array], reading: DecodeReading, want: Interval, got: Array
) -> str | None:
    """The one key whose omission, repetition or intrusion accounts for every wrong row looked at, or that exp overflows
    in each of them; None: neither.

    want, got   of `out`, [num_q_rows, num_q_heads, head_dim]
    """
    value = got.astype(np.float64)
    wrong = [(int(row), int(head)) for row, head in np.argwhere(want.unmet(got).any(-1))]
    rows = [(row, head) for row, head in wrong if row == wrong[0][0]][:MOST_ROWS]
    found: set[int] | None = None
    for row, head in rows:
        with np.errstate(all="ignore"):  # dead slots may hold anything
            moves = _moves(inputs, cache, reading, row, head)
        center = want.want[row, head]
        reach = want.error[row, head] + 2 * FORMATS[want.format].unit * np.abs(center)
        shifted = moves.out - moves.out[-1]  # the last one is the row as it should be
        near = np.abs(value[row, head] - (center + shifted)) <= 2 * reach + FORMATS[want.format].unit * np.abs(shifted)
        seen = np.abs(shifted) > 4 * reach  # a move that stays within the bound says nothing
        fits = set(np.flatnonzero(near.all(-1) & seen.any(-1)).tolist())
        found = fits if found is None else found & fits
    if found and len(found) == 1:
        return moves.name(found.pop())
    return _overflow(inputs, cache, reading, value, rows)


def _overflow(
    inputs: PagedInputs, cache: Mapping[str, Array], reading: DecodeReading, got: Array, wrong: list[tuple[int, int]]
) -> str | None:
    """That exp of raw scores overflows, where rows of a sequence that have such a score hold no number, since what is
    divided by infinity is none in any dim; others hold numbers alone."""
    rows = np.flatnonzero(reading.seq_of == reading.seq_of[wrong[0][0]]).tolist() if wrong else []
    others = [(row, head) for row in rows for head in range(got.shape[1]) if (row, head) not in wrong]
    top = 0.0
    for row, head in (*wrong, *others[:MOST_ROWS]):
        with np.errstate(all="ignore"):
            of_row = _moves(inputs, cache, reading, row, head).top
        numbers = np.isfinite(got[row, head])
        if numbers.any() if of_row > OVERFLOWS else not numbers.all():
            return None
        top = max(top, of_row)
    overflows = top > OVERFLOWS
    return (
        f"scores meet exp as they are: one of {top:.4g} overflows, as all beyond {OVERFLOWS:.4g} do"
        if overflows
        else None
    )


def _moves(inputs: PagedInputs, cache: Mapping[str, Array], reading: DecodeReading, row: int, head: int) -> _Moves:
    kv_head, seq = int(reading.head_of[head]), int(reading.seq_of[row])
    of_seq = row - int(np.argmax(reading.seq_of == seq))
    seen, slant = reading.seen(seq)[of_seq], reading.slant(seq)[of_seq]
    q = inputs.q[row, head].astype(np.float64)
    k, v = (_of_head(one, kv_head) for one in keys.of_some(inputs, cache, reading, [seq]))
    other = _elsewhere(inputs, seq) if reading.slopes is None else np.zeros(0, np.int64)
    slots = (other,) * len(SIDES)
    k_other, v_other = (_of_head(keys.of_tokens(inputs, cache, reading, side, slots), kv_head) for side in SIDES)
    score = reading.bent(np.concatenate([k, k_other]) @ q * reading.sm_scale)
    score[: len(k)] += slant[min(head, len(slant) - 1)]
    sink = -np.inf if reading.sinks is None else float(reading.sinks[head])
    top = max(score[: len(k)][seen].max(initial=-np.inf), sink)
    weight = np.exp(score - top)
    weight, value = np.where(np.isfinite(weight), weight, 0.0), np.concatenate([v, v_other])
    value = np.where(np.isfinite(value), value, 0.0)
    of_row = np.where(seen, weight[: len(k)], 0.0)
    total, mean = of_row.sum() + (np.exp(sink - top) if sink > -np.inf else 0.0), of_row @ value[: len(k)]
    out = mean / total if total else mean
    own, left = of_row[:, None], total - of_row[:, None]
    without = np.divide(mean - own * value[: len(k)], left, out=np.zeros_like(v), where=left > 0)
    more = total + weight[:, None]
    with_one_more = np.divide(mean + weight[:, None] * value, more, out=np.zeros_like(value), where=more > 0)

    def name(i: int) -> str:
        if i < len(k):
            return f"{_where(inputs, seq, i)} is left out"
        if i < 2 * len(k):
            i -= len(k)
            return f"{_where(inputs, seq, i)} is {'counted twice' if seen[i] else 'masked, and counted'}"
        page, slot = divmod(int(other[i - 2 * len(k)]), inputs.case.page_size)
        whose = paged.owner_of(inputs, K, int(other[i - 2 * len(k)]))
        return f"page {page}, slot {slot} ({whose}) is read as one more key of seq {seq}"

    return _Moves(float(top), np.concatenate([without, with_one_more, out[None]]), name)


def _where(inputs: PagedInputs, seq: int, position: int) -> str:
    page = inputs.tables[0][seq, position // inputs.case.page_size]
    return f"key {position} of seq {seq} (page {page}, slot {position % inputs.case.page_size})"


def _elsewhere(inputs: PagedInputs, seq: int) -> Array:
    """Slots that are not the sequence's own live ones, of pages that both K and V lie in."""
    if inputs.row.pairs_pages:
        return np.zeros(0, np.int64)
    own = inputs.slots[K][inputs.owners[0] == seq]
    return np.setdiff1d(np.arange(inputs.sizes["page"] * inputs.case.page_size), own)


def _of_head(found: keys.Numbers, kv_head: int) -> Floats:
    return found.values[:, kv_head]
