"""What wrong Pallas adapters are made of: a copy of `pallas_tpu` with one change, or a kernel of their own."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kvconform.impls import pallas_tpu
from kvconform.impls.pallas_kernels.launch import launch
from kvconform.tests.wrong._source import adapter_with

__all__ = ["jax", "jnp", "launch", "pallas_with", "pl", "pltpu"]


def pallas_with(kernels, old, new):
    """A private copy of `pallas_tpu` in which `old` has become `new` in the source of one of its modules of kernels."""
    return adapter_with(kernels, old, new, of=pallas_tpu)
