"""Where a kernel is started, and counted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton


def kernel(*compiled_for: str) -> Callable[[Any], Any]:
    """`triton.jit` of a function that is compiled for few values, so that few cases wait for a compiler.

    compiled_for   numbers for which it matters that they are 1 or a multiple of 16, pointers for which it matters that
                   they are aligned; of other arguments only the type counts, and of CONSTANTS every value
    """

    def decorate(function: Any) -> Any:
        arguments = [name for name in inspect.signature(function).parameters if not name.isupper()]
        others = [name for name in arguments if name not in compiled_for]
        return triton.jit(do_not_specialize=others, do_not_specialize_on_alignment=others)(function)

    return decorate


launches = 0
"""How often `launch` has started a kernel in this process."""

compiled: set[Any] = set()
"""The compiled kernels that were started; none where kernels are interpreted."""


def launch(function: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start one kernel; a grid without programs is not launched, there is nothing to do.

    function    one under `kernel`
    arguments   its tensors, strides and sizes, in order
    constants   its `tl.constexpr` arguments, and `num_warps`
    """
    global launches
    if 0 in grid:
        return
    one = function[grid](*arguments, **constants)
    launches += 1
    if one is not None:
        compiled.add(one)
