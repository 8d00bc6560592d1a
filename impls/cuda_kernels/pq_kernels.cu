// Every kernel of product quantisation by name: pq_<operation>_<element>_<bits of a code>, those of attention with sizes.
//
// PQ_ONLY: one line of those below. PQ_ANY_SIZES: without the instances that have sizes as constants. Else all.
#include "cuda_on_cpu.h"

#include "pq.cuh"

#define KERNEL(name, Arguments, ...)                                                       \
    extern "C" __global__ void name(const Arguments arguments) { __VA_ARGS__(arguments); } \
    CUDA_EXPORT(name)

// heads: q heads of a block. The three sizes: constants, or 0 for what each launch tells. The number of splits is the
// grid's: each instance serves any.
#define SPLIT(element, Element, bits, heads, head_dim, num_subspaces, num_centroids)                            \
    KERNEL(pq_split_##element##_##bits##_##heads##_##head_dim##_##num_subspaces##_##num_centroids, PqAttention, \
           pq::split<Element, bits, heads, head_dim, num_subspaces, num_centroids>)

#ifdef PQ_ONLY
PQ_ONLY;
#else

KERNEL(pq_encode_float32_8, PqCode, pq::encode<float, 8>);
KERNEL(pq_encode_float16_8, PqCode, pq::encode<Float16, 8>);
KERNEL(pq_encode_bfloat16_8, PqCode, pq::encode<BFloat16, 8>);
KERNEL(pq_encode_float32_4, PqCode, pq::encode<float, 4>);
KERNEL(pq_encode_float16_4, PqCode, pq::encode<Float16, 4>);
KERNEL(pq_encode_bfloat16_4, PqCode, pq::encode<BFloat16, 4>);

KERNEL(pq_decode_float32_8, PqCode, pq::decode<u32, 8>);
KERNEL(pq_decode_float16_8, PqCode, pq::decode<u16, 8>);
KERNEL(pq_decode_bfloat16_8, PqCode, pq::decode<u16, 8>);
KERNEL(pq_decode_float32_4, PqCode, pq::decode<u32, 4>);
KERNEL(pq_decode_float16_4, PqCode, pq::decode<u16, 4>);
KERNEL(pq_decode_bfloat16_4, PqCode, pq::decode<u16, 4>);

KERNEL(pq_append_float32_8, PqAppend, pq::append<float, 8>);
KERNEL(pq_append_float16_8, PqAppend, pq::append<Float16, 8>);
KERNEL(pq_append_bfloat16_8, PqAppend, pq::append<BFloat16, 8>);
KERNEL(pq_append_float32_4, PqAppend, pq::append<float, 4>);
KERNEL(pq_append_float16_4, PqAppend, pq::append<Float16, 4>);
KERNEL(pq_append_bfloat16_4, PqAppend, pq::append<BFloat16, 4>);

SPLIT(float32, float, 8, 1, 0, 0, 0);
SPLIT(float16, Float16, 8, 1, 0, 0, 0);
SPLIT(bfloat16, BFloat16, 8, 1, 0, 0, 0);
SPLIT(float32, float, 8, 4, 0, 0, 0);
SPLIT(float16, Float16, 8, 4, 0, 0, 0);
SPLIT(bfloat16, BFloat16, 8, 4, 0, 0, 0);
SPLIT(float32, float, 4, 1, 0, 0, 0);
SPLIT(float16, Float16, 4, 1, 0, 0, 0);
SPLIT(bfloat16, BFloat16, 4, 1, 0, 0, 0);
SPLIT(float32, float, 4, 4, 0, 0, 0);
SPLIT(float16, Float16, 4, 4, 0, 0, 0);
SPLIT(bfloat16, BFloat16, 4, 4, 0, 0, 0);

#ifndef PQ_ANY_SIZES
#include "pq_instances.cuh"
#endif
#endif
