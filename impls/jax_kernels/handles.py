"""What the adapters of JAX's own kernels share: arrays, launches, and the arithmetic of the two written for Triton.

A kernel for Triton is compiled on a GPU and interpreted anywhere else; one for TPUs is always interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental.pallas import tpu as pltpu

from kvconform.impls.pallas_kernels import launch

CPU = jax.devices("cpu")[0]
COMPILED = jax.default_backend() == "gpu"
"""Whether kernels written for Triton are compiled."""

WHY_NOT = {
    "into": "a jax.Array is never written into",
    "operation": "the kernel decodes; writing and reading caches is left to its caller",
    "layout": "the kernel has one layout",
    "index_dtype": "JAX without x64 has no int64",
    "strides": "a jax.Array has no strides",
    "sparse": "to_device copies",
    "table_form": "the kernel has a block table or none",
    "feature": "the kernel has no such argument",
    "narrow": "the kernel computes in the type of its cache",
    "q_lens": "q is one token of each sequence",
}

_DOT = "tfloat32" if COMPILED else None  # dot without a precision: Triton takes tf32
_AS_STORED = {"float16": "float16", "bfloat16": "bfloat16"}
TRITON_ARITHMETIC = {
    "q_format": _DOT,
    "k_format": _DOT,
    "v_format": _DOT,
    "qk_truncates": COMPILED,  # tensor cores
    "pv_truncates": COMPILED,
    "p_format": {"float32": _DOT, **_AS_STORED},  # dot(s_curr.astype(v.dtype), v)
    "sum_rounds_p": {"float32": False},  # l_curr is summed before that cast; in 16 bits l_next itself is rounded
    "normalises_first": False,  # o / (l_next + eps) comes last, outside the kernel
    "exp_error": 2.0**-22 + 2.0**-23,  # of exp or exp2, and of eps = 2**-23 beside l_next >= 1
    "partial_format": _AS_STORED,  # out_shape (k_splits, ...) has q.dtype, and o is not normalised in it
    "merge_levels": {"float32": 1, "float16": 3, "bfloat16": 3},  # one sum; in 16 bits correction, product, sum round
    "renormalises": True,
}
"""Of `paged_attention` and `decode_attention` in jax/experimental/pallas/ops/gpu: their bodies are alike."""


def to_host(handle: jax.Array) -> np.ndarray[Any, Any]:
    """A jax array as numpy, bit for bit."""
    return np.asarray(handle)


@dataclass
class Kernel:
    """A jitted function of JAX around one kernel, pinned to a device, waited for and counted.

    function   is called with `interpret`
    mode       compiled or interpreted
    """

    function: Any
    mode: str = "compiled" if COMPILED else "interpreted"
    device: jax.Device = field(default_factory=lambda: jax.devices("gpu")[0] if COMPILED else CPU)
    launches: int = 0

    def __call__(self, *arrays: jax.Array, **named: Any) -> Any:
        """Run it to its end."""
        result = jax.block_until_ready(self._start(*arrays, **named))
        self.launches += 1
        return result

    def _start(self, *arrays: jax.Array, **named: Any) -> Any:
        return self.function(*arrays, interpret=not COMPILED, **named)

    def to_device(self, array: np.ndarray[Any, Any]) -> jax.Array:
        """An array where the kernel runs."""
        return jax.device_put(array, self.device)

    def attest(self) -> dict[str, Any]:
        """What attest() returns; a compilation is an entry of the jit cache."""
        said = {"launches": self.launches, "device": self.device.device_kind, "mode": self.mode}
        return {**said, "compilations": self.function._cache_size()}


@dataclass
class TPUKernel(Kernel):
    """One that takes no `interpret`: on the CPU, under the strict interpreter of our own kernels."""

    mode: str = "interpreted"
    device: jax.Device = CPU

    def _start(self, *arrays: jax.Array, **named: Any) -> Any:
        return launch.launch(self._interpreted, *arrays, interpret=launch.STRICT, **named)

    def _interpreted(self, *arrays: jax.Array, interpret: Any, **named: Any) -> Any:
        with pltpu.force_tpu_interpret_mode(interpret):
            return self.function(*arrays, **named)
