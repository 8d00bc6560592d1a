"""What a run's time goes on is told by our own frames, and sums to all of it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.harness import where_time_goes

ROOT, HERE = Path(__file__).resolve().parent.parent, Path(__file__).name

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


MARKS = [(place, mark) for place, marks in where_time_goes.PLACES.items() for mark in marks]


@pytest.mark.parametrize(("place", "mark"), MARKS)
def test_each_mark_of_a_place_is_a_file_a_function_or_a_folder_of_the_tree_that_is_there(place, mark):
    """One that is not there would count for another place, and nobody would see it."""
    path, _, function = mark.partition(":")
    assert (ROOT / path).exists()
    assert not function or f"def {function}(" in (ROOT / path).read_text()


@pytest.mark.parametrize(
    ("file", "function", "place"),
    [
        ("harness/subject.py", "guarded", "implementation"),
        ("harness/subject.py", "call", "calling"),
        ("oracles/bound.py", "attention_bound", "bound"),
        ("oracles/decode.py", "expected", "oracle"),
        ("specs/paged.py", "tokens", "inputs"),
        ("specs/strategies.py", "case", "drawing"),
        ("suites/test_decode.py", "some_law", "other"),
    ],
)
def test_a_moment_belongs_to_the_place_of_the_innermost_frame_that_has_one(file, function, place):
    def frame(name, inside, back):
        return SimpleNamespace(f_code=SimpleNamespace(co_filename=name, co_name=inside), f_back=back)

    law = frame(str(where_time_goes.ROOT / "suites" / "test_decode.py"), "test_a_law", None)
    of_ours = frame(str(where_time_goes.ROOT / file), function, law)
    assert where_time_goes.place_of(frame("numpy/core.py", "matmul", of_ours)) == place


NUMBERS = np.linspace(0.0, 1.0, 1 << 18)


def keeps_the_lock():
    return sum(i * i for i in range(20000))


def lets_go_of_the_lock():
    return np.sqrt(NUMBERS)


def test_whoever_lets_go_of_the_lock_is_not_seen_more_often_for_it(monkeypatch):
    """Plain Python and operations that let other threads run, in turn: the shares are those of the clock."""
    turns = (keeps_the_lock, lets_go_of_the_lock)
    monkeypatch.setattr(where_time_goes, "PLACES", {f.__name__: (f"tests/{HERE}:{f.__name__}",) for f in turns})
    sampler, clock, end = where_time_goes.Sampler(), dict.fromkeys(turns, 0.0), time.perf_counter() + 2.0
    sampler.start()
    while time.perf_counter() < end:
        for turn in turns:
            begin = time.perf_counter()
            turn()
            clock[turn] += time.perf_counter() - begin
    seen = where_time_goes.shares(sampler.stop())
    share = clock[lets_go_of_the_lock] / sum(clock.values())
    assert seen["lets_go_of_the_lock"] == pytest.approx(share, abs=0.1)
