"""Wrong: extract_v gives as_strided an offset in the view, and it counts from the beginning of the storage (O49)."""

from kvconform.impls import torch_ref as right

NAME = "extract_v_counts_from_the_storage"
BACKEND = "torch"
REQUIRES = ("torch",)
OFFERS = {
    "extract_k": {"dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer", "all"}},
    "extract_v": {"dtype": {"float32", "bfloat16"}, "strides": {"contiguous", "outer", "all"}},
}

to_device, to_host = right.to_device, right.to_host
extract_k = right.extract_k


def extract_v(kv):
    tokens, rows, dim = kv.shape
    token, row, inner = kv.stride()
    return kv.as_strided((tokens, rows // 2, dim), (token, 2 * row, inner), row)
