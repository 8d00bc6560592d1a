"""Wrong: where a page lies is counted in elements, in a signed integer of 32 bits, which wraps."""

import numpy as np

NAME = "copy_counts_elements_in_int32"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}}}
IN_PLACE = {"copy_pages": "cache"}


def copy_pages(cache, page_mapping, *, layout):
    flat, page = cache["codes"].reshape(-1), np.arange(cache["codes"][0].size)
    begin = (page_mapping.astype(np.int64) * page.size).astype(np.int32).astype(np.int64)
    flat[begin[:, 1:] + page] = flat[begin[:, :1] + page]
    return cache
