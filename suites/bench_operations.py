"""Benchmarks over the same Cases and laws: a time is void unless the very buffers it was taken on pass the verdict.

`pytest suites -o python_files=bench_*.py --kv-impl X`, or `tox run -e bench`. Handles are on the device before the
clock starts; adapters whose calls return early offer `synchronize(result)`, which is timed with the call.
"""

import importlib
from pathlib import Path

import pytest

from kvconform.oracles.verdict import Violation
from kvconform.specs.pinned import bench_case
from kvconform.suites.law import LAWS

for _suite in sorted(Path(__file__).parent.glob("test_*.py")):
    importlib.import_module(f"kvconform.suites.{_suite.stem}")


def test_speed(timed, benchmark):
    """One operation on one layout; the operation's first law judges what was timed."""
    subject, clocked, cell = timed
    law = next(law for law in LAWS.values() if law.op == cell.op)
    case = bench_case(cell)
    benchmark.group = f"{cell.op} {cell.dtype}"
    benchmark.extra_info["case"] = case.to_json()
    try:
        law.check(subject, case)
        law.check(clocked, case)
    except Violation as violation:
        benchmark.extra_info["void"] = str(violation)
        pytest.fail(f"void: {law.name} does not hold on the timed buffers: {violation}\n{case}", pytrace=False)
