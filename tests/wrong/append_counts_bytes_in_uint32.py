"""Wrong: where a token lies is counted in bytes, in an unsigned integer of 32 bits, which wraps."""

import numpy as np

NAME = "append_counts_bytes_in_uint32"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"mla"}, "dtype": {"bfloat16"}, "pool": {"dense", "sparse"}}}
IN_PLACE = {"append": "cache"}


def append(cache, k, v, slot_mapping, *, layout):
    octets = cache["kv_cache"].reshape(-1).view(np.uint8)
    live = slot_mapping >= 0
    rows = np.concatenate([k["ckv"], k["kpe"]], axis=1)[live].view(np.uint8)
    begin = (slot_mapping[live].astype(np.int64) * rows.shape[1]).astype(np.uint32)
    octets[begin[:, None] + np.arange(rows.shape[1])] = rows
    return cache
