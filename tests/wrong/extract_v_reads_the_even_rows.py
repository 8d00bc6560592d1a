"""Wrong: extract_v is extract_k (O48, ik_llama.cpp#1592)."""

from kvconform.impls import numpy_ref as right

NAME = "extract_v_reads_the_even_rows"
BACKEND = "numpy"
OFFERS = {
    "merge_kv": {"dtype": {"float32", "bfloat16"}},
    "extract_k": {"dtype": {"float32", "bfloat16"}},
    "extract_v": {"dtype": {"float32", "bfloat16"}},
}

merge_kv, extract_k, extract_v = right.merge_kv, right.extract_k, right.extract_k
