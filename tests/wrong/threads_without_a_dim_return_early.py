"""Wrong: a thread without a dim of its own returns before the barrier, and the keys that it was to score are not.

No kernel hangs for it: threads that have returned do not count at a barrier.
"""

from kvconform.impls import cuda as right
from kvconform.tests.wrong._cuda import cuda_with

NAME = "threads_without_a_dim_return_early"
BACKEND = "cuda"
REQUIRES = ("ml_dtypes",)
PROGRAMS = ("g++", "clang++")
OFFERS = {"paged_decode": {"layout": {"nhd", "heads_first"}, "dtype": {"bfloat16"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = cuda_with(
    "attention.cuh",
    "    for (i64 dim = thread; dim < a.head_dim; dim += THREADS) q[dim]",
    "    if (thread >= a.head_dim) return;\n    for (i64 dim = thread; dim < a.head_dim; dim += THREADS) q[dim]",
)
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
