"""Wrong: query tokens begin as many before the end of their sequence as the longest of the batch has."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "query_tokens_end_as_in_the_longest"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "q_lens": {"min": 1}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    if q_lens is None:
        return right.paged_decode(q, cache, block_table, kv_lens, **options)
    ends = np.cumsum(q_lens)
    seen = np.minimum(kv_lens, np.maximum(kv_lens - q_lens.max(), 0) + q_lens).astype(kv_lens.dtype)
    rows = [
        right.paged_decode(q[a:b], cache, block_table[i : i + 1], seen[i : i + 1], q_lens=q_lens[i : i + 1], **options)
        for i, (a, b) in enumerate(zip(ends - q_lens, ends, strict=True))
    ]
    return tuple(map(np.concatenate, zip(*rows, strict=True)))
