"""Attention in parts as systems cut it: a prefix that sequences share, keys dealt out to ranks; merged to the whole."""

from dataclasses import replace

import numpy as np

from kvconform.oracles import decode, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.verdict import require
from kvconform.specs.cells import LONGEST
from kvconform.specs.features import alone
from kvconform.specs.inputs import inputs
from kvconform.specs.operations import ROUNDED
from kvconform.specs.paged import FAR_PAGE
from kvconform.specs.pinned import is_narrowest
from kvconform.suites.calls import attend, merged_in_a_tree
from kvconform.suites.law import law
from kvconform.suites.test_decode import parts_of, takes_parts

NEEDS = ("paged_decode:lse", "merge_states")
FAMILIES = ("plain", "sharp", "offset", "stairs_up")
"""Contents of several weights, and of parts that outweigh others."""
BEYOND = {"valid": 0, "minus_one": -1, "huge": FAR_PAGE}
"""What a table holds behind the columns that are left of it, by `table_padding`; valid: page 0, whoever's it is."""


def _is_defined(conventions):
    """Whether a row may be without keys in one part."""
    return conventions["empty_rows"] == "zero"


def _takes_parts(cell):
    """Whether parts of several pages are attended and merged; in one dtype, that which partial results lose most in."""
    size = min(cell.allowed("page_size"))
    longer = any(cell.takes(kv_lens=(n,)) for n in range(size + 1, max(LONGEST, 2 * size) + 1))
    return longer and is_narrowest(cell, ROUNDED) and takes_parts(cell) and cell.takes(num_parts=(2,))


def _shares(cell):
    """Whether a prefix of any length is attended apart, and merged."""
    return _takes_parts(cell) and cell.takes(shared_pages=(1,), shared_by=("all",))


def _columns(x, columns):
    """The block table with other columns, [num_seqs, width]; padding where there is no such column."""
    table = x.block_table
    at = columns if table.ndim == 2 else np.repeat(columns[:, None], 2, 1)
    taken = np.take_along_axis(table, np.minimum(at, table.shape[-1] - 1), -1)
    return np.where(at < table.shape[-1], taken, BEYOND[x.case.table_padding]).astype(table.dtype)


def _require_whole(subject, x, cache, profile, merged, when):
    """Raise Violation unless what was merged is attention over all keys."""
    require(merged, decode.expected(x, cache, profile, DecodeReading.right(x, subject.conventions)), when=when)


@law(
    "paged_decode",
    needs=NEEDS,
    families=FAMILIES,
    only={**alone("soft_cap", "q_lens"), "shared_pages": (1, 2), "shared_by": ("all",), "table_padding": tuple(BEYOND)},
    rows=lambda row: not row.contiguous,
    wants=_is_defined,
    cells=_shares,
)
def test_a_shared_prefix_and_suffixes_merge_to_the_whole(subject, case):
    """Cascade: each query row over the pages that sequences share, and over its own suffix, merged, is the whole."""
    # query tokens that are sequences of their own would be a shape of their own; at the first keys they see no suffix
    if case.capacity or subject.conventions["causal"] == "top_left":
        case = replace(case, q_lens=())
    x = inputs(case)
    lens, pages = x.kv_lens.astype(np.int64), np.array(x.num_shared)
    last = np.maximum(lens - np.array(case.q_lens), 0) if case.q_lens else lens  # so many keys every query token sees
    pages = np.minimum(pages, last // case.page_size)
    pages[:1] = max(pages[1:], default=0)
    pages[:1] = np.minimum(pages[:1], last[:1] // case.page_size)
    prefix = (pages * case.page_size).astype(x.kv_lens.dtype)
    seq_of, _ = x.q_rows
    if np.count_nonzero(prefix[np.unique(seq_of)]) < 2:
        subject.saw_nothing()
        return
    cache = paged.filled(x, case.dead)
    column = np.arange(x.block_table.shape[-1])
    calls = (
        {"block_table": x.block_table[seq_of], "kv_lens": prefix[seq_of], "q_lens": None},
        {"block_table": _columns(x, column + pages[:, None]), "kv_lens": x.kv_lens - prefix},
    )
    parts = [attend(subject, case, cache, **changed) for changed in calls]
    outs, lses = (np.stack([part[name] for part in parts]) for name in ("out", "lse"))
    merged = subject.call(case, "merge_states", outs=outs, lses=lses)
    profile = decode.twice_merged(subject.profile(case.result_dtype), case.result_dtype, case.num_splits, len(parts))
    _require_whole(subject, x, cache, profile, merged, "of a shared prefix and suffixes merged")


@law(
    "paged_decode",
    needs=NEEDS,
    families=FAMILIES,
    only={**alone("soft_cap"), "table_padding": tuple(BEYOND)},
    rows=lambda row: not row.contiguous,
    wants=_is_defined,
    cells=_takes_parts,
)
def test_pages_dealt_out_to_ranks_merge_to_the_whole(subject, case):
    """Context parallelism: each rank over every so many-th page, merged two by two in a drawn order, is the whole."""
    x = inputs(case)
    size, num_ranks = case.page_size, parts_of(static=bool(case.capacity))
    if max(case.kv_lens, default=0) <= size:
        subject.saw_nothing()
        return
    cache, column = paged.filled(x, case.dead), np.arange(x.block_table.shape[-1])
    parts = []
    for rank in range(num_ranks):
        at = np.broadcast_to(rank + num_ranks * column, (len(case.kv_lens), len(column)))
        lens = np.clip(x.kv_lens[:, None] - at * size, 0, size).sum(1).astype(x.kv_lens.dtype)
        parts.append(attend(subject, case, cache, block_table=_columns(x, at), kv_lens=lens))
    merged, depth = merged_in_a_tree(subject, case, [(part["out"], part["lse"]) for part in parts])
    profile = decode.dealt_out(subject.profile(case.result_dtype), case.result_dtype, case.num_splits, num_ranks, depth)
    _require_whole(subject, x, cache, profile, merged, f"of {num_ranks} ranks in a tree {depth} merges deep")
