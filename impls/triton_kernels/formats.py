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
def _small(bits, EXPONENT: tl.constexpr, FRACTION: tl.constexpr):
    """A float of so many bits of either, without its sign."""
    exponent, fraction = (bits >> FRACTION) & ((1 << EXPONENT) - 1), bits & ((1 << FRACTION) - 1)
    bias: tl.constexpr = (1 << (EXPONENT - 1)) - 1
    normal = (((exponent + (127 - bias)) << 23) | (fraction << (23 - FRACTION))).to(tl.float32, bitcast=True)
    return tl.where(exponent == 0, fraction.to(tl.float32) * 0.5 ** (bias - 1 + FRACTION), normal)


@triton.jit
def _signed(size, sign):
    """A float32 with a sign, 0 or 1: to Triton 3.7 minus is 0 - x, and -0 would be 0."""
    return (size.to(tl.uint32, bitcast=True) | (sign << 31)).to(tl.float32, bitcast=True)


@triton.jit
def read(pointers, mask, step, place, OF: tl.constexpr):
    """float32 of the numbers that lie there; 0 where they are masked.

    step    from one byte of a number to the next
    place   in its byte, of a number of 4 bits: 0 low, 1 high
    OF      the type of numbers that lie in bytes, as many as it has; nothing: the type that is pointed to
    """
    if OF == "":
        wide = widen(tl.load(pointers, mask=mask, other=0.0))
    elif OF == "float8_e4m3fn":  # by hand: interpreted it is no number, and not every GPU has it
        bits = tl.load(pointers, mask=mask, other=0).to(tl.uint32)
        size = tl.where((bits & 127) == 127, float("nan"), _small(bits, 4, 3))
        wide = _signed(size, bits >> 7)
    elif OF == "float8_e8m0fnu":  # an exponent
        bits = tl.load(pointers, mask=mask, other=0).to(tl.uint32)
        wide = tl.where(bits == 0, 2.0**-127, (bits << 23).to(tl.float32, bitcast=True))
        wide = tl.where(mask, tl.where(bits == 255, float("nan"), wide), 0.0)
    elif OF == "uint4" or OF == "float4_e2m1fn":
        bits = (tl.load(pointers, mask=mask, other=0).to(tl.uint32) >> (place * 4).to(tl.uint32)) & 15
        if OF == "uint4":
            wide = bits.to(tl.float32)
        else:
            size = _small(bits, 2, 1)
            wide = _signed(size, bits >> 3)
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
