"""Wrong: a row's sequence is searched from the left, so that one without query tokens takes the next one's."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused

NAME = "a_row_is_of_the_first_sequence_that_begins_there"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 0}})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, q_lens=None, **options):
    if q_lens is not None:
        starts = np.cumsum(q_lens) - q_lens
        first = np.repeat(np.searchsorted(starts, starts), q_lens)
        q_lens = np.bincount(first, minlength=len(q_lens)).astype(q_lens.dtype)
    return right.paged_decode(*arguments, q_lens=q_lens, **options)


append_decode = fused(paged_decode)
