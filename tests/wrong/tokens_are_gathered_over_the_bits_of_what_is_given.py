"""Wrong: tokens are stored by an or with what stands where they are gathered to, which nothing has cleared."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "tokens_are_gathered_over_the_bits_of_what_is_given"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd", "code_rows"}, "dtype": {"float32", "uint8"}, "into": {"k", "v"}}}
CONVENTIONS = right.CONVENTIONS


def gather(cache, block_table, kv_lens, *, layout, k=None, v=None):
    results = right.gather(cache, block_table, kv_lens, layout=layout)
    for given, result in zip((k, v), results, strict=True):
        if given is not None:
            given.view(np.uint8)[...] |= np.ascontiguousarray(result).view(np.uint8)
    return tuple(r if given is None else given for given, r in zip((k, v), results, strict=True))
