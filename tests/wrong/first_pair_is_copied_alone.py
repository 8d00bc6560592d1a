"""Wrong: one pair is copied a call, whatever the number of pairs."""

from kvconform.impls import numpy_ref as right

NAME = "first_pair_is_copied_alone"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    return right.copy_pages(cache, page_mapping[:1], layout=layout)
