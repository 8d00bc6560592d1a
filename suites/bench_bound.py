"""How long the oracle and its bound take: part of every case that is judged, on one core."""

import numpy as np
import pytest

from kvconform.oracles import decode, paged
from kvconform.oracles.bound import attention_bound
from kvconform.oracles.decode import DecodeReading
from kvconform.specs.case import Case
from kvconform.specs.conventions import declared
from kvconform.specs.inputs import inputs
from kvconform.specs.profile import Profile

PROFILES = {
    "float32": Profile(tile=64, renormalises=True),
    "bfloat16 P": Profile(tile=64, renormalises=True, p_format="bfloat16", qk_truncates=True, pv_truncates=True),
    "splits": Profile(tile=64, splits=8, partial_format="bfloat16"),
}


@pytest.mark.parametrize("profile", PROFILES)
def test_bound_of_four_long_rows(benchmark, profile):
    """4 q heads of one kv head, 4096 keys, head_dim 128."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((4, 128)), rng.standard_normal((4096, 128)), rng.standard_normal((4096, 128))
    benchmark.group = "oracle and bound, 4 rows of 4096 keys"
    want = benchmark(attention_bound, q, k, v, 128**-0.5, PROFILES[profile])
    assert (want.out_error > 0).all()


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_expected_of_a_case_of_four_long_rows(benchmark, profile):
    """The same of a Case, K and V read out of its pages and scattered to q heads."""
    shape = {"kv_lens": (4096,), "page_size": 16, "num_kv_heads": 1, "group": 4, "head_dim": 128}
    x = inputs(Case(op="paged_decode", layout="nhd", dtype="float32", **shape))
    cache, reading = paged.filled(x, "zero"), DecodeReading.right(x, declared({}))
    benchmark.group = "oracle and bound, a case of 4 rows of 4096 keys"
    want = benchmark(decode.expected, x, cache, PROFILES[profile], reading)
    assert (want["out"].error > 0).all()
