"""Product quantisation: three forms of one sum, ties, codes and their packing, what is refused, caches as machines."""

from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kvconform.harness.adapters import find
from kvconform.harness.laws import all_laws
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.impls.host_kernels.pq_caches import PQCache
from kvconform.oracles import cache_model, page_model, paged, pq, pq_mistakes
from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.cache_model import LONGEST, CacheModel
from kvconform.oracles.nearest import nearest
from kvconform.oracles.page_model import PageModel
from kvconform.oracles.pq import PQReading
from kvconform.oracles.verdict import Raised, Violation
from kvconform.specs.case import Case
from kvconform.specs.conventions import declared
from kvconform.specs.families import FAMILIES
from kvconform.specs.inputs import inputs
from kvconform.specs.pq import of_side
from kvconform.specs.profile import Profile
from kvconform.specs.row import SIDES, K, V
from kvconform.suites.test_pq_caches import SIZES
from kvconform.tests.power import CACHE, FAULTS, OWNERS, PQ_BOUND

CASE = Case(
    op="pq_decode_attention",
    layout="pq_columns",
    dtype="uint8",
    q_dtype="float32",
    num_subspaces=2,
    sub_dim=2,
    num_centroids=3,
    num_kv_heads=2,
    group=2,
    kv_lens=(5, 0, 3),
    residual=3,
    page_size=2,
    spare_pages=1,
)
FLOAT64 = Profile(
    **dict.fromkeys(("qk_accumulator", "softmax_format", "pv_accumulator", "out_format", "lse_format"), "float64"),
    exp_error=2.0**-51,
    log_error=2.0**-51,
    flushes_subnormals=False,
)
"""Arithmetic of the two other forms, which numpy does in float64."""


@pytest.fixture(scope="module")
def reference():
    found = find("numpy_ref")
    return Subject(found.load(), found.name, str(found.path))


# --- three forms of one sum

forms = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "family": st.sampled_from(("plain", "sharp", "fine", *FAMILIES)),
        "layout": st.sampled_from(("pq_rows", "pq_columns")),
        "codes": st.sampled_from(("in_order", "mixed")),
        "num_subspaces": st.sampled_from((1, 2, 3, 16)),
        "sub_dim": st.sampled_from((1, 2, 4)),
        "num_centroids": st.sampled_from((2, 3, 16, 256)),
        "kv_lens": st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
        "residual": st.sampled_from((0, 1, 5)),
        "group": st.sampled_from((1, 3)),
    }
)


@settings(max_examples=60)
@given(forms)
def test_decoded_tokens_a_table_of_q_and_masses_of_centroids_are_one_sum(values):
    case = replace(CASE, **values)
    x = inputs(case)
    cache = paged.filled(x.pages, "finite")
    reading = PQReading.right(x, declared({}))
    of = pq.batch(x, cache, reading)
    found = pq.attended(x, of, FLOAT64, reading)
    codes = tuple(pq.coded(x, cache, reading, side) for side in SIDES)
    finite = np.isfinite(found.lse)
    for by_masses in (False, True):
        other = pq.by_table(x, of, reading, codes, by_masses)
        assert (np.abs(other["out"] - found.out) <= found.out_error).all()
        assert (np.abs(other["lse"][finite] - found.lse[finite]) <= found.lse_error[finite]).all()
        assert np.isneginf(other["lse"][~finite]).all()


def test_the_bound_tells_a_table_of_another_codebook_from_the_right_one():
    x = inputs(replace(CASE, codes="mixed"))
    cache = paged.filled(x.pages, "zero")
    reading = PQReading.right(x, declared({}))
    swapped = replace(reading, books=(V, K))
    right, wrong = (pq.attended(x, pq.batch(x, cache, one), FLOAT64, one) for one in (reading, swapped))
    assert (np.abs(wrong.out - right.out) > right.out_error).any()


def test_products_from_a_table_in_float16_have_its_rounding():
    x = inputs(replace(CASE, family="fine"))
    reading, cache = PQReading.right(x, declared({})), paged.filled(x.pages, "zero")
    of = pq.batch(x, cache, reading)
    wide, narrow = (pq.attended(x, of, Profile(table_format=one), reading) for one in (None, "float16"))
    assert (narrow.out_error[0] > wide.out_error[0]).all()
    assert (narrow.lse_error[0] > wide.lse_error[0]).all()


def test_chains_of_additions_of_another_kernel_do_not_bind_attention_over_codes():
    short = pq.rounding(Profile(qk_depth=1, pv_depth=1), "float16", 4)
    assert short == pq.rounding(Profile(), "float16", 4)
    assert (short.splits, short.out_format) == (5, "float16")


def test_a_table_that_overflows_its_format_has_no_bound():
    x = inputs(replace(CASE, family="huge", q_dtype="float32"))
    reading = PQReading.right(x, declared({}))
    with pytest.raises(OutsideDomain, match="a product in the table may reach"):
        pq.attended(x, pq.batch(x, paged.filled(x.pages, "zero"), reading), Profile(table_format="float16"), reading)


# --- the nearest centroid


def choice(x, centroids, **profile):
    """Which of some centroids may stand for a vector."""
    book = np.asarray(centroids, np.float32)[None]
    return nearest(np.asarray(x, np.float32)[None, None], book, Profile(**profile)).allowed[0, 0, 0].tolist()


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (3, 2)])
def test_the_error_of_a_distance_is_relative_to_the_sum_of_squared_sizes_where_that_cancels(shape):
    rng = np.random.default_rng(0)
    x, book = rng.normal(size=(*shape, 4 * 3)), rng.normal(size=(4, 5, 3))
    judged = nearest(x, book, Profile(expands_distance=True, q_format="bfloat16"))
    one, other = x.reshape(*shape, 4, 1, 3), book
    size = np.square(np.abs(one) + np.abs(other)).sum(-1)
    first, second, third = np.moveaxis(np.square(one - other), -1, 0)
    np.testing.assert_array_equal(judged.distance, first + second + third)  # in that order, so to the last bit
    assert judged.allowed.shape == size.shape == (*shape, 4, 5)
    if size.size:
        ratio = judged.error / size
        assert 2 * 2.0**-8 < ratio.min() <= ratio.max() < 2 * 2.0**-8 * 1.01


def test_of_centroids_that_tie_exactly_the_lowest_is_the_nearest():
    assert choice([0.5], [[2.0], [1.0], [0.0], [1.0]]) == [False, True, False, False]
    assert choice([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]]) == [True, False]


def test_a_tie_is_exact_as_long_as_half_a_square_is_no_subnormal():
    """0.5 |c|^2 - x.c of float16, of which 2**-14 is the least normal number."""
    assert choice([0.0], [[2.0**-6], [-(2.0**-6)]], qk_accumulator="float16") == [True, False]
    assert choice([0.0], [[2.0**-7], [-(2.0**-7)]], qk_accumulator="float16") == [True, True]


def test_of_centroids_that_tie_within_rounding_each_may_be_the_nearest():
    third = float(np.float32(1 / 3))
    assert choice([third], [[0.0], [2 * third]]) == [True, True]
    assert choice([third, 0.1], [[0.0, 0.1], [2 * third, 0.1]]) == [True, True]


def test_a_centroid_that_is_nearer_by_more_than_rounding_is_the_only_one():
    third = float(np.float32(1 / 3))
    assert choice([third], [[0.0], [2 * third * (1 - 2.0**-20)]]) == [False, True]


def test_distances_from_squares_and_products_may_err_more_than_differences():
    far = [[1000.1, 0.3], [1000.1 + 2.0**-13, 0.3]]
    assert choice([1000.1 + 2.0**-14 * 1.5, 0.3], far) == [False, True]
    assert choice([1000.1 + 2.0**-14 * 1.5, 0.3], far, expands_distance=True) == [True, True]


def test_a_wrong_code_is_told_with_its_distance_and_those_that_may_be_chosen():
    x, book = np.array([[[0.5, 0.5]]], np.float32), np.array([[[4.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], np.float32)
    judged, got = nearest(x, book, Profile()), np.array([[[0]]], np.uint8)
    assert judged.describe(got, judged.unmet(got)) == (
        "are not the nearest, first at token 0, head 0, subspace 0: got 0 at distance 12.5 +- 0, want 1 at 0.5"
    )
    beyond = np.array([[[7]]], np.uint8)
    assert "got 7 of 3, want 1 at 0.5" in judged.describe(beyond, judged.unmet(beyond))


@settings(max_examples=40)
@given(st.integers(0, 1000), st.booleans())
def test_float32_of_either_form_chooses_what_may_be_chosen(seed, expands):
    """No false alarm: both forms in float32, on vectors near the middle of two centroids."""
    case = Case(
        op="pq_encode",
        layout="codes",
        dtype="uint8",
        q_dtype="float32",
        seed=seed,
        family="fine",
        num_tokens=5,
        num_kv_heads=2,
        num_subspaces=3,
        sub_dim=4,
        num_centroids=16,
        vectors="between" if seed % 2 else "beside",
    )
    x = inputs(case)
    book = x.codebooks[K]
    cut = x.x.reshape(5, 2, 3, 1, 4)
    form = np.square(book).sum(-1) - 2 * (cut * book).sum(-1) if expands else np.square(cut - book).sum(-1)
    assert not pq.expect_encode(x, Profile(expands_distance=expands))["codes"].unmet(form.argmin(-1)).any()


# --- codes and their packing


@pytest.mark.parametrize("dtype", ["uint8", "uint4"])
def test_codes_come_back_from_how_they_are_stored(dtype):
    codes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 16
    array = pq.stored(codes, dtype)
    assert array.nbytes == 24 // (1 if dtype == "uint8" else 2)
    assert pq.loaded(array, codes.shape, dtype).tolist() == codes.tolist()


def test_of_two_codes_in_a_byte_the_first_is_the_low_half():
    assert pq.stored(np.array([[[3, 10]]], np.uint8), "uint4").tolist() == [[[10 << 4 | 3]]]


# --- what is refused


def encoded(reference, x, books):
    case = Case(op="pq_encode", layout="codes", dtype="uint8", q_dtype="float32")
    return reference.call(case, "pq_encode", x=x, codebooks=books, dtype="uint8")


@pytest.mark.parametrize(
    ("x", "books", "said"),
    [
        (np.zeros((1, 1, 7)), np.zeros((2, 4, 3)), r"x of 7 numbers and codebooks \[2, 4, 3\]"),
        (np.full((1, 1, 6), np.nan), np.zeros((2, 4, 3)), "x of token 0, head 0 holds nan at dim 0, of which no"),
        (np.zeros((1, 1, 6)), np.zeros((2, 257, 3)), "257 centroids"),
    ],
)
def test_vectors_that_have_no_code_are_refused_with_the_values(reference, x, books, said):
    with pytest.raises(Raised, match=said):
        encoded(reference, x.astype(np.float32), books.astype(np.float32))


def attend(reference, **changed):
    x = inputs(CASE)
    given = {"q": x.q, "cache": paged.filled(x.pages, "zero"), "page_ids": x.page_ids, "kv_lens": x.kv_lens}
    given |= {of_side(side): x.codebooks[side] for side in SIDES}
    given |= {"residual_k": x.residual[K], "residual_v": x.residual[V], "residual_lens": x.residual_lens}
    given |= {name: getattr(CASE, name) for name in ("layout", "dtype", "page_size", "num_subspaces", "num_splits")}
    return reference.call(CASE, "pq_decode_attention", **{**given, "sm_scale": x.sm_scale, **changed})


def codes_of(value):
    x = inputs(CASE)
    return {name: np.full_like(pool, value) for name, pool in paged.filled(x.pages, "zero").items()}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"page_ids": np.full((3, 2, 3), 99, np.int32)},
            "sequence 0, head 0 has 99 at 0, and the pool has 1[0-9]",
        ),
        ({"page_ids": np.full((3, 2, 3), -1, np.int32)}, "page_ids of sequence 0, head 0 has -1 at 0"),
        (
            {"cache": codes_of(200)},
            r"K of sequence 0, head 0, hold 200 at \[0, 0\], and there are 3 centroids",
        ),
        (
            {"residual_lens": np.array([4, 0, 0], np.int32)},
            "residual_lens of sequence 0 is 4, and there is room for 0",
        ),
        ({"cache": {n: p.astype(np.int32) for n, p in codes_of(0).items()}}, "codes of k are int32, not uint8"),
    ],
)
def test_attention_refuses_pages_and_codes_that_there_are_not(reference, changed, said):
    with pytest.raises(Raised, match=said):
        attend(reference, **changed)


def test_a_slot_past_the_pool_is_refused_before_anything_is_written(reference):
    x = inputs(replace(CASE, op="pq_append"))
    before = x.pages.dead("bits")
    given = {"k": x.k, "v": x.v, "slot_mapping": np.full_like(x.slot_mapping, 10_000)}
    given |= {of_side(side): x.codebooks[side] for side in SIDES}
    given |= {name: getattr(CASE, name) for name in ("layout", "dtype", "page_size", "num_subspaces")}
    with pytest.raises(Raised, match="slot_mapping of token 0, head 0 is 10000, and there are"):
        reference.call(x.case, "pq_append", cache=before, **given)


def test_slots_that_two_tokens_own_are_refused(reference):
    x = inputs(replace(CASE, op="pq_append"))
    given = {"k": x.k, "v": x.v, "slot_mapping": np.zeros_like(x.slot_mapping)}
    given |= {of_side(side): x.codebooks[side] for side in SIDES}
    given |= {name: getattr(CASE, name) for name in ("layout", "dtype", "page_size", "num_subspaces")}
    with pytest.raises(Raised, match="slot 0 is given to 16 tokens"):
        reference.call(x.case, "pq_append", cache=x.pages.dead("bits"), **given)


# --- objects as machines


def test_every_mistake_that_is_named_has_a_claim():
    known = {**page_model.MISTAKES, **cache_model.MISTAKES, **pq_mistakes.MISTAKES}
    said = {mistake for laws, mistake in FAULTS.values() if set(laws) & {OWNERS, CACHE, PQ_BOUND} and mistake}
    assert {name for name in said if not name.startswith("taken_for_")} <= set(known)
    assert len(said) >= 15


class Pages(RuleBasedStateMachine):
    """A page manager under rules that Hypothesis picks; the same model as in a history."""

    @initialize(num_pages=st.integers(1, 6))
    def make(self, num_pages):
        case = Case(op="page_manager", layout="pq_columns", dtype="uint8", num_pages=num_pages)
        self.model = PageModel(num_pages, self.subject.make(case, "page_manager", num_pages=num_pages).do)

    @rule()
    def allocate(self):
        self.model.allocate()

    @rule(which=st.integers(0, 9))
    def share_or_misuse(self, which):
        (self.model.share if self.model.owners else self.model.misuse)(which)

    @rule(which=st.integers(0, 9))
    def release_or_misuse(self, which):
        (self.model.release if self.model.owners else self.model.misuse)(which)

    @rule(which=st.integers(0, 9))
    def misuse(self, which):
        self.model.misuse(which)

    @invariant()
    def nothing_is_lost(self):
        self.model.count()


class Tokens(RuleBasedStateMachine):
    """A cache of two layers, two sequences and two heads under rules that Hypothesis picks."""

    @initialize(seed=st.integers(0, 20), moved=st.integers(1, 4), layout=st.sampled_from(("pq_rows", "pq_columns")))
    def make(self, seed, moved, layout):
        case = Case(
            op="pq_cache",
            layout=layout,
            dtype="uint8",
            q_dtype="float32",
            seed=seed,
            page_size=3,
            num_pages=8,
            num_layers=2,
            num_seqs=2,
            num_kv_heads=2,
            group=2,
            num_subspaces=2,
            sub_dim=2,
            num_centroids=16,
            residual=4,
            moved=moved,
        )
        x = inputs(case)
        given = {name: getattr(case, name) for name in SIZES} | {of_side(side): x.codebooks[side] for side in SIDES}
        made = self.subject.make(case, "pq_cache", **given, num_pages=8 * 8, moved=moved)
        self.model = CacheModel(x, made.do, self.subject.profile("float32"), self.subject.conventions)

    @rule(layer=st.integers(0, 1), count=st.integers(1, LONGEST))
    def append(self, layer, count):
        self.model.append(layer, count)

    @rule(layer=st.integers(0, 1))
    def look(self, layer):
        self.model.look(layer)


MACHINES = (("numpy_ref", Pages), ("numpy_ref", Tokens), ("torch_ref", Tokens), ("cuda", Tokens))


def of(machine, subject):
    return type(machine.__name__, (machine,), {"subject": subject})


@pytest.mark.parametrize(("name", "machine"), MACHINES)
def test_objects_keep_to_their_model_under_any_rules(name, machine):
    found = find(name)
    if found.blocked:
        pytest.skip(found.blocked)
    subject = Subject(found.load(), found.name, str(found.path))
    run_state_machine_as_test(of(machine, subject), settings=settings(max_examples=30, stateful_step_count=60))


WRONG = {
    "freed_pages_are_never_given_out_again": Pages,
    "shared_page_is_freed_by_its_first_owner": Pages,
    "page_is_freed_twice": Pages,
    "pq_cache_counts_moved_tokens_again": Tokens,
    "pq_cache_shifts_its_residual_onto_itself": Tokens,
    "pq_cache_keeps_page_ids_of_one_head": Tokens,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_machine_finds_what_is_wrong_with_an_object(name):
    found = find(f"{__file__.rsplit('/', 1)[0]}/wrong/{name}.py")
    subject = Subject(found.load(), found.name, str(found.path))
    with pytest.raises((Violation, ExceptionGroup)):
        run_state_machine_as_test(
            of(WRONG[name], subject), settings=settings(max_examples=60, stateful_step_count=60, print_blob=False)
        )


# --- what an object returns

HISTORY = Case(
    op="pq_cache",
    layout="pq_columns",
    dtype="uint8",
    q_dtype="float32",
    page_size=2,
    num_pages=8,
    num_seqs=2,
    num_kv_heads=3,
    num_subspaces=2,
    sub_dim=2,
    num_centroids=3,
    residual=2,
    history=(1, 1, 1, 3),
)


def that_returns(change, **conventions):
    """The reference whose cache returns what it attends to in another form."""

    class Changed(PQCache):
        def attend(self, layer, q, sm_scale):
            return change(*super().attend(layer, q, sm_scale))

    adapter = SimpleNamespace(
        OFFERS={"pq_cache": {}},
        CONVENTIONS=numpy_ref.CONVENTIONS | conventions,
        ARITHMETIC=numpy_ref.ARITHMETIC,
        pq_cache=lambda k, v, **sizes: Changed(numpy_ref, k, v, **sizes),
    )
    return Subject(adapter, "changed", "changed.py")


LAW = all_laws()["a_cache_is_a_list_of_tokens"]


def test_an_object_may_return_lse_in_any_declared_form():
    LAW.check(that_returns(lambda out, lse: (out, lse.T), lse_axes="heads, rows"), HISTORY)
    LAW.check(that_returns(lambda out, lse: (out, lse / np.float32(np.log(2))), lse_base="2"), HISTORY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out, lse: (out, lse.T), r"attend returned lse as float32\[3, 2\], want float32\[2, 3\]"),
        (lambda out, lse: (out.astype(np.float64), lse), r"attend returned out as float64\[2, 3, 4\], want float32"),
        (lambda out, lse: out, r"attend returned 1 result\(s\), want out, lse"),
        (lambda out, lse: (out, lse / np.float32(np.log(2))), "lse: 6 of 6 elements outside the bound"),
    ],
)
def test_what_an_object_returns_is_held_to_what_it_declares(change, said):
    with pytest.raises(Violation, match=said):
        LAW.check(that_returns(change), HISTORY)


def that_narrows(**arithmetic):
    """The reference whose append narrows tokens to bfloat16 before it encodes them."""

    class narrow:
        pq_decode_attention = staticmethod(numpy_ref.pq_decode_attention)

        @staticmethod
        def pq_append(cache, k, v, *arrays, **told):
            k, v = (side.astype(ml_dtypes.bfloat16).astype(side.dtype) for side in (k, v))
            return numpy_ref.pq_append(cache, k, v, *arrays, **told)

    adapter = SimpleNamespace(
        OFFERS={"pq_cache": {}},
        CONVENTIONS=numpy_ref.CONVENTIONS,
        ARITHMETIC=numpy_ref.ARITHMETIC | arithmetic,
        pq_cache=lambda k, v, **sizes: PQCache(narrow, k, v, **sizes),
    )
    return Subject(adapter, "narrows", "narrows.py")


def test_a_cache_that_narrows_tokens_and_says_so_is_not_held_to_one_choice_of_codes():
    """Of 40 histories in some of which narrowed tokens have another nearest centroid."""
    cases = [replace(HISTORY, seed=seed, num_subspaces=4, num_centroids=16) for seed in range(40)]
    told, found = that_narrows(q_format="bfloat16"), 0
    for case in cases:
        LAW.check(told, case)
        try:
            LAW.check(that_narrows(), case)
        except Violation:
            found += 1
    assert found
