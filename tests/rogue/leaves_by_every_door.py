"""Raises what would end a test, a run or Hypothesis' search, something else in each cell."""

import sys

import hypothesis
import pytest

NAME = "leaves_by_every_door"
BACKEND = "numpy"
OFFERS = {"extract_k": {}}


def _interrupt():
    raise KeyboardInterrupt


DOORS = {
    "float32": lambda: pytest.skip("not today"),
    "float16": lambda: sys.exit(0),
    "bfloat16": hypothesis.reject,
    "float8_e4m3fn": _interrupt,
    "float8_e5m2": lambda: pytest.exit("bye", returncode=0),
    "int8": lambda: pytest.xfail("known"),
    "uint8": lambda: pytest.fail("no"),
}


def extract_k(kv):
    DOORS[kv.dtype.name]()
