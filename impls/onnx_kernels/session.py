"""Models of one node each, GroupQueryAttention, made for what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache as memoised
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper

INPUTS = "query key value past_key past_value seqlens_k total_sequence_length cos_cache sin_cache position_ids"
INPUTS += " attention_bias head_sink k_scale v_scale q_norm_weight k_norm_weight query_seqlens"
RESULTS = ["out", "present_key", "present_value"]


def run(arrays: Mapping[str, np.ndarray[Any, Any] | None], **attributes: Any) -> np.ndarray[Any, Any]:
    """Its first result; an input that is None is left out of the node."""
    given = {name: array for name, array in arrays.items() if array is not None}
    signature = tuple((name, array.dtype, array.ndim) for name, array in given.items())
    (out,) = _session(signature, **attributes).run(RESULTS[:1], given)
    return np.asarray(out)


@memoised
def _session(given: tuple[tuple[str, np.dtype[Any], int], ...], **attributes: Any) -> onnxruntime.InferenceSession:
    types = {name: helper.np_dtype_to_tensor_dtype(dtype) for name, dtype, _ in given}
    names = [name if name in types else "" for name in INPUTS.split()]
    node = helper.make_node("GroupQueryAttention", names, RESULTS, domain="com.microsoft", **attributes)
    takes = [helper.make_tensor_value_info(name, types[name], [None] * rank) for name, _, rank in given]
    gives = helper.make_tensor_value_info(RESULTS[0], types["query"], None)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "g", takes, [gives]), ir_version=8, opset_imports=versions)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
