"""A diagnosis names the row that is really used, for every pair of rows, and says of other faults what they are."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from kvconform.harness import diagnose_command as diagnose_command_module
from kvconform.harness import diagnosis_page
from kvconform.harness.adapters import AdapterError, find
from kvconform.harness.diagnose_command import diagnose_command
from kvconform.harness.subject import Subject
from kvconform.oracles.diagnosis import OPS, diagnose, explain, told
from kvconform.oracles.diagnosis import pairs as told_of_pairs
from kvconform.oracles.diagnosis.candidates import same_places
from kvconform.oracles.diagnosis.codes import NONE, PATTERNS, Code, Units, whole
from kvconform.oracles.diagnosis.pairs import ALIKE, ITSELF, NAMED, NOT_NAMED, NOWHERE, UNLIKE, pairs
from kvconform.oracles.diagnosis.planted import Uses
from kvconform.oracles.diagnosis.probe_cases import is_observable, observable_rows, probe_cases
from kvconform.oracles.verdict import Raised
from kvconform.specs.cells import Cell, cells
from kvconform.specs.conventions import declared
from kvconform.specs.dtypes import FORMATS, is_floating
from kvconform.specs.layouts import LAYOUTS, SIDES
from kvconform.specs.paged import PagedInputs
from kvconform.tests.geometry import sizes_of
from kvconform.tests.wrong_rows import misread
from kvconform.tests.wrong_rows import same_places as lies_alike

ROOT = Path(__file__).resolve().parent.parent
WRONG = ROOT / "tests" / "wrong"
PAGED = [row for row in LAYOUTS.values() if row.holds == "pages"]
NHD, HND = LAYOUTS["nhd"], LAYOUTS["hnd"]


def cell(op, layout, dtype="float32", **offer):
    return Cell(op, layout, dtype, offer, declared({}))


def said(uses, *where, **offer):
    return diagnose(uses, cell(*where, **offer)).sentence


# --- every pair of rows


def of(op, claimed, used):
    return next(pair for pair in pairs(op) if (pair.claimed, pair.used) == (claimed, used))


@pytest.fixture(scope="module")
def judged():
    return [(pair, pair.outcome()) for op in OPS for pair in pairs(op)]


def test_of_every_pair_of_rows_the_used_one_is_named(judged):
    """Rows that are really there, in numbers, and those that fit nowhere few."""
    for op in OPS:
        counts = Counter(outcome for pair, outcome in judged if pair.op == op)
        print(op, dict(counts))
        assert counts[NAMED] >= 0.99 * (counts[NAMED] + counts[NOT_NAMED])
        assert counts[NAMED] >= {"append": 300, "gather": 300, "paged_decode": 290}[op]
        assert counts[NOWHERE] < 10
        assert counts[ITSELF] == len(observable_rows(op))
        assert counts.total() == len(observable_rows(op)) * len(LAYOUTS)


def test_the_page_of_pairs_is_the_one_that_the_command_prints(judged):
    assert (ROOT / "docs" / "results" / "diagnosis.md").read_text() == diagnosis_page.markdown(judged)


def test_every_pair_that_is_alike_has_a_proof(judged):
    assert all(pair.proof for pair, outcome in judged if outcome == ALIKE)
    assert not any(pair.proof for pair, outcome in judged if outcome == NAMED)


@pytest.mark.parametrize(
    ("claimed", "used", "planted", "outcome"),
    [
        ("nhd", "hnd", "hnd", NAMED),
        ("nhd", "hnd", "split_x", NOT_NAMED),
        ("nhd", "hnd", "nhd", NOT_NAMED),
        ("nhd", "nhd", "nhd", ITSELF),
        ("nhd", "nhd", "hnd", NOT_NAMED),
        ("nhd", "bshd", "bshd", ALIKE),
        ("nhd", "bshd", "hnd", NOT_NAMED),
        ("nhd", "kivi", "nhd", UNLIKE),
        ("shuffled_v", "token_slots", "nhd", NOWHERE),
    ],
)
def test_a_pair_is_judged_by_what_is_said_of_the_row_that_is_planted(claimed, used, planted, outcome, monkeypatch):
    """A diagnosis that speaks of another row than the used one does not count as naming it."""
    monkeypatch.setattr(told_of_pairs, "diagnose", lambda uses, cell: diagnose(Uses.only(planted), cell))
    assert of("gather", claimed, used).outcome() == outcome


def test_the_page_counts_and_lists_what_is_not_named():
    missed = of("gather", "nhd", "hnd")
    page = diagnosis_page.markdown([(missed, NOT_NAMED), (of("gather", "nhd", "split_x"), NAMED)])
    assert "| `gather` | 2 | 0 | 0 | 0 | 0 | 1 | 1 | 50.0% |" in page
    assert "## Not named\n\n| claimed | used | operations |\n|---|---|---|\n| nhd | hnd | `gather` |\n" in page
    assert "## Alike\n\nNo two rows are the same places.\n" in page


def test_the_command_that_counts_pairs_fails_where_one_is_not_named(monkeypatch):
    some = [of("gather", "nhd", used) for used in ("hnd", "bshd")]
    monkeypatch.setattr(diagnose_command_module, "every_pair", lambda op: iter(some))
    done = run("--pairs", "--op", "gather", "--markdown")
    assert (done.exception, done.return_value) == (None, 0)
    assert "| `gather` | 2 | 0 | 0 | 0 | 1 | 1 | 0 | 100.0% |" in done.output
    monkeypatch.setattr(told_of_pairs, "diagnose", lambda uses, cell: diagnose(Uses.only("split_x"), cell))
    assert run("--pairs", "--op", "gather").return_value == 1


def test_rows_that_are_named_together_are_the_same_places():
    """The proof by lines holds in sizes that nobody chose for it; rows that differ have none."""
    assert "page slot head dim, slowest first" in same_places(("bshd", "nhd"), "nhd", "float32")
    assert "where slot is 1" in same_places(("hnd", "nhd"), "token_slots", "float32")
    assert "each of the" in same_places(("interleaved", "packed"), "interleaved", "float32")
    assert not same_places(("interleaved", "packed"), "packed", "float32")
    assert not same_places(("hnd", "nhd"), "nhd", "float32")
    assert not same_places(("kv_first_nhd", "split_x"), "kv_first_nhd", "float32")


def test_rows_that_only_larger_sizes_tell_apart_are_told_by_them(monkeypatch):
    """With one slot a page nearly all rows are alike: further sizes decide, and one size alone says so."""
    small, large = (next(probe_cases(cell("gather", "nhd", page_size={n}))) for n in (1, 8))
    monkeypatch.setattr(told, "probe_cases", lambda cell: iter([small, large]))
    found = diagnose(Uses.only("hnd"), cell("gather", "nhd"))
    assert (found.rows, len(found.cases)) == (("hnd", "bhsd"), 2)
    assert found.named(found.rows) == "hnd = bhsd"
    monkeypatch.setattr(told, "probe_cases", lambda cell: iter([small]))
    assert len(diagnose(Uses.only("hnd"), cell("gather", "nhd")).rows) > 5


def test_a_row_that_changes_with_the_sizes_is_said_to(monkeypatch):
    small, large = (next(probe_cases(cell("gather", "nhd", page_size={n}))) for n in (1, 8))
    monkeypatch.setattr(told, "probe_cases", lambda cell: iter([small, large]))

    def uses(case, op, **arguments):
        return Uses.only("nhd" if case.page_size == 1 else "heads_first")(case, op, **arguments)

    sentence = said(uses, "gather", "nhd")
    assert sentence.startswith("K and V are read as in no known row: as nhd in page_size 1")
    assert "but as heads_first in page_size 8" in sentence


# --- what is right is said to be


def subject(name):
    found = find(name)
    return Subject(found.load(), found.name, found.file, found.ref)


@pytest.mark.parametrize("op", OPS)
def test_the_reference_uses_every_row_that_it_claims(op):
    reference = subject("numpy_ref")
    seen = {}
    observable = [one for one in cells(op, reference.offers[op], reference.conventions) if is_observable(one)]
    for here in observable:
        if here.layout not in seen:
            seen[here.layout] = found = diagnose(reference.call, here)
            assert found.is_right, (here.layout, found.sentence)
            assert not found.sentence
            assert not found.hidden
            assert found.tables == "as given"
    assert len(seen) == len(observable_rows(op))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("page_size", [1, 4, 16, 128])
def test_decode_is_told_in_every_width_and_on_pages_of_every_size(dtype, page_size):
    """Sums of many keys keep fewer digits apart; they still decode."""
    found = diagnose(Uses.only("nhd"), cell("paged_decode", "nhd", dtype, page_size={page_size}))
    assert set(found.placements) == {"k", "v"}
    assert found.is_right


# --- other faults


def test_k_and_v_that_use_different_rows_are_told_each():
    assert said(Uses((NHD, HND)), "append", "nhd") == "K is written as in nhd; V is written as in hnd, not nhd"
    assert said(Uses((NHD, HND)), "paged_decode", "nhd") == "K is read as in nhd; V is read as in hnd, not nhd"


def test_k_and_v_that_change_places_are_told():
    sentence = "K is read where nhd has V; V is read where nhd has K"
    assert said(Uses.only("nhd", of=SIDES[::-1]), "gather", "nhd") == sentence
    assert said(Uses.only("nhd", of=(0, 0)), "gather", "nhd") == "K is read as in nhd; V is read where nhd has K"


def test_strides_that_no_row_has_are_told_beside_the_row_s():
    line = "page slot head dim -> page dim slot head"
    woven = replace(NHD, name="woven", fields={name: replace(one, line=line) for name, one in NHD.fields.items()})
    for op, verb in (("append", "written"), ("gather", "read"), ("paged_decode", "read")):
        assert said(Uses.only(woven), op, "nhd") == (
            f"K and V are {verb} as in no known row: strides page 384, slot 3, head 1, dim 24 where nhd has page 384, "
            "slot 48, head 16, dim 1, in elements of float32"
        )


def test_a_doubled_stride_is_told():
    """K and V take turns slot by slot, so the slots of each lie twice as far apart."""
    line = "kv page slot head dim -> page slot kv head dim"
    woven = replace(LAYOUTS["kv_first_nhd"], name="woven", fields={"kv": replace(NHD.fields["k"], line=line)})
    assert said(Uses.only(woven), "gather", "kv_first_nhd", page_size={4}, num_kv_heads={3}, head_dim={24}) == (
        "K and V are read as in no known row: strides page 576, slot 144, head 24, dim 1 where kv_first_nhd has page "
        "288, slot 72, head 24, dim 1, in elements of float32; V from 72 on where it begins at 1440"
    )


def test_chunks_of_another_size_are_told():
    wide = replace(LAYOUTS["split_x"], name="wide", inner={"x": 8})
    sentence = said(Uses.only(wide), "gather", "split_x")
    assert "dim // 8 64, dim % 8 1 where split_x has" in sentence
    assert "dim // 4 32, dim % 4 1" in sentence


def in_order(side, tables):
    return np.arange(tables[side].size).reshape(tables[side].shape)


TABLES = {
    "as if the pages of all sequences lay in order": in_order,
    "as if every sequence had pages 0, 1, 2 ...": lambda side, tables: 0 * tables[side] + np.arange(tables[0].shape[1]),
    "as if each sequence had the pages of the next one": lambda side, tables: np.roll(tables[side], -1, 0),
    "as if each sequence had the pages of the first one": lambda side, tables: tables[side][[0] * len(tables[0])],
    "every page number 1 too high": lambda side, tables: (tables[side] + 1) % 6,
}


@pytest.mark.parametrize("op", ["gather", "paged_decode"])
@pytest.mark.parametrize("wrong", TABLES)
def test_tables_of_k_and_v_that_disagree_are_told(op, wrong):
    """V by a table of its own, in the claimed row and in another one."""

    def of_v(side, tables):
        return TABLES[wrong](side, tables) if side else tables[side]

    for row, place in ((NHD, "nhd"), (HND, "hnd, not nhd")):
        found = diagnose(
            Uses((NHD, row), table=of_v), cell(op, "nhd", spare_pages={0} if op == "paged_decode" else {1})
        )
        assert found.sentence.startswith(f"K is read as in nhd; V is read as in {place}, but on page ")
        assert found.sentence.endswith(wrong)
        assert found.tables == "of V not as given"
        assert not found.is_right


def test_pages_of_k_used_for_v_are_told():
    uses = Uses.only("trtllm_blocks", table=lambda side, tables: tables[0])
    for op in ("gather", "paged_decode"):
        assert said(uses, op, "trtllm_blocks").endswith("as if V had the pages of K")


@pytest.mark.parametrize("row", ["nhd", "hnd"])
def test_q_heads_on_other_kv_heads_are_told(row):
    """Dealt out instead of in groups, in the claimed row and in another one."""
    sentence = said(Uses.only(row, head_of=lambda heads, num: heads % num), "paged_decode", "nhd")
    assert sentence.endswith("with q heads 0, 1, 2, 3, 4, 5 on kv heads 0, 1, 2, 0, 1, 2: h % num_kv_heads")
    assert f"as in {row}" in sentence


def test_exchanged_indices_are_told():
    uses = Uses.only("nhd", move=lambda part, at: {**at, "head": 2 - at["head"]})
    assert said(uses, "gather", "nhd", num_kv_heads={3}).endswith("as in nhd, with head 2, 1, 0 for head 0, 1, 2")


def test_some_wrong_elements_are_told_by_their_indices():
    def wrong(part, at):
        return {**at, "head": np.where((at["head"] == 2) & (at["slot"] > 4), 0, at["head"])}

    sentence = said(Uses.only("nhd", move=wrong), "gather", "nhd", num_kv_heads={3}, page_size={8})
    assert "as in nhd, but for slot 5, 6, 7, head 2: page " in sentence
    assert "lies where nhd has k: page " in sentence
    written = said(Uses.only("nhd", move=wrong), "append", "nhd", num_kv_heads={3}, page_size={8})
    assert "not written: slot 5, 6, 7, head 0" in written


def test_what_is_written_twice_is_told():
    uses = Uses.only("nhd")

    def twice(case, op, slot_mapping, **arguments):
        cache = uses(case, op, slot_mapping=slot_mapping, **arguments)["cache"]
        page = slot_mapping[0] // case.page_size
        (spare,) = set(range(len(cache["k"]))) - set(slot_mapping // case.page_size)
        cache["k"][spare] = cache["k"][page]
        return {"cache": cache}

    sentence = said(twice, "append", "nhd", spare_pages={1})
    assert sentence.startswith("K is written as in nhd, written to a second place too: page ")
    assert sentence.endswith("; V is written as in nhd")


def test_what_decodes_to_nothing_is_said_to():
    nothing = "K and V are not found: nothing decodes to an address: values are computed, not moved"
    assert said(Uses.only("nhd", scaled=0.37), "gather", "nhd").startswith(nothing)
    found = diagnose(Uses.only("nhd", scaled=0.37), cell("append", "nhd"))
    assert found.sentence == "K and V are not found: nothing is written anywhere in the cache as it was given"
    assert not found.is_right
    assert explain(Uses.only("nhd", scaled=0.37), cell("append", "nhd")) == ""


def test_a_scale_or_a_base_of_lse_that_is_wrong_hides_nothing():
    """Where K lies is not a question of how scores are scaled."""
    for lse in (lambda lse: lse / np.log(2), lambda lse: lse):
        uses = Uses.only("hnd", lse=lse)
        unscaled = lambda case, op, sm_scale, **rest: uses(case, op, sm_scale=1.0, **rest)  # noqa: E731, B023
        assert said(unscaled, "paged_decode", "nhd") == "K and V are read as in hnd = bhsd, not nhd"


def test_k_cannot_be_told_without_lse():
    found = diagnose(Uses.only("hnd", lse=None), cell("paged_decode", "nhd"))
    assert found.sentence == "V is read as in hnd = bhsd, not nhd"
    assert found.side(0) == "cannot be told"
    assert found.unknown == "of K nothing can be told: no lse is returned, from which it could be"


def test_a_wrong_number_of_keys_is_told_instead():
    uses = Uses.only("nhd")

    def one_more(case, op, kv_lens, **rest):
        return uses(case, op, kv_lens=np.minimum(kv_lens + 1, case.kv_lens[0]), **rest)

    found = diagnose(one_more, cell("paged_decode", "nhd"))
    assert found.unknown.endswith("told: with q = 0 it attends 2 keys where kv_lens says 1, by its lse")
    assert not found.placements
    assert not found.is_right


def test_lengths_that_never_follow_each_other_tell_nothing():
    found = diagnose(Uses.only("nhd"), cell("paged_decode", "nhd", kv_lens={4, 8}))
    assert found.unknown.startswith("of K and V nothing can be told: the offer has no two lengths in turn")
    assert found.tables == "cannot be told"
    assert not found.is_right


def test_no_misreading_of_a_row_is_taken_for_it():
    """Every slip in a row's own line that moves something: never right, and what is said of it is not nothing."""
    seen = Counter()
    for row in PAGED:
        dtype = row.dtypes[-1]
        case = next(probe_cases(cell("gather", row.name, dtype)))
        sizes = PagedInputs(case).sizes
        for what, wrong in misread(row):
            if wrong.flaw(sizes, dtype) or lies_alike(row, wrong, sizes, dtype):
                continue
            if any(wrong.num_bytes(b, sizes, dtype) > row.num_bytes(b, sizes, dtype) for b in row.buffers):
                continue
            try:
                found = diagnose(Uses.only(wrong), cell("gather", row.name, dtype))
            except Raised:  # it reaches beyond the cache
                continue
            assert found.sentence, (row.name, what)
            assert not found.is_right, (row.name, what)
            kinds = ("no strides", "strides", "with ", "but for", "not found", "where")
            seen[next((kind for kind in kinds if kind in found.sentence), "a row")] += 1
    print(dict(seen))
    assert sum(seen.values()) > 100
    assert seen["no strides"] < 0.1 * sum(seen.values())


# --- codes


@pytest.mark.parametrize("bits", PATTERNS)
def test_digits_spell_numbers_and_nothing_else_does(bits):
    code = Code(PATTERNS[bits][1], 5000)
    numbers = np.arange(5000)
    digits = code.digits(numbers)
    assert np.array_equal(code.numbers(digits), numbers)
    other = digits.copy()
    other[0] = (other[0] + 1) % code.base
    assert (code.numbers(other) != numbers).all()
    assert (code.numbers(np.where(np.arange(len(digits))[:, None] == 1, NONE, digits)) == NONE).all()
    chance = np.random.default_rng(0).integers(0, code.base, (code.num_runs, 20000))
    assert (code.numbers(chance) != NONE).mean() < 1 / 256


def test_a_torn_element_has_no_place():
    assert whole(np.array([[4, 5, 6], [4, 6, 5], [7, 8, NONE]])).tolist() == [4, NONE, NONE]


@pytest.mark.parametrize("row", PAGED, ids=lambda row: row.name)
def test_contents_survive_float_registers(row):
    """No value of a floating type is a NaN, an infinity or subnormal in any run."""
    for dtype in row.dtypes:
        sizes = sizes_of(row, dtype)
        units = Units.of(row, sizes, dtype)
        for part in row.parts:
            of = row.dtype_of(part, dtype)
            if is_floating(of):
                digits = np.stack(np.meshgrid(*[np.arange(units.base)] * 2), -1).reshape(-1, 2)
                values = np.abs(
                    units.values(part, np.resize(digits, (len(digits), units.each(part)))).astype(np.float64)
                )
                assert np.isfinite(values).all(), (dtype, part.name)
                assert values.min() >= FORMATS[of].least_normal, (dtype, part.name)


# --- the interface


def test_explain_says_nothing_of_what_is_right_or_cannot_be_called():
    def raises(case, op, **arguments):
        raise Raised("append raised ValueError: no")

    assert explain(Uses.only("nhd"), cell("append", "nhd")) == ""
    assert explain(Uses.only("hnd"), cell("append", "nhd")) == "K and V are written as in hnd = bhsd, not nhd"
    assert explain(raises, cell("append", "nhd")) == ""
    assert explain(Uses.only("hnd"), cell("append", "nhd", page_size={"max": 0})) == ""
    assert explain(Uses.only("hnd"), cell("append", "nhd"), until=time.monotonic() - 1) == ""
    assert explain(Uses.only("hnd"), cell("copy_pages", "nhd")) == ""


def run(*words):
    return CliRunner().invoke(diagnose_command, [str(word) for word in words], standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--op", "gather"), "name an adapter: --impl NAME"),
        (("--impl", "numpy_ref", "--markdown"), "--markdown goes with --pairs"),
        (("--impl", "numpy_ref", "--pairs"), "--pairs goes with --op and --markdown alone"),
        (("--pairs", "--layout", "nhd"), "--pairs goes with --op and --markdown alone"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words, sentence):
    done = run(*words)
    assert isinstance(done.exception, click.UsageError)
    assert sentence in str(done.exception)


def test_no_name_is_cut_off_in_a_narrow_table():
    wrong = cell("append", "beside_nhd"), diagnose(Uses.only("cells_v_transposed"), cell("append", "beside_nhd"))
    right = (
        cell("append", "nvfp4_swizzled", "float4_e2m1fn"),
        diagnose(Uses.only("nvfp4_swizzled"), cell("append", "nvfp4_swizzled", "float4_e2m1fn")),
    )
    console = Console(width=80)
    with console.capture() as captured:
        console.print(diagnose_command_module._table([wrong, right]))
    text = captured.get()
    columns = list(zip(*(line.split("│")[1:-1] for line in text.splitlines() if "│" in line), strict=True))
    assert "…" not in text
    assert ["".join(column).replace(" ", "") for column in columns[3:5]] == [
        wrong[1].side(side).replace(" ", "") + "asclaimed" for side in SIDES
    ]


def test_the_command_shows_what_is_used():
    done = run("--impl", WRONG / "hnd_is_read_as_nhd.py", "--op", "gather")
    assert (done.exception, done.return_value) == (None, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--impl", "numpy_ref", "--op", "appendd"), "no operation to diagnose 'appendd'; did you mean 'append'?"),
        (("--impl", "numpy_ref", "--layout", "nhdd"), "no layout 'nhdd'; did you mean 'nhd'?"),
        (("--impl", "numpy_ref", "--dtype", "float"), "no dtype 'float'; did you mean 'float32'?"),
        (
            ("--impl", "numpy_ref", "--layout", "code_rows", "--dtype", "int8"),
            "does not offer layout 'code_rows' in int8",
        ),
        (("--impl", "onnx_gqa", "--op", "append"), "does not offer operation 'append'"),
    ],
)
def test_the_command_repeats_what_it_does_not_know(words, sentence):
    done = run(*words)
    assert isinstance(done.exception, AdapterError)
    assert sentence in str(done.exception)
