"""Wrong: the dot product covers whole chunks of 16 dims (O43, vllm#34570)."""

from kvconform.impls import numpy_ref as right

NAME = "dims_in_chunks_of_16"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "num_splits": range(1, 8)}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, *arguments, **options):
    cut = q.copy()
    cut[..., q.shape[-1] // 16 * 16 :] = 0
    return right.paged_decode(cut, *arguments, **options)
