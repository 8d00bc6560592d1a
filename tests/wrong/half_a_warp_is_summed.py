"""Wrong: lanes are added from distance 8 on, which makes two sums of 16 lanes each, not one of 32 (O43)."""

from kvconform.impls import cuda as right
from kvconform.tests.wrong._cuda import cuda_with

NAME = "half_a_warp_is_summed"
BACKEND = "cuda"
REQUIRES = ("ml_dtypes",)
PROGRAMS = ("g++", "clang++")
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32"}, "index_dtype": {"int32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"tile": 1}

_DECODE = """
__device__ void decode_by_one_warp(const Decode& a) {
    CUDA_DYNAMIC_SHARED(float, mixed);
    const i64 seq = blockIdx.x, head = blockIdx.y, lane = threadIdx.x, length = length_of<int>(a.table, seq);
    if (lane >= warpSize) return;
    float max = minus_infinity(), sum = 0.0f;
    for (i64 dim = lane; dim < a.head_dim; dim += warpSize) mixed[dim] = 0.0f;
    for (i64 key = 0; key < length; ++key) {
        const auto [page, slot] = place_of<int>(a.table, seq, key, K);
        const PagedRow<const float> k(a.k_cache, page, slot, head / a.group), v(a.v_cache, page, slot, head / a.group);
        float score = 0.0f;
        for (i64 dim = lane; dim < a.head_dim; dim += warpSize) score += at<const float>(a.q, seq, head, dim) * k[dim];
        for (int distance = 8; distance > 0; distance /= 2) score += __shfl_xor_sync(ALL_LANES, score, distance);
        score *= static_cast<float>(a.sm_scale);
        const float old = max;
        max = fmaxf(max, score);
        const float fade = weight(old, max), p = weight(score, max);
        sum = sum * fade + p;
        for (i64 dim = lane; dim < a.head_dim; dim += warpSize) mixed[dim] = mixed[dim] * fade + p * v[dim];
    }
    for (i64 dim = lane; dim < a.head_dim; dim += warpSize) at<float>(a.outs, 0, seq, head, dim) = mixed[dim] / sum;
    if (lane == 0) at<float>(a.lses, 0, seq, head) = max + logf(sum);
}
"""
_LINE = "KERNEL(decode_float32_int32, Decode, "
_wrong = cuda_with("kernels.cu", _LINE + "decode<float, int>);", _DECODE + _LINE + "decode_by_one_warp);")
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
