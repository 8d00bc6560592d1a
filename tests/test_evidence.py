"""What a case can show: pages that could be left out of it unseen, features, and the change of a weight."""

import numpy as np
import pytest

from kvconform.oracles import decode, evidence, keys, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.specs.case import Case
from kvconform.specs.conventions import declared
from kvconform.specs.inputs import inputs
from kvconform.specs.profile import Profile

SILENT = Profile()
COARSE = Profile(p_format="bfloat16", partial_format="bfloat16", splits=8)


def judged(profile, **values):
    """Inputs of a case of attention, what is read, the right reading, and what is expected."""
    x = inputs(Case(op="paged_decode", layout="nhd", dtype="float32", **values))
    cache, right = paged.filled(x, "zero"), DecodeReading.right(x, declared({}))
    kv = keys.of_all(x, cache, right)
    return x, kv, right, decode.expected(x, cache, decode.rounding(profile, "float32"), right, kv=kv)


def left_out(x, kv, seq, page):
    """out and lse of one sequence without a page, by the definition; a sink is a key whose value is 0."""
    end = np.cumsum(x.case.kv_lens)
    here = slice(end[seq] - x.case.kv_lens[seq], end[seq])
    kept = np.arange(x.case.kv_lens[seq]) // x.case.page_size != page
    head_of = np.arange(x.case.num_q_heads) // x.case.group
    k, v = (one.values[here][kept][:, head_of] for one in kv)
    score = np.einsum("hd,nhd->hn", x.q[seq].astype(np.float64), k) * x.sm_scale
    if x.sinks is not None:
        score = np.concatenate([score, x.sinks.astype(np.float64)[:, None]], 1)
        v = np.concatenate([v, np.zeros_like(v[:1])])
    weight = np.exp(score - score.max(1, keepdims=True))
    out = np.einsum("hn,nhd->hd", weight / weight.sum(1, keepdims=True), v)
    return {"out": out, "lse": score.max(1) + np.log(weight.sum(1))}


@pytest.mark.parametrize("profile", [SILENT, COARSE])
@pytest.mark.parametrize("family", ["plain", "read_out", "zero_sum", "flat"])
@pytest.mark.parametrize("sinks", ["none", "drawn", "dominant"])
def test_unseen_pages_are_those_that_the_definition_without_them_does_not_betray(sinks, family, profile):
    shape = {"page_size": 4, "num_kv_heads": 2, "group": 2, "head_dim": 3, "family": family, "sinks": sinks}
    x, kv, right, want = judged(profile, kv_lens=(300, 3, 0, 9), **shape)
    unseen = counted = 0
    for seq, n in enumerate(x.case.kv_lens):
        for page in range(-(-n // 4) if n > 4 else 0):
            got = {name: array.astype(np.float32) for name, array in left_out(x, kv, seq, page).items()}
            bad = [want[name].unmet(np.broadcast_to(got[name], want[name].shape))[seq].any() for name in got]
            weight = 1 - np.exp(left_out(x, kv, seq, page)["lse"] - left_out(x, kv, seq, -1)["lse"])
            unseen += not any(bad) and bool((weight >= 1 / (2 * -(-n // 4))).any())
            counted += bool((weight >= 1 / (2 * -(-n // 4))).any())
    assert evidence.unseen_pages(x, kv, right, want) == unseen
    assert evidence.unseen_pages(x, kv, right, {}) == counted


def test_among_64_dims_each_page_of_a_long_context_shows_and_among_4_none_does():
    def unseen(head_dim, page_size, **several):
        shape = {"kv_lens": (8195, 5), "family": "read_out", "page_size": page_size, "head_dim": head_dim}
        return evidence.unseen_pages(*judged(SILENT, **shape, **several))

    assert unseen(64, 4) == 0
    assert unseen(64, 16, num_splits=7, group=4) == 0
    for sinks in ("none", "drawn"):  # one that is left out of lse would betray every page
        assert unseen(4, 16, sinks=sinks) > 500


@pytest.mark.parametrize("padded", [-1, decode.PADDED], ids=["one length at a time", "all at once"])
@pytest.mark.parametrize("q_lens", [(1, 3), (3, 1)], ids=["of the shorter", "of the longer"])
def test_a_feature_shows_where_one_sequence_alone_shows_it(monkeypatch, padded, q_lens):
    """Those of like lengths are asked together, the longest first."""
    monkeypatch.setattr(decode, "PADDED", padded)
    x, kv, right, want = judged(SILENT, kv_lens=(40, 5), q_lens=q_lens, window=50, family="sharp")
    assert evidence.shown(x, kv, right, want) == ("q_lens",)


@pytest.mark.parametrize("features", [{"window": 2}, {"soft_cap": 2.0}, {"alibi_slopes": "drawn"}])
def test_without_keys_no_feature_shows(features):
    x, kv, right, want = judged(SILENT, kv_lens=(0, 0), group=2, **features)
    assert evidence.shown(x, kv, right, want) == ()
    assert evidence.unseen_pages(x, kv, right, want) == 0
    assert evidence.visible_weight(kv, want, right) == []
