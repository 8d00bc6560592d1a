"""Wrong: rows and heads of out are written where those of q would be, by the strides of q."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "out_has_the_strides_of_q"
BACKEND = "numpy"
OFFERS = {
    "paged_decode": {
        "layout": {"nhd"},
        "dtype": {"float32", "bfloat16"},
        "into": {"out"},
        "strides": {"contiguous", "outer"},
    }
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *arguments, out=None, **options):
    found, lse = right.paged_decode(q, *arguments, **options)
    if out is None or out.flags.c_contiguous:
        return found, lse
    row, head, dim = (stride // q.itemsize for stride in q.strides)
    first = (out.__array_interface__["data"][0] - out.base.__array_interface__["data"][0]) // out.itemsize
    rows, heads, dims = np.ogrid[tuple(map(slice, out.shape))]
    at, memory = first + row * rows + head * heads + dim * dims, out.base.reshape(-1)
    memory[at[at < memory.size]] = found[at < memory.size]
    return out, lse
