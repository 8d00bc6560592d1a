"""Triton kernels over paged KV caches: compiled on a GPU, interpreted on any other machine.

Triton fixes which of the two it is while it is imported, its own library included. So this is decided here, once a
process, before anything below imports it. `KVCONFORM_TRITON` is compiled, interpreted or unset: a GPU where torch sees
one, unless TRITON_INTERPRET asks for the interpreter.
"""

from __future__ import annotations

import os

import torch

_TRUE = ("1", "true", "on", "yes", "y")


def _wanted() -> str:
    asked = os.environ.get("KVCONFORM_TRITON", "")
    if asked not in ("", "compiled", "interpreted"):
        raise ValueError(f"KVCONFORM_TRITON is {asked!r}; it is compiled, interpreted or unset")
    if asked:
        return asked
    told_to_interpret = os.environ.get("TRITON_INTERPRET", "").lower() in _TRUE
    return "compiled" if torch.cuda.is_available() and not told_to_interpret else "interpreted"


MODE = _wanted()
"""compiled or interpreted, for all kernels of this process."""

COMPILED = MODE == "compiled"
os.environ["TRITON_INTERPRET"] = "0" if COMPILED else "1"

import triton.language  # noqa: E402
from triton.runtime import JITFunction, driver  # noqa: E402

from kvconform.impls.triton_kernels import strict  # noqa: E402

if isinstance(triton.language.zeros, JITFunction) is not COMPILED:
    raise RuntimeError(
        f"triton was imported before kvconform.impls.triton_kernels, and not as {MODE}: start the process with "
        f"TRITON_INTERPRET={os.environ['TRITON_INTERPRET']}, or import triton_ref first"
    )
if COMPILED:
    try:
        driver.active.get_current_target()
    except Exception as e:  # without a GPU it is a RuntimeError, without a driver's library whatever that raises
        raise RuntimeError(f"KVCONFORM_TRITON is compiled, but Triton finds no GPU: {e}") from e

POISONED = not COMPILED and strict.poison_masked_loads()
"""Whether the interpreter shows what a masked load without `other` leaves undefined."""

SPARED = not COMPILED and strict.patch_language_once()
"""Whether the interpreter is spared what it does over and over."""
