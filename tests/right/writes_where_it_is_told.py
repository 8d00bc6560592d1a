"""Right: all results, and the partial ones of splits, are computed where the caller says, whatever is there before."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "writes_where_it_is_told"
BACKEND = "numpy"
_ASKED = ("paged_decode", "append_decode", "merge_states", "gather")
OFFERS = {op: numpy_ref.OFFERS[op] | {"dtype": {"float32"}} for op in _ASKED}
OFFERS["paged_decode"] |= {"layout": {"nhd", "split_x"}}
OFFERS["append_decode"] |= {"layout": {"nhd"}}
OFFERS["gather"] |= {"layout": {"nhd", "token_head_scales", "code_rows"}, "dtype": {"float32", "int8", "uint8"}}
CONVENTIONS, ARITHMETIC, WORKSPACE = numpy_ref.CONVENTIONS, numpy_ref.ARITHMETIC, numpy_ref.WORKSPACE


def _scribbled(operation):
    """With the memory that is given full of what no law wrote there."""

    def call(*arguments, **options):
        given = [options[name] for name in ("out", "lse", "workspace", "k", "v") if options.get(name) is not None]
        for array in (leaf for one in given for leaf in (one.values() if isinstance(one, dict) else [one])):
            array[...] = np.ones((), array.dtype)
        return operation(*arguments, **options)

    return call


paged_decode, append_decode, merge_states, gather = (_scribbled(getattr(numpy_ref, op)) for op in _ASKED)
