"""Wrong: pages of K are copied, those of V are not."""

from kvconform.impls import numpy_ref as right

NAME = "pages_of_v_are_not_copied"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    return right.copy_pages(cache, page_mapping, layout=layout) | {"v": cache["v"].copy()}
