"""How long the oracle and its bound take: part of every case that is judged, on one core."""

import numpy as np
import pytest

from kvconform.oracles.bound import attention_bound
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
