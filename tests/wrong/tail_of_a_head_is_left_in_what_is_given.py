"""Wrong: out is stored in vectors of four elements, and what is left of a head behind the last whole one is not."""

from kvconform.impls import numpy_ref as right

NAME = "tail_of_a_head_is_left_in_what_is_given"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "into": {"out"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, out=None, **options):
    result, lse = right.paged_decode(*arguments, **options)
    if out is None:
        return result, lse
    whole = out.shape[-1] // 4 * 4
    out[..., :whole] = result[..., :whole]
    return out, lse
