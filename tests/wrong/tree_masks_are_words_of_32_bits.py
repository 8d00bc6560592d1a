"""Wrong: a row of a tree mask is a word of 32 bits: nodes behind the 32nd are seen by all."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "tree_masks_are_words_of_32_bits"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd"},
        "dtype": {"float32", "bfloat16"},
        "q_lens": {"min": 1},
        "tree_mask": {"none", "drawn"},
    }
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, tree_mask=None, **options):
    if tree_mask is not None:
        tree_mask = tree_mask | (np.arange(tree_mask.shape[1]) >= 32)
    return right.paged_decode(*arguments, tree_mask=tree_mask, **options)
