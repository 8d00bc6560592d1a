"""Wrong: a DMA brings one row, and as many are waited for as the sequence has pages."""

from kvconform.impls import pallas_tpu as right
from kvconform.impls.pallas_kernels import movement
from kvconform.tests.wrong._pallas import pallas_with

NAME = "rows_are_waited_for_by_the_page"
BACKEND = "pallas_tpu"
REQUIRES = ("jax",)
_OFFER = right.OFFERS["gather"] | {"layout": {"nhd"}, "dtype": {"float32"}}
OFFERS = {"append": _OFFER, "gather": _OFFER}

_wrong = pallas_with(
    movement,
    "lax.fori_loop(0, kv_len, wait, None)",
    "lax.fori_loop(0, pl.cdiv(kv_len, slots_a_page), wait, None)",
)
to_device, to_host, attest = _wrong.to_device, _wrong.to_host, _wrong.attest
append, gather = _wrong.append, _wrong.gather
