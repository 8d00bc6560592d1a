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
def read(pointers, mask, step, OF: tl.constexpr):
    """float32 of the numbers that lie there; 0 where they are masked.

    step   from one byte of a number to the next
    OF     the type of numbers that lie in bytes, as many as it has; nothing: the type that is pointed to
    """
    if OF == "":
        wide = widen(tl.load(pointers, mask=mask, other=0.0))
    elif OF == "float8_e4m3fn":  # by hand: interpreted it is no number, and not every GPU has it
        bits = tl.load(pointers, mask=mask, other=0).to(tl.uint32)
        exponent, fraction = (bits >> 3) & 15, bits & 7
        normal = (((exponent + 120) << 23) | (fraction << 20)).to(tl.float32, bitcast=True)
        size = tl.where(exponent == 0, fraction.to(tl.float32) * 0.001953125, normal)  # 2**-9
        size = tl.where((bits & 127) == 127, float("nan"), size)
        wide = tl.where(bits > 127, -size, size)
    else:
        bits = tl.load(pointers, mask=mask, other=0).to(tl.uint32)
        bits |= tl.load(pointers + step, mask=mask, other=0).to(tl.uint32) << 8
        if OF == "float16":
            wide = bits.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
        elif OF == "bfloat16":
            wide = (bits << 16).to(tl.float32, bitcast=True)
        else:
            tl.static_assert(OF == "float32")
            bits |= tl.load(pointers + 2 * step, mask=mask, other=0).to(tl.uint32) << 16
            bits |= tl.load(pointers + 3 * step, mask=mask, other=0).to(tl.uint32) << 24
            wide = bits.to(tl.float32, bitcast=True)
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
