"""Attention of one sequence in numpy: float32 online softmax over tiles of keys, and the merge of partial results."""

import numpy as np

TILE = 16  # keys between two updates of the running maximum


def bias_of(num_rows, num_keys, window, slopes):
    """What is added to scores, float32 [heads or 1, rows * group or rows, keys]: ALiBi, and -inf where masked.

    The last of the rows stands at the last key. slopes [heads, group], or None; None where nothing is added at all.
    """
    if window is None and slopes is None and num_rows == 1:
        return None
    distance = np.arange(num_keys) - (num_keys - num_rows + np.arange(num_rows)[:, None])
    seen = distance <= 0 if window is None else (distance <= 0) & (distance > -window)
    if slopes is None:
        return np.where(seen, np.float32(0), np.float32(-np.inf))[None, :, None]
    slant = slopes[:, None, :, None] * distance[None, :, None].astype(np.float32)
    return np.where(seen[None, :, None], slant, np.float32(-np.inf))


def online_softmax(q, k, v, sm_scale, soft_cap=None, bias=None, sinks=None):
    """q [heads, queries, dim], k and v [keys, heads, dim], all float32: out, lse.

    bias [heads, queries, keys], sinks [heads, queries].
    """
    top = np.full(q.shape[:2], -np.inf, np.float32)
    total = np.zeros(q.shape[:2], np.float32)
    if sinks is not None:
        top, total = np.array(sinks, np.float32), np.ones(q.shape[:2], np.float32)
    out = np.zeros((*q.shape[:2], v.shape[-1]), np.float32)
    for start in range(0, len(k), TILE):
        tile = slice(start, start + TILE)
        score, values = np.einsum("hgd,nhd->hgn", q, k[tile]) * np.float32(sm_scale), v[tile]
        if soft_cap is not None:
            score = np.float32(soft_cap) * np.tanh(score / np.float32(soft_cap))
        if bias is not None:
            masked = np.isneginf(bias[..., tile])
            score = np.where(masked, bias[..., tile], score + bias[..., tile])  # a masked key may hold anything
            values = np.where(masked.all((0, 1))[:, None, None], np.float32(0), values)
        new_top = np.maximum(top, score.max(-1))
        reference = np.where(np.isneginf(new_top), np.float32(0), new_top)
        keep = np.exp(top - reference)
        p = np.exp(score - reference[..., None])
        total = total * keep + p.sum(-1)
        out = out * keep[..., None] + np.einsum("hgn,nhd->hgd", p, values)
        top = new_top
    live = total > 0
    safe = np.where(live, total, np.float32(1))
    return out / safe[..., None], np.where(live, top + np.log(safe), np.float32(-np.inf))


def merge(outs, lses):
    """float32 partials, [num_parts, ..., dim] and [num_parts, ...], weighted by exp(lse)."""
    top = lses.max(0)
    weight = np.exp(lses - np.where(np.isneginf(top), np.float32(0), top))
    total = weight.sum(0)
    safe = np.where(total > 0, total, np.float32(1))
    outs = np.where(weight[..., None] > 0, outs, np.float32(0))
    out = (weight[..., None] * outs).sum(0) / safe[..., None]
    return out, np.where(total > 0, top + np.log(safe), np.float32(-np.inf))
