"""Wrong: codes are copied, the scales in buffers of their own stay behind."""

from kvconform.impls import numpy_ref as right

NAME = "scales_are_not_copied_with_their_pages"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"nvfp4", "fp4_slots"}}}


def copy_pages(cache, page_mapping, *, layout):
    scales = {name: cache[name].copy() for name in ("k_scale", "v_scale")}
    return right.copy_pages(cache, page_mapping, layout=layout) | scales
