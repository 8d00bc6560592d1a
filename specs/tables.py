"""Page tables as data: every form in which somebody's kernels are told where a sequence's tokens lie, one row each.

A conversion reads one form and writes another; what the other cannot say it refuses (`specs/table.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.row import K
from kvconform.specs.table import (
    Arrays,
    Entry,
    Form,
    Pages,
    Table,
    TableError,
    cast,
    cdiv,
    no_size,
    own_page,
    read_block_pairs,
    read_block_table,
    read_csr,
    read_flat,
    read_none,
    read_ragged,
    read_token_slots,
    require,
    rows,
    slots_of,
    write_block_pairs,
    write_csr,
    write_ragged,
    write_token_slots,
)

_ONE_LIST = "K and V of a token in pages of different numbers"
_WHOLE = "a sequence that begins inside of a page, or leaves slots of a page out"


def _kv_lens_and(**others: Entry) -> dict[str, Entry]:
    return others | {"kv_lens": Entry("int32", ("num_seqs",), "tokens of each sequence")}


_ROWS = (
    Table(
        name="block_table",
        arrays=_kv_lens_and(block_table=Entry("int32", ("num_seqs", "width"), "pages of a sequence, then padding")),
        empty="kv_lens is 0; its row is padding",
        cannot=f"{_ONE_LIST}; {_WHOLE}",
        source="vLLM v1/worker/block_table.py; flash-attention csrc/flash_attn/flash_api.cpp, block_table; "
        "tpu-inference ragged_paged_attention/v2, page_indices [max_num_seqs, pages_per_seq]",
        writer=lambda pages, form: {"block_table": rows(pages.k, form), "kv_lens": pages.kv_lens},
        reader=read_block_table,
        sentinels="padding is the writer's choice: vLLM has 0, its null block",
    ),
    Table(
        name="csr",
        arrays={
            "last_page_len": Entry("int32", ("num_seqs",), "tokens in the last page, 1 to page_size"),
            "kv_indptr": Entry("int32", ("num_seqs + 1",), "where the pages of a sequence begin in kv_indices"),
            "kv_indices": Entry("int32", ("num_pages",), "pages, sequence after sequence"),
        },
        empty="kv_indptr[i] == kv_indptr[i + 1]; last_page_len must be 1 to page_size all the same, and means nothing",
        cannot=f"{_ONE_LIST}; {_WHOLE}; a page that holds no token yet; kv_len 0 by last_page_len",
        source="FlashInfer docs/tutorials/kv_layout.rst and include/flashinfer/page.cuh, paged_kv_t::get_length",
        writer=write_csr,
        reader=read_csr,
        sentinels="an index beyond kv_indptr[-1] reads offset 0",
    ),
    Table(
        name="token_slots",
        arrays={
            "kv_indptr": Entry("int32", ("num_seqs + 1",), "where the tokens of a sequence begin in kv_indices"),
            "kv_indices": Entry("int32", ("num_tokens",), "slot of each token, page * page_size + slot"),
        },
        empty="kv_indptr[i] == kv_indptr[i + 1]",
        cannot=_ONE_LIST,
        source="SGLang layers/attention/triton_ops/decode_attention.py, kv_indptr and kv_indices",
        writer=write_token_slots,
        reader=read_token_slots,
        of_tokens=True,
        sentinels="slot 0 takes the writes of padding tokens",
    ),
    Table(
        name="flat",
        arrays=_kv_lens_and(
            page_indices=Entry("int32", ("num_seqs * pages_per_seq",), "page p of a sequence: seq * pages_per_seq + p")
        ),
        empty="kv_lens is 0; its entries are padding. The kernel wants 0 < q_len <= kv_len of all that it visits",
        cannot=f"{_ONE_LIST}; {_WHOLE}",
        source="tpu-inference kernels/ragged_paged_attention/v3/kernel.py, page_indices and _fetch_bkv",
        writer=lambda pages, form: {"page_indices": rows(pages.k, form).ravel(), "kv_lens": pages.kv_lens},
        reader=read_flat,
        sentinels="a page beyond the pool is clamped; tpu-inference pads with 0",
    ),
    Table(
        name="ragged",
        arrays=_kv_lens_and(
            page_indices=Entry("int32", ("num_pages",), "page p of a sequence: cdiv(cu_kv_lens[seq], page_size) + p"),
            cu_kv_lens=Entry("int32", ("num_seqs + 1",), "sums of kv_lens, each rounded up to whole pages"),
        ),
        empty="kv_lens is 0 and cu_kv_lens[i] == cu_kv_lens[i + 1]",
        cannot=f"{_ONE_LIST}; {_WHOLE}",
        source="sglang-jax kernels/ragged_paged_attention/ragged_paged_attention_v3.py, start_kv_page_idx; "
        "layers/attention/flashattention_backend.py, aligned_seq_lens",
        writer=write_ragged,
        reader=read_ragged,
        sentinels="sglang-jax pads with 0",
    ),
    Table(
        name="block_pairs",
        arrays=_kv_lens_and(
            block_table=Entry("int32", ("num_seqs", "2", "width"), "pages of K, then those of V, padded each")
        ),
        empty="kv_lens is 0; both its rows are padding",
        cannot=f"{_WHOLE}; more than one beam, W in [B, W, 2, M]",
        source="TensorRT-LLM cpp/tensorrt_llm/kernels/kvCacheUtils.h, getRowPtr: seq * M * 2 + kv * M",
        writer=write_block_pairs,
        reader=read_block_pairs,
        sides=True,
        sentinels="the top bit of a page is the secondary pool, which no other table has; all ones is no page",
    ),
    Table(
        name="none",
        arrays=_kv_lens_and(),
        empty="kv_lens is 0; its page stays its own",
        cannot=f"{_ONE_LIST}; {_WHOLE}; pages that sequences share; more tokens than a page has slots",
        source="caches without pages: sequence i is page i, page_size its capacity",
        writer=lambda pages, form: {"kv_lens": pages.kv_lens},
        reader=read_none,
        limit=own_page,
    ),
)

TABLES: dict[str, Table] = {row.name: row for row in _ROWS}

FORMS = ("block_table", "csr", "token_slots")
"""Those in which the reads of a paged cache may be told its pages, the usual one first."""

KV_LENS = "kv_lens"
"""What reads are told beside the table, whether its arrays say it or not."""


def told(form: str, block_table: Array, kv_lens: Array, page_size: int, empty_last_page_len: Array) -> Any:
    """A block table as the argument of reads: itself, or the arrays of another form but for kv_lens, in its dtype.

    There are as many entries as the block table has room for. Those that no token is behind hold what the block table
    has beyond its sequences, in turn; where that is nothing, the pages that it has. -1 is no page.

    form                  one of FORMS
    empty_last_page_len   last_page_len of each sequence, were it empty
    """
    if form == FORMS[0]:
        return block_table
    row, table = TABLES[form], block_table.astype(np.int64)
    lens = kv_lens.astype(np.int64)
    counts = cdiv(lens, page_size)
    beyond = table[np.arange(table.shape[1]) >= counts[:, None]]
    padding = beyond if beyond.size or not table.size else table.ravel()
    if row.of_tokens:
        slots, most = padding[:, None] * page_size + np.arange(page_size), np.iinfo(block_table.dtype).max
        padding = np.where((padding[:, None] < 0) | (slots > most), padding[:, None], slots).ravel()
    pages = Pages.shared((run[:count] for run, count in zip(table, counts, strict=True)), lens)
    arrays = row.writer(pages, Form(page_size, padding, table.shape[1], empty_last_page_len))
    return {name: cast(name, array, str(block_table.dtype)) for name, array in arrays.items() if name != KV_LENS}


def table(name: str) -> Table:
    """A row by its name. Raises TableError where there is none."""
    if name not in TABLES:
        raise TableError(f"no page table is called {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]


def convert(source: str, target: str, arrays: Arrays, page_size: int, **form: Any) -> dict[str, Array]:
    """The same pages in another form; `form` as `Table.write` takes it. Raises TableError where something is lost."""
    return table(target).write(table(source).read(arrays, page_size), page_size, **form)


def slot_mapping(pages: Pages, page_size: int, *, side: int = K, index_dtype: str = "int64") -> Array:
    """[num_tokens]: page * page_size + slot of every token, sequence after sequence, as append takes them."""
    require(no_size(page_size) or pages.flaw(page_size))
    runs = slots_of(pages.of(side), pages.kv_lens, page_size)
    return cast("slot_mapping", [slot for run in runs for slot in run], index_dtype)
