"""Right: append raises at slot -1, below it and past the cache's end."""

from kvconform.impls import numpy_ref

NAME = "refuses_slots"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nhd", "trtllm_blocks"}, "dtype": {"float32"}} for op in ("append", "gather")}
CONVENTIONS = {"skipped_slots": "raise", "slots_out_of_range": "raise"}

gather = numpy_ref.gather


def append(cache, k, v, slot_mapping, *, layout):
    page, slot = (cache["k"].shape[0], cache["k"].shape[1]) if layout == "nhd" else cache["pool"].shape[:3:2]
    if (slot_mapping < 0).any() or (slot_mapping >= page * slot).any():
        raise IndexError("slot_mapping is out of range")
    return numpy_ref.append(cache, k, v, slot_mapping, layout=layout)
