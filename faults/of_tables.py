"""Faults of page tables in any form, of pages that a window has evicted, of the scale that is not given, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kvconform.faults.fault import Fault
from kvconform.faults.kernel import Steps, found
from kvconform.oracles.tables import WRONG_READERS
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.table import matrix

Found = tuple[tuple[Array, ...], Array]


def _finds(name: str, finds: Callable[[Case, Mapping[str, Any]], Found], form: str, **row: Any) -> Fault:
    """A fault in where tokens are looked for, which shows in one form of page table alone."""

    def wrong(case: Case, given: Mapping[str, Any]) -> Found:
        return finds(case, given) if case.table_form == form else found(case, given)

    return Fault(name=name, steps=Steps(finds=wrong), needs={"table_form": form} | row.pop("needs", {}), **row)


def _read_by(name: str, reader: str) -> Fault:
    """What a wrong reader (oracles/tables.py) makes of its table."""
    wrong = WRONG_READERS[reader]

    def finds(case: Case, given: Mapping[str, Any]) -> Found:
        arrays = {field: array.astype(np.int64) for field, array in given["block_table"].items()}
        pages = wrong.read(arrays, case.page_size)
        return (matrix(pages.k),) * 2, np.array(pages.kv_lens, np.int64)

    return _finds(name, finds, wrong.table, source=wrong.source)


def _arrays(change: Callable[[dict[str, Array]], dict[str, Array]]) -> Callable[[Case, Mapping[str, Any]], Found]:
    """The tokens of a page table whose arrays are taken for others."""
    return lambda case, given: found(case, {**given, "block_table": change(dict(given["block_table"]))})


def _last(change: Callable[[Array], Array]) -> Callable[[Case, Mapping[str, Any]], Found]:
    return _arrays(lambda arrays: arrays | {"last_page_len": change(arrays["last_page_len"])})


def _from_the_first(case: Case, given: Mapping[str, Any]) -> Found:
    """Slots on from that of a sequence's first token, as if its pages were neighbours."""
    (table, _), lens = found(case, given)
    return (table[:, :1] + np.arange(table.shape[1]),) * 2, lens


def _of_int32(array: Array) -> Array:
    return np.ascontiguousarray(array).view(np.int32)[: len(array)] if array.itemsize == 8 else array


TABLES = (
    _read_by("full_last_page_has_no_token", "modulo_page_size"),
    _read_by("empty_sequence_has_its_last_page_len", "page_of_the_next"),
    _read_by("empty_sequence_takes_the_page_of_the_next", "trtllm_plan"),
    _read_by("indptr_is_read_a_row_too_far", "next_indptr"),
    _read_by("indices_are_read_as_rows", "csr_as_rows"),
    _read_by("surplus_belongs_to_the_last_sequence", "to_the_end"),
    _read_by("slots_are_taken_page_by_page", "strided_slots"),
    _read_by("last_page_len_is_one_more", "one_more"),
    _finds("last_page_len_is_one_less", _last(lambda last: np.maximum(last - 1, 0)), "csr"),
    _finds("last_page_len_is_that_of_the_first_sequence", _last(lambda last: np.full_like(last, last[0])), "csr"),
    _finds(
        "wide_indices_are_read_as_int32",
        _arrays(lambda arrays: arrays | {"kv_indices": _of_int32(arrays["kv_indices"])}),
        "csr",
        needs={"index_dtype": "int64"},
    ),
    _finds("slots_follow_that_of_the_first_token", _from_the_first, "token_slots"),
)


# --- pages that a window has evicted


def _compacted(arguments: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """Entries of no page are left out, and what stands behind them moves up."""
    table = arguments["block_table"]
    if isinstance(table, dict):
        return arguments
    rows = table.reshape(-1, table.shape[-1])
    moved = np.stack([np.concatenate([row[row >= 0], row[row < 0]]) for row in rows]) if len(rows) else rows
    return arguments | {"block_table": moved.reshape(table.shape)}


def _no_length(arguments: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """A sequence ends at its first entry of no page."""
    table, lens = arguments["block_table"], np.asarray(arguments["kv_lens"])
    if isinstance(table, dict) or table.ndim == 3:
        return arguments
    return arguments | {"kv_lens": np.where(table[:, 0] < 0, 0, lens).astype(lens.dtype)}


_MINUS_ONE = {"window": 3, "evicted_pages": "minus_one"}

EVICTED = (
    Fault(
        name="v_of_evicted_pages_is_multiplied_by_zero",
        steps=Steps(leaks=True),
        needs={"window": 3, "evicted_pages": "null", "dead": "nan"},
        source="O30; vLLM's null block holds whatever was written there",
    ),
    Fault(name="entries_of_no_page_are_left_out", steps=Steps(reads=_compacted), needs=_MINUS_ONE),
    Fault(name="first_entry_of_no_page_ends_a_sequence", steps=Steps(reads=_no_length), needs=_MINUS_ONE),
)


# --- the scale that is not given


def _means(choice: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda conventions: bool(conventions["sm_scale_of_none"] == choice)


SCALE = (
    Fault(
        name="scale_of_none_is_one",
        steps=Steps(scale=lambda case, means: 1.0),
        claims=_means("head_dim"),
        source="JAX's paged_attention, which has no scale, in the place of FlashAttention",
    ),
    Fault(
        name="scale_of_none_is_one_over_head_dim",
        steps=Steps(scale=lambda case, means: 1.0 / case.head_dim),
        claims=_means("head_dim"),
    ),
    Fault(
        name="scale_of_none_is_of_all_heads",
        steps=Steps(scale=lambda case, means: float((case.head_dim * case.num_q_heads) ** -0.5)),
        claims=_means("head_dim"),
        source="embed_dim ** -0.5",
    ),
    Fault(
        name="scale_of_none_is_of_head_dim",
        steps=Steps(scale=lambda case, means: float(case.head_dim**-0.5)),
        claims=_means("one"),
    ),
)

TABLE_FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*TABLES, *EVICTED, *SCALE)}
