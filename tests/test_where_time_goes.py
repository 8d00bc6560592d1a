"""What a run's time goes on is told by our own frames, and sums to all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SLOW = """
import time
import numpy as np

OFFERS = {"merge_kv": {"dtype": {"float32"}}}


def merge_kv(k, v):
    time.sleep(0.05)
    tokens, heads, dim = k.shape
    return np.concatenate([k, v], axis=-1).reshape(tokens, 2 * heads, dim)
"""


@pytest.fixture
def told(tmp_path):
    """The report of a run of one adapter under --profile-time, and what it printed."""
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-P", ROOT / "__main__.py", "run", "--impl", "slow.py", "--json", "r.json"]
    done = subprocess.run([*command, "--profile-time"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "r.json").read_text())["impls"][0]["time"], done.stdout


def test_a_slow_kernel_takes_most_of_the_time_and_the_line_says_so(told):
    time, printed = told
    assert max(time, key=time.get) == "implementation"
    assert time["implementation"] > 0.5
    assert sum(time.values()) == pytest.approx(1.0)
    assert "; time: implementation " in printed
