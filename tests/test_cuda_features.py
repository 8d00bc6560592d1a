"""Features of attention in the `cuda` kernels, by inputs whose results are exact whatever the rounding."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvconform.impls.cuda_kernels import build, host, runtime
from kvconform.impls.cuda_kernels.pages import UNEVEN
from kvconform.specs.dtypes import DTYPES
from kvconform.tests.cuda_calls import (
    GROUP,
    HEAD_DIM,
    KV_LENS,
    KV_SCALES,
    NARROW,
    NUM_KV_HEADS,
    NUM_PAGES,
    PAGE_SIZE,
    PAGES,
    Q_LENS,
    ROUNDED,
    TABLE,
    Array,
    bits,
    changed,
    decode,
    every_feature,
    own_values,
    pages_of,
    queries,
    scaled,
    tree_mask,
    uneven,
)

NUM_Q_HEADS = NUM_KV_HEADS * GROUP
STEEP = np.float32(1024)
"""Of a key that scores so much less than another one the weight is exactly 0."""

WINDOWS = (None, 1, 3, 5, 20)

attends = pytest.mark.parametrize(
    ("layout", "dtype", "num_splits"),
    [(layout, dtype, splits) for layout in PAGES for dtype in ROUNDED for splits in (1, 2, 5)],
)


def sights(window: int | None) -> list[tuple[int, list[int]]]:
    """The sequence of each of the query rows of Q_LENS, and the positions of the keys that it sees."""
    rows = []
    for seq, (length, q_len) in enumerate(zip(KV_LENS, Q_LENS, strict=True)):
        for token in range(q_len):
            own = length - q_len + token
            rows.append((seq, [key for key in range(length) if key <= own and (not window or own - key < window)]))
    return rows


def place(seq: int, position: int) -> tuple[int, int]:
    """Page and slot of a token."""
    return int(TABLE[seq, position // PAGE_SIZE]), position % PAGE_SIZE


def featured(layout: str, dtype: str, k: Array, v: Array, num_splits: int, **features: Any) -> tuple[Array, Array]:
    """paged_decode of the query rows of Q_LENS, all ones."""
    q = queries(1, sum(Q_LENS))
    return decode(layout, dtype, k, v, q, num_splits, q_lens=np.array(Q_LENS, np.int32), **features)


def check_sight(layout: str, dtype: str, num_splits: int, window: int | None, soft_cap: float | None = None) -> None:
    """Of what a row sees, ALiBi leaves its q heads the newest key and the oldest one in turn; the rest is NaN."""
    rows = sights(window)
    seen = {place(seq, key) for seq, keys in rows for key in keys}
    k, v = pages_of(np.nan), np.full_like(own_values(), np.nan)
    for where in seen:
        k[where], v[where] = 16, own_values()[where]
    slopes = np.array([STEEP, -STEEP] * (NUM_Q_HEADS // 2), np.float32)
    score = np.float32(16 * HEAD_DIM) if soft_cap is None else np.float32(soft_cap)  # tanh is 1
    out, lse = featured(
        layout, dtype, k, v, num_splits, window=window, soft_cap=soft_cap, alibi_slopes=slopes, sm_scale=1.0
    )
    want, want_lse = np.zeros_like(out), np.full_like(lse, -np.inf)
    for row, (seq, keys) in enumerate(rows):
        for head in range(NUM_Q_HEADS if keys else 0):
            key = keys[0] if head % 2 else keys[-1]
            want[row, head] = own_values()[place(seq, key)][head // GROUP]
            want_lse[row, head] = score + (STEEP * (keys[-1] - keys[0]) if head % 2 else 0)
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(lse, want_lse)


def check_sinks(layout: str, dtype: str, num_splits: int) -> None:
    """Sinks far above all keys are all there is, once; those far below are not there, but where there is no key."""
    rows, v = sights(None), own_values()
    high = np.arange(NUM_Q_HEADS, dtype=np.float32) + STEEP
    out, lse = featured(layout, dtype, pages_of(0), v, num_splits, sinks=high)
    np.testing.assert_array_equal(out, np.zeros_like(out))
    np.testing.assert_array_equal(lse, np.broadcast_to(high, lse.shape))
    plain = featured(layout, dtype, pages_of(0), v, num_splits)
    low = featured(layout, dtype, pages_of(0), v, num_splits, sinks=-high)
    for row, (_, keys) in enumerate(rows):
        want = [one[row] for one in plain] if keys else [np.zeros_like(plain[0][row]), -high]
        for got, right in zip(low, want, strict=True):
            np.testing.assert_array_equal(bits(got[row]), bits(right))


TREES = ((0, 0, 0, 1, 2), (0,), (0, 0, 1, 0), (0,))
"""What the query tokens of each of KV_LENS hang on: a bushy tree, and one whose last node is the root's."""


def check_tree(layout: str, dtype: str, num_splits: int, window: int | None = None) -> None:
    """One position of every sequence in turn outweighs all others, where a query token sees it: prefix or ancestor."""
    mask, v = tree_mask(TREES), own_values()
    q_lens = np.array([len(parents) for parents in TREES], np.int32)
    q = queries(1, sum(q_lens))
    for position in range(max(KV_LENS)):
        k = pages_of(0)
        for seq in (seq for seq, length in enumerate(KV_LENS) if position < length):
            k[place(seq, position)] = 16
        out, lse = decode(
            layout, dtype, k, v, q, num_splits, q_lens=q_lens, tree_mask=mask, window=window, sm_scale=1.0
        )
        for row, seq in enumerate(np.repeat(np.arange(len(q_lens)), q_lens)):
            token = row - sum(q_lens[:seq])
            own = KV_LENS[seq] - q_lens[seq] + token
            older = position < KV_LENS[seq] - q_lens[seq]
            if 0 <= own - position < (window or 20) and (older or mask[row, position - KV_LENS[seq] + q_lens[seq]]):
                want = v[place(seq, position)].repeat(GROUP, 0)
                np.testing.assert_array_equal(out[row], want.astype(DTYPES[dtype]).astype(np.float32))
                np.testing.assert_array_equal(lse[row], np.float32(16 * HEAD_DIM))
            else:
                assert np.isfinite(out[row]).all()
                assert ((lse[row] >= 0) & (lse[row] < 16)).all() if own >= 0 else np.isneginf(lse[row]).all()


def check_equal_keys(layout: str, dtype: str) -> None:
    """A sink among equal keys takes a share as each of them does: of four, a quarter."""
    v = own_values() * 4
    out, lse = featured(layout, dtype, pages_of(0), v, 1, window=3, sinks=np.zeros(NUM_Q_HEADS, np.float32))
    for row, (seq, keys) in enumerate(sights(3)):
        if len(keys) == 3:
            mean = sum(v[place(seq, key)] for key in keys).repeat(GROUP, 0) / np.float32(4)
            np.testing.assert_array_equal(out[row], mean.astype(DTYPES[dtype]).astype(np.float32))
            steps = lse[row].view(np.int32) - np.float32(np.log(4)).view(np.int32)
            assert np.abs(steps).max() <= 1, "logf: one step of float32 at most"


def check_everything() -> None:
    for num_splits in (1, 2, 5):
        for window in WINDOWS:
            check_sight("nhd", "float32", num_splits, window)
        check_sight("nhd", "float32", num_splits, 3, soft_cap=2.0)
        check_sinks("nhd", "float32", num_splits)
        check_tree("nhd", "float32", num_splits)
    check_equal_keys("nhd", "float32")
    for q_dtype, kv_scales in (("float32", "token"), ("float16", "head"), ("bfloat16", "page")):
        check_scales("nhd", "int8", 2, kv_scales, q_dtype)
    check_mean_of_codes("int8")
    for layout in UNEVEN:
        check_widths(layout)


@pytest.mark.parametrize("window", WINDOWS)
@attends
def test_a_query_token_sees_its_window_and_nothing_newer(
    layout: str, dtype: str, num_splits: int, window: int | None
) -> None:
    check_sight(layout, dtype, num_splits, window)


@attends
def test_a_soft_cap_bends_scores_before_alibi(layout: str, dtype: str, num_splits: int) -> None:
    check_sight(layout, dtype, num_splits, None, soft_cap=2.0)
    check_sight(layout, dtype, num_splits, 5, soft_cap=8.0)


@attends
def test_sinks_count_once_over_all_splits(layout: str, dtype: str, num_splits: int) -> None:
    check_sinks(layout, dtype, num_splits)


@pytest.mark.parametrize("window", [None, 3])
@attends
def test_a_query_token_of_a_tree_sees_its_ancestors_and_what_is_older(
    layout: str, dtype: str, num_splits: int, window: int | None
) -> None:
    check_tree(layout, dtype, num_splits, window)


@pytest.mark.parametrize("q_dtype", ROUNDED)
@pytest.mark.parametrize("kv_scales", KV_SCALES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("layout", PAGES)
def test_numbers_of_a_narrow_cache_are_codes_times_the_scale_of_their_place(
    layout: str, dtype: str, kv_scales: str, q_dtype: str
) -> None:
    """Scales of pages and slots without a token are NaN."""
    check_scales(layout, dtype, 2, kv_scales, q_dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_scale_of_v_is_no_weight(dtype: str) -> None:
    check_mean_of_codes(dtype)


@pytest.mark.parametrize("layout", UNEVEN)
def test_rows_whose_k_and_v_are_not_alike_give_the_bits_of_padded_ones(layout: str) -> None:
    check_widths(layout)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("layout", PAGES)
def test_a_sink_weighs_as_much_as_a_key_of_its_score(layout: str, dtype: str) -> None:
    check_equal_keys(layout, dtype)


def check_scales(layout: str, dtype: str, num_splits: int, kv_scales: str, q_dtype: str) -> None:
    """A key whose codes are 16 among zeros has all the weight: lse is its score, by K's scale, and out V, by V's."""
    told = scaled(kv_scales)
    every = (NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS)
    k_of, v_of = (np.broadcast_to(s[:, None] if kv_scales == "page" else s, every)[..., None] for s in told.values())
    v = own_values().astype(DTYPES[dtype])
    for winner in (0, 3, 5, 11):
        k, out_of, lse_of = pages_of(0), np.zeros((4, NUM_Q_HEADS, HEAD_DIM)), np.full((4, NUM_Q_HEADS), -np.inf)
        for seq, length in enumerate(KV_LENS):
            if length:
                where = place(seq, min(winner, length - 1))
                k[where] = 16
                out_of[seq] = (v[where].astype(np.float32) * v_of[where]).repeat(GROUP, 0)
                lse_of[seq] = (256 * k_of[where][:, 0]).repeat(GROUP)
        out, lse = decode(layout, dtype, k, v, queries(1), num_splits, q_dtype=q_dtype, **told)
        np.testing.assert_array_equal(out, out_of)
        np.testing.assert_array_equal(lse, lse_of)


def check_mean_of_codes(dtype: str) -> None:
    """Scales of V do not count in the denominator: of equal keys the mean is of scaled V."""
    told = {"k_scale": np.ones(1, np.float32), "v_scale": np.full(1, 2, np.float32)}
    out, _ = decode("nhd", dtype, pages_of(0), pages_of(3), queries(1), 1, q_dtype="float32", **told)
    np.testing.assert_array_equal(out, np.array([6, 0, 6, 6], np.float32)[:, None, None] * np.ones_like(out))


def check_widths(layout: str) -> None:
    """Zeros beside the narrower of K and V change no bit, and numbers of a cache mean what the same of nhd mean."""
    for dim, dim_v in ((16, 24), (24, 16), (5, 3)):
        for one, other in zip(uneven(layout, dim, dim_v), uneven(layout, dim, dim_v, as_nhd=True), strict=True):
            np.testing.assert_array_equal(bits(one), bits(other))


TREE = "key >= fresh && !at<const u8>(tree_mask, row, key - fresh)"
SLANT = "slope * static_cast<float>(tile + mine - (end - 1))"
MUTANTS = {
    "a sink in each split": (" && split == 0", ""),
    "a sink that weighs nothing": ("sinks ? 1.0f", "sinks ? 0.0f"),
    "no row of a sink alone": ("live = sinks", "live = false"),
    "newer keys are seen": ("length - newer :", "length :"),
    "rows from the newest one on": ("newer = rows - 1 - row", "newer = row - rows + at<const Index>(f.q_lens, seq)"),
    "a row for a sequence": ("++seq);", "++seq);\n seq = row < 4 ? row : 3;"),
    "a window beside the own key": ("f.window < end ? end - f.window", "f.window + 1 < end ? end - f.window - 1"),
    "a window of the newest row": ("f.window < end ? end - f.window", "f.window < length ? length - f.window"),
    "no window": ("f.window && f.window < end", "false"),
    "a cap behind ALiBi": (
        "score = cap * tanhf(score / cap)",
        f"score = cap * tanhf(({SLANT} + score) / cap) - {SLANT}",
    ),
    "no cap": ("cap * tanhf(score / cap)", "score"),
    "distances from the oldest key": ("tile + mine - (end - 1)", "tile + mine - oldest"),
    "distances within the split": ("tile + mine - (end - 1)", "tile + mine - (last - 1)"),
    "distances of tiles": ("tile + mine - (end - 1)", "tile - (end - 1)"),
    "no tree": (TREE, "false"),
    "a tree without what is older": (TREE, f"({TREE.replace('key >= fresh &&', 'key < fresh ||')})"),
    "a tree a column off": (TREE, TREE.replace("row, key", "row, key - (key > fresh)")),
    "a tree from the first key": (TREE, "key < 5 && !at<const u8>(tree_mask, row, key)"),
    "a tree of the first sequence": (TREE, TREE.replace("row,", "row % 5,")),
    "a row less in each tree": (TREE, TREE.replace("row,", "row - (row > 0),")),
    "a hidden key that is the greatest": ("tile + mine, fresh)) score = minus_infinity()", "tile + mine, fresh)) {}"),
    "hidden keys weigh": ("position, fresh)) continue;", "position, fresh)) {}\n if (position >= fresh) sum += 1;"),
    "K by V's scale": ("(a.k_scale, page", "(a.v_scale, page"),
    "V by K's scale": ("(a.v_scale, page", "(a.k_scale, page"),
    "V without a scale": ("p * scale_of<Element>(a.v_scale, page, slot, kv_head)", "p"),
    "V's scale in the denominator": ("sum += p;", "sum += p * scale_of<Element>(a.v_scale, page, slot, kv_head);"),
    "one scale a page": ("(scales, page, slot, kv_head", "(scales, page, i64{0}, kv_head"),
    "scales of another page": ("(scales, page, slot, kv_head", "(scales, i64{0}, slot, kv_head"),
    "one scale for all heads": ("(scales, page, slot, kv_head", "(scales, page, slot, i64{0}"),
    "half of a scale": ("byte < 4", "byte < 3"),
    "q in another format": ("a.q_format == FLOAT16", "a.q_format == BFLOAT16"),
    "V as wide as K": (
        "dim < a.head_dim_v; dim += THREADS)\n        at<float>",
        "dim < a.head_dim; dim += THREADS)\n        at<float>",
    ),
    "K as wide as V": ("dim < a.head_dim; dim += LANES", "dim < a.head_dim_v; dim += LANES"),
}


def of_one_format(source: Path) -> Path:
    """The source without kernels that `check_everything` does not launch: it compiles in a fraction of the time."""
    used = ("decode_float32_int32,", "decode_features_float32_int32,", "decode_features_int8_int32,")
    used += ("decode_float16_int32,", *(f"merge_float32_into_{dtype}," for dtype in ROUNDED))
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(line for line in lines if not line.startswith("KERNEL(") or any(u in line for u in used)))
    return source


@pytest.mark.parametrize("mistake", MUTANTS)
def test_a_kernel_that_is_wrong_about_a_feature_is_seen(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_one_format(changed(*MUTANTS[mistake], tmp_path))
    mutant = host.Host(build.library(source))
    monkeypatch.setattr(runtime, "current", lambda: mutant)
    with pytest.raises(AssertionError):
        check_everything()


def test_a_kernel_of_one_format_that_is_right_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_one_format(changed("// One block a (row", "// One block of a (row", tmp_path))
    right = host.Host(build.library(source))
    monkeypatch.setattr(runtime, "current", lambda: right)
    check_everything()


# ---- plain attention ----

Launches = list[tuple[str, tuple[int, int, int]]]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Kernels that are launched from here on and their grids. Features that are not there become all ones: NaN, and
    addresses that nobody may follow."""
    found: Launches = []
    emulator = host.Host(build.library())
    launch: Callable[..., None] = emulator.launch

    def spied(kernel: str, grid: tuple[int, int, int], block: Any, shared_bytes: int, told: Any) -> None:
        found.append((kernel, grid))
        if kernel.startswith("decode") and "features" not in kernel:
            ctypes.memset(ctypes.addressof(told.features), 0xFF, ctypes.sizeof(told.features))
        launch(kernel, grid, block, shared_bytes, told)

    monkeypatch.setattr(emulator, "launch", spied)
    monkeypatch.setattr(runtime, "current", lambda: emulator)
    return found


def drawn(num_rows: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(11)
    k, v = (rng.standard_normal((NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM)) for _ in "kv")
    return k, v, rng.standard_normal((num_rows, NUM_Q_HEADS, HEAD_DIM))


@pytest.mark.parametrize("num_splits", [1, 5])
def test_plain_attention_has_kernels_that_look_at_no_feature(num_splits: int, launched: Launches) -> None:
    """They give the bits of the others on features that change nothing, and read none where all are unreadable."""
    k, v, q = drawn(len(KV_LENS))
    nothing: list[dict[str, Any]] = [
        {},
        {"window": max(KV_LENS)},
        {"q_lens": np.ones(len(KV_LENS), np.int32)},
        {"alibi_slopes": np.zeros(NUM_Q_HEADS, np.float32)},
    ]
    plain, *others = (decode("nhd", "float16", k, v, q, num_splits, **features) for features in nothing)
    for other in others:
        for one, same in zip(plain, other, strict=True):
            np.testing.assert_array_equal(bits(one), bits(same))
    kernels = [kernel for kernel, _ in launched if kernel.startswith("decode")]
    assert kernels == ["decode_float16_int32", *["decode_features_float16_int32"] * len(others)]


@pytest.mark.parametrize("feature", every_feature())
def test_any_feature_is_one_launch_over_rows_heads_and_splits_and_one_that_merges(
    feature: str, launched: Launches
) -> None:
    rows = sum(Q_LENS) if feature in ("q_lens", "tree_mask") else len(KV_LENS)
    asked = {feature, "q_lens"} if feature == "tree_mask" else {feature}
    features = {name: value for name, value in every_feature(np.int64).items() if name in asked}
    decode("hnd", "bfloat16", *drawn(rows), 3, index=np.int64, **features)
    assert launched == [
        ("decode_features_bfloat16_int64", (rows, NUM_Q_HEADS, 3)),
        ("merge_float32_into_bfloat16", (rows, NUM_Q_HEADS, 1)),
    ]


@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_query_token_gets_what_it_gets_as_the_newest_of_its_sequence(
    num_splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, whatever else is asked in the same call."""
    k, v, q = drawn(sum(Q_LENS))
    features = every_feature()
    del features["tree_mask"]
    together = decode("nhd", "float32", k, v, q, num_splits, **features)
    del features["q_lens"]
    for row, (seq, _) in enumerate(sights(None)):
        newer = sum(Q_LENS[: seq + 1]) - 1 - row
        lens = tuple(max(0, length - newer) for length in KV_LENS)
        monkeypatch.setattr("kvconform.tests.cuda_calls.KV_LENS", lens)
        alone = decode("nhd", "float32", k, v, q[row : row + 1].repeat(len(lens), 0), num_splits, **features)
        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(bits(one[row]), bits(other[seq]))
