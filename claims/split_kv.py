"""System 4: split_kv_attention, which cuts keys and values into splits and adds the splits' outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from kvconform.claims.claim import Claim, Figure, Judged, settled, share
from kvconform.claims.counting import Attention, count, split_attention
from kvconform.claims.merge_trees import Tree, contiguous, depth, every_merge, merged, scattered, some_trees
from kvconform.claims.split_attention import (
    FAMILIES,
    Join,
    Keys,
    Rows,
    Seen,
    State,
    added,
    attend,
    drawn,
    even_parts,
    split,
    stacked,
)
from kvconform.impls import numpy_ref
from kvconform.oracles.bound import Bounded
from kvconform.specs import data
from kvconform.specs.data import Array

Cut = Callable[[int, int], Sequence[slice]]

LSE_MERGE: Join = numpy_ref.merge_states
"""The merge that is right: parts weighted by exp(lse), in float32."""

CLAIMED_BAND = (1e-8, 1e-6)
"""How far its results are from single-pass attention, as the source states it."""

MOST_SPLITS = 64


# --- LSE merge


def lse_merge_equals_single_pass(seed: int, merge: Join = LSE_MERGE) -> Judged:
    """Every partition, order and tree of 4 keys; drawn ones of 3 to 2048 keys in 2 to 64 parts, some of them empty."""
    seen, apart = Seen(), 0.0
    few = drawn(seed, 4, 3, copies=2)
    trees = 0
    for tree, state, num_parts in every_merge(few, merge):
        trees += 1
        seen.hold_state(state, _bound(few, num_parts, depth(tree)))
    drawn_trees = 0
    for num_keys, dim in ((3, 5), (40, 16), (257, 16), (2048, 64)):
        rows = drawn(seed, num_keys, dim)
        for num_parts, partition in product((2, 7, MOST_SPLITS), (scattered, contiguous)):
            parts = partition(seed, num_keys, num_parts)
            known: dict[Tree, State] = dict(enumerate(attend(rows, part) for part in parts))
            for tree in some_trees(seed, num_parts):
                state = merged(tree, known, merge)
                seen.hold_state(state, _bound(rows, num_parts, depth(tree)))
                apart = max(apart, _distance(state, rows.single_pass))
                drawn_trees += 1
    return Judged(
        settled(seen.outside == 0),
        {
            "outside the derived bound": share(seen.outside, seen.elements, "elements of out and lse"),
            "worst error": Figure(seen.worst, "of the bound"),
            "partitions, orders and trees of 4 keys, all of them": Figure(trees, "merges"),
            "drawn partitions and trees of 3 to 2048 keys": Figure(drawn_trees, "merges"),
            "largest difference from single pass": Figure(apart, "in out, absolute"),
        },
        "Weighted by exp(lse_i - lse), partial results give exact attention within the bound that float32 allows on "
        "this very input: flat, sequential and tree merges, scattered and contiguous parts, empty ones too."
        if seen.outside == 0
        else "Some merge is farther from exact attention than float32 rounding can take it.",
    )


# --- the naive sum


@dataclass(frozen=True, eq=False)
class Errors:
    """What a join does to the same rows, by num_splits.

    num_splits   1, 2, 3, ...
    error        [num_splits, rows, dim]   distance of out from exact attention
    bound        [num_splits, rows, dim]   what float32 rounding allows, of an LSE merge
    exact        [rows, dim]
    seen         one verdict a num_splits
    """

    num_splits: Array
    error: Array
    bound: Array
    exact: Array
    seen: list[Seen]

    @property
    def worst(self) -> Array:
        """[num_splits]: greatest error of any element."""
        return np.asarray(self.error.max((1, 2)))

    @property
    def relative(self) -> Array:
        """[num_splits, rows]: Euclidean norm of a row's error, relative to the row's."""
        relative: Array = np.linalg.norm(self.error, axis=-1) / np.linalg.norm(self.exact, axis=-1)
        return relative


def errors_by_split(seed: int, join: Join, families: tuple[str, ...] = FAMILIES, copies: int = 4) -> Errors:
    """Attention over 1024 keys in 1 to 64 contiguous splits; `copies` rows of each family of numbers."""
    rows = drawn(seed, 1024, 32, families, copies)
    num_splits = np.arange(1, MOST_SPLITS + 1)
    bounds = [_bound(rows, int(n), 1) for n in num_splits]
    error, seen = [], []
    for n, bound in zip(num_splits, bounds, strict=True):
        out = split(rows, even_parts(rows.num_keys, int(n)), join)[0][:, 0]
        error.append(np.abs(out.astype(np.float64) - bound.out))
        seen.append(Seen())
        seen[-1].hold(out, bound.out, bound.out_error)
    return Errors(num_splits, np.stack(error), np.stack([b.out_error for b in bounds]), bounds[0].out, seen)


def naive_sum_equals_single_pass(seed: int, join: Join = added) -> Judged:
    """The published join for 1 to 64 splits, on every family of numbers, beside the LSE merge of the same partials."""
    copies = 4
    of_join, of_merge = (errors_by_split(seed, one, copies=copies) for one in (join, LSE_MERGE))
    outside = sum(seen.outside for seen in of_join.seen[1:])
    elements = sum(seen.elements for seen in of_join.seen[1:])
    splits, relative = of_join.num_splits[1:], of_join.relative[1:]
    logs = np.log(splits - 1), np.log(np.maximum(relative, np.finfo(np.float64).tiny))
    exponents = np.polyfit(*logs, 1)[0].reshape(len(FAMILIES), copies).mean(1)
    figures = {"outside the derived bound, 2 to 64 splits": share(outside, elements, "elements of out")}
    for n in (2, 8, MOST_SPLITS):
        figures[f"error at {n} splits"] = Figure(float(of_join.error[n - 1].max()), "largest, absolute")
        figures[f"relative error at {n} splits"] = Figure(float(np.median(of_join.relative[n - 1])), "median of rows")
    figures |= {
        "relative error / (num_splits - 1)": Figure(
            float(np.median(relative / (splits - 1)[:, None])), "median of rows and splits"
        ),
        "x of relative error ~ (num_splits - 1) ** x, by kind of numbers": Figure(
            ", ".join(f"{family} {x:.2f}" for family, x in zip(FAMILIES, exponents, strict=True))
        ),
        "error / bound at 64 splits": Figure(
            float(np.median(of_join.error[-1] / of_join.bound[-1])), "median of elements"
        ),
        "within the claimed 1e-6, 2 to 64 splits": share(
            int((of_join.error[1:] <= CLAIMED_BAND[1]).sum()), elements, "elements of out"
        ),
        "LSE merge of the same partials, outside the bound": share(
            sum(seen.outside for seen in of_merge.seen), sum(seen.elements for seen in of_merge.seen), "elements of out"
        ),
        "LSE merge, largest error": Figure(float(of_merge.error.max()), "absolute"),
    }
    return Judged(
        settled(outside == 0),
        figures,
        "Each split is normalised by its own sum, so the sum of n outputs is n times attention where splits weigh "
        "alike: the relative error grows with num_splits. No rounding does that; weights exp(lse_i - lse) remove it."
        if outside
        else "No element is farther from exact attention than float32 rounding can take it.",
    )


def difference_is_non_determinism(seed: int, join: Join = added) -> Judged:
    """Repeat the same call, and see whether what varies between runs explains the distance from single pass."""
    rows, runs = drawn(seed, 257, 16, copies=2), 8
    parts = even_parts(rows.num_keys, 8)
    of_join, of_merge = (_repeated(rows, parts, one, runs) for one in (join, LSE_MERGE))
    seen, bound = Seen(), _bound(rows, 8, 1)
    for out in of_join:
        seen.hold(out, bound.out, bound.out_error)
    single = rows.single_pass[0][:, 0]
    spread, merge_spread = (float(np.ptp(outs, axis=0).max()) for outs in (of_join, of_merge))
    apart, merge_apart = (np.abs(outs[0].astype(np.float64) - single) for outs in (of_join, of_merge))
    in_band = int(((merge_apart >= CLAIMED_BAND[0]) & (merge_apart <= CLAIMED_BAND[1])).sum())
    return Judged(
        settled(spread > 0 and seen.outside == 0),
        {
            "elements that ever change between runs": share(
                _changed(of_join), of_join[0].size, f"elements of out, {runs} runs"
            ),
            "difference between runs": Figure(spread, "largest, absolute"),
            "difference from single pass": Figure(float(apart.max()), "largest, absolute"),
            "outside the derived bound": share(seen.outside, seen.elements, "elements of out"),
            "LSE merge: difference between runs": Figure(merge_spread, "largest, absolute"),
            "LSE merge: difference from single pass": Figure(float(merge_apart.max()), "largest, absolute"),
            "LSE merge: between 1e-8 and 1e-6 from single pass": share(in_band, merge_apart.size, "elements of out"),
            "LSE merge: equal to single pass": share(
                int((merge_apart == 0).sum()), merge_apart.size, "elements of out"
            ),
        },
        "What varies between runs would be non-determinism. "
        + (
            "It does vary, within what float32 rounding allows in some order."
            if spread > 0 and seen.outside == 0
            else "Every run gives the same bits, so no part of the difference is: the naive sum is wrong, and what is "
            "left of the difference after an LSE merge is rounding, the same in every run."
            if spread == 0
            else "It varies, but the difference from exact attention is more than rounding in any order can make."
        ),
    )


def _repeated(rows: Rows, parts: Sequence[Keys], join: Join, runs: int) -> Array:
    """[runs, rows, dim]: out of the same call, from arrays at another place in memory each time."""
    return np.stack([split(_moved(rows, run), parts, join)[0][:, 0] for run in range(runs)])


def _moved(rows: Rows, by: int) -> Rows:
    return Rows(*(_displaced(a, by) for a in (rows.q, rows.k, rows.v)))


def _displaced(array: Array, by: int) -> Array:
    """The same numbers, contiguous, `by` elements behind the start of an allocation."""
    storage = np.empty(by + array.size, array.dtype)
    storage[by:] = array.ravel()
    return storage[by:].reshape(array.shape)


def _changed(runs: Array) -> int:
    """Elements that are not the same bits in every run."""
    patterns = runs.view(np.uint32)
    return int((patterns != patterns[0]).any(0).sum())


def _distance(state: State, other: State) -> float:
    return float(np.abs(state[0].astype(np.float64) - other[0]).max())


# --- order of merges


def fixed_order_is_reproducible(seed: int, merge: Join = LSE_MERGE) -> Judged:
    """Merge the same 8 parts again and again in one order, then in others."""
    rows, runs, num_orders = drawn(seed, 257, 16, copies=2), 16, 200
    outs, lses = stacked(attend(rows, part) for part in even_parts(rows.num_keys, 8))
    repeated = [merge(_displaced(outs, run), _displaced(lses, run)) for run in range(runs)]
    changed = sum(_changed(np.stack(one)) for one in zip(*repeated, strict=True))
    seen, bound, patterns = Seen(), _bound(rows, 8, 1), set()
    for order in range(num_orders):
        by = np.argsort(data.hashes(seed, f"order {order}", np.arange(8)))
        state = merge(outs[by], lses[by])
        seen.hold_state(state, bound)
        patterns.add(b"".join(one.tobytes() for one in state))
    return Judged(
        settled(changed == 0),
        {
            "elements that ever change in one order": share(
                changed, repeated[0][0].size + repeated[0][1].size, f"elements of out and lse, {runs} runs"
            ),
            "distinct bit patterns of the result": share(len(patterns), num_orders, "orders"),
            "outside the derived bound, in any order": share(seen.outside, seen.elements, "elements of out and lse"),
        },
        "The same parts merged in the same order give the same bits, wherever they lie in memory; another order may "
        "give other bits, which stay within the bound."
        if changed == 0
        else "The same parts in the same order give other bits from run to run.",
    )


# --- where the sequence is cut


def floor_parts(seq_len: int, num_splits: int) -> list[slice]:
    """The published rule: num_splits parts of split_size = seq_len // num_splits tokens."""
    size = seq_len // num_splits
    return [slice(i * size, (i + 1) * size) for i in range(num_splits)]


def last_takes_the_rest(seq_len: int, num_splits: int) -> list[slice]:
    """The same rule with what is left over given to the last part."""
    *parts, last = floor_parts(seq_len, num_splits)
    return [*parts, slice(last.start, seq_len)]


def floor_splits_hold_the_sequence(seed: int, cut: Cut = floor_parts) -> Judged:
    """Count empty parts and lost tokens over every sequence of 1 to 128 tokens in 1 to 64 splits."""
    pairs = list(product(range(1, 129), range(1, MOST_SPLITS + 1)))
    lost = {pair: pair[0] - sum(part.stop - part.start for part in cut(*pair)) for pair in pairs}
    empty = {pair: sum(part.start == part.stop for part in cut(*pair)) for pair in pairs}
    short = [pair for pair in pairs if pair[0] < pair[1]]
    rest_empty = sum(any(part.start == part.stop for part in last_takes_the_rest(*pair)) for pair in pairs)
    with_empty, with_loss = (sum(count > 0 for count in counts.values()) for counts in (empty, lost))
    tried, wrong = _outside_where_tokens_are_lost(seed, cut)
    return Judged(
        settled(with_empty == 0 == with_loss),
        {
            "pairs (seq_len, num_splits) with an empty split": share(with_empty, len(pairs), "pairs"),
            "of the pairs with seq_len < num_splits": share(sum(empty[p] > 0 for p in short), len(short), "pairs"),
            "pairs that lose tokens": share(with_loss, len(pairs), "pairs"),
            "pairs that lose every token": share(sum(lost[p] == p[0] for p in pairs), len(pairs), "pairs"),
            "most tokens lost": Figure(max(lost.values()), "tokens"),
            "empty splits if the last split takes the rest": share(rest_empty, len(pairs), "pairs"),
            "LSE merge of such splits outside the bound": share(wrong, tried, "sampled pairs that lose tokens"),
        },
        "Below num_splits tokens split_size is 0: every split is empty, or all but the last where that one takes the "
        "rest. Above, seq_len % num_splits tokens at the end belong to no split unless the last takes them."
        if with_empty or with_loss
        else "No split is empty and no token is lost.",
    )


def _outside_where_tokens_are_lost(seed: int, cut: Cut) -> tuple[int, int]:
    """(sampled pairs that lose tokens, those whose merged result is not attention over the whole sequence)."""
    tried = wrong = 0
    for seq_len, num_splits in ((1, 2), (3, 8), (7, 2), (65, 64), (100, 7), (127, 64), (200, 3)):
        parts = cut(seq_len, num_splits)
        if sum(part.stop - part.start for part in parts) < seq_len:
            rows, seen = drawn(seed, seq_len, 8, ("plain", "offset")), Seen()
            seen.hold_state(split(rows, parts, LSE_MERGE), rows.bound(num_splits, 1))
            tried, wrong = tried + 1, wrong + (seen.outside > 0)
    return tried, wrong


# --- work

_KEYS, _DIM = 16, 4
_SPLITS = (1, 2, 4, 8, 16)


def _counts(num_queries: int, attention: Attention) -> list[tuple[int, int, int]]:
    return [count(num_queries, _KEYS, splits, _DIM, attention) for splits in _SPLITS]


def total_work_is_unchanged(seed: int, attention: Attention = split_attention) -> Judged:
    """Products counted for one query and for as many queries as keys, by number of splits."""
    decode, prefill = _counts(1, attention), _counts(_KEYS, attention)
    formula = [(queries * _KEYS * _DIM,) * 2 for queries in (1, _KEYS)]
    same = all(one[:2] == formula[i] for i, counts in enumerate((decode, prefill)) for one in counts)
    return Judged(
        settled(same),
        {
            **_series("decode", decode),
            **_series("prefill", prefill),
            "formula for q . k, decode and prefill": Figure(
                f"n d = {formula[0][0]}, n * n * d = {formula[1][0]}", f"multiply-adds, n = {_KEYS}, d = {_DIM}"
            ),
            "merging, prefill": Figure(_listed(one[2] for one in prefill), "further multiply-adds"),
        },
        "Every query meets every key once, whichever split the key is in: q . k and p . v stay the same to the last "
        "product. Merging comes on top, num_splits * head_dim multiply-adds a query."
        if same
        else "The number of products depends on the number of splits.",
    )


def total_work_falls_with_splits(seed: int, attention: Attention = split_attention) -> Judged:
    """The same counts against n^2 / k."""
    prefill = _counts(_KEYS, attention)
    claimed = [_KEYS * _KEYS * _DIM // splits for splits in _SPLITS]
    falls = all(one[0] == one[1] == want for one, want in zip(prefill, claimed, strict=True))
    each = [one[0] // splits for one, splits in zip(prefill, _SPLITS, strict=True)]
    return Judged(
        settled(falls),
        {
            **_series("prefill", prefill),
            "d n^2 / k": Figure(_listed(claimed), "multiply-adds"),
            "counted for one split": Figure(_listed(each), "multiply-adds of q . k"),
        },
        "The total is as claimed."
        if falls
        else "n^2 / k is the work of one split; k splits together do n^2, whatever k is.",
    )


def _series(what: str, counts: list[tuple[int, int, int]]) -> dict[str, Figure]:
    splits = _listed(_SPLITS)
    return {
        f"{name}, {what}, {splits} splits": Figure(_listed(one[i] for one in counts), "multiply-adds")
        for i, name in enumerate(("q . k", "p . v"))
    }


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


@lru_cache(maxsize=256)
def _bound(rows: Rows, num_parts: int, levels: int) -> Bounded:
    return rows.bound(num_parts, levels)


CLAIMS = (
    Claim(
        "lse_merge_equals_single_pass",
        4,
        "merging the splits by log-sum-exp equals single-pass attention for every partition, order and tree",
        lse_merge_equals_single_pass,
    ),
    Claim(
        "naive_sum_equals_single_pass",
        4,
        "adding the outputs of the splits gives single-pass attention up to 1e-8 to 1e-6",
        naive_sum_equals_single_pass,
        picture="pictures/naive_sum.svg",
    ),
    Claim(
        "difference_is_non_determinism",
        4,
        "the difference of 1e-8 to 1e-6 from single-pass attention is non-determinism",
        difference_is_non_determinism,
    ),
    Claim(
        "fixed_order_is_reproducible",
        4,
        "merging in a fixed order is reproducible bit for bit",
        fixed_order_is_reproducible,
    ),
    Claim(
        "floor_splits_hold_the_sequence",
        4,
        "num_splits splits of split_size = seq_len // num_splits tokens hold the sequence",
        floor_splits_hold_the_sequence,
    ),
    Claim("total_work_is_unchanged", 4, "splitting leaves the total work unchanged", total_work_is_unchanged),
    Claim("total_work_falls_with_splits", 4, "the total work is O(n^2 / k) for k splits", total_work_falls_with_splits),
)
