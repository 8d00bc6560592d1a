"""The bound attacked: searches find what is wrong and accuse nothing that is right; a second derivation agrees."""

from __future__ import annotations

import ast
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import mpmath
import numpy as np
import pytest

from kvconform.harness import cli, numerics_command
from kvconform.harness.adapters import everything
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.numerics import campaign, page, worst
from kvconform.numerics.emulators import Emulator, Machine, emulators, merge_divided, online, stored
from kvconform.numerics.intervals import ONE, Ambiguous, Interval, Recorder, Rounding, enclosed, reached
from kvconform.numerics.kinds import FEATURED, KINDS, draw, kinds_of
from kvconform.numerics.measured import Measured, declared
from kvconform.numerics.ratios import used
from kvconform.numerics.slack import STAGES as SLACK
from kvconform.numerics.slack import greatest
from kvconform.oracles import bound, decode, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.specs.case import Case
from kvconform.specs.cells import cells
from kvconform.specs.conventions import declared as declared_conventions
from kvconform.specs.inputs import inputs
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.pinned import equal_scores
from kvconform.specs.profile import Profile

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "numerics.md").read_text()
WRONG = ROOT / "tests" / "wrong"
ALL = KINDS | FEATURED

LIAR = Emulator("rounds P without saying so", online, Machine(p="bfloat16"), {"tile": 16, "renormalises": True})
"""A wrong kernel, by its own words."""


def emulator(name: str) -> Emulator:
    return next(one for one in emulators() if one.name == name)


# --- inputs


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_of_input_is_exact_in_its_storage(kind):
    for storage in ("float32", "float16", "bfloat16"):
        for seed in range(4):
            row = draw(kind, np.random.default_rng(seed), storage)
            for a in (row.q, row.k, row.v):
                assert np.array_equal(stored(a, storage), a, equal_nan=True)
            assert len(row.k) == len(row.v)
            assert row.sink is None or row.sink == stored(row.sink, "bfloat16")
            assert row.sees_a_key
    for seed in range(4):
        row = draw(kind, np.random.default_rng(seed), "int8")
        assert all(np.array_equal(a.astype(np.int8), a) for a in (row.k, row.v))
        assert len(row.of_k) == len(row.of_v) == len(row.k)


def test_no_two_kinds_are_the_same():
    drawn = {kind: draw(kind, np.random.default_rng(7), "float32") for kind in ALL}
    texts = {
        str((a.q.tolist(), a.k.tolist(), a.v.tolist(), np.asarray(a.bias).tolist(), a.sink)) for a in drawn.values()
    }
    assert len(texts) >= len(ALL) - 1  # a cap that is large, and a uniform row, may draw alike


def test_windows_and_sinks_are_drawn_for_kernels_that_have_them_and_for_no_other():
    assert set(kinds_of(False)) == set(KINDS)
    assert set(kinds_of(True)) == {*KINDS, *FEATURED}
    for one in emulators():
        rows = [campaign.searched(one, 0, number) for number in range(2 * len(ALL))]
        has = any(row.sink is not None for row in rows), any(np.isneginf(row.bias).any() for row in rows)
        assert has == (one.features, one.features), one.name
    assert sum(one.features for one in emulators()) >= 6


# --- random search and hill climbing


def test_a_kernel_that_keeps_a_rounding_from_its_profile_is_an_alarm():
    found = campaign.measure(LIAR, 2000, seed=0)
    assert found.alarms
    assert found.worst["out"].ratio > 10


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("bfloat16 x 3", "qk_error"),
        ("bfloat16 x 3", "pv_error"),
        ("products from a float16 table", "table_format"),
        ("tfloat32 operands", "v_format"),
        ("float16 P", "p_format"),
        ("5 splits, tree bfloat16", "partial_format"),
    ],
)
def test_a_kernel_that_does_not_declare_one_of_its_roundings_is_an_alarm(name, field):
    one = emulator(name)
    less = replace(one, declares={what: said for what, said in one.declares.items() if what != field})
    assert not campaign.measure(one, 20000, seed=0).alarms
    assert campaign.measure(less, 20000, seed=0).alarms


def _sink_in_every_split(machine, row):
    if row.sink is None:
        return online(machine, row)
    return merge_divided(machine, [online(machine, row.at(keys)) for keys in (slice(0, None, 2), slice(1, None, 2))])


def _sink_in_out_alone(machine, row):
    return online(machine, row)[0], online(machine, replace(row, sink=None))[1]


WRONG_WITH_FEATURES = {
    "forgets the sink": lambda machine, row: online(machine, replace(row, sink=None)),
    "has the sink in out alone": _sink_in_out_alone,
    "counts the sink in every split": _sink_in_every_split,
    "scales the sink": lambda machine, row: online(machine, replace(row, sink=row.sink and row.sink * row.sm_scale)),
    "sees what the window hides": lambda machine, row: online(machine, replace(row, bias=np.maximum(row.bias, -8))),
}


@pytest.mark.parametrize("fault", WRONG_WITH_FEATURES)
def test_a_kernel_that_is_wrong_about_windows_or_sinks_is_an_alarm(fault):
    declares = {"tile": 16, "splits": 2, "merge_levels": 1}
    with np.errstate(all="ignore"):
        wrong = Emulator(fault, WRONG_WITH_FEATURES[fault], Machine(), declares, features=True)
        assert campaign.measure(wrong, 20000, seed=0).alarms
        assert not campaign.measure(replace(wrong, features=False), 5000, seed=0).alarms


def test_the_same_seed_finds_the_same():
    one = emulator("bfloat16 P summed")
    first, again, other = (campaign.measure(one, 3000, seed) for seed in (0, 0, 1))
    assert first.to_json() == again.to_json()
    assert first.worst["out"].ratio != other.worst["out"].ratio


@pytest.mark.parametrize("case", ["search 5", "climb 2", "climb 3"])
def test_a_case_is_judged_again_by_its_number_alone(case):
    one = emulator("float16 P")
    first, again = (campaign.again(one, case, seed=4) for _ in range(2))
    assert first.ratios == again.ratios
    assert first.row.k.tobytes() == again.row.k.tobytes()


def test_climbing_uses_more_of_the_bound_than_its_start(monkeypatch):
    """In out on even numbers, in lse on odd ones."""
    gained = {"out": 0, "lse": 0}
    for number in range(6):
        for name in ("bfloat16 operands", "eager sequential"):
            climbed = campaign.climb(emulator(name), 0, number)
            with monkeypatch.context() as patch:
                patch.setattr(campaign, "STEPS", 0)
                start = campaign.climb(emulator(name), 0, number)
            result = ("out", "lse")[number % 2]
            assert climbed.best.admitted
            assert climbed.best.ratios[result] >= start.best.ratios[result]
            gained[result] += climbed.best.ratios[result] > 1.5 * start.best.ratios[result]
    assert min(gained.values()) >= 3


def test_climbing_finds_what_random_search_does_not():
    """A kernel whose P is a little narrower than declared, so little that ordinary rows are inside."""
    nearly = replace(LIAR, declares={"p_format": "float8_e4m3fn", "p_scale": 2.0**-6, "tile": 16}, name="nearly")
    truthful = campaign.measure(nearly, 2000, 0)
    assert not truthful.alarms
    tight = replace(LIAR, declares={"exp_error": 2.0**-9.5, "tile": 16, "renormalises": True}, name="tight")
    alarmed = [campaign.climb(tight, 0, number) for number in range(10)]
    assert any(not one.best.admitted for one in alarmed if one.best)


def test_the_share_of_the_bound_that_is_used():
    assert used([1.5], np.array([1.0]), np.array([0.5]), "float64") == pytest.approx([1.0])
    assert used([-np.inf], np.array([-np.inf]), np.array([0.0]), "float32") == [0.0]
    assert np.isnan(used([np.nan], np.array([1.0]), np.array([0.5]), "float32"))


def test_slack_names_the_stage_that_a_profile_was_given():
    """Where one stage alone is coarse, it is what most of the bound comes from."""
    coarse = {
        "operands": {"k_format": "bfloat16"},
        "dot": {"qk_error": 2.0**-9},
        "stored scores": {"score_format": "bfloat16"},
        "exponent": {"exp_error": 2.0**-10},
        "softmax format": {"softmax_format": "float16"},
        "P": {"p_format": "bfloat16", "sum_rounds_p": False},
        "sum of values": {"pv_accumulator": "float16"},
        "partial results": {"partial_format": "bfloat16", "splits": 2, "merge_levels": 1},
    }
    for stage, declares in coarse.items():
        one = Emulator(stage, online, Machine(), {"tile": 16, "renormalises": True, **declares})
        judged = campaign.judge(one, draw("gauss", np.random.default_rng(3), "float16"))
        assert greatest(judged.stages("out")) == stage
    assert set(coarse) <= set(SLACK)


# --- exp(0)


@pytest.mark.parametrize("more", [{}, {"static": True}, {"kv_lens": {"min": 3}}, {"num_splits": {2, 3}}], ids=str)
def test_equal_scores_are_a_case_that_the_offer_allows(more):
    """Wherever one split may be asked for and a page has room; a key alone where that is allowed."""
    seen = 0
    for cell in cells("paged_decode", {**numpy_ref.OFFERS["paged_decode"], **more}, declared_conventions({})):
        pinned = equal_scores(cell)
        seen += len(pinned)
        for case in pinned:
            assert cell.draws(case), case
            assert not inputs(case).q.any()
            assert min(case.kv_lens) == more.get("kv_lens", {}).get("min", 1)
    assert bool(seen) == ("num_splits" not in more)


def test_what_is_required_of_exp_at_0_is_sharper_in_lse_alone_and_on_equal_scores_alone():
    profile = Profile(exp_error=9e-5, renormalises=True)
    for family, sharper in (("flat", True), ("plain", False)):
        case = Case(op="paged_decode", layout="nhd", dtype="float32", family=family, page_size=8, kv_lens=(7,))
        x = inputs(case)
        cache, right = paged.filled(x, "zero"), DecodeReading.right(x, declared_conventions({}))
        allowed, required = (f(x, cache, profile, right) for f in (decode.expected, decode.required))
        assert (required["out"].error == allowed["out"].error).all()
        assert bool((required["lse"].error < 0.1 * allowed["lse"].error).all()) == sharper
        lazy = replace(profile, max_lag=1.0)
        assert (decode.required(x, cache, lazy, right)["lse"].error > 9e-5).all()


# --- intervals


def test_intervals_hold_what_mpmath_computes():
    rng = np.random.default_rng(0)
    operations = {
        "add": (lambda a, b: a + b, lambda a, b: a + b),
        "subtract": (lambda a, b: a - b, lambda a, b: a - b),
        "multiply": (lambda a, b: a * b, lambda a, b: a * b),
        "divide": (lambda a, b: a * b.inverse(), lambda a, b: a / b),
        "exp": (lambda a, b: a.rising(math.exp), lambda a, b: mpmath.exp(a)),
        "tanh": (lambda a, b: a.rising(math.tanh), lambda a, b: mpmath.tanh(a)),
        "log": (lambda a, b: b.rising(math.log), lambda a, b: mpmath.log(b)),
    }
    with mpmath.workdps(40):
        for _ in range(300):
            a, b = float(rng.normal()), float(np.exp(rng.normal()))
            for name, (enclose, exact) in operations.items():
                found = enclose(Interval.at(a), Interval.at(b))
                truth = exact(mpmath.mpf(a), mpmath.mpf(b))
                assert found.lo <= truth <= found.hi, name
                assert found.hi - found.lo <= 1e-14 * found.magnitude, name


def _sum_of_three(numbers, delta):
    def run(to):
        rounding = Rounding(Interval.around(delta))
        a, b, c = map(to.constant, numbers)
        return to.add(to.add(a, b, rounding), c, rounding)

    return run


def test_the_worst_of_a_sum_is_known():
    """(a + b)(1 + d1) + c, times 1 + d2: the errors are |a + b| d and |a + b + c| d."""
    run = _sum_of_three((1.0, 2.0, -2.5), 2.0**-24)
    exact = (3.0 * (1 + 2.0**-24) - 2.5) * (1 + 2.0**-24) - 0.5
    assert reached(run) == pytest.approx(exact, rel=1e-7)
    assert reached(run) <= enclosed(run) <= reached(run) * (1 + 1e-5)


def test_no_random_choice_of_roundings_leaves_the_enclosure_or_beats_what_is_reached():
    rng = np.random.default_rng(1)
    stage = worst.STAGES["float32 throughout"]
    row, program = worst.small_row(rng, stage, 3), worst.programs(stage, 3, 1)[3]
    for at in range(2):
        run = worst._run(program, row, stage.profile, at)
        recorder = Recorder()
        run(recorder)
        still = run(Recorder([(0.0, 0.0)] * len(recorder.steps))).value.mid
        furthest = 0.0
        for _ in range(200):
            signs = rng.choice([-1.0, 1.0], (len(recorder.steps), 2))
            choice = [
                (step.rounding.delta.hi * a, step.rounding.eta.hi * b)
                for step, (a, b) in zip(recorder.steps, signs, strict=True)
            ]
            furthest = max(furthest, abs(run(Recorder(choice)).value.mid - still))
        assert 0 < furthest <= reached(run) * (1 + 1e-6) <= enclosed(run) * (1 + 1e-6)


def test_a_greatest_number_that_rounding_decides_is_refused():
    to = Recorder()
    a, b = to.constant(1.0, Rounding(Interval.around(0.1))), to.constant(1.05)
    with pytest.raises(Ambiguous):
        to.greatest([a, b])
    assert to.greatest([b, to.constant(0.5)]) == b
    with pytest.raises(ZeroDivisionError):
        (ONE + Interval.around(2.0)).inverse()


# --- the second derivation


def test_it_knows_the_bound_only_as_a_number():
    tree = (
        ast.parse((ROOT / "numerics" / "worst.py").read_text()),
        ast.parse((ROOT / "numerics" / "intervals.py").read_text()),
    )
    names = {
        alias.name
        for one in tree
        for node in ast.walk(one)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("kvconform.oracles")
        for alias in node.names
    }
    assert names == {"attention_bound"}


@pytest.mark.parametrize("name", worst.STAGES)
def test_no_rounding_of_any_program_leaves_the_bound(name):
    """What is reached is always inside; where second-order terms are small, so is everything there is."""
    for compared in worst.factors(worst.STAGES[name], seed=1, most=3).compared.values():
        for one in compared:
            assert 0 < one.reached <= one.bound
            if one.enclosed < 1.001 * one.reached:
                assert one.enclosed <= one.bound * (1 + 1e-4)


def test_five_keys_in_every_order_stay_inside():
    stage = worst.STAGES["float32 throughout"]
    row = worst.small_row(np.random.default_rng(3), stage, 5)
    for one in worst.compare(row, stage.profile, worst.programs(stage, 5, 2)).values():
        assert one.enclosed <= one.bound


TERMS = {
    "_sum_error": ("P in bfloat16, summed", "lse", lambda facts, profile: 0 * facts.depth),
    "_term_error": ("sum of values", "out", lambda facts, profile: 0 * facts.depth),
    "_lost": ("flushed values", "out", lambda *row: 0.0),
    "_evaluation_error": ("softmax in float32", "out", lambda keys, facts, profile: 0 * keys.score),
    "arithmetic_unit": ("dot", "out", lambda format, truncates=False: 0.0),
    "unit": ("operands in bfloat16", "out", lambda format: 0.0),
    "_biased": (
        "the same, scores stored in bfloat16",
        "out",
        lambda score, error, bias, profile: (score + bias, error),
    ),
}


@pytest.mark.parametrize("term", TERMS)
def test_without_a_term_the_second_derivation_objects(term, monkeypatch):
    name, result, nothing = TERMS[term]
    monkeypatch.setattr(bound, term, nothing)
    compared = worst.factors(worst.STAGES[name], seed=1, most=3).compared[result]
    assert any(one.reached > one.bound for one in compared)


# --- the page


def test_the_page_s_profile_is_the_code_s():
    assert page.part(PAGE, "profile") == page.fields_table()
    assert all(f"`{name}`" in page.fields_table() for name in Profile.__dataclass_fields__)


def test_the_page_s_factors_are_what_the_second_derivation_gives():
    assert page.part(PAGE, "factors") == page.factors_table()


def test_the_page_s_screen_is_what_emulated_kernels_give():
    assert page.part(PAGE, "screen") == page.screen_table()
    assert " correct kernels, " in page.part(PAGE, "screen")
    assert ": 0 flagged." in page.part(PAGE, "screen")


def test_the_page_s_names_are_those_of_the_bound():
    named = set(re.findall(r"^\| `(_\w+)` \|", PAGE, re.M))
    assert len(named) >= 10
    assert all(hasattr(bound, name) for name in named)


def test_the_page_s_counts_are_those_of_the_code():
    attacks = {int(n) for n in re.findall(r"def test_attack_(\d+)_", (ROOT / "tests" / "test_bound.py").read_text())}
    assert f"inputs of {len(KINDS)} kinds, and those that have windows and sinks of nine more" in PAGE
    assert len(FEATURED) == 9
    assert (max(attacks), "sixteen attacks" in PAGE) == (16, True)


def test_the_page_has_measured_every_kernel_and_no_alarm():
    text = page.part(PAGE, "searches")
    rows = re.findall(r"^\| \*\*(.+?)\*\*<br>.*$", text, re.M)
    assert {one.name for one in emulators()} <= set(rows)
    assert {"numpy_ref, float32", "torch_sdpa_math, float32"} <= set(rows)
    assert len(rows) >= 20
    elements, alarms = re.search(r": (\d+) elements of \d+ implementations, (\d+) false alarms", text).groups()
    assert int(elements) >= 10**6
    assert int(alarms) == 0
    for row in re.findall(r"^\| \*\*.*$", text, re.M):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(float(share) <= 1.0 for share in cells[2:6] if share), row
        wide = any(float(share) < 0.1 for share in (cells[2], cells[4]) if share)
        assert bool(cells[8]) == wide, row


def test_the_page_was_measured_with_what_kernels_declare_today():
    said = dict(re.findall(r"^\| \*\*(.+?)\*\*<br>(.*?) \|", page.part(PAGE, "searches"), re.M))
    for one in emulators():
        assert said[one.name] == declared(one.profile), one.name
    for found in everything():
        rows = {name.rpartition(", ")[2]: text for name, text in said.items() if name.startswith(f"{found.name}, ")}
        assert bool(rows) == ("def paged_decode" in found.path.read_text(encoding="utf-8")), found.name
        if not found.blocked and not found.literals["ENV"]:
            subject = Subject(found.load(), found.name, found.file, found.ref)
            for dtype, text in rows.items():
                assert text == declared(subject.profile(dtype)), (found.name, dtype)


def test_parts_of_a_page_are_replaced_and_nothing_else():
    before = "a\n<!-- x: generated -->\nold\n<!-- end -->\nb\n"
    assert page.filled(before, {"x": "new\n"}) == "a\n<!-- x: generated -->\nnew\n<!-- end -->\nb\n"
    assert page.part(before, "x") == "old\n"
    with pytest.raises(ValueError, match="no part '<!-- y: generated -->'"):
        page.filled(before, {"y": ""})


# --- the command


QUICK = ["numerics", "--impl", "float8 P", "--elements", "500", "--climb", "0"]


def test_a_right_kernel_ends_with_0_and_its_row_as_json(tmp_path, capsys):
    assert cli.main([*QUICK, "--json", str(tmp_path / "rows.json")]) == 0
    report = json.loads((tmp_path / "rows.json").read_text())
    (row,) = (Measured.from_json(row) for row in report["rows"])
    assert (row.name, row.alarms, row.arithmetic) == ("float8 P", [], declared(emulator("float8 P").profile))
    assert row.elements >= 500
    assert row.to_json() == report["rows"][0]
    assert "float8 P" in capsys.readouterr().out


def test_an_alarm_ends_with_1_and_the_line_that_shows_it_again(monkeypatch, capsys):
    monkeypatch.setattr(numerics_command, "emulators", lambda: iter([LIAR]))
    assert cli.main(["numerics", "--elements", "300", "--climb", "0.1", "--seed", "3"]) == 1
    again = re.findall(r"again   kvconform (.*)", capsys.readouterr().out)
    assert again
    assert cli.main(shlex.split(again[0])) == 1
    shown = capsys.readouterr().out
    assert all(
        re.search(rf"^{name} ", shown, re.M) for name in ("q", "k", "v", "out", "exact", "bound", "of the bound")
    )


def test_an_implementation_gets_a_row_for_each_dtype(tmp_path, capsys):
    assert cli.main(["numerics", "--impl", "numpy_ref", "--elements", "100", "--json", str(tmp_path / "x.json")]) == 0
    rows = [Measured.from_json(row) for row in json.loads((tmp_path / "x.json").read_text())["rows"]]
    offered = [one for one in OPERATIONS["paged_decode"].dtypes if one in numpy_ref.OFFERS["paged_decode"]["dtype"]]
    assert sorted(row.name for row in rows) == sorted(f"numpy_ref, {dtype}" for dtype in offered)
    assert all(row.elements >= 100 and set(row.worst) == {"out", "lse"} and row.resolution for row in rows)


def test_a_wrong_implementation_is_an_alarm_that_replays(capsys):
    wrong = str(WRONG / "accumulates_in_float16.py")
    assert cli.main(["numerics", "--impl", wrong, "--elements", "100"]) == 1
    shown = capsys.readouterr().out
    assert "false alarm" in shown
    (line, *_) = re.findall(r"kvconform (replay .*)", shown)
    assert cli.main(shlex.split(line)) == 1


def test_implementations_beside_others_run_in_children_of_their_own(capsys):
    assert cli.main([*QUICK, "--impl", "numpy_ref"]) == 0
    assert "numpy_ref, bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--impl", "float8 p"], "of the emulated kernels did you mean 'float8 P'?"),
        (
            ["--impl", "float8 P", "--case", "stroll 1"],
            "no case 'stroll 1': cases are called 'search 12' or 'climb 12'",
        ),
        (["--case", "climb 1"], "--case judges one emulated kernel again: name it with --impl"),
        ([*QUICK[1:], "--json", "no/such/x.json"], "--json no/such/x.json: there is no folder no/such"),
        ([*QUICK[1:], "--markdown", "no/such.md"], "--markdown no/such.md: no such page"),
        (["--impl", str(WRONG / "reciprocal_is_approximate.py")], "does not offer paged_decode"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_bad_usage_is_a_sentence_and_2(arguments, sentence, capsys):
    assert cli.main(["numerics", *arguments]) == 2
    assert sentence in capsys.readouterr().err
