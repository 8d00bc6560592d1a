"""Wrong: a page is copied in vectors of 16 bytes, and what is left of it is not."""

import numpy as np

NAME = "pages_are_copied_in_whole_vectors"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    cache = {name: array.copy() for name, array in cache.items()}
    for array in cache.values():
        octets = array.reshape(len(array), -1).view(np.uint8)
        whole = octets.shape[1] // 16 * 16
        octets[page_mapping[:, 1], :whole] = octets[page_mapping[:, 0], :whole]
    return cache
