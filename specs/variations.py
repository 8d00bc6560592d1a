"""The same input in another form: what is changed changes the result in a way that is known without computing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kvconform.specs import data
from kvconform.specs.data import Array
from kvconform.specs.paged import PagedInputs


def _with(inputs: PagedInputs, tokens: Mapping[str, Array], q: Array) -> PagedInputs:
    """The same pages and lengths with other contents."""
    other = PagedInputs(inputs.case)
    other.tables, other.tokens, other.q = inputs.tables, dict(tokens), q
    return other


def with_other_neighbours(inputs: PagedInputs, seq: int, contents: str) -> PagedInputs:
    """Every sequence but one holds something else, of the same length and in the same slots.

    contents   finite: garbage; nan
    """
    case = inputs.case
    others = np.flatnonzero(inputs.owners[0] != seq)
    tokens = {name: rows.copy() for name, rows in inputs.tokens.items()}
    q = inputs.q.copy()
    for name, rows in (*tokens.items(), ("q", q)):
        at = others if name != "q" else np.flatnonzero(inputs.q_rows[0] != seq)
        h = data.hashes(case.seed, f"other {name}", *data.grid(len(at), *rows.shape[1:]))
        rows[at] = np.nan if contents == "nan" else data.garbage(case.dtype, h)
    return _with(inputs, tokens, q)


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


def with_v_times(inputs: PagedInputs, factor: float) -> PagedInputs:
    """V multiplied by a power of two, or by -1."""
    tokens = dict(inputs.tokens)
    tokens["v"] = _times(tokens["v"], factor)
    return _with(inputs, tokens, inputs.q)


def with_factor_in_q(inputs: PagedInputs, factor: float) -> PagedInputs:
    """q multiplied by a power of two, K divided by it."""
    tokens = dict(inputs.tokens)
    tokens["k"] = _times(tokens["k"], 1.0 / factor)
    return _with(inputs, tokens, _times(inputs.q, factor))


def _times(array: Array, factor: float) -> Array:
    return np.asarray((array.astype(np.float64) * factor).astype(array.dtype))
