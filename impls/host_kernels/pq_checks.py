"""What operations on codes refuse, for backends whose arrays can be looked at on the host: a sentence with the values.

Everything is asked before anything is written. Arrays are numpy's.
"""

import numpy as np


def require_vectors(what, x, codebooks, bits):
    """x [..., head_dim] can be encoded by codebooks [num_subspaces, num_centroids, sub_dim] into codes of some bits."""
    require_codebooks(what, x.shape[-1], codebooks, bits)
    require_numbers(what, x)


def require_numbers(what, x):
    """No element is NaN."""
    if np.isnan(x.astype(np.float32)).any():
        raise ValueError(f"{what} holds NaN, of which no centroid is the nearest")


def require_codebooks(what, width, codebooks, bits):
    """Heads of `width` numbers are cut as codebooks are, and codes of some bits count their centroids."""
    if codebooks.ndim != 3 or width != codebooks.shape[0] * codebooks.shape[2]:
        shape = list(codebooks.shape)
        raise ValueError(f"{what} of {width} numbers and codebooks {shape}: a head is num_subspaces * sub_dim numbers")
    if codebooks.shape[1] > 1 << bits:
        raise ValueError(f"{codebooks.shape[1]} centroids are more than codes of {bits} bits count")


def require_bytes(*pools):
    """Codes are stored as bytes."""
    for pool in pools:
        if pool.dtype != np.uint8:
            raise TypeError(f"codes are {pool.dtype}, not uint8")


def require_codes(codes, num_centroids):
    """Every code has a centroid."""
    if codes.size and codes.max() >= num_centroids:
        raise ValueError(f"code {codes.max()} of {num_centroids} centroids")


def require_slots(slots, num_slots):
    """No slot lies past the pool, and none is given to two tokens; below 0 tokens are skipped."""
    live = slots[slots >= 0]
    if live.size and live.max() >= num_slots:
        raise ValueError(f"slot {live.max()} of a pool of {num_slots} slots")
    found, counts = np.unique(live, return_counts=True)
    if found.size and counts.max() > 1:
        raise ValueError(f"slot {found[counts.argmax()]} is given to {counts.max()} tokens")


def require_pages(page_ids, kv_lens, page_size, num_pages):
    """Pages that hold tokens are in the pool, and each belongs to one (sequence, kv head)."""
    owned = -(-kv_lens.astype(np.int64) // page_size)
    if owned.size and owned.max() > page_ids.shape[2]:
        has = f"page_ids have {page_ids.shape[2]} a sequence and head"
        raise ValueError(f"kv_lens {kv_lens.max()} need {owned.max()} pages of {page_size}, {has}")
    there = np.broadcast_to(np.arange(page_ids.shape[2]) < owned[:, None, None], page_ids.shape)
    wrong = np.argwhere(there & ((page_ids < 0) | (page_ids >= num_pages)))
    if len(wrong):
        seq, head, _ = wrong[0]
        raise ValueError(
            f"page id {page_ids[tuple(wrong[0])]} of sequence {seq}, head {head}: the pool has {num_pages} pages"
        )
    found, counts = np.unique(page_ids[there], return_counts=True)
    if found.size and counts.max() > 1:
        raise ValueError(f"page {found[counts.argmax()]} is owned {counts.max()} times")


def require_residual(residual_lens, rows):
    """The residual has as many rows as are counted."""
    if residual_lens.size and residual_lens.max() > rows:
        raise ValueError(f"residual_lens has {residual_lens.max()}, more than the {rows} rows of the residual")
