"""Wrong: which of two buffers a page is brought to, is counted from the split, and which is read, from the sequence."""

from kvconform.impls import pallas_tpu as right
from kvconform.impls.pallas_kernels import decode
from kvconform.tests.wrong._pallas import pallas_with

NAME = "buffers_are_counted_from_the_split"
BACKEND = "pallas_tpu"
REQUIRES = ("jax",)
_SMALL = {"page_size": {2}, "num_kv_heads": {1}, "group": {1}, "head_dim": {8}, "num_splits": {2}}
OFFERS = {"paged_decode": right.OFFERS["paged_decode"] | {"layout": {"nhd"}, "dtype": {"float32"}} | _SMALL}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"dead": {"zero"}}, right.ARITHMETIC

_wrong = pallas_with(
    decode,
    "page), buffer.at[i % 2], done.at[i % 2]).start()",
    "page), buffer.at[(i - first) % 2], done.at[i % 2]).start()",
)
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
