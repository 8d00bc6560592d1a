"""Wrong: the columns of page_mapping are taken the other way round."""

from kvconform.impls import numpy_ref as right

NAME = "source_and_target_are_swapped"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    return right.copy_pages(cache, page_mapping[:, ::-1], layout=layout)
