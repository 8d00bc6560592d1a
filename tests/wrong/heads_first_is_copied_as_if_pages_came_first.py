"""Wrong: a page of heads_first is copied as one run of memory, where it is one run a head."""

from kvconform.impls import numpy_ref as right

NAME = "heads_first_is_copied_as_if_pages_came_first"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"heads_first"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    runs = {name: array.reshape(array.shape[1], -1) for name, array in cache.items()}
    copied = right.copy_pages(runs, page_mapping, layout="nhd")
    return {name: array.reshape(cache[name].shape) for name, array in copied.items()}
