"""The operations: what each one takes and returns, and which parts of a Case it looks at.

A row is the whole contract that adapters, strategies, the caller and the documentation read. Tensors are described by
axis names; an argument whose shape depends on the layout says `cache`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kvconform.specs.dtypes import DTYPES, PACKED
from kvconform.specs.features import FEATURES
from kvconform.specs.layouts import LAYOUTS, Layout

WORKSPACE = "workspace"
"""What an operation may be given besides memory for its results: bytes, as many as the adapter's WORKSPACE says."""

ROUNDED = ("float32", "float16", "bfloat16")
"""Dtypes in which arithmetic operations are specified: of q, and of results."""


NARROW = ("float8_e4m3fn", "float8_e5m2", "int8", "float4_e2m1fn", "uint4", "uint2")
"""Storage types of caches that attention reads and does not compute in."""

SCALES = ("k_scale", "v_scale")
"""Keywords of attention: what the numbers of a narrow cache are multiplied with (the Case's `kv_scales`)."""

_UNASKED: dict[str, Any] = {"strides": "contiguous", "pool": "dense"}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One function of an adapter.

    name         the function's name
    claim        what it must do, in one line
    arguments    names in order; those after `*` are keywords
    returns      names of the results
    holds        what the layouts it works on hold (specs/row.py)
    attends      whether only those of them whose tokens have a K and a V (specs/row.py, `attends`)
    paged        whether only those of them in which a sequence has as many pages as it needs
    only         storage types it is restricted to
    case_axes    fields of a Case that shape its inputs, beside op, layout, dtype, seed and family
    optional     keywords that are passed only where OFFERS lists them, with the value that silence means
    follows      keywords that are passed only where OFFERS lists an axis of another name, that axis
    hidden       keywords that are passed where the shapes of a cache do not tell them (specs/row.py, `hidden`)
    unasked      axes that keep to one value unless OFFERS lists them
    lends        keywords under which a caller may give memory to write into: results by name, and a workspace; passed
                 where OFFERS lists them under `into`
    rounds       whether it computes (verdict: bounded) or moves bytes (verdict: bitwise)
    appends      whether it is given the newest tokens, one of each query row, and writes them before it attends
    methods      of an operation that makes an object instead of results: method -> (arguments, results); a result that
                 is no array is a whole number
    """

    name: str
    claim: str
    arguments: tuple[str, ...]
    returns: tuple[str, ...]
    holds: str
    attends: bool = False
    paged: bool = False
    case_axes: tuple[str, ...]
    optional: Mapping[str, Any] = field(default_factory=dict)
    follows: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, str] = field(default_factory=dict)
    unasked: Mapping[str, Any] = field(default_factory=lambda: _UNASKED)
    lends: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rounds: bool = False
    appends: bool = False
    methods: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    @property
    def positional(self) -> tuple[str, ...]:
        """Arguments passed by position."""
        return self.arguments[: self.arguments.index("*")] if "*" in self.arguments else self.arguments

    @property
    def keywords(self) -> tuple[str, ...]:
        """Arguments passed by name."""
        return self.arguments[len(self.positional) + 1 :]

    @property
    def offered_axes(self) -> tuple[str, ...]:
        """The axes that an offer may bound: those of a Case, and how many sequences its lengths may be of."""
        return (*self.case_axes, *(("num_seqs",) if "kv_lens" in self.case_axes else ()))

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """Storage types it is specified for: what its layouts take, widest first."""
        taken = {dtype for row in self.layouts for dtype in row.dtypes if dtype in (self.only or row.dtypes)}
        return tuple(dtype for dtype in (*DTYPES, *PACKED) if dtype in taken)

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """The rows this operation is specified for."""
        return tuple(row for row in LAYOUTS.values() if row.holds == self.holds and self._takes(row))

    def _takes(self, row: Layout) -> bool:
        in_place = (not self.attends or all(row.attended)) and not (self.paged and row.contiguous)
        return bool(in_place) and (not self.only or bool(set(row.dtypes) & set(self.only)))


CODES = "code_pages"
"""What the layouts hold that keep codes of product quantisation."""

_CODEBOOK = ("num_subspaces", "sub_dim", "num_centroids", "q_dtype")
_CODED = ("page_size", "num_kv_heads", *_CODEBOOK, "kv_lens", "spare_pages", "capacity")
_TOLD = ("*", "layout", "dtype", "page_size", "num_subspaces")
_OF_CODES = {**_UNASKED, "q_dtype": ROUNDED[0]}

_PAGES = ("page_size", "num_kv_heads", "head_dim", "head_dim_v", "num_subspaces", "kv_lens", "spare_pages", "capacity")
_HIDDEN = {"num_kv_heads": "head", "head_dim": "dim", "head_dim_v": "dim_v", "page_size": "slot", "dtype": "dtype"}
_TABLE = ("spare_columns", "table_padding", "table_form", "index_dtype")
_OF_READS = {**_UNASKED, "table_form": "block_table"}

OPERATIONS: dict[str, Operation] = {
    op.name: op
    for op in (
        Operation(
            name="merge_kv",
            claim="K and V of each head become neighbouring rows: K0 V0 K1 V1 ...",
            arguments=("k", "v"),
            returns=("kv",),
            holds="tokens",
            case_axes=("num_tokens", "num_kv_heads", "head_dim", "strides"),
        ),
        Operation(
            name="extract_k",
            claim="The even rows of a fused tensor are K.",
            arguments=("kv",),
            returns=("k",),
            holds="tokens",
            case_axes=("num_tokens", "num_kv_heads", "head_dim", "strides"),
        ),
        Operation(
            name="extract_v",
            claim="The odd rows of a fused tensor are V.",
            arguments=("kv",),
            returns=("v",),
            holds="tokens",
            case_axes=("num_tokens", "num_kv_heads", "head_dim", "strides"),
        ),
        Operation(
            name="append",
            claim="Each token's K and V go to its slot; every other byte stays as it was; slot -1 skips the token.",
            arguments=("cache", "k", "v", "slot_mapping", "*", "layout"),
            returns=("cache",),
            holds="pages",
            hidden=_HIDDEN,
            case_axes=(*_PAGES, "index_dtype", "skip", "skip_from", "stray_slots", "page_ids", "pool", "strides"),
        ),
        Operation(
            name="gather",
            claim="The live tokens of every sequence, in order, sequence after sequence.",
            arguments=("cache", "block_table", "kv_lens", "*", "layout"),
            returns=("k", "v"),
            holds="pages",
            hidden=_HIDDEN,
            unasked=_OF_READS,
            lends=("k", "v"),
            case_axes=(*_PAGES, *_TABLE, "page_ids", "shared_pages", "shared_by", "pool", "strides", "buffers"),
        ),
        Operation(
            name="copy_pages",
            claim="Each target page holds what its source page held before the call; every other page stays as it was.",
            arguments=("cache", "page_mapping", "*", "layout"),
            returns=("cache",),
            holds="pages",
            case_axes=(*_PAGES, "index_dtype", "page_moves", "page_ids", "pool", "strides"),
        ),
        Operation(
            name="paged_decode",
            claim="Softmax attention of each sequence's newest tokens over its live keys, and its log-sum-exp.",
            arguments=(
                "q",
                "cache",
                "block_table",
                "kv_lens",
                "*",
                "layout",
                "sm_scale",
                "num_splits",
                *SCALES,
                *FEATURES,
            ),
            returns=("out", "lse"),
            holds="pages",
            attends=True,
            hidden=_HIDDEN,
            only=(*ROUNDED, *NARROW),
            optional={"num_splits": 1, **{name: row.off for name, row in FEATURES.items()}},
            follows=dict.fromkeys(SCALES, "kv_scales"),
            unasked=_OF_READS | {"dtype": {*ROUNDED}, "q_dtype": ROUNDED[0], "kv_scales": "none"},
            lends=("out", "lse", WORKSPACE),
            case_axes=(
                *(a for a in _PAGES if a != "num_subspaces"),
                "q_dtype",
                "kv_scales",
                *_TABLE,
                "evicted_pages",
                "group",
                "num_splits",
                "sm_scale",
                *FEATURES,
                "dead",
                "poison",
                "page_ids",
                "pool",
                "shared_pages",
                "shared_by",
                "strides",
                "buffers",
            ),
            rounds=True,
        ),
        Operation(
            name="append_decode",
            claim="The newest tokens' K and V go where the block table puts them; every other byte stays as it was. "
            "Softmax attention of each of them over its sequence's live keys, itself among them.",
            arguments=(
                *("q", "k", "v", "cache", "block_table", "kv_lens"),
                *("*", "layout", "sm_scale", "num_splits", *FEATURES),
            ),
            returns=("out", "lse", "cache"),
            holds="pages",
            attends=True,
            hidden=_HIDDEN,
            only=ROUNDED,
            unasked=_OF_READS,
            optional={"num_splits": 1, **{name: row.off for name, row in FEATURES.items()}},
            lends=("out", "lse", WORKSPACE),
            case_axes=(
                *(a for a in _PAGES if a != "num_subspaces"),
                *_TABLE,
                *("group", "num_splits", "sm_scale", *FEATURES),
                *("dead", "poison", "page_ids", "shared_pages", "shared_by", "strides", "buffers"),
            ),
            rounds=True,
            appends=True,
        ),
        Operation(
            name="merge_states",
            claim="Attention results over disjoint keys, weighted by exp(lse), become the result over all of them.",
            arguments=("outs", "lses"),
            returns=("out", "lse"),
            holds="splits",
            only=ROUNDED,
            lends=("out", "lse"),
            case_axes=(
                *("num_parts", "num_seqs", "num_kv_heads", "group", "head_dim", "empty_parts", "dead", "strides"),
                "buffers",
            ),
            rounds=True,
        ),
        Operation(
            name="pq_encode",
            claim="The nearest centroid of each subspace in L2, of several the lowest.",
            arguments=("x", "codebooks", "*", "dtype"),
            returns=("codes",),
            holds="codes",
            unasked=_OF_CODES,
            case_axes=("num_tokens", "num_kv_heads", *_CODEBOOK, "vectors", "strides"),
            rounds=True,
        ),
        Operation(
            name="pq_decode",
            claim="The centroids that codes name, side by side.",
            arguments=("codes", "codebooks", "*", "dtype"),
            returns=("x",),
            holds="codes",
            unasked=_OF_CODES,
            case_axes=("num_tokens", "num_kv_heads", *_CODEBOOK, "strides"),
        ),
        Operation(
            name="pq_append",
            claim="Each token's K and V are encoded and their codes go to their slots; every other bit stays as it "
            "was; slot -1 skips.",
            arguments=("cache", "k", "v", "k_codebooks", "v_codebooks", "slot_mapping", *_TOLD),
            returns=("cache",),
            holds=CODES,
            unasked=_OF_CODES,
            case_axes=(*_CODED, "index_dtype", "skip", "skip_from", "page_ids", "vectors", "strides"),
            rounds=True,
        ),
        Operation(
            name="pq_decode_attention",
            claim="Softmax attention of each sequence's newest token over its decoded codes and the tokens that are "
            "not quantised yet, and its log-sum-exp.",
            arguments=(
                *("q", "cache", "k_codebooks", "v_codebooks", "page_ids", "kv_lens"),
                *("residual_k", "residual_v", "residual_lens", *_TOLD, "sm_scale", "num_splits"),
            ),
            returns=("out", "lse"),
            holds=CODES,
            optional={"num_splits": 1},
            unasked=_OF_CODES,
            lends=("out", "lse"),
            case_axes=(
                *_CODED,
                *("codes", "residual", "spare_columns", "table_padding", "index_dtype", "group", "num_splits"),
                *("sm_scale", "dead", "poison", "page_ids", "strides", "buffers"),
            ),
            rounds=True,
        ),
        Operation(
            name="page_manager",
            claim="Gives out the pages of a pool, one owner each until it is shared, and takes them back.",
            arguments=("num_pages",),
            returns=(),
            methods={
                "allocate": ((), ("page",)),
                "share": (("page",), ()),
                "free": (("page",), ()),
                "num_free": ((), ("num_free",)),
            },
            holds=CODES,
            paged=True,
            only=("uint8",),
            case_axes=("num_pages", "history"),
        ),
        Operation(
            name="pq_cache",
            claim="A cache of several layers whose oldest tokens are in codes: when `residual` tokens are not, the "
            "oldest `moved` of them are encoded.",
            arguments=(
                *("k_codebooks", "v_codebooks", "*", "layout", "dtype", "page_size", "num_pages"),
                *("num_layers", "num_seqs", "num_kv_heads", "residual", "moved"),
            ),
            returns=(),
            methods={
                "append": (("layer", "k", "v"), ()),
                "attend": (("layer", "q", "sm_scale"), ("out", "lse")),
                "num_tokens": (("layer",), ("num_tokens",)),
                "num_coded": (("layer",), ("num_coded",)),
            },
            holds=CODES,
            paged=True,
            unasked=_OF_CODES,
            case_axes=(
                *("page_size", "num_pages", "num_layers", "num_seqs", "num_kv_heads", "group", *_CODEBOOK),
                *("residual", "moved", "sm_scale", "history"),
            ),
            rounds=True,
        ),
    )
}
