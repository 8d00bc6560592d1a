"""Every claim that is judged, by name."""

from __future__ import annotations

from kvconform.claims import fused_kv, pq_error, pq_kv, pq_pages, pq_speed, split_kv
from kvconform.claims.claim import Claim

SYSTEMS = {
    1: "fused KV cache of tpu-inference's attention v3, as ported to a JAX server's memory pool",
    3: "MILLION: product-quantised KV cache with asymmetric attention, in pages with transposed V",
    4: "split_kv_attention: attention over split keys and values",
}
"""What each number of a system stands for."""

MODULES = (fused_kv, pq_pages, pq_kv, pq_error, pq_speed, split_kv)
"""Where they are."""

CLAIMS: dict[str, Claim] = {claim.name: claim for module in MODULES for claim in module.CLAIMS}
