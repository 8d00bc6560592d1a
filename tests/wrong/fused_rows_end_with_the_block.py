"""Wrong: one element a thread and no second round: what a token has beyond the block's threads is not merged (O43)."""

from kvconform.tests.wrong._cuda import cuda_with

NAME = "fused_rows_end_with_the_block"
BACKEND = "cuda"
REQUIRES = ("ml_dtypes",)
PROGRAMS = ("g++", "clang++")
OFFERS = {
    "merge_kv": {"dtype": {"float32", "uint8"}},
    "extract_k": {"dtype": {"uint8"}},
    "extract_v": {"dtype": {"uint8"}},
}

_HEAD = """__device__ void merge_kv(const MergeKv& a) {
    const i64 token = blockIdx.x;
    """
_wrong = cuda_with(
    "movement.cuh",
    _HEAD + "for (i64 i = threadIdx.x; i < a.num_kv_heads * a.head_dim; i += blockDim.x) {",
    _HEAD + "if (const i64 i = threadIdx.x; i < a.num_kv_heads * a.head_dim) {",
)
to_device, to_host, attest = _wrong.to_device, _wrong.to_host, _wrong.attest
merge_kv, extract_k, extract_v = _wrong.merge_kv, _wrong.extract_k, _wrong.extract_v
