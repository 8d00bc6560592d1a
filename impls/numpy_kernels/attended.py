"""K and V of one sequence as attention multiplies them: float32 [tokens, heads, dim], whatever the cache holds."""

import ml_dtypes
import numpy as np

from kvconform.impls.numpy_kernels.views import PLAIN, UNEVEN

FP4, LATENTS = {"nvfp4", "nvfp4_swizzled", "fp4_slots"}, {"mla", "mla_aligned", "mla_656", "mla_scales_behind"}
SCALED = {"token_head_scales", "cells_q8_0", "nvfp4", "nvfp4_swizzled", "fp4_slots", "kivi", "kivi_torch"}
LAYOUTS = {*PLAIN, *UNEVEN, *LATENTS, *SCALED}
"""Rows that it reads; of the others nothing is a V, or codes need a table."""


def sequence(view, place):
    """One sequence of one part, [length, *token axes], the dim axis whole again; place: pages and slots."""
    pages, slots = place
    if isinstance(view, np.ndarray):
        rows = view[pages, slots]
    else:  # what makes arrays of whole pages
        whole, at = np.unique(pages, return_inverse=True)
        rows = view[whole][at, slots]
    return rows.reshape(*rows.shape[:2], rows.shape[2] * rows.shape[3]) if rows.ndim == 4 else rows


def _powers_of_two(codes):
    return np.ldexp(np.float32(1), codes.astype(np.int32) - 127)


def _side(views, name, place, layout):
    """The numbers of K's or V's main part `name`: codes, times what is stored beside them, plus that."""

    def of(part):
        return sequence(views[part], place)

    codes = of(name)
    rows = (codes.view(ml_dtypes.float4_e2m1fn) if layout in FP4 else codes).astype(np.float32, order="C")
    if f"{name}_scale" in views:
        scale = of(f"{name}_scale")
        rows = rows * _beside(_powers_of_two(scale) if scale.dtype == np.uint8 else scale.astype(np.float32), rows)
    if f"{name}_zero" in views:
        rows = rows + _beside(of(f"{name}_zero").astype(np.float32), rows)
    return rows


def _beside(shared, rows):
    """What neighbours along dim share, one entry each."""
    if shared.ndim < rows.ndim:
        return shared[..., None]
    return np.repeat(shared, rows.shape[-1] // shared.shape[-1], -1)


def _times(rows, scale, place):
    """Rows times k_scale or v_scale: one for all, one a head, a page and head, or a token and head."""
    if scale is None:
        return rows
    pages, slots = place
    of_rows = {1: lambda: scale[None], 2: lambda: scale[pages], 3: lambda: scale[pages, slots]}
    return rows * of_rows[scale.ndim]()[..., None]


def keys_and_values(views, places, layout, scales):
    """float32 K and V of one sequence.

    views, places, scales   of K and of V
    """
    if layout in LATENTS:
        latent, rope = ("nope", "rope") if "nope" in views[0] else ("ckv", "kpe")
        v = _side(views[0], latent, places[0], layout)
        k = np.concatenate([v, _side(views[0], rope, places[0], layout)], -1)
        found = k[:, None], v[:, None]
    else:
        several = [view if isinstance(view, dict) else {name: view} for view, name in zip(views, "kv", strict=True)]
        found = [_side(view, name, at, layout) for view, name, at in zip(several, "kv", places, strict=True)]
    return tuple(_times(rows, scale, at) for rows, scale, at in zip(found, scales, places, strict=True))


def page_size_of(views):
    """Slots of a page."""
    return next(iter(views[0].values())).shape[1] if isinstance(views[0], dict) else views[0].shape[1]
