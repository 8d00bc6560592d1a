"""Wrong: both buffers signal one semaphore, and a page counts as arrived when the one behind it has."""

from kvconform.impls import pallas_tpu as right
from kvconform.impls.pallas_kernels import decode
from kvconform.tests.wrong._pallas import pallas_with

NAME = "pages_share_a_semaphore"
BACKEND = "pallas_tpu"
REQUIRES = ("jax",)
_SMALL = {"page_size": {2, 4}, "num_kv_heads": {1}, "group": {1}, "head_dim": {8}, "num_splits": {1}}
OFFERS = {"paged_decode": right.OFFERS["paged_decode"] | {"layout": {"nhd"}, "dtype": {"float32"}} | _SMALL}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC

_BETWEEN = """.start()

        def arrived(i: Scalar) -> dict[str, jax.Array]:
            for buffer in buffers:  # a wait takes nothing from its ends but their size
                pltpu.make_async_copy(buffer.at[i % 2], buffer.at[i % 2], """
_wrong = pallas_with(decode, f"done.at[i % 2]){_BETWEEN}done.at[i % 2])", f"done.at[0]){_BETWEEN}done.at[0])")
to_device, to_host, attest, paged_decode = _wrong.to_device, _wrong.to_host, _wrong.attest, _wrong.paged_decode
