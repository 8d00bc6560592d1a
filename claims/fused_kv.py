"""System 1: K and V of each head fused into neighbouring rows, as tpu-inference's attention v3 wants them.

Data movement, so verdicts are bit for bit. Where rows have to be told apart, each element holds a number of its own
(`numbered`), and padding holds 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Protocol

import numpy as np

from kvconform.claims.claim import NOT_TESTABLE, Claim, Figure, Judged, settled, share
from kvconform.impls import numpy_ref
from kvconform.oracles import fused
from kvconform.oracles.verdict import Exact, by_axes
from kvconform.specs.case import Case
from kvconform.specs.compare import RESHAPED, compare, indices, slices, spelled
from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.fused import FusedInputs
from kvconform.specs.layouts import LAYOUTS, SIDE_NAMES, SIDES, K, Layout, V

Merge = Callable[[Array, Array], Array]
Extract = Callable[[Array], Array]
Pad = Callable[[Array, int], Array]
Join = Callable[[list[Array]], Array]

MERGE: Merge = numpy_ref.merge_kv

LANES = 128
"""Elements in one row of a TPU tile; v3 pads head_dim to a multiple."""

PACKINGS = (1, 2, 4, 8)
"""Elements that share 32 bits, for types of 32, 16, 8 and 4 bits; v3 pads the rows of a token to a multiple."""

CONCATENATED = replace(LAYOUTS["beside_nhd"], dtypes=LAYOUTS["interleaved"].dtypes)
"""The pool's form before v3, [.., num_kv_heads, 2 * head_dim]: K and V of a head side by side."""


class Fuses(Protocol):
    """The part of an adapter that this system is about."""

    def merge_kv(self, k: Array, v: Array) -> Array:
        """[tokens, heads, dim] twice -> [tokens, 2 * heads, dim]."""
        ...

    def extract_k(self, kv: Array) -> Array:
        """K of a fused tensor."""
        ...

    def extract_v(self, kv: Array) -> Array:
        """V of a fused tensor."""
        ...


# --- merge and extract


def roundtrip_is_exact(seed: int, impl: Fuses = numpy_ref) -> Judged:
    """Every bit pattern of 8- and 16-bit types, and sampled ones of float32, through merge_kv and back."""
    patterns: Counter[int] = Counter()
    looked = changed = misplaced = by_oracle = 0
    for case in _roundtrip_cases(seed):
        x = FusedInputs(case)
        patterns[8 * x.sides[K].dtype.itemsize] += len(np.unique(_bits(x.sides[K])))
        kv, right = impl.merge_kv(*x.sides), fused.merged(x)
        back = (impl.extract_k(kv), impl.extract_v(kv))
        looked += right.size
        misplaced += _unlike(kv, right)
        changed += sum(_unlike(back[side], x.sides[side]) for side in SIDES)
        by_oracle += sum(_unlike(fused.extracted(x, right, side), x.sides[side]) for side in SIDES)
    widths = Counter(8 * dtype.itemsize for dtype in DTYPES.values())
    return Judged(
        settled(changed == misplaced == by_oracle == 0),
        {
            "changed on the way there and back": share(changed, looked, "elements"),
            "not where the row's address says": share(misplaced, looked, "elements"),
            "changed by the oracle, there and back": share(by_oracle, looked, "elements"),
            **{
                f"patterns of {width}-bit types": share(patterns[width], widths[width] * 2**width, "bit patterns")
                for width in (8, 16)
            },
            "patterns of float32, sampled": Figure(patterns[32], "bit patterns"),
        },
        "extract_k and extract_v of merge_kv(k, v) are compared with k and v bit for bit, and the fused tensor with "
        "the row's own addresses; K and V hold every bit pattern of each 8- and 16-bit type, NaN payloads included.",
    )


def _roundtrip_cases(seed: int) -> Iterator[Case]:
    heads, dim = 3, 16
    for name, dtype in DTYPES.items():
        width = 8 * dtype.itemsize
        family, tokens = ("patterns", -(-(2**width) // (heads * dim))) if width <= 16 else ("bits", 2048)
        yield Case(
            op="merge_kv",
            layout="fused",
            dtype=name,
            seed=seed,
            family=family,
            num_tokens=tokens,
            num_kv_heads=heads,
            head_dim=dim,
        )


def fused_rows_alternate(seed: int, merge: Merge = MERGE) -> Judged:
    """Where each head's K and V land."""
    right, rows, order = 0, 0, ""
    for heads in range(1, 9):
        sides = numbered(2, heads, 3)
        kv = merge(*sides)
        right += sum(np.array_equal(kv[:, 2 * h + side], sides[side][:, h]) for h in range(heads) for side in SIDES)
        rows += 2 * heads
        if heads == 3:
            order = " ".join(_name_of(kv[:, row], sides) for row in range(kv.shape[1]))
    return Judged(
        settled(right == rows),
        {"rows in place": share(right, rows, "rows of 1 to 8 heads"), "rows of 3 heads": Figure(order)},
        "Every element has a number of its own, so each row of the fused tensor is recognised.",
    )


def extract_takes_every_other_row(
    seed: int, extract_k: Extract = numpy_ref.extract_k, extract_v: Extract = numpy_ref.extract_v
) -> Judged:
    """Which rows of a fused tensor come back."""
    right = tried = 0
    for heads in range(1, 9):
        kv = np.arange(2 * 2 * heads * 3).reshape(2, 2 * heads, 3)
        for side, extract in enumerate((extract_k, extract_v)):
            got, rows = extract(kv), range(side, 2 * heads, 2)
            tried += heads
            if got.shape == (2, heads, 3):
                right += sum(np.array_equal(got[:, head], kv[:, row]) for head, row in enumerate(rows))
    return Judged(
        settled(right == tried),
        {"heads read from their row": share(right, tried, "heads")},
        "Rows 0, 2, 4, ... must come back as K and rows 1, 3, 5, ... as V, of 1 to 8 heads.",
    )


# --- shapes


def cache_buffer_shape(seed: int, merge: Merge = MERGE) -> Judged:
    """The pool's buffer against the shape and size that are claimed, and against what v3 itself pads it to."""
    right = unpadded = tried = 0
    for size, heads, dim, packing in product((1, 16), (1, 2, 3, 8), (64, 72, 128, 256), PACKINGS):
        kv = merge(*numbered(size, heads, dim))
        by_row = LAYOUTS["fused"].shape("kv", {"token": size, "head": heads, "dim": dim}, "float32")
        tried += 1
        right += kv.shape == (size, 2 * heads, dim) == by_row
        unpadded += padded(kv, packing).size == kv.size
    return Judged(
        settled(right == tried),
        {
            "shapes as claimed": share(right, tried, "geometries"),
            "of them, v3 itself adds no padding": share(unpadded, tried, "geometries"),
        },
        "`size` fused tokens have the claimed shape; v3's own buffer, whose rows are padded to 32 / bits and lanes to "
        "128, has as many elements only where both are whole already.",
    )


def double_buffer_shape(seed: int, allocated: Callable[[int, int, int, int], tuple[int, ...]] | None = None) -> Judged:
    """The kernel's double buffer; `allocated`, where one can ask, says its shape of (pages, page_size, heads, dim)."""
    row, whole, agree, tried = LAYOUTS["interleaved"], 0, 0, 0
    for pages, page_size, heads, dim in product((1, 4), (1, 16), (1, 2, 3), (64, 128)):
        sizes = {"page": pages, "slot": page_size, "head": heads, "dim": dim}
        by_page = np.concatenate([_offsets(row, side, sizes).reshape(pages, -1) for side in SIDES], axis=1)
        tried += 1
        whole += np.array_equal(np.sort(by_page), np.arange(by_page.size).reshape(pages, -1))
        if allocated:
            agree += allocated(pages, page_size, heads, dim) == (2, pages, page_size, 2 * heads, dim)
    figures = {"each page is one piece of memory, fit for one copy": share(whole, tried, "geometries")}
    if not allocated:
        return Judged(
            NOT_TESTABLE,
            figures,
            "A kernel allocates this buffer in a TPU's VMEM, where only that kernel sees it, and the v3 kernel is not "
            "part of this suite. What can be computed: a page of the pool is one piece and fills one page of it.",
        )
    return Judged(
        settled(agree == tried),
        {"buffers as claimed": share(agree, tried, "geometries"), **figures},
        "The shape that the kernel allocated against [2, pages, page_size, 2 * num_kv_heads, head_dim].",
    )


# --- against the form before it


def interleaving_is_incompatible(seed: int, other: Layout = CONCATENATED) -> Judged:
    """Compare the two rows element by element, then say what does differ: slices, cuts of the heads, padding."""
    row, found = LAYOUTS["interleaved"], []
    for dtype, page_size, heads, dim in product(DTYPES, (1, 3), (1, 2, 3, 8), (1, 24, 64)):
        found.append(compare(row, other, {"page": 2, "slot": page_size, "head": heads, "dim": dim}, dtype))
    same = sum(one.same_bytes for one in found)
    first = next((one for one in found if one.first), None)
    figures = {
        "same bytes": share(same, len(found), "geometries and dtypes"),
        "elements at the same address": share(
            sum(one.num_elements - one.num_differing for one in found),
            sum(one.num_elements for one in found),
            "elements",
        ),
        **({"first that differs": Figure(str(first.first))} if first else {}),
        "same shape": share(
            sum(one.same_bytes and one.relation != RESHAPED for one in found), len(found), "geometries and dtypes"
        ),
        **_what_differs(row, other),
    }
    return Judged(
        settled(same < len(found)),
        figures,
        "They are the same bytes under another shape: a reshape turns one into the other and moves nothing. What does "
        "differ is the slice that selects K, where the axis of the heads may be cut for sharding, and what padding to "
        "whole tiles makes of either shape."
        if same == len(found)
        else "The two rows put elements in different places, so a buffer of one cannot be read as the other.",
    )


def _what_differs(row: Layout, other: Layout) -> dict[str, Figure]:
    sizes, dtype = {"page": 2, "slot": 3, "head": 8, "dim": 64}, "int8"
    rows, packing = (row, other), 4
    selected = [slices(one, one.parts[K], sizes, dtype) for one in rows]
    shapes = [one.shape(one.buffers[0], sizes, dtype) for one in rows]
    spelt = [spelled(s, shape) if s else "no slice" for s, shape in zip(selected, shapes, strict=True)]
    cuts = [_whole_cuts(one, sizes, dtype) for one in rows]
    stored = [padded(np.zeros((1, *shape[2:])), packing).size for shape in shapes if len(shape) == 4]
    equal, tried = _padded_agree()
    return {
        "K of 8 heads of 64": Figure(" against ".join(spelt)),
        "cuts that keep K and V of a head together": Figure(" against ".join(f"{a} of {b}" for a, b in cuts), "cuts"),
        "a token of 8 heads of 64, padded to 4 x 128": Figure(" against ".join(map(str, stored)), "8-bit elements"),
        "v3's padded rows still hold the bytes of the concatenation": share(equal, tried, "geometries"),
    }


def _whole_cuts(row: Layout, sizes: dict[str, int], dtype: str) -> tuple[int, int]:
    """Cuts of the dimension along which heads lie: those that part no head's K from its V; all of them."""
    head = row.axes.index("head")
    places = [np.moveaxis(np.stack(indices(row, row.parts[side], sizes, dtype)), head + 1, 1) for side in SIDES]
    along = next(d for d in range(len(places[K])) if (places[K][d, 0] != places[K][d, -1]).all())
    by_head = np.concatenate([p[along].reshape(sizes["head"], -1) for p in places], axis=1)
    low, high = by_head.min(1), by_head.max(1)
    cuts = range(1, row.shape(row.buffers[0], sizes, dtype)[along])
    return sum(bool(((high < cut) | (low >= cut)).all()) for cut in cuts), len(cuts)


def _padded_agree() -> tuple[int, int]:
    """Geometries in which v3's padded rows and the unpadded concatenation are the same bytes; all that were tried."""
    equal = tried = 0
    for heads, dim, packing in product((1, 2, 3, 4, 8), (64, 72, 128, 256), PACKINGS):
        k, v = numbered(2, heads, dim)
        tried += 1
        equal += padded(MERGE(k, v), packing).tobytes() == np.concatenate([k, v], axis=-1).tobytes()
    return equal, tried


# --- sharding the heads


def sharding_commutes_with_interleaving(seed: int, merge: Merge = MERGE) -> Judged:
    """Fuse the shards and join them, against fusing all: every way of cutting 1 to 7 heads, every dtype."""
    agree = tried = looked = 0
    for dtype, heads in product(DTYPES, range(1, 8)):
        case = Case(
            op="merge_kv",
            layout="fused",
            dtype=dtype,
            seed=seed,
            family="bits",
            num_tokens=3,
            num_kv_heads=heads,
            head_dim=5,
        )
        k, v = FusedInputs(case).sides
        whole = merge(k, v)
        for ends in _compositions(heads):
            joined = np.concatenate([merge(k[:, a:b], v[:, a:b]) for a, b in zip((0, *ends), ends, strict=False)], 1)
            tried += 1
            looked += whole.size
            agree += joined.shape == whole.shape and not _unlike(joined, whole)
    return Judged(
        settled(agree == tried),
        {"shardings that agree bit for bit": share(agree, tried, "shardings"), "compared": Figure(looked, "elements")},
        "All ways of cutting 1 to 7 heads into shards, uneven ones included, in every dtype, without padding.",
    )


def padding_a_shard_breaks_sharding(
    seed: int, pad: Pad | None = None, join: Join = lambda shards: np.concatenate(shards, axis=1)
) -> Judged:
    """Pad each shard and join, against padding the whole; `pad` maps (fused rows, packing) to its stored form.

    Three kinds of geometry: rows added to a shard, lanes only, nothing.
    """
    pad = pad or padded
    tried: Counter[str] = Counter()
    agree: Counter[str] = Counter()
    adding: set[int] = set()
    misread = heads_read = 0
    for packing, dim, heads, shards in product(PACKINGS, (64, 72, 128), (1, 2, 3, 4), (2, 3, 4)):
        k, v = numbered(2, heads * shards, dim)
        cuts = [slice(i * heads, (i + 1) * heads) for i in range(shards)]
        parts = [pad(MERGE(k[:, cut], v[:, cut]), packing) for cut in cuts]
        whole, joined = pad(MERGE(k, v), packing), join(parts)
        rows, lanes = math.prod(parts[0].shape[1:-1]), parts[0].shape[-1]
        kind = "rows" if rows > 2 * heads else "lanes" if lanes > dim else "nothing"
        tried[kind] += 1
        agree[kind] += np.array_equal(joined, whole)
        if kind == "rows":
            read = joined.reshape(2, -1, lanes)[:, : 2 * heads * shards : 2, :dim]
            misread += sum(not np.array_equal(read[:, h], k[:, h]) for h in range(heads * shards))
            heads_read += heads * shards
            adding.add(packing)
    figures = {
        "rows padded: joined shards equal the padded whole": share(agree["rows"], tried["rows"], "geometries"),
        "lanes padded only: the same": share(agree["lanes"], tried["lanes"], "geometries"),
        "nothing padded: the same": share(agree["nothing"], tried["nothing"], "geometries"),
        "packings that add rows": Figure(", ".join(map(str, sorted(adding))) or "none", "elements in 32 bits"),
        "heads that rows 0::2 of the joined array misread": share(misread, heads_read, "heads"),
    }
    explanation = (
        "Shards whose rows are padded leave holes inside the joined array, so it has to be taken apart shard by shard; "
        "padded lanes do no harm. A token has 2 * num_kv_heads rows, an even number, so a packing of 1 or 2 adds none."
    )
    if not tried["rows"]:
        return Judged(NOT_TESTABLE, figures, "No shard had rows added, so there was nothing to see.")
    return Judged(settled(agree["rows"] == 0), figures, explanation)


# --- what the judges build on


def numbered(tokens: int, heads: int, dim: int) -> tuple[Array, Array]:
    """K and V [tokens, heads, dim] in which no number occurs twice, and 0 never."""
    both = 1 + np.arange(2 * tokens * heads * dim, dtype=np.int32).reshape(2, tokens, heads, dim)
    return both[K], both[V]


def padded(rows: Array, packing: int) -> Array:
    """Fused rows [tokens, rows, dim] as v3 stores them, zeros added: [tokens, rows / packing, packing, lanes]."""
    tokens, num_rows, dim = rows.shape
    stored = np.zeros((tokens, _aligned(num_rows, packing), _aligned(dim, LANES)), rows.dtype)
    stored[:, :num_rows, :dim] = rows
    return stored.reshape(tokens, -1, packing, stored.shape[-1])


def _aligned(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _compositions(heads: int) -> Iterator[tuple[int, ...]]:
    """Every way of cutting heads into shards, as the head at which each shard ends."""
    for cuts in range(2 ** (heads - 1)):
        yield (*(i + 1 for i in range(heads - 1) if cuts >> i & 1), heads)


def _bits(array: Array) -> Array:
    return array.view(f"uint{8 * array.dtype.itemsize}")


def _unlike(got: Array, want: Array) -> int:
    """Elements that differ in a bit."""
    return int(Exact(want, by_axes("token", "row", "dim")).unmet(got).sum()) if got.shape == want.shape else want.size


def _name_of(row: Array, sides: tuple[Array, Array]) -> str:
    """`K0`, `V2`, ...: whose numbers a fused row holds."""
    for side, head in product(SIDES, range(sides[K].shape[1])):
        if np.array_equal(row, sides[side][:, head]):
            return f"{SIDE_NAMES[side].upper()}{head}"
    return "?"


def _offsets(row: Layout, side: int, sizes: dict[str, int]) -> Array:
    """Element offset of every element of K or V, in the shape of the logical axes."""
    shape = row.shape(row.buffers[0], sizes, "int8")
    return np.asarray(np.ravel_multi_index(indices(row, row.parts[side], sizes, "int8"), shape))


CLAIMS = (
    Claim(
        "roundtrip_is_exact",
        1,
        "extract_k and extract_v give back exactly what merge_kv fused",
        roundtrip_is_exact,
    ),
    Claim(
        "fused_rows_alternate",
        1,
        "merge_kv concatenates k and v on the last axis and reshapes; the fused rows read K0, V0, K1, V1, ...",
        fused_rows_alternate,
    ),
    Claim(
        "extract_takes_every_other_row",
        1,
        "extract_k takes rows 0::2, extract_v takes rows 1::2",
        extract_takes_every_other_row,
    ),
    Claim("cache_buffer_shape", 1, "the cache buffer is [size, 2 * num_kv_heads, head_dim]", cache_buffer_shape),
    Claim(
        "double_buffer_shape",
        1,
        "the kernel's double buffer in VMEM is [2, pages, page_size, 2 * num_kv_heads, head_dim]",
        double_buffer_shape,
    ),
    Claim(
        "interleaving_is_incompatible",
        1,
        "head interleaving is incompatible with the earlier per-head concatenation [.., num_kv_heads, 2 * head_dim]",
        interleaving_is_incompatible,
    ),
    Claim(
        "sharding_commutes_with_interleaving",
        1,
        "sharding heads over devices commutes with interleaving",
        sharding_commutes_with_interleaving,
    ),
    Claim(
        "padding_a_shard_breaks_sharding",
        1,
        "sharding heads does not commute with interleaving when there is padding in each shard",
        padding_a_shard_breaks_sharding,
    ),
)
