"""What the kernels are told: the structs of `arguments.cuh`, field by field, pointers and 64-bit numbers only.

A launch on the CPU compares their sizes. An address of None is a null pointer.
"""

from __future__ import annotations

import ctypes
from typing import Any

AXES = 4
"""Most axes of a Tensor, and of a page."""


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * AXES)]


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Axis(ctypes.Structure):
    _fields_ = _fields(ctypes.c_int64, "outer inner width")


class Paged(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("page", ctypes.c_int64),
        *_fields(Axis, "slot head dim"),
        ("span", ctypes.c_int64),
    ]


class Pages(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("page", ctypes.c_int64),
        ("stride", ctypes.c_int64 * AXES),
        ("number", Tensor),
    ]


_CACHES = _fields(Paged, "k_cache v_cache")


class MergeKv(ctypes.Structure):
    _fields_ = [*_fields(Tensor, "k v kv"), *_fields(ctypes.c_int64, "num_kv_heads head_dim")]


class Extract(ctypes.Structure):
    _fields_ = [*_fields(Tensor, "kv rows"), *_fields(ctypes.c_int64, "first_row num_kv_heads head_dim")]


class Append(ctypes.Structure):
    _fields_ = [
        *_CACHES,
        *_fields(Tensor, "k v slot_mapping"),
        *_fields(ctypes.c_int64, "num_slots page_size num_kv_heads head_dim"),
    ]


class Table(ctypes.Structure):
    _fields_ = [*_fields(Tensor, "entries begins lens"), *_fields(ctypes.c_int64, "of_tokens page_size")]


class Gather(ctypes.Structure):
    _fields_ = [
        *_CACHES,
        *_fields(Tensor, "k v starts"),
        ("table", Table),
        *_fields(ctypes.c_int64, "num_kv_heads head_dim"),
    ]


class CopyPages(ctypes.Structure):
    _fields_ = [*_fields(Pages, "source target"), ("size", ctypes.c_int64 * AXES)]


Q_FORMATS = ("float32", "float16", "bfloat16")
"""QFormat of attention.cuh, by number."""


class Features(ctypes.Structure):
    _fields_ = [
        *_fields(Tensor, "q_lens sinks alibi_slopes tree_mask"),
        ("window", ctypes.c_int64),
        ("soft_cap", ctypes.c_double),
    ]


class Decode(ctypes.Structure):
    _fields_ = [
        ("q", Tensor),
        *_CACHES,
        *_fields(Tensor, "k_scale v_scale outs lses"),
        ("table", Table),
        *_fields(ctypes.c_int64, "group head_dim head_dim_v q_format"),
        ("sm_scale", ctypes.c_double),
        ("features", Features),
    ]


class MergeStates(ctypes.Structure):
    _fields_ = [*_fields(Tensor, "outs lses out lse"), *_fields(ctypes.c_int64, "num_parts head_dim")]


class Convert(ctypes.Structure):
    _fields_ = [*_fields(ctypes.c_void_p, "source target"), ("count", ctypes.c_int64)]


class Indices(ctypes.Structure):
    _fields_ = [("of", Tensor), ("wide", ctypes.c_int64)]


class Codes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *_fields(ctypes.c_int64, "page slot subspace paired")]


PAIRINGS = ("none", "slot", "subspace")
"""Pairing of pq.cuh, by number."""


class Codebook(ctypes.Structure):
    _fields_ = [("centroids", Tensor), ("count", ctypes.c_int64)]


class PqCode(ctypes.Structure):
    _fields_ = [
        ("x", Tensor),
        ("codes", Codes),
        ("codebook", Codebook),
        *_fields(ctypes.c_int64, "num_subspaces sub_dim"),
    ]


class PqAppend(ctypes.Structure):
    _fields_ = [
        *_fields(Tensor, "k v"),
        *_fields(Codes, "k_codes v_codes"),
        *_fields(Codebook, "k_codebook v_codebook"),
        ("slot_mapping", Indices),
        *_fields(ctypes.c_int64, "num_slots page_size num_subspaces sub_dim parity"),
    ]


class PqAttention(ctypes.Structure):
    _fields_ = [
        ("q", Tensor),
        *_fields(Codes, "k v"),
        *_fields(Codebook, "k_codebook v_codebook"),
        *_fields(Indices, "page_ids lens"),
        *_fields(Tensor, "outs lses"),
        *_fields(ctypes.c_int64, "page_size head_dim num_subspaces num_kv_heads group chunk tile"),
        ("sm_scale", ctypes.c_double),
    ]
