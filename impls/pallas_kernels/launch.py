"""Where a kernel is started: counted, pinned to its device, and held to what the interpreter found.

On a TPU the kernels are compiled. Elsewhere they run in Pallas' TPU interpreter, set as strictly as it goes: memory
that nobody wrote is NaN, a DMA moves nothing before its wait, a read outside a buffer raises, and so does a race.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import jax
from jax.experimental.pallas import tpu as pltpu

STRICT = pltpu.InterpretParams(
    detect_races=True,
    dma_execution_mode="on_wait",
    uninitialized_memory="nan",
    out_of_bounds_reads="raise",
    buffer_bounds="logical",
    random_seed=0,
)
COMPILED = jax.default_backend() == "tpu"
INTERPRET: Any = False if COMPILED else STRICT
DEVICE = jax.devices("tpu" if COMPILED else "cpu")[0]
"""An interpreted kernel belongs on the CPU, also where JAX would rather use a GPU."""

QUICKER = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Options with which XLA compiles an interpreted kernel in a quarter of the time; it runs as fast: it is callbacks."""


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that this version of XLA knows; it refuses others."""
    known = {}
    with jax.default_device(DEVICE):
        for name, value in options.items():
            with suppress(jax.errors.JaxRuntimeError):
                jax.jit(lambda: 0, compiler_options={name: value})()
                known[name] = value
    return known


compiled = functools.partial(jax.jit, compiler_options={} if COMPILED else _known(QUICKER))
"""jax.jit for kernels; one of them is called by no other function that is compiled."""

launches = 0
"""How often `launch` has started a kernel in this process."""

_started: set[Any] = set()


def compilations() -> int:
    """How many shapes of its kernels JAX has compiled in this process."""
    return sum(kernel._cache_size() for kernel in _started)


class RaceError(RuntimeError):
    """Two accesses of one kernel to the same memory, at least one a write, that nothing orders."""


def launch(kernel: Callable[..., Any], *arrays: Any, interpret: Any = INTERPRET, **static: Any) -> Any:
    """Run one kernel to its end and return its result; raise RaceError if its accesses were not ordered.

    kernel     a jitted function around exactly one `pl.pallas_call`, which is given `interpret`
    arrays     its operands
    static     its static arguments
    """
    global launches
    try:
        with jax.default_device(DEVICE):
            result = kernel(*arrays, interpret=interpret, **static)
            launches += 1
            _started.add(kernel)
            jax.block_until_ready(result)
    except BaseException:
        pltpu.reset_tpu_interpret_mode_state()  # or the next kernel would find the memory of this one
        raise
    if interpret and _races_found():
        raise RaceError(f"{kernel.__name__}: the interpreter printed the two accesses that race")
    return result


def _races_found() -> bool:
    """What the race detector found in the kernel just interpreted.

    JAX documents `races.races_found` (`InterpretParams.detect_races`) but exports it nowhere, so this is the one place
    that looks into a private module. The interpreter has loaded it; a version of JAX that moves it fails here by name.
    """
    return bool(sys.modules["jax._src.pallas.mosaic.interpret.interpret_pallas_call"].races.races_found)
