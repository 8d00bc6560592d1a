// What the kernels are told. arguments.py mirrors every struct field by field; a launch compares their sizes.
//
// Pointers and 64-bit integers only, so that no padding can differ between the two. Strides count elements.
#pragma once

#include "formats.cuh"

// A tensor of up to four axes, which the comment beside it names, wherever its elements lie.
struct Tensor {
    void* data;
    i64 stride[4];
};

// K or V of a paged cache, whatever its layout: dim = chunk * width + inner.
struct Paged {
    void* data;
    i64 page, slot, head, chunk, inner;  // strides
    i64 width;                           // inner elements of a chunk; head_dim where dims are not cut into chunks
};

struct MergeKv {
    Tensor k, v;  // [num_tokens, num_kv_heads, head_dim]
    Tensor kv;    // [num_tokens, 2 * num_kv_heads, head_dim]
    i64 num_kv_heads, head_dim;
};

struct Extract {
    Tensor kv;      // [num_tokens, 2 * num_kv_heads, head_dim]
    Tensor rows;    // [num_tokens, num_kv_heads, head_dim]
    i64 first_row;  // 0: K, 1: V
    i64 num_kv_heads, head_dim;
};

struct Append {
    Paged k_cache, v_cache;
    Tensor k, v;          // [num_tokens, num_kv_heads, head_dim]; v may be null: a cache of one tensor
    Tensor slot_mapping;  // [num_tokens]: page * page_size + slot, negative skips
    i64 page_size, num_kv_heads, head_dim;
};

struct Gather {
    Paged k_cache, v_cache;
    Tensor k, v;         // [total, num_kv_heads, head_dim]; v may be null
    Tensor block_table;  // [num_seqs, width]
    Tensor kv_lens;      // [num_seqs]
    Tensor starts;       // int64 [num_seqs]: the sequence's first row in k and v
    i64 page_size, num_kv_heads, head_dim;
};

struct Decode {
    Tensor q;  // [num_seqs, num_q_heads, head_dim]
    Paged k_cache, v_cache;
    Tensor block_table;  // [num_seqs, width]
    Tensor kv_lens;      // [num_seqs]
    Tensor outs;         // float32 [num_splits, num_seqs, num_q_heads, head_dim]
    Tensor lses;         // float32 [num_splits, num_seqs, num_q_heads]
    i64 page_size, group, head_dim;
    double sm_scale;
};

struct MergeStates {
    Tensor outs;  // [num_parts, num_seqs, num_q_heads, head_dim]
    Tensor lses;  // float32 [num_parts, num_seqs, num_q_heads]
    Tensor out;   // [num_seqs, num_q_heads, head_dim]
    Tensor lse;   // float32 [num_seqs, num_q_heads]
    i64 num_parts, head_dim;
};

struct Convert {
    const void* source;  // [count]
    void* target;        // [count]
    i64 count;
};
