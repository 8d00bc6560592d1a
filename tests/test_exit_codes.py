"""Exit codes and sentences: adapters that conform, violate, crash, hang, leave, do not load or offer nothing.

Each is run as a person would run it, in processes of its own.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kvconform.harness.adapters import AdapterError, find
from kvconform.harness.booking import CONFORMS, CRASHED, NOT_REACHED, TIMED_OUT, UNTRIED, VIOLATES
from kvconform.specs.dtypes import DTYPES

HERE = Path(__file__).resolve().parent
TREE, ROGUE, WRONG = HERE.parent, HERE / "rogue", HERE / "wrong"

HND = ("run", "--impl", str(WRONG / "hnd_is_read_as_nhd.py"), "--op", "paged_decode")
USES_NHD = "K and V are read as in nhd = bshd = cells, not hnd"
LAST_PAGE = ("run", "--impl", str(WRONG / "last_page_is_full.py"), "--law", "decode_is_within_the_bound")


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    code, text   exit code; everything it printed
    report       what `--json` wrote, if it came to that
    """

    code: int
    text: str
    report: dict[str, Any] | None

    @property
    def cells(self) -> dict[str, str]:
        """`operation/layout/dtype` -> outcome, of what was offered."""
        cells = [cell for cell in self.report["cells"] if cell["outcome"] not in UNTRIED]
        return {f"{cell['op']}/{cell['layout']}/{cell['dtype']}": cell["outcome"] for cell in cells}

    @property
    def bad(self) -> list[dict[str, Any]]:
        """The cells that do not conform."""
        return [cell for cell in self.report["cells"] if cell["outcome"] not in (CONFORMS, *UNTRIED)]


def ended(command: list[str], folder: Path, **environment: str) -> Ended:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KVCONFORM_", "PYTEST_"))}
    environment = {**kept, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    report = folder / "report.json"
    data = json.loads(report.read_text()) if report.is_file() else None
    return Ended(done.returncode, done.stdout + done.stderr, data)


def kvconform(folder: Path, *words: object, **environment: str) -> Ended:
    """`kvconform WORDS --json report.json` in a folder."""
    main = [sys.executable, "-P", str(TREE / "__main__.py")]
    return ended([*main, *map(str, words), "--json", "report.json"], folder, **environment)


def impls(*names: str) -> list[str]:
    """`--impl` of each rogue; a name that is none stays as it is."""
    return [
        word
        for name in names
        for word in ("--impl", str(ROGUE / f"{name}.py") if (ROGUE / f"{name}.py").is_file() else name)
    ]


def of_extract_k(**outcomes: str) -> dict[str, str]:
    return {f"extract_k/fused/{dtype}": outcome for dtype, outcome in outcomes.items()}


EVERY_DTYPE = of_extract_k(**dict.fromkeys(DTYPES, VIOLATES))

ROGUES: dict[str, tuple[int, dict[str, str], tuple[str, ...]]] = {
    "conforms": (0, of_extract_k(int8=CONFORMS), ()),
    "closes_stdout": (0, of_extract_k(int8=CONFORMS), ()),
    "leaves_a_thread": (0, of_extract_k(int8=CONFORMS), ()),
    "violates": (1, of_extract_k(int8=VIOLATES), ("first at token 0, head 0, dim 0: got", "looks like  k_and_v_are")),
    "crashes": (1, of_extract_k(float32=CONFORMS, float16=CRASHED, int8=CONFORMS), ("the process ended (SIGSEGV)",)),
    "hangs": (
        1,
        of_extract_k(float32=CONFORMS, float16=TIMED_OUT, int8=CONFORMS),
        ("no answer for 2 s inside a call",),
    ),
    "ends_the_process": (
        1,
        of_extract_k(float32=CRASHED, float16=CRASHED, int8=CONFORMS),
        ("the process ended (exit code 0) inside a call of extract_k", "the process ended (SIGTERM)"),
    ),
    "dies_every_time": (
        1,
        of_extract_k(**{dtype: CRASHED if i < 3 else NOT_REACHED for i, dtype in enumerate(DTYPES)})
        | {"extract_v/fused/int8": CONFORMS},
        ("extract_k ended 3 processes; the rest of it was not tried",),
    ),
    "leaves_by_every_door": (1, EVERY_DTYPE, ("extract_k raised Skipped: not today", "extract_k raised SystemExit: 0")),
    "launches_nothing": (
        1,
        of_extract_k(int8=VIOLATES),
        ("extract_k launched nothing: attest() counts 7 launches before and after", "rogue/launches_nothing.py"),
    ),
    "dies_of_probes": (
        1,
        {"gather/nhd/float32": VIOLATES, "gather/nhd/int8": VIOLATES},
        (
            "looks like  k_is_used_as_v",
            "diagnosis   cannot be told: the process ended (SIGSEGV) inside a call of gather that was to tell it",
        ),
    ),
    "hangs_in_probes": (
        1,
        {"gather/nhd/float32": VIOLATES, "gather/nhd/int8": VIOLATES},
        ("diagnosis   cannot be told: no answer for 2 s inside a call of gather that was to tell it",),
    ),
    "changes_its_input": (
        1,
        of_extract_k(int8=VIOLATES),
        ("extract_k changed its input kv, 1 of 2 elements, first at (0, 0, 0): from", "rogue/changes_its_input.py"),
    ),
    "lies_about_in_place": (
        1,
        {"append/nhd/int8": VIOLATES},
        ("IN_PLACE says 'cache' is changed, but cache['k'] and the result differ", "rogue/lies_about_in_place.py"),
    ),
    "returns_another_shape": (
        1,
        of_extract_k(int8=VIOLATES),
        ("extract_k returned k as int8[1, 1], want int8[1, 1, 1]", "rogue/returns_another_shape.py"),
    ),
    "returns_another_dtype": (
        1,
        of_extract_k(int8=VIOLATES),
        ("extract_k returned k as int16[1, 1, 1], want int8[1, 1, 1]", "rogue/returns_another_dtype.py"),
    ),
    "returns_a_list": (1, of_extract_k(int8=VIOLATES), ("extract_k's k is a list on the host, not a numpy array",)),
    "cannot_take_arrays": (
        1,
        of_extract_k(int8=VIOLATES),
        ("to_device failed on int8[1, 2, 1]: RuntimeError: out of device memory", "rogue/cannot_take_arrays.py"),
    ),
    "attest_fails": (2, {}, ("rogue/attest_fails.py: attest() raised RuntimeError: driver not loaded",)),
    "raises_at_import": (2, {}, ("raises_at_import.py:5: does not import: RuntimeError: no device of compute cap",)),
    "misses_a_module": (2, {}, ("rogue/misses_a_module.py:3: does not import: ModuleNotFoundError: No module named",)),
    "ends_the_process_at_import": (2, {}, ("rogue/ends_the_process_at_import.py: the process ended (exit code 0)",)),
    "hangs_at_import": (2, {}, ("rogue/hangs_at_import.py: no answer for",)),
    "offers_without_a_function": (2, {}, ("a_function.py: offers 'extract_k' but has no function of that name",)),
    "offers_nothing": (3, {}, ()),
    "is_blocked": (3, {"*/*/*": "blocked"}, ("is_blocked: needs a_module_that_nobody_has: pip install a_module",)),
}
"""Rogue -> exit code, how every offered cell ends, parts of what is printed."""

STALLS = {"hangs": 2, "hangs_at_import": 1, "leaves_a_thread": 2, "hangs_in_probes": 2}
"""Seconds of silence that these are allowed; the first cell of a process gets several times as many."""


def test_every_rogue_has_a_row():
    assert set(ROGUES) == {path.stem for path in ROGUE.glob("*.py")}


@pytest.mark.parametrize("name", ROGUES)
def test_rogue_costs_its_own_cells_and_is_explained_in_a_sentence(name, tmp_path):
    code, cells, sentences = ROGUES[name]
    run = kvconform(tmp_path, "run", *impls(name), "--stall", STALLS.get(name, 20))
    assert run.code == code, run.text
    assert run.cells == cells
    for sentence in sentences:
        assert sentence in run.text
    assert "Traceback" not in run.text
    assert "INTERNALERROR" not in run.text


def test_debug_shows_the_traceback_of_an_adapter_that_does_not_import(tmp_path):
    run = kvconform(tmp_path, "run", *impls("raises_at_import"), "--debug")
    assert run.code == 2
    assert "Traceback (most recent call last)" in run.text
    assert 'raise RuntimeError("no device of compute capability 9.0")' in run.text


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("conforms", "offers_nothing"), 3),
        (("conforms", "is_blocked"), 3),
        (("offers_nothing", "violates", "conforms"), 1),
        (("raises_at_import", "violates", "offers_nothing", "conforms"), 2),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "+".join(value),
)
def test_2_comes_before_1_before_3_before_0_and_all_are_judged(names, code, tmp_path):
    run = kvconform(tmp_path, "run", *impls(*names))
    assert run.code == code == run.report["summary"]["exit"]
    assert {impl["impl"]: impl["exit"] for impl in run.report["impls"]} == {name: ROGUES[name][0] for name in names}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--impl", "numpy_rf"), "no implementation 'numpy_rf'; did you mean 'numpy_ref'?"),
        (("run", "--impl", "nowhere/adapter.py"), "nowhere/adapter.py: no such adapter file"),
        (("run", *impls("conforms"), "--op", "extract_q"), "no operation 'extract_q'; did you mean 'extract_"),
        (("run", *impls("conforms"), "--layout", "ndh"), "no layout 'ndh'; did you mean 'nhd'?"),
        (("run", *impls("conforms"), "--dtype", "bfloat"), "no dtype 'bfloat'; did you mean 'bfloat16'?"),
        (("run", *impls("conforms"), "--law", "merge_alternates"), "did you mean 'merge_alternates_k_and_v'?"),
        (("run", *impls("conforms"), "--profile", "quik"), "no profile 'quik'; did you mean 'quick'?"),
        (("run", *impls("conforms"), "--json", "nowhere/report.json"), "nowhere"),
        (("replay", "nowhere.json", *impls("conforms")), "no case file 'nowhere.json'"),
        (("replay", '{"schema": 0}', *impls("conforms")), "a case of schema 0; this kvconform reads schema 1"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value,
)
def test_bad_usage_is_2_and_a_sentence(words, sentence, tmp_path):
    run = ended([sys.executable, "-P", str(TREE / "__main__.py"), *words], tmp_path)
    assert run.code == 2, run.text
    assert sentence in " ".join(run.text.split())
    assert "Traceback" not in run.text


BAD_ADAPTERS: dict[str, tuple[str, str]] = {
    "operation": ('OFFERS = {"extract_q": {}}', "OFFERS names operation 'extract_q'; did you mean 'extract_"),
    "layout": ('OFFERS = {"extract_k": {"layout": {"fusde"}}}', "names layout 'fusde'; did you mean 'fused'?"),
    "other_layout": ('OFFERS = {"extract_k": {"layout": {"nhd"}}}', "not specified for layout 'nhd', only for fused"),
    "dtype": ('OFFERS = {"extract_k": {"dtype": {"bfloat"}}}', "names dtype 'bfloat'; did you mean 'bfloat16'?"),
    "axis": ('OFFERS = {"extract_k": {"head_dims": {8}}}', "names axis 'head_dims'; did you mean 'head_dim'?"),
    "q_lens": (
        'OFFERS = {"paged_decode": {"q_lens": {2, 3}}}\npaged_decode = len',
        "OFFERS['paged_decode']['q_lens'] leaves out 1: a sequence with fewer keys than that",
    ),
    "offer": ('OFFERS = {"extract_k": {"fused"}}', "must be a dict of axis -> set, range or value, not set"),
    "offers": ('OFFERS = ["extract_k"]', "an adapter needs OFFERS, a dict of operation -> axes"),
    "convention": ('OFFERS = {}\nCONVENTIONS = {"lse_bas": "e"}', "names 'lse_bas'; did you mean 'lse_base'?"),
    "choice": ('OFFERS = {}\nCONVENTIONS = {"lse_base": "10"}', "CONVENTIONS['lse_base'] says '10'"),
    "arithmetic": ('OFFERS = {}\nARITHMETIC = {"tiles": 4}', "names 'tiles'; did you mean 'tile'?"),
    "in_place": ('OFFERS = {}\nIN_PLACE = {"append": "cash"}', "IN_PLACE says 'append' changes 'cash'"),
}
"""What is wrong with an adapter -> its source, part of the sentence."""


FUNCTION = "\n\n\ndef extract_k(kv):\n    return kv[:, 0::2]\n"


@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_adapter_of_bad_form_is_refused_in_a_sentence(name, tmp_path):
    source, sentence = BAD_ADAPTERS[name]
    (tmp_path / "adapter.py").write_text(source + FUNCTION)
    with pytest.raises(AdapterError, match=re.escape(sentence)) as refused:
        find(str(tmp_path / "adapter.py")).load()
    assert str(refused.value).startswith(f"{tmp_path / 'adapter.py'}: ")


def test_adapters_of_bad_form_end_a_run_with_2(tmp_path):
    names = ("operation", "dtype", "axis")
    for name in names:
        (tmp_path / f"{name}.py").write_text(BAD_ADAPTERS[name][0] + FUNCTION)
    run = kvconform(tmp_path, "run", *(word for name in names for word in ("--impl", f"{name}.py")))
    assert run.code == 2
    assert {impl["impl"]: impl["exit"] for impl in run.report["impls"]} == dict.fromkeys(names, 2)
    for name in names:
        assert BAD_ADAPTERS[name][1] in " ".join(run.text.split())
    assert "Traceback" not in run.text


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("OFFERS = {", "adapter.py: does not parse: '{' was never closed"),
        ('NAME = "a" + str(1)\nOFFERS = {}', "adapter.py:1: NAME must be a literal; it is read before import"),
    ],
    ids=["syntax", "literal"],
)
def test_source_that_cannot_be_read_is_2_and_a_sentence(source, sentence, tmp_path):
    (tmp_path / "adapter.py").write_text(source)
    run = kvconform(tmp_path, "run", "--impl", "adapter.py")
    assert run.code == 2
    assert sentence in run.text
    assert "Traceback" not in run.text


@pytest.mark.parametrize("name", ["conforms", "violates", "raises_at_import", "offers_nothing", "is_blocked"])
def test_pytest_ends_with_the_same_codes(name, tmp_path):
    suites = [str(TREE / "suites"), "-q", "-p", "no:cacheprovider", "--kv-op", "extract_k"]
    run = ended([sys.executable, "-m", "pytest", *suites, "--kv-impl", str(ROGUE / f"{name}.py")], tmp_path)
    assert run.code == ROGUES[name][0], run.text


def test_counterexample_replays_from_a_file_from_the_command_line_and_as_printed(tmp_path):
    cell = kvconform(tmp_path, *LAST_PAGE, "--layout", "nhd").bad[0]
    (tmp_path / "case.json").write_text(json.dumps(cell["counterexample"]))
    for case in ("case.json", json.dumps(cell["counterexample"])):
        again = kvconform(tmp_path, "replay", case, *LAST_PAGE[1:3])
        assert again.code == 1
        assert [(b["law"], b["message"], b["counterexample"]) for b in again.bad] == [
            (cell["law"], cell["message"], cell["counterexample"])
        ]
    assert kvconform(tmp_path, "replay", "case.json", "--impl", "numpy_ref").code == 0
    program, *words = shlex.split(cell["replay"])
    assert program == "kvconform"
    assert kvconform(tmp_path, *words).code == 1


def test_what_is_used_is_said_by_run_by_replay_and_by_pytest(tmp_path):
    run = kvconform(tmp_path, *HND)
    assert {cell["diagnosis"].partition(";")[0] for cell in run.bad} == {USES_NHD}  # a law may call append, too
    assert f"\n    diagnosis   {USES_NHD}\n" in run.text
    again = kvconform(tmp_path, *shlex.split(run.bad[0]["replay"])[1:])
    assert [cell["diagnosis"] for cell in again.bad] == [USES_NHD]
    assert f"\n    diagnosis   {USES_NHD}\n" in again.text
    suites = [str(TREE / "suites"), "-q", "-p", "no:cacheprovider", "--kv-op", "paged_decode", "--kv-impl", HND[2]]
    assert f"\n    diagnosis   {USES_NHD}\n" in ended([sys.executable, "-m", "pytest", *suites], tmp_path).text
    assert {cell["diagnosis"] for cell in kvconform(tmp_path, *LAST_PAGE).bad} == {None}
    assert f"\n    diagnosis   {USES_NHD}\n" in (TREE / "README.md").read_text()


def test_what_takes_calls_before_it_is_shown_again_by_the_line_that_says_so(tmp_path):
    bad = str(TREE / "tests" / "wrong" / "breaks_after_fifty_calls.py")
    one = ("--impl", bad, "--law", "decode_is_within_the_bound", "--layout", "nhd", "--dtype", "float32")
    (cell,) = kvconform(tmp_path, "run", *one).bad
    assert kvconform(tmp_path, *shlex.split(cell["replay"])[1:]).code == 0
    by_command = kvconform(tmp_path, *shlex.split(cell["rerun"])[1:])
    assert [b["message"] for b in by_command.bad] == [cell["message"]]
    suites = [str(TREE / "suites"), *("--kv-" + word[2:] if word.startswith("--") else word for word in one)]
    text = ended([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *suites], tmp_path).text
    line = re.search(r"but +alone it conforms: it takes calls before it, as in (pytest .*)", text)[1]
    by_pytest = ended([sys.executable, "-m", *shlex.split(line), "-p", "no:cacheprovider"], tmp_path)
    assert cell["message"] in by_pytest.text


DIES_ANEW = """
import os
import sys

import numpy as np

if hasattr(sys, "imported_once"):
    os.abort()
sys.imported_once = True
OFFERS = {"merge_kv": {"dtype": {"float32", "float16"}}}


def merge_kv(k, v):
    return np.zeros((len(k), 2 * k.shape[1], k.shape[2]), k.dtype) + 1
"""


def test_a_violation_stands_where_the_adapter_dies_of_a_second_import(tmp_path):
    (tmp_path / "dies.py").write_text(DIES_ANEW)
    run = kvconform(tmp_path, "run", "--impl", "dies.py", "--law", "merge_alternates_k_and_v")
    assert [cell["outcome"] for cell in run.bad] == [VIOLATES, VIOLATES]
    said = "whether it violates alone cannot be told: the process ended (SIGABRT) in a fresh import of the adapter"
    assert [cell["alone"] for cell in run.bad] == [said, None]  # not tried again
    assert f"    but         {said}\n" in run.text


def test_case_that_a_process_died_in_replays(tmp_path):
    (cell,) = kvconform(tmp_path, "run", *impls("crashes")).bad
    again = kvconform(tmp_path, *shlex.split(cell["replay"])[1:])
    assert again.code == 1
    assert [b["outcome"] for b in again.bad] == [CRASHED]


def test_two_runs_write_the_same_report_apart_from_times(tmp_path):
    def report() -> Any:
        return _without_times(kvconform(tmp_path, *LAST_PAGE, *impls("crashes", "conforms")).report)

    first = report()
    assert any(cell["counterexample"] for cell in first["cells"])
    assert report() == first


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in ("seconds", "inside_seconds")}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def test_conftest_beside_an_adapter_or_its_expectations_is_not_loaded(tmp_path):
    for folder in ("kernels", "known"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "conftest.py").write_text('raise RuntimeError("of the host")\n')
    (tmp_path / "kernels" / "adapter.py").write_text((ROGUE / "conforms.py").read_text())
    (tmp_path / "known" / "expectations.toml").touch()
    run = kvconform(tmp_path, "run", "--impl", "kernels/adapter.py", "--expect", "known/expectations.toml")
    assert run.code == 0, run.text


def test_options_of_a_surrounding_pytest_do_not_reach_a_run(tmp_path):
    run = kvconform(tmp_path, "run", *impls("conforms"), PYTEST_ADDOPTS="-k nothing", PYTEST_PLUGINS="no_such_plugin")
    assert run.code == 0, run.text
