"""`run --jobs N`: several implementations at a time, or several processes for one, change nothing but the time; none
outlives the run."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from kvconform.harness import shares
from kvconform.harness.adapters import find
from kvconform.harness.booking import CONFORMS, LEFT, NOT_OFFERED, UNTRIED, Booked
from kvconform.harness.supervisor import supervise, usable_cores
from kvconform.specs.dtypes import width
from kvconform.tests.power import GATHER
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


LISTENS = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
"""Under nohup, and behind the & of a script, a process is born deaf to Ctrl-C; what comes behind this is not."""


@pytest.mark.parametrize(("sent", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_to_end_ends_every_child_and_what_it_started(tmp_path, sent, code, said):
    names = ("one", "two")
    for name in names:
        (tmp_path / f"{name}.py").write_text(SLEEPER.replace('"NAME"', repr(name)))
    words = [word for name in names for word in ("--impl", f"{name}.py")]
    command = [sys.executable, "-P", str(TREE / "__main__.py"), "run", *words, "--jobs", "2"]
    command = [sys.executable, "-c", LISTENS, *command]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    pids = [pid for name in names for pid in _pids(tmp_path / f"{name}.pid")]
    run.send_signal(signal.Signals[sent])
    text, _ = run.communicate(timeout=20)
    assert run.returncode == code, text
    assert text.splitlines()[-1] == said
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


SHARED = """
import os

from kvconform.impls import numpy_ref

NAME = "shared"
BACKEND = "numpy"
CONVENTIONS = numpy_ref.CONVENTIONS
OFFERS = {"append": {"layout": LAYOUTS, "dtype": {"float32", "bfloat16", "int8"}, "strides": {"contiguous"}}}


def attest():
    return {"launches": launches, "device": DEVICE}


launches = 0


def append(cache, k, v, slot_mapping, *, layout):
    global launches
    launches += 1
    if (layout, k.dtype.name) in CRASHES:
        os.abort()
    cache = numpy_ref.append(cache, k, v, slot_mapping, layout=layout)
    if layout in WRONG:
        cache = {name: array.copy() for name, array in cache.items()}
        next(iter(cache.values())).reshape(-1)[:1] = 1
    return cache
"""


MANY = ("nhd", "hnd", "heads_first", "split_x", "token_slots", "kv_first_nhd", "kv_first_hnd", "page_first_nhd")


def shared(
    folder: Path,
    *words: object,
    layouts=MANY,
    wrong=(),
    crashes=(),
    device="a CPU",
    before=(),
    first="",
    more="",
    **env,
):
    """The report of a run of an adapter that appends as numpy_ref does, but where it is wrong or crashes."""
    source = first + SHARED
    for name, value in (("LAYOUTS", set(layouts)), ("WRONG", wrong), ("CRASHES", crashes), ("DEVICE", device)):
        source = source.replace(name, repr(value))
    (folder / "shared.py").write_text(source + more)
    impls = [word for name in (*before, "shared.py") for word in ("--impl", name)]
    return kvconform(folder, "run", *impls, "--stall", 5, *words, **env)


def processes(run) -> int:
    """In how many a run says that it was judged."""
    said = re.search(r"in (\d+) processes", run.text)
    return int(said[1]) if said else 1


def _verdicts(report):
    """How each cell ends; what a violation costs depends on the counterexamples that its process has seen before."""
    kept = ("op", "layout", "dtype", "law", "outcome", "first_violation")
    counts = ("examples", "planned", "idle")
    return [
        tuple(cell[name] for name in (kept if cell["outcome"] == "violates" else kept + counts))
        for cell in report["cells"]
    ]


@pytest.mark.parametrize(
    "adapter",
    [
        {"wrong": ("hnd",)},
        {"crashes": tuple(("hnd", d) for d in ("int8", "float32"))},
    ],
    ids=["violates", "crashes"],
)
def test_processes_of_one_implementation_change_no_verdict(adapter, tmp_path):
    one, two = (shared(tmp_path, "--jobs", n, **adapter) for n in (1, 2))
    assert (processes(one), processes(two)) == (1, 2), two.text
    assert _verdicts(two.report) == _verdicts(one.report)
    assert two.code == one.code == 1
    (first,), (other,) = one.report["impls"], two.report["impls"]
    assert first.keys() == other.keys()


def test_processes_of_one_implementation_change_no_byte_of_a_report_that_is_green(tmp_path):
    one, two = (shared(tmp_path, "--jobs", n) for n in (1, 2))
    assert (processes(one), processes(two)) == (1, 2)
    assert _without_times(one.report) == _without_times(two.report)
    assert two.code == 0


def test_crash_costs_its_cell_and_the_process_after_it_has_the_same_share(tmp_path):
    run = shared(
        tmp_path,
        "--jobs",
        2,
        layouts=(*MANY, "page_first_hnd", "beside_nhd", "beside_hnd"),
        crashes=(("hnd", "bfloat16"),),
    )
    assert processes(run) == 2
    tried = [cell for cell in run.report["cells"] if cell["outcome"] not in UNTRIED]
    assert all(cell["examples"] for cell in tried)
    assert run.bad == [cell for cell in tried if (cell["layout"], cell["dtype"]) == ("hnd", "bfloat16")]
    assert {cell["outcome"] for cell in run.bad} == {"crashed"}
    assert len(run.bad) > 1


def test_another_device_than_a_cpu_is_for_one_process(tmp_path):
    assert processes(shared(tmp_path, "--jobs", 3, device="NVIDIA H200")) == 1
    assert processes(shared(tmp_path, "--jobs", 3, layouts=("nhd",))) == 1  # too few cells


COUNTS = """
import os as _os
from pathlib import Path as _Path

_here = _Path(__file__).parent
(_here / f"{_os.getpid()}.pid").touch()
_alive = sum(_Path("/proc", file.stem).exists() for file in _here.glob("*.pid"))
with (_here / "counts").open("a") as _file:
    _file.write(f"{_alive} ")
"""


def test_the_last_implementation_has_the_jobs_that_are_left(tmp_path):
    (tmp_path / "other.py").write_text((ROGUE / "conforms.py").read_text().replace('"conforms"', '"other"') + COUNTS)
    first = shared(tmp_path, "--impl", "other.py", "--jobs", 2)
    last = shared(tmp_path, "--jobs", 2, before=("other.py",), more=COUNTS)
    assert [impl["impl"] for impl in last.report["impls"]] == ["other", "shared"]
    assert (processes(first), processes(last)) == (1, 2)
    assert len(list(tmp_path.glob("*.pid"))) == 1 + 3
    assert max(map(int, (tmp_path / "counts").read_text().split())) <= 2  # of three, one waits for its turn


REQUIRING = """
import os, sys
from pathlib import Path

REQUIRES = ("heavy",)

with (Path(__file__).parent / "seen").open("a") as file:
    file.write(f"{'heavy' in sys.modules} ")
"""


def requiring(folder, heavy, first=""):
    """A run of an adapter that requires a module; which of its processes had imported that before the adapter."""
    (folder / "heavy.py").write_text(heavy)
    run = shared(folder, "--jobs", 2, first=first + REQUIRING, PYTHONPATH=str(folder))
    assert (processes(run), run.code) == (2, 0), run.text
    return sorted((folder / "seen").read_text().split())


def test_a_second_process_imports_what_an_adapter_requires_before_it_is_known_whether_it_is_needed(tmp_path):
    assert requiring(tmp_path, "") == ["False", "True"]


@pytest.mark.parametrize("steers", ["os.environ['HEAVY'] = '1'", "sys.path.insert(0, 'mine')"])
def test_an_adapter_that_steers_imports_is_imported_before_what_it_requires_in_each_process(steers, tmp_path):
    assert requiring(tmp_path, "", f"import os, sys\n{steers}\n") == ["False", "False"]


@pytest.mark.parametrize("how", ["raise RuntimeError('heavy')", "import os, time; time.sleep(12); os._exit(3)"])
def test_a_module_that_cannot_be_imported_is_the_adapters_to_import_or_not(how, tmp_path):
    assert requiring(tmp_path, how) == ["False", "False"]


class Deaf:
    """Listens to nothing."""

    def planned(self, run):
        pass

    def closed(self, run, cell):
        pass


def test_a_second_process_takes_no_slot_from_the_first_one():
    slots, stop = threading.Semaphore(1), threading.Event()
    give_up = threading.Timer(120, stop.set)
    give_up.start()
    try:
        run = supervise(find("numpy_ref"), [f"--kv-law={GATHER}"], Deaf(), slots=slots, stop=stop, processes=2)
    finally:
        give_up.cancel()
    assert run.processes == 2
    assert {cell.outcome for cell in run.cells.values()} - {CONFORMS} <= UNTRIED
    assert slots.acquire(blocking=False)


def test_shares_keep_what_shares_shapes_together_and_leave_nothing_out():
    cells = [
        Booked("x", "append", layout, dtype, law)
        for law in "abcdefghijkl"
        for layout in ("nhd", "hnd", "split_x")
        for dtype in ("float32", "float16", "bfloat16", "int8")
    ]
    left_out = Booked("x", "append", "*", "*", "one", NOT_OFFERED)
    left = Booked("x", "append", "nhd", "float32", "tried_elsewhere", LEFT)
    owner = shares.deal([left_out, left, *cells], 4, None)
    assert list(owner) == [cell.key for cell in cells]
    assert set(owner.values()) == set(range(4))
    units = {}
    for cell in cells:
        units.setdefault((cell.layout, width(cell.dtype)), set()).add(owner[cell.key])
    assert {len(of) for of in units.values()} == {1}
    sizes = Counter(owner.values())
    assert sizes[0] == max(sizes.values())
    assert all(sizes[share] >= shares.LEAST_CELLS / 2 for share in range(4))


@pytest.mark.parametrize(("whole_cells", "laws"), [(None, "abc"), (8, "abcdefghijklmnopqrstuvwxyz")])
def test_a_share_that_begins_later_is_lighter_by_what_that_costs_in_cells_that_try_so_much(whole_cells, laws):
    layouts = [f"layout_{i}" for i in range(120)]
    cells = [Booked("x", "append", layout, "int8", law) for law in laws for layout in layouts]
    sizes = Counter(shares.deal(cells, 2, whole_cells).values())
    tries = 1 if whole_cells is None else whole_cells / len(layouts)  # of the cases of its law, each cell
    two_layouts = 2 * len(laws) * tries
    assert (sizes[0] - sizes[1]) * tries == pytest.approx(shares.START_CELLS, abs=two_layouts)
    assert two_layouts < shares.START_CELLS


def test_no_share_is_empty_where_cells_try_little():
    cells = [Booked("x", "append", f"layout_{i}", "int8", "one_law") for i in range(360)]
    sizes = Counter(shares.deal(cells, 4, 8).values())
    assert min(sizes[share] for share in range(4)) >= 360 / 8
