"""Wrong: when a shape is met with other lengths it is compiled once more for any length, with other tiles."""

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "second_length_of_a_shape_is_compiled_anew"
BACKEND = "numpy"
OFFERS = both({"layout": {"bshd", "bhsd"}, "dtype": {"float32"}})
CONVENTIONS, ARITHMETIC = {"dead": {"zero"}}, right.ARITHMETIC | {"tile": 2}

_any_length = reference_with(TILE=2)
_SEEN = {}


def paged_decode(q, cache, block_table, kv_lens, **options):
    seen = _SEEN.setdefault((q.shape, cache["k"].shape, options["layout"]), set())
    seen.add(kv_lens.tobytes())
    return (right if len(seen) == 1 else _any_length).paged_decode(q, cache, block_table, kv_lens, **options)


append_decode = fused(paged_decode)
