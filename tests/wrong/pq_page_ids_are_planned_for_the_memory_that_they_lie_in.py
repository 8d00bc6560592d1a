"""Wrong: the plan of a step is made once for page ids in some memory, which serving writes over in each step."""

from kvconform.impls import numpy_ref as right

NAME = "pq_page_ids_are_planned_for_the_memory_that_they_lie_in"
BACKEND = "numpy"
OFFERS = {"pq_decode_attention": {"layout": {"pq_rows"}, "dtype": {"uint8"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_PLANNED = None, None


def pq_decode_attention(q, cache, k_codebooks, v_codebooks, page_ids, *others, **options):
    global _PLANNED
    if _PLANNED[0] is not page_ids:
        _PLANNED = page_ids, page_ids.copy()
    return right.pq_decode_attention(q, cache, k_codebooks, v_codebooks, _PLANNED[1], *others, num_splits=1, **options)
