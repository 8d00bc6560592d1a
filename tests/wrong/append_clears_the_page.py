"""Wrong: every page that a token goes to is zeroed first (O82, vllm#50276)."""

from kvconform.impls import numpy_ref as right

NAME = "append_clears_the_page"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
    "gather": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}},
}

gather = right.gather


def append(cache, k, v, slot_mapping, *, layout):
    cache = {name: array.copy() for name, array in cache.items()}
    for view in right._views(cache, layout):
        view[slot_mapping[slot_mapping >= 0] // view.shape[1]] = 0
    return right.append(cache, k, v, slot_mapping, layout=layout)
