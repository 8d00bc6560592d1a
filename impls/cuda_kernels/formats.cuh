// Narrow floating-point formats by bit operations: the same code on a GPU and on a CPU, without a vendor's header.
//
// Widening is exact. Narrowing rounds to nearest, ties to even, keeps subnormals, and overflows as the format's
// definition has it: to infinity, or to NaN in float8_e4m3fn, which has none. Nothing saturates.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;

namespace {

// A number as it is stored: sign, EXPONENT bits, MANTISSA bits.
template <typename Bits, int EXPONENT, int MANTISSA, bool INFINITIES>
struct Narrow {
    Bits bits;

    static constexpr int mantissa = MANTISSA;
    static constexpr int bias = (1 << (EXPONENT - 1)) - 1;
    static constexpr u32 magnitudes = (1u << (EXPONENT + MANTISSA)) - 1;  // every bit but the sign
    static constexpr u32 top = ((1u << EXPONENT) - 1) << MANTISSA;        // the greatest exponent, mantissa 0
    static constexpr u32 overflow = INFINITIES ? top : magnitudes;        // what follows the greatest finite number
    static constexpr u32 nan = INFINITIES ? top | 1u << (MANTISSA - 1) : magnitudes;

    static __device__ bool is_nan(u32 magnitude) { return INFINITIES ? magnitude > top : magnitude == magnitudes; }
    static __device__ bool is_infinite(u32 magnitude) { return INFINITIES && magnitude == top; }
};

using Float16 = Narrow<u16, 5, 10, true>;
using BFloat16 = Narrow<u16, 8, 7, true>;
using Float8E4M3FN = Narrow<u8, 4, 3, false>;
using Float8E5M2 = Narrow<u8, 5, 2, true>;

constexpr int FLOAT_MANTISSA = 23, FLOAT_BIAS = 127;
constexpr u32 FLOAT_INFINITY = 0x7F800000u;

__device__ inline float minus_infinity() { return __uint_as_float(0xFF800000u); }

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(signed char value) { return static_cast<float>(value); }

// The float32 of the same value.
template <typename Bits, int EXPONENT, int MANTISSA, bool INFINITIES>
__device__ float widen(Narrow<Bits, EXPONENT, MANTISSA, INFINITIES> number) {
    using Format = Narrow<Bits, EXPONENT, MANTISSA, INFINITIES>;
    constexpr int shift = FLOAT_MANTISSA - MANTISSA, rebias = FLOAT_BIAS - Format::bias;
    const u32 magnitude = number.bits & Format::magnitudes;
    const u32 sign = number.bits > Format::magnitudes ? 0x80000000u : 0;
    if (Format::is_nan(magnitude)) return __uint_as_float(sign | FLOAT_INFINITY | magnitude << shift);
    if (Format::is_infinite(magnitude)) return __uint_as_float(sign | FLOAT_INFINITY);
    if (magnitude >> MANTISSA || rebias == 0)  // bfloat16's subnormals are float32's
        return __uint_as_float(sign | ((magnitude << shift) + (static_cast<u32>(rebias) << FLOAT_MANTISSA)));
    const float least = __uint_as_float(static_cast<u32>(rebias + 1 - MANTISSA) << FLOAT_MANTISSA);
    const float value = static_cast<float>(magnitude) * least;  // exact: a normal float32
    return sign ? -value : value;
}

// bits / 2**shift, to nearest, ties to even. 0 < shift < 32
__device__ inline u32 shift_to_nearest_even(u32 bits, int shift) {
    const u32 odd = bits >> shift & 1;
    return (bits + (1u << (shift - 1)) - 1 + odd) >> shift;
}

template <typename Format>
__device__ u32 narrow_magnitude(u32 magnitude) {
    constexpr int shift = FLOAT_MANTISSA - Format::mantissa, rebias = FLOAT_BIAS - Format::bias;
    if (magnitude > FLOAT_INFINITY) return Format::nan;
    const u32 exponent = magnitude >> FLOAT_MANTISSA;
    u32 rounded;
    if (exponent > rebias || rebias == 0) {
        // A carry out of the mantissa moves to the next exponent, as it should.
        rounded = shift_to_nearest_even(magnitude - (static_cast<u32>(rebias) << FLOAT_MANTISSA), shift);
    } else {
        // A subnormal of the narrow format. From 25 places on nothing is left, not even half a step.
        const u32 hidden = exponent ? 1u << FLOAT_MANTISSA : 0;
        const u32 significand = (magnitude & ((1u << FLOAT_MANTISSA) - 1)) | hidden;
        const int places = shift + 1 + rebias - static_cast<int>(exponent ? exponent : 1);
        rounded = shift_to_nearest_even(significand, places < 25 ? places : 25);
    }
    return rounded < Format::overflow ? rounded : Format::overflow;
}

__device__ inline void store(float* to, float value) { *to = value; }

// Stores the nearest number of the format; of a NaN the sign alone is kept.
template <typename Bits, int EXPONENT, int MANTISSA, bool INFINITIES>
__device__ void store(Narrow<Bits, EXPONENT, MANTISSA, INFINITIES>* to, float value) {
    using Format = Narrow<Bits, EXPONENT, MANTISSA, INFINITIES>;
    const u32 bits = __float_as_uint(value);
    const u32 sign = bits >> 31 ? Format::magnitudes + 1 : 0;
    to->bits = static_cast<Bits>(sign | narrow_magnitude<Format>(bits & 0x7FFFFFFFu));
}

}  // namespace
