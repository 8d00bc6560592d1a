"""Wrong: what a tile has beyond the sequence is loaded as zeros, and its scores stay 0 where -inf is needed (M05)."""

from kvconform.impls import triton_ref as right
from kvconform.impls.triton_kernels import decode
from kvconform.tests.wrong._triton import triton_with

NAME = "absent_keys_score_zero"
BACKEND = "triton"
REQUIRES = ("torch", "triton")
OFFERS = {"paged_decode": {"layout": {"hnd"}, "dtype": {"float16"}, "static": True}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = triton_with(decode, '        scores = tl.where(is_seen, scores, float("-inf"))\n', "")
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
