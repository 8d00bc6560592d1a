"""Wrong: a page is zeroed when it has been copied."""

from kvconform.impls import numpy_ref as right

NAME = "pages_are_moved_instead_of_copied"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    cache = right.copy_pages(cache, page_mapping, layout=layout)
    for array in cache.values():
        array[page_mapping[:, 0]] = 0
    return cache
