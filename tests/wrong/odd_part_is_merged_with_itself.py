"""Wrong: in a tree of pairs a part without a partner meets itself, its index being clamped (O54)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "odd_part_is_merged_with_itself"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"merge_levels": 4}


def merge_states(outs, lses):
    out, level = outs.astype(np.float32), lses
    _, lse = right.merge_states(out, lses)
    for _ in range(len(outs)):
        partner = np.minimum(np.arange(0, len(out), 2) + 1, len(out) - 1)
        pairs = zip(out[0::2], out[partner], level[0::2], level[partner], strict=True)
        merged = [right.merge_states(np.stack([a, b]), np.stack([c, d])) for a, b, c, d in pairs]
        out, level = map(np.stack, zip(*merged, strict=True))
    return out[0].astype(outs.dtype), lse
