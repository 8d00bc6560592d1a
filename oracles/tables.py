"""Readings of page tables that are not the table's, found in somebody's code or likely there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.row import K
from kvconform.specs.table import Arrays, Pages, Reader, TableError, cdiv, listed, row_runs, slices, sums
from kvconform.specs.tables import TABLES, convert


@dataclass(frozen=True)
class WrongReader:
    """A reading of a table that is not the table's, found in somebody's code or likely there.

    name     what it is called
    table    the row whose arrays it takes
    source   where it stands, and what it does
    read     (arrays, page_size) -> pages, unchecked
    """

    name: str
    table: str
    source: str
    read: Reader


def _get_seq_lens(arrays: Arrays, page_size: int) -> Array:
    lens: Array = np.maximum(np.diff(arrays["kv_indptr"]) - 1, 0) * page_size + arrays["last_page_len"]
    return lens


def _csr_of(arrays: Arrays, kv_lens: Array) -> Pages:
    indptr = arrays["kv_indptr"]
    return Pages.shared(slices(arrays["kv_indices"], indptr[:-1], np.diff(indptr)), kv_lens)


def _csr_counted(arrays: Arrays, page_size: int) -> Pages:
    kv_lens = _get_seq_lens(arrays, page_size)
    counts = cdiv(kv_lens, page_size)
    starts = arrays["kv_indptr"][0] + sums(counts)[:-1]
    return Pages.shared(slices(arrays["kv_indices"], starts, counts), kv_lens)


def _csr_on(arrays: Arrays, page_size: int) -> Pages:
    kv_lens = _get_seq_lens(arrays, page_size)
    return Pages.shared(slices(arrays["kv_indices"], arrays["kv_indptr"][:-1], cdiv(kv_lens, page_size)), kv_lens)


def _csr_unguarded(arrays: Arrays, page_size: int) -> Pages:
    lens = (np.diff(arrays["kv_indptr"]) - 1) * page_size + arrays["last_page_len"]
    return _csr_of(arrays, lens.astype(np.uint32))


def _csr_modulo(arrays: Arrays, page_size: int) -> Pages:
    lens = (np.diff(arrays["kv_indptr"]) - 1) * page_size + arrays["last_page_len"] % page_size
    return _csr_of(arrays, np.maximum(lens, 0))


def _csr_lens(arrays: Arrays, page_size: int) -> Array:
    lens: Array = np.where(np.diff(arrays["kv_indptr"]) > 0, _get_seq_lens(arrays, page_size), 0)
    return lens


def _csr_more(arrays: Arrays, page_size: int) -> Pages:
    kv_lens = _csr_lens(arrays, page_size)
    more = kv_lens + (kv_lens > 0)
    return Pages.shared(slices(arrays["kv_indices"], arrays["kv_indptr"][:-1], cdiv(more, page_size)), more)


def _csr_next(arrays: Arrays, page_size: int) -> Pages:
    kv_lens, indptr = _csr_lens(arrays, page_size), arrays["kv_indptr"]
    return Pages.shared(slices(arrays["kv_indices"], indptr[1:], np.diff(indptr)), kv_lens)


def _csr_rows(arrays: Arrays, page_size: int) -> Pages:
    kv_lens, entries = _csr_lens(arrays, page_size), arrays["kv_indices"]
    starts = np.arange(len(kv_lens)) * (len(entries) // max(1, len(kv_lens)))
    return Pages.shared(slices(entries, starts, cdiv(kv_lens, page_size)), kv_lens)


def _csr_to_the_end(arrays: Arrays, page_size: int) -> Pages:
    indptr = arrays["kv_indptr"].copy()
    indptr[-1:] = len(arrays["kv_indices"])
    taken = {**arrays, "kv_indptr": indptr}
    return _csr_of(taken, _csr_lens(taken, page_size))


def _strided(arrays: Arrays, page_size: int) -> Pages:
    kv_lens = np.diff(arrays["kv_indptr"])
    counts = cdiv(kv_lens, page_size)
    return Pages.shared(slices(arrays["kv_indices"][::page_size] // page_size, sums(counts)[:-1], counts), kv_lens)


def _at_fixed_stride(arrays: Arrays, page_size: int) -> Pages:
    entries, kv_lens = arrays["page_indices"], arrays["kv_lens"]
    starts = np.arange(len(kv_lens)) * (len(entries) // max(1, len(kv_lens)))
    return Pages.shared(slices(entries, starts, cdiv(kv_lens, page_size)), kv_lens)


def _one_behind_another(arrays: Arrays, page_size: int) -> Pages:
    counts = cdiv(arrays["kv_lens"], page_size)
    return Pages.shared(slices(arrays["page_indices"], sums(counts)[:-1], counts), arrays["kv_lens"])


def _k_for_both(arrays: Arrays, page_size: int) -> Pages:
    k = row_runs("block_table", arrays["block_table"][:, K], arrays["kv_lens"], page_size)
    return Pages.shared(k, arrays["kv_lens"])


_WRONG = (
    WrongReader(
        "get_seq_lens",
        "csr",
        "FlashInfer flashinfer/page.py, get_seq_lens: a sequence without pages has last_page_len tokens",
        lambda arrays, page_size: _csr_of(arrays, _get_seq_lens(arrays, page_size)),
    ),
    WrongReader(
        "trtllm_plan",
        "csr",
        "FlashInfer flashinfer/decode.py and prefill.py, plan for trtllm-gen without block_tables: pages are counted "
        "off kv_indices by get_seq_lens, so a sequence without pages takes the next one's; at the end torch "
        "refuses or repeats the last page",
        _csr_counted,
    ),
    WrongReader(
        "page_of_the_next",
        "csr",
        "get_seq_lens, and pages on from kv_indptr: a sequence without pages takes the first one of the next",
        _csr_on,
    ),
    WrongReader(
        "append_decode",
        "csr",
        "FlashInfer include/flashinfer/page.cuh, AppendPagedKVCacheDecodeKernel: (n - 1) * page_size + last_page_len "
        "in uint32 for n = 0 too",
        _csr_unguarded,
    ),
    WrongReader(
        "modulo_page_size",
        "csr",
        "kv_len % page_size where it is (kv_len - 1) % page_size + 1: a last page that is full has no token",
        _csr_modulo,
    ),
    WrongReader(
        "one_more",
        "csr",
        "last_page_len with a token that is not yet there, and behind a page that is full whatever index comes next",
        _csr_more,
    ),
    WrongReader(
        "next_indptr",
        "csr",
        "a row of kv_indptr too far: each sequence begins where its own pages end",
        _csr_next,
    ),
    WrongReader(
        "csr_as_rows",
        "csr",
        "a reader of [num_seqs, width], given kv_indices",
        _csr_rows,
    ),
    WrongReader(
        "to_the_end",
        "csr",
        "whoever takes the length of kv_indices for kv_indptr[-1], which it is where nothing is to spare",
        _csr_to_the_end,
    ),
    WrongReader(
        "strided_slots",
        "token_slots",
        "sglang-jax layers/attention/flashattention_backend.py, cache_loc[::page_size] // page_size: right where the "
        "slots of each sequence are filled up to whole pages, as they are there and are not here",
        _strided,
    ),
    WrongReader(
        "as_flat",
        "ragged",
        "sglang-jax ragged_paged_attention_v3.py, dynamic_validate_inputs: page p at seq * pages_per_seq + p",
        _at_fixed_stride,
    ),
    WrongReader(
        "as_ragged",
        "flat",
        "sglang-jax's reading of page_indices, given tpu-inference's",
        _one_behind_another,
    ),
    WrongReader(
        "k_for_both",
        "block_pairs",
        "a reader of [num_seqs, width], given the rows of K",
        _k_for_both,
    ),
)

WRONG_READERS: dict[str, WrongReader] = {one.name: one for one in _WRONG}


@dataclass(frozen=True)
class EmptyRow:
    """What becomes of sequences without a token.

    source, target   the tables converted between
    reader           who reads the target: empty for the row itself, else a wrong reader
    last_page_len    what csr has there for a sequence without pages; None elsewhere
    outcomes         place of the empty sequence -> `kept`, `refused: ` and why, or what is read instead
    """

    source: str
    target: str
    reader: str
    last_page_len: int | None
    outcomes: Mapping[str, str]


_PAGE_SIZE = 16
_EMPTY_AT = {"front": (0, 3, 16), "middle": (3, 0, 16), "last": (3, 16, 0), "all": (0, 0, 0)}
"""kv_lens, by the place of the empty sequences; sequence i is in page i, which every table can say."""


def empty_sequence_table() -> list[EmptyRow]:
    """What every conversion does to an empty sequence, then what wrong readers make of it; computed, not written.

    csr has 1 as its last_page_len, which its documentation asks for, and 0, which vLLM writes.
    """
    readers: list[tuple[str, str, str, Reader]] = [(a, b, "", TABLES[b].read) for a in TABLES for b in TABLES]
    readers += [(one.table, one.table, one.name, one.read) for one in _WRONG]
    found = []
    for source, target, reader, read in readers:
        for last in (1, 0) if "last_page_len" in TABLES[target].arrays else (None,):
            outcomes = {place: _outcome(source, target, lens, read, last or 0) for place, lens in _EMPTY_AT.items()}
            found.append(EmptyRow(source, target, reader, last, outcomes))
    return found


def _outcome(source: str, target: str, kv_lens: Sequence[int], read: Reader, last: int) -> str:
    said = Pages.shared(([seq] if n else [] for seq, n in enumerate(kv_lens)), kv_lens)
    try:
        arrays = TABLES[source].write(said, _PAGE_SIZE)
        got = read(convert(source, target, arrays, _PAGE_SIZE, empty_last_page_len=last), _PAGE_SIZE)
    except TableError as e:
        return f"refused: {e}"
    by_seq = [list(zip(one.k, one.v, one.kv_lens, strict=True)) for one in (said, got)]
    others = [seq for seq, n in enumerate(kv_lens) if n and by_seq[0][seq] != by_seq[1][seq]]
    empty = dict.fromkeys(n for n, was in zip(got.kv_lens, kv_lens, strict=True) if not was)
    words = "kept" if set(empty) == {0} else f"kv_len {listed(empty)}"
    return words + (f", other pages for sequence {listed(others)}" if others else "")
