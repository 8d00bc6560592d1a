"""Wrong: out has the heads of a sequence side by side, [num_seqs, num_q_heads * head_dim]."""

from kvconform.impls import numpy_ref as right

NAME = "returns_flat_heads"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(*arguments, **options):
    out, lse = right.paged_decode(*arguments, **options)
    return out.reshape(len(out), -1), lse
