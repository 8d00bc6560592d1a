"""Layouts as data: every way of storing K and V that somebody's kernels read today, one row each.

Adding a layout is adding a row (docs/layouts.md shows the whole diff). Three independent guards keep a wrong row from
cancelling out between generator and oracle (`tests/test_layouts.py`): every row is a bijection onto its live bits,
golden addresses are computed from the upstream source's own pointer arithmetic, and an implementation
(`impls/numpy_ref.py`) reads by plain reshape and transposition.
"""

from __future__ import annotations

from kvconform.specs.row import SIDE_NAMES, SIDES, Bytes, Field, K, Layout, Part, V

__all__ = ["LAYOUTS", "SIDES", "SIDE_NAMES", "Bytes", "Field", "K", "Layout", "Part", "V"]

_TOKEN = "page slot head dim"
_SLOT_SKIPS = "a slot below 0 skips the token"

_FLOATS = ("float32", "float16", "bfloat16")
_SERVED = (*_FLOATS, "float8_e4m3fn", "float8_e5m2")
_TPU = ("float32", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8")
"""Types that a system's caches may have: llama.cpp's whole ones; vLLM's, SGLang's; those of TPU kernels."""


def _apart(k: str, v: str = "", of: str = _TOKEN) -> dict[str, Field]:
    """K and V in buffers of their own, by the same line unless V has another."""
    return {"k": Field(f"{of} -> {k}"), "v": Field(f"{of} -> {v or k}", side=V)}


def _fused(to: str) -> dict[str, Field]:
    """K and V in one buffer."""
    return {"kv": Field(f"kv {_TOKEN} -> {to}")}


def _beside(shared: str) -> dict[str, Field]:
    """K and V of widths of their own, one behind the other in one row; `shared` says where the row lies."""
    return {
        "k": Field(f"{_TOKEN} -> {shared} | dim", buffer="kv"),
        "v": Field(f"{_TOKEN}_v -> {shared} | dim_v", side=V, buffer="kv"),
    }


def _grouped(bits: str, k: tuple[str, str], v: tuple[str, str], *extra: str) -> dict[str, Field]:
    """Codes of K and V, and what each group of codes shares, in buffers of their own.

    bits    type of what is shared
    k, v    the line of the codes, that of what is shared
    extra   names of what is shared beside `scale`
    """
    fields = {}
    for side, (codes, shared) in zip(SIDES, (k, v), strict=True):
        name = SIDE_NAMES[side]
        fields[name] = Field(codes, side=side)
        fields |= {f"{name}_{one}": Field(shared, bits, side=side) for one in ("scale", *extra)}
    return fields


def _q8_0(name: str, side: int) -> dict[str, Field]:
    """Codes of K or V in blocks of 32, each behind its scale."""
    return {
        f"{name}_scale": Field("page slot head dim=(block [32]) -> page slot head block |", "float16", side, name),
        name: Field("page slot head dim=(block inside) -> page slot head block | inside", "", side, name),
    }


_SEPARATE = (
    Layout(
        name="nhd",
        fields=_apart("page slot head dim"),
        source="flashinfer docs/tutorials/kv_layout.rst, NHD; flash-attention's paged cache",
        table="csr",
        sentinels="flashinfer reads page 0 where an index lies beyond the table",
    ),
    Layout(
        name="hnd",
        fields=_apart("page head slot dim"),
        source="flashinfer docs/tutorials/kv_layout.rst, HND",
        table="csr",
        sentinels="flashinfer reads page 0 where an index lies beyond the table",
    ),
    Layout(
        name="heads_first",
        fields=_apart("head page slot dim"),
        source="jax pallas/ops/gpu/paged_attention.py and pallas/ops/tpu/paged_attention",
    ),
    Layout(
        name="split_x",
        fields={
            "k": Field("page slot head dim=(chunk x) -> page head chunk slot x"),
            "v": Field("page slot head dim -> page head dim slot", side=V),
        },
        inner={"x": Bytes(16)},
        source="vLLM csrc/cache_kernels.cu, reshape_and_cache; x = 16 bytes",
        sentinels=_SLOT_SKIPS,
    ),
    Layout(
        name="shuffled_v",
        fields={
            "k": Field("page slot head dim=(chunk x) -> page head chunk slot x"),
            "v": Field("page slot=(chunk x) head dim -> page head chunk dim x", side=V),
        },
        inner={"x": Bytes(16)},
        dtypes=_SERVED,
        source="aiter, as written by vLLM 2026-02 rocm_aiter_fa.py, reshape_and_cache_shuffle_kernel",
        sentinels=_SLOT_SKIPS,
    ),
    Layout(
        name="token_slots",
        fields=_apart("(page slot) head dim"),
        fixed={"slot": 1},
        dtypes=_SERVED,
        source="SGLang mem_cache/memory_pool.py, MHATokenToKVPool: k_buffer [size + page_size, head, dim]",
        table="token_slots",
        sentinels="slot 0 takes the writes of padding tokens; -1 is not guarded",
    ),
    Layout(
        name="token_slots_diffkv",
        fields={
            "k": Field("page slot head dim -> (page slot) head dim"),
            "v": Field("page slot head dim_v -> (page slot) head dim_v", side=V),
        },
        fixed={"slot": 1},
        dtypes=_SERVED,
        source="SGLang mem_cache/memory_pool.py, MHATokenToKVPool: v_buffer [size + page_size, head, v_head_dim]",
        table="token_slots",
        sentinels="slot 0 takes the writes of padding tokens; -1 is not guarded",
    ),
    Layout(
        name="trtllm_blocks",
        fields={"pool": Field("page slot head dim -> page head slot dim", side=None)},
        source="TensorRT-LLM cpp/tensorrt_llm/kernels/kvCacheUtils.h, getBlockPtr and getKVLocalIdx",
        table="block_pairs",
        sentinels="the top bit of a page is the secondary pool; all ones is no page",
    ),
)

_FUSED = (
    Layout(
        name="kv_first_nhd",
        fields=_fused("kv page slot head dim"),
        dtypes=_SERVED,
        source="vLLM 2026-02 v1/attention/backends/flash_attn.py, (2, num_blocks, block_size, heads, head_size)",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="kv_first_hnd",
        fields=_fused("kv page head slot dim"),
        dtypes=_SERVED,
        source="vLLM 2026-02 flash_attn.py, stride order (0, 1, 3, 2, 4); cpu_attn.py",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="page_first_nhd",
        fields=_fused("page kv slot head dim"),
        dtypes=_SERVED,
        source="vLLM 2026-02 triton_attn.py, flashinfer.py; flashinfer docs/tutorials/kv_layout.rst, 5-D NHD",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="page_first_hnd",
        fields=_fused("page kv head slot dim"),
        dtypes=_SERVED,
        source="vLLM 2026-02 flashinfer.py, stride order (0, 1, 3, 2, 4); flashinfer 5-D HND",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="beside_nhd",
        fields=_fused("page slot head (kv dim)"),
        dtypes=_SERVED,
        source="vLLM 2026-08 flash_attn.py, (num_blocks, heads, block_size, 2 * head_size), stride order (0, 2, 1, 3)",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="beside_hnd",
        fields=_fused("page head slot (kv dim)"),
        dtypes=_SERVED,
        source="vLLM 2026-08 flash_attn.py, flashinfer.py, triton_attn.py, cpu_attn.py",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="beside_nhd_diffkv",
        fields=_beside("page slot head"),
        dtypes=_SERVED,
        source="vLLM 2026 v1/attention/backends/flash_attn_diffkv.py, (num_blocks, heads, block_size, head_size + "
        "head_size_v), stride order (0, 2, 1, 3)",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="beside_hnd_diffkv",
        fields=_beside("page head slot"),
        dtypes=_SERVED,
        source="vLLM 2026 v1/attention/backends/flash_attn_diffkv.py, triton_attn_diffkv.py, stride order (0, 1, 2, 3)",
        sentinels=_SLOT_SKIPS + "; block 0 is null",
    ),
    Layout(
        name="interleaved",
        fields=_fused("page slot (head kv) dim"),
        source="tpu-inference ragged_paged_attention/v2 and jax pallas/ops/tpu/ragged_paged_attention: K is 0::2",
    ),
    Layout(
        name="packed",
        fields=_fused("page slot (head kv) dim, then page slot (row pack) lane -> page slot row pack lane"),
        inner={"pack": Bytes(4)},
        pad={"head": Bytes(2), "dim": 128},
        dtypes=_TPU,
        source="tpu-inference kernels/ragged_paged_attention/v3/kernel.py, get_kv_cache_shape and merge_kv",
        table="flat",
        sentinels="a page beyond the pool is clamped",
    ),
    Layout(
        name="packed_hd64",
        fields={"kv": Field("kv page slot head=(row pack) dim -> page slot row pack (kv dim)")},
        inner={"pack": Bytes(4)},
        pad={"head": Bytes(4)},
        fixed={"dim": 64},
        dtypes=_TPU,
        source="tpu-inference kernels/ragged_paged_attention/v3/kernel_hd64.py: K and V in one lane of 128",
        table="flat",
    ),
    Layout(
        name="packed_unaligned",
        fields=_fused("page slot (head kv) dim, then page slot (row pack) lane -> page slot row pack lane"),
        inner={"pack": Bytes(4)},
        pad={"dim": 128},
        dtypes=_TPU,
        source="sglang-jax mem_cache/memory_pool.py, MHATokenToKVPool and merge_kv: heads are not padded",
        table="ragged",
        sentinels="a kv_cache_loc of -1 becomes a slice of length 0",
    ),
    Layout(
        name="tokens_last",
        fields={"kv": Field("kv page slot head dim=(tile pack) -> page (head kv) tile pack slot")},
        inner={"pack": Bytes(4)},
        pad={"dim": Bytes(32)},
        fixed={"slot": 128},
        dtypes=_TPU,
        source="tpu-inference kernels/experimental/batched_rpa, KVLayout.SEQ_ALONG_LANE; 8 sublanes of 4 bytes",
        table="flat",
    ),
    Layout(
        name="fractal",
        fields=_fused("kv page slot (head dim), then kv page slot (chunk sixteen) -> kv page chunk slot sixteen"),
        inner={"sixteen": 16},
        dtypes=(*_SERVED, "int8"),
        source="vllm-ascend _310p/attention/attention_v1.py, (2, pages, heads * dim // 16, page_size, 16); that heads "
        "are slower than dim inside of it is inferred from the shape, no writer was read",
    ),
)

_CONTIGUOUS = (
    Layout(
        name="bshd",
        fields=_apart("page slot head dim"),
        source="flash-attention flash_attn_with_kvcache, k_cache (batch, seqlen, nheads_k, headdim)",
        contiguous=True,
        table="none",
    ),
    Layout(
        name="bhsd",
        fields=_apart("page head slot dim"),
        source="torch scaled_dot_product_attention, key (N, Hkv, S, E); ggml_flash_attn_ext, k and v permuted",
        contiguous=True,
        table="none",
    ),
    Layout(
        name="cells",
        fields=_apart("page slot (head dim)"),
        dtypes=_FLOATS,
        source="llama.cpp src/llama-kv-cache.cpp, [n_embd_k_gqa, kv_size, n_stream]; a page is a stream, a slot a cell",
        contiguous=True,
        table="none",
        sentinels="a cell whose position is -1 is empty",
    ),
    Layout(
        name="cells_v_transposed",
        fields=_apart("page slot (head dim)", "page (head dim) slot"),
        dtypes=_FLOATS,
        source="llama.cpp src/llama-kv-cache.cpp with v_trans (flash attention off), set_input_v_idxs",
        contiguous=True,
        table="none",
        sentinels="a cell whose position is -1 is empty",
    ),
    Layout(
        name="cells_q8_0",
        fields=_q8_0("k", K) | _q8_0("v", V),
        inner={"inside": 32},
        dtypes=("int8",),
        source="llama.cpp src/llama-kv-cache.cpp with ggml row sizes of Q8_0; ggml-common.h, block_q8_0",
        contiguous=True,
        table="none",
        sentinels="a cell whose position is -1 is empty",
    ),
)

_LATENT = (
    Layout(
        name="mla",
        fields={
            "ckv": Field("page slot dim -> page slot | dim", buffer="kv_cache"),
            "kpe": Field("page slot rope -> page slot | rope", buffer="kv_cache"),
        },
        fixed={"rope": 64},
        attends=(("ckv", "kpe"), ("ckv",)),
        dtypes=_SERVED,
        source="vLLM csrc/cache_kernels.cu, concat_and_cache_mla: rows of kv_lora_rank + pe_dim; flashinfer's ckv, kpe",
        sentinels=_SLOT_SKIPS,
    ),
    Layout(
        name="mla_aligned",
        fields={
            "ckv": Field("page slot=(row pack) dim -> page row pack | dim", buffer="kv_cache"),
            "kpe": Field("page slot=(row pack) rope -> page row pack | rope", buffer="kv_cache"),
        },
        fixed={"rope": 64},
        inner={"pack": Bytes(4)},
        pad={"slot": Bytes(4), "dim": 128, "rope": 128},
        attends=(("ckv", "kpe"), ("ckv",)),
        dtypes=_TPU,
        source="sglang-jax mem_cache/memory_pool.py, MLATokenToKVPool: each of the two is aligned to 128 alone",
        table="ragged",
    ),
    Layout(
        name="mla_packed",
        fields={"ckv": Field("page slot=(row pack) dim -> page row pack dim")},
        inner={"pack": Bytes(4)},
        pad={"slot": Bytes(4), "dim": 128},
        dtypes=_TPU,
        source="tpu-inference kernels/mla/v2/kernel.py, get_kv_cache_shape; dim is latent and rope together",
        table="flat",
    ),
    Layout(
        name="mla_tokens_last",
        fields={"ckv": Field("page slot dim -> page dim slot")},
        fixed={"slot": 128},
        dtypes=_TPU,
        source="tpu-inference kernels/mla/v2/kernel.py, get_kv_cache_shape with transpose_kv_cache",
        table="flat",
    ),
    Layout(
        name="mla_656",
        fields={
            "nope": Field("page slot dim -> page slot | dim", buffer="kv_cache"),
            "nope_scale": Field("page slot dim=(tile [128]) -> page slot | tile", "float32", buffer="kv_cache"),
            "rope": Field("page slot rope -> page slot | rope", "bfloat16", buffer="kv_cache"),
        },
        fixed={"dim": 512, "rope": 64},
        attends=(("nope", "rope"), ("nope",)),
        dtypes=("float8_e4m3fn",),
        source="vLLM csrc/cache_kernels.cu, concat_and_cache_ds_mla; FlashMLA, whose tests allocate page_size + 1 rows",
        sentinels="a sparse index of -1 is no token",
    ),
    Layout(
        name="mla_scales_behind",
        fields={
            "nope": Field("page slot dim -> page | slot | dim", buffer="kv_cache"),
            "rope": Field("page slot rope -> page | slot | rope", "bfloat16", buffer="kv_cache"),
            "nope_scale": Field("page slot dim=(tile [64]) -> page | slot tile", "float8_e8m0fnu", buffer="kv_cache"),
        },
        fixed={"dim": 448, "rope": 64},
        pad={"tile": 8, "page |": Bytes(576)},
        attends=(("nope", "rope"), ("nope",)),
        dtypes=("float8_e4m3fn",),
        source="FlashMLA tests/quant.py and csrc/sm90/decode/sparse_fp8/splitkv_mla.cuh, MODEL1",
        sentinels="a sparse index of -1 is no token",
    ),
    Layout(
        name="indexer_k",
        fields={
            "k": Field("page slot dim -> page | slot dim", buffer="kv_cache"),
            "k_scale": Field("page slot dim=(block [128]) -> page | slot block", "float32", buffer="kv_cache"),
        },
        dtypes=("float8_e4m3fn",),
        source="vLLM csrc/cache_kernels.cu, indexer_k_quant_and_cache_kernel, quant_block_size 128",
        sentinels=_SLOT_SKIPS,
    ),
)

_ALONG_DIM, _HND = "page slot head dim=(block [16])", "page head slot"

_QUANTISED = (
    Layout(
        name="token_head_scales",
        fields={
            "kv": Field("kv page slot head dim -> page slot head kv | dim", buffer="kv_cache"),
            "kv_scale": Field("kv page slot head [dim] -> page slot head kv |", "float32", buffer="kv_cache"),
        },
        dtypes=("int8", "float8_e4m3fn", "uint4"),
        source="vLLM v1/attention/backends/triton_attn.py, _ensure_scale_caches: K, its scale, V, its scale",
        sentinels=_SLOT_SKIPS,
    ),
    Layout(
        name="nvfp4",
        fields=_grouped(
            "float8_e4m3fn",
            (f"{_TOKEN} -> {_HND} dim", f"{_ALONG_DIM} -> {_HND} block"),
            (f"{_TOKEN} -> {_HND} dim", f"{_ALONG_DIM} -> {_HND} block"),
        ),
        dtypes=("float4_e2m1fn",),
        source="flashinfer nvfp4_append: uint8 [..., dim / 2], the even element low; scales [..., dim / 16], linear",
        table="csr",
    ),
    Layout(
        name="nvfp4_swizzled",
        fields={
            "k": Field(f"{_TOKEN} -> page | head slot dim", buffer="kv_cache"),
            "k_scale": Field(f"{_ALONG_DIM} -> page | head slot block", "float8_e4m3fn", buffer="kv_cache"),
            "v": Field(f"{_TOKEN} -> page | head slot dim", side=V, buffer="kv_cache"),
            "v_scale": Field(
                "page slot=(quad token) head dim=(part rest [16]) -> page | head quad part rest token",
                "float8_e4m3fn",
                V,
                "kv_cache",
            ),
        },
        inner={"token": 4, "part": 4},
        dtypes=("float4_e2m1fn",),
        source="vLLM csrc/nvfp4_kv_cache_kernels.cu, swizzle_scale_offset; torch_utils.py, nvfp4_split_data_scale",
        sentinels=_SLOT_SKIPS,
    ),
    Layout(
        name="fp4_slots",
        fields=_grouped(
            "float8_e8m0fnu",
            (f"{_TOKEN} -> (page slot) head dim", f"{_ALONG_DIM} -> (page slot) (head block)"),
            (f"{_TOKEN} -> (page slot) head dim", f"{_ALONG_DIM} -> (page slot) (head block)"),
        ),
        fixed={"slot": 1},
        dtypes=("float4_e2m1fn",),
        source="SGLang mem_cache/memory_pool.py, MHATokenToKVPoolFP4; kvfp4_tensor.py: the even element low",
        table="token_slots",
        sentinels="slot 0 takes the writes of padding tokens; -1 is not guarded",
    ),
    Layout(
        name="kivi",
        fields=_grouped(
            "float16",
            (f"{_TOKEN} -> page head dim slot", "page slot=(group [32]) head dim -> page head dim group"),
            (f"{_TOKEN} -> page head slot dim", "page slot head dim=(group [32]) -> page head slot group"),
            "zero",
        ),
        dtypes=("uint2", "uint4"),
        word="int32",
        source="KIVI quant/new_pack.py, triton_quantize_and_pack_along_last_dim; models/llama_kivi.py, group size 32",
        contiguous=True,
        table="none",
    ),
    Layout(
        name="kivi_torch",
        fields=_grouped(
            "float16",
            (
                "page slot=(line feat) head dim -> page head line (dim feat)",
                "page slot=(group [32]) head dim -> page head group dim",
            ),
            (f"{_TOKEN} -> page head slot dim", "page slot head dim=(group [32]) -> page head slot group"),
            "zero",
        ),
        inner={"feat": Bytes(4)},
        dtypes=("uint2", "uint4"),
        word="int32",
        source="KIVI quant/new_pack.py, quant_and_pack_kcache: the same repository's second layout of K",
        contiguous=True,
        table="none",
    ),
    Layout(
        name="kvquant",
        fields=_apart("page head line (slot eight)", of="page slot head dim=(line eight)"),
        inner={"eight": 8},
        attends=((), ()),  # codes of a table of its own
        dtypes=("uint4",),
        word="int32",
        source="KVQuant deployment/kvquant/quant_cuda_kernel.cu, VecQuant4AppendVecKSparse: [heads, dim / 8, max_len]",
        contiguous=True,
        table="none",
        sentinels="a slot is added to, so it must hold 0 before",
    ),
)

_CODES = (
    Layout(
        name="code_rows",
        fields={"codes": Field("page slot subspace -> page slot subspace")},
        dtypes=("uint8",),
        source="MILLION, codes of one (sequence, head) in token order",
    ),
    Layout(
        name="code_columns",
        fields={"codes": Field("page slot subspace -> page subspace slot")},
        dtypes=("uint8",),
        source="MILLION, paged: a page is the transpose of its (page_size, M) codes",
    ),
    Layout(
        name="code_heads",
        fields={"codes": Field("page slot head subspace -> page head slot subspace")},
        dtypes=("uint8",),
        source="MILLION scripts/modeldb/bindings/Kernel.cuh, key_codes [batch, heads, tokens, M]",
        contiguous=True,
        table="none",
    ),
)

_CODE = "page slot subspace"


def _pq(name: str, v: str, source: str, *, contiguous: bool = False) -> Layout:
    """Pools of the codes of K and of V, a page of which belongs to one kv head of one sequence.

    v   where the codes of V lie; those of K lie token by token
    """
    return Layout(
        name=name,
        holds="code_pages",
        fields={"k": Field(f"{_CODE} -> {_CODE}"), "v": Field(f"{_CODE} -> {v}", side=V)},
        attends=((), ()),  # codes of a table of its own
        dtypes=_PQ_CODES,
        source=source,
        contiguous=contiguous,
        table="none" if contiguous else "block_table",
        sentinels=_SLOT_SKIPS,
    )


_PQ_CODES = ("uint8", "uint4")
"""Codes of up to 256, or up to 16, centroids."""

_PQ = (
    Layout(
        name="codes",
        holds="codes",
        fields={"codes": Field("token head subspace -> token head subspace")},
        dtypes=_PQ_CODES,
        source="MILLION: codes of product quantisation, a number for each subspace of a head",
        table="none",
    ),
    _pq("pq_rows", _CODE, "MILLION, codes of one (sequence, head) in token order, in pages"),
    _pq("pq_columns", "page subspace slot", "MILLION, paged: a page of V is the transpose of its (page_size, M) codes"),
    _pq(
        "pq_heads",
        _CODE,
        "MILLION scripts/modeldb/bindings/Kernel.cuh, key_codes and value_codes [batch, heads, tokens, M]",
        contiguous=True,
    ),
)

_OTHER = (
    Layout(
        name="fused",
        holds="tokens",
        fields={"kv": Field("kv token head dim -> token (head kv) dim")},
        source="tpu-inference merge_kv: K0 V0 K1 V1 ...",
        table="none",
    ),
    Layout(
        name="parts_first",
        holds="splits",
        fields={"outs": Field("part seq head dim -> part seq head dim")},
        dtypes=("float32", "float16", "bfloat16"),
        source="partial outputs of split-KV decode, [num_parts, num_seqs, num_q_heads, head_dim]",
        table="none",
    ),
)


def _format(name: str, dtype: str, fields: dict[str, tuple[str, str]], inner: dict[str, int]) -> Layout:
    """A byte format: of each field of a block the line, and its type where that is not the cache's."""
    upstream = name.removesuffix("_blocks")
    return Layout(
        name=name,
        holds="elements",
        fields={field: Field(line, of, buffer="blocks") for field, (line, of) in fields.items()},
        inner=inner,
        dtypes=(dtype,),
        source=f"ggml src/ggml-common.h, block_{upstream}, and ggml-quants.c, dequantize_row_{upstream}",
        table="none",
    )


_F16 = ("dim=(block [32]) -> block |", "float16")
_HALVES = ("dim=(block half inside) -> block | inside half", "")  # elements i and i + 16 share a byte
_FIFTH = ("dim=(block bit) -> block | bit", "uint1")
_IN_32 = {"half": 2, "inside": 16, "bit": 32}

_FORMATS = (
    _format("q8_0", "int8", {"scale": _F16, "codes": ("dim=(block bit) -> block | bit", "")}, _IN_32),
    _format("q4_0", "uint4", {"scale": _F16, "codes": _HALVES}, _IN_32),
    _format("q4_1", "uint4", {"scale": _F16, "least": _F16, "codes": _HALVES}, _IN_32),
    _format("q5_0", "uint4", {"scale": _F16, "fifth": _FIFTH, "codes": _HALVES}, _IN_32),
    _format("q5_1", "uint4", {"scale": _F16, "least": _F16, "fifth": _FIFTH, "codes": _HALVES}, _IN_32),
    _format(
        "q6_K",
        "uint4",
        {
            "codes": ("dim=(block part top pair inside) -> block | part pair inside top", ""),
            "high": ("dim=(block part top pair inside) -> block | part inside (top pair)", "uint2"),
            "scales": ("dim=(block sub [16]) -> block | sub", "int8"),
            "scale": ("dim=(block [256]) -> block |", "float16"),
        },
        {"part": 2, "top": 2, "pair": 2, "inside": 32, "sub": 16},
    ),
    _format("iq4_nl", "uint4", {"scale": _F16, "codes": _HALVES}, _IN_32),
    _format("mxfp4", "float4_e2m1fn", {"scale": (_F16[0], "float8_e8m0fnu"), "codes": _HALVES}, _IN_32),
    _format(
        "nvfp4_blocks",
        "float4_e2m1fn",
        {
            "scale": ("dim=(block sub [16]) -> block | sub", "float8_e4m3fn"),
            "codes": ("dim=(block sub half inside) -> block | sub inside half", ""),
        },
        {"sub": 4, "half": 2, "inside": 8},
    ),
)

_ROWS = (*_SEPARATE, *_FUSED, *_CONTIGUOUS, *_LATENT, *_QUANTISED, *_CODES, *_PQ, *_OTHER, *_FORMATS)

LAYOUTS: dict[str, Layout] = {row.name: row for row in _ROWS}
