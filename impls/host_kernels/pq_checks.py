"""What operations on codes refuse of the values that they are given, whosever kernels run: in a sentence, with them.

Arrays are numpy's: a backend hands over what lies on the host, or copies. Everything is asked before anything is
written or launched.
"""

import numpy as np

from kvconform.specs.dtypes import width
from kvconform.specs.layouts import LAYOUTS

BITS = {dtype: width(dtype) for dtype in LAYOUTS["codes"].dtypes}
"""Type of codes -> bits of one."""


def require_append(given, books, slot_mapping, num_slots):
    """Tokens have a slot each, or none, and those that have one also nearest centroids.

    given, books   K and V, [num_tokens, num_kv_heads, head_dim]; codebooks of both
    """
    require_slots(slot_mapping, num_slots)
    for name, rows, book in zip("kv", given, books, strict=True):
        require_nearest(name, rows, book, slot_mapping >= 0)


def require_attention(page_ids, kv_lens, residual_lens, *, page_size, num_pages, capacity):
    """Lengths have room, and pages that hold tokens are in the pool, each owned once.

    capacity   rows of the residual
    """
    require_lengths("kv_lens", kv_lens, page_ids.shape[2] * page_size)
    require_lengths("residual_lens", residual_lens, capacity)
    require_pages(page_ids, kv_lens, page_size, num_pages)


def require_nearest(name, rows, codebooks, is_kept=None):
    """A nearest centroid for rows [num_tokens, num_kv_heads, head_dim]; what is not kept may be anything."""
    at = _first(~np.isfinite(codebooks))
    if at:
        subspace, centroid, _ = at
        raise ValueError(f"the codebooks of {name} hold {codebooks[at]} in subspace {subspace}, centroid {centroid}")
    strange = ~np.isfinite(rows)
    at = _first(strange if is_kept is None else strange & is_kept[..., None])
    if at:
        token, head, dim = at
        raise ValueError(
            f"{name} of token {token}, head {head} holds {rows[at]} at dim {dim}, of which no centroid is the nearest"
        )


def require_codes(what, codes, num_centroids, is_live=True):
    """Every code [..., num_subspaces] has a centroid; what is not live [...] may be anything."""
    at = _first((codes >= num_centroids) & np.asarray(is_live)[..., None])
    if at:
        raise ValueError(f"{what} hold {codes[at]} at {list(at)}, and there are {num_centroids} centroids")


def require_slots(slots, num_slots):
    """No slot [num_tokens, num_kv_heads] lies past the pool, and none is given to two; below 0 they are skipped."""
    at = _first(slots >= num_slots)
    if at:
        token, head = at
        raise ValueError(f"slot_mapping of token {token}, head {head} is {slots[at]}, and there are {num_slots} slots")
    twice = _twice(slots[slots >= 0])
    if twice is not None:
        raise ValueError(f"slot {twice} is given to {np.count_nonzero(slots == twice)} tokens")


def require_lengths(name, lens, room):
    """Lengths [num_seqs] are of as many tokens as there is room for."""
    at = _first((lens < 0) | (lens > room))
    if at:
        raise ValueError(f"{name} of sequence {at[0]} is {lens[at]}, and there is room for 0 to {room} tokens")


def require_pages(page_ids, kv_lens, page_size, num_pages):
    """Pages that hold tokens are in the pool, and each belongs to one (sequence, kv head)."""
    owned = np.arange(page_ids.shape[2]) < -(-kv_lens.astype(np.int64) // page_size)[:, None, None]
    there = np.broadcast_to(owned, page_ids.shape)
    at = _first(there & ((page_ids < 0) | (page_ids >= num_pages)))
    if at:
        seq, head, column = at
        raise ValueError(
            f"page_ids of sequence {seq}, head {head} has {page_ids[at]} at {column}, and the pool has "
            f"{num_pages} pages"
        )
    pages = page_ids[there]
    twice = _twice(pages)
    if twice is not None:
        raise ValueError(f"page {twice} is owned {np.count_nonzero(pages == twice)} times")


def _first(wrong):
    """The index of the first element that is, or nothing."""
    return tuple(map(int, np.unravel_index(wrong.argmax(), wrong.shape))) if wrong.any() else ()


def _twice(numbers):
    """The lowest of those that are there more than once, or None."""
    ordered = np.sort(numbers)
    found = ordered[1:][ordered[1:] == ordered[:-1]]
    return found[0] if len(found) else None


def require_splits(num_splits):
    """There is one at least."""
    if num_splits < 1:
        raise ValueError(f"num_splits is {num_splits}, and there is at least one")


# --- what arrays are, for backends that look at them no other way


def require_pools(cache, layout, dtype, page_size, num_subspaces):
    """Pools are bytes, and as large as pages of so many slots and subspaces are."""
    for name, pool in cache.items():
        sizes = {"page": pool.shape[0], "slot": page_size, "subspace": num_subspaces}
        want = list(LAYOUTS[layout].shape(name, sizes, dtype))
        require_bytes(f"codes of {name}", pool)
        if list(pool.shape) != want:
            raise ValueError(
                f"cache {name} is of shape {list(pool.shape)}, and pages of {page_size} slots and {num_subspaces} "
                f"subspaces of {dtype} are {want}"
            )


def require_bytes(what, codes):
    """Codes are stored as bytes."""
    if codes.dtype != np.uint8:
        raise TypeError(f"{what} are {codes.dtype}, not uint8")


def require_codebooks(what, width, codebooks, bits):
    """Heads of `width` numbers are cut as codebooks are, and codes of some bits count their centroids."""
    if codebooks.ndim != 3 or width != codebooks.shape[0] * codebooks.shape[2]:
        shape = list(codebooks.shape)
        raise ValueError(f"{what} of {width} numbers and codebooks {shape}: a head is num_subspaces * sub_dim numbers")
    if codebooks.shape[1] > 1 << bits:
        raise ValueError(f"{codebooks.shape[1]} centroids are more than codes of {bits} bits count")
