"""Right: every query token sees all keys of its sequence that its window lets through, newer ones too, and says so."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "query_tokens_see_newer_ones"
BACKEND = "numpy"
_FEATURES = {"q_lens": {"min": 0}, "window": {"min": 0}, "alibi_slopes": {"none", "drawn"}}
_FEATURES |= {"tree_mask": {"none", "drawn"}}
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, **_FEATURES}}
OFFERS |= {"merge_states": {"dtype": {"float32"}}}
CONVENTIONS = {"causal": "none", "dead": {"zero", "finite", "nan"}, "evicted_pages": {"kept", "minus_one"}}
ARITHMETIC = numpy_ref.ARITHMETIC
merge_states = numpy_ref.merge_states


def _bias(num_keys, size, window, slopes, tree):
    """[heads or 1, rows, keys]; the last query token stands at the last key."""
    distance = np.arange(num_keys) - (num_keys - size + np.arange(size)[:, None])
    seen = np.full(distance.shape, True) if window is None else distance > -window
    if tree is not None:
        new = min(size, num_keys)
        seen[:, num_keys - new :] &= tree[:, size - new : size]
    slant = np.float32(0) if slopes is None else slopes[:, None, None] * distance.astype(np.float32)
    return np.where(seen[None], slant, np.float32(-np.inf))


def paged_decode(
    q, cache, block_table, kv_lens, *, layout, sm_scale, q_lens=None, window=None, alibi_slopes=None, tree_mask=None
):
    table, lens = np.maximum(block_table, 0), np.ones_like(kv_lens) if q_lens is None else q_lens
    k, v = (rows.astype(np.float32) for rows in numpy_ref.gather(cache, table, kv_lens, layout=layout))
    k, v = (np.repeat(side, q.shape[1] // side.shape[1], 1) for side in (k, v))
    out, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    for seq, (size, num_keys) in enumerate(zip(lens, kv_lens, strict=True)):
        rows = slice(lens[:seq].sum(), lens[:seq].sum() + size)
        keys = slice(kv_lens[:seq].sum(), kv_lens[:seq].sum() + num_keys)
        bias = _bias(num_keys, size, window, alibi_slopes, None if tree_mask is None else tree_mask[rows])
        mean, total = numpy_ref._online_softmax(q[rows].swapaxes(0, 1), k[keys], v[keys], sm_scale, bias=bias)
        out[rows], lse[rows] = mean.swapaxes(0, 1), total.T
    return out, lse
