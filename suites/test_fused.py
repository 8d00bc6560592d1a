"""merge_kv and extract_k, extract_v: K and V of a head become neighbouring rows, and come back bit for bit."""

from functools import partial

import numpy as np

from kvconform.oracles import fused, mistakes
from kvconform.oracles.verdict import by_axes, require, require_same
from kvconform.specs.inputs import inputs
from kvconform.specs.layouts import K, V
from kvconform.specs.pinned import every_bit_pattern, large
from kvconform.suites.law import law

HEADS = (2, 3, 5, 8)
"""Heads that are cut into two shards, in every way."""


def _pinned(cell):
    return (*every_bit_pattern(cell), *large(cell))


@law("merge_kv", pinned=_pinned, every_cell=True)
def test_merge_alternates_k_and_v(subject, case):
    """Row 2h of the fused tensor is K of head h, row 2h + 1 is V of head h."""
    x = inputs(case)
    got = subject.call(case, "merge_kv", k=x.sides[K], v=x.sides[V])
    require(got, fused.expect_merge(x), partial(mistakes.of_fused, x, None, None))


def takes_every_shard(cell):
    """Whether fewer heads are offered than the most that are drawn, down to one."""
    return cell.takes(num_kv_heads=tuple(range(1, max(cell.allowed("num_kv_heads", HEADS)))))


@law("merge_kv", only={"num_kv_heads": HEADS}, cells=takes_every_shard)
def test_merging_commutes_with_sharding_heads(subject, case):
    """Fusing each shard of heads and joining the shards gives what fusing all heads gives."""
    k, v = inputs(case).sides
    whole = subject.call(case, "merge_kv", k=k, v=v)["kv"]
    for cut in range(1, case.num_kv_heads):
        shards = [
            subject.call(case, "merge_kv", k=k[:, part], v=v[:, part])["kv"] for part in (slice(cut), slice(cut, None))
        ]
        joined = np.concatenate(shards, axis=1)
        require_same(
            joined,
            whole,
            f"shards of {cut} and {case.num_kv_heads - cut} heads against all heads",
            by_axes("token", "row", "dim"),
        )


@law("extract_k", pinned=_pinned, every_cell=True)
def test_extract_k_reads_the_even_rows(subject, case):
    """extract_k returns K of a tensor fused by the definition."""
    _extract(subject, case, K)


@law("extract_v", pinned=_pinned, every_cell=True)
def test_extract_v_reads_the_odd_rows(subject, case):
    """extract_v returns V of a tensor fused by the definition."""
    _extract(subject, case, V)


def _extract(subject, case, side):
    x = inputs(case)
    kv = fused.merged(x)
    got = subject.call(case, case.op, kv=kv)
    require(got, fused.expect_extract(x, kv, side), partial(mistakes.of_fused, x, kv, side))


@law("merge_kv", needs=("extract_k", "extract_v"), pinned=_pinned)
def test_what_was_merged_is_extracted(subject, case):
    """extract_k and extract_v of merge_kv(k, v) are k and v, every bit pattern included."""
    k, v = inputs(case).sides
    kv = subject.call(case, "merge_kv", k=k, v=v)["kv"]
    for name, want in (("k", k), ("v", v)):
        got = subject.call(case, f"extract_{name}", kv=kv)[name]
        require_same(got, want, f"extract_{name}(merge_kv(k, v)) against {name}", by_axes("token", "head", "dim"))
