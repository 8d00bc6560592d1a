"""Right: of several tokens for one slot one is said to stay, and the first one does."""

from kvconform.impls import numpy_ref

NAME = "keeps_the_first_of_several_tokens"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd", "interleaved"}, "dtype": {"float32"}} for op in ("append", "gather", "copy_pages")}
CONVENTIONS = {"duplicate_slots": "one", "page_moves": {"apart", "swap"}}

gather, copy_pages = numpy_ref.gather, numpy_ref.copy_pages


def append(cache, k, v, slot_mapping, *, layout):
    return numpy_ref.append(cache, k[::-1], v[::-1], slot_mapping[::-1], layout=layout)
