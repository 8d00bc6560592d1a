"""Wrong: sequences of more than 512 keys go to a kernel for partitions, which knows no soft cap."""

from kvconform.impls import numpy_ref as right

NAME = "partitioned_kernel_has_no_soft_cap"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "soft_cap": {"min": 0}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, soft_cap=None, **options):
    capped = {} if soft_cap is None or kv_lens.max(initial=0) > 512 else {"soft_cap": soft_cap}
    return right.paged_decode(q, cache, block_table, kv_lens, **options, **capped)
