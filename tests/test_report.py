"""The report: what its JSON holds, what its table shows, what its exit code is."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import kvconform
from kvconform.harness import report
from kvconform.harness.booking import (
    BLOCKED,
    CONFORMS,
    CRASHED,
    EXPECTED,
    LEFT,
    NOT_OFFERED,
    NOT_REACHED,
    OUTCOMES,
    TIMED_OUT,
    UNTRIED,
    VIOLATES,
    Booked,
    Run,
    exit_code,
    worst,
)


def run_of(*outcomes, **about):
    cells = [
        Booked("kernel", "gather", "nhd", f"dtype{i}", "law", outcome=o, examples=3, seconds=1.0, inside_seconds=0.5)
        for i, o in enumerate(outcomes)
    ]
    return Run("kernel", "numpy", cells={cell.key: cell for cell in cells}, seconds=2.0, **about)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([CONFORMS], 0),
        ([CONFORMS, EXPECTED, NOT_OFFERED, LEFT], 0),
        ([CONFORMS, VIOLATES], 1),
        ([CONFORMS, CRASHED], 1),
        ([TIMED_OUT, NOT_REACHED], 1),
        ([CONFORMS, NOT_REACHED], 3),
        ([NOT_OFFERED], 3),
        ([LEFT], 3),
        ([], 3),
    ],
)
def test_exit_code_of_outcomes(outcomes, code):
    assert exit_code(outcomes) == code


def test_2_before_1_before_3_before_0():
    assert [worst(codes) for codes in ([0, 3], [3, 1], [1, 2, 3], [])] == [3, 1, 2, 3]


def test_a_blocked_implementation_matters_only_when_it_was_named():
    blocked = Run("other", cells={"*": Booked("other", "*", "*", "*", "*", BLOCKED)}, exit=3)
    runs = [run_of(CONFORMS), blocked]
    assert report.exit_code(runs, blocked_is_fine=True) == 0
    assert report.exit_code(runs) == 3


def test_json_has_the_documented_form(tmp_path):
    report.write_json(tmp_path / "r.json", [run_of(CONFORMS, VIOLATES)], 1)
    data = json.loads((tmp_path / "r.json").read_text())
    assert (data["schema"], data["suite"]) == (1, kvconform.__version__)
    assert set(data) == {"schema", "suite", "impls", "cells", "summary"}
    wanted = {"impl", "op", "layout", "dtype", "law", "outcome", "examples", "expected", "resolution", "seconds"}
    assert wanted | {"message", "counterexample", "looks_like", "diagnosis", "replay"} <= set(data["cells"][0])
    assert data["summary"] == {"outcomes": {CONFORMS: 1, VIOLATES: 1}, "exit": 1}


def printed(run: Run) -> str:
    console = Console(width=120, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(report.table([run]))
    for text in report.details(run):
        console.print(text)
    console.file.close()
    return console.export_text()


def test_the_table_counts_cells_and_has_no_column_for_what_never_occurred():
    text = printed(run_of(CONFORMS, CONFORMS, VIOLATES))
    row = next(line for line in text.splitlines() if "gather" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["kernel", "gather", "2", "1"]
    assert "crashed" not in text


@pytest.mark.parametrize("outcome", [o for o in OUTCOMES if o not in (CONFORMS, *UNTRIED, BLOCKED)])
def test_every_cell_that_is_not_plainly_fine_is_printed(outcome):
    assert f"kernel {outcome}" in printed(run_of(CONFORMS, outcome))


def test_progress_counts_the_cells_that_are_tried():
    console = Console(record=True, width=200, force_terminal=False)
    with report.Bars(console) as bars:
        bars.planned(run_of(CONFORMS, VIOLATES, NOT_OFFERED, LEFT))
    assert "kernel: 2 cells ..." in console.export_text()


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ((1e-9, 0.004), "sees a key's weight change by 1e-09 to 0.004;"),
        ((1e-9, 0.004, 3e10), "sees a key's weight change by 1e-09 to 0.004; 1 cell sees none;"),
        ((2.0, 1e-9, 3e10), "sees a key's weight change by 1e-09 to 1e-09; 2 cells see none;"),
        ((3e10,), "sees no key's weight change;"),
        ((), ""),
    ],
)
def test_the_footer_says_of_a_figure_that_no_weight_reaches_that_nothing_is_seen(seen, said):
    run = run_of(*[CONFORMS] * max(1, len(seen)))
    for cell, figure in zip(run.cells.values(), seen, strict=False):
        cell.resolution = figure
    run.attested = {"device": "cpu"}
    text = report.footer(run)
    assert said in text
    assert bool(seen) == ("weight" in text)


def test_the_footer_says_which_argument_could_not_be_written_over():
    run = run_of(CONFORMS)
    assert "assigned" not in report.footer(run)
    run.apart = "q: a handle of ArrayImpl raises TypeError"
    said = "; not every argument can be assigned to that of the call before (q: a handle of ArrayImpl raises TypeError)"
    assert said in report.footer(run)


def test_the_footer_gives_speed_and_the_share_inside_the_implementation():
    text = report.footer(run_of(CONFORMS, CONFORMS))
    assert "6 examples in 2.0 s, 3 examples/s, 50% of the time inside the implementation" in text
