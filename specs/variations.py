"""The same input in another form: what is changed changes the result in a way that is known without computing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kvconform.specs import data
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import PACKED, is_floating
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pq import PQInputs
from kvconform.specs.row import K, V


def _with(inputs: PagedInputs, tokens: Mapping[str, Array], q: Array) -> PagedInputs:
    """The same pages and lengths with other contents."""
    other = PagedInputs(inputs.case)
    other.tables, other.tokens, other.q, other.scales = inputs.tables, dict(tokens), q, inputs.scales
    return other


NEIGHBOURS = {"finite": "garbage", "nan": "nan", "zero": "other contents"}
"""What dead slots hold -> what `with_other_neighbours` puts into the other sequences; garbage where there is no NaN."""


def told_of_neighbours(case: Case) -> str:
    """What the other sequences of a Case get."""
    codes = case.dead == "nan" and not is_floating(case.dtype)
    return "garbage, nan in q," if codes else NEIGHBOURS[case.dead]


def with_other_neighbours(inputs: PagedInputs, seq: int, contents: str) -> PagedInputs:
    """Every sequence but one holds something else, of the same length and in the same slots.

    contents   one of NEIGHBOURS; where nothing but zeros may lie anywhere, what another seed of the Case gives
    """
    case = inputs.case
    fresh = PagedInputs(replace(case, seed=case.seed + 1)) if contents == "zero" else None
    others = np.flatnonzero(inputs.owners[0] != seq)
    tokens = {name: rows.copy() for name, rows in inputs.tokens.items()}
    q = inputs.q.copy()
    for name, rows in (*tokens.items(), ("q", q)):
        at = others if name != "q" else np.flatnonzero(inputs.q_rows[0] != seq)
        if fresh is not None:
            rows[at] = (fresh.q if name == "q" else fresh.tokens[name])[at]
            continue
        h = data.hashes(case.seed, f"other {name}", *data.grid(len(at), *rows.shape[1:]))
        worst = contents == "nan" and is_floating(rows.dtype.name)
        rows[at] = np.nan if worst else data.garbage(rows.dtype.name, h)
    return _with(inputs, tokens, q)


def with_other_codes(inputs: PQInputs, seq: int) -> PQInputs:
    """Every sequence but one has another query, other codes in its slots, and another residual of the same length."""
    case, other = inputs.case, PQInputs(inputs.case)
    others = np.arange(len(case.kv_lens)) != seq

    def changed(name: str, array: Array, at: Array) -> Array:
        h = data.hashes(case.seed, f"other {name}", *data.grid(*array.shape))
        drawn = h % np.uint64(case.num_centroids) if array.dtype == np.uint8 else data.garbage(array.dtype.name, h)
        return np.where(at[(...,) + (None,) * (array.ndim - 1)], drawn, array).astype(array.dtype)

    owner = inputs.pages.owners[0] // case.num_kv_heads
    other.pages.tokens = {n: changed(n, codes, others[owner]) for n, codes in inputs.pages.tokens.items()}
    other.q = changed("q", inputs.q, others)
    k, v = (changed(f"residual {side}", rows, others) for side, rows in enumerate(inputs.residual))
    other.residual = k, v
    return other


def with_heads_in_order(inputs: PagedInputs, order: Array) -> PagedInputs:
    """kv head i is what kv head order[i] was; each takes its q heads along."""
    tokens, at = {name: rows[:, order] for name, rows in inputs.tokens.items()}, q_heads(inputs, order)
    other = _with(inputs, tokens, inputs.q[:, at])
    other.sinks, other.alibi_slopes = (None if a is None else a[at] for a in (inputs.sinks, inputs.alibi_slopes))
    return other


def q_heads(inputs: PagedInputs, order: Array) -> Array:
    """The q heads that go with kv heads in an order."""
    group = inputs.case.group
    return (order[:, None] * group + np.arange(group)).ravel()


def with_kv_repeated(inputs: PagedInputs) -> PagedInputs:
    """A kv head to each q head, copies of those that q heads shared."""
    case, group = inputs.case, inputs.case.group
    other = PagedInputs(replace(case, num_kv_heads=case.num_q_heads, group=1))
    other.tables, other.q = inputs.tables, inputs.q
    other.tokens = {name: np.repeat(rows, group, axis=1) for name, rows in inputs.tokens.items()}
    return other


def with_lens(inputs: PagedInputs, kv_lens: Array) -> PagedInputs:
    """Other lengths in the same pages, none longer."""
    other = PagedInputs(replace(inputs.case, kv_lens=tuple(int(n) for n in kv_lens)))
    other.tables = inputs.tables
    return other


def with_v_times(inputs: PagedInputs, factor: float) -> PagedInputs:
    """V multiplied by a power of two, or by -1; codes that are no numbers become others."""
    tokens = dict(inputs.tokens)
    for part in inputs.row.attended[V]:
        packed = inputs.row.dtype_of(part, inputs.case.dtype) in PACKED
        tokens[part.name] = tokens[part.name] ^ 1 if packed else _times(tokens[part.name], factor)
    return _with(inputs, tokens, inputs.q)


def with_factor_in_q(inputs: PagedInputs, factor: float) -> PagedInputs:
    """q multiplied by a power of two, K divided by it."""
    tokens = dict(inputs.tokens)
    for part in inputs.row.attended[K]:
        tokens[part.name] = _times(tokens[part.name], 1.0 / factor)
    return _with(inputs, tokens, _times(inputs.q, factor))


def _times(array: Array, factor: float) -> Array:
    product = array.astype(np.float64) * factor
    if array.dtype.kind in "iu":
        product = np.clip(product, np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    return np.asarray(product.astype(array.dtype))
