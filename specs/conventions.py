"""Conventions: what implementations legitimately decide for themselves, declared so that nobody argues about it later.

An adapter's `CONVENTIONS` names its choices; strategies draw nothing outside them, oracles follow them, the report
prints them. A convention that takes several choices lists everything the implementation copes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One row.

    meaning   what is being decided
    choices   every legal choice
    default   what is assumed of an adapter that is silent
    bars      axis of a Case -> values that are not drawn where it is undefined, and where it raises only on demand
    several   whether an adapter declares a set of choices (what it copes with) or exactly one
    sources   choice -> systems that have it
    implies   choice -> others that whoever copes with it copes with too
    """

    name: str
    meaning: str
    choices: tuple[Any, ...]
    default: Any
    bars: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    several: bool = False
    sources: Mapping[Any, str] = field(default_factory=dict)
    implies: Mapping[Any, tuple[Any, ...]] = field(default_factory=dict)


CONVENTIONS: dict[str, Convention] = {
    row.name: row
    for row in (
        Convention(
            name="lse_base",
            meaning="base of the logarithm in lse",
            choices=("e", "2"),
            default="e",
            sources={
                "e": "FlashAttention, vLLM, SGLang, FlashMLA, JAX ragged paged attention",
                "2": "FlashInfer, TensorRT-LLM's generation kernels, JAX's Mosaic GPU attention",
            },
        ),
        Convention(
            name="lse_axes",
            meaning="order of the axes of lse",
            choices=("rows, heads", "heads, rows"),
            default="rows, heads",
            sources={
                "rows, heads": "FlashInfer, SGLang's merge_state",
                "heads, rows": "FlashAttention (varlen), vLLM's merge_attn_states",
            },
        ),
        Convention(
            name="lse_dtype",
            meaning="dtype of lse, given and returned",
            choices=("float32", "float16", "bfloat16"),
            default="float32",
            sources={
                "float32": "FlashAttention, vLLM, FlashInfer, JAX",
                "float16": "MILLION",
                "bfloat16": "vLLM's Triton MLA decode, which takes that of q",
            },
        ),
        Convention(
            name="lse_of_empty",
            meaning="lse of a row without keys; one whose lse counts a sink has the sink, but see empty_with_sink",
            choices=("-inf", "inf"),
            default="-inf",
            sources={
                "-inf": "vLLM, FlashInfer, SGLang, FlashAttention 3's kernel",
                "inf": "FlashAttention 2, FlashMLA, FlashAttention 3's host branch",
            },
        ),
        Convention(
            name="sinks_in_lse",
            meaning="whether lse counts the sink",
            choices=(True, False),
            default=True,
            sources={
                True: "vLLM's FlashAttention (s_aux), FlashAttention 4, FlashInfer, JAX splash attention",
                False: "FlashMLA",
            },
        ),
        Convention(
            name="empty_with_sink",
            meaning="lse, where it counts sinks, of a sequence without keys: the sink, or as lse_of_empty says; a row "
            "that sees none of the keys of its sequence has the sink in either",
            choices=("sink", "lse_of_empty"),
            default="sink",
            sources={
                "sink": "FlashAttention 4 on Blackwell (flash_fwd_sm100.py, correction_loop)",
                "lse_of_empty": "vLLM's FlashAttention 3 (hopper: no block of keys, so store_zero and no finalize_aux)",
            },
        ),
        Convention(
            name="sinks_dtype",
            meaning="dtype in which sinks are given: always the same, or that of q",
            choices=("float32", "q", "bfloat16"),
            default="float32",
            sources={
                "float32": "JAX, FlashInfer, llama.cpp",
                "q": "onnxruntime (head_sink)",
                "bfloat16": "vLLM's FlashAttention (s_aux)",
            },
        ),
        Convention(
            name="causal",
            meaning="what each of several query tokens sees where no tree_mask says it: what is not newer than itself, "
            "the last one standing at the last key, or the first one at the first key; or newer keys as well",
            choices=("bottom_right", "top_left", "none"),
            default="bottom_right",
            sources={
                "bottom_right": "FlashAttention since 2.1, FlashInfer, vLLM, SGLang, JAX ragged paged attention, "
                "torch's causal_lower_right, xformers' BlockDiagonalCausalFromBottomRightMask",
                "top_left": "torch's is_causal and causal_upper_left, FlashAttention before 2.1, JAX's "
                "dot_product_attention, xformers' BlockDiagonalCausalMask, TensorRT's kUPPER_LEFT",
                "none": "FlashAttention and FlashInfer with causal=False, torch's scaled_dot_product_attention without "
                "a mask, cross attention",
            },
        ),
        Convention(
            name="window_counts",
            meaning="what window counts: the keys that a query sees, its own among them, or the keys left of it",
            choices=("keys", "left"),
            default="keys",
            sources={
                "keys": "vLLM's sliding_window, JAX ragged paged attention, SGLang's Triton decode",
                "left": "FlashInfer's window_left, FlashAttention's window_size[0]",
            },
        ),
        Convention(
            name="soft_cap_order",
            meaning="scores that soft_cap bends: scaled by sm_scale, or before they are scaled",
            choices=("scaled", "unscaled"),
            default="scaled",
            sources={
                "scaled": "vLLM, FlashInfer, FlashAttention, JAX ragged paged attention",
                "unscaled": "llama.cpp without flash attention",
            },
        ),
        Convention(
            name="alibi_from",
            meaning="where the distance of ALiBi is counted from: another lse; beside a sink another softmax, too",
            choices=("query", "last_key", "first_key", "first_query", "query_index"),
            default="query",
            sources={
                "query": "llama.cpp, FlashAttention 2 without causal masking",
                "last_key": "vLLM's paged attention",
                "first_key": "FlashAttention 2 with causal masking",
                "first_query": "vLLM's unified Triton kernel: key position - context_len",
                "query_index": "FlashInfer: kv_idx - qo_idx, which is 0 in decode",
            },
        ),
        Convention(
            name="tree_mask_form",
            meaning="what tree_mask is: a column for each query token of the longest, or of each query row all keys of "
            "its sequence, one row after another, flat",
            choices=("tree", "all_keys"),
            default="tree",
            sources={
                "tree": "SGLang's QLEN_ONLY; in bits TensorRT-LLM's spec_decoding_packed_mask; one tree for all, of 0 "
                "and -inf, in vLLM (qq_bias)",
                "all_keys": "FlashInfer's custom_mask, SGLang's FULL_MASK",
            },
        ),
        Convention(
            name="dead",
            meaning="contents it copes with in slots no sequence reads, and in outs of empty parts",
            choices=("zero", "finite", "nan", "inf"),
            default={"zero", "finite"},
            several=True,
        ),
        Convention(
            name="table_padding",
            meaning="what a block table may hold beyond a sequence's pages: any page, one that none owns, -1, numbers "
            "far past the pool",
            choices=("valid", "null", "minus_one", "huge"),
            default={"valid"},
            implies={"valid": ("null",)},
            several=True,
        ),
        Convention(
            name="evicted_pages",
            meaning="what a block table may hold at pages of which a window hides every slot from every query token: "
            "the pages, one that no sequence owns, -1",
            choices=("kept", "null", "minus_one"),
            default={"kept"},
            several=True,
            sources={
                "kept": "FlashInfer, FlashAttention: whatever their caller has",
                "null": "vLLM v1/core/single_type_kv_cache_manager.py, SlidingWindowManager: its null block",
            },
        ),
        Convention(
            name="sm_scale_of_none",
            meaning="what sm_scale=None means: head_dim ** -0.5, or 1; undefined: then it is always given",
            choices=("undefined", "head_dim", "one"),
            default="undefined",
            sources={
                "head_dim": "FlashInfer, FlashAttention, torch's scaled_dot_product_attention, JAX's gqa",
                "one": "JAX's paged_attention, which has no such argument: q is scaled beforehand",
            },
        ),
        Convention(
            name="skipped_slots",
            meaning="append at slot -1: the token is skipped, or the call raises, or undefined (then never drawn)",
            choices=("skip", "raise", "undefined"),
            default="skip",
            bars={"skip": (2, 3)},
        ),
        Convention(
            name="slots_out_of_range",
            meaning="append below slot -1 or past the last slot: nothing is written, or the call raises, or undefined",
            choices=("drop", "raise", "undefined"),
            default="undefined",
            bars={"stray_slots": ("below", "beyond")},
        ),
        Convention(
            name="duplicate_slots",
            meaning="several tokens for one slot in one append: one of them stays whole, or the last one, or undefined",
            choices=("one", "last", "undefined"),
            default="undefined",
            bars={"stray_slots": ("twice",)},
        ),
        Convention(
            name="padding",
            meaning="padding of the slots that append writes: kept as it was, or undefined (some write zeros there)",
            choices=("kept", "undefined"),
            default="kept",
        ),
        Convention(
            name="page_moves",
            meaning="copy_pages whose sources and targets it copes with: apart, or pairs of pages that are swapped",
            choices=("apart", "swap"),
            default={"apart"},
            several=True,
        ),
        Convention(
            name="empty_rows",
            meaning="a sequence without keys: out 0 and lse as lse_of_empty says, or undefined (then never drawn)",
            choices=("zero", "undefined"),
            default="zero",
            bars={"empty_parts": ("some", "all")},
        ),
        Convention(
            name="invariances",
            meaning="what changes no bit of a row: its batch, the order of the heads, the number of splits, the layout",
            choices=("batch", "heads", "splits", "layouts"),
            default=set(),
            several=True,
        ),
        Convention(
            name="deterministic",
            meaning="the same call gives the same bits",
            choices=(True, False),
            default=True,
        ),
    )
}


def barred(conventions: Mapping[str, Any], axis: str, asked: bool) -> set[Any]:
    """Values of an axis that an adapter's choices keep from being drawn; `asked`: by a law that is about them."""
    closed = ("undefined",) if asked else ("undefined", "raise")
    rows = [row for name, row in CONVENTIONS.items() if not row.several and conventions[name] in closed]
    return {value for row in rows for value in row.bars.get(axis, ())}


def declared(conventions: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's choices, completed with the defaults."""
    found = {name: conventions.get(name, row.default) for name, row in CONVENTIONS.items()}
    for name, row in CONVENTIONS.items():
        if row.implies:
            found[name] = found[name] | {more for one in found[name] for more in row.implies.get(one, ())}
    return found
