"""What wrong Triton adapters are made of: a copy of `triton_ref` with one change, or a kernel of their own.

`tl` and `triton` come from here: they must be imported behind `triton_kernels`, which decides how Triton runs.
"""

from kvconform.impls import triton_ref
from kvconform.impls.triton_kernels import launch
from kvconform.impls.triton_kernels.decode import tl, triton
from kvconform.tests.wrong._source import adapter_with

__all__ = ["launch", "tl", "triton", "triton_with"]


def triton_with(kernels, old, new):
    """A private copy of `triton_ref` in which `old` has become `new` in the source of one of its modules of kernels."""
    return adapter_with(kernels, old, new, of=triton_ref)
