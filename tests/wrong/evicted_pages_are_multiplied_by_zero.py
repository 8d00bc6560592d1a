"""Wrong: a window masks scores, and V of pages that it has evicted is multiplied by 0: the null page holds NaN."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "evicted_pages_are_multiplied_by_zero"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "window": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, table, kv_lens, *, window, **options):
    out, lse = right.paged_decode(q, cache, table, kv_lens, window=window, **options)
    size, num_pages = cache["k"].shape[1], len(cache["v"])
    for seq, n in enumerate(kv_lens):
        unseen = table[seq, : max(0, n - window) // size] if window else ()
        for page in unseen:
            if 0 <= page < num_pages:
                group = np.repeat(cache["v"][page].astype(np.float32).sum(0), q.shape[1] // cache["v"].shape[2], 0)
                out[seq] += (0 * group).astype(out.dtype)
    return out, lse
