"""merge_states: log-sum-exp over parts, whatever their order, and whatever parts without keys hold."""

from functools import partial

import numpy as np

from kvconform.oracles import decode, mistakes, states
from kvconform.oracles.bound import OutsideDomain
from kvconform.oracles.verdict import Exact, require, require_same
from kvconform.specs import data, lse
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import large
from kvconform.suites.calls import BUFFERS, merged_in_a_tree, passes_zeros
from kvconform.suites.law import law


def _parts(subject, case):
    """outs; lses as the implementation wants them, and what those are in nats."""
    x = inputs(case)
    unit = lse.NATS[subject.conventions["lse_base"]]
    given = lse.convert(x.lses, lse.OWN, lse.OWN | {n: subject.conventions[n] for n in ("lse_base", "lse_dtype")})
    if np.isinf(given[np.isfinite(x.lses)]).any():
        raise OutsideDomain("an lse of this case is more than the declared lse_dtype holds")
    return x.outs, given, given.astype(np.float64) * unit, unit


@law("merge_states", pinned=large, every_cell=True)
def test_merge_is_within_the_bound(subject, case):
    """out and lse are those of attention over all parts, each weighted by exp(lse)."""
    outs, given, nats, unit = _parts(subject, case)
    got = subject.call(case, "merge_states", outs=outs, lses=given)
    profile = decode.rounding(subject.profile(case.dtype), case.dtype, splits=case.num_parts)
    want = states.expected(outs, nats, profile, unit)
    require(got, want, partial(mistakes.of_merge, outs, nats, profile, unit))
    if passes_zeros(want):
        subject.saw_nothing()
    subject.saw(states.visible_weight(outs, nats, want))


@law("merge_states", only={"num_parts": (2, 3, 5, 8)}, cells=lambda cell: cell.takes(num_parts=(2,)))
def test_merging_in_any_order_and_tree_gives_the_same(subject, case):
    """Parts merged two at a time, in a drawn order and tree, stay within the bound of that tree."""
    outs, given, nats, unit = _parts(subject, case)
    merged, depth = merged_in_a_tree(subject, case, list(zip(outs, given, strict=True)))
    profile = decode.tree(subject.profile(case.dtype), case.dtype, case.num_parts, depth)
    require(merged, states.expected(outs, nats, profile, unit), when=f"of a tree {depth} merges deep")


@law("merge_states")
def test_the_only_live_part_is_the_result(subject, case):
    """With every other part empty, out is the live part's bit for bit and lse is its lse."""
    outs, given, nats, unit = _parts(subject, case)
    alone = int(data.hashes(case.seed, "alone")) % case.num_parts
    others = np.arange(case.num_parts) != alone
    live = np.isfinite(nats[alone])
    given, nats = given.copy(), nats.copy()
    given[others] = nats[others] = -np.inf
    got = subject.call(case, "merge_states", outs=outs, lses=given)
    profile = decode.rounding(subject.profile(case.dtype), case.dtype, splits=case.num_parts)
    want = states.expected(outs, nats, profile, unit)
    kept = np.where(live[..., None], outs[alone], np.zeros_like(outs[alone]))
    require(got, {"out": Exact(kept, decode.LOCATE["out"]), "lse": want["lse"]})


@law("merge_states", only={"buffers": BUFFERS}, wants=lambda conventions: conventions["deterministic"])
def test_merging_repeats_bit_for_bit(subject, case):
    """The same parts in the same order give the same bits, also in memory that held other results."""
    outs, given, _, _ = _parts(subject, case)
    first = subject.call(case, "merge_states", outs=outs, lses=given)
    if case.buffers == "used":
        subject.call(case, "merge_states", outs=-outs, lses=given + given.dtype.type(1))
    second = subject.call(case, "merge_states", outs=outs, lses=given)
    for name, locate in decode.LOCATE.items():
        require_same(second[name], first[name], f"{name} of the second call against the first", locate)
