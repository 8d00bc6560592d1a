"""Wrong: pairs are copied one after another, so that a page already overwritten is copied on where two swap."""

NAME = "pages_are_copied_in_turn"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"page_moves": {"apart", "swap"}}


def copy_pages(cache, page_mapping, *, layout):
    cache = {name: array.copy() for name, array in cache.items()}
    for array in cache.values():
        for source, target in page_mapping:
            array[target] = array[source]
    return cache
