"""Wrong: the buffers are made for eight sequences, the others of a batch are left as if they had no key (O80)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "decode_covers_eight_sequences"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "merge_states": {"dtype": {"float32", "bfloat16"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

merge_states = right.merge_states


def paged_decode(*arguments, **options):
    out, lse = right.paged_decode(*arguments, **options)
    out[8:], lse[8:] = 0, -np.inf
    return out, lse
