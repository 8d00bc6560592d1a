"""Which slots the tokens of each sequence are in, by whatever form of page table there is: a block table, or a dict.

csr           last_page_len, kv_indptr and kv_indices: the pages of a sequence, and the tokens of its last one
token_slots   kv_indptr and kv_indices: the slot of each token
"""

import numpy as np


def slots_of(table, kv_lens, page_size, first=None):
    """Of each sequence (pages, slots) of its tokens.

    first   [num_seqs] the first token that is looked up: those before are said to be where it is; None: 0
    """
    firsts = np.zeros(len(kv_lens), int) if first is None else first
    for seq, (n, oldest) in enumerate(zip(_lens(table, kv_lens, page_size), firsts, strict=True)):
        position = np.maximum(np.arange(n), oldest)
        if not isinstance(table, dict):
            yield table[seq, position // page_size], position % page_size
        elif "last_page_len" in table:
            yield table["kv_indices"][table["kv_indptr"][seq] + position // page_size], position % page_size
        else:
            yield np.divmod(table["kv_indices"][table["kv_indptr"][seq] + position], page_size)


def _lens(table, kv_lens, page_size):
    """Tokens of each sequence, as the table says where it does."""
    if not isinstance(table, dict):
        return kv_lens
    counts = np.diff(table["kv_indptr"])
    if "last_page_len" not in table:
        return counts
    return np.where(counts > 0, (counts - 1) * page_size + table["last_page_len"], 0)
