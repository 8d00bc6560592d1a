"""Wrong: exp2 where exp was, and nothing multiplies the scores by log2(e) (O60)."""

from kvconform.impls import triton_ref as right
from kvconform.impls.triton_kernels import decode
from kvconform.tests.wrong._triton import triton_with

NAME = "exp2_without_log2e"
BACKEND = "triton"
REQUIRES = ("torch", "triton")
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "static": True}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = triton_with(
    decode,
    "fade, p = tl.exp(top - reference), tl.exp(scores - reference[:, :, None])",
    "fade, p = tl.exp2(top - reference), tl.exp2(scores - reference[:, :, None])",
)
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
