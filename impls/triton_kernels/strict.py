"""Triton's interpreter as these kernels want it: strict about masked lanes, and spared what it does over and over.

What a GPU leaves undefined must not be 0 in the interpreter: masked lanes of a load without `other` hold 0xFF bytes.
Triton's interpreter fills them with zeros, so that a kernel which forgets `other=` is right there and wrong on a GPU.

This is the one place that looks into its private module; where a release of Triton has moved it, it is left alone, and
`tests/test_triton_ref.py` says so.
"""

from __future__ import annotations

import inspect
from functools import cache, wraps
from typing import Any

import numpy as np
import triton.language as tl


def poison_masked_loads() -> bool:
    """Make the interpreter fill masked lanes with 0xFF bytes, NaN to a float; whether it could."""
    try:
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype

        load = InterpreterBuilder.create_masked_load
    except (ImportError, AttributeError):
        return False

    @wraps(load)
    def poisoned(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        if other is None:
            kind = ptrs.get_element_ty()
            bits = np.full((*ptrs.data.shape, np.dtype(_get_np_dtype(kind)).itemsize), 0xFF, np.uint8)
            other = TensorHandle(bits.view(_get_np_dtype(kind))[..., 0], kind)
        return load(self, ptrs, mask, other, *rest)

    InterpreterBuilder.create_masked_load = poisoned
    return True


def patch_language_once() -> bool:
    """Spare the interpreter a third of its time; whether it could.

    It puts its own functions into triton.language before each kernel, and again before each function that a kernel
    calls, where they are in place already; and it makes its table of numpy dtypes anew for each look into it.
    """
    try:
        from triton.runtime import interpreter

        patch, no_change, np_dtype = interpreter._patch_lang, interpreter._LangPatchScope, interpreter._get_np_dtype
    except (ImportError, AttributeError):
        return False

    @wraps(patch)
    def once(function: Any) -> Any:
        modules = [value for value in function.__globals__.values() if inspect.ismodule(value)]
        languages = [module for module in modules if module in (tl, tl.core)]
        if not languages or any(tl.core.is_builtin(language.load) for language in languages):
            return patch(function)
        return no_change()

    of_scalar = cache(np_dtype)

    @wraps(np_dtype)
    def looked_up(kind: Any) -> Any:
        return np_dtype(kind) if kind.scalar.is_ptr() else of_scalar(kind.scalar)

    interpreter._patch_lang, interpreter._get_np_dtype = once, looked_up
    return True
