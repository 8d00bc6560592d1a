"""Right: pages and lengths come from kv_indptr, kv_indices and last_page_len, as in FlashInfer, and nothing else."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "takes_csr_alone"
BACKEND = "numpy"
_OF_READS = {"layout": {"nhd", "token_slots"}, "dtype": {"float32", "bfloat16"}, "table_form": {"csr"}}
OFFERS = {
    "append": {"layout": {"nhd", "token_slots"}, "dtype": {"float32", "bfloat16"}},
    "gather": _OF_READS,
    "paged_decode": {**_OF_READS, "window": {"min": 0}, "q_lens": {"min": 0}},
}
CONVENTIONS, ARITHMETIC = numpy_ref.CONVENTIONS, numpy_ref.ARITHMETIC

append = numpy_ref.append


def _as_rows(table, page_size):
    """A block table, and kv_lens."""
    counts, begins = np.diff(table["kv_indptr"]), table["kv_indptr"][:-1]
    rows = np.full((len(counts), max(1, counts.max())), -1)
    for row, begin, count in zip(rows, begins, counts, strict=True):
        row[:count] = table["kv_indices"][begin : begin + count]
    return rows, np.maximum((counts - 1) * page_size + table["last_page_len"], 0) * (counts > 0)


def _page_size(cache, layout):
    return 1 if layout == "token_slots" else cache["k"].shape[1]


def gather(cache, table, kv_lens, *, layout):
    return numpy_ref.gather(cache, *_as_rows(table, _page_size(cache, layout)), layout=layout)


def paged_decode(q, cache, table, kv_lens, *, layout, **options):
    return numpy_ref.paged_decode(q, cache, *_as_rows(table, _page_size(cache, layout)), layout=layout, **options)
