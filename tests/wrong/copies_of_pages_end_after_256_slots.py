"""Wrong: one block of 256 threads copies a page, a slot each."""

from kvconform.impls import numpy_ref as right

NAME = "copies_of_pages_end_after_256_slots"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd"}, "dtype": {"float32", "int8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def copy_pages(cache, page_mapping, *, layout):
    copied = right.copy_pages(cache, page_mapping, layout=layout)
    for name, array in copied.items():
        array[:, 256:] = cache[name][:, 256:]
    return copied
