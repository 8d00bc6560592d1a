"""Wrong: pairs are kept by their source, so that of several targets of one source the last alone is written."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "source_is_copied_to_one_target"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    pairs = dict(page_mapping.tolist())
    kept = np.array(list(pairs.items()), page_mapping.dtype).reshape(-1, 2)
    return right.copy_pages(cache, kept, layout=layout)
