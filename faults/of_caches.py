"""Faults of what K and V are made of: scales given and stored, latents, widths, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from kvconform.faults.fault import Fault
from kvconform.faults.kernel import Floats, Scaled, Sequence, Steps, scaled
from kvconform.specs.data import Array
from kvconform.specs.row import SCALE, ZERO, K, V

# --- k_scale and v_scale


def _factor(name: str, kv_scales: str, wrong: Callable[[Scaled], Any], **row: Any) -> Fault:
    """Wrong wherever there are scales; where they are to be one a page or a token, there alone."""

    def factor(s: Scaled) -> Any:
        return wrong(s) if s.case.kv_scales == kv_scales or kv_scales in ("tensor", "head") else s.at(s.page, s.slot)

    return Fault(name=name, steps=Steps(factor=factor), needs={"kv_scales": kv_scales}, **row)


def _of_side(side: int, wrong: Callable[[Scaled], Any]) -> Callable[[Scaled], Any]:
    """Wrong for K or for V alone."""
    return lambda s: wrong(s) if s.side == side else s.at(s.page, s.slot)


def _one(s: Scaled) -> Array:
    return np.ones((1, 1))


def _by_other(s: Scaled) -> Array:
    return s.at(s.page, s.slot, s.other)


def _heads(change: Callable[[Array], Array]) -> Callable[[Scaled], Any]:
    """The heads' scales in another order, or others."""
    return lambda s: change(s.at(s.page, s.slot))


def _logical(s: Scaled) -> Array:
    """The scale of the page of that number in the sequence, not of that in the pool."""
    return s.at(s.position // s.case.page_size, s.slot)


def _as_if_heads_first(s: Scaled) -> Array:
    """[pages, heads] read as [heads, pages]."""
    pages, heads = s.scale.shape
    flat = s.scale.ravel()
    return np.asarray(flat[(np.arange(heads) * pages + s.page[:, None] % pages) % flat.size])


def _slots_behind_heads(s: Scaled) -> Array:
    """[pages, slots, heads] read as [pages, heads, slots]."""
    pages, slots, heads = s.scale.shape
    flat = s.scale.reshape(pages, -1)
    return np.asarray(flat[s.page[:, None], np.arange(heads) * slots + s.slot[:, None]])


GIVEN = (
    _factor("k_scale_is_ignored", "tensor", _of_side(K, _one), source="O30"),
    _factor("v_scale_is_ignored", "tensor", _of_side(V, _one), source="O30"),
    _factor("both_have_k_scale", "tensor", _of_side(V, _by_other), source="one `kv_scale` for both"),
    _factor("scales_are_swapped", "tensor", _by_other),
    _factor("k_is_divided_by_its_scale", "tensor", _of_side(K, lambda s: 1.0 / s.at(s.page, s.slot)), source="O31"),
    _factor("v_is_divided_by_its_scale", "tensor", _of_side(V, lambda s: 1.0 / s.at(s.page, s.slot)), source="O31"),
    _factor("v_is_scaled_twice", "tensor", _of_side(V, lambda s: s.at(s.page, s.slot) ** 2)),
    _factor(
        "scales_are_rounded_to_bfloat16",
        "tensor",
        lambda s: s.at(s.page, s.slot).astype(ml_dtypes.bfloat16).astype(np.float64),
    ),
    _factor("scales_are_rounded_to_powers_of_two", "tensor", lambda s: 2.0 ** np.rint(np.log2(s.at(s.page, s.slot)))),
    _factor(
        "scales_are_rounded_to_float8",
        "head",
        _heads(lambda scale: np.ldexp(np.rint(np.ldexp(np.frexp(scale)[0], 3)), np.frexp(scale)[1] - 3)),
    ),
    _factor("head_zero_scales_all", "head", _heads(lambda scale: scale[:, :1])),
    _factor("heads_scales_are_turned", "head", _heads(lambda scale: np.roll(scale, 1, -1))),
    _factor("heads_scales_are_averaged", "head", _heads(lambda scale: scale.mean(-1, keepdims=True))),
    _factor("page_scales_go_by_position", "page", _logical, source="O32"),
    _factor("page_scales_are_those_of_the_first_page", "page", lambda s: s.at(s.page[:1], s.slot[:1])),
    _factor("page_scales_are_those_of_the_last_page", "page", lambda s: s.at(s.page[-1:], s.slot[-1:])),
    _factor("page_scales_lag_by_one_page", "page", lambda s: s.at(np.roll(s.page, s.case.page_size), s.slot)),
    _factor("page_scales_are_heads_first", "page", _as_if_heads_first),
    _factor("v_has_the_pages_of_other_scales", "page", _of_side(V, lambda s: s.at(s.page + 1, s.slot))),
    _factor("slot_zero_scales_its_page", "token", lambda s: s.at(s.page, 0 * s.slot)),
    _factor("token_scales_go_by_position", "token", _logical),
    _factor("token_scales_are_one_late", "token", lambda s: s.at(np.roll(s.page, 1), np.roll(s.slot, 1))),
    _factor("token_scales_are_heads_first", "token", _slots_behind_heads),
    _factor(
        "newest_token_is_not_scaled",
        "token",
        lambda s: np.where((s.position == s.position.max(initial=0))[:, None], 1.0, s.at(s.page, s.slot)),
    ),
    _factor("v_has_token_scales_of_k", "token", _of_side(V, _by_other)),
)

# --- scales beside the codes


def _stored(name: str, layout: str, numbers: Callable[[Floats, Mapping[str, Floats]], Floats], **row: Any) -> Fault:
    return Fault(name=name, steps=Steps(numbers=numbers), needs={"layout": layout}, **row)


def _scales(change: Callable[[Floats], Floats]) -> Callable[[Floats, Mapping[str, Floats]], Floats]:
    def numbers(codes: Floats, beside: Mapping[str, Floats]) -> Floats:
        return scaled(codes, {**beside, **({SCALE: change(beside[SCALE])} if SCALE in beside else {})})

    return numbers


def _once_for_the_row(scale: Floats) -> Floats:
    return np.broadcast_to(scale[..., :1], scale.shape)


STORED = (
    _stored("codes_are_not_scaled", "token_head_scales", _scales(np.ones_like)),
    _stored("codes_have_the_scale_of_head_zero", "token_head_scales", _scales(lambda s: s[:, :1])),
    _stored("codes_have_the_scale_of_the_token_before", "token_head_scales", _scales(lambda s: np.roll(s, 1, 0))),
    _stored("codes_have_the_scale_of_the_first_token", "token_head_scales", _scales(lambda s: s[:1])),
    _stored("zeros_are_not_added", "kivi", lambda codes, beside: scaled(codes, {SCALE: beside[SCALE]})),
    _stored("zeros_are_subtracted", "kivi", lambda codes, beside: codes * beside[SCALE] - beside[ZERO]),
    _stored("zeros_are_points", "kivi", lambda codes, beside: (codes + beside[ZERO]) * beside[SCALE], source="O33"),
    _stored("first_block_scales_its_row", "nvfp4", _scales(_once_for_the_row)),
    _stored("blocks_scales_are_turned", "nvfp4", _scales(lambda s: np.roll(s, 16, -1))),
    _stored("blocks_are_of_32", "nvfp4", _scales(lambda s: s[..., np.arange(s.shape[-1]) // 32 * 32])),
    _stored("scales_of_latents_are_ignored", "mla_656", _scales(np.ones_like)),
    _stored("first_tile_scales_the_latent", "mla_656", _scales(_once_for_the_row)),
)

# --- latents, and V of a width of its own


def _taken(name: str, layout: str, takes: Callable[[Sequence], Sequence], **row: Any) -> Fault:
    return Fault(name=name, steps=Steps(takes=takes), needs={"layout": layout}, **row)


def _rope(change: Callable[[Floats, int], Floats]) -> Callable[[Sequence], Sequence]:
    """K with another rope part; `change` gets K and the width of the latent."""
    return lambda s: replace(s, k=change(s.k, s.v.shape[-1]))


def _without_rope(k: Floats, latent: int) -> Floats:
    return np.where(np.arange(k.shape[-1]) < latent, k, 0.0)


def _rope_turned(k: Floats, latent: int) -> Floats:
    return np.concatenate([k[..., :latent], np.roll(k[..., latent:], 1, -1)], -1)


def _rope_of_the_next_token(k: Floats, latent: int) -> Floats:
    return np.concatenate([k[..., :latent], np.roll(k[..., latent:], 1, -2)], -1)


def _rope_alone(k: Floats, latent: int) -> Floats:
    return np.where(np.arange(k.shape[-1]) < latent, 0.0, k)


def _v_behind(s: Sequence) -> Sequence:
    """V is the last columns of the row, the rope part among them."""
    return replace(s, v=s.k[..., s.k.shape[-1] - s.v.shape[-1] :])


def _within_width_of_k(s: Sequence) -> Sequence:
    return replace(s, v=np.where(np.arange(s.v.shape[-1]) < s.k.shape[-1], s.v, 0.0))


def _dims_of_v_alone(s: Sequence) -> Sequence:
    return replace(s, k=np.where(np.arange(s.k.shape[-1]) < s.v.shape[-1], s.k, 0.0))


LATENT = (
    _taken("scores_leave_out_the_rope", "mla", _rope(_without_rope)),
    _taken("scores_leave_out_the_latent", "mla", _rope(_rope_alone)),
    _taken("rope_is_turned_by_one", "mla", _rope(_rope_turned)),
    _taken("rope_is_that_of_the_token_before", "mla", _rope(_rope_of_the_next_token)),
    _taken("v_ends_where_the_row_does", "mla", _v_behind),
    _taken(
        "rope_is_scaled_twice",
        "mla",
        _rope(lambda k, latent: np.where(np.arange(k.shape[-1]) < latent, k, 0.5 * k)),
    ),
    _taken("v_is_cut_to_the_width_of_k", "beside_nhd_diffkv", _within_width_of_k),
    _taken("scores_stop_at_the_width_of_v", "beside_nhd_diffkv", _dims_of_v_alone),
)

CACHE_FAULTS = {row.name: row for row in (*GIVEN, *STORED, *LATENT)}
"""Every one, by name."""
