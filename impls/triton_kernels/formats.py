"""float32 from and to the formats of a cache.

bfloat16 goes by its bits: Triton's interpreter truncates where a GPU rounds to nearest even, and loses subnormals.
"""

import triton
import triton.language as tl


@triton.jit
def widen(x):
    """The same numbers in float32."""
    if x.dtype == tl.bfloat16:
        wide = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = x.to(tl.float32)
    return wide


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 rounded to nearest even; NaN stays NaN."""
    if dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        high, low = bits >> 16, bits & 0xFFFF
        is_up = low + (high & 1) > 0x8000  # past the middle, or on it and odd
        kept = tl.where(x == x, high + is_up.to(tl.uint32), high | 0x40)
        narrowed = kept.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        narrowed = x.to(dtype)
    return narrowed
