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

// Formats of q beside a narrow cache.
enum QFormat : i64 { FLOAT32, FLOAT16, BFLOAT16 };

// Whether a cache of such elements is read and not computed in: q has a format of its own, and numbers have scales.
template <typename Element>
constexpr bool is_narrow = sizeof(Element) == 1;

template <typename Element>
__device__ float query(const Decode& a, i64 row, i64 q_head, i64 dim) {
    if constexpr (is_narrow<Element>) {
        if (a.q_format == FLOAT16) return widen(at<const Float16>(a.q, row, q_head, dim));
        if (a.q_format == BFLOAT16) return widen(at<const BFloat16>(a.q, row, q_head, dim));
        return at<const float>(a.q, row, q_head, dim);
    } else {
        return widen(at<const Element>(a.q, row, q_head, dim));
    }
}

// What the numbers of a key are multiplied with: its float32 may lie among others at any byte.
template <typename Element>
__device__ float scale_of(const Tensor& scales, i64 page, i64 slot, i64 kv_head) {
    if (!is_narrow<Element> || !scales.data) return 1.0f;
    u32 bits = 0;
    for (i64 byte = 0; byte < 4; ++byte)
        bits |= static_cast<u32>(at<const u8>(scales, page, slot, kv_head, byte)) << 8 * byte;
    return __uint_as_float(bits);
}

// The sequence of a query row, and the keys that the row sees: from the oldest one to before the end. From `fresh` on
// they are the sequence's query tokens.
struct Sight {
    i64 seq, oldest, end, fresh;
};

// Without features row i is of sequence i and sees all of its keys.
template <typename Index, bool FEATURES>
__device__ Sight sight(const Decode& a, i64 row) {
    if constexpr (FEATURES) {
        const Features& f = a.features;
        i64 seq = row, newer = 0, q_len = 1;  // newer: tokens of the sequence behind this row's
        if (f.q_lens.data) {
            seq = 0;
            i64 rows = at<const Index>(f.q_lens, seq);
            while (rows <= row) rows += at<const Index>(f.q_lens, ++seq);
            newer = rows - 1 - row;
            q_len = at<const Index>(f.q_lens, seq);
        }
        const i64 length = length_of<Index>(a.table, seq), end = length > newer ? length - newer : 0;
        return {seq, f.window && f.window < end ? end - f.window : 0, end, length - q_len};
    } else {
        return {row, 0, length_of<Index>(a.table, row), 0};
    }
}

// Whether a tree mask hides a key from a row, for which it is not too new.
__device__ inline bool hidden(const Tensor& tree_mask, i64 row, i64 key, i64 fresh) {
    return tree_mask.data && key >= fresh && !at<const u8>(tree_mask, row, key - fresh);
}

// One block a (query row, q head, split): softmax attention over that split of the keys that the row sees. What it does
// not see, such as keys outside its window, is not touched: neither pages nor their numbers.
//
// Keys that a tree hides from the row weigh nothing: they are others' query tokens.
//
// FEATURES: whether a.features is looked at. Which of them there are is the same for the whole launch.
//
// Shared: q [head_dim] and the accumulator [head_dim_v], float32 (dynamic), and the scores of one tile. Every thread
// follows the running maximum and the sum by itself; of the accumulator it owns every THREADS-th element. A split
// without keys has lse -inf and leaves its part of `outs` as it was. A sink is one more key of the first split.
template <typename Element, typename Index, bool FEATURES = false>
__device__ void decode(const Decode& a) {
    CUDA_DYNAMIC_SHARED(float, shared);
    __shared__ float scores[TILE];
    float* const q = shared;
    float* const accumulator = shared + a.head_dim;

    const i64 row = blockIdx.x, q_head = blockIdx.y, split = blockIdx.z;
    const i64 kv_head = q_head / a.group;
    const auto [seq, oldest, end, fresh] = sight<Index, FEATURES>(a, row);
    const i64 share = (end - oldest + gridDim.z - 1) / gridDim.z;
    const i64 first = oldest + split * share, last = first + share < end ? first + share : end;
    const bool sinks = FEATURES && a.features.sinks.data && split == 0;
    const float slope =
        FEATURES && a.features.alibi_slopes.data ? at<const float>(a.features.alibi_slopes, q_head) : 0.0f;
    const int thread = static_cast<int>(threadIdx.x), lane = thread % LANES, mine = thread / LANES;

    for (i64 dim = thread; dim < a.head_dim; dim += THREADS) q[dim] = query<Element>(a, row, q_head, dim);
    for (i64 dim = thread; dim < a.head_dim_v; dim += THREADS) accumulator[dim] = 0.0f;
    __syncthreads();

    float max = sinks ? at<const float>(a.features.sinks, q_head) : minus_infinity(), sum = sinks ? 1.0f : 0.0f;
    bool live = sinks;  // whether there is any key: a tree may hide all of a split
    for (i64 tile = first; tile < last; tile += TILE) {
        float score = minus_infinity();
        if (const i64 key = tile + mine; key < last) {
            const auto [page, slot] = place_of<Index>(a.table, seq, key, K);
            const PagedRow<const Element> k(a.k_cache, page, slot, kv_head);
            score = 0.0f;
            for (i64 dim = lane; dim < a.head_dim; dim += LANES) score += q[dim] * widen(k[dim]);
            score *= scale_of<Element>(a.k_scale, page, slot, kv_head);
        }
        score = sum_over_lanes(score) * static_cast<float>(a.sm_scale);
        if constexpr (FEATURES) {
            const float cap = static_cast<float>(a.features.soft_cap);
            if (cap != 0.0f) score = cap * tanhf(score / cap);
            score += slope * static_cast<float>(tile + mine - (end - 1));
            if (tile + mine < last && hidden(a.features.tree_mask, row, tile + mine, fresh)) score = minus_infinity();
        }
        if (lane == 0) scores[mine] = score;
        __syncthreads();

        const float old = max;
        const int num_keys = static_cast<int>(last - tile < TILE ? last - tile : TILE);
        for (int key = 0; key < num_keys; ++key) max = fmaxf(max, scores[key]);
        const float fade = weight(old, max);
        sum *= fade;
        for (i64 dim = thread; dim < a.head_dim_v; dim += THREADS) accumulator[dim] *= fade;
        for (int key = 0; key < num_keys; ++key) {
            const i64 position = tile + key;
            if (FEATURES && hidden(a.features.tree_mask, row, position, fresh)) continue;
            live = true;
            const auto [page, slot] = place_of<Index>(a.table, seq, position, V);
            const PagedRow<const Element> v(a.v_cache, page, slot, kv_head);
            const float p = weight(scores[key], max);
            sum += p;
            const float part = p * scale_of<Element>(a.v_scale, page, slot, kv_head);
            for (i64 dim = thread; dim < a.head_dim_v; dim += THREADS) accumulator[dim] += part * widen(v[dim]);
        }
        __syncthreads();  // before the next tile's scores
    }

    if (thread == 0) at<float>(a.lses, split, row, q_head) = live ? max + logf(sum) : minus_infinity();
    if (!live) return;
    for (i64 dim = thread; dim < a.head_dim_v; dim += THREADS)
        at<float>(a.outs, split, row, q_head, dim) = accumulator[dim] / sum;
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

// One block a (row, q head). Parts with lse -inf are empty: nothing of their outs is looked at.
template <typename Part, typename Out>
__device__ void merge_states(const MergeStates& a) {
    const i64 row = blockIdx.x, q_head = blockIdx.y;
    const auto lse_of = [&](i64 part) { return at<const float>(a.lses, part, row, q_head); };

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
            copy(&at<Out>(a.out, row, q_head, dim), at<const Part>(a.outs, only, row, q_head, dim));
        if (threadIdx.x == 0) at<float>(a.lse, row, q_head) = lse_of(only);
        return;
    }

    float sum = 0.0f;
    for (i64 part = 0; part < a.num_parts; ++part) sum += weight(lse_of(part), max);
    for (i64 dim = threadIdx.x; dim < a.head_dim; dim += blockDim.x) {
        float merged = 0.0f;
        for (i64 part = 0; part < a.num_parts; ++part) {
            if (lse_of(part) == minus_infinity()) continue;
            merged += weight(lse_of(part), max) * widen(at<const Part>(a.outs, part, row, q_head, dim));
        }
        store(&at<Out>(a.out, row, q_head, dim), num_live ? merged / sum : 0.0f);
    }
    if (threadIdx.x == 0) at<float>(a.lse, row, q_head) = num_live ? max + logf(sum) : minus_infinity();
}

}  // namespace
