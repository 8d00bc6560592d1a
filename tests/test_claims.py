"""Every claim has a verdict that a command reproduces, and every judge can be made to say the opposite."""

import json
import re
import sys
from dataclasses import replace
from itertools import count
from math import comb, factorial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import kvconform
from kvconform.claims import counting, fused_kv, pq_speed, split_kv
from kvconform.claims.claim import CONFIRMED, NOT_MEASURED, NOT_TESTABLE, REFUTED, VERDICTS, Figure
from kvconform.claims.merge_trees import depth, every_merge
from kvconform.claims.page import markdown
from kvconform.claims.plot import PICTURES, draw
from kvconform.claims.split_attention import added, drawn, even_parts
from kvconform.claims.split_kv import LSE_MERGE
from kvconform.claims.table import CLAIMS, MODULES, SYSTEMS
from kvconform.harness import cli
from kvconform.impls import numpy_ref
from kvconform.oracles.bound import attention_bound
from kvconform.oracles.rounding import admissible
from kvconform.specs.layouts import LAYOUTS, Field
from kvconform.specs.profile import Profile
from kvconform.tests import pq_wrongs

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "claims.md"
DRAWN = "naive_sum_equals_single_pass"  # a claim with a picture
PICTURED = "product_quantisation_beats_uniform_at_4_bits, naive_sum_equals_single_pass"
QUICK = "fused_rows_alternate"  # a claim that takes no time


@pytest.fixture(scope="module")
def judged():
    """Every claim, as a machine without a GPU judges it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pq_speed, "measured_here", lambda seed: "there is no GPU here")
        return {name: claim.judge(0) for name, claim in CLAIMS.items()}


# --- the table


def test_every_claim_has_a_verdict_figures_and_a_reason(judged):
    for name, found in judged.items():
        assert found.verdict in VERDICTS, name
        assert found.figures, name
        assert found.explanation.endswith("."), name
        assert CLAIMS[name].system in SYSTEMS


def test_no_two_claims_share_a_name():
    assert len(CLAIMS) == sum(len(module.CLAIMS) for module in MODULES)


@pytest.mark.parametrize(
    "name", ["roundtrip_is_exact", "difference_is_non_determinism", "fixed_order_is_reproducible", QUICK]
)
def test_one_seed_gives_one_set_of_figures(judged, name):
    assert CLAIMS[name].judge(0) == judged[name]


@pytest.mark.parametrize("name", ["roundtrip_is_exact", "difference_is_non_determinism"])
def test_another_seed_changes_figures_and_no_verdict(judged, name):
    other = CLAIMS[name].judge(1)
    assert other.verdict == judged[name].verdict
    assert other.figures != judged[name].figures


# --- wrong things to hand to a judge


def halves(k, v):
    return np.concatenate([k, v], axis=1)


def through_float32(k, v):
    with np.errstate(invalid="ignore"):
        return numpy_ref.merge_kv(*(side.astype(np.float32).astype(side.dtype) for side in (k, v)))


def side_by_side(k, v):
    return np.concatenate([k, v], axis=2)


def impl(**changed):
    own = {name: getattr(numpy_ref, name) for name in ("merge_kv", "extract_k", "extract_v")}
    return SimpleNamespace(**(own | changed))


def without_padding(rows, packing):
    return rows.reshape(*rows.shape[:2], 1, rows.shape[2])


def lanes_alone(rows, packing):
    return fused_kv.padded(rows, 1)


def taken_apart(shards):
    """A join that drops each shard's zeros and pads the whole again: what has to be done by hand."""
    packing = shards[0].shape[2]
    rows = [shard.reshape(len(shard), -1, shard.shape[-1]) for shard in shards]
    live = np.concatenate([one[:, one.any((0, 2))] for one in rows], axis=1)
    return fused_kv.padded(live[..., live.any((0, 1))], packing)


def base_2(outs, lses):
    return LSE_MERGE(outs, lses * np.float32(np.log(2.0)))


def last_part_dropped(outs, lses):
    return LSE_MERGE(outs[: max(1, len(outs) - 1)], lses[: max(1, len(outs) - 1)])


def stored_in_float16(outs, lses):
    out, lse = LSE_MERGE(outs, lses)
    return out.astype(np.float16).astype(np.float32), lse


def in_another_order_each_call(join=LSE_MERGE):
    calls = count()

    def merge(outs, lses):
        order = np.random.default_rng(next(calls)).permutation(len(outs))
        return join(outs[order], lses[order])

    return merge


def noisy_sum():
    calls = count()
    return lambda outs, lses: (added(outs, lses)[0] * np.float32(1 + 0.01 * next(calls)), lses[0])


def parts_with_keys(seq_len, num_splits):
    return even_parts(seq_len, min(seq_len, num_splits))


def each_query_its_own_split(queries, keys, values, num_splits, work):
    """What would do n^2 / k: a query attends to one split alone. Not attention."""
    parts = even_parts(len(keys), num_splits)
    return [
        counting.attend(query, keys[part], values[part], work)[0]
        for i, query in enumerate(queries)
        for part in [parts[i * num_splits // len(queries)]]
    ]


HALVES = {"kv": Field("kv page slot head dim -> page slot (kv head) dim")}
WRONG_ROW = replace(fused_kv.CONCATENATED, name="halves", fields=HALVES)

TURNED = [
    (fused_kv.roundtrip_is_exact, {"impl": impl(extract_k=numpy_ref.extract_v)}, REFUTED),
    (fused_kv.roundtrip_is_exact, {"impl": impl(merge_kv=through_float32)}, REFUTED),
    (
        fused_kv.roundtrip_is_exact,
        {"impl": impl(merge_kv=lambda k, v: numpy_ref.merge_kv(v, k), extract_k=numpy_ref.extract_v)},
        REFUTED,
    ),
    (fused_kv.fused_rows_alternate, {"merge": halves}, REFUTED),
    (fused_kv.extract_takes_every_other_row, {"extract_k": numpy_ref.extract_v}, REFUTED),
    (fused_kv.extract_takes_every_other_row, {"extract_v": lambda kv: kv[:, kv.shape[1] // 2 :]}, REFUTED),
    (fused_kv.cache_buffer_shape, {"merge": side_by_side}, REFUTED),
    (fused_kv.double_buffer_shape, {"allocated": lambda p, s, h, d: (2, p, s, 2 * h, d)}, CONFIRMED),
    (fused_kv.double_buffer_shape, {"allocated": lambda p, s, h, d: (2, p, s, h, 2 * d)}, REFUTED),
    (fused_kv.interleaving_is_incompatible, {"other": WRONG_ROW}, CONFIRMED),
    (fused_kv.interleaving_is_incompatible, {"other": LAYOUTS["nhd"]}, CONFIRMED),
    (fused_kv.sharding_commutes_with_interleaving, {"merge": halves}, REFUTED),
    (fused_kv.padding_a_shard_breaks_sharding, {"pad": without_padding}, NOT_TESTABLE),
    (fused_kv.padding_a_shard_breaks_sharding, {"pad": lanes_alone}, NOT_TESTABLE),
    (fused_kv.padding_a_shard_breaks_sharding, {"join": taken_apart}, REFUTED),
    (split_kv.lse_merge_equals_single_pass, {"merge": added}, REFUTED),
    (split_kv.lse_merge_equals_single_pass, {"merge": base_2}, REFUTED),
    (split_kv.lse_merge_equals_single_pass, {"merge": last_part_dropped}, REFUTED),
    (split_kv.lse_merge_equals_single_pass, {"merge": stored_in_float16}, REFUTED),
    (split_kv.naive_sum_equals_single_pass, {"join": LSE_MERGE}, CONFIRMED),
    (split_kv.difference_is_non_determinism, {"join": LSE_MERGE}, REFUTED),
    (split_kv.difference_is_non_determinism, {"join": in_another_order_each_call()}, CONFIRMED),
    (split_kv.difference_is_non_determinism, {"join": noisy_sum()}, REFUTED),
    (split_kv.fixed_order_is_reproducible, {"merge": in_another_order_each_call()}, REFUTED),
    (split_kv.floor_splits_hold_the_sequence, {"cut": parts_with_keys}, CONFIRMED),
    (split_kv.floor_splits_hold_the_sequence, {"cut": even_parts}, REFUTED),
    (split_kv.floor_splits_hold_the_sequence, {"cut": split_kv.last_takes_the_rest}, REFUTED),
    (split_kv.total_work_is_unchanged, {"attention": each_query_its_own_split}, REFUTED),
    (split_kv.total_work_falls_with_splits, {"attention": each_query_its_own_split}, CONFIRMED),
    *pq_wrongs.TURNED,
]


@pytest.mark.parametrize(
    ("judge", "wrong", "verdict"), TURNED, ids=[f"{i}-{judge.__name__}" for i, (judge, _, _) in enumerate(TURNED)]
)
def test_a_judge_turns_when_what_it_judges_does(judge, wrong, verdict):
    assert judge(0, **wrong).verdict == verdict


def test_every_judge_is_turned():
    assert {judge for judge, _, _ in TURNED} == {claim.judge for claim in CLAIMS.values()}


def test_shards_commute_exactly_where_their_padding_is_empty(judged):
    figures = judged["padding_a_shard_breaks_sharding"].figures
    counts = [figures[name].value.split(" of ") for name in list(figures)[:3]]
    assert [int(agree) for agree, _ in counts] == [0, *(int(tried) for _, tried in counts[1:])]
    assert all(int(tried) for _, tried in counts)


# --- what the judges build on


def test_every_partition_order_and_tree_of_three_keys_is_tried_once():
    catalan = [comb(2 * n, n) // (n + 1) for n in range(8)]
    partitions = {1: 1, 2: 3, 3: 1}  # of three keys, by number of parts

    def trees(parts):  # binary ones, and the flat one where it is not binary itself
        return factorial(parts) * (catalan[parts - 1] + (parts != 2))

    seen = [tree_and_state[0] for tree_and_state in every_merge(drawn(0, 3, 2), LSE_MERGE)]
    assert len(seen) == sum(many * (trees(parts) + trees(parts + 1)) for parts, many in partitions.items())
    assert max(map(depth, seen)) == 3


def test_numbers_that_count_compute_attention():
    """The counted implementation is attention: within the bound of a float64 kernel, whatever the splits."""
    rng = np.random.default_rng(0)
    queries, keys, values = (rng.standard_normal((n, 4)) for n in (3, 16, 16))
    float64 = dict.fromkeys(("qk_accumulator", "softmax_format", "pv_accumulator", "partial_format"), "float64")
    for num_splits in (1, 2, 16):
        out = counting.split_attention(*(x.tolist() for x in (queries, keys, values)), num_splits, counting.Work())
        profile = Profile(**float64, exp_error=2.0**-51, log_error=2.0**-51, splits=num_splits, merge_levels=1)
        want = attention_bound(queries, keys, values, 1.0, profile)
        assert admissible(out, want.out, want.out_error, "float64").all()


def test_work_is_counted_and_not_assumed():
    assert counting.count(1, 6, 1, 2) == (12, 12, 0)
    assert counting.count(5, 6, 3, 2) == (60, 60, 30)
    assert counting.count(6, 6, 3, 2, each_query_its_own_split) == (24, 24, 0)


def test_the_naive_sum_leaves_the_bound_at_two_splits_and_grows():
    errors = split_kv.errors_by_split(0, added, ("flat",), copies=2)
    assert errors.seen[0].outside == 0
    assert all(seen.outside for seen in errors.seen[1:])
    assert (np.diff(errors.relative, axis=0) > 0).all()


# --- page and picture


def said(page):
    """name -> the verdict in the table, the claim, the verdict and why."""
    rows = dict(re.findall(r"^\| \d+ \| \[.*\]\(#(\w+)\) \| (.+) \|$", page, re.M))
    return {name: (rows[name], *both) for name, *both in re.findall(r"^### (\w+)\n\n(> .*)\n\n(.*)$", page, re.M)}


def test_the_page_s_verdicts_are_those_of_the_judges(judged):
    written, now = said(PAGE.read_text()), said(markdown(judged, 0))
    assert list(written) == list(now) == list(CLAIMS)
    for name, claim in CLAIMS.items():  # the page's machine may have had a device that this one has not
        assert written[name] == now[name] or claim.by_device, name
        assert written[name][2].startswith(f"**{written[name][0]}**: "), name


def test_only_what_no_gpu_was_there_for_is_not_measured(judged):
    assert {name for name, found in judged.items() if found.verdict == NOT_MEASURED} == {
        name for name, claim in CLAIMS.items() if claim.by_device
    }


def test_a_stale_verdict_is_seen(judged):
    turned = judged | {QUICK: replace(judged[QUICK], verdict=REFUTED)}
    assert said(markdown(turned, 0))[QUICK] != said(PAGE.read_text())[QUICK]


def test_the_page_gives_every_command(judged):
    for claim in CLAIMS.values():
        assert f"    kvconform claims {claim.name} --seed 0\n" in PAGE.read_text()


@pytest.mark.parametrize("picture", PICTURES)
def test_one_seed_gives_one_picture_byte_for_byte(tmp_path, picture):
    for name in ("a.svg", "b.svg"):
        draw(picture, tmp_path / name, 0)
    first, kept = (tmp_path / "a.svg").read_bytes(), (PAGE.parent / picture).read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert b"<dc:date>" not in first
    assert kept.startswith(b"<?xml")
    assert b"<dc:date>" not in kept


def test_every_picture_belongs_to_one_claim():
    assert sorted(claim.picture for claim in CLAIMS.values() if claim.picture) == sorted(PICTURES)


# --- the command


def test_a_refuted_claim_is_no_failure_of_the_command(tmp_path, capsys):
    name = "total_work_falls_with_splits"
    assert cli.main(["claims", name, "--seed", "3", "--json", str(tmp_path / "claims.json")]) == 0
    report = json.loads((tmp_path / "claims.json").read_text())
    assert (report["schema"], report["suite"], report["seed"]) == (1, kvconform.__version__, 3)
    (row,) = report["claims"]
    assert list(row) == ["name", "system", "statement", "verdict", "figures", "explanation", "command", "seed"]
    assert (row["name"], row["verdict"], row["system"]) == (name, REFUTED, 4)
    assert row["command"] == f"kvconform claims {name} --seed 3"
    assert all(set(figure) == {"value", "unit"} for figure in row["figures"].values())
    printed = capsys.readouterr().out
    assert f"refuted {name}" in printed
    assert f"again   kvconform claims {name} --seed 3" in printed


def test_json_has_no_number_for_infinity():
    assert json.dumps(Figure(float("inf"), "of the bound").to_json()) == '{"value": "inf", "unit": "of the bound"}'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["roundtrip_is_exakt"], "no claim 'roundtrip_is_exakt'; did you mean 'roundtrip_is_exact'?"),
        (["--system", "7"], "no claims of system 7; known: 1, 3, 4"),
        ([QUICK, "--system", "4"], f"none of {QUICK} is a claim of system 4"),
        ([QUICK, "--plot", "x.pdf"], "--plot x.pdf: a picture's name ends in .svg or .png"),
        ([QUICK, "--plot", "no/such/x.svg"], "--plot no/such/x.svg: there is no folder no/such"),
        ([QUICK, "--plot", "x.svg"], f"--plot draws one picture, and 0 are asked for: name one of {PICTURED}"),
        (["--plot", "x.svg"], f"--plot draws one picture, and 2 are asked for: name one of {PICTURED}"),
        ([QUICK, "--json", "no/such/x.json"], "--json no/such/x.json: there is no folder no/such"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_bad_usage_is_a_sentence_and_2(arguments, sentence, capsys):
    assert cli.main(["claims", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"kvconform: {sentence}\n"
    assert not shown.out


def test_without_matplotlib_a_picture_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["claims", DRAWN, "--plot", str(tmp_path / "x.svg")]) == 2
    assert capsys.readouterr().err == "kvconform: --plot needs matplotlib: pip install 'kvconform[plots]'\n"
    assert not (tmp_path / "x.svg").exists()


def test_matplotlib_is_not_imported_unless_a_picture_is_drawn(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["claims", QUICK]) == 0


def test_claims_of_one_system_and_their_page(capsys):
    assert cli.main(["claims", QUICK, "extract_takes_every_other_row", "--system", "1", "--markdown"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# Claims\n")
    assert list(said(page)) == [QUICK, "extract_takes_every_other_row"]
    assert "System 4" not in page


def test_a_picture_is_drawn_on_request(tmp_path, capsys):
    assert cli.main(["claims", DRAWN, "--plot", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
