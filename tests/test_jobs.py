"""`run --jobs N`: several implementations at a time change nothing but the time, and none outlives the run."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from kvconform.harness.supervisor import usable_cores
from kvconform.tests.test_exit_codes import ROGUE, TREE, _without_times, impls, kvconform

NAMES = ("hangs", "violates", "is_blocked", "raises_at_import", "crashes", "conforms", "numpy_ref")
"""Those that take longest stand first: who is named first is the last to end."""

RUN = ("run", *impls(*NAMES), "--op", "extract_k", "--stall", "2")

SLEEPER = """
import os
import subprocess
import time
from pathlib import Path

NAME = "NAME"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def extract_k(kv):
    helper = subprocess.Popen(["sleep", "600"])
    (Path(__file__).parent / f"{NAME}.pid").write_text(f"{os.getpid()} {helper.pid} ")
    time.sleep(600)
"""


def _without_seconds(text: str) -> str:
    text = re.sub(r"[\d.]+ s\b|\d+ examples/s|\d+% of the time", "", text)
    return "\n".join(line for line in text.splitlines() if not re.fullmatch(r"\w+: \d+ cells \.\.\.", line))


def test_jobs_change_neither_report_nor_table_nor_exit_code(tmp_path):
    one, three = (kvconform(tmp_path, *RUN, "--jobs", n) for n in (1, 3))
    assert [impl["impl"] for impl in three.report["impls"]] == list(NAMES)
    assert {cell["outcome"] for cell in three.report["cells"]} >= {"conforms", "violates", "crashed", "timed out"}
    assert _without_times(three.report) == _without_times(one.report)
    assert _without_seconds(three.text) == _without_seconds(one.text)
    assert three.code == one.code == 2


def test_jobs_run_at_the_same_time(tmp_path):
    """Each waits for the other: neither answers alone."""
    source = (ROGUE / "conforms.py").read_text().partition("def extract_k")[0] + (
        "def extract_k(kv):\n"
        "    import time\n    from pathlib import Path\n"
        "    here = Path(__file__)\n    (here.parent / (here.stem + '.here')).touch()\n"
        "    while len(list(here.parent.glob('*.here'))) < 2:\n        time.sleep(0.01)\n"
        "    return kv[:, 0::2]\n"
    )
    for name in ("left", "right"):
        (tmp_path / f"{name}.py").write_text(source.replace('"conforms"', repr(name)))
    both = ("run", "--impl", "left.py", "--impl", "right.py", "--stall", "1")
    assert kvconform(tmp_path, *both, "--jobs", 1).code == 1
    for seen in tmp_path.glob("*.here"):
        seen.unlink()
    assert kvconform(tmp_path, *both, "--jobs", 2).code == 0


def test_interrupt_ends_every_child_and_what_it_started(tmp_path):
    names = ("one", "two")
    for name in names:
        (tmp_path / f"{name}.py").write_text(SLEEPER.replace('"NAME"', repr(name)))
    words = [word for name in names for word in ("--impl", f"{name}.py")]
    command = [sys.executable, "-P", str(TREE / "__main__.py"), "run", *words, "--jobs", "2"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    pids = [pid for name in names for pid in _pids(tmp_path / f"{name}.pid")]
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=20)
    assert run.returncode == 130, text
    assert text.splitlines()[-1] == "interrupted"
    assert len(pids) == 4
    _until(lambda: not any(map(_runs, pids)))


def _pids(file: Path) -> list[int]:
    _until(lambda: file.is_file() and file.read_text().endswith(" "))
    return [int(pid) for pid in file.read_text().split()]


def _runs(pid: int) -> bool:
    """Whether a process is there; one that only waits to be asked how it ended is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(what, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_jobs_are_as_many_as_usable_cores_and_at_least_one(tmp_path):
    assert usable_cores() == len(os.sched_getaffinity(0))
    refused = kvconform(tmp_path, *RUN, "--jobs", 0)
    assert refused.code == 2
    assert "0 is not in the range x>=1" in refused.text
