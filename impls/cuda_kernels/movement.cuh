// Kernels that move bytes: merge_kv, extract, append, gather. They know how large an element is, not what it means.
#pragma once

#include "arguments.cuh"

namespace {

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
    const i64 num_elements = a.num_kv_heads * a.head_dim, token = blockIdx.x;
    const Element* const k = static_cast<const Element*>(a.k) + token * num_elements;
    const Element* const v = static_cast<const Element*>(a.v) + token * num_elements;
    Element* const kv = static_cast<Element*>(a.kv) + token * 2 * num_elements;
    for (i64 i = threadIdx.x; i < num_elements; i += blockDim.x) {
        const i64 head = i / a.head_dim, dim = i % a.head_dim;
        kv[2 * head * a.head_dim + dim] = k[i];
        kv[(2 * head + 1) * a.head_dim + dim] = v[i];
    }
}

// One block a token; every other row, from first_row on.
template <typename Element>
__device__ void extract(const Extract& a) {
    const i64 num_elements = a.num_kv_heads * a.head_dim, token = blockIdx.x;
    const Element* const kv = static_cast<const Element*>(a.kv) + token * 2 * num_elements;
    Element* const rows = static_cast<Element*>(a.rows) + token * num_elements;
    for (i64 i = threadIdx.x; i < num_elements; i += blockDim.x)
        rows[i] = kv[(2 * (i / a.head_dim) + a.first_row) * a.head_dim + i % a.head_dim];
}

// One block a token.
template <typename Element, typename Index>
__device__ void append(const Append& a) {
    const i64 token = blockIdx.x, where = static_cast<const Index*>(a.slot_mapping)[token];
    if (where < 0) return;
    const i64 page = where / a.page_size, slot = where % a.page_size;
    const i64 num_elements = a.num_kv_heads * a.head_dim, row = token * num_elements;
    for (i64 i = threadIdx.x; i < num_elements; i += blockDim.x) {
        const i64 head = i / a.head_dim, dim = i % a.head_dim;
        PagedRow<Element>(a.k_cache, page, slot, head)[dim] = static_cast<const Element*>(a.k)[row + i];
        if (a.v) PagedRow<Element>(a.v_cache, page, slot, head)[dim] = static_cast<const Element*>(a.v)[row + i];
    }
}

// One block a sequence and a column of its block table. Columns without a live token are never read.
template <typename Element>
__device__ void gather(const Gather& a) {
    const i64 seq = blockIdx.x, column = blockIdx.y;
    const i64 first = column * a.page_size, left = a.kv_lens[seq] - first;
    if (left <= 0) return;
    const i64 page = a.block_table[seq * a.width + column];
    const i64 num_elements = a.num_kv_heads * a.head_dim, row = (a.starts[seq] + first) * num_elements;
    const i64 num_slots = left < a.page_size ? left : a.page_size;
    for (i64 i = threadIdx.x; i < num_slots * num_elements; i += blockDim.x) {
        const i64 slot = i / num_elements, head = i % num_elements / a.head_dim, dim = i % a.head_dim;
        static_cast<Element*>(a.k)[row + i] = PagedRow<Element>(a.k_cache, page, slot, head)[dim];
        if (a.v) static_cast<Element*>(a.v)[row + i] = PagedRow<Element>(a.v_cache, page, slot, head)[dim];
    }
}

}  // namespace
