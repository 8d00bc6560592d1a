"""The screen: sees what hides below the bound, accuses nothing that is right, and never is a verdict."""

import contextlib
import json
import re
import shlex
from dataclasses import replace
from itertools import product
from math import exp
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.harness import cli, report
from kvconform.harness.booking import CONFORMS, DOUBTFUL, VIOLATES, Booked, Run, paste_doubt
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.plan import Options
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.numerics.emulators import Emulator, Machine, Row, emulators, online
from kvconform.numerics.screening import FAMILIES as SCREENED
from kvconform.numerics.screening import drawn, flags, limits, narrower, screened
from kvconform.oracles import screen
from kvconform.oracles.bound import arithmetic_unit
from kvconform.oracles.verdict import Violation
from kvconform.specs.case import Case
from kvconform.specs.families import FAMILIES, is_screened
from kvconform.suites.law import Law

DECODE = "decode_is_within_the_bound"
PLAIN = Emulator("float32", online, declares={"tile": 16, "renormalises": True})
LIAR = replace(PLAIN, name="rounds P without saying so", machine=Machine(p="bfloat16"))


def loses_a_key(machine, row):
    """One of thousands, none of which weighs much more than another."""
    keep = np.arange(len(row.k)) != 777
    return online(machine, replace(row, k=row.k[keep], v=row.v[keep]))


LOSER = Emulator(
    "bfloat16 P, loses a key",
    loses_a_key,
    Machine(p="bfloat16"),
    {"p_format": "bfloat16", "tile": 16, "renormalises": True, "sum_rounds_p": False},
)


def adapter(emulator, **offer):
    """An emulated kernel behind an adapter that gives out alone."""

    def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
        k, v = numpy_ref.gather(cache, block_table, kv_lens, layout=layout)
        out = np.zeros(q.shape, np.float32)
        ends = np.cumsum(kv_lens)
        for seq, head in np.ndindex(*q.shape[:2]):
            keys, kv_head = slice(ends[seq] - kv_lens[seq], ends[seq]), head * k.shape[1] // q.shape[1]
            if kv_lens[seq]:
                row = Row(q[seq, head], k[keys, kv_head], v[keys, kv_head], float(np.float32(sm_scale)))
                with np.errstate(all="ignore"):
                    out[seq, head] = emulator(row)[0]
        return out

    offers = {"layout": {"nhd"}, "dtype": {"float32"}, "returns": ("out",), "head_dim": {16}, "sm_scale": {0.25}}
    conventions = {
        **numpy_ref.CONVENTIONS,
        "dead": {"zero"},
        "table_padding": {"valid"},
        "sm_scale_of_none": "undefined",
    }
    return SimpleNamespace(
        OFFERS={"paged_decode": offers | offer},
        CONVENTIONS=conventions,
        ARITHMETIC=dict(emulator.declares),
        paged_decode=paged_decode,
    )


LONG = {"page_size": {1024}, "num_kv_heads": {1}, "group": {1}, "kv_lens": range(1900, 2049)}
CASE = Case(
    op="paged_decode", layout="nhd", dtype="float32", family="fine", kv_lens=(2000,), page_size=1024, head_dim=16
)


def cell_of(implementation, law, **options):
    """The one cell of a law, searched."""
    subject = Subject(implementation, "kernel", "kernel.py")
    searcher = Searcher(subject, Options(replace(EFFORTS["quick"], examples=6, seconds=600.0), **options))
    searcher.begin(1)
    (cell,) = searcher.run(law)
    return cell


# --- what it flags


@pytest.mark.parametrize(("wrong", "right"), [(LIAR, PLAIN), (LOSER, replace(LOSER, kernel=online))])
def test_a_fault_that_hides_below_the_bound_is_labelled_and_a_kernel_without_it_is_not(wrong, right):
    law = replace(all_laws()[DECODE], families=("fine",), pinned=lambda cell: ())
    cell = cell_of(adapter(wrong, **LONG), law)
    assert cell.outcome == CONFORMS
    assert cell.counterexample is None
    assert cell.doubt["flags"] >= screen.draws_again()[1]
    assert cell_of(adapter(right, **LONG), law).doubt is None


def test_the_label_says_where_what_how_far_and_how_often_and_its_line_shows_it_again():
    law = all_laws()[DECODE]
    cell = cell_of(adapter(LIAR, **LONG), law, case=CASE)
    text = paste_doubt(cell)
    assert "out: " in text
    assert re.search(r"worst at seq 0, position \d+ \(page \d+, slot \d+\), q_head 0, dim ", text)
    assert ": got " in text
    assert ", want " in text
    assert " +- " in text
    assert "of which chance uses" in text
    assert f"likewise in {cell.doubt['flags']} of {cell.doubt['draws']} draws with other seeds" in text
    assert "replay      kvconform replay " in text
    again = cell_of(adapter(LIAR, **LONG), law, case=Case.from_json(cell.doubt["case"]))
    assert again.doubt == cell.doubt


@pytest.mark.parametrize("kernel", list(emulators()), ids=lambda kernel: kernel.name)
def test_no_correct_kernel_is_flagged(kernel):
    found = screened(kernel, seeds=1)
    assert found.flagged == 0
    assert found.elements == 4 * 64 * len(SCREENED)
    assert min(found.narrower) >= 1


def leans(x):
    """exp that errs alike everywhere but at 0."""
    return np.where(x == 0, np.float32(1), (np.exp(x.astype(np.float64)) * (1 + 2.0**-22.1)).astype(np.float32))


@pytest.mark.parametrize("family", ["fine", "plain"])
def test_errors_of_weights_that_lean_to_one_side_are_no_fault(family):
    """They do not know V: 2000 rescales that each err alike, and keys that all tie."""
    kernel = next(one.kernel for one in emulators() if one.name.startswith("online rising"))
    leaning = Emulator("leans", kernel, Machine(exp=leans), {"renormalises": True})
    row = drawn(family, 2000, "float32", seed=1)
    assert not flags(leaning, row)
    assert not flags(leaning, replace(row, k=np.repeat(row.k[:1], 2000, 0)))


def test_the_screen_is_the_narrower_the_more_keys_there_are_and_never_wider_than_the_bound():
    ratios = [narrower(PLAIN, keys) for keys in (1, 40, 400, 4000)]
    assert ratios == sorted(ratios)
    assert ratios[0] == 1
    assert ratios[-1] > 10
    for kernel, family in product(emulators(), SCREENED):
        _, bound, likely = limits(kernel, drawn(family, 7, kernel.storage, seed=0))
        assert (likely <= bound).all()


def test_sums_that_truncate_or_round_off_whole_terms_are_not_taken_for_random():
    fine, coarse, many = arithmetic_unit("float32"), arithmetic_unit("bfloat16"), np.array([400.0])
    assert screen._chain(many, fine, 6.0) == 6 * 20 * fine
    assert screen._chain(many, fine, 6.0, truncates=True) == 400 * fine
    assert screen._chain(many, coarse, 6.0) == 400 * coarse


# --- the chances


def test_how_often_it_is_drawn_again_follows_from_the_chances():
    draws, most = screen.draws_again()
    assert (draws, most) == (7, 4)
    assert screen._at_least(most, draws) <= screen.ONE_LABEL < screen._at_least(most - 1, draws - 2)


def test_the_multiple_leaves_the_chance_of_one_draw_to_all_sums_together():
    lam = screen.multiple(512, 4096)
    assert 2 * exp(-(lam**2) / 2) * 512 * (1 + 2 * 4096) == pytest.approx(screen.ONE_DRAW)


# --- when it is asked


@pytest.mark.parametrize("family", [*FAMILIES, "flat", "bits", "patterns"])
def test_contents_with_a_structure_are_never_screened(family):
    assert not is_screened(family)
    subject = Subject(adapter(LIAR, **LONG), "kernel", "kernel.py")
    if family not in ("bits", "patterns"):
        with contextlib.suppress(Violation):
            all_laws()[DECODE].check(subject, replace(CASE, family=family))
        assert subject.doubt == ""


def test_a_family_that_is_drawn_says_itself_whether_it_is_screened():
    assert SCREENED == ("plain", "wide", "sharp", "steep", "offset", "fine")
    subject = Subject(adapter(LIAR, **LONG), "kernel", "kernel.py")
    all_laws()[DECODE].check(subject, CASE)
    assert subject.doubt


def law_of(check, **row):
    return Law("some_law", "merge_kv", check, **row)


KERNEL = SimpleNamespace(OFFERS={"merge_kv": {"layout": {"fused"}, "dtype": {"float32"}}}, CONVENTIONS={})


def test_what_is_flagged_once_is_drawn_again_and_not_labelled():
    seen = []

    def flags_the_first(subject, case):
        seen.append(case)
        if len(seen) == 1:
            subject.doubts("far out")

    cell = cell_of(KERNEL, law_of(flags_the_first))
    draws, most = screen.draws_again()
    assert (cell.outcome, cell.doubt) == (CONFORMS, None)
    again = seen[-(draws - most + 1) :]  # as many as it takes to know that most are not flagged
    assert again == [replace(seen[0], seed=seen[0].seed + i) for i in range(1, draws - most + 2)]


def test_a_labelled_cell_is_not_shrunk_and_ends_with_0():
    seen = []

    def flags_all(subject, case):
        seen.append(case)
        subject.doubts("far out")

    cell = cell_of(KERNEL, law_of(flags_all))
    draws, _ = screen.draws_again()
    assert cell.outcome == CONFORMS
    assert len(seen) == cell.examples == cell.planned + draws
    assert (cell.doubt["flags"], cell.doubt["draws"]) == (draws, draws)
    assert Case.from_json(cell.doubt["case"]) == seen[0]
    assert seen[-draws:] == [replace(seen[0], seed=seen[0].seed + i) for i in range(1, draws + 1)]
    assert Run("kernel", cells={cell.key: cell}).code == 0


def test_a_fresh_draw_that_violates_is_a_violation():
    seen = []

    def breaks_later(subject, case):
        seen.append(case)
        if case == replace(seen[0], seed=seen[0].seed + 2) and len(seen) > 6:
            raise Violation("broken")
        if len(seen) == 1:
            subject.doubts("far out")

    cell = cell_of(KERNEL, law_of(breaks_later))
    assert (cell.outcome, cell.message, cell.doubt) == (VIOLATES, "broken", None)
    assert Case.from_json(cell.counterexample) == replace(seen[0], seed=seen[0].seed + 2)


def test_a_cell_that_violates_has_no_label():
    def breaks_or_flags(subject, case):
        if case.num_tokens > 1:
            raise Violation("broken")
        subject.doubts("far out")

    cell = cell_of(KERNEL, law_of(breaks_or_flags))
    assert (cell.outcome, cell.doubt) == (VIOLATES, None)


def test_pinned_cases_are_not_screened():
    case = Case(op="merge_kv", layout="fused", dtype="float32", num_tokens=1)
    law = law_of(lambda subject, case: subject.doubts("far out"), pinned=lambda cell: (case,), drawn=False)
    cell = cell_of(KERNEL, law)
    assert (cell.outcome, cell.examples, cell.doubt) == (CONFORMS, 1, None)


# --- how it is told

ADAPTER = """
import ml_dtypes
import numpy as np

OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "returns": ("out",)}}
CONVENTIONS = {"dead": {"zero"}}
ARITHMETIC = {"tile": 16, "renormalises": True}


def paged_decode(q, cache, block_table, kv_lens, *, layout, sm_scale):
    out = np.zeros(q.shape, q.dtype)
    for seq, n in enumerate(kv_lens):
        k, v = (cache[name][block_table[seq]].reshape(-1, *q.shape[1:])[:n] for name in "kv")
        score = np.einsum("hd,nhd->nh", q[seq], k) * np.float32(sm_scale)
        p = np.exp(score - score.max(0))
        out[seq] = np.einsum("nh,nhd->hd", p.astype(ml_dtypes.bfloat16).astype(np.float32), v) / p.sum(0)[:, None]
    return out
"""


def test_a_run_that_labels_a_cell_exits_with_0_and_so_does_the_line_that_it_prints(tmp_path, capsys):
    (tmp_path / "kernel.py").write_text(ADAPTER)
    case = json.dumps(CASE.to_json() | {"law": DECODE})
    assert cli.main(["replay", case, "--impl", str(tmp_path / "kernel.py")]) == 0
    shown = capsys.readouterr().out
    assert f"kernel {DOUBTFUL} {DECODE} in 1 cell(s), which pass" in shown
    (again,) = re.findall(r"replay      kvconform (.*)", shown)
    assert cli.main(shlex.split(again)) == 0
    assert f"kernel {DOUBTFUL} {DECODE} in 1 cell(s), which pass" in capsys.readouterr().out


def test_the_report_shows_a_label_beside_the_outcome(tmp_path):
    from rich.console import Console

    cell = cell_of(KERNEL, law_of(lambda subject, case: subject.doubts("far out")))
    plain = Booked("kernel", "merge_kv", "fused", "float16", "some_law", CONFORMS, examples=3)
    run = Run("kernel", cells={one.key: one for one in (cell, plain)})
    console = Console(width=160, record=True, file=(tmp_path / "shown").open("w"))
    console.print(report.table([run]))
    for text in report.details(run):
        console.print(text)
    console.file.close()
    shown = console.export_text()
    row = next(line for line in shown.splitlines() if "merge_kv" in line and "│" in line)
    assert DOUBTFUL in shown
    assert [word.strip() for word in row.split("│")[1:-1]] == ["kernel", "merge_kv", "2", "1"]
    assert "kernel doubtful some_law in 1 cell(s), which pass" in shown
    assert "far out; likewise in 7 of 7 draws with other seeds" in shown
    report.write_json(tmp_path / "r.json", [run], report.exit_code([run]))
    data = json.loads((tmp_path / "r.json").read_text())
    assert (data["summary"], data["cells"][1]["doubt"]) == ({"outcomes": {CONFORMS: 2}, "exit": 0}, None)
    assert data["cells"][0]["doubt"] == cell.doubt
