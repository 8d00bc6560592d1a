"""Wrong: a sequence without query tokens, as a padded batch has at its end, is given one: later rows move."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "a_sequence_without_query_tokens_has_one"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 0}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, q_lens=None, **options):
    if q_lens is not None:
        seq_of = np.repeat(np.arange(len(q_lens)), np.maximum(q_lens, 1))[: q_lens.sum()]
        q_lens = np.bincount(seq_of, minlength=len(q_lens)).astype(q_lens.dtype)
    return right.paged_decode(*arguments, q_lens=q_lens, **options)


append_decode = fused(paged_decode)
