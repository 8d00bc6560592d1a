"""Triton kernels: what the suite cannot see from outside.

That a process is compiled or interpreted and says which, that every launch is counted, that numbers are rounded to
nearest and bits are moved as they are, and that the kernels compile for a GPU where there is none.
"""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kvconform.harness.subject import Subject
from kvconform.specs import data, trees
from kvconform.specs.dtypes import DTYPES, host, numbers, width
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.operations import OPERATIONS

torch = pytest.importorskip("torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("no triton", allow_module_level=True)  # not importorskip, which would import it before its mode is set
# our own modules are imported plainly: one that no longer imports is a failure, not a skip
from kvconform.impls import triton_ref  # noqa: E402
from kvconform.impls.torch_kernels import views  # noqa: E402
from kvconform.impls.triton_kernels import COMPILED, POISONED, SPARED, copies, decode, formats, launch, pages  # noqa: E402
from kvconform.tests.test_torch_ref import (  # noqa: E402
    GIVEN,
    IN_FORMS,
    LENT,
    OTHERS,
    STORED,
    name_of,
    require_no_copy,
    require_right,
    require_that_scales_are_those_of_a_page,
    require_that_scales_count,
    small,
)

import triton  # noqa: E402  isort: skip  (after the kernels, which choose its mode)
import triton.language as tl  # noqa: E402  isort: skip

SUBJECT = Subject(triton_ref, "triton_ref", triton_ref.__file__)
TREE = Path(__file__).resolve().parent.parent
BOUND = f"import runpy; runpy.run_path({str(TREE / 'conftest.py')!r}); "


def child(code, **environment):
    """A Python that ends with this tree bound and `code` run; what is not told of Triton's mode is unset."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "KVCONFORM_TRITON")}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", BOUND + code],
        env=inherited | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- one mode a process


def test_a_mode_that_cannot_be_is_refused_in_a_sentence():
    adapter = "from kvconform.impls import triton_ref"
    refused = {
        "KVCONFORM_TRITON is 'emulated'; it is compiled, interpreted or unset": child(
            adapter, KVCONFORM_TRITON="emulated"
        ),
        "triton was imported before kvconform.impls.triton_kernels, and not as interpreted": child(
            f"import triton; {adapter}", KVCONFORM_TRITON="interpreted"
        ),
    }
    if not torch.cuda.is_available():
        no_gpu = "KVCONFORM_TRITON is compiled, but Triton finds no GPU"
        refused[no_gpu] = child(adapter, KVCONFORM_TRITON="compiled")
    for sentence, process in refused.items():
        errors = process.communicate()[1]
        assert process.returncode == 1
        assert sentence in errors


def test_attest_says_how_kernels_run():
    told = triton_ref.attest()
    assert told["mode"] == ("compiled" if COMPILED else "interpreted")
    assert isinstance(tl.zeros, triton.runtime.JITFunction) is COMPILED
    on_device(np.zeros((2, 1, 8), np.float32))
    k = on_device(np.zeros((2, 1, 8), np.float32))
    triton_ref.merge_kv(k, k)
    assert bool(triton_ref.attest()["compilations"]) is COMPILED


# --- launches


def on_device(value):
    """A handle, or a cache of handles."""
    if isinstance(value, dict):
        return {name: triton_ref.to_device(array) for name, array in value.items()}
    return triton_ref.to_device(value)


def test_every_launch_is_counted():
    def launched_by(operation, *arguments, **keywords):
        before = triton_ref.attest()["launches"]
        operation(*map(on_device, arguments), **keywords)
        return triton_ref.attest()["launches"] - before

    k, pairs = np.zeros((4, 2, 8), np.float32), np.array([[0, 1]], np.int32)
    cache = dict.fromkeys("kv", np.zeros((2, 8, 2, 8), np.float32))
    q, lens = np.zeros((1, 2, 8), np.float32), np.array([3], np.int32)
    table = np.zeros((1, 2), np.int32)
    attend = partial(launched_by, triton_ref.paged_decode, q, cache, table, lens)
    assert launched_by(triton_ref.merge_kv, k, k) == 1
    assert launched_by(triton_ref.merge_kv, k, k) == 1, "compiled before, launched again"
    assert launched_by(triton_ref.merge_kv, k[:0], k[:0]) == 0, "nothing to do"
    assert launched_by(triton_ref.append, cache, k, k, np.arange(4), layout="nhd") == 2, "K and V"
    assert launched_by(triton_ref.gather, cache, table, lens, layout="nhd") == 2, "K and V"
    assert launched_by(triton_ref.copy_pages, cache, pairs, layout="nhd") == 4, "each buffer out and in again"
    assert launched_by(triton_ref.copy_pages, cache, pairs[:0], layout="nhd") == 0, "nothing to do"
    assert attend(layout="nhd", sm_scale=1.0, num_splits=1) == 1
    assert attend(layout="nhd", sm_scale=1.0, num_splits=2) == 2, "the parts, and their merge"
    per_head, lengths = on_device(np.ones(2, np.float32)), on_device(np.array([1], np.int32))
    features = {"window": 2, "soft_cap": 2.0, "sinks": per_head, "alibi_slopes": per_head, "q_lens": lengths}
    features |= {"tree_mask": on_device(np.ones((1, 1), bool))}
    assert attend(layout="nhd", sm_scale=1.0, num_splits=1, **features) == 1, "no feature takes a kernel of its own"
    assert attend(layout="nhd", sm_scale=1.0, num_splits=2, **features) == 2


# --- rounding


@launch.kernel()
def _convert(source, target, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    wide = formats.widen(tl.load(source + at))
    tl.store(target + at, formats.narrow(wide, target.dtype.element_ty))


def converted(array, dtype):
    """The numbers of an array in another format, by way of float32."""
    target = on_device(np.zeros(array.shape, DTYPES[dtype]))
    size = 1024
    launch.launch(_convert, (array.size // size,), on_device(array), target, SIZE=size)
    return triton_ref.to_host(target)


def same_numbers(got, want):
    """The same bits; of a NaN, that it is one."""
    is_nan = np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), is_nan)
    bits = f"u{want.itemsize}"
    np.testing.assert_array_equal(got.view(bits)[~is_nan], want.view(bits)[~is_nan])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_widening_is_exact_on_every_bit_pattern(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype])
    same_numbers(converted(every, "float32"), every.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.filterwarnings("ignore:.* encountered in cast")  # numpy says so of infinities and NaN
def test_narrowing_rounds_to_nearest_even_beside_every_number_and_every_middle(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype]).astype(np.float32)
    towards = every.view(np.uint32)
    middle = {"float16": 1 << 12, "bfloat16": 1 << 15}[dtype]
    for step in (-1, 0, 1, middle - 1, middle, middle + 1):
        near = (towards + np.uint32(step % 2**32)).view(np.float32)
        same_numbers(converted(near, dtype), near.astype(DTYPES[dtype]))


# --- every bit pattern


def every_pattern(dtype, shape):
    """K and V, which differ everywhere and hold every bit pattern of an 8- or 16-bit type; of float32 many."""
    if DTYPES[dtype].itemsize == 4:
        return tuple(data.bits(dtype, data.hashes(3, side, *data.grid(*shape))) for side in "kv")
    return data.patterns(dtype, shape, 0), data.patterns(dtype, shape, 1)


def same_bits(got, want):
    got = triton_ref.to_host(got)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.view(f"u{got.itemsize}"), want.view(f"u{want.itemsize}"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fusing_keeps_every_bit_pattern(dtype):
    k, v = every_pattern(dtype, (16, 4, 1024))
    kv = triton_ref.merge_kv(*map(triton_ref.to_device, (k, v)))
    same_bits(kv, np.stack([k, v], axis=2).reshape(16, 8, 1024))
    same_bits(triton_ref.extract_k(kv), k)
    same_bits(triton_ref.extract_v(kv), v)


KEPT = [(layout, dtype) for layout in ("nhd", "interleaved", "split_x", "packed") for dtype in LAYOUTS[layout].dtypes]


@pytest.mark.parametrize(("layout", "dtype"), KEPT)
def test_append_and_gather_keep_every_bit_pattern(layout, dtype):
    k, v = every_pattern(dtype, (16, 4, 1024))
    row = LAYOUTS[layout]
    sizes, told = {"page": 4, "slot": 4, "head": 4, "dim": 1024}, {"num_kv_heads": 4, "head_dim": 1024}
    empty = {name: np.zeros(row.shape(name, sizes, dtype), DTYPES[dtype]) for name in row.buffers}
    order = np.arange(16, dtype=np.int32).reshape(4, 4)[::-1]  # the last page first
    cache = triton_ref.append(*map(on_device, (empty, k, v, order.ravel())), layout=layout, **told)
    table, lens = map(on_device, (np.array([[3, 2, 1, 0]], np.int32), np.array([16], np.int32)))
    for got, want in zip(triton_ref.gather(cache, table, lens, layout=layout, **told), (k, v), strict=True):
        same_bits(got, want)


# --- several programs, several cuts


def test_pages_of_many_programs_are_all_swapped():
    """A program copies a block of one page, and must not write what another has still to read."""
    num_pages, page = 4, (3, copies.ELEMENTS - 1)
    before = np.arange(num_pages * 3 * page[1], dtype=np.int32).reshape(num_pages, *page)
    order = np.arange(num_pages)
    swaps = np.stack([order, order[::-1]], axis=1)
    after = triton_ref.copy_pages(on_device({"codes": before.copy()}), on_device(swaps), layout="code_rows")
    np.testing.assert_array_equal(triton_ref.to_host(after["codes"]), before[::-1])


NOWHERE = 39
"""A page that nobody may read: its K and V are NaN."""


def attended(num_q_heads, kv_lens, q_lens, table, negated=(), **told):
    """Results of paged_decode on the host, of the same numbers for as many query tokens.

    negated   a page and slot where K and V have the other sign
    """
    drawn = np.random.default_rng(0).standard_normal
    q, cache = drawn((sum(q_lens), num_q_heads, 24)), {side: drawn((NOWHERE + 1, 4, 2, 24)) for side in "kv"}
    for buffer in cache.values():
        buffer[NOWHERE] = np.nan
        if negated:
            buffer[negated] *= -1
    told |= {"sinks": np.linspace(-1, 1, num_q_heads), "sm_scale": 0.5, "layout": "nhd"}
    lens = [np.array(one, np.int32) for one in (kv_lens, q_lens)]
    q, k, v, sinks = (on_device(one.astype(np.float32)) for one in (q, cache["k"], cache["v"], told.pop("sinks")))
    kv_lens, q_lens, table = map(on_device, (*lens, table.astype(np.int32)))
    got = triton_ref.paged_decode(q, {"k": k, "v": v}, table, kv_lens, q_lens=q_lens, sinks=sinks, **told)
    return [triton_ref.to_host(one) for one in got]


@pytest.mark.parametrize("num_q_heads", [2, 6])
@pytest.mark.parametrize("capped", [{}, {"soft_cap": 1.0}])
def test_a_query_token_gets_the_bits_that_it_gets_alone(num_q_heads, capped):
    """Ragged, which compiled shapes are not drawn: several blocks a sequence, one sequence without a query token, one
    with more of them than keys."""
    q_lens, kv_lens = (1, 11, 0, 3, 7), (3, 40, 9, 20, 5)
    table = np.arange(50).reshape(5, 10) % NOWHERE
    seq_of, newer = np.repeat(np.arange(5), q_lens), np.concatenate([np.arange(n)[::-1] for n in q_lens])
    seen = np.maximum(np.array(kv_lens)[seq_of] - newer, 0)
    together = attended(num_q_heads, kv_lens, q_lens, table, **capped)
    alone = attended(num_q_heads, seen, (1,) * len(seen), table[seq_of], **capped)
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("num_splits", [1, 5])
def test_a_draft_changes_the_query_tokens_that_see_it_and_no_bit_of_any_other(num_splits):
    """Trees of several sizes, one in more than a block, beside a sequence without query tokens; True in columns that
    are no token's."""
    q_lens, kv_lens = (3, 11, 0, 5), (3, 20, 9, 17)
    table = np.arange(20).reshape(4, 5)
    squares = [trees.ancestry(trees.parents(0, seq, size)) for seq, size in enumerate(q_lens)]
    mask = np.concatenate([np.pad(one, ((0, 0), (0, 11 - len(one))), constant_values=True) for one in squares])
    told = {"tree_mask": on_device(mask), "num_splits": num_splits}
    before = attended(4, kv_lens, q_lens, table, **told)
    for seq, (size, num_keys) in enumerate(zip(q_lens, kv_lens, strict=True)):
        for token in range(size):
            position = num_keys - size + token
            where = table[seq, position // 4], position % 4
            after = attended(4, kv_lens, q_lens, table, where, **told)
            want = np.zeros(sum(q_lens), bool)
            want[sum(q_lens[:seq]) :][:size] = squares[seq][:, token]
            for one, other in zip(before, after, strict=True):
                np.testing.assert_array_equal((one != other).any(tuple(range(1, one.ndim))), want)


@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_page_that_no_query_token_has_in_its_window_is_not_looked_up(num_splits):
    kv_lens, q_lens, told = (35, 23), (5, 2), {"window": 3, "num_splits": num_splits}
    table = np.arange(18).reshape(2, 9)
    whole = attended(4, kv_lens, q_lens, table, **told)
    oldest = [n - tokens - (told["window"] - 1) for n, tokens in zip(kv_lens, q_lens, strict=True)]
    for entries, first in zip(table, oldest, strict=True):
        entries[: first // 4] = NOWHERE
    assert (table == NOWHERE).sum(axis=1).tolist() == [7, 4]
    for got, want in zip(attended(4, kv_lens, q_lens, table, **told), whole, strict=True):
        np.testing.assert_array_equal(got, want)


# --- K and V that are no plain numbers


@launch.kernel()
def _read(source, number, byte, target, SIZE: tl.constexpr, OF: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(target + at, formats.read(source + at * number, at % 3 < 2, byte, at % 2, OF))


@pytest.mark.parametrize("of", ["float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e8m0fnu"])
@pytest.mark.filterwarnings("ignore:.* encountered in cast")  # numpy says so of infinities and NaN
def test_numbers_are_read_from_bytes_of_every_pattern_wherever_they_lie(of):
    """Every second byte is another's, and what is masked is 0."""
    size = width(of) // 8
    codes = np.arange(2**16).astype(f"u{size}") << np.array(13 * (size == 4), f"u{size}")
    spread = np.full((*codes.shape, size, 2), 0xFF, np.uint8)
    spread[..., 0] = codes.view(np.uint8).reshape(-1, size)
    wide = numbers(of, codes.view(host(of))).astype(np.float32)
    same_numbers(read_as(of, spread, 2 * size, 2), np.where(np.arange(2**16) % 3 < 2, wide, np.float32(0)))


@pytest.mark.parametrize("of", ["uint4", "float4_e2m1fn"])
def test_numbers_of_half_a_byte_are_read_low_and_high(of):
    codes = np.arange(2**8, dtype=np.uint8)
    wide = np.stack([numbers(of, codes & 15), numbers(of, codes >> 4)], 1).ravel().astype(np.float32)
    got = read_as(of, np.repeat(np.tile(codes, 128), 2), 1, 0)
    same_numbers(got, np.where(np.arange(2**16) % 3 < 2, np.tile(wide, 128), np.float32(0)))


def read_as(of, array, number, byte):
    """2**16 numbers of an array, so many bytes from one to the next, every third one masked."""
    target, size = on_device(np.full(2**16, -1, np.float32)), 1024
    launch.launch(_read, (2**16 // size,), on_device(array.ravel()), number, byte, target, SIZE=size, OF=of)
    return triton_ref.to_host(target)


@pytest.mark.parametrize("case", [*GIVEN, *STORED, *OTHERS, *IN_FORMS], ids=name_of)
def test_attention_takes_codes_latents_and_widths_for_what_they_are(case):
    require_right(SUBJECT, case)


@pytest.mark.parametrize("case", [*GIVEN, *STORED], ids=name_of)
def test_a_scale_that_is_left_out_is_missed(case, monkeypatch):
    require_that_scales_count(triton_ref, case, monkeypatch)


@pytest.mark.parametrize("case", [case for case in IN_FORMS if case.kv_scales != "none"], ids=name_of)
def test_scales_of_other_pages_are_missed_whatever_the_form_of_the_table(case):
    require_that_scales_are_those_of_a_page(triton_ref, case)


def test_a_program_takes_fewer_tasks_where_tensors_would_grow_too_large():
    case = small("mla_656", "float8_e4m3fn", num_kv_heads=1, head_dim=512, q_lens=(4, 1, 4), num_splits=7)
    products = 32 * 8 * decode.TILE * case.head_dim  # of as many tasks as there are splits of blocks of rows
    assert products > decode.MOST_PRODUCTS
    require_right(SUBJECT, case)


@pytest.mark.parametrize("op", [pytest.param(op, marks=LENT) for op in ("append", "gather")])
def test_a_pool_of_two_gigabytes_is_not_copied(op):
    require_no_copy(SUBJECT, op)


@pytest.mark.parametrize(
    ("layout", "dtype", "k_cuts", "v_cuts"),
    [
        ("nhd", "bfloat16", (0, 0, 0), (0, 0, 0)),
        ("split_x", "bfloat16", (0, 0, 8), (0, 0, 0)),
        ("shuffled_v", "bfloat16", (0, 0, 8), (8, 0, 0)),
        ("packed", "float32", (0, 0, 0), (0, 0, 0)),
        ("packed", "bfloat16", (0, 0, 0), (0, 0, 0)),
        ("packed", "int8", (0, 2, 0), (0, 2, 0)),
        ("packed_hd64", "int8", (0, 4, 0), (0, 4, 0)),
        ("tokens_last", "bfloat16", (0, 0, 2), (0, 0, 2)),
    ],
)
def test_a_kernel_divides_only_along_what_a_layout_cuts(layout, dtype, k_cuts, v_cuts):
    row = LAYOUTS[layout]
    sizes = {"page": 2, "slot": 16, "head": 8, "dim": 64, **row.fixed}
    cache = on_device({name: np.zeros(row.shape(name, sizes, dtype), DTYPES[dtype]) for name in row.buffers})
    (k,), (v,) = views.sides(cache, layout)
    assert (tuple(pages.cuts(k.tensor).values()), tuple(pages.cuts(v.tensor).values())) == (k_cuts, v_cuts)


def kinds(name):
    """What the kernels are told of a row beside strides, in each dtype: of a view, and in attention of K and V."""
    row = LAYOUTS[name]
    sizes = {"page": 2, "slot": 32, "head": 8, "dim": 128, "dim_v": 64, "subspace": 8, **row.fixed}
    told = {"num_kv_heads": sizes["head"], "head_dim": sizes["dim"], "page_size": sizes["slot"]}
    told |= {"head_dim_v": sizes["dim_v"]}
    found = set()
    for dtype in row.dtypes:
        cache = on_device({b: np.zeros(row.shape(b, sizes, dtype), row.word_of(b, dtype)) for b in row.buffers})
        views_of = views.sides(cache, name, **told)
        cut = [[tuple(map(bool, pages.cuts(view.tensor).values())) for view in side] for side in views_of]
        found |= {(row.contiguous, row.pairs_pages, one) for side in cut for one in side}
        found |= {(*k, *v) for k, v in [cut] if v}
    return found


def test_rows_that_are_left_out_differ_from_offered_ones_in_strides_alone():
    offered = triton_ref.OFFERS["append"]["layout"]
    left_out = set(views.ROWS) - offered
    assert left_out == {name for name, why in triton_ref.WHY_NOT.items() if "differs from it in strides alone" in why}
    seen = set().union(*map(kinds, offered))
    assert {name for name in left_out if kinds(name) - seen} == set()
    assert kinds("shuffled_v") - set().union(*map(kinds, offered - {"shuffled_v"})), "there are kinds of one row"


# --- a GPU, without one


def compiled_ahead(folder):
    """What `triton_ahead` says it compiled; its cache is new, so that every kernel really was."""
    process = child(
        "from kvconform.tests import triton_ahead; triton_ahead.main()",
        KVCONFORM_TRITON="compiled",
        TRITON_CACHE_DIR=str(folder),
    )
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(told)


@pytest.mark.longest
def test_every_offered_cell_compiles_for_a_hopper_gpu_and_rounds_as_ARITHMETIC_says(tmp_path):
    """One test: two processes that test side by side would compile everything twice."""
    hopper = compiled_ahead(tmp_path)
    every_cell_is_machine_code(hopper)
    what_only_the_interpreter_runs_does_not_compile(hopper)
    attention_rounds_as_declared(hopper)


def every_cell_is_machine_code(hopper):
    asked = {
        f"{op} {row.name} {dtype}"
        for op, offer in triton_ref.OFFERS.items()
        for row in OPERATIONS[op].layouts
        for dtype in row.dtypes
        if row.name in offer.get("layout", {row.name}) and dtype in offer.get("dtype", {dtype})
    }
    assert set(hopper["cells"]) == asked
    for cell, images in hopper["cells"].items():
        assert images, cell
        assert [one["error"] for one in images if "error" in one] == [], cell
        assert all(one["is_elf"] for one in images), cell


def what_only_the_interpreter_runs_does_not_compile(hopper):
    assert hopper["control"]["kernel"] == "only_interpreted"
    assert hopper["control"]["error"].startswith("CompilationError")


def attention_rounds_as_declared(hopper):
    attends = {"_decode", "_split", "_residual", "_merge"}
    attention = [one for images in hopper["cells"].values() for one in images if one["kernel"] in attends]
    assert {one["kernel"] for one in attention} == attends
    for one in attention:  # divisions to nearest, logf of libdevice, no tensor core
        assert one["instructions"] == ["div.rn", "ex2.approx.f32"]
    codes = [one for images in hopper["cells"].values() for one in images if one["kernel"] in ("_encode", "_table")]
    assert codes
    assert [one["instructions"] for one in codes if one["instructions"]] == []


@pytest.mark.skipif(COMPILED, reason="what it is about is undefined on a GPU")
def test_a_masked_load_without_other_is_no_zero_in_the_interpreter():
    """A GPU leaves such lanes undefined; a kernel that counts on 0 there must not look right here."""
    assert POISONED
    assert SPARED

    @triton.jit
    def copies(source, target, size, block: tl.constexpr):
        lane = tl.arange(0, block)
        tl.store(target + lane, tl.load(source + lane, mask=lane < size))

    source, target = torch.arange(1.0, 9.0), torch.zeros(8)
    copies[(1,)](source, target, 5, 8)
    assert target[:5].tolist() == [1, 2, 3, 4, 5]
    assert target[5:].isnan().all()
