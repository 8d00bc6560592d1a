"""What the kernels are told: the structs of `arguments.cuh`, field by field, pointers and 64-bit numbers only.

A launch on the CPU compares their sizes. An address of None is a null pointer.
"""

from __future__ import annotations

import ctypes
from typing import Any


def _fields(pointers: str, integers: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_void_p) for name in pointers.split()] + [
        (name, ctypes.c_int64) for name in integers.split()
    ]


class Paged(ctypes.Structure):
    _fields_ = _fields("data", "page slot head chunk inner width")


_CACHES = [("k_cache", Paged), ("v_cache", Paged)]


class MergeKv(ctypes.Structure):
    _fields_ = _fields("k v kv", "num_kv_heads head_dim")


class Extract(ctypes.Structure):
    _fields_ = _fields("kv rows", "first_row num_kv_heads head_dim")


class Append(ctypes.Structure):
    _fields_ = [*_CACHES, *_fields("k v slot_mapping", "page_size num_kv_heads head_dim")]


class Gather(ctypes.Structure):
    _fields_ = [
        *_CACHES,
        *_fields("k v block_table kv_lens starts", "width page_size num_kv_heads head_dim"),
    ]


class Decode(ctypes.Structure):
    _fields_ = [
        ("q", ctypes.c_void_p),
        *_CACHES,
        *_fields("block_table kv_lens outs lses", "width page_size group head_dim"),
        ("sm_scale", ctypes.c_double),
    ]


class MergeStates(ctypes.Structure):
    _fields_ = _fields("outs lses out lse", "num_parts num_rows head_dim")


class Convert(ctypes.Structure):
    _fields_ = _fields("source target", "count")
