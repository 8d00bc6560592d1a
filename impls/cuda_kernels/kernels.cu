// Every kernel by name: <operation>_<element or format>[_<index>]. A template above, an argument struct, a line here.
#include "cuda_on_cpu.h"

#include "attention.cuh"

namespace {

template <typename Format>
__device__ void widen_all(const Convert& a) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.count) static_cast<float*>(a.target)[i] = widen(static_cast<const Format*>(a.source)[i]);
}

template <typename Format>
__device__ void narrow_all(const Convert& a) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < a.count) store(static_cast<Format*>(a.target) + i, static_cast<const float*>(a.source)[i]);
}

}  // namespace

#define KERNEL(name, Arguments, ...)                                                   \
    extern "C" __global__ void name(const Arguments arguments) { __VA_ARGS__(arguments); } \
    CUDA_EXPORT(name)

KERNEL(merge_kv_1, MergeKv, merge_kv<u8>);
KERNEL(merge_kv_2, MergeKv, merge_kv<u16>);
KERNEL(merge_kv_4, MergeKv, merge_kv<u32>);

KERNEL(extract_1, Extract, extract<u8>);
KERNEL(extract_2, Extract, extract<u16>);
KERNEL(extract_4, Extract, extract<u32>);

KERNEL(append_1_int32, Append, append<u8, int>);
KERNEL(append_2_int32, Append, append<u16, int>);
KERNEL(append_4_int32, Append, append<u32, int>);
KERNEL(append_1_int64, Append, append<u8, i64>);
KERNEL(append_2_int64, Append, append<u16, i64>);
KERNEL(append_4_int64, Append, append<u32, i64>);

KERNEL(gather_1_int32, Gather, gather<u8, int>);
KERNEL(gather_2_int32, Gather, gather<u16, int>);
KERNEL(gather_4_int32, Gather, gather<u32, int>);
KERNEL(gather_1_int64, Gather, gather<u8, i64>);
KERNEL(gather_2_int64, Gather, gather<u16, i64>);
KERNEL(gather_4_int64, Gather, gather<u32, i64>);

KERNEL(copy_pages_1_int32, CopyPages, copy_pages<u8, int>);
KERNEL(copy_pages_2_int32, CopyPages, copy_pages<u16, int>);
KERNEL(copy_pages_4_int32, CopyPages, copy_pages<u32, int>);
KERNEL(copy_pages_1_int64, CopyPages, copy_pages<u8, i64>);
KERNEL(copy_pages_2_int64, CopyPages, copy_pages<u16, i64>);
KERNEL(copy_pages_4_int64, CopyPages, copy_pages<u32, i64>);

KERNEL(decode_float32_int32, Decode, decode<float, int>);
KERNEL(decode_float16_int32, Decode, decode<Float16, int>);
KERNEL(decode_bfloat16_int32, Decode, decode<BFloat16, int>);
KERNEL(decode_float32_int64, Decode, decode<float, i64>);
KERNEL(decode_float16_int64, Decode, decode<Float16, i64>);
KERNEL(decode_bfloat16_int64, Decode, decode<BFloat16, i64>);

// Those that look for features: plain attention pays for none.
KERNEL(decode_features_float32_int32, Decode, decode<float, int, true>);
KERNEL(decode_features_float16_int32, Decode, decode<Float16, int, true>);
KERNEL(decode_features_bfloat16_int32, Decode, decode<BFloat16, int, true>);
KERNEL(decode_features_float32_int64, Decode, decode<float, i64, true>);
KERNEL(decode_features_float16_int64, Decode, decode<Float16, i64, true>);
KERNEL(decode_features_bfloat16_int64, Decode, decode<BFloat16, i64, true>);

// Narrow caches: what q is of, and how scales are shared, are arguments.
KERNEL(decode_features_float8_e4m3fn_int32, Decode, decode<Float8E4M3FN, int, true>);
KERNEL(decode_features_int8_int32, Decode, decode<signed char, int, true>);
KERNEL(decode_features_float8_e4m3fn_int64, Decode, decode<Float8E4M3FN, i64, true>);
KERNEL(decode_features_int8_int64, Decode, decode<signed char, i64, true>);

// Partial results as decode leaves them, into the format of the result.
KERNEL(merge_float32_into_float32, MergeStates, merge_states<float, float>);
KERNEL(merge_float32_into_float16, MergeStates, merge_states<float, Float16>);
KERNEL(merge_float32_into_bfloat16, MergeStates, merge_states<float, BFloat16>);
KERNEL(merge_float16_into_float16, MergeStates, merge_states<Float16, Float16>);
KERNEL(merge_bfloat16_into_bfloat16, MergeStates, merge_states<BFloat16, BFloat16>);

KERNEL(widen_float16, Convert, widen_all<Float16>);
KERNEL(widen_bfloat16, Convert, widen_all<BFloat16>);
KERNEL(widen_float8_e4m3fn, Convert, widen_all<Float8E4M3FN>);
KERNEL(widen_float8_e5m2, Convert, widen_all<Float8E5M2>);
KERNEL(narrow_float16, Convert, narrow_all<Float16>);
KERNEL(narrow_bfloat16, Convert, narrow_all<BFloat16>);
KERNEL(narrow_float8_e4m3fn, Convert, narrow_all<Float8E4M3FN>);
KERNEL(narrow_float8_e5m2, Convert, narrow_all<Float8E5M2>);
