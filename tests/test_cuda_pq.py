"""The `cuda` kernels of product quantisation, on this CPU, and every instance of them by NVRTC."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvconform.impls import cuda
from kvconform.impls.cuda_kernels import arguments, build, device, host, pq, runtime
from kvconform.impls.host_kernels.pq_splits import SPLITS, num_splits_for
from kvconform.oracles.bound import attention_bound
from kvconform.oracles.verdict import Interval, Violation, by_axes, require
from kvconform.specs.profile import profile_of
from kvconform.tests.cuda_calls import Array, bits, call, random_bits
from kvconform.tests.cuda_pq_calls import (
    CALLS,
    Drawn,
    Made,
    attended,
    decoded,
    drawn,
    in_pages,
    integers,
    nearest,
    packed,
    unpacked,
)
from kvconform.tests.test_cuda import nvrtc_is_missing

SCHEDULES = ("forward", "reversed", "shuffled")
CODE_TYPES = ("uint8", "uint4")
BARRIERS = (build.SOURCES / "pq.cuh").read_text().count("__syncthreads();")
LINES = re.findall(r"^(?:KERNEL|SPLIT)\(.*\)(?=;$)", build.PQ_KERNELS.read_text(), re.MULTILINE)


def name_of(line: str) -> str:
    """The kernel that a line of pq_kernels.cu defines."""
    macro, first, *rest = re.findall(r"[\w:]+", line)
    return first if macro == "KERNEL" else "_".join(["pq_split", first, *rest[1:]])


ANY_SIZES = {name_of(line): line for line in LINES}
KERNELS = [*ANY_SIZES, *pq.INSTANCES]


def judge(made: Made, given: Drawn, out: Array, lse: Array, sm_scale: float = 0.5) -> None:
    """Raises Violation unless every element lies where a kernel of the adapter's own profile can land."""
    splits = made.splits or num_splits_for(max(made.lens))
    profile = replace(profile_of(cuda.ARITHMETIC, made.dtype), splits=splits + 1, out_format=made.dtype)
    q = given.arguments[0].astype(np.float64).reshape(len(made.lens), made.heads, made.group, -1)
    for seq in range(len(made.lens)):
        k, v = given.k[seq][:, None], given.v[seq][:, None]
        want = attention_bound(q[seq], k, v, sm_scale, profile)
        heads = made.heads * made.group
        got = {"out": out[seq].reshape(want.out.shape), "lse": lse[seq].reshape(want.lse.shape)}
        assert out[seq].shape == (heads, made.head_dim)
        axes = ("kv_head", "of_group", "dim")
        expected = {
            "out": Interval(want.out, want.out_error, made.dtype, by_axes(*axes)),
            "lse": Interval(want.lse, want.lse_error, "float32", by_axes(*axes[:2])),
        }
        require(got, expected)


@pytest.mark.parametrize("name", CALLS)
def test_attention_over_codes_is_within_the_bound_of_its_profile(name: str) -> None:
    made = CALLS[name]
    given = drawn(made)
    judge(made, given, *attended(made, given))


EXECUTED = [  # bits, q heads of a group, head_dim, subspaces, centroids
    ("float16", 8, 1, 64, 16, 256),
    ("float16", 8, 4, 128, 64, 256),
    ("float16", 4, 4, 64, 32, 16),
    ("bfloat16", 8, 4, 128, 32, 256),
    ("bfloat16", 4, 1, 128, 64, 16),
]


@pytest.mark.parametrize("layout", pq.LAYOUTS)
@pytest.mark.parametrize(("dtype", "width", "group", "dims", "subspaces", "centroids"), EXECUTED)
def test_instances_with_constant_sizes_are_launched_and_within_the_bound(
    dtype: str, width: int, group: int, dims: int, subspaces: int, centroids: int, layout: str, ran: list[str]
) -> None:
    made = Made(
        layout=layout,
        codes=f"uint{width}",
        dtype=dtype,
        subspaces=subspaces,
        sub_dim=dims // subspaces,
        centroids=centroids,
        page_size=128 if layout == "pq_heads" else 64,
        heads=1,
        group=group,
        lens=(97, 3),
        residual=(2, 1),
    )
    given = drawn(made)
    judge(made, given, *attended(made, given, sm_scale=0.125), sm_scale=0.125)
    assert f"pq_split_{dtype}_{width}_{group}_{dims}_{subspaces}_{centroids}" in ran


def test_instances_have_the_bits_of_the_kernel_for_any_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(subspaces=16, sub_dim=4, centroids=256, lens=(50, 7), residual=(1, 0))
    given = drawn(made)
    exact = attended(made, given)
    monkeypatch.setattr(pq, "INSTANCES", {})
    for one, other in zip(exact, attended(made, given), strict=True):
        np.testing.assert_array_equal(bits(one), bits(other))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("subspaces", "chunks"), [(48, {17: 16, 3: 3}), (7, {3: 3, 1: 1})])
def test_a_table_in_chunks_gives_the_bits_of_a_whole_one(
    subspaces: int, chunks: dict[int, int], splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are added up in one order; tiles are as long in both."""
    monkeypatch.setattr(pq, "TILE", 32)
    monkeypatch.setattr(pq, "LONG_TILE", 32)
    made = Made(subspaces=subspaces, splits=splits, lens=(70, 0, 33, 5))
    given = drawn(made)
    plan = pq.plan_for(book_of(made), pq.HEADS)
    assert plan.chunk == subspaces
    whole = attended(made, given)
    for room, chunk in chunks.items():
        fewer = (subspaces - room) * made.centroids * pq.HEADS * pq.FLOAT_BYTES
        monkeypatch.setattr(pq, "SHARED_BYTES", plan.shared_bytes - fewer)
        assert pq.plan_for(book_of(made), pq.HEADS).chunk == chunk
        for one, other in zip(whole, attended(made, given), strict=True):
            np.testing.assert_array_equal(bits(one), bits(other))


def book_of(made: Made) -> pq._Book:
    books = cuda.to_device(drawn(made).arguments[2])
    return pq._Book.of("k_codebooks", books, made.codes, made.subspaces)


def test_the_greatest_table_of_the_instances_is_made_in_chunks_of_whole_quads() -> None:
    plan = pq.plan_for(book_of(Made(subspaces=64, sub_dim=2, centroids=256)), pq.HEADS)
    assert (plan.chunk, plan.tile) == (16, pq.LONG_TILE)
    assert plan.shared_bytes <= pq.SHARED_BYTES


def test_a_table_of_which_no_subspace_fits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq, "SHARED_BYTES", 1024)
    made = Made()
    with pytest.raises(ValueError, match=r"4 subspaces of 2 dims and 16 centroids need more than the 1024 bytes"):
        attended(made, drawn(made))


# ---- the number of splits ----


@pytest.mark.parametrize("splits", sorted({splits for _, splits in SPLITS}))
def test_every_number_of_splits_that_the_rule_asks_for_can_be_launched(splits: int) -> None:
    made = Made(splits=splits, lens=(65, 31), residual=(2, 0), page_size=16)
    given = drawn(made)
    judge(made, given, *attended(made, given))


@pytest.mark.parametrize("tokens", [64, 65, 257])
def test_a_call_that_leaves_it_open_takes_the_number_of_the_rule(tokens: int) -> None:
    made = Made(lens=(tokens, 3), residual=(1, 0), page_size=16, dtype="float32")
    given = drawn(made)
    left_open = attended(made, given, num_splits=None)
    told = attended(made, given, num_splits=num_splits_for(tokens))
    for one, other in zip(left_open, told, strict=True):
        np.testing.assert_array_equal(bits(one), bits(other))
    assert not np.array_equal(bits(left_open[0]), bits(attended(made, given, num_splits=7)[0]))


# ---- codes ----

VECTORS = [
    (subspaces, sub_dim, centroids, codes)
    for subspaces, sub_dim, centroids in ((1, 8, 3), (3, 1, 2), (6, 3, 16), (64, 2, 16), (16, 4, 256))
    for codes in CODE_TYPES
    if codes == "uint8" or (subspaces % 2 == 0 and centroids <= 16)
]


@pytest.mark.parametrize("dtype", pq.ELEMENTS)
@pytest.mark.parametrize(("subspaces", "sub_dim", "centroids", "codes"), VECTORS)
def test_encode_finds_the_nearest_centroid_the_first_of_several(
    subspaces: int, sub_dim: int, centroids: int, codes: str, dtype: str
) -> None:
    x, books = integers((5, 2, subspaces * sub_dim), dtype, 1), integers((subspaces, centroids, sub_dim), dtype, 2)
    for strides in ("contiguous", "all"):
        got = call("pq_encode", x, books, dtype=codes, num_subspaces=subspaces, strides=strides)
        np.testing.assert_array_equal(got, packed(nearest(x, books), codes))


def test_encode_takes_the_first_centroid_where_nothing_is_nearer_than_infinity() -> None:
    x, books = np.full((1, 1, 4), 3e38, np.float32), np.full((2, 5, 2), -3e38, np.float32)
    np.testing.assert_array_equal(call("pq_encode", x, books), [[[0, 0]]])


@pytest.mark.parametrize("dtype", pq.ELEMENTS)
@pytest.mark.parametrize(("subspaces", "sub_dim", "centroids", "codes"), VECTORS)
def test_decode_puts_centroids_side_by_side_bit_for_bit(
    subspaces: int, sub_dim: int, centroids: int, codes: str, dtype: str
) -> None:
    books = random_bits((subspaces, centroids, sub_dim), dtype)
    drawn_codes = np.random.default_rng(1).integers(0, centroids, (5, 2, subspaces), np.uint8)
    for strides in ("contiguous", "all"):
        got = call("pq_decode", packed(drawn_codes, codes), books, dtype=codes, strides=strides)
        np.testing.assert_array_equal(bits(got), bits(decoded(drawn_codes, books)))


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("codes", CODE_TYPES)
@pytest.mark.parametrize("layout", pq.LAYOUTS)
def test_append_writes_codes_to_their_slots_and_leaves_every_other_bit(layout: str, codes: str, index: str) -> None:
    pages, slots, heads, subspaces, sub_dim = 5, 6, 2, 4, 3
    books = [integers((subspaces, 16, sub_dim), "float16", seed) for seed in (1, 2)]
    k, v = (integers((7, heads, subspaces * sub_dim), "float16", seed) for seed in (3, 4))
    mapping = np.random.default_rng(5).permutation(pages * slots)[:14].reshape(7, 2).astype(index)
    mapping[2, 1], mapping[4, 0] = -1, -1
    cache = {}
    want = {}
    for side, x, book, seed in zip("kv", (k, v), books, (6, 7), strict=True):
        before = random_bits((pages, slots, subspaces), "uint8", seed) & (255 if codes == "uint8" else 15)
        after = before.copy()
        for token, head in np.ndindex(7, 2):
            if 0 <= (slot := int(mapping[token, head])) < pages * slots:
                after[slot // slots, slot % slots] = nearest(x[token, head], book)
        cache[side], want[side] = (
            packed(np.ascontiguousarray(in_pages(array, layout, side)), codes) for array in (before, after)
        )
    told = {"layout": layout, "dtype": codes, "page_size": slots, "num_subspaces": subspaces}
    for strides in ("contiguous", "all"):
        got = call("pq_append", cache, k, v, *books, mapping, strides=strides, **told)
        for side in "kv":
            np.testing.assert_array_equal(got[side], want[side])


def test_slots_that_share_a_byte_are_never_written_by_one_launch(ran: list[str]) -> None:
    books, x = integers((2, 4, 1), "float32", 1), integers((4, 1, 2), "float32", 2)
    mapping = np.arange(4).reshape(4, 1)
    for layout, launches in (("pq_columns", 2), ("pq_rows", 1)):
        ran.clear()
        cache = {"k": np.zeros((1, 4, 1), np.uint8), "v": np.zeros((1, 2, 2) if launches == 2 else (1, 4, 1), np.uint8)}
        got = call("pq_append", cache, x, x, books, books, mapping, layout=layout, dtype="uint4", page_size=4)
        assert len(ran) == launches
        v = in_pages(unpacked(got["v"], "uint4"), layout, "v")
        np.testing.assert_array_equal(v[0], nearest(x[:, 0], books))


def test_kernels_of_product_quantisation_count_among_the_launches_and_compilations() -> None:
    call("pq_encode", integers((1, 1, 2), "float32", 1), integers((1, 2, 2), "float32", 2))
    before = cuda.attest()
    call("pq_encode", integers((2, 1, 2), "float32", 1), integers((1, 2, 2), "float32", 2))
    after = cuda.attest()
    assert after["launches"] == before["launches"] + 1
    assert after["compilations"] == before["compilations"] >= 2
    call("pq_encode", integers((0, 1, 2), "float32", 1), integers((1, 2, 2), "float32", 2))
    assert cuda.attest() == after


# ---- what is refused ----


def spoiled(position: int, change: Callable[[Any], Any], made: Made = CALLS["rows"]) -> Callable[[], Any]:
    """A call of pq_decode_attention with one argument changed."""

    def refused() -> None:
        given = drawn(made)
        arguments = list(given.arguments)
        arguments[position] = change(arguments[position])
        attended(made, replace(given, arguments=tuple(arguments)))

    return refused


def with_first(value: int) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        changed = array.copy()
        changed.flat[0] = value
        return changed

    return change


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "q of another width": (
        spoiled(0, lambda q: q[..., :7]),
        r"q has a head_dim of 7; 4 subspaces of 2 dims make 8",
    ),
    "q of another type": (
        spoiled(0, lambda q: q.astype(np.float32)),
        r"q is float32 of shape \(4, 4, 8\), not float16 of shape \(any, any, any\)",
    ),
    "heads that do not divide": (spoiled(0, lambda q: q[:, :3]), r"3 q heads do not share 2 kv heads evenly"),
    "codes of another type": (
        spoiled(1, lambda cache: {**cache, "k": cache["k"].astype(np.int32)}),
        r"cache\['k'\] is int32 of shape \(50, 4, 4\), not uint8 of shape \(50, 4, 4\)",
    ),
    "V by rows for columns": (
        spoiled(1, lambda cache: {**cache, "v": cache["v"].swapaxes(1, 2)}, replace(CALLS["columns"], page_size=6)),
        r"cache\['v'\] is uint8 of shape \(34, 6, 4\), not uint8 of shape \(34, 4, 6\)",
    ),
    "codebooks that differ": (
        spoiled(3, lambda book: np.repeat(book, 2, -1)),
        r"k_codebooks float16 \(4, 16, 2\) and v_codebooks float16 \(4, 16, 4\) differ in more than centroids",
    ),
    "more centroids than codes": (
        spoiled(2, lambda book: np.repeat(book, 2, 1), CALLS["nibbles by rows"]),
        r"k_codebooks of shape \(4, 32, 2\): of centroids there are 1 to 16 in uint4 codes",
    ),
    "another number of subspaces": (
        spoiled(2, lambda book: book[:3]),
        r"k_codebooks is float16 of shape \(3, 16, 2\), not float16 of shape \(4, any, any\)",
    ),
    "page ids of floats": (spoiled(4, lambda table: table.astype(np.float32)), r"page_ids is of float32, not int32 or"),
    "a page that is not there": (
        spoiled(4, with_first(50)),
        r"head 0 has 50 at 0, and the pool has 50",
    ),
    "more tokens than pages": (
        spoiled(5, with_first(25)),
        r"kv_lens of sequence 0 is 25, and there is room for 0",
    ),
    "fewer than none": (spoiled(5, with_first(-1)), r"kv_lens of sequence 0 is -1, and there is room for 0 to 24"),
    "a residual that is too long": (
        spoiled(8, with_first(7)),
        r"residual_lens of sequence 0 is 7, and there is room for 0 to 6",
    ),
    "no splits": (
        lambda: attended(CALLS["rows"], drawn(CALLS["rows"]), num_splits=0),
        r"num_splits is 0, and there is at least one",
    ),
    "another layout": (
        lambda: attended(CALLS["rows"], drawn(CALLS["rows"]), layout="nhd"),
        r"pages of codes lie as pq_rows, pq_columns, pq_heads, not as 'nhd'",
    ),
    "codes of two bits": (
        lambda: attended(CALLS["rows"], drawn(CALLS["rows"]), dtype="uint2"),
        r"codes are uint8 or uint4, not 'uint2'",
    ),
    "nibbles of three subspaces": (
        lambda: call("pq_encode", np.zeros((1, 1, 3), np.float32), np.zeros((3, 2, 1), np.float32), dtype="uint4"),
        r"3 codes of uint4 do not fill whole bytes",
    ),
    "vectors of doubles": (
        lambda: call("pq_encode", np.zeros((1, 1, 2)), np.zeros((2, 2, 1))),
        r"codebooks are of float64, not one of float32, float16, bfloat16",
    ),
    "codes of another width": (
        lambda: call("pq_decode", np.zeros((1, 1, 3), np.uint8), np.zeros((2, 2, 1), np.float32)),
        r"codes is uint8 of shape \(1, 1, 3\), not uint8 of shape \(any, any, 2\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_is_launched(name: str, ran: list[str]) -> None:
    refused, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        refused()
    assert ran == []


def test_a_slot_mapping_of_another_shape_is_refused_before_anything_is_written(ran: list[str]) -> None:
    books, x = np.zeros((2, 2, 1), np.float32), np.zeros((3, 1, 2), np.float32)
    cache = {side: np.zeros((2, 4, 2), np.uint8) for side in "kv"}
    with pytest.raises(ValueError, match=r"slot_mapping is int64 of shape \(3,\), not int64 of shape \(3, 1\)"):
        call("pq_append", cache, x, x, books, books, np.arange(3), layout="pq_rows", page_size=4)
    with pytest.raises(ValueError, match=r"v is float32 of shape \(2, 1, 2\), not float32 of shape \(3, 1, 2\)"):
        call("pq_append", cache, x, x[:2], books, books, np.arange(3)[:, None], layout="pq_rows", page_size=4)
    assert ran == []


# ---- the kernels changed: what is wrong is seen ----


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes kernels of product quantisation run under a schedule of the emulator: all, or one that is changed."""

    def choose(changed: host.Host | None = None, schedule: str = "in turn") -> None:
        def place(source: Path, define: str) -> host.Host:
            chosen = changed or host.load(source, define)
            chosen.schedule(schedule)
            return chosen

        monkeypatch.setattr(runtime, "further", place)

    return choose


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels of product quantisation that are launched."""
    names: list[str] = []

    class Noted:
        def __init__(self, source: Path, define: str) -> None:
            self.place = host.load(source, define)

        def launch(self, kernel: str, *rest: Any) -> None:
            names.append(kernel)
            self.place.launch(kernel, *rest)

    monkeypatch.setattr(runtime, "further", Noted)
    return names


def rebuilt(kernel: str, change: Callable[[str], str], folder: Path) -> host.Host:
    """One kernel alone, with pq.cuh changed."""
    for path in [*build.SOURCES.glob("*.*h"), build.PQ_KERNELS]:
        folder.joinpath(path.name).write_text(path.read_text())
    (folder / "pq.cuh").write_text(change((folder / "pq.cuh").read_text()))
    return host.Host(build.library(folder / "pq_kernels.cu", define=f"PQ_ONLY={ANY_SIZES[kernel]}"))


def kernel_for(made: Made) -> str:
    return f"pq_split_{made.dtype}_{made.codes[4:]}_{pq.HEADS if made.group > 1 else 1}_0_0_0"


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(source: str) -> str:
        assert source.count(old) == 1, old
        return source.replace(old, new)

    return change


MUTANTS: dict[str, tuple[str, str, str]] = {
    "scores are not scaled": ("rows", "scores[token].of[warp] *= scale;", ";"),
    "the last token of a split is left out": ("rows", "first + share : length;", "first + share - 1 : length;"),
    "finished tiles do not fade": ("tile after tile", "accumulator * fades[head]", "accumulator"),
    "codes of K in another order": ("rows in quads", "add(subspace + i, code)", "add(subspace + (i ^ 1), code)"),
    "V of columns a token late": ("columns in quads", "[(behind + j) * width", "[(behind + (j ^ 1)) * width"),
    "halves of a byte swapped": (
        "nibbles by rows",
        "shift = 4 * static_cast<int>(index % 2)",
        "shift = 4 - 4 * static_cast<int>(index % 2)",
    ),
    "slots paired by subspace": ("nibbles by columns", "codes.paired == BY_SLOT ? slot : subspace;", "subspace;"),
    "heads of a group mixed up": (
        "rows",
        "kv_head * a.group + first_of_group;",
        "first_of_group * a.num_kv_heads + kv_head;",
    ),
    "pages of the first head": ("rows", "index_at(a.page_ids, seq, kv_head,", "index_at(a.page_ids, seq, kv_head * 0,"),
    "one slice of the tokens is lost": ("rows", "int slice = 1; slice < n.slices", "int slice = 2; slice < n.slices"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_outside_the_bound(name: str, tmp_path: Path, on: Callable[..., None]) -> None:
    called, old, new = MUTANTS[name]
    made = replace(CALLS[called], strides="contiguous")
    given = drawn(made)
    on()
    judge(made, given, *attended(made, given))
    on(rebuilt(kernel_for(made), swap(old, new), tmp_path))
    with pytest.raises(Violation):
        judge(made, given, *attended(made, given))


def test_ties_that_go_to_the_highest_are_seen(tmp_path: Path, on: Callable[..., None]) -> None:
    """In that kernel a number is its distance from 255, so that of several equals the last one is the least."""
    x, books = integers((5, 2, 8), "float32", 1), integers((4, 16, 2), "float32", 2)
    on(
        rebuilt(
            "pq_encode_float32_8",
            swap("<< 32 | static_cast<Nearest>(c)", "<< 32 | static_cast<Nearest>(255 - c)"),
            tmp_path,
        )
    )
    assert not np.array_equal(255 - call("pq_encode", x, books), nearest(x, books))


TRIED = replace(CALLS["tile after tile"], lens=(300, 131), residual=(1, 0), heads=1)
"""By this barriers and schedules are tried, and by this:"""


def encoded() -> Array:
    x, books = integers((3, 2, 64 * 2), "float32", 1), integers((64, 16, 2), "float32", 2)
    return np.asarray(call("pq_encode", x, books))


def test_results_have_the_same_bits_under_each_schedule(on: Callable[..., None]) -> None:
    given = drawn(TRIED)
    results = []
    for schedule in SCHEDULES:
        on(schedule=schedule)
        results.append([*attended(TRIED, given), encoded()])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(bits(one), bits(two))


@pytest.mark.parametrize("missing", range(BARRIERS))
def test_some_schedule_sees_a_missing_barrier(missing: int, tmp_path: Path, on: Callable[..., None]) -> None:
    def without(source: str) -> str:
        pieces = source.split("__syncthreads();")
        barriers = ["" if number == missing else "__syncthreads();" for number in range(BARRIERS)]
        return "".join(piece + barrier for piece, barrier in zip(pieces, [*barriers, ""], strict=True))

    encodes = missing == 0  # the first one in the file
    given = drawn(TRIED)
    on()
    right = encoded() if encodes else attended(TRIED, given)[0]
    mutant = rebuilt("pq_encode_float32_8" if encodes else kernel_for(TRIED), without, tmp_path)
    wrong = []
    for schedule in SCHEDULES:
        on(mutant, schedule)
        got = encoded() if encodes else attended(TRIED, given)[0]
        wrong.append(not np.array_equal(bits(got), bits(right)))
    assert any(wrong)


# ---- every instance ----


def test_lines_of_instances_are_all_read_and_named_apart() -> None:
    lines = (build.SOURCES / "pq_instances.cuh").read_text().splitlines()
    assert len([line for line in lines if line.startswith("SPLIT")]) == len(pq.INSTANCES)
    assert [name_of(line) for line in pq.INSTANCES.values()] == list(pq.INSTANCES)


def test_every_type_has_kernels_for_any_sizes() -> None:
    types = [f"{element}_{width}" for element in pq.ELEMENTS for width in pq.BITS.values()]
    coded = [f"pq_{name}_{both}" for name in ("encode", "decode", "append") for both in types]
    attends = [f"pq_split_{both}_{heads}_0_0_0" for both in types for heads in (1, pq.HEADS)]
    assert sorted(ANY_SIZES) == sorted([*coded, *attends])


def test_instances_cover_the_published_table_and_its_neighbours() -> None:
    """MILLION's are float16, codes of 8 bits, head_dim 64 and 128, 32 and 64 subspaces, and 256 centroids."""
    axes = (("float16", "bfloat16"), ("8", "4"), ("1", "4"), ("64", "128"), ("16", "32", "64"))
    centroids = {"8": "256", "4": "16"}
    wanted = {"_".join(["pq_split", *sizes, centroids[sizes[1]]]) for sizes in product(*axes)}
    assert wanted == set(pq.INSTANCES)


def compiled(arch: str, define: str = "") -> set[str]:
    """Names of the kernels that NVRTC makes machine code of, without a warning."""
    image, warnings = device.compiled(arch, build.PQ_KERNELS, define)
    assert warnings == ""
    return {kernel for kernel in KERNELS if b"\0.text." + kernel.encode() + b"\0" in image}


needs_nvrtc = pytest.mark.skipif(nvrtc_is_missing() is not None, reason=str(nvrtc_is_missing()))


@needs_nvrtc
def test_nvrtc_compiles_every_instance_to_machine_code() -> None:
    assert compiled("sm_90") == set(KERNELS)


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_100"])
@pytest.mark.parametrize("kernel", ["pq_split_float16_8_4_128_64_256", "pq_split_bfloat16_4_1_64_16_16"])
def test_nvrtc_compiles_an_instance_alone_as_a_gpu_asks_for_it(kernel: str, arch: str) -> None:
    assert compiled(arch, pq.define_of(kernel)) == {kernel}


def test_kernels_for_any_sizes_are_compiled_together_without_the_other_instances() -> None:
    define = pq.define_of("pq_append_float16_4")
    assert {pq.define_of(kernel) for kernel in ANY_SIZES} == {define}
    place = host.load(build.PQ_KERNELS, define)
    for kernel in KERNELS:
        complaint = "no kernel of that name" if kernel in pq.INSTANCES else "bytes of arguments, not 24"
        with pytest.raises(host.LaunchError, match=complaint):
            place.launch(kernel, (1, 1, 1), (1, 1, 1), 0, arguments.Convert(0, 0, 0))
