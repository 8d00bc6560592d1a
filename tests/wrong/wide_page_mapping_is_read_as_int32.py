"""Wrong: page_mapping is taken for int32 whatever it is."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "wide_page_mapping_is_read_as_int32"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    pairs = page_mapping.view(np.int32).reshape(-1, 2)[: len(page_mapping)]
    return right.copy_pages(cache, pairs, layout=layout)
