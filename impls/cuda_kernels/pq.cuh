// Product quantisation: vectors into codes and back, codes into pages, and decode attention over pages of codes.
//
// A vector of num_subspaces * sub_dim numbers is cut into subspaces, and each piece is replaced by the number of the
// nearest centroid of its subspace. All arithmetic is float32.
#pragma once

#include "attention.cuh"

namespace {
namespace pq {

constexpr int THREADS = 128, WARP = 32, WARPS = THREADS / WARP;
constexpr int STAGE = 64;     // tokens whose codes of V lie in shared memory at a time

// One number for each q head of a block.
template <int HEADS>
struct alignas(sizeof(float) * HEADS) PerHead {
    static_assert(HEADS <= WARPS, "a warp follows the maximum of a head");
    float of[HEADS];
};

enum Pairing : i64 { NONE, BY_SLOT, BY_SUBSPACE };

struct alignas(16) Quad {
    u32 x, y, z, w;
};

template <typename... Positions>
__device__ i64 index_at(const Indices& indices, Positions... positions) {
    if (indices.wide) return at<const i64>(indices.of, positions...);
    return at<const int>(indices.of, positions...);
}

// ---- codes ----------------------------------------------------------------------------------------------------------

// One code where it lies.
template <int BITS>
struct Code {
    u8* byte;
    int shift;
    static constexpr int mask = (1 << BITS) - 1;

    __device__ Code(const Codes& codes, i64 page, i64 slot, i64 subspace) : shift(0) {
        if constexpr (BITS == 4) {
            i64& index = codes.paired == BY_SLOT ? slot : subspace;
            shift = 4 * static_cast<int>(index % 2);
            index /= 2;
        }
        byte = static_cast<u8*>(codes.data) + page * codes.page + slot * codes.slot + subspace * codes.subspace;
    }
    __device__ int value() const { return *byte >> shift & mask; }
    __device__ void write(int code) const {
        const int others = BITS == 8 ? 0 : *byte & ~(mask << shift);
        *byte = static_cast<u8>(others | code << shift);
    }
};

// A code as an index: whatever its bits are, there is such a centroid.
__device__ inline int index_of(int code, i64 count) {
    return code < count ? code : static_cast<int>(count) - 1;
}

using Nearest = unsigned long long;  // a distance and behind it a number: the least is the nearest, of several the first

// The nearest centroid of one subspace to a vector, among every LANES-th from `lane` on. Differences are squared and
// added up dim by dim; what is no number is as far as infinity.
template <typename Element>
__device__ Nearest nearest(const Tensor& x, const Codebook& codebook, i64 token, i64 head, i64 subspace, i64 sub_dim,
                           i64 lane) {
    const float infinity = -minus_infinity();
    Nearest least = ~Nearest{0};
    for (i64 c = lane; c < codebook.count; c += LANES) {
        float distance = 0.0f;
        for (i64 dim = 0; dim < sub_dim; ++dim) {
            const float off = widen(at<const Element>(x, token, head, subspace * sub_dim + dim)) -
                              widen(at<const Element>(codebook.centroids, subspace, c, dim));
            distance += off * off;
        }
        const u32 bits = __float_as_uint(distance < infinity ? distance : infinity);
        const Nearest one = static_cast<Nearest>(bits) << 32 | static_cast<Nearest>(c);
        least = one < least ? one : least;
    }
    return least;
}

// The codes of one vector, by one block, to a page and slot; LANES threads find one. Shared: a byte a subspace. Codes
// that share a byte are written by one thread.
template <typename Element, int BITS>
__device__ void encode_row(const Tensor& x, const Codebook& codebook, i64 token, i64 head, const Codes& codes, i64 page,
                           i64 slot, i64 num_subspaces, i64 sub_dim) {
    CUDA_DYNAMIC_SHARED(u8, found);
    const i64 lane = threadIdx.x % LANES;
    for (i64 first = 0; first < num_subspaces; first += THREADS / LANES) {
        const i64 subspace = first + threadIdx.x / LANES;
        Nearest least = ~Nearest{0};
        if (subspace < num_subspaces) least = nearest<Element>(x, codebook, token, head, subspace, sub_dim, lane);
        for (int distance = LANES / 2; distance > 0; distance /= 2) {  // every lane of the warp, whatever it holds
            const Nearest other = __shfl_xor_sync(ALL_LANES, least, distance);
            least = other < least ? other : least;
        }
        if (lane == 0 && subspace < num_subspaces) found[subspace] = static_cast<u8>(least);
    }
    __syncthreads();
    const i64 each = codes.paired == BY_SUBSPACE ? 2 : 1;
    for (i64 first = each * threadIdx.x; first < num_subspaces; first += each * THREADS)
        for (i64 subspace = first; subspace < first + each; ++subspace)
            Code<BITS>(codes, page, slot, subspace).write(found[subspace]);
}

// One block a (token, head).
template <typename Element, int BITS>
__device__ void encode(const PqCode& a) {
    const i64 token = blockIdx.x, head = blockIdx.y;
    encode_row<Element, BITS>(a.x, a.codebook, token, head, a.codes, token, head, a.num_subspaces, a.sub_dim);
}

// One block a (token, head): centroids side by side, bit for bit.
template <typename Element, int BITS>
__device__ void decode(const PqCode& a) {
    const i64 token = blockIdx.x, head = blockIdx.y;
    for (i64 i = threadIdx.x; i < a.num_subspaces * a.sub_dim; i += THREADS) {
        const i64 subspace = i / a.sub_dim;
        const int code = index_of(Code<BITS>(a.codes, token, head, subspace).value(), a.codebook.count);
        at<Element>(a.x, token, head, i) = at<const Element>(a.codebook.centroids, subspace, code, i % a.sub_dim);
    }
}

// One block a (token, head, K or V). Slots that share bytes are never written by one launch: it writes those of one
// parity. Codes whose slots share none are written by the launch for parity 0.
template <typename Element, int BITS>
__device__ void append(const PqAppend& a) {
    const i64 token = blockIdx.x, head = blockIdx.y, side = blockIdx.z;
    const Codes& codes = side == K ? a.k_codes : a.v_codes;
    const i64 where = index_at(a.slot_mapping, token, head);
    if (where < 0 || where >= a.num_slots) return;
    const i64 page = where / a.page_size, slot = where % a.page_size;
    if ((codes.paired == BY_SLOT ? slot % 2 : 0) != a.parity) return;
    encode_row<Element, BITS>(side == K ? a.k : a.v, side == K ? a.k_codebook : a.v_codebook, token, head, codes, page,
                              slot, a.num_subspaces, a.sub_dim);
}

// ---- attention over codes -------------------------------------------------------------------------------------------

// What an instance knows of its sizes: as constants, or 0 for what each launch tells.
template <int HEAD_DIM, int NUM_SUBSPACES, int NUM_CENTROIDS>
struct Sizes {
    int head_dim, num_subspaces, sub_dim, slices;
    int k_centroids, v_centroids;

    __device__ explicit Sizes(const PqAttention& a)
        : head_dim(HEAD_DIM ? HEAD_DIM : static_cast<int>(a.head_dim)),
          num_subspaces(NUM_SUBSPACES ? NUM_SUBSPACES : static_cast<int>(a.num_subspaces)),
          sub_dim(head_dim / num_subspaces),
          slices(head_dim < THREADS ? THREADS / head_dim : 1),
          k_centroids(NUM_CENTROIDS ? NUM_CENTROIDS : static_cast<int>(a.k_codebook.count)),
          v_centroids(NUM_CENTROIDS ? NUM_CENTROIDS : static_cast<int>(a.v_codebook.count)) {}
};

// Codes in 16 bytes.
template <int BITS>
constexpr int QUAD = 128 / BITS;

// Calls visit(number, code) for each code of 16 aligned bytes.
template <int BITS, typename Visit>
__device__ void each_code(const u8* bytes, const Visit& visit) {
    const Quad quad = *reinterpret_cast<const Quad*>(bytes);
    const u32 words[] = {quad.x, quad.y, quad.z, quad.w};
    for (int word = 0; word < 4; ++word)
        CUDA_ROLLED
        for (int i = 0; i < 32 / BITS; ++i)
            visit(word * (32 / BITS) + i, static_cast<int>(words[word] >> BITS * i & Code<BITS>::mask));
}

__device__ inline bool in_quads(const Codes& codes, i64 stride) {
    return (reinterpret_cast<unsigned long long>(codes.data) | static_cast<unsigned long long>(codes.page | stride)) %
               sizeof(Quad) == 0;
}

// Whether the codes of a slot lie side by side, in whole quads.
template <int BITS>
__device__ bool rows_of_quads(const Codes& codes, int num_subspaces) {
    return codes.subspace == 1 && codes.paired != BY_SLOT && num_subspaces % QUAD<BITS> == 0 &&
           in_quads(codes, codes.slot);
}

// Whether the codes of a subspace lie side by side, in whole quads.
template <int BITS>
__device__ bool columns_of_quads(const Codes& codes, i64 page_size) {
    return codes.slot == 1 && codes.paired != BY_SUBSPACE && page_size % QUAD<BITS> == 0 &&
           in_quads(codes, codes.subspace);
}

struct Spot {
    i64 page, slot;
};

// Where the codes of a token are. Positions have no more than 31 bits.
__device__ inline Spot spot_of(const PqAttention& a, i64 seq, i64 kv_head, i64 position) {
    const u32 at_position = static_cast<u32>(position), size = static_cast<u32>(a.page_size);
    return {index_at(a.page_ids, seq, kv_head, static_cast<i64>(at_position / size)), at_position % size};
}

// q . centroid of subspaces [first, last): table[(subspace - first, centroid)].
template <typename Element, int HEADS, typename Sizes>
__device__ void tabulate(const PqAttention& a, const Sizes& n, const float* q, int first, int last,
                         PerHead<HEADS>* table) {
    CUDA_ROLLED
    for (int i = threadIdx.x; i < (last - first) * n.k_centroids; i += THREADS) {
        const int subspace = first + i / n.k_centroids, c = i % n.k_centroids;
        PerHead<HEADS> entry = {};
        for (int dim = 0; dim < n.sub_dim; ++dim) {
            const float x = widen(at<const Element>(a.k_codebook.centroids, subspace, c, dim));
            for (int head = 0; head < HEADS; ++head)
                entry.of[head] += q[head * n.head_dim + subspace * n.sub_dim + dim] * x;
        }
        table[i] = entry;
    }
}

// Adds up what the table says of the codes of K of one token, subspaces [first, last).
template <int BITS, int HEADS, typename Sizes>
__device__ void look_up(const PqAttention& a, const Sizes& n, bool quads, Spot spot, int first, int last,
                        const PerHead<HEADS>* table, PerHead<HEADS>& score) {
    const auto add = [&](int subspace, int code) {
        const PerHead<HEADS> entry = table[(subspace - first) * n.k_centroids + index_of(code, n.k_centroids)];
        for (int head = 0; head < HEADS; ++head) score.of[head] += entry.of[head];
    };
    if (quads) {
        const u8* const row = static_cast<const u8*>(a.k.data) + spot.page * a.k.page + spot.slot * a.k.slot;
        CUDA_ROLLED
        for (int subspace = first; subspace < last; subspace += QUAD<BITS>)
            each_code<BITS>(row + subspace * BITS / 8, [&](int i, int code) { add(subspace + i, code); });
    } else {
        CUDA_ROLLED
        for (int subspace = first; subspace < last; ++subspace)
            add(subspace, Code<BITS>(a.k, spot.page, spot.slot, subspace).value());
    }
}

// Codes of V of `count` tokens from a position on, a byte each, as [token, subspace], whichever way they lie in pages.
template <int BITS, typename Sizes>
__device__ void stage(const PqAttention& a, const Sizes& n, i64 seq, i64 kv_head, i64 first, int count, u8* staged) {
    const int width = n.num_subspaces, thread = static_cast<int>(threadIdx.x);
    const u8* const bytes = static_cast<const u8*>(a.v.data);
    if (rows_of_quads<BITS>(a.v, width)) {
        const int each = width / QUAD<BITS>;
        CUDA_ROLLED
        for (int i = thread; i < count * each; i += THREADS) {
            const int token = i / each, subspace = i % each * QUAD<BITS>;
            const auto [page, slot] = spot_of(a, seq, kv_head, first + token);
            const u8* const from = bytes + page * a.v.page + slot * a.v.slot + subspace * BITS / 8;
            u8* const to = staged + token * width + subspace;
            if constexpr (BITS == 8)
                *reinterpret_cast<Quad*>(to) = *reinterpret_cast<const Quad*>(from);
            else
                each_code<BITS>(from, [&](int j, int code) { to[j] = static_cast<u8>(code); });
        }
    } else if (columns_of_quads<BITS>(a.v, a.page_size)) {
        // Quads of slots never leave a page, and begin where a position is a multiple of their size.
        const i64 begin = first / QUAD<BITS> * QUAD<BITS>;
        const int quads = static_cast<int>((first + count - begin + QUAD<BITS> - 1) / QUAD<BITS>);
        CUDA_ROLLED
        for (int i = thread; i < quads * width; i += THREADS) {
            const int subspace = i % width;
            const i64 position = begin + i / width * QUAD<BITS>;
            const auto [page, slot] = spot_of(a, seq, kv_head, position);
            const u8* const from = bytes + page * a.v.page + subspace * a.v.subspace + slot * BITS / 8;
            const int behind = static_cast<int>(position - first);
            each_code<BITS>(from, [&](int j, int code) {
                if (behind + j >= 0 && behind + j < count)
                    staged[(behind + j) * width + subspace] = static_cast<u8>(code);
            });
        }
    } else {
        CUDA_ROLLED
        for (int i = thread; i < count * width; i += THREADS) {
            const auto [page, slot] = spot_of(a, seq, kv_head, first + i / width);
            staged[i] = static_cast<u8>(Code<BITS>(a.v, page, slot, i % width).value());
        }
    }
}

// One block a (sequence, up to HEADS q heads of one kv head, split): softmax attention over that split of the coded
// tokens.
//
// Scores come from a table of q against the centroids of K, so that a token costs an addition a subspace; codes of K are
// read once for all heads of the block. A table that is too large is made and used chunk by chunk of subspaces, tile
// after tile. V is never decoded either: its codes wait in shared memory, and centroids are read through the cache.
//
// Threads own (slice, dim) of the accumulators: slice s takes every token whose number in its stage is s modulo the
// number of slices. Where dims are too many for the threads there is one slice. A warp follows the maximum and the sum
// of its head. A split without tokens has lse -inf and leaves its part of `outs` as it was. Heads that the last block of
// a group lacks have q = 0, and nothing of them is stored.
//
// Shared, dynamic: codes of V [STAGE, num_subspaces] rounded up to whole quads; then, in float32 for each head, the
// table [chunk, num_centroids], scores [tile], accumulators [slices, head_dim], q [head_dim].
template <typename Element, int BITS, int HEADS, int HEAD_DIM = 0, int NUM_SUBSPACES = 0, int NUM_CENTROIDS = 0>
__device__ void split(const PqAttention& a) {
    CUDA_DYNAMIC_SHARED(Quad, shared);
    __shared__ float maxima[HEADS], sums[HEADS], fades[HEADS];
    const Sizes<HEAD_DIM, NUM_SUBSPACES, NUM_CENTROIDS> n(a);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP, warp = thread / WARP;
    const int in_tile = static_cast<int>(a.tile), in_chunk = static_cast<int>(a.chunk);

    const i64 seq = blockIdx.x, kv_head = blockIdx.y % a.num_kv_heads, number = blockIdx.z;
    const i64 first_of_group = blockIdx.y / a.num_kv_heads * HEADS, left = a.group - first_of_group;
    const int heads = static_cast<int>(left < HEADS ? left : HEADS);
    const i64 q_head = kv_head * a.group + first_of_group;

    const i64 length = index_at(a.lens, seq), share = (length + gridDim.z - 1) / gridDim.z;
    const i64 first = number * share, last = first + share < length ? first + share : length;
    if (first >= last) {
        if (thread < heads) at<float>(a.lses, number, seq, q_head + thread) = minus_infinity();
        return;
    }

    u8* const staged = reinterpret_cast<u8*>(shared);
    auto* const table = reinterpret_cast<PerHead<HEADS>*>(shared + (STAGE * n.num_subspaces + 15) / 16);
    auto* const scores = table + in_chunk * n.k_centroids;
    float* const accumulators = reinterpret_cast<float*>(scores + in_tile);
    float* const q = accumulators + n.slices * HEADS * n.head_dim;

    CUDA_ROLLED
    for (int i = thread; i < HEADS * n.head_dim; i += THREADS) {
        const int head = i / n.head_dim;
        q[i] = head < heads ? widen(at<const Element>(a.q, seq, q_head + head, i64{i % n.head_dim})) : 0.0f;
    }
    CUDA_ROLLED
    for (int i = thread; i < n.slices * HEADS * n.head_dim; i += THREADS) accumulators[i] = 0.0f;
    __syncthreads();

    const bool whole = in_chunk >= n.num_subspaces;
    const bool quads = rows_of_quads<BITS>(a.k, n.num_subspaces) && (whole || in_chunk % QUAD<BITS> == 0);
    float max = minus_infinity(), sum = 0.0f;  // of the warp's head
    CUDA_ROLLED
    for (i64 tile = first; tile < last; tile += in_tile) {
        const int count = static_cast<int>(last - tile < in_tile ? last - tile : in_tile);
        CUDA_ROLLED
        for (int chunk = 0; chunk < n.num_subspaces; chunk += in_chunk) {
            const int end = whole || chunk + in_chunk > n.num_subspaces ? n.num_subspaces : chunk + in_chunk;
            if (!whole || tile == first) tabulate<Element>(a, n, q, chunk, end, table);
            __syncthreads();
            CUDA_ROLLED
            for (int token = thread; token < count; token += THREADS) {
                PerHead<HEADS> score = {};
                if (chunk) score = scores[token];
                look_up<BITS>(a, n, quads, spot_of(a, seq, kv_head, tile + token), chunk, end, table, score);
                scores[token] = score;
            }
            __syncthreads();
        }

        if (warp < HEADS) {
            const float scale = static_cast<float>(a.sm_scale), old = max;
            CUDA_ROLLED
            for (int token = lane; token < count; token += WARP) {
                scores[token].of[warp] *= scale;
                max = fmaxf(max, scores[token].of[warp]);
            }
            CUDA_ROLLED
            for (int lanes = WARP / 2; lanes > 0; lanes /= 2) max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, lanes));
            float part = 0.0f;
            CUDA_ROLLED
            for (int token = lane; token < count; token += WARP) {
                const float p = weight(scores[token].of[warp], max);
                scores[token].of[warp] = p;
                part += p;
            }
            CUDA_ROLLED
            for (int lanes = WARP / 2; lanes > 0; lanes /= 2) part += __shfl_xor_sync(ALL_LANES, part, lanes);
            sum = sum * weight(old, max) + part;
            if (lane == 0) {
                maxima[warp] = max;
                sums[warp] = sum;
                fades[warp] = weight(old, max);
            }
        }

        // The first barrier of a stage is also the one behind the maxima.
        CUDA_ROLLED
        for (int begin = 0; begin < count; begin += STAGE) {
            const int in_stage = count - begin < STAGE ? count - begin : STAGE;
            stage<BITS>(a, n, seq, kv_head, tile + begin, in_stage, staged);
            __syncthreads();
            CUDA_ROLLED
            for (int i = thread; i < n.slices * n.head_dim; i += THREADS) {
                const int slice = i / n.head_dim, dim = i % n.head_dim, subspace = dim / n.sub_dim;
                const i64 inside = dim % n.sub_dim;
                PerHead<HEADS> part = {};
                for (int token = slice; token < in_stage; token += n.slices) {
                    const i64 code = index_of(staged[token * n.num_subspaces + subspace], n.v_centroids);
                    const float x = widen(at<const Element>(a.v_codebook.centroids, i64{subspace}, code, inside));
                    const PerHead<HEADS> p = scores[begin + token];
                    for (int head = 0; head < HEADS; ++head) part.of[head] += p.of[head] * x;
                }
                for (int head = 0; head < HEADS; ++head) {
                    float& accumulator = accumulators[(slice * HEADS + head) * n.head_dim + dim];
                    accumulator = (begin ? accumulator : accumulator * fades[head]) + part.of[head];
                }
            }
            __syncthreads();
        }
    }

    if (thread < heads) at<float>(a.lses, number, seq, q_head + thread) = maxima[thread] + logf(sums[thread]);
    CUDA_ROLLED
    for (int i = thread; i < heads * n.head_dim; i += THREADS) {
        float out = accumulators[i];
        CUDA_ROLLED
        for (int slice = 1; slice < n.slices; ++slice) out += accumulators[slice * HEADS * n.head_dim + i];
        at<float>(a.outs, number, seq, q_head + i / n.head_dim, i64{i % n.head_dim}) = out / sums[i / n.head_dim];
    }
}

}  // namespace pq
}  // namespace
