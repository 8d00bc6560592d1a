"""Right: lse is in base 2, float16, [num_q_heads, rows], inf without keys and without sinks; the rest is other, too."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "has_every_other_convention"
BACKEND = "numpy"
_FEATURES = {
    "window": {"min": 0},
    "soft_cap": {"min": 0},
    "sinks": {"none", "drawn"},
    "alibi_slopes": {"none", "drawn"},
    "tree_mask": {"none", "drawn"},
}
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 0}, **_FEATURES},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS = {"lse_base": "2", "lse_axes": "heads, rows", "lse_dtype": "float16", "lse_of_empty": "inf"}
CONVENTIONS |= {"sinks_in_lse": False, "sinks_dtype": "q", "window_counts": "left", "soft_cap_order": "unscaled"}
CONVENTIONS |= {"alibi_from": "first_key", "tree_mask_form": "all_keys", "sm_scale_of_none": "one"}
ARITHMETIC = numpy_ref.ARITHMETIC


def _stored(lse):
    """Natural [rows, heads] in this kernel's form."""
    turned = np.swapaxes(np.where(np.isneginf(lse), np.inf, lse), -1, -2) / np.log(2.0)
    return np.ascontiguousarray(turned.astype(np.float16))


def paged_decode(
    q, cache, table, kv_lens, *, layout, sinks, alibi_slopes, q_lens, tree_mask, window, soft_cap, sm_scale=None
):
    """A sequence at a time, and beside a sink a row at a time: there the shift of its scores shows."""
    sm_scale = 1.0 if sm_scale is None else sm_scale
    lens = np.ones_like(kv_lens) if q_lens is None else q_lens
    ends, flat_ends = np.cumsum(lens), np.cumsum(lens * kv_lens)
    told = {"layout": layout, "sm_scale": sm_scale, "alibi_slopes": alibi_slopes}
    told |= {"window": None if window is None else window + 1, "soft_cap": soft_cap and soft_cap * sm_scale}
    out, lse = np.empty(q.shape, q.dtype), np.empty(q.shape[:2], np.float32)
    for seq, (size, num_keys) in enumerate(zip(lens, kv_lens, strict=True)):
        rows = slice(ends[seq] - size, ends[seq])
        if tree_mask is not None:
            of_keys = tree_mask[flat_ends[seq] - size * num_keys : flat_ends[seq]].reshape(size, num_keys)
            told["tree_mask"] = of_keys[:, num_keys - min(size, num_keys) :]
        one = (q[rows], cache, table[[seq]], kv_lens[[seq]])
        out[rows], nats = numpy_ref.paged_decode(*one, **told, q_lens=lens[[seq]])
        own = np.maximum(num_keys - size, -1) + np.arange(size)[:, None]
        shift = np.zeros_like(nats) if alibi_slopes is None else (alibi_slopes * own).astype(np.float32)
        for row in range(size if sinks is not None else 0):
            sunk, _ = numpy_ref.paged_decode(
                *one, **told, q_lens=lens[[seq]], sinks=sinks.astype(np.float32) - shift[row]
            )
            out[rows][row] = sunk[row]
        lse[rows] = nats + shift
    return out, _stored(lse)


def merge_states(outs, lses):
    nats = np.swapaxes(np.where(np.isposinf(lses), -np.inf, lses), -1, -2).astype(np.float32) * np.float32(np.log(2.0))
    out, lse = numpy_ref.merge_states(outs, nats)
    return out, _stored(lse)
