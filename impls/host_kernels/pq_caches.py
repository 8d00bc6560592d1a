"""A page manager and a product-quantised cache that any backend can have: bookkeeping here, numbers by its own kernels.

MILLION's two caches are settings of one: `moved` == `residual` flushes all of a full residual, as its dynamic cache
does; 128 and 64 in pages of 64 are its paged one.
"""

import numpy as np

from kvconform.impls.host_kernels.pq_checks import require_nearest
from kvconform.impls.host_kernels.pq_splits import num_splits_for
from kvconform.specs.layouts import LAYOUTS


class PageManager:
    """Pages of a pool by a stack of the free ones; every operation takes the same few steps, however many there are."""

    def __init__(self, num_pages):
        self._free = list(range(num_pages))[::-1]
        self._owners = [0] * num_pages

    @property
    def num_free(self):
        """Pages that nobody owns."""
        return len(self._free)

    def allocate(self):
        """A page that nobody owned."""
        if not self._free:
            raise RuntimeError(f"none of {len(self._owners)} pages is free")
        page = self._free.pop()
        self._owners[page] = 1
        return page

    def share(self, page):
        """One more owner of a page."""
        self._require_owned(page)
        self._owners[page] += 1

    def free(self, page):
        """One owner less; the last one gives it back."""
        self._require_owned(page)
        self._owners[page] -= 1
        if not self._owners[page]:
            self._free.append(page)

    def _require_owned(self, page):
        if not 0 <= page < len(self._owners):
            raise ValueError(f"there is no page {page} of {len(self._owners)}")
        if not self._owners[page]:
            raise ValueError(f"nobody owns page {page}")


class PQCache:
    """Tokens of several layers: the oldest in pages of codes, the newest as they came.

    adapter   pq_append and pq_decode_attention; OFFERS where it takes several splits, and to_device and to_host where
              arrays are not numpy's
    """

    def __init__(
        self,
        adapter,
        k_codebooks,
        v_codebooks,
        *,
        layout,
        dtype,
        page_size,
        num_pages,
        num_layers,
        num_seqs,
        num_kv_heads,
        residual,
        moved,
    ):
        if not 0 < moved <= residual:
            raise ValueError(f"moved is {moved} of a residual of {residual}: at least 1, and no more than there are")
        self._adapter, self._books = adapter, (k_codebooks, v_codebooks)
        self._host_books = books = [self._to_host(book) for book in self._books]
        self._subspaces, _, inner = books[0].shape
        self._told = {"layout": layout, "dtype": dtype, "page_size": page_size, "num_subspaces": self._subspaces}
        self._page_size, self._residual, self._moved = page_size, residual, moved
        self._shape = (num_seqs, num_kv_heads)
        self._pages = PageManager(num_pages)
        self._ids = [np.full((*self._shape, 0), -1, np.int32) for _ in range(num_layers)]
        self._coded = [0] * num_layers
        none = np.zeros((num_seqs, 0, num_kv_heads, self._subspaces * inner), books[0].dtype)
        self._left = [(none, none) for _ in range(num_layers)]
        self._pools = self._empty_pools(num_pages)
        self._offered = getattr(adapter, "OFFERS", {}).get("pq_decode_attention", {}).get("num_splits", 1)

    def _empty_pools(self, num_pages):
        row, dtype = LAYOUTS[self._told["layout"]], self._told["dtype"]
        sizes = {"page": num_pages, "slot": self._page_size, "subspace": self._subspaces}
        return {
            name: self._to_device(np.zeros(row.shape(name, sizes, dtype), row.word_of(name, dtype)))
            for name in row.buffers
        }

    def _to_device(self, array):
        convert = getattr(self._adapter, "to_device", None)
        return convert(array) if convert else array

    def _to_host(self, handle):
        convert = getattr(self._adapter, "to_host", None)
        return np.array(convert(handle) if convert else handle)

    def num_tokens(self, layer):
        """Tokens of a layer."""
        return self._coded[layer] + self._left[layer][0].shape[1]

    def num_coded(self, layer):
        """Tokens of a layer that are codes."""
        return self._coded[layer]

    def append(self, layer, k, v):
        """Tokens [num_seqs, num_tokens, num_kv_heads, head_dim], oldest first; a full residual becomes codes."""
        k, v = (self._to_host(side) for side in (k, v))
        for name, side, book in zip("kv", (k, v), self._host_books, strict=True):
            require_nearest(name, side.reshape(-1, *side.shape[2:]), book)
        left = [np.concatenate([old, new], 1) for old, new in zip(self._left[layer], (k, v), strict=True)]
        over = left[0].shape[1] - self._residual
        count = 0 if over < 0 else (over // self._moved + 1) * self._moved
        ids = self._with_room(self._ids[layer], self._coded[layer] + count)
        if count:
            self._encode([side[:, :count] for side in left], ids, self._coded[layer])
        self._ids[layer] = ids
        self._coded[layer] += count
        self._left[layer] = tuple(side[:, count:].copy() for side in left)

    def _with_room(self, ids, num_tokens):
        """Page ids with as many pages as tokens need; none is taken where not all are to be had."""
        more = -(-num_tokens // self._page_size) - ids.shape[-1]
        needed = max(more, 0) * ids.shape[0] * ids.shape[1]
        if needed > self._pages.num_free:
            raise RuntimeError(f"codes need {needed} more pages, {self._pages.num_free} are free")
        taken = [self._pages.allocate() for _ in range(needed)]
        return np.concatenate([ids, np.array(taken, np.int32).reshape(*ids.shape[:2], max(more, 0))], -1)

    def _encode(self, sides, ids, first):
        """Write tokens [num_seqs, count, num_kv_heads, head_dim] behind the first so many."""
        _, count, num_heads, dim = sides[0].shape
        position = first + np.arange(count)
        page = ids[:, :, position // self._page_size].astype(np.int32)
        slots = (page * self._page_size + position % self._page_size).transpose(0, 2, 1)
        rows = [self._to_device(np.ascontiguousarray(side).reshape(-1, num_heads, dim)) for side in sides]
        mapping = self._to_device(np.ascontiguousarray(slots.reshape(-1, num_heads)))
        self._pools = self._adapter.pq_append(self._pools, *rows, *self._books, mapping, **self._told)

    def attend(self, layer, q, sm_scale):
        """out and lse of a query of each sequence over all tokens of a layer."""
        if not self.num_tokens(layer):
            raise ValueError(f"layer {layer} holds no tokens to attend to")
        num_seqs, _ = self._shape
        left = self._left[layer]
        lens = [np.full(num_seqs, n, np.int32) for n in (self._coded[layer], left[0].shape[1])]
        ids = self._ids[layer] if self._ids[layer].shape[-1] else np.zeros((*self._shape, 1), np.int32)
        room = ((0, 0), (0, self._residual - left[0].shape[1]), (0, 0), (0, 0))
        k, v = (self._to_device(np.pad(side, room)) for side in left)
        ids, kv_lens, left_lens = (self._to_device(np.ascontiguousarray(a)) for a in (ids, *lens))
        num_splits = num_splits_for(self._coded[layer], self._offered)
        options = {**self._told, "sm_scale": sm_scale, "num_splits": num_splits}
        coded, left = (q, self._pools, *self._books, ids, kv_lens), (k, v, left_lens)
        return self._adapter.pq_decode_attention(*coded, *left, **options)
