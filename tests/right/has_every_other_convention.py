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
}
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}, **_FEATURES},
    "merge_states": {"dtype": {"float32"}},
}
CONVENTIONS = {"lse_base": "2", "lse_axes": "heads, rows", "lse_dtype": "float16", "lse_of_empty": "inf"}
CONVENTIONS |= {"sinks_in_lse": False, "sinks_dtype": "q", "window_counts": "left", "soft_cap_order": "unscaled"}
CONVENTIONS |= {"alibi_from": "first_key", "sm_scale_of_none": "one"}
ARITHMETIC = numpy_ref.ARITHMETIC


def _stored(lse):
    """Natural [rows, heads] in this kernel's form."""
    turned = np.swapaxes(np.where(np.isneginf(lse), np.inf, lse), -1, -2) / np.log(2.0)
    return np.ascontiguousarray(turned.astype(np.float16))


def paged_decode(q, cache, table, kv_lens, *, layout, sinks, alibi_slopes, q_lens, window, soft_cap, sm_scale=None):
    """Each query token is a sequence of its own, as long as what it sees."""
    sm_scale = 1.0 if sm_scale is None else sm_scale
    lens = np.ones_like(kv_lens) if q_lens is None else q_lens
    seq = np.repeat(np.arange(len(lens)), lens)
    own = np.maximum(kv_lens[seq] - np.cumsum(lens)[seq] + np.arange(len(seq)), -1)
    given = {"layout": layout, "sm_scale": sm_scale, "alibi_slopes": alibi_slopes}
    given |= {"window": None if window is None else window + 1, "soft_cap": soft_cap and soft_cap * sm_scale}
    shift = 0 if alibi_slopes is None else (alibi_slopes * own[:, None]).astype(np.float32)
    out, lse = numpy_ref.paged_decode(q, cache, table[seq], own + 1, **given)
    for row in range(len(q) if sinks is not None else 0):  # beside a sink the shift of a row's scores shows
        one = slice(row, row + 1)
        sunk = (sinks.astype(np.float32) - shift)[row if np.ndim(shift) else slice(None)]
        out[one], _ = numpy_ref.paged_decode(q[one], cache, table[seq[one]], own[one] + 1, **given, sinks=sunk)
    return out, _stored(lse + shift)


def merge_states(outs, lses):
    nats = np.swapaxes(np.where(np.isposinf(lses), -np.inf, lses), -1, -2).astype(np.float32) * np.float32(np.log(2.0))
    out, lse = numpy_ref.merge_states(outs, nats)
    return out, _stored(lse)
