"""Every family of contents is what it claims, exactly, in each floating type."""

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.impls import numpy_ref
from kvconform.oracles import paged
from kvconform.oracles.mistakes import of_merge
from kvconform.specs import data, families
from kvconform.specs.case import Case
from kvconform.specs.cells import POOL
from kvconform.specs.families import DIGITS, FAMILIES, HIGHEST, SPELLED
from kvconform.specs.inputs import inputs
from kvconform.specs.operations import ROUNDED
from kvconform.specs.profile import Profile
from kvconform.suites.law import Law
from kvconform.tests.families import BESIDE, candidates, markdown, shown_by, without
from kvconform.tests.families import FAMILIES as NAMES
from kvconform.tests.power import FAULTS

ONE = Case(
    op="paged_decode", layout="nhd", dtype="float32", kv_lens=(11, 0, 6), page_size=4, num_kv_heads=2, head_dim=8
)
CLAIMS = {name: family.claim for name, family in FAMILIES.items()}
MERGED = Case(op="merge_states", layout="parts_first", dtype="float32", num_seqs=3, num_parts=5, head_dim=8)


def of_family(family, **changes):
    return inputs(replace(ONE, family=family, **changes))


def rows_of(x, name):
    """Tokens of each sequence, in float64."""
    ends = np.cumsum(x.case.kv_lens)[:-1]
    return np.split(x.tokens[name].astype(np.float64), ends)


def scores_of(x):
    """Of each sequence that has a key, [keys, num_q_heads]."""
    q = x.q.astype(np.float64)
    k = [np.repeat(rows, x.case.group, axis=1) for rows in rows_of(x, "k")]
    return [x.sm_scale * (rows * q[seq]).sum(-1) for seq, rows in enumerate(k) if len(rows)]


def levels_of(x):
    """The dim of K that holds them, of each sequence."""
    at = x._place().hot
    return [rows[:, 0, at] for rows in rows_of(x, "k")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sm_scale", POOL["sm_scale"])
def test_scores_are_the_same_numbers_in_every_floating_type(family, sm_scale):
    """V too, but where it is to fill a significand."""
    of = [of_family(family, dtype=dtype, sm_scale=sm_scale, kv_lens=(300, 7)) for dtype in ROUNDED]
    filled = (families._fine, families._address)
    exact = ("q", "k", *(["v"] if FAMILIES[family].value not in filled else []))
    for name in exact:
        first, *others = (np.asarray(x.q if name == "q" else x.tokens[name], np.float64) for x in of)
        assert np.isfinite(first).all()
        assert all(np.array_equal(first, other) for other in others), name


@pytest.mark.parametrize("family", FAMILIES)
def test_levels_have_at_most_eight_bits_and_what_they_are_worth_is_a_power_of_two(family):
    for seed in range(8):
        x = of_family(family, seed=seed, kv_lens=(300, 7), head_dim=24)
        significand = np.frexp(np.concatenate(levels_of(x)))[0] * 2.0**8
        assert np.array_equal(significand, np.round(significand))
        hot = x.q[..., x._place().hot].astype(np.float64)
        assert len(np.unique(hot)) == 1
        assert np.frexp(hot)[0].ravel()[0] in (0.0, 0.5)
        wanted = FAMILIES[family].gain(x._place())
        assert wanted <= hot.max() * x.sm_scale <= wanted * 2


def test_a_needle_leaves_one_key():
    for seed in range(8):
        for score in scores_of(of_family("needle", seed=seed)):
            ordered = np.sort(score, axis=0)
            assert (ordered[-1] - ordered[-2] > 100).all()


def test_what_a_needle_leaves_of_v_spells_the_place_of_its_key():
    x = of_family("needle", kv_lens=(700, 11, 70), page_size=8, head_dim=16)
    got = numpy_ref.paged_decode(x.q, paged.filled(x, "zero"), x.block_table, x.kv_lens, layout="nhd")[0]
    digits = np.rint(got[:, 0, 1:14:2] * DIGITS - 1).astype(int)
    key, row = ([place for place, name in enumerate(SPELLED) if name == what] for what in ("key", "row"))
    chosen = [int(level.argmax()) for level in levels_of(x)]
    assert (digits[:, key] @ DIGITS ** np.arange(len(key))).tolist() == chosen
    assert (digits[:, row] @ DIGITS ** np.arange(len(row))).tolist() == [0, 1, 2]
    assert max(chosen) >= DIGITS


def test_a_spike_is_one_key_that_outweighs_a_hundred_of_its_level():
    for seed in range(8):
        x = of_family("spike", seed=seed)
        assert [level.sum() for level in levels_of(x) if len(level)] == [1.0, 1.0]
        assert np.exp(x.q[0, 0, x._place().hot] * x.sm_scale) > 30


@pytest.mark.parametrize("family", ["spike", "needle"])
def test_the_key_that_counts_is_at_every_end_and_edge(family):
    chosen = {int(levels_of(of_family(family, seed=seed))[0].argmax()) for seed in range(200)}
    assert {0, 3, 4, 7, 8, 10} <= chosen


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_values_of_zero_sum_cancel_in_every_dim(length):
    x = of_family("zero_sum", kv_lens=(length, 3))
    assert not x.q.any()
    for rows in rows_of(x, "v"):
        assert not rows.sum(0).any()
    if length > 2:
        assert all(row.any() for row in rows_of(x, "v")[0][: length // 2])


@pytest.mark.parametrize("length", [12, 13])
def test_in_zero_sum_no_two_keys_cancel_and_none_is_zero_in_every_dim(length):
    (rows, _) = rows_of(of_family("zero_sum", kv_lens=(length, 3), head_dim=8), "v")
    assert rows.reshape(length, -1).any(1).all()
    for one, other in combinations(rows, 2):
        assert (one + other).any()
    for first, last in ((0, 1), (0, 4), (4, 8)):  # a key or a page alone, and its like from the other end with it
        assert rows[first:last].sum(0).any()
        assert (rows[first:last].sum(0) + rows[length - last : length - first].sum(0)).any()


def test_read_out_lists_pages():
    x = of_family("read_out", head_dim=24)
    assert not x.q.any()
    for rows in rows_of(x, "v"):
        assert set(np.unique(rows)) <= {0.0, 1.0}
        assert (rows.sum(-1) == 1).all()
        for start in range(0, len(rows), x.case.page_size):
            page = rows[start : start + x.case.page_size]
            assert (page == page[:1]).all()


def test_stairs_rise_and_fall_from_key_to_key():
    up, down = (levels_of(of_family(family, kv_lens=(300, 7))) for family in ("stairs_up", "stairs_down"))
    assert np.array_equal(up[0], np.minimum(np.arange(300), HIGHEST))
    assert np.array_equal(down[0], up[0][::-1])
    assert np.array_equal(down[1], np.arange(7)[::-1])


@pytest.mark.parametrize("sm_scale", POOL["sm_scale"])
def test_huge_scores_lie_far_out_on_either_side(sm_scale):
    sides = set()
    for seed in range(8):
        for score in scores_of(of_family("huge", seed=seed, sm_scale=sm_scale)):
            assert (np.abs(score) > 45_000).all()
            assert len(np.unique(np.sign(score))) == 1
            sides.add(float(np.sign(score.flat[0])))
    assert sides == {-1.0, 1.0}


def test_tiny_scores_are_small_and_not_all_the_same():
    for score in scores_of(of_family("tiny")):
        assert 0 < np.abs(score).max() < 2.0**-9
        assert (score.max(0) > score.min(0)).all()


def test_ties_are_pairs_of_neighbours_bit_for_bit_or_but_for_a_128th_of_a_level():
    x = of_family("ties", kv_lens=(301, 6))
    apart = set()
    for level, score in zip(levels_of(x), scores_of(x), strict=True):
        whole = len(level) // 2 * 2
        apart |= set(level[1:whole:2] - level[0:whole:2])
        assert (score == level[:, None] * x.q[0, 0, x._place().hot] * x.sm_scale).all()
        assert len(np.unique(level)) > 2
    assert apart == {0.0, 2.0**-7}


def test_values_that_cancel_alternate_and_k_has_an_offset():
    v = rows_of(of_family("cancel"), "v")[0]
    assert (v[0::2] >= 15).all()
    assert (v[1::2] < -15 + 1).all()
    x = of_family("k_offset")
    k = np.delete(rows_of(x, "k")[0], x._place().hot, axis=-1)
    assert k.min() >= 7
    assert k.max() < 9


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_pages_hold_the_same_tokens_for_all_sequences(family):
    x = of_family(family, kv_lens=(11, 9, 4), shared_pages=2)
    for name in ("k", "v"):
        first, second, third = rows_of(x, name)
        assert np.array_equal(first[:8], second[:8])
        assert np.array_equal(first[:4], third[:4])


@pytest.mark.parametrize("family", FAMILIES)
def test_pages_that_alternate_sequences_share_hold_the_same_tokens_for_those(family):
    x = of_family(family, kv_lens=(11, 9, 9, 10), shared_pages=2, shared_by="alternate")
    for name in ("k", "v"):
        rows = rows_of(x, name)
        assert all(np.array_equal(rows[seq][:8], rows[seq + 2][:8]) for seq in (0, 1))


@pytest.mark.parametrize(
    ("dtype", "orders", "least"),
    [
        ("float32", {0, 7, 14, 20}, None),
        ("float16", {0, 7, 14, 20}, 2.0**-14),
        ("float8_e4m3fn", {0, 2, 4, 6}, 2.0**-6),
        ("float8_e5m2", {0, 4, 9, 13}, None),
        ("int8", {0}, None),
    ],
)
def test_faint_values_are_eighths_of_another_order_in_each_dim_down_to_subnormals(dtype, orders, least):
    v = rows_of(inputs(replace(ONE, dtype=dtype, family="faint", q_dtype="float32")), "v")[0]
    v = v * families.STEPS.get(dtype, 1.0)
    of_dims = -np.ceil(np.log2(np.abs(v).max((0, 1))))
    assert set(of_dims) == orders
    assert (np.ldexp(v, 3 + of_dims.astype(int)) % 1 == 0).all()
    if least is not None:
        assert ((v != 0) & (np.abs(v) < least)).any()


def test_of_merged_parts_a_needle_is_one_part():
    lse = np.sort(np.asarray(inputs(replace(MERGED, family="needle")).arrays()["lses"], np.float64), axis=0)
    assert (lse[-1] - lse[-2] > 100).all()


def test_what_would_explain_a_wrong_merge_of_huge_parts_is_worked_out_where_it_is_asked_for():
    with np.errstate(all="raise"):
        of_merge(np.ones((2, 1, 1, 4)), np.full((2, 1, 1), 1000.0), Profile())


@pytest.mark.parametrize(
    ("fault", "family"),
    [
        ("mask_value_starts_the_maximum", "huge"),
        ("small_scores_are_taken_for_none", "tiny"),
        ("v_saturates_at_eight", "cancel"),
        ("float16_subnormals_are_flushed", "faint"),
        ("q_is_narrowed_to_bfloat16", "fine"),
        ("lag_is_measured_from_the_last_tile", "stairs_up"),
        ("splits_have_room_for_256_keys", "zero_sum"),
    ],
)
def test_a_fault_made_for_a_family_is_shown_by_it_and_not_by_the_simplest(fault, family):
    """What docs/results/families.md says of all others takes minutes: see tests/families.py."""
    assert list(shown_by(fault, ("plain", family))) == [family]


def test_the_page_tells_faults_of_one_family_from_those_of_several():
    needed = {"one": ["dominant sinks"], "both": [], "neither": []}
    page = markdown({"one": ["huge"], "both": ["plain", "huge"], "neither": []}, needed)
    assert f"| `huge` | {FAMILIES['huge'].claim} | `one` |" in page
    assert "`both`" not in page
    assert "Several families show 1 of 3 faults. In runs this short none shows: `neither`." in page
    assert "`plain`" in page.partition("Nothing that they alone show")[2]
    assert "| dominant sinks | a sink that outweighs all keys | `one` |" in page
    assert "| one empty row | a sequence without a key among others | none |" in page


@pytest.mark.parametrize(
    ("what", "case", "has"),
    [
        ("dominant sinks", replace(ONE, sinks="dominant"), True),
        ("dominant sinks", replace(ONE, sinks="drawn"), False),
        ("one empty row", ONE, True),
        ("one empty row", replace(ONE, kv_lens=(0, 0)), False),
        ("one empty row", replace(ONE, kv_lens=(1, 2)), False),
    ],
)
def test_without_what_cases_have_beside_their_contents_a_law_says_nothing(what, case, has):
    said = []
    subject = SimpleNamespace(saw_nothing=lambda: said.append("nothing"))
    law = Law("some", ONE.op, lambda subject, case: said.append("all"), pinned=lambda cell: (case,))
    law = without(law, BESIDE[what][1])
    law.check(subject, case)
    assert said == ["nothing" if has else "all"]
    assert law.pinned(None) == (() if has else (case,))


def test_the_page_names_every_family_once_and_known_faults():
    """That it still holds takes minutes to see; what it is about takes none."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "results" / "families.md").read_text()
    table, _, rest = page.partition("Nothing that they alone show is known of ")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", table, re.M)
    silent = re.findall(r"`(\w+)`", rest.partition("\n")[0])
    assert sorted([*(family for family, _, _ in rows), *silent]) == sorted(NAMES)
    assert {fault for _, _, faults in rows for fault in re.findall(r"`(\w+)`", faults)} <= set(FAULTS)
    assert all(claim == (data.CLAIMS | CLAIMS)[family] for family, claim, _ in rows)
    shown = re.search(r"^Several families show (\d+) of (\d+) faults", page, re.M)
    assert int(shown[2]) == len(candidates()), "regenerate it: see tests/families.py"
