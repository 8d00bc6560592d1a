"""Product quantisation in numpy: nearest centroids, pages of codes, attention from a table of q against the centroids.

Pools are read by plain reshape and transposition, a page of one (sequence, kv head) at a time, and never by the suite's
index formula.
"""

import math
from itertools import pairwise

import numpy as np

from kvconform.impls.host_kernels.pq_checks import (
    BITS,
    require_append,
    require_attention,
    require_bytes,
    require_codebooks,
    require_codes,
    require_nearest,
    require_splits,
)

TRANSPOSED = {"pq_columns": {"v"}}  # layout -> pools whose pages are [num_subspaces, page_size]
CHUNK = 1 << 22  # numbers of a table of differences


def _unpacked(array, dtype):
    """Codes one a byte: of two in a byte the low half is first."""
    if dtype == "uint8":
        return array
    halves = np.stack([array & 15, array >> 4], axis=-1)
    return halves.reshape(*array.shape[:-1], 2 * array.shape[-1])


def _packed(codes, dtype):
    return codes if dtype == "uint8" else codes[..., 0::2] | codes[..., 1::2] << 4


def _nearest(x, codebooks):
    """uint8 [rows, num_subspaces]: by the sum of squared differences in float32; argmin takes the first of several."""
    subspaces, centroids, inner = codebooks.shape
    cut, book = x.reshape(len(x), subspaces, inner).astype(np.float32), codebooks.astype(np.float32)
    codes = np.zeros((len(x), subspaces), np.uint8)
    rows = max(1, CHUNK // max(1, book.size))
    for start in range(0, len(x), rows):
        distance = np.zeros((len(cut[start : start + rows]), subspaces, centroids), np.float32)
        for dim in range(inner):
            distance += np.square(cut[start : start + rows, :, None, dim] - book[None, :, :, dim])
        codes[start : start + rows] = distance.argmin(-1)
    return codes


def encode(x, codebooks, dtype):
    require_codebooks("x", x.shape[-1], codebooks, BITS[dtype])
    require_nearest("x", x, codebooks)
    codes = _nearest(x.reshape(-1, x.shape[-1]), codebooks).reshape(*x.shape[:2], len(codebooks))
    return _packed(codes, dtype)


def _decoded(codes, codebooks):
    """[..., num_subspaces] -> [..., head_dim]."""
    found = codebooks[np.arange(len(codebooks)), codes]
    return found.reshape(*codes.shape[:-1], codebooks.shape[0] * codebooks.shape[2])


def decode(codes, codebooks, dtype):
    require_bytes("codes", codes)
    codes = _unpacked(codes, dtype)
    require_codes("codes", codes, codebooks.shape[1])
    return _decoded(codes, codebooks)


def _pages(cache, name, layout, dtype):
    """A pool as [page, slot, subspace], codes one a byte."""
    codes = _unpacked(cache[name], dtype)
    return codes.swapaxes(1, 2) if name in TRANSPOSED.get(layout, ()) else codes


def append(cache, k, v, books, slot_mapping, layout, dtype):
    for name, x, book in zip(("k", "v"), (k, v), books, strict=True):
        require_codebooks(name, x.shape[-1], book, BITS[dtype])
    require_append((k, v), books, slot_mapping, math.prod(_pages(cache, "k", layout, dtype).shape[:2]))
    live = slot_mapping >= 0
    coded = {}
    for name, x, book in zip(("k", "v"), (k, v), books, strict=True):
        pages = _pages(cache, name, layout, dtype).copy()
        page, slot = np.divmod(slot_mapping[live], pages.shape[1])
        pages[page, slot] = _nearest(x[live], book)
        coded[name] = pages
    found = {}
    for name, pages in coded.items():
        back = pages.swapaxes(1, 2) if name in TRANSPOSED.get(layout, ()) else pages
        found[name] = _packed(np.ascontiguousarray(back), dtype)
    return found


def _partial(score, values):
    """(out, lse) of some keys: score [heads, n], values [heads, n, dim]."""
    if not score.shape[-1]:
        return np.zeros((len(score), values.shape[-1]), np.float32), np.full(len(score), -np.inf, np.float32)
    top = score.max(-1, keepdims=True)
    weight = np.exp(score - top)
    total = weight.sum(-1, keepdims=True)
    return ((weight / total)[:, None] @ values)[:, 0], (top + np.log(total))[:, 0]


def _merged(parts):
    """Partial results as one, their weights divided by their own sum."""
    outs, lses = (np.stack(side) for side in zip(*parts, strict=True))
    top = lses.max(0)
    weight = np.exp(lses - np.where(np.isneginf(top), 0, top))
    total = weight.sum(0)
    with np.errstate(all="ignore"):
        out = (weight[..., None] * outs).sum(0) / total[..., None]
        return np.where(total[..., None] > 0, out, np.float32(0)), top + np.log(total)


def attend(q, cache, books, page_ids, kv_lens, residual, residual_lens, layout, dtype, sm_scale, num_splits):
    for book in books:
        require_codebooks("q", q.shape[-1], book, BITS[dtype])
    num_heads = page_ids.shape[1]
    group, dim = q.shape[1] // num_heads, q.shape[2]
    k_book, v_book = (book.astype(np.float32) for book in books)
    pools = [_pages(cache, name, layout, dtype) for name in ("k", "v")]
    size, subspace = pools[0].shape[1], np.arange(len(k_book))
    room = {"page_size": size, "num_pages": len(pools[0]), "capacity": residual[0].shape[1]}
    require_splits(num_splits)
    require_attention(page_ids, kv_lens, residual_lens, **room)
    out, lse = np.zeros(q.shape, np.float32), np.full(q.shape[:2], -np.inf, np.float32)
    for seq in range(len(q)):
        position = np.arange(kv_lens[seq])
        left = [side[seq, : residual_lens[seq]].astype(np.float32) for side in residual]
        for head in range(num_heads):
            of = slice(head * group, (head + 1) * group)
            rows = q[seq, of].astype(np.float32)
            page, slot = page_ids[seq, head][position // size], position % size
            k_codes, v_codes = (pool[page, slot] for pool in pools)
            for name, codes, book in (("K", k_codes, k_book), ("V", v_codes, v_book)):
                require_codes(f"codes of {name} of sequence {seq}, head {head},", codes, book.shape[1])
            table = np.einsum("gmd,mcd->gmc", rows.reshape(group, len(k_book), -1), k_book)
            score = np.float32(sm_scale) * table[:, subspace, k_codes].sum(-1, dtype=np.float32)
            values = _decoded(v_codes, v_book).reshape(len(position), dim)
            cuts = np.linspace(0, len(position), num_splits + 1).astype(int)
            parts = [_partial(score[:, a:b], values[None, a:b]) for a, b in pairwise(cuts)]
            of_left = np.float32(sm_scale) * (rows @ left[0][:, head].T)
            parts.append(_partial(of_left, left[1][None, :, head]))
            out[seq, of], lse[seq, of] = _merged(parts)
    return out.astype(q.dtype), lse
