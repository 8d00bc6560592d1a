"""Narrow offers are legal: laws are held to what is offered, and say nothing where it leaves them nothing to say.

The adapter here is a right one that refuses every call outside its own OFFERS.
"""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest

from kvconform.harness.booking import CONFORMS, NOT_OFFERED, NOT_REACHED
from kvconform.harness.cli import all_laws
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.plan import left_out
from kvconform.harness.search import Options, Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref
from kvconform.specs.offers import holds
from kvconform.specs.operations import OPERATIONS
from kvconform.tests.power import BOUND, CASCADE, LAYOUTS, LONGEST, RANKS, SPLITS, STRIDED, UPDATE_LONGEST

EFFORT = replace(EFFORTS["quick"], examples=16, static_examples=3, each_family=0, seconds=3600.0, longer=True)
OPTIONS = Options(EFFORT)
"""What calls ask for is no matter of contents: no family is owed."""
WIDE = {op: {"layout": {"nhd", "fused", "parts_first"}, "dtype": {"float16"}} for op in OPERATIONS}
WIDE |= {op: WIDE[op] | {"into": {*row.returns} & {*row.lends}} for op, row in OPERATIONS.items() if row.lends}
NARROW = [
    *({"num_kv_heads": {n}} for n in (1, 2, 4, 8)),
    *({"num_parts": {n}} for n in (1, 2, 3, 4)),
    *({"num_tokens": some} for some in ({1}, {"multiple_of": 8})),
    *({"num_seqs": {n}} for n in (1, 3)),
    *({"kv_lens": some} for some in ({0}, {3}, range(1, 9), {"multiple_of": 16}, {"multiple_of": 4, "min": 4})),
    *({"page_size": {n}} for n in (1, 16, 128)),
    *({"index_dtype": {name}} for name in ("int32", "int64")),
    *({"skip": {n}} for n in (0, 2)),
    *({"spare_pages": {n}} for n in (0, 1)),
    *({"shared_pages": {n}} for n in (0, 1)),
    *({"shared_by": {name}} for name in ("all", "alternate")),
    *({"stray_slots": {name}} for name in ("none", "beyond")),
    *({axis: {4}} for axis in ("group", "head_dim", "num_splits")),
]


def sizes(op, positional, keywords):
    """What a call says of the axes of its Case."""
    array = positional[{"paged_decode": 1, "append_decode": 3}.get(op, 0)]
    if op == "merge_states":
        return dict(zip(("num_parts", "num_seqs"), array.shape, strict=False)) | {"head_dim": array.shape[-1]}
    if not isinstance(array, dict):
        return dict(zip(("num_tokens", "num_kv_heads", "head_dim"), array.shape, strict=True)) | (
            {"num_kv_heads": array.shape[1] // 2} if op.startswith("extract") else {}
        )
    said = dict(zip(("page_size", "num_kv_heads", "head_dim"), array["k"].shape[1:], strict=True))
    said["index_dtype"] = positional[-1].dtype.name
    if op in ("gather", "paged_decode", "append_decode"):
        said["kv_lens"] = tuple(positional[-1].tolist())
        said["num_seqs"] = len(positional[-1])
    if op in ("paged_decode", "append_decode"):
        said |= {"group": positional[0].shape[1] // said["num_kv_heads"], "num_splits": keywords.get("num_splits", 1)}
    return said


def strict(offers):
    """numpy_ref, but any call outside its offers is refused."""

    def of(op):
        def call(*positional, **keywords):
            for axis, value in sizes(op, positional, keywords).items():
                for one in value if isinstance(value, tuple) else (value,):
                    if not holds(offers[op].get(axis, {one}), one):
                        raise ValueError(f"{axis} = {one} is not offered")
            return getattr(numpy_ref, op)(*positional, **keywords)

        return call

    conventions, arithmetic = numpy_ref.CONVENTIONS, numpy_ref.ARITHMETIC
    adapter = SimpleNamespace(OFFERS=offers, CONVENTIONS=conventions, ARITHMETIC=arithmetic)
    for op in offers:
        setattr(adapter, op, of(op))
    return Subject(adapter, "strict", "strict.py")


def narrowed(some, static=False, ops=tuple(OPERATIONS)):
    """Offers with some axes narrowed, wherever an operation has them, and can be called."""
    return {
        op: offer
        | ({"static": True} if static else {})
        | {axis: value for axis, value in some.items() if op in ops and narrows(op, axis, value, static)}
        for op, offer in WIDE.items()
    }


def narrows(op, axis, value, static):
    """Whether an operation has an axis, and a case with such a value: new tokens are counted in kv_lens."""
    no_token = axis == "kv_lens" and not any(holds(value, n) for n in range(1, 7 if static else 41))
    return axis in OPERATIONS[op].offered_axes and not (OPERATIONS[op].appends and no_token)


def outcomes(offers, laws=None):
    """Law -> (outcome, message), of a law that is not tried why."""
    subject, found = strict(offers), {}
    for law in (law for law in all_laws().values() if law.name in (laws or all_laws())):
        tried = Searcher(subject, OPTIONS).run(law)
        found |= {one.law: (one.outcome, one.message) for one in [*tried, *left_out(subject, law, OPTIONS)]}
    return found


@cache
def of_wide(static):
    return outcomes(narrowed({}, static))


def concerned(some, ops=tuple(OPERATIONS)):
    """Laws whose cases, or further calls, have an axis that is narrowed."""
    return [
        law.name
        for law in all_laws().values()
        if any(op in ops and axis in OPERATIONS[op].offered_axes for op in (law.op, *law.operations) for axis in some)
    ]


@pytest.mark.parametrize("static", [False, True], ids=["free", "static"])
@pytest.mark.parametrize("some", NARROW, ids=str)
def test_whoever_refuses_what_it_does_not_offer_is_never_red(some, static):
    found = outcomes(narrowed(some, static), concerned(some))
    assert {law: said for law, said in found.items() if said[0] not in (CONFORMS, NOT_OFFERED)} == {}
    assert CONFORMS in {outcome for outcome, _ in found.values()}


@pytest.mark.parametrize("some", [{"kv_lens": range(1, 9)}, {"index_dtype": {"int64"}}, {"spare_pages": {0}}], ids=str)
def test_one_operation_may_be_narrower_than_the_others(some):
    for op in (op for op in OPERATIONS if set(some) & set(OPERATIONS[op].case_axes)):
        found = outcomes(narrowed(some, ops=(op,)), concerned(some, (op,)))
        assert {law: said for law, said in found.items() if said[0] not in (CONFORMS, NOT_OFFERED)} == {}, op


@pytest.mark.parametrize(
    ("law", "some", "message"),
    [
        ("merging_commutes_with_sharding_heads", {"num_kv_heads": {1}}, "no num_kv_heads among 2, 3, 5, 8 to draw"),
        ("merging_in_any_order_and_tree_gives_the_same", {"num_parts": {1}}, "no num_parts among 2, 3, 5, 8 to draw"),
        ("append_leaves_one_of_several_tokens_whole", {"skip": {2}}, "no skip among 0 to draw from {2}"),
        ("decode_does_not_see_page_numbers", {"spare_pages": {0}}, "no spare_pages among 1, 3 to draw from {0}"),
        ("a_fork_leaves_its_parent_alone", {"spare_pages": {0}}, "no spare_pages among 1, 3 to draw from {0}"),
        ("merging_commutes_with_sharding_heads", {"num_kv_heads": {2}}, "says nothing about what is offered of fused"),
    ],
)
def test_law_that_an_offer_leaves_nothing_is_not_offered_and_says_why(law, some, message):
    outcome, said = outcomes(narrowed(some), (law,))[law]
    assert outcome == NOT_OFFERED
    assert message in said


def test_operations_that_share_nothing_leave_a_law_of_both_nothing():
    offers = narrowed({"page_size": {1, 2}})
    offers["gather"] = offers["gather"] | {"page_size": {8}}
    found = outcomes(offers, ("what_was_appended_is_gathered", "gather_reads_the_live_tokens_in_order"))
    assert found["gather_reads_the_live_tokens_in_order"][0] == CONFORMS
    outcome, said = found["what_was_appended_is_gathered"]
    assert (outcome, "no page_size to draw from {1, 2} and {8}" in said) == (NOT_OFFERED, True)


def test_offer_that_leaves_an_operation_nothing_is_red_under_every_law():
    """Rows of x elements, 8 of float16, are built of no head_dim of 3."""
    offer = {"layout": {"split_x"}, "dtype": {"float16"}, "head_dim": {3}}
    found = outcomes({op: offer for op, row in OPERATIONS.items() if row.holds == "pages"})
    said = {"attention_over_parts_merges_to_the_whole", CASCADE, RANKS}  # not in OFFERS; these are not in CONVENTIONS
    said |= {"append_refuses_slot_minus_one", "decode_does_not_depend_on_its_splits"}
    assert found.pop(LAYOUTS)[0] == NOT_OFFERED  # there is no other
    said.add(LAYOUTS)
    assert set(found) | said == {law.name for law in all_laws().values() if OPERATIONS[law.op].holds == "pages"}
    assert {outcome for outcome, _ in found.values()} == {NOT_REACHED}
    assert all("no head_dim to draw from {3}" in message for _, message in found.values())


def test_nothing_is_left_out_where_everything_is_offered_but_a_second_layout_views_and_splits():
    for static in (False, True):
        left = {law for law, (outcome, _) in of_wide(static).items() if outcome == NOT_OFFERED}
        free_alone = {LONGEST, UPDATE_LONGEST} if static else set()  # of a shape of their own, and a large one
        assert left == {law for law in left if "31_bits" in law} | free_alone | {LAYOUTS, STRIDED, SPLITS}
        assert {outcome for law, (outcome, _) in of_wide(static).items() if law not in left} == {CONFORMS}


@pytest.mark.parametrize(
    ("offer", "said"),
    [
        ({"q_lens": {2, 3}}, "q_lens {2, 3} leaves out 1, which is all that a sequence of one token has"),
        (
            {"q_lens": {1, 3}, "tree_mask": {"drawn"}},
            "tree_mask {'drawn'} leaves out 'none', which is all that a sequence of one token has",
        ),
    ],
)
def test_an_offer_without_what_a_sequence_of_one_token_has_is_refused_in_a_sentence(offer, said):
    found = outcomes({"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, **offer}})
    assert found[BOUND] == (NOT_REACHED, f"paged_decode on nhd in float32: {said}")
