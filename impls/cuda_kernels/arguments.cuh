// What the kernels are told. arguments.py mirrors every struct field by field; a launch compares their sizes.
//
// Pointers and 64-bit integers only, so that no padding can differ between the two.
#pragma once

#include "formats.cuh"

// K or V of a paged cache, whatever its layout: strides count elements, dim = chunk * width + inner.
struct Paged {
    void* data;
    i64 page, slot, head, chunk, inner;  // strides
    i64 width;                           // inner elements of a chunk; head_dim where dims are not cut into chunks
};

struct MergeKv {
    const void *k, *v;  // [num_tokens, num_kv_heads, head_dim]
    void* kv;           // [num_tokens, 2 * num_kv_heads, head_dim]
    i64 num_kv_heads, head_dim;
};

struct Extract {
    const void* kv;  // [num_tokens, 2 * num_kv_heads, head_dim]
    void* rows;      // [num_tokens, num_kv_heads, head_dim]
    i64 first_row;   // 0: K, 1: V
    i64 num_kv_heads, head_dim;
};

struct Append {
    Paged k_cache, v_cache;
    const void *k, *v;         // [num_tokens, num_kv_heads, head_dim]; v may be null: a cache of one tensor
    const void* slot_mapping;  // int32 or int64 [num_tokens]: page * page_size + slot, negative skips
    i64 page_size, num_kv_heads, head_dim;
};

struct Gather {
    Paged k_cache, v_cache;
    void *k, *v;             // [total, num_kv_heads, head_dim]; v may be null
    const int* block_table;  // [num_seqs, width]
    const int* kv_lens;      // [num_seqs]
    const i64* starts;       // [num_seqs]: the sequence's first row in k and v
    i64 width, page_size, num_kv_heads, head_dim;
};

struct Decode {
    const void* q;  // [num_seqs, num_q_heads, head_dim]
    Paged k_cache, v_cache;
    const int* block_table;  // [num_seqs, width]
    const int* kv_lens;      // [num_seqs]
    float* outs;             // [num_splits, num_seqs, num_q_heads, head_dim]
    float* lses;             // [num_splits, num_seqs, num_q_heads]
    i64 width, page_size, group, head_dim;
    double sm_scale;
};

struct MergeStates {
    const void* outs;   // [num_parts, num_rows, head_dim]
    const float* lses;  // [num_parts, num_rows]
    void* out;          // [num_rows, head_dim]
    float* lse;         // [num_rows]
    i64 num_parts, num_rows, head_dim;
};

struct Convert {
    const void* source;  // [count]
    void* target;        // [count]
    i64 count;
};
