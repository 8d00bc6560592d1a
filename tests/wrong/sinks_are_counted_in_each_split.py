"""Wrong: every split begins with the sink."""

from kvconform.impls import pallas_tpu as right
from kvconform.impls.pallas_kernels import decode
from kvconform.tests.wrong._pallas import pallas_with

NAME = "sinks_are_counted_in_each_split"
BACKEND = "pallas_tpu"
REQUIRES = ("jax",)
_SMALL = {"page_size": {2}, "num_kv_heads": {1}, "group": {1}, "head_dim": {8}, "num_splits": {2}}
_ALONE = {name: right.OFFERS["paged_decode"][name] for name in ("layout", "static", "index_dtype", "sinks")}
OFFERS = {"paged_decode": _ALONE | {"layout": {"nhd"}, "dtype": {"float32"}} | _SMALL}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_wrong = pallas_with(decode, "jnp.where(split == 0, heads[0], NO_SINK)", "heads[0]")
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
