// Split-KV decode attention over a paged cache, and the merge of partial results by log-sum-exp.
//
// All arithmetic is float32; results are rounded to their format once, when they are stored.
#pragma once

#include "movement.cuh"

namespace {

constexpr int THREADS = 64;            // of a decode block: two warps
constexpr int LANES = 8;               // that share the dot product of one key
constexpr int TILE = THREADS / LANES;  // keys between two updates of the running maximum
constexpr u32 ALL_LANES = 0xFFFFFFFFu;

// exp(x - max), where nothing was seen yet (max = -inf) 0 rather than NaN.
__device__ inline float weight(float x, float max) { return max == minus_infinity() ? 0.0f : expf(x - max); }

// The sum over LANES neighbouring lanes, in each of them, added in one fixed order.
__device__ inline float sum_over_lanes(float value) {
    for (int distance = LANES / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

// One block a (sequence, q head, split): softmax attention over the keys of that split.
//
// Shared: q and the accumulator, float32 [head_dim] each (dynamic), and the scores of one tile. Every thread follows
// the running maximum and the sum by itself; of the accumulator it owns every THREADS-th element. A split without keys
// has lse -inf and leaves its part of `outs` as it was.
template <typename Element, typename Index>
__device__ void decode(const Decode& a) {
    CUDA_DYNAMIC_SHARED(float, shared);
    __shared__ float scores[TILE];
    float* const q = shared;
    float* const accumulator = shared + a.head_dim;

    const i64 seq = blockIdx.x, q_head = blockIdx.y, split = blockIdx.z;
    const i64 kv_head = q_head / a.group;
    const i64 length = at<const Index>(a.kv_lens, seq), share = (length + gridDim.z - 1) / gridDim.z;
    const i64 first = split * share, last = first + share < length ? first + share : length;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % LANES, mine = thread / LANES;

    for (i64 dim = thread; dim < a.head_dim; dim += THREADS) {
        q[dim] = widen(at<const Element>(a.q, seq, q_head, dim));
        accumulator[dim] = 0.0f;
    }
    __syncthreads();

    float max = minus_infinity(), sum = 0.0f;
    for (i64 tile = first; tile < last; tile += TILE) {
        float score = minus_infinity();
        if (const i64 key = tile + mine; key < last) {
            const i64 page = at<const Index>(a.block_table, seq, key / a.page_size, K);
            const PagedRow<const Element> k(a.k_cache, page, key % a.page_size, kv_head);
            score = 0.0f;
            for (i64 dim = lane; dim < a.head_dim; dim += LANES) score += q[dim] * widen(k[dim]);
        }
        score = sum_over_lanes(score);
        if (lane == 0) scores[mine] = score * static_cast<float>(a.sm_scale);
        __syncthreads();

        const float old = max;
        const int num_keys = static_cast<int>(last - tile < TILE ? last - tile : TILE);
        for (int key = 0; key < num_keys; ++key) max = fmaxf(max, scores[key]);
        const float fade = weight(old, max);
        sum *= fade;
        for (i64 dim = thread; dim < a.head_dim; dim += THREADS) accumulator[dim] *= fade;
        for (int key = 0; key < num_keys; ++key) {
            const i64 position = tile + key, page = at<const Index>(a.block_table, seq, position / a.page_size, V);
            const PagedRow<const Element> v(a.v_cache, page, position % a.page_size, kv_head);
            const float p = weight(scores[key], max);
            sum += p;
            for (i64 dim = thread; dim < a.head_dim; dim += THREADS) accumulator[dim] += p * widen(v[dim]);
        }
        __syncthreads();  // before the next tile's scores
    }

    if (thread == 0) at<float>(a.lses, split, seq, q_head) = first < last ? max + logf(sum) : minus_infinity();
    if (first >= last) return;
    for (i64 dim = thread; dim < a.head_dim; dim += THREADS)
        at<float>(a.outs, split, seq, q_head, dim) = accumulator[dim] / sum;
}

// A part's element as it is where the formats agree, rounded where they do not.
template <typename Format>
__device__ void copy(Format* to, const Format& from) {
    *to = from;
}
template <typename To, typename From>
__device__ void copy(To* to, const From& from) {
    store(to, widen(from));
}

// One block a (sequence, q head). Parts with lse -inf are empty: nothing of their outs is looked at.
template <typename Part, typename Out>
__device__ void merge_states(const MergeStates& a) {
    const i64 seq = blockIdx.x, q_head = blockIdx.y;
    const auto lse_of = [&](i64 part) { return at<const float>(a.lses, part, seq, q_head); };

    i64 num_live = 0, only = 0;
    float max = minus_infinity();
    for (i64 part = 0; part < a.num_parts; ++part) {
        if (lse_of(part) == minus_infinity()) continue;
        max = fmaxf(max, lse_of(part));
        only = part;
        ++num_live;
    }
    if (num_live == 1) {  // bit for bit, -0 and NaN included
        for (i64 dim = threadIdx.x; dim < a.head_dim; dim += blockDim.x)
            copy(&at<Out>(a.out, seq, q_head, dim), at<const Part>(a.outs, only, seq, q_head, dim));
        if (threadIdx.x == 0) at<float>(a.lse, seq, q_head) = lse_of(only);
        return;
    }

    float sum = 0.0f;
    for (i64 part = 0; part < a.num_parts; ++part) sum += weight(lse_of(part), max);
    for (i64 dim = threadIdx.x; dim < a.head_dim; dim += blockDim.x) {
        float merged = 0.0f;
        for (i64 part = 0; part < a.num_parts; ++part) {
            if (lse_of(part) == minus_infinity()) continue;
            merged += weight(lse_of(part), max) * widen(at<const Part>(a.outs, part, seq, q_head, dim));
        }
        store(&at<Out>(a.out, seq, q_head, dim), num_live ? merged / sum : 0.0f);
    }
    if (threadIdx.x == 0) at<float>(a.lse, seq, q_head) = num_live ? max + logf(sum) : minus_infinity();
}

}  // namespace
