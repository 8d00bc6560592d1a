"""System 3, its speed: attention over pages of rows and over transposed ones, beside torch's over float16 keys.

Measured on a GPU or not at all. Kernels are called as an adapter's user calls them, on handles that are on the device;
a time is void unless the result it was taken on lies within the adapter's own bound. Bytes are those that have to be
read once, and a copy in the same run says what the memory can do.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import cycle, product
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

from kvconform.claims.claim import NOT_MEASURED, REFUTED, Claim, Figure, Judged, settled
from kvconform.oracles.bound import attention_bound
from kvconform.oracles.rounding import admissible
from kvconform.specs.data import Array
from kvconform.specs.profile import profile_of

OP = "pq_decode_attention"
ROWS, COLUMNS, SDPA = "pq_rows", "pq_columns", "scaled_dot_product_attention"
ADAPTERS = ("cuda", "triton_ref")
NO_DEVICE = ("emulated", "interpreted", "eager")
"""Modes that an adapter attests to where its kernels run on the host."""

CONTEXTS = tuple(1 << n for n in range(11, 18))
"""2 K to 128 K."""

STATED = 1 << 15
"""The context that the claims are about."""

ROUNDS = 5


@dataclass(frozen=True)
class Geometry:
    """One layer of one sequence, as published.

    least       seconds that a clocked batch of calls takes at least
    copied      bytes of the copy
    spread      bytes that calls go through before they come back to the same: more than a GPU's caches hold
    """

    num_kv_heads: int = 8
    group: int = 4
    num_subspaces: int = 64
    sub_dim: int = 2
    num_centroids: int = 256
    page_size: int = 64
    residual: int = 64
    num_splits: int = 32
    least: float = 0.05
    copied: int = 1 << 30
    spread: int = 1 << 28

    @property
    def head_dim(self) -> int:
        """Numbers of a head."""
        return self.num_subspaces * self.sub_dim

    @property
    def sm_scale(self) -> float:
        """head_dim ** -0.5."""
        return float(self.head_dim**-0.5)

    def coded_bytes(self, context: int) -> int:
        """Of K and V: codes, codebooks and unquantised tokens, all read once."""
        tokens = 2 * self.residual * self.num_kv_heads * self.head_dim * 2
        return 2 * context * self.num_kv_heads * self.num_subspaces + 4 * self.num_centroids * self.head_dim + tokens

    def turns(self, num_bytes: int) -> int:
        """Copies of so many bytes that calls take in turn."""
        return max(1, -(-self.spread // num_bytes))

    def plain_bytes(self, context: int) -> int:
        """Of the same tokens in float16."""
        return 4 * (context + self.residual) * self.num_kv_heads * self.head_dim


@dataclass(frozen=True)
class Measured:
    """One adapter, in one run.

    copied        bytes a second, read and written, of a copy
    seconds       context -> layout, or SDPA -> of a call
    transposing   seconds that appending a page of 64 tokens to transposed pages takes longer than to rows; None where
                  it offers no pq_append
    void          why its times are worth nothing, or nothing
    """

    impl: str
    device: str
    geometry: Geometry
    copied: float
    seconds: Mapping[int, Mapping[str, float]]
    transposing: float | None = None
    void: str = ""

    def share_of_copy(self, context: int, layout: str) -> float:
        """Bytes a second that a call reads, over a copy's."""
        moved = self.geometry.plain_bytes if layout == SDPA else self.geometry.coded_bytes
        return moved(context) / self.seconds[context][layout] / self.copied

    def faster(self, context: int, layout: str = COLUMNS) -> float:
        """How many times as fast as SDPA."""
        return self.seconds[context][SDPA] / self.seconds[context][layout]

    def figures(self) -> dict[str, Figure]:
        """Every time, and what it means beside the copy."""
        found = {f"{self.impl}: a copy": Figure(self.copied * 1e-9, f"GB a second, read and written, {self.device}")}
        for context, layout in product(self.seconds, (ROWS, COLUMNS, SDPA)):
            took, moved = self.seconds[context][layout], 100 * self.share_of_copy(context, layout)
            found[f"{self.impl}: {layout}, {context} tokens"] = Figure(
                f"{1e6 * took:.4g}", f"us; {moved:.3g} % of a copy"
            )
        if self.transposing is not None:
            name = f"{self.impl}: a page to {COLUMNS} beyond one to {ROWS}"
            found[name] = Figure(1e3 * self.transposing, "ms")
        return found


# --- measuring


@dataclass(frozen=True)
class Layer:
    """Arguments of the calls, of one seed, on the host.

    pools       layout -> the same codes in pages
    centroids   of K and of V
    """

    geometry: Geometry
    context: int
    seed: int
    q: Array = field(init=False)
    centroids: tuple[Array, Array] = field(init=False)
    residual: tuple[Array, Array] = field(init=False)
    codes: tuple[Array, Array] = field(init=False)
    page_ids: Array = field(init=False)

    def __post_init__(self) -> None:
        of, rng = self.geometry, np.random.default_rng(self.seed)
        pages = self.context // of.page_size

        def numbers(*shape: int) -> Array:
            return rng.standard_normal(shape, np.float32).astype(np.float16)

        drawn = {
            "q": numbers(1, of.num_kv_heads * of.group, of.head_dim),
            "centroids": tuple(numbers(of.num_subspaces, of.num_centroids, of.sub_dim) for _ in "kv"),
            "residual": tuple(numbers(1, of.residual, of.num_kv_heads, of.head_dim) for _ in "kv"),
            "codes": tuple(
                rng.integers(0, of.num_centroids, (pages * of.num_kv_heads, of.page_size, of.num_subspaces), np.uint8)
                for _ in "kv"
            ),
            "page_ids": rng.permutation(pages * of.num_kv_heads).astype(np.int32).reshape(1, of.num_kv_heads, pages),
        }
        for name, value in drawn.items():
            object.__setattr__(self, name, value)

    def pools(self, layout: str) -> dict[str, Array]:
        """The pages, those of V transposed where the layout has them so."""
        k, v = self.codes
        return {"k": k.copy(), "v": np.ascontiguousarray(v.swapaxes(1, 2)) if layout == COLUMNS else v.copy()}

    def told(self, layout: str) -> dict[str, Any]:
        """What is told with every call."""
        of = self.geometry
        return {"layout": layout, "dtype": "uint8", "page_size": of.page_size, "num_subspaces": of.num_subspaces}

    def attended(self, layout: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of attention."""
        of = self.geometry
        lens = (np.array([n], np.int32) for n in (self.context, of.residual))
        pages = [self.page_ids, next(lens)]
        given = [self.q, self.pools(layout), *self.centroids, *pages, *self.residual, next(lens)]
        return given, {**self.told(layout), "sm_scale": of.sm_scale, "num_splits": of.num_splits}

    def appended(self, layout: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of appending a page of tokens to the first page of each head."""
        of = self.geometry
        first = self.page_ids[0, :, 0].astype(np.int64) * of.page_size
        mapping = (first[None] + np.arange(of.page_size)[:, None]).astype(np.int32)
        rng = np.random.default_rng(self.seed + 1)
        k, v = (
            rng.standard_normal((of.page_size, of.num_kv_heads, of.head_dim), np.float32).astype(np.float16)
            for _ in "kv"
        )
        return [self.pools(layout), k, v, *self.centroids, mapping], self.told(layout)

    def decoded(self, side: int, head: int) -> Array:
        """float64 [tokens, head_dim] of one kv head, unquantised tokens last."""
        of, book = self.geometry, self.centroids[side].astype(np.float64)
        codes = self.codes[side][self.page_ids[0, head]].reshape(-1, of.num_subspaces)
        coded = book[np.arange(of.num_subspaces), codes].reshape(-1, of.head_dim)
        return np.concatenate([coded, self.residual[side][0, :, head].astype(np.float64)])


def measure(
    adapter: ModuleType,
    contexts: Sequence[int] = CONTEXTS,
    geometry: Geometry | None = None,
    seed: int = 0,
    device: str = "",
) -> Measured:
    """Time attention of one adapter in both layouts, torch's beside it, and a copy."""
    from kvconform.impls.torch_kernels import beside
    from kvconform.impls.torch_kernels.handles import synchronize

    of = geometry or Geometry()
    own = getattr(adapter, "synchronize", lambda handles: handles)

    def wait(result: Any) -> Any:
        return synchronize(own(result))

    copied = 2 * of.copied / clocked(beside.copy(of.copied), synchronize, of.least)
    seconds: dict[int, dict[str, float]] = {}
    void = ""
    for context in contexts:
        heads, turns = (of.num_kv_heads, of.group, of.head_dim), of.turns(of.plain_bytes(context))
        of_torch = beside.attention(context + of.residual, *heads, of.sm_scale, seed, turns)
        layer, seconds[context] = Layer(of, context, seed), {SDPA: clocked(of_torch, synchronize, of.least)}
        for layout in (ROWS, COLUMNS):
            call = _ready(adapter, OP, *layer.attended(layout), of.turns(of.coded_bytes(context)))
            out, _ = _on_host(adapter, wait(call()))
            void = void or _void(adapter, layer, layout, out)
            seconds[context][layout] = clocked(call, wait, of.least)
    transposing = None
    if "pq_append" in adapter.OFFERS:
        layer = Layer(of, contexts[0], seed)
        rows, columns = (
            clocked(_ready(adapter, "pq_append", *layer.appended(layout)), wait, of.least) for layout in (ROWS, COLUMNS)
        )
        transposing = columns - rows
    return Measured(adapter.NAME, device, of, copied, seconds, transposing, void)


def clocked(call: Callable[[], Any], wait: Callable[[Any], Any], least: float) -> float:
    """Seconds of one call: the median of batches, each as long as `least`, started together and waited for."""
    wait(call())

    def batch(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        wait(result)
        return time.perf_counter() - start

    calls = 1
    while batch(calls) < least:
        calls *= 2
    return median(batch(calls) for _ in range(ROUNDS)) / calls


def _ready(adapter: ModuleType, op: str, given: list[Any], told: dict[str, Any], turns: int = 1) -> Callable[[], Any]:
    """A call on handles; one after another takes the next of so many sets of them."""
    to_device = getattr(adapter, "to_device", lambda array: array)

    def placed(value: Any) -> Any:
        return {name: to_device(one) for name, one in value.items()} if isinstance(value, dict) else to_device(value)

    handles = cycle([[placed(value) for value in given] for _ in range(turns)])
    function = getattr(adapter, op)
    return lambda: function(*next(handles), **told)


def _on_host(adapter: ModuleType, results: Sequence[Any]) -> list[Array]:
    return [getattr(adapter, "to_host", lambda array: array)(one) for one in results]


def _void(adapter: ModuleType, layer: Layer, layout: str, out: Array) -> str:
    """Nothing, or what is wrong with the result for the first kv head."""
    of = layer.geometry
    profile = replace(profile_of(adapter.ARITHMETIC, "float16"), out_format="float16", splits=of.num_splits + 1)
    rows = layer.q[0, : of.group]
    want = attention_bound(rows, layer.decoded(0, 0), layer.decoded(1, 0), of.sm_scale, profile)
    wrong = int((~admissible(out[0, : of.group], want.out, want.out_error, "float16")).sum())
    where = f"{layout} at {layer.context} tokens"
    return f"{wrong} of {want.out.size} numbers of {where} are outside the derived bound" if wrong else ""


@lru_cache(maxsize=1)
def measured_here(seed: int) -> list[Measured] | str:
    """What this machine's GPU says, or why nothing is measured."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed, and attention is timed beside torch's"
    from kvconform.impls.torch_kernels import beside

    if not (device := beside.gpu()):
        return "there is no GPU here"
    found, why = [], []
    for name in ADAPTERS:
        try:
            adapter = importlib.import_module(f"kvconform.impls.{name}")
        except ImportError as e:
            why.append(f"{name} cannot be imported: {e}")
            continue
        if not {ROWS, COLUMNS} <= _layouts(adapter):
            why.append(f"{name} does not offer {OP} over {ROWS} and {COLUMNS}")
            continue
        if (mode := adapter.attest().get("mode")) in NO_DEVICE:
            why.append(f"{name} is {mode}")
            continue
        one = measure(adapter, seed=seed, device=device)
        if one.void:
            why.append(f"{name}'s times are void: {one.void}")
        else:
            found.append(one)
    return found or "; ".join(why)


def _layouts(adapter: ModuleType) -> set[str]:
    offer = adapter.OFFERS.get(OP)
    return set() if offer is None else set(offer.get("layout", (ROWS, COLUMNS)))


# --- claims

Found = Sequence[Measured] | str


def _not_measured(why: str, figures: dict[str, Figure]) -> Judged:
    return Judged(NOT_MEASURED, figures, f"It is a claim about a GPU: {why}.")


def _all(found: Sequence[Measured]) -> dict[str, Figure]:
    return {name: figure for one in found for name, figure in one.figures().items()}


def transposed_pages_use_95_percent(seed: int, found: Found | None = None) -> Judged:
    """Bytes a second at 32 K tokens over those of a copy, in both layouts."""
    found = measured_here(seed) if found is None else found
    if isinstance(found, str):
        return _not_measured(found, {"achieved over a copy's bandwidth": Figure(NOT_MEASURED)})
    shares = {one.impl: [100 * one.share_of_copy(STATED, layout) for layout in (ROWS, COLUMNS)] for one in found}
    return Judged(
        settled(any(round(rows) <= 60 and round(columns) >= 95 for rows, columns in shares.values())),
        {
            **{
                f"{name}: rows against transposed": Figure(f"{a:.3g} against {b:.3g}", "% of a copy, 32 K")
                for name, (a, b) in shares.items()
            },
            **_all(found),
        },
        "Holds where a kernel that reads rows reaches 60 % of a copy's bandwidth at most and the same over transposed "
        "pages at least 95 %; bytes are codes, codebooks and unquantised tokens, read once.",
    )


def transposition_takes_half_a_ms(seed: int, found: Found | None = None) -> Judged:
    """How much longer appending a page takes if its V is transposed."""
    found = measured_here(seed) if found is None else found
    if isinstance(found, str):
        return _not_measured(found, {"transposing a page": Figure(NOT_MEASURED)})
    took = {one.impl: 1e3 * one.transposing for one in found if one.transposing is not None}
    if not took:
        return _not_measured("no adapter that offers attention offers pq_append", {"transposing": Figure(NOT_MEASURED)})
    return Judged(
        settled(any(round(one, 1) == 0.5 for one in took.values())),
        {f"{name}: a page of 64 tokens, 8 heads": Figure(one, "ms more than to rows") for name, one in took.items()},
        "Time of pq_append to transposed pages less the time to pages of rows; holds where it is 0.5 ms to one digit.",
    )


def end_to_end_is_2_09_times_as_fast(seed: int, found: Found | None = None) -> Judged:
    """Attention at 32 K tokens: what a decoding step as a whole cannot exceed."""
    found = measured_here(seed) if found is None else found
    of = Geometry()
    by_bytes = of.plain_bytes(STATED) / of.coded_bytes(STATED)
    derived = {
        "bytes of float16 over those of codes, at 32 K": Figure(by_bytes, "times: attention's limit by bandwidth")
    }
    if isinstance(found, str):
        return _not_measured(found, {"attention over scaled_dot_product_attention": Figure(NOT_MEASURED), **derived})
    best = max(one.faster(STATED) for one in found)
    best = max(best, *(one.faster(STATED, ROWS) for one in found))
    return Judged(
        REFUTED if best < 2.09 else NOT_MEASURED,
        {
            "attention over scaled_dot_product_attention, at best": Figure(best, "times as fast"),
            **derived,
            **_all(found),
        },
        "Attention itself gains less, and whatever else a step does takes as long as before: these kernels cannot "
        "reach it."
        if best < 2.09
        else "Attention alone gains that much; a step of a whole model, of which it is a part, is not run here.",
    )


def transposed_is_2_5_to_3_times_as_fast(seed: int, found: Found | None = None) -> Judged:
    """Attention over transposed pages at 32 K tokens against torch's over float16."""
    found = measured_here(seed) if found is None else found
    implied = {"what 2.09 times at 60 % makes at 95 %": Figure(2.09 * 95 / 60, "times, were all of it bandwidth")}
    if isinstance(found, str):
        return _not_measured(found, {"transposed over scaled_dot_product_attention": Figure(NOT_MEASURED), **implied})
    faster = {one.impl: one.faster(STATED) for one in found}
    return Judged(
        settled(any(one >= 2.5 for one in faster.values())),
        {
            **{
                f"{name}: over scaled_dot_product_attention": Figure(one, "times as fast, 32 K")
                for name, one in faster.items()
            },
            **implied,
            **_all(found),
        },
        "Attention over transposed pages against torch's over float16 keys in the same run; holds from 2.5 times on.",
    )


CLAIMS = (
    Claim(
        "transposed_pages_use_95_percent",
        3,
        "pages of rows use 60 % of the memory's bandwidth, transposed ones 95 %",
        transposed_pages_use_95_percent,
        by_device=True,
    ),
    Claim(
        "transposition_takes_half_a_ms",
        3,
        "transposing a page takes about 0.5 ms",
        transposition_takes_half_a_ms,
        by_device=True,
    ),
    Claim(
        "end_to_end_is_2_09_times_as_fast",
        3,
        "decoding is 2.09 times as fast end to end at a context of 32 K",
        end_to_end_is_2_09_times_as_fast,
        by_device=True,
    ),
    Claim(
        "transposed_is_2_5_to_3_times_as_fast",
        3,
        "transposed pages make it 2.5 to 3.0 times as fast, in theory",
        transposed_is_2_5_to_3_times_as_fast,
        by_device=True,
    ),
)
