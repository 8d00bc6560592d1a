"""What a GPU leaves undefined must not be 0 in the interpreter: masked lanes of a load without `other` hold 0xFF bytes.

Triton's interpreter fills them with zeros, so that a kernel which forgets `other=` is right there and wrong on a GPU.
This is the one place that looks into its private module; where a release of Triton has moved it, it is left alone, and
`tests/test_triton_ref.py` says so.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np


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
