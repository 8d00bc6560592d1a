"""Wrong: lse passes through float16 (O61)."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "lse_is_stored_in_float16"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd", "hnd"},
        "dtype": {"float32", "bfloat16"},
        "kv_lens": {"max": 4096},
        "spare_pages": range(4),
    }
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, **options):
    out, lse = right.paged_decode(*arguments, **options)
    return out, lse.astype(np.float16).astype(np.float32)
