// Kernels that move bytes: merge_kv, extract, append, gather, copy_pages.
//
// They know how large an element is, not what it means. Every offset has 64 bits.
#pragma once

#include "arguments.cuh"

namespace {

// The element of a tensor at these indices.
template <typename Element, typename... Indices>
__device__ Element& at(const Tensor& tensor, Indices... indices) {
    const i64 index[] = {indices...};
    i64 offset = 0;
    for (unsigned axis = 0; axis < sizeof...(indices); ++axis) offset += index[axis] * tensor.stride[axis];
    return static_cast<Element*>(tensor.data)[offset];
}

// How many elements on the index of an axis lies.
__device__ inline i64 along(const Axis& axis, i64 index) {
    return index / axis.width * axis.outer + index % axis.width * axis.inner;
}

// The elements of (page, slot, head), by dim.
template <typename Element>
struct PagedRow {
    Element* row;
    Axis dims;
    i64 first;

    __device__ PagedRow(const Paged& tensor, i64 page, i64 slot, i64 head)
        : row(static_cast<Element*>(tensor.data) + page * tensor.page + along(tensor.slot, slot) +
              along(tensor.head, head)),
          dims(tensor.dim),
          first(head * tensor.span) {}

    __device__ Element& operator[](i64 dim) const { return row[along(dims, first + dim)]; }
};

enum Side : i64 { K, V };

// One block a token; rows alternate K0 V0 K1 V1 ...
template <typename Element>
__device__ void merge_kv(const MergeKv& a) {
    const i64 token = blockIdx.x;
    for (i64 i = threadIdx.x; i < a.num_kv_heads * a.head_dim; i += blockDim.x) {
        const i64 head = i / a.head_dim, dim = i % a.head_dim;
        at<Element>(a.kv, token, 2 * head, dim) = at<const Element>(a.k, token, head, dim);
        at<Element>(a.kv, token, 2 * head + 1, dim) = at<const Element>(a.v, token, head, dim);
    }
}

// One block a token; every other row, from first_row on.
template <typename Element>
__device__ void extract(const Extract& a) {
    const i64 token = blockIdx.x;
    for (i64 i = threadIdx.x; i < a.num_kv_heads * a.head_dim; i += blockDim.x) {
        const i64 head = i / a.head_dim, dim = i % a.head_dim;
        at<Element>(a.rows, token, head, dim) = at<const Element>(a.kv, token, 2 * head + a.first_row, dim);
    }
}

// One token of K or of V to its slot; to none where the cache has no such slot.
template <typename Element>
__device__ void write_token(const Append& a, const Paged& cache, const Tensor& rows, i64 token, i64 where) {
    if (where < 0 || where >= a.num_slots) return;
    const i64 page = where / a.page_size, slot = where % a.page_size;
    for (i64 i = threadIdx.x; i < a.num_kv_heads * a.head_dim; i += blockDim.x) {
        const i64 head = i / a.head_dim, dim = i % a.head_dim;
        PagedRow<Element>(cache, page, slot, head)[dim] = at<const Element>(rows, token, head, dim);
    }
}

// One block a token.
template <typename Element, typename Index>
__device__ void append(const Append& a) {
    const i64 token = blockIdx.x;
    write_token<Element>(a, a.k_cache, a.k, token, at<const Index>(a.slot_mapping, token, K));
    if (a.v.data) write_token<Element>(a, a.v_cache, a.v, token, at<const Index>(a.slot_mapping, token, V));
}

// How many tokens a sequence has.
template <typename Index>
__device__ i64 length_of(const Table& table, i64 seq) {
    if (!table.begins.data) return at<const Index>(table.lens, seq);
    const i64 count = at<const Index>(table.begins, seq + 1) - at<const Index>(table.begins, seq);
    if (table.of_tokens || count == 0) return count;
    return (count - 1) * table.page_size + at<const Index>(table.lens, seq);
}

struct Place {
    i64 page, slot;
};

// Where K or V of a token is.
template <typename Index>
__device__ Place place_of(const Table& table, i64 seq, i64 position, Side side) {
    const i64 begin = table.begins.data ? at<const Index>(table.begins, seq) : 0;
    const i64 column = table.of_tokens ? position : position / table.page_size;
    const i64 entry = at<const Index>(table.entries, seq, begin + column, side);
    if (table.of_tokens) return {entry / table.page_size, entry % table.page_size};
    return {entry, position % table.page_size};
}

// Tokens of a sequence of K or of V, from a position on, to rows from another one on.
template <typename Element, typename Index>
__device__ void read_tokens(const Gather& a, Side side, i64 seq, i64 position, i64 num_tokens, i64 row) {
    const Paged& cache = side == K ? a.k_cache : a.v_cache;
    const Tensor& rows = side == K ? a.k : a.v;
    const i64 num_elements = a.num_kv_heads * a.head_dim;
    for (i64 i = threadIdx.x; i < num_tokens * num_elements; i += blockDim.x) {
        const i64 token = i / num_elements, head = i % num_elements / a.head_dim, dim = i % a.head_dim;
        const auto [page, slot] = place_of<Index>(a.table, seq, position + token, side);
        at<Element>(rows, row + token, head, dim) = PagedRow<const Element>(cache, page, slot, head)[dim];
    }
}

// One block a sequence and as many of its tokens as a page has. Entries without a live token are never read.
template <typename Element, typename Index>
__device__ void gather(const Gather& a) {
    const i64 seq = blockIdx.x, size = a.table.page_size, first = blockIdx.y * size;
    const i64 left = length_of<Index>(a.table, seq) - first, row = at<const i64>(a.starts, seq) + first;
    if (left <= 0) return;
    read_tokens<Element, Index>(a, K, seq, first, left < size ? left : size, row);
    if (a.v.data) read_tokens<Element, Index>(a, V, seq, first, left < size ? left : size, row);
}

// The first element of a pair's page.
template <typename Element, typename Index>
__device__ Element* page_of(const Pages& pages, i64 pair) {
    const i64 page = pages.number.data ? static_cast<i64>(at<const Index>(pages.number, pair)) : pair;
    return static_cast<Element*>(pages.data) + page * pages.page;
}

// One block a pair of pages. No target may be a source: blocks run in any order.
template <typename Element, typename Index>
__device__ void copy_pages(const CopyPages& a) {
    const Element* const source = page_of<const Element, Index>(a.source, blockIdx.x);
    Element* const target = page_of<Element, Index>(a.target, blockIdx.x);
    const i64 count = a.size[0] * a.size[1] * a.size[2] * a.size[3];
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) {
        i64 rest = i, from = 0, to = 0;
        for (int axis = 3; axis >= 0; --axis) {
            const i64 index = rest % a.size[axis];
            rest /= a.size[axis];
            from += index * a.source.stride[axis];
            to += index * a.target.stride[axis];
        }
        target[to] = source[from];
    }
}

}  // namespace
