"""Laws of pairs that cannot be bitwise: held to both bounds, which tell rounding from a fault."""

from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.harness.booking import CONFORMS, NOT_OFFERED, VIOLATES
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import Options
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.impls import numpy_ref

OP = "paged_decode"
BATCH, HEADS = "decode_does_not_depend_on_its_batch", "decode_turns_with_its_heads"
UNDECLARED = numpy_ref.CONVENTIONS | {"invariances": set()}


def outcomes(law, decode, conventions=UNDECLARED):
    """Of each cell what a law says of numpy_ref with another paged_decode."""
    offers = {OP: numpy_ref.OFFERS[OP] | {"layout": {"nhd"}, "dtype": {"float32"}, "into": set()}}
    told = {"OFFERS": offers, "CONVENTIONS": conventions, "attest": numpy_ref.attest}
    adapter = SimpleNamespace(**told, ARITHMETIC=numpy_ref.ARITHMETIC, paged_decode=decode)
    searcher = Searcher(Subject(adapter, "other", "other.py"), Options(EFFORTS["quick"]))
    searcher.begin(1)
    return {cell.outcome for cell in searcher.run(all_laws()[law])}


def nothing(q, *args, **kwargs):
    return np.zeros_like(q), np.zeros(q.shape[:2], np.float32)


def next_float(array):
    """Another rounding of the same numbers."""
    return np.where(array == 0, array, np.nextafter(array, np.float32(np.inf)))


def alone_rounded_otherwise(q, cache, block_table, kv_lens, **kwargs):
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, **kwargs)
    return (next_float(out), lse) if len(kv_lens) == 1 else (out, lse)


def alone_without_the_newest_key(q, cache, block_table, kv_lens, **kwargs):
    lens = np.maximum(kv_lens - 1, 1) if len(kv_lens) == 1 else kv_lens
    return numpy_ref.paged_decode(q, cache, block_table, np.minimum(lens, kv_lens), **kwargs)


def last_head_rounded_otherwise(q, *args, **kwargs):
    out, lse = numpy_ref.paged_decode(q, *args, **kwargs)
    out[:, -1] = next_float(out[:, -1])
    return out, lse


def last_head_of_a_doubled_scale(q, *args, **kwargs):
    scaled = q.copy()
    scaled[:, -1] *= 2
    return numpy_ref.paged_decode(scaled, *args, **kwargs)


@pytest.mark.parametrize(
    ("law", "right", "wrong"),
    [
        (BATCH, alone_rounded_otherwise, alone_without_the_newest_key),
        (HEADS, last_head_rounded_otherwise, last_head_of_a_doubled_scale),
    ],
)
def test_an_invariance_that_is_not_declared_is_held_to_both_bounds(law, right, wrong):
    assert outcomes(law, right) == {CONFORMS}
    assert outcomes(law, right, numpy_ref.CONVENTIONS) == {VIOLATES}
    assert outcomes(law, wrong) == {VIOLATES}


@pytest.mark.parametrize("law", ["decode_repeats_bit_for_bit", "decode_agrees_with_repeated_kv"])
def test_zeros_in_both_calls_of_a_pair_are_no_evidence(law):
    assert outcomes(law, nothing) == {NOT_OFFERED}
    assert outcomes(law, numpy_ref.paged_decode) == {CONFORMS}
