"""Wrong: no barrier behind a tile: the warp that is ahead writes its next scores over those the other reads (R07)."""

from kvconform.impls import cuda as right
from kvconform.tests.wrong._cuda import cuda_with

NAME = "scores_are_overwritten_by_the_next_tile"
BACKEND = "cuda"
REQUIRES = ("ml_dtypes",)
PROGRAMS = ("g++", "clang++")
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = cuda_with("attention.cuh", "__syncthreads();  // before the next tile's scores", "")
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
