"""Wrong: pages that the newest query token no longer sees stay away, also those that an older one sees."""

from kvconform.impls import pallas_tpu as right
from kvconform.impls.pallas_kernels import decode
from kvconform.tests.wrong._pallas import pallas_with

NAME = "pages_are_those_of_the_newest_token"
BACKEND = "pallas_tpu"
REQUIRES = ("jax",)
_SMALL = {"page_size": {3}, "num_kv_heads": {1}, "group": {1}, "head_dim": {8}, "num_splits": {1}}
_ALONE = {name: right.OFFERS["paged_decode"][name] for name in ("layout", "static", "index_dtype", "window", "q_lens")}
OFFERS = {"paged_decode": _ALONE | {"layout": {"nhd"}, "dtype": {"float32"}} | _SMALL}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = pallas_with(decode, "jnp.maximum(rows.oldest, 0)", "jnp.maximum(rows.oldest + q_len - 1, 0)")
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
