"""The tree works wherever it stands: clones of any name, an installed wheel, a copy inside somebody's test suite."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("__init__.py", "__main__.py", "conftest.py", "pytest.ini", "py.typed")
ROOMS = ("specs", "oracles", "impls", "suites", "numerics", "claims", "faults", "harness")
ONE_OP = ("--kv-impl", "numpy_ref", "--kv-op", "append", "--kv-layout", "nhd")  # ends long before its time is up


def copy_tree(to: Path) -> Path:
    """What a vendoring adopter copies: the package, without tests/."""
    to.mkdir(parents=True)
    for name in SHIPPED:
        shutil.copy(ROOT / name, to / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, to / room, ignore=shutil.ignore_patterns("__pycache__"))
    return to


def environment(**extra: str) -> dict[str, str]:
    """Ours, without what a surrounding run has set, and without the tree that this test belongs to."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KVCONFORM_", "PYTEST_", "PYTHONPATH"))}
    return kept | {"PYTHONDONTWRITEBYTECODE": "1", **extra}


def python(*arguments: object, cwd: Path, **extra: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment(**extra), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def drawn(journal: Path) -> list[object]:
    """Every case that a session judged, in order."""
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    cases = [(row["key"], row["case"]) for row in rows if row["kind"] == "case"]
    assert cases
    return cases


@pytest.fixture(scope="module")
def wheel_site(tmp_path_factory):
    """A folder with the wheel installed, as `pip install` leaves it."""
    tmp = tmp_path_factory.mktemp("wheel")
    source = tmp / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    site = tmp / "site"
    command = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site, source]
    code, text = python(*command, cwd=tmp)
    assert code == 0, text
    return site


@pytest.mark.parametrize("name", ["kvconform-main", "kv.conform", "1st_clone", "kvconform"])
@pytest.mark.parametrize("mode", ["importlib", "prepend"])
def test_a_clone_of_any_name_runs_its_suites(tmp_path, name, mode):
    clone = copy_tree(tmp_path / name)
    code, text = python("-m", "pytest", "suites", f"--import-mode={mode}", *ONE_OP, cwd=clone)
    assert code == 0, text
    assert re.search(r"numpy_ref: \d+ conforms", text)


def test_clone_and_wheel_draw_the_same_cases_from_the_same_seed(tmp_path, wheel_site):
    clone = copy_tree(tmp_path / "clone")
    journals = [tmp_path / "clone.jsonl", tmp_path / "wheel.jsonl"]
    trees = [clone, wheel_site / "kvconform"]
    for tree, journal in zip(trees, journals, strict=True):
        options = ["-q", "-p", "no:cacheprovider", "--kv-seed", "7", *ONE_OP]
        code, text = python("-m", "pytest", tree / "suites", *options, cwd=tmp_path, KVCONFORM_JOURNAL=str(journal))
        assert code == 0, text
    assert drawn(journals[0]) == drawn(journals[1])


def test_the_wheel_has_a_command_line_and_no_tests(tmp_path, wheel_site):
    assert not (wheel_site / "kvconform" / "tests").exists()
    run = ["-P", "-m", "kvconform", "run", "--impl", "numpy_ref", "--op", "merge_kv", "--json", tmp_path / "r.json"]
    code, text = python(*run, cwd=tmp_path, PYTHONPATH=str(wheel_site))
    assert code == 0, text
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["summary"] == {"outcomes": {"conforms": 21}, "exit": 0}


def adopter(tmp_path: Path, adapter: str, *, package: bool) -> Path:
    """A repository with a kernel, its own tests and conftest, and a copy of this tree under tests/kvconform."""
    repo = tmp_path / "repo"
    copy_tree(repo / "tests" / "kvconform")
    (repo / "tests" / "conftest.py").write_text("import pytest\n\n\n@pytest.fixture\ndef own():\n    return 1\n")
    (repo / "tests" / "test_own.py").write_text("def test_own(own):\n    assert own == 1\n")
    if package:
        (repo / "tests" / "__init__.py").write_text("")
    (repo / "my_kernel.py").write_text(adapter)
    (repo / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    (repo / "kvconform.toml").write_text('impls = ["my_kernel.py"]\n')
    return repo


RIGHT = """
from kvconform.impls.numpy_ref import gather
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32"}}}
"""
WRONG = (
    RIGHT
    + """
right = gather
def gather(cache, block_table, kv_lens, *, layout):
    k, v = right(cache, block_table, kv_lens, layout=layout)
    return v, k
"""
)


@pytest.mark.parametrize("package", [False, True])
@pytest.mark.parametrize("mode", ["importlib", "prepend"])
def test_a_vendored_copy_judges_the_host_s_kernel(tmp_path, mode, package):
    repo = adopter(tmp_path, RIGHT, package=package)
    code, text = python("-m", "pytest", "tests", f"--import-mode={mode}", cwd=repo)
    assert code == 0, text
    laws = int(re.search(r"my_kernel: (\d+) conforms", text)[1])  # one cell a law
    assert f"{laws + 1} passed" in text  # and the host's own test


def test_a_vendored_copy_sees_the_host_s_wrong_kernel(tmp_path):
    repo = adopter(tmp_path, WRONG, package=False)
    code, text = python("-m", "pytest", "tests", cwd=repo)
    assert code == 1, text
    assert "looks like  k_and_v_are_swapped" in text
    assert "replay      pytest tests/kvconform/suites --kv-impl" in text
    laws = int(re.search(r"my_kernel: (\d+) violates", text)[1])
    assert f"{laws} failed, 1 passed" in text  # the host's own test stands


def test_the_replay_line_of_a_vendored_copy_works(tmp_path):
    repo = adopter(tmp_path, WRONG, package=False)
    _, text = python("-m", "pytest", "tests", cwd=repo)
    line = re.search(r"replay +(pytest .*)", text)[1]
    done = subprocess.run(
        f"{sys.executable} -m {line}", shell=True, cwd=repo, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "looks like  k_and_v_are_swapped" in done.stdout


def test_a_vendored_copy_without_an_implementation_is_one_failing_item(tmp_path):
    repo = adopter(tmp_path, RIGHT, package=False)
    (repo / "kvconform.toml").unlink()
    code, text = python("-m", "pytest", "tests", cwd=repo)
    assert code == 1, text
    assert "1 passed" in text
    assert "1 error" in text
    assert "kvconform has no implementation to judge" in text


def test_two_trees_in_one_process_are_refused(tmp_path):
    trees = [copy_tree(tmp_path / "one"), copy_tree(tmp_path / "two")]
    code, text = python("-m", "pytest", *(t / "suites" for t in trees), *ONE_OP, cwd=tmp_path)
    assert code != 0
    assert "two kvconform trees in one process" in text


def test_no_module_of_the_tree_becomes_a_top_level_name(tmp_path):
    clone = copy_tree(tmp_path / "clone")
    probe = "import sys; sys.argv = ['x', 'list', '--markdown']; import runpy\n"
    probe += "try: runpy.run_path('.', run_name='__main__')\nexcept SystemExit: pass\n"
    probe += "assert 'kvconform.specs' in sys.modules and 'specs' not in sys.modules"
    code, text = python("-c", probe, cwd=clone)
    assert code == 0, text


@pytest.fixture
def without_click(tmp_path):
    """A folder that hides click and rich."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("click", "rich"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name}', name='{name}')\n")
    return str(hidden)


def test_the_command_line_says_in_a_sentence_that_click_is_missing(tmp_path, without_click):
    code, text = python("-P", ROOT, "list", cwd=tmp_path, PYTHONPATH=without_click)
    assert code == 2
    assert "kvconform's command line needs click: pip install click rich" in text
    assert "Traceback" not in text


def test_a_vendored_copy_run_by_pytest_needs_neither_click_nor_rich(tmp_path, without_click):
    repo = adopter(tmp_path, RIGHT, package=False)
    code, text = python("-m", "pytest", "tests", cwd=repo, PYTHONPATH=without_click)
    assert code == 0, text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("page slot hed dim -> page slot hed dim", "axis 'hed' has no size; these have: page, slot, head, dim,"),
        ("page slot head dim -> page head dim", "axis 'slot' is on the left of '->' but not on the right"),
        ("page slot head dim dim -> page head slot dim", "axis 'dim' stands twice on the left of '->'"),
        ("page slot head dim -> page head slot dim", ""),
    ],
)
def test_a_row_that_cannot_be_read_is_one_sentence_of_the_command_line(tmp_path, line, said):
    rows = copy_tree(tmp_path / "kvconform") / "specs" / "layouts.py"
    text = rows.read_text()
    row = f'Layout(name="mine", fields={{"k": Field({line!r})}}, source="")'
    rows.write_text(text.replace("_FUSED = (", f"_FUSED = (\n    {row},", 1))
    code, text = python(rows.parent.parent / "__main__.py", "show", "mine", cwd=tmp_path)
    if said:
        assert code == 2
        assert text.startswith("kvconform: specs/layouts.py: ")
        assert repr(line) in text
        assert said in text
        assert "Traceback" not in text
    else:
        assert (code, "page head slot dim" in text) == (0, True)
