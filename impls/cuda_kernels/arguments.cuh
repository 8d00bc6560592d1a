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

// An axis of a cache that may be cut in two: index i lies i / width * outer + i % width * inner elements on.
struct Axis {
    i64 outer, inner, width;
};

// K or V of a paged cache, whatever its layout.
struct Paged {
    void* data;
    i64 page;  // stride
    Axis slot, head, dim;
    i64 span;  // dims of a head where heads and dims are one axis, that of dim; else 0
};

// The pages of one array of a cache; a page has the sizes that a CopyPages names.
struct Pages {
    void* data;
    i64 page;       // stride
    i64 stride[4];  // of a page's own axes
    Tensor number;  // [num_pairs]: the page of each pair; null: they are numbered like the pairs
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
    Tensor slot_mapping;  // [num_tokens, K or V]: page * page_size + slot; nothing is written outside the cache
    i64 num_slots, page_size, num_kv_heads, head_dim;
};

// Where the tokens of sequences are: a block table, or where `begins` is not null CSR, of pages or of slots of tokens.
struct Table {
    Tensor entries;  // [num_seqs, width, K or V]: pages; of CSR [any, num_entries, any], the first axis without a stride
    Tensor begins;   // [num_seqs + 1]: where a sequence begins among the entries, kv_indptr; null: at its own row
    Tensor lens;     // [num_seqs]: tokens of the sequence; of CSR of its last page, where entries are pages
    i64 of_tokens;   // whether an entry is the slot of a token, page * page_size + slot
    i64 page_size;
};

struct Gather {
    Paged k_cache, v_cache;
    Tensor k, v;    // [total, num_kv_heads, head_dim]; v may be null
    Tensor starts;  // int64 [num_seqs]: the sequence's first row in k and v
    Table table;
    i64 num_kv_heads, head_dim;
};

struct CopyPages {
    Pages source, target;
    i64 size[4];  // of a page
};

// What attention may have beside softmax over all keys. Null, or 0: it has not.
struct Features {
    Tensor q_lens;               // [num_seqs]: query rows of each sequence, the last one of its newest key; null: one
    Tensor sinks, alibi_slopes;  // float32 [num_q_heads]
    Tensor tree_mask;            // bool [num_rows, longest q_len]: the query tokens of its sequence that a row sees
    i64 window;                  // keys that a row sees at most, its own among them
    double soft_cap;
};

struct Decode {
    Tensor q;  // [num_rows, num_q_heads, head_dim]: sequence after sequence
    Paged k_cache, v_cache;
    Tensor k_scale, v_scale;  // bytes of float32 [num_pages, page_size, num_kv_heads, 4]; of narrow caches; null: 1
    Tensor outs;              // float32 [num_splits, num_rows, num_q_heads, head_dim_v]
    Tensor lses;              // float32 [num_splits, num_rows, num_q_heads]
    Table table;
    i64 group;
    i64 head_dim, head_dim_v;  // elements of a head of K, of V
    i64 q_format;              // a QFormat, where the cache is narrow; else q has the cache's
    double sm_scale;
    Features features;  // for the kernels that have them
};

struct MergeStates {
    Tensor outs;  // [num_parts, num_rows, num_q_heads, head_dim]
    Tensor lses;  // float32 [num_parts, num_rows, num_q_heads]
    Tensor out;   // [num_rows, num_q_heads, head_dim]
    Tensor lse;   // float32 [num_rows, num_q_heads]
    i64 num_parts, head_dim;
};

struct Convert {
    const void* source;  // [count]
    void* target;        // [count]
    i64 count;
};

// ---- product quantisation ----

// Integers of 32 bits, or of 64 where they are wide.
struct Indices {
    Tensor of;
    i64 wide;
};

// Codes [page, slot, subspace]. A byte holds one code, or two of 4 bits that are neighbours along the axis `paired`, the
// even one in the low half; strides count bytes, so of that axis a stride leads from pair to pair.
struct Codes {
    void* data;
    i64 page, slot, subspace;  // strides
    i64 paired;                // a Pairing
};

struct Codebook {
    Tensor centroids;  // [num_subspaces, count, sub_dim]
    i64 count;
};

// One vector of codes is one row: num_tokens are pages of it, num_kv_heads slots.
struct PqCode {
    Tensor x;  // [num_tokens, num_kv_heads, num_subspaces * sub_dim]
    Codes codes;
    Codebook codebook;
    i64 num_subspaces, sub_dim;
};

struct PqAppend {
    Tensor k, v;  // [num_tokens, num_kv_heads, num_subspaces * sub_dim]
    Codes k_codes, v_codes;
    Codebook k_codebook, v_codebook;
    Indices slot_mapping;  // [num_tokens, num_kv_heads]: page * page_size + slot; nothing is written outside the cache
    i64 num_slots, page_size, num_subspaces, sub_dim;
    i64 parity;  // of the slots that a launch writes where two of them share bytes
};

struct PqAttention {
    Tensor q;  // [num_seqs, num_q_heads, head_dim]
    Codes k, v;
    Codebook k_codebook, v_codebook;
    Indices page_ids;  // [num_seqs, num_kv_heads, width]
    Indices lens;      // [num_seqs]: tokens in codes
    Tensor outs;       // float32 [num_splits, num_seqs, num_q_heads, head_dim]
    Tensor lses;       // float32 [num_splits, num_seqs, num_q_heads]
    i64 page_size, head_dim, num_subspaces;
    i64 num_kv_heads, group;
    i64 chunk;  // subspaces whose scores are tabulated at a time
    i64 tile;   // tokens between two updates of the running maximum
    double sm_scale;
};
