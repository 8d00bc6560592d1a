// Kernels that move bytes: merge_kv, extract, append, gather. They know how large an element is, not what it means.
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

// The elements of (page, slot, head), by dim.
template <typename Element>
struct PagedRow {
    Element* row;
    i64 chunk, inner, width;

    __device__ PagedRow(const Paged& tensor, i64 page, i64 slot, i64 head)
        : row(static_cast<Element*>(tensor.data) + page * tensor.page + slot * tensor.slot + head * tensor.head),
          chunk(tensor.chunk),
          inner(tensor.inner),
          width(tensor.width) {}

    __device__ Element& operator[](i64 dim) const { return row[dim / width * chunk + dim % width * inner]; }
};

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

// One block a token.
template <typename Element, typename Index>
__device__ void append(const Append& a) {
    const i64 token = blockIdx.x, where = at<const Index>(a.slot_mapping, token);
    if (where < 0) return;
    const i64 page = where / a.page_size, slot = where % a.page_size;
    for (i64 i = threadIdx.x; i < a.num_kv_heads * a.head_dim; i += blockDim.x) {
        const i64 head = i / a.head_dim, dim = i % a.head_dim;
        PagedRow<Element>(a.k_cache, page, slot, head)[dim] = at<const Element>(a.k, token, head, dim);
        if (a.v.data) PagedRow<Element>(a.v_cache, page, slot, head)[dim] = at<const Element>(a.v, token, head, dim);
    }
}

// One block a sequence and a column of its block table. Columns without a live token are never read.
template <typename Element, typename Index>
__device__ void gather(const Gather& a) {
    const i64 seq = blockIdx.x, column = blockIdx.y;
    const i64 first = column * a.page_size, left = at<const Index>(a.kv_lens, seq) - first;
    if (left <= 0) return;
    const i64 page = at<const Index>(a.block_table, seq, column), row = at<const i64>(a.starts, seq) + first;
    const i64 num_elements = a.num_kv_heads * a.head_dim, num_slots = left < a.page_size ? left : a.page_size;
    for (i64 i = threadIdx.x; i < num_slots * num_elements; i += blockDim.x) {
        const i64 slot = i / num_elements, head = i % num_elements / a.head_dim, dim = i % a.head_dim;
        const i64 token = row + slot;
        at<Element>(a.k, token, head, dim) = PagedRow<const Element>(a.k_cache, page, slot, head)[dim];
        if (a.v.data) at<Element>(a.v, token, head, dim) = PagedRow<const Element>(a.v_cache, page, slot, head)[dim];
    }
}

}  // namespace
