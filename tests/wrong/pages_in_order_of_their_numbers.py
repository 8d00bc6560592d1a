"""Wrong: keys are visited in the order of page numbers, so the numbers decide how sums round (R08)."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "pages_in_order_of_their_numbers"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)})
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def _keys_and_values(views, places, layout, scales):
    """Tokens in the order of their pages' numbers."""
    orders = [np.argsort(pages, kind="stable") for pages, _ in places]
    turned = [(pages[order], slots[order]) for (pages, slots), order in zip(map(tuple, places), orders, strict=True)]
    return right.keys_and_values(views, turned, layout, scales)


paged_decode = reference_with(keys_and_values=_keys_and_values).paged_decode


append_decode = fused(paged_decode)
