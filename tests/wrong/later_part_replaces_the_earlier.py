"""Wrong: a running merge does not rescale what it holds when a part with a larger lse comes (O67i)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "later_part_replaces_the_earlier"
BACKEND = "numpy"
OFFERS = {"merge_states": {"dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def merge_states(outs, lses):
    out, lse = outs[0], lses[0]
    for part, part_lse in zip(outs[1:], lses[1:], strict=True):
        both = right.merge_states(np.stack([out, part]), np.stack([lse, part_lse]))
        out = np.where((part_lse > lse)[..., None], part, both[0])
        lse = both[1]
    return right.merge_states(out[None], lse[None])
