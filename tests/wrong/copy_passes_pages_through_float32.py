"""Wrong: page numbers pass through float32, which holds integers of 24 bits."""

import numpy as np

NAME = "copy_passes_pages_through_float32"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"code_rows"}, "pool": {"dense", "sparse"}, "page_size": {1, 3}}}
IN_PLACE = {"copy_pages": "cache"}


def copy_pages(cache, page_mapping, *, layout):
    sources, targets = page_mapping.astype(np.float32).astype(np.int64).T
    codes = cache["codes"]
    codes[np.minimum(targets, len(codes) - 1)] = codes[np.minimum(sources, len(codes) - 1)]
    return cache
