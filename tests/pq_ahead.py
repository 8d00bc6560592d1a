"""Compiles the product-quantised Triton kernels for a GPU that is not there, and prints what came of it as JSON.

`tests/test_pq_kernels.py` runs this in a process of its own, as `triton_ahead.py` is run; no verdict is reached.
"""

import json

import triton

from kvconform.tests.triton_ahead import Hopper, image


def main() -> None:
    triton.runtime.driver.set_active(Hopper())
    from kvconform.impls.triton_kernels import launch  # asks the driver while it is imported
    from kvconform.tests import test_pq_kernels as calls

    found = []
    launch.launch = lambda function, grid, *arguments, **constants: found.append(
        image(function, *arguments, **constants)
    )
    for sizes in calls.COMPILED_AHEAD:
        for op, arguments, told in calls.calls_of(sizes):
            calls.called(calls.triton_ref, op, *arguments, **told)
    print(json.dumps(found))
