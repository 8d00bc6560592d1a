"""Strategies draw what an offer allows, and all of it that matters."""

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest

from kvconform.harness.drawing import judged
from kvconform.impls import numpy_ref
from kvconform.oracles.mistakes import MISTAKES
from kvconform.specs.cells import POOL, Cell, OfferError, cells, each
from kvconform.specs.conventions import declared
from kvconform.specs.features import FEATURES
from kvconform.specs.inputs import inputs
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.pinned import (
    HIGH_PAGES,
    LARGEST,
    bench_case,
    every_bit_pattern,
    high_pages,
    schedule,
    sparse_pool,
    two_prefixes,
    waiting,
)
from kvconform.specs.strategies import TILES, _lengths, cases

FREE = declared(numpy_ref.CONVENTIONS)
STATIC = {"layout": {"nhd"}, "dtype": {"float32"}, "static": True, "page_size": {4, 8}, "head_dim": {8, 16}}


def drawn(cell, count=100, **law):
    """Cases as a run draws them."""
    found = []
    judging = judged(cases(cell, **law), lambda case: found.append(case) is None, 0)
    assert all(islice(judging, count))
    return found


def cell_of(op, offer=None, **conventions):
    return cells(op, offer or numpy_ref.OFFERS[op], FREE | conventions)[0]


def test_lengths_reach_every_boundary_and_the_middle():
    lens = {(n, case.page_size) for case in drawn(cell_of("paged_decode"), 1600) for n in case.kv_lens}
    for page in (2, 4, 8):
        assert {(n, page) for n in (0, 1, page - 1, page, page + 1)} <= lens, page
    assert any(n > 3 * page for n, page in lens)


def test_lengths_reach_the_edges_of_their_own_window_and_splits_and_of_tiles():
    cell = cell_of("paged_decode")
    for window in FEATURES["window"].values:
        assert {window + beside for beside in (-1, 0, 1)} <= set(_lengths(cell, 4, 0, window, 1).some)
    for splits, page in ((2, 2), (5, 8), (3, 16)):
        edges = {edge + beside for edge in (splits, splits * page, *TILES) for beside in (-1, 0, 1)}
        assert edges <= set(_lengths(cell, page, 0, 0, splits).some)
    lens = _lengths(cell, 4, 0, 29, 11).some  # what is an edge is there more often than what is none
    assert min(lens.count(n) for n in (28, 29, 30, 10, 11, 12)) > lens.count(26) == 1
    some = drawn(cell, 1500)
    assert {n - case.window for case in some if case.window for n in case.kv_lens} >= {-1, 0, 1}
    assert {n - case.num_splits for case in some if case.num_splits > 1 for n in case.kv_lens} >= {-1, 0, 1}


def test_sequences_alternate_between_prefixes_where_two_of_them_can_have_the_same():
    some = drawn(cell_of("paged_decode"), 1200)
    alternate = [case for case in some if case.shared_by == "alternate"]
    assert min(len(case.kv_lens) for case in alternate) == 3
    assert min(case.shared_pages for case in alternate) == 1
    assert any((inputs(case).mates == 1).sum() > 1 and max(inputs(case).num_shared[2:]) for case in alternate)
    alone = drawn(cell_of("paged_decode", {**numpy_ref.OFFERS["paged_decode"], "shared_by": {"alternate"}}))
    assert {case.shared_by for case in alone} == {"alternate"}  # what is not offered is not said


def test_two_prefixes_are_pinned_as_far_as_they_are_offered():
    offer = numpy_ref.OFFERS["paged_decode"]
    (case,) = two_prefixes(cell_of("paged_decode"))
    assert (case.shared_pages, case.shared_by) == (2, "alternate")
    assert inputs(case).num_shared == [2] * 5
    first, second, *_, last = inputs(case).block_table[:, :2].tolist()
    assert first == last
    assert not {*first} & {*second}
    (fewer,) = two_prefixes(cell_of("paged_decode", {**offer, "shared_pages": {"max": 1}}))
    assert fewer.shared_pages == 1
    for narrow in ({"shared_pages": {0}}, {"shared_by": {"all"}}, {"kv_lens": range(9)}, STATIC):
        assert two_prefixes(cell_of("paged_decode", {**offer, **narrow})) == ()


def test_a_static_cell_s_lengths_reach_its_capacity_and_one_less():
    some = drawn(cell_of("paged_decode", STATIC), 600)
    full = {n - case.capacity * case.page_size for case in some for n in case.kv_lens}
    assert {-1, 0} <= full
    assert max(full) == 0


def test_batches_have_one_sequence_unlike_the_others_and_pools_of_lengths_stay_below_100():
    cell = cell_of("paged_decode")
    lens = [sorted(case.kv_lens) for case in drawn(cell, 600) if len(case.kv_lens) > 2]
    assert any(some[0] == 0 and some[1] == some[-1] > 1 for some in lens)  # one is empty
    assert any(some[0] == some[-2] == 1 and some[-1] > 8 for some in lens)  # one is long
    for page_size, window, num_splits in product((1, 16, 784), (0, 3, 17), (1, 2, 7)):
        assert len(_lengths(cell, page_size, 0, window, num_splits).some) < 100


def test_every_value_of_every_pool_is_drawn():
    for op in OPERATIONS:
        cell = cell_of(op)
        found = drawn(cell, 400)
        for axis in OPERATIONS[op].case_axes:
            if axis in POOL:
                of_cases = {value for case in found for value in each(case, axis)}
                assert of_cases >= set(cell.allowed(axis)), (op, axis)
                assert axis == "q_lens" or of_cases == set(cell.allowed(axis)), (op, axis)  # never more than keys


def test_what_is_not_offered_is_not_drawn():
    offer = {
        "layout": {"hnd"},
        "dtype": {"bfloat16"},
        "group": {1, 4},
        "head_dim": range(64, 257, 64),
        "kv_lens": range(1, 9),
    }
    found = drawn(cell_of("paged_decode", offer, dead={"zero"}, table_padding={"valid"}))
    assert {case.group for case in found} == {1, 4}
    assert {case.head_dim for case in found} <= {64, 128, 192, 256}
    assert {case.num_splits for case in found} == {1}
    assert {case.dead for case in found} == {"zero"}
    assert {case.table_padding for case in found} == {"valid"}
    assert all(1 <= n <= 8 for case in found for n in case.kv_lens)


def test_undefined_empty_rows_are_never_drawn():
    found = drawn(cell_of("paged_decode", empty_rows="undefined"))
    assert all(n > 0 for case in found for n in case.kv_lens)
    assert {case.empty_parts for case in drawn(cell_of("merge_states", empty_rows="undefined"))} == {"none"}


def test_a_static_offer_has_few_shapes_and_many_lengths():
    found = drawn(cell_of("paged_decode", STATIC))
    shapes = {
        (len(c.kv_lens), c.page_size, c.num_kv_heads, c.group, c.head_dim, c.num_splits, c.capacity) for c in found
    }
    assert len(shapes) <= 3
    assert len({c.kv_lens for c in found}) > 20


@pytest.mark.parametrize(
    ("layout", "offer"), [("nhd", STATIC | {"page_size": {1}}), ("bshd", {"page_size": {4}}), ("bshd", STATIC)]
)
def test_sequences_of_the_schedule_are_no_longer_than_their_pages(layout, offer):
    features = {"window": {"min": 0}, "q_lens": {"min": 1}}
    made = schedule(Cell("paged_decode", layout, "float32", offer | features, FREE))
    assert made
    for case in made:
        x = inputs(case)
        assert x.num_rows >= x.num_tokens, case
        assert all(n <= x.block_table.shape[1] * case.page_size for n in case.kv_lens), case


def test_static_shapes_do_not_depend_on_the_law_and_are_shared_by_dtypes_of_one_width():
    def shapes(dtype):
        return Cell("append", "nhd", dtype, STATIC, FREE).geometries()

    assert shapes("float16") == shapes("bfloat16")
    assert Cell("append", "nhd", "int8", STATIC, FREE).geometries() == shapes("uint8")


def test_a_law_s_restriction_holds_for_static_shapes_too():
    offer = {"layout": {"fused"}, "dtype": {"float32"}, "static": True, "num_kv_heads": {1, 2}}
    assert {c.num_kv_heads for c in drawn(cell_of("merge_kv", offer))} == {1, 2}
    assert {c.num_kv_heads for c in drawn(cell_of("merge_kv", offer), only={"num_kv_heads": (2, 3)})} == {2}


def test_an_offer_that_leaves_nothing_says_so():
    with pytest.raises(OfferError, match=r"paged_decode on split_x in float32: no head_dim to draw from \{3\}"):
        cases(cell_of("paged_decode", {"layout": {"split_x"}, "dtype": {"float32"}, "head_dim": {3}}))
    with pytest.raises(OfferError, match=r"no length up to 40 lies in kv_lens \{1000\}"):
        drawn(cell_of("paged_decode", {"layout": {"nhd"}, "dtype": {"float32"}, "kv_lens": {1000}}), 1)


def test_every_bit_pattern_is_in_k_and_in_v():
    import numpy as np

    from kvconform.specs.inputs import inputs

    for cell in cells("merge_kv", numpy_ref.OFFERS["merge_kv"], FREE):
        for case in every_bit_pattern(cell):
            for side in inputs(case).sides:
                width = 8 * side.dtype.itemsize
                assert len(np.unique(side.view(f"uint{width}"))) == 1 << width


def test_a_benchmark_s_case_lies_inside_the_offer():
    offer = STATIC | {"num_kv_heads": {1}, "sm_scale": {1.0}}
    case = bench_case(cell_of("paged_decode", offer))
    assert (case.num_kv_heads, case.sm_scale) == (1, 1.0)
    assert case.page_size in {4, 8}


def test_mistakes_name_known_operations():
    assert all(op in OPERATIONS for mistake in MISTAKES.values() for op in mistake.ops)


def test_k_and_v_differ_in_every_element_of_the_bit_pattern_cases():
    """Else a swap of the two would pass the very cases that claim to be exhaustive."""
    from kvconform.specs.inputs import inputs

    checked = 0
    for cell in cells("merge_kv", numpy_ref.OFFERS["merge_kv"], FREE):
        for case in every_bit_pattern(cell):
            k, v = (side.view(f"uint{8 * side.dtype.itemsize}") for side in inputs(case).sides)
            assert (k != v).all()
            checked += 1
    assert checked == 6


def test_every_value_that_an_offer_names_is_drawn():
    """A page size of 128 is no entry of a pool; whoever offers it beside 16 is judged on it all the same."""
    offer = {"layout": {"nhd"}, "dtype": {"float32"}, "page_size": {16, 128}, "head_dim": range(8, 65, 8)}
    cell = cell_of("gather", offer)
    assert cell.allowed("page_size") == [16, 128]
    assert set(cell.allowed("head_dim")) == {8, 16, 24, 40}
    assert {case.page_size for case in drawn(cell)} == {16, 128}


def test_a_law_of_two_operations_draws_what_both_offer():
    append = cell_of("append", {"layout": {"nhd"}, "dtype": {"float32"}, "page_size": {4, 8, 32}})
    both = replace(append, also=({"page_size": {8, 32, 64}, "index_dtype": {"int32"}},))
    assert both.allowed("page_size") == [8, 32]
    assert {case.index_dtype for case in drawn(both)} == {"int32"}
    with pytest.raises(OfferError, match="no page_size to draw from"):
        replace(append, also=({"page_size": {1}},)).allowed("page_size")


@pytest.mark.parametrize("layout", ["nhd", "kv_first_hnd", "interleaved", "trtllm_blocks", "heads_first", "nvfp4"])
def test_high_pages_have_numbers_beyond_16_bits_and_hold_the_tokens(layout):
    cell = next(c for c in cells("append", numpy_ref.OFFERS["append"], FREE) if c.layout == layout)
    found = [inputs(case) for case in high_pages(cell)]
    assert len(found) == len(HIGH_PAGES)
    for x, number in zip(found, HIGH_PAGES, strict=True):
        used = {int(page) for table in x.tables for row, n in zip(table, x.pages_of, strict=True) for page in row[:n]}
        assert min(used) >= number
        assert x.num_tokens > x.case.page_size
        assert sum(x.row.num_bytes(b, x.sizes, x.case.dtype) for b in x.row.buffers) <= LARGEST + (1 << 20)


def test_whatever_is_looked_up_by_a_page_is_looked_up_by_a_high_one():
    """Tables of each form name high pages, and so do scales that a page, or each of its tokens, has."""
    offer = numpy_ref.OFFERS["paged_decode"]
    cell = next(c for c in cells("paged_decode", offer, FREE) if (c.layout, c.dtype) == ("nhd", "int8"))
    found = high_pages(cell)
    assert {case.table_form for case in found} == set(cell.allowed("table_form"))
    assert {"page", "token"} <= {case.kv_scales for case in found}
    assert all(case.page_ids == "high" and case.spare_pages in HIGH_PAGES for case in found)


def test_one_sequence_may_have_one_query_token_beside_another_that_has_several():
    """Decode beside drafts: where the tokens of a batch end differs then, however many keys there are."""
    cell = cell_of("paged_decode", {"layout": {"nhd"}, "dtype": {"float32"}, "q_lens": {"min": 1}})
    beside = [case for case in drawn(cell) if 1 in case.q_lens and max(case.q_lens) > 1]
    decoded = [(case, n) for case in beside for n, q_len in zip(case.kv_lens, case.q_lens, strict=True) if q_len == 1]
    assert any(n >= max(case.q_lens) for case, n in decoded)


@pytest.mark.parametrize("op", ["paged_decode", "append_decode"])
def test_some_sequences_of_a_batch_have_no_query_token_where_that_is_offered(op):
    """Requests that wait, and what pads a batch of a captured size; but never all of them: that is no call."""
    offer = {"layout": {"nhd"}, "dtype": {"float32"}, "q_lens": {"min": 0}}
    some = [case.q_lens for case in drawn(cell_of(op, offer)) if case.q_lens]
    assert all(any(q_lens) for q_lens in some)
    for place in (slice(1), slice(1, -1), slice(-1, None)):
        assert any(0 in q_lens[place] for q_lens in some), place
    beside = [case.q_lens for case in drawn(cell_of(op, offer | {"q_lens": {"min": 1}})) if case.q_lens]
    assert beside
    assert not any(0 in q_lens for q_lens in beside)


@pytest.mark.parametrize("op", ["paged_decode", "append_decode"])
def test_a_pinned_batch_has_room_that_nobody_has_taken(op):
    for cell in cells(op, numpy_ref.OFFERS[op], FREE):
        (case,) = waiting(cell)
        whose = list(zip(case.kv_lens, case.q_lens, strict=True))
        assert cell.takes_case(case)
        assert whose[-1] == (0, 0) in whose[1:-1]
        assert any(n and not q_len for n, q_len in whose)


def test_the_most_query_tokens_of_a_batch_are_never_none():
    cell = cell_of("paged_decode", {"layout": {"nhd"}, "dtype": {"float32"}, "q_lens": {0, 1, 2}})
    assert cell.allowed("q_lens") == [1, 2]


def test_a_case_moved_here_counts_its_new_tokens():
    """Query tokens may be turned off in a case that is made smaller: one each is one too many without a key."""
    cell = cell_of("append_decode")
    (case,) = waiting(cell)
    assert cell.takes_case(case)
    assert not cell.takes_case(replace(case, q_lens=()))


def test_no_batch_has_room_where_every_sequence_has_a_query_token():
    offer = {"layout": {"nhd"}, "dtype": {"float32"}}
    assert not waiting(cell_of("paged_decode", offer))
    assert not waiting(cell_of("paged_decode", offer | {"q_lens": {"min": 1}}))
    assert not waiting(cell_of("paged_decode", STATIC | {"q_lens": {"min": 0}}))
    (case,) = waiting(cell_of("paged_decode", offer | {"q_lens": {0, 1}}))
    assert set(case.q_lens) == {0, 1}
    (case,) = waiting(cell_of("paged_decode", offer | {"q_lens": {"min": 0}, "kv_lens": {"min": 1}}))
    assert min(case.kv_lens) > 0
    assert 0 in case.q_lens


def test_no_page_is_high_in_a_contiguous_cache_or_where_few_pages_are_offered():
    every = cells("append", numpy_ref.OFFERS["append"], FREE)
    assert not [c.layout for c in every if c.row.contiguous and high_pages(c)]
    few = cells("append", {**numpy_ref.OFFERS["append"], "spare_pages": {0, 1}}, FREE)
    assert not any(high_pages(c) for c in few)


def test_a_sparse_pool_is_beyond_31_bits_in_the_narrowest_dtype_and_in_one_of_more_bytes():
    offer = {"layout": {"nhd", "heads_first"}, "dtype": {"float32", "int8", "uint8"}, "pool": {"dense", "sparse"}}
    found = {(c.layout, c.dtype): sparse_pool(c) for c in cells("append", offer, FREE)}
    of = {layout: {dtype for (at, dtype), some in found.items() if some and at == layout} for layout in offer["layout"]}
    assert set(map(frozenset, of.values())) == {frozenset(["int8", "float32"])}
    (wide,) = found["nhd", "float32"]
    assert all(wide.row.num_bytes(b, inputs(wide).sizes, "float32") > 2**32 for b in wide.row.buffers)
    for case in found["nhd", "int8"]:
        x = inputs(case)
        assert all(np.prod(x.row.shape(b, x.sizes, "int8"), dtype=object) > 2**31 for b in x.row.buffers)
        assert int(x.slots[0].min()) * np.prod(x.token_shape(x.row.parts[0])) > 2**31
    large, small = (inputs(case) for case in found["nhd", "int8"])
    assert large.case.page_size > 1
    assert small.case.page_size == 1
    assert all(2**24 < page < 2**26 for page in small.tables[0][0])
    assert any(page % 2 for page in small.tables[0][0])
    assert not any(sparse_pool(c) for c in cells("append", {k: v for k, v in offer.items() if k != "pool"}, FREE))


@pytest.mark.parametrize(("dim", "said"), [(8, True), (1, False)])
def test_a_sparse_pool_is_told_in_each_form_that_its_indices_can_say(dim, said):
    """Of one head and one dim it has more slots than int32 counts."""
    offer = {"layout": {"nhd"}, "dtype": {"int8"}, "num_kv_heads": {1}, "head_dim": {dim}, "pool": {"dense", "sparse"}}
    offer |= {"table_form": {"block_table", "token_slots"}, "index_dtype": {"int32"}}
    cell = cell_of("gather", offer)
    assert {case.table_form for case in sparse_pool(cell)} == {"block_table", *["token_slots"] * said}
    for case in sparse_pool(cell):
        table = inputs(case).told()["block_table"]  # no TableError
        assert isinstance(table, dict) == (case.table_form == "token_slots")


def test_pages_of_a_sparse_pool_are_copied_between_its_ends_and_within_them():
    offer = {"layout": {"nhd"}, "dtype": {"int8"}, "pool": {"dense", "sparse"}}
    case, _ = sparse_pool(cell_of("copy_pages", offer))
    x = inputs(case)
    words = x.page_mapping * np.prod(x.row.shape("k", {**x.sizes, "page": 1}, "int8"), dtype=np.int64)
    assert {tuple(ends) for ends in (words > 2**31).tolist()} == set(product((False, True), repeat=2))


def test_heads_of_v_have_a_width_of_their_own_where_the_row_gives_them_one_and_nowhere_else():
    every = {c.layout: c for c in cells("gather", numpy_ref.OFFERS["gather"], FREE)}
    found = drawn(every["beside_nhd_diffkv"])
    assert sum(case.head_dim_v != case.head_dim for case in found) > len(found) / 3
    assert {case.head_dim_v < case.head_dim for case in found} == {True, False}
    assert inputs(replace(found[0], head_dim=8, head_dim_v=3, kv_lens=(1,))).v.shape[-1] == 3
    assert {case.head_dim_v for case in drawn(every["nhd"])} == {0}
    assert inputs(drawn(every["nhd"], 1)[0]).v.shape[-1] == drawn(every["nhd"], 1)[0].head_dim


def test_sizes_that_a_row_asks_for_together_are_drawn_together():
    """`fractal` cuts heads * head_dim by 16, which no size alone can see."""
    cell = next(c for c in cells("gather", numpy_ref.OFFERS["gather"], FREE) if c.layout == "fractal")
    found = drawn(cell)
    assert {case.num_kv_heads for case in found} == set(POOL["num_kv_heads"])
    assert all(case.num_kv_heads * case.head_dim % 16 == 0 for case in found)
    assert len({case.head_dim for case in found}) > 1


@pytest.mark.parametrize(
    ("layout", "dtype", "axis", "sizes"),
    [
        ("kivi", "uint2", "page_size", [32, 64]),
        ("nvfp4_swizzled", "float4_e2m1fn", "head_dim", [64, 128]),
        ("mla_656", "float8_e4m3fn", "head_dim", [512]),
        ("tokens_last", "bfloat16", "page_size", [128]),
        ("token_slots", "float32", "page_size", [1]),
        ("packed_unaligned", "int8", "num_kv_heads", [2, 4]),
        ("packed_unaligned", "float32", "num_kv_heads", [1, 2, 3, 5]),
    ],
)
def test_sizes_are_those_that_a_row_can_be_built_with(layout, dtype, axis, sizes):
    every = cells("gather", numpy_ref.OFFERS["gather"], FREE)
    cell = next(c for c in every if (c.layout, c.dtype) == (layout, dtype))
    assert cell.allowed(axis) == sizes


@pytest.mark.parametrize("choice", ["drop", "raise", "undefined"])
def test_slots_out_of_range_are_drawn_only_where_they_mean_something(choice):
    cell = cell_of("append", slots_out_of_range=choice)
    asked = ("below", "beyond")
    if choice == "undefined":
        with pytest.raises(OfferError, match="no stray_slots among below, beyond to draw"):
            cell.allowed("stray_slots", asked)
    else:
        assert cell.allowed("stray_slots", asked) == list(asked)
    ordinary = set(cell.allowed("stray_slots"))
    assert ordinary >= {"none"}
    assert bool(ordinary & set(asked)) == (choice == "drop")  # a law that does not ask is not to meet an exception


def test_slot_minus_one_is_drawn_only_where_it_skips_unless_a_law_asks():
    assert cell_of("append", skipped_slots="raise").allowed("skip") == [0]
    assert cell_of("append", skipped_slots="raise").allowed("skip", (2, 3)) == [2, 3]
    assert cell_of("append", skipped_slots="undefined").allowed("skip") == [0]
    assert cell_of("append").allowed("skip") == [0, 2, 3]
