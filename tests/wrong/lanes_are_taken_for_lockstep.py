"""Wrong: a warp adds through shared memory with no __syncwarp between its steps, as if it still ran in lockstep."""

from kvconform.impls import cuda as right
from kvconform.tests.wrong._cuda import cuda_with

NAME = "lanes_are_taken_for_lockstep"
BACKEND = "cuda"
REQUIRES = ("ml_dtypes",)
PROGRAMS = ("g++", "clang++")
OFFERS = {"merge_states": {"dtype": {"float32"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_MERGE = """
__device__ void merge_in_lockstep(const MergeStates& a) {
    __shared__ float sums[THREADS];
    const i64 seq = blockIdx.x, q_head = blockIdx.y, thread = threadIdx.x;
    const auto lse_of = [&](i64 part) { return at<const float>(a.lses, part, seq, q_head); };
    float top = minus_infinity();
    for (i64 part = 0; part < a.num_parts; ++part) top = fmaxf(top, lse_of(part));
    sums[thread] = thread < a.num_parts ? weight(lse_of(thread), top) : 0.0f;
    __syncthreads();
    if (thread < warpSize)
        for (int half = warpSize; half > 0; half /= 2) sums[thread] += sums[thread + half];
    __syncthreads();
    for (i64 dim = thread; dim < a.head_dim; dim += THREADS) {
        float merged = 0.0f;
        for (i64 part = 0; part < a.num_parts; ++part)
            if (const float p = weight(lse_of(part), top); p > 0)
                merged += p * at<const float>(a.outs, part, seq, q_head, dim);
        at<float>(a.out, seq, q_head, dim) = sums[0] > 0 ? merged / sums[0] : 0.0f;
    }
    if (thread == 0) at<float>(a.lse, seq, q_head) = sums[0] > 0 ? top + logf(sums[0]) : minus_infinity();
}
"""
_LINE = "KERNEL(merge_float32_into_float32, MergeStates, "
_wrong = cuda_with("kernels.cu", _LINE + "merge_states<float, float>);", _MERGE + _LINE + "merge_in_lockstep);")
to_device, to_host, attest, merge_states = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.merge_states
