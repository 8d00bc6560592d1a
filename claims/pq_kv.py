"""System 3: MILLION's product-quantised KV cache. Transposed pages, instances of its kernels, and V by a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Protocol

import numpy as np

from kvconform.claims.claim import NOT_TESTABLE, Claim, Figure, Judged, settled, share
from kvconform.claims.counting import Meter, Metered
from kvconform.impls import numpy_ref
from kvconform.oracles import paged, pq
from kvconform.oracles.memory import Cache
from kvconform.oracles.pq import Batch, Floats, PQReading
from kvconform.oracles.rounding import admissible
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import width
from kvconform.specs.pq import PQInputs
from kvconform.specs.profile import Profile
from kvconform.specs.row import SIDE_NAMES, SIDES, V

ROWS, COLUMNS = "pq_rows", "pq_columns"


# --- transposed pages


class Codes(Protocol):
    """The part of an adapter that this is about."""

    def pq_append(self, *given: Any, **told: Any) -> Cache:
        """Codes of tokens, in pages."""
        ...

    def pq_decode_attention(self, *given: Any, **told: Any) -> tuple[Array, Array]:
        """Attention over them."""
        ...


def transposition_changes_no_value(seed: int, impl: Codes = numpy_ref) -> Judged:
    """Write the same tokens in pages of rows and of columns, and look at them in four independent ways."""
    cases = list(_paged_cases(seed))
    misplaced = addressed = moved = unlike = codes = attended = by_address = 0
    for case in cases:
        rows, columns = (PQInputs(replace(case, layout=layout)) for layout in (ROWS, COLUMNS))
        pools = [_appended(impl, x) for x in (rows, columns)]
        slots = [pq.live_slots(x)[1] for x in (rows, columns)]
        for side in SIDES:
            name = SIDE_NAMES[side]
            by_row, by_column = (
                pq.written(x, pool, side, at) for x, pool, at in zip((rows, columns), pools, slots, strict=True)
            )
            codes += by_row.size
            moved += int((by_row != by_column).sum())
            turned = _unpacked(pools[1][name], case.dtype)
            turned = turned.swapaxes(1, 2) if side == V else turned
            plain = _unpacked(pools[0][name], case.dtype)
            misplaced += int((turned != plain).sum()) if turned.shape == plain.shape else plain.size
        if case.dtype == "uint8":
            found = _by_published_address(columns, pools[1]["v"])
            by_address += found.size
            addressed += int((found != pq.written(rows, pools[0], V, slots[0])).sum())
        results = [_attended(impl, x, pool) for x, pool in zip((rows, columns), pools, strict=True)]
        attended += sum(one.size for one in results[0])
        unlike += sum(int((a.tobytes() != b.tobytes()) * a.size) for a, b in zip(*results, strict=True))
    wrong = misplaced + addressed + moved + unlike
    return Judged(
        settled(wrong == 0),
        {
            "codes that differ, by the layouts' own addresses": share(moved, codes, "codes of K and V"),
            "not where the page's transpose has them": Figure(misplaced, "codes, of dead slots too"),
            "not at page * M * page_size + m * page_size + slot": share(addressed, by_address, "codes of V, 8 bits"),
            "attention over either, not the same bits": share(unlike, attended, "elements of out and lse"),
            "pages of": Figure(len(cases), "shapes: slots x subspaces x heads x code width, some slots empty"),
        },
        "Tokens are encoded into pages of rows and into pages whose V is transposed; both are read by their row's "
        "address, by plain transposition and by the published formula, and attended to."
        if not wrong
        else "The same tokens read differently from pages of rows and from transposed ones.",
    )


def _paged_cases(seed: int) -> Iterator[Case]:
    for page_size, num_subspaces, heads, (dtype, centroids) in product(
        (1, 2, 3, 16, 64), (1, 2, 3, 16, 64), (1, 3), (("uint8", 256), ("uint4", 16))
    ):
        if dtype == "uint4" and (page_size % 2 or num_subspaces % 2):
            continue  # two codes a byte
        yield Case(
            op="pq_decode_attention",
            layout=COLUMNS,
            dtype=dtype,
            q_dtype="float32",
            seed=seed,
            kv_lens=(2 * page_size + page_size // 2, 1, 0, page_size),
            page_size=page_size,
            num_kv_heads=heads,
            num_subspaces=num_subspaces,
            sub_dim=2,
            num_centroids=centroids,
            codes="mixed",
            vectors="centroids",
            spare_pages=1,
        )


def _told(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in ("layout", "dtype", "page_size", "num_subspaces")}


def _appended(impl: Codes, x: PQInputs) -> Cache:
    cache = paged.filled(x.pages, "zero")
    empty = {name: np.zeros_like(pool) for name, pool in cache.items()}
    return impl.pq_append(empty, x.k, x.v, *x.codebooks, x.slot_mapping, **_told(x.case))


def _attended(impl: Codes, x: PQInputs, cache: Cache) -> tuple[Array, Array]:
    given = (*x.codebooks, x.page_ids, x.kv_lens, *x.residual, x.residual_lens)
    return impl.pq_decode_attention(x.q, cache, *given, **_told(x.case), sm_scale=x.sm_scale, num_splits=3)


def _unpacked(pool: Array, dtype: str) -> Array:
    """Codes one a byte, as the layout of codes alone has them, [page, row, code]."""
    return pq.loaded(pool, (*pool.shape[:2], pool.shape[2] * 8 // width(dtype)), dtype)


def _by_published_address(x: PQInputs, pool: Array) -> Array:
    """Codes [live slots, num_subspaces] of V by the published formula, of one flat pool."""
    case, (_, slots) = x.case, pq.live_slots(x)
    page, slot = np.divmod(slots, case.page_size)
    m = np.arange(case.num_subspaces)
    at = page[:, None] * (case.num_subspaces * case.page_size) + m * case.page_size + slot[:, None]
    return np.asarray(pool.reshape(-1)[at])


# --- instances

Instance = tuple[int, int, int, int]
"""(num_splits, head_dim, num_subspaces, num_centroids), of float16 and codes of 8 bits."""

INSTANCES: tuple[Instance, ...] = tuple(product((2, 4, 8, 16, 32), (64, 128), (32, 64), (256,)))
FUNCTIONS = 2

ASKED = ((1, 64, 1), (2049, 1 << 17, 32))
"""The published ends of the adaptive rule: num_splits of every length from, to. Between them it is not stated."""


def there_are_40_instances(seed: int, instances: Sequence[Instance] = INSTANCES) -> Judged:
    """Count the table."""
    distinct = len(set(instances))
    return Judged(
        settled(distinct == 20 and FUNCTIONS * distinct == 40),
        {
            "instances": Figure(f"{distinct} x {FUNCTIONS} = {FUNCTIONS * distinct}", "kernels"),
            "num_splits among them": Figure(", ".join(map(str, sorted({one[0] for one in instances})))),
            "(head_dim, num_subspaces) among them": Figure(
                ", ".join(map(str, sorted({one[1:3] for one in instances}))), "of 256 centroids"
            ),
        },
        "float16 with codes of 8 bits, by num_splits, head_dim and num_subspaces; two functions each.",
    )


def instances_cover_the_adaptive_rule(seed: int, instances: Sequence[Instance] = INSTANCES) -> Judged:
    """What the rule asks for at its two published ends, against the table."""
    there = {one[0] for one in instances}
    asked = [(length, splits) for first, last, splits in ASKED for length in range(first, last + 1)]
    without = [length for length, splits in asked if splits not in there]
    missing = sorted({splits for _, _, splits in ASKED} - there)
    return Judged(
        settled(not without),
        {
            "lengths whose num_splits has no instance": share(len(without), len(asked), "lengths with a stated rule"),
            "num_splits without an instance": Figure(", ".join(map(str, missing)) or "none"),
            "lengths that ask for it": Figure(
                f"{without[0]} to {without[-1]}" if without else "none", "tokens in codes"
            ),
        },
        "The rule wants one split up to 64 tokens, and the table begins at two: a cache that has just filled its first "
        "page has no kernel. How the rule goes between 64 and 2048 tokens is not stated."
        if without
        else "Every num_splits that the rule is known to ask for has an instance.",
    )


# --- V by a table

_NUMBERS = Profile(
    qk_accumulator="float64",
    softmax_format="float64",
    pv_accumulator="float64",
    partial_format="float64",
    out_format="float64",
    lse_format="float64",
    exp_error=2.0**-51,
    log_error=2.0**-51,
)
"""A kernel in float64."""

Form = Callable[[PQInputs, Batch, PQReading, tuple[Array, Array]], dict[str, Floats]]
Weighed = Callable[[Array, Array, Array, Meter], list[list[float]]]


def v_cannot_use_a_table(seed: int, form: Form = pq.by_table) -> Judged:
    """Hold V by the weight that falls on each centroid to attention over decoded V; count the products of both."""
    outside = elements = 0
    worst = 0.0
    for case in _table_cases(seed):
        x = PQInputs(case)
        cache, right = paged.filled(x.pages, "zero"), PQReading.right(x, _CONVENTIONS)
        of = pq.batch(x, cache, right)
        one, other = (pq.coded(x, cache, right, side) for side in SIDES)
        got = form(x, of, right, (one, other))
        # a weight goes through a sum over keys, then a centroid's product through one over centroids
        depth = max(case.kv_lens) + case.residual + case.num_centroids
        want = pq.attended(x, of, replace(_NUMBERS, tile=depth, pv_depth=depth), right)
        for name, exact, error in (("out", want.out, want.out_error), ("lse", want.lse, want.lse_error)):
            outside += int((~admissible(got[name], exact, error, "float64")).sum())
            elements += exact.size
        worst = max(worst, float(np.abs(got["out"] - want.out).max()))
    lengths, head_dim, centroids = (8, 16, 64, 256), 8, 16
    plain, table = (
        [_products(weighed, length, head_dim, centroids) for length in lengths] for weighed in (dequantised, by_mass)
    )
    return Judged(
        settled(outside > 0),
        {
            "outside the derived bound of float64": share(outside, elements, "elements of out and lse"),
            "largest difference from attention over decoded V": Figure(worst, "absolute"),
            "products, V dequantised": Figure(_listed(plain), f"of {_listed(lengths)} tokens, d = 8"),
            "products, V by a table": Figure(_listed(table), f"of {_listed(lengths)} tokens, d = 8, C = {centroids}"),
            "fewer than V dequantised": Figure(
                ", ".join(str(n) for n, a, b in zip(lengths, plain, table, strict=True) if b < a) or "none",
                "tokens; from C on by the counts, n d against C d",
            ),
            "at 32 K tokens, d = 128, C = 256, by those counts": Figure(
                f"{(1 << 15) * 128} against {256 * 128}", "products a head"
            ),
        },
        "out_m = sum_c (sum of p_j over tokens j of code c) centroid_mc: the table is the weight that falls on each "
        "centroid, made of additions alone, n M of them. It is the same sum in another order, and needs fewer products "
        "as soon as there are more tokens than centroids."
        if outside == 0
        else "That form is not attention over decoded V.",
    )


_CONVENTIONS = {"lse_base": "e"}


def _table_cases(seed: int) -> Iterator[Case]:
    for family, (num_subspaces, sub_dim), centroids, residual in product(
        ("plain", "wide", "sharp", "offset"), ((1, 4), (3, 1), (16, 2), (32, 4)), (2, 16, 256), (0, 5)
    ):
        yield Case(
            op="pq_decode_attention",
            layout=COLUMNS,
            dtype="uint8",
            q_dtype="float32",
            seed=seed,
            family=family,
            kv_lens=(70, 1, 0, 17),
            page_size=16,
            num_kv_heads=2,
            group=2,
            num_subspaces=num_subspaces,
            sub_dim=sub_dim,
            num_centroids=centroids,
            codes="mixed",
            residual=residual,
        )


def dequantised(weights: Array, codes: Array, book: Array, meter: Meter) -> list[list[float]]:
    """p . V with each token's V made from its codes: out[m][k]."""
    return [
        [
            _sum(
                [
                    Metered(float(book[m, code, k]), meter) * float(p)
                    for p, code in zip(weights, codes[:, m], strict=True)
                ]
            )
            for k in range(book.shape[2])
        ]
        for m in range(len(book))
    ]


def by_mass(weights: Array, codes: Array, book: Array, meter: Meter) -> list[list[float]]:
    """The same by the weight that falls on each centroid."""
    out = []
    for m in range(len(book)):
        mass = [Metered(0.0, meter) for _ in range(book.shape[1])]
        for p, code in zip(weights, codes[:, m], strict=True):
            mass[code] = mass[code] + Metered(float(p), meter)
        out.append([_sum([one * float(book[m, c, k]) for c, one in enumerate(mass)]) for k in range(book.shape[2])])
    return out


def _sum(terms: Sequence[Metered]) -> float:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.value


def _products(weighed: Weighed, length: int, head_dim: int, centroids: int) -> int:
    meter, m = Meter(), 4
    codes = np.arange(length * m).reshape(length, m) * 7 % centroids
    book = np.arange(m * centroids * head_dim // m, dtype=np.float64).reshape(m, centroids, -1)
    weighed(np.arange(length) / length, codes, book, meter)
    return meter.products


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


# --- what no array can tell


def perplexity_changes_below_1_percent(seed: int, measured: tuple[float, float] | None = None) -> Judged:
    """Perplexity of a model with its KV cache in full precision, and with it quantised, where somebody has both."""
    if measured is None:
        return Judged(
            NOT_TESTABLE,
            {"models and texts that perplexity could be taken of": Figure(0, "in this suite")},
            "Perplexity is a trained model's, over a text: it needs weights and data, which are no part of a suite "
            "that draws its inputs, and no drawn key or value has one. What can be computed is the error of attention "
            "itself, as a distribution: product_quantisation_beats_uniform_at_2_bits and _at_4_bits.",
        )
    before, after = measured
    change = abs(after / before - 1)
    return Judged(
        settled(change < 0.01), {"change": Figure(100 * change, "%")}, "The two perplexities that were given."
    )


CLAIMS = (
    Claim(
        "transposition_changes_no_value",
        3,
        "transposing pages of codes changes no value",
        transposition_changes_no_value,
    ),
    Claim(
        "there_are_40_instances",
        3,
        "the kernels' instances are 20, times two functions 40",
        there_are_40_instances,
    ),
    Claim(
        "instances_cover_the_adaptive_rule",
        3,
        "num_splits adapts to the length, from 1 to 32, among the instances",
        instances_cover_the_adaptive_rule,
    ),
    Claim(
        "v_cannot_use_a_table",
        3,
        "V cannot use a table, it must be dequantised",
        v_cannot_use_a_table,
    ),
    Claim(
        "perplexity_changes_below_1_percent",
        3,
        "perplexity changes by less than 1 %",
        perplexity_changes_below_1_percent,
    ),
)
