"""Wrong: every split has length // num_splits keys, and the rest of the division is in none (O15)."""

from kvconform.impls import triton_ref as right
from kvconform.impls.triton_kernels import decode
from kvconform.tests.wrong._triton import triton_with

NAME = "splits_are_rounded_down"
BACKEND = "triton"
REQUIRES = ("torch", "triton")
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "num_splits": {3}, "page_size": {8, 16}, "static": True}
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = triton_with(
    decode,
    "first, last = ends * splits // num_splits, ends * (splits + 1) // num_splits",
    "first, last = ends // num_splits * splits, ends // num_splits * (splits + 1)",
)
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
