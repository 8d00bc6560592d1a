"""Wrong: where a target lies is counted in bytes, in an unsigned integer of 32 bits, which wraps; sources are right."""

import numpy as np

NAME = "copy_counts_bytes_in_uint32"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"mla"}, "dtype": {"bfloat16"}, "pool": {"dense", "sparse"}}}
IN_PLACE = {"copy_pages": "cache"}


def copy_pages(cache, page_mapping, *, layout):
    sources, targets = page_mapping.astype(np.int64).T
    octets = cache["kv_cache"].reshape(-1).view(np.uint8)
    pages = octets.reshape(len(cache["kv_cache"]), -1)[sources]
    begin = (targets * pages.shape[1]).astype(np.uint32)
    octets[begin[:, None] + np.arange(pages.shape[1])] = pages
    return cache
