"""Every claim that is judged, by name."""

from __future__ import annotations

from kvconform.claims import fused_kv, split_kv
from kvconform.claims.claim import Claim

SYSTEMS = {
    1: "fused KV cache of tpu-inference's attention v3, as ported to a JAX server's memory pool",
    4: "split_kv_attention: attention over split keys and values",
}
"""What each number of a system stands for."""

CLAIMS: dict[str, Claim] = {claim.name: claim for claim in (*fused_kv.CLAIMS, *split_kv.CLAIMS)}
