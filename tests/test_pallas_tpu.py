"""Pallas-TPU kernels: what the suite cannot see from outside.

That the interpreter's alarms ring (positive controls), that they are errors here, that launches are counted one by one,
that movement keeps every bit pattern there is, and that the kernels lower for a TPU.
"""

import functools
import itertools

import numpy as np
import pytest

from kvconform.specs.dtypes import DTYPES
from kvconform.specs.trees import ancestry

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
pl = pytest.importorskip("jax.experimental.pallas")
pltpu = pytest.importorskip("jax.experimental.pallas.tpu")
sharding = pytest.importorskip("jax.sharding")
# our own modules are imported plainly: one that no longer imports is a failure, not a skip
from kvconform.impls import pallas_tpu  # noqa: E402
from kvconform.impls.pallas_kernels import decode, launch, merge, movement, pq  # noqa: E402

interpreted_only = pytest.mark.skipif(launch.COMPILED, reason="the interpreter's alarms; there is a TPU here")


# --- the interpreter's alarms


@functools.partial(jax.jit, static_argnames=("waits_first", "interpret"))
def fetched(x, *, waits_first, interpret):
    """A copy of x by way of a buffer that is read after its DMA was waited for, or before."""

    def kernel(x_ref, out_ref, buffer, done):
        copy = pltpu.make_async_copy(x_ref, buffer, done)
        copy.start()
        if waits_first:
            copy.wait()
            out_ref[...] = buffer[...]
        else:
            out_ref[...] = buffer[...]
            copy.wait()

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        in_specs=[movement.IN_HBM],
        scratch_shapes=[pltpu.VMEM(x.shape, x.dtype), pltpu.SemaphoreType.DMA],
        interpret=interpret,
    )(x)


@functools.partial(jax.jit, static_argnames="interpret")
def row_of(x, row, *, interpret):
    """One row of x, wherever that is."""

    def kernel(row_ref, x_ref, out_ref):
        out_ref[...] = x_ref[pl.ds(row_ref[0], 1), :]

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((1, x.shape[1]), x.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1, in_specs=[pl.BlockSpec(memory_space=pltpu.VMEM)], out_specs=pl.BlockSpec()
        ),
        interpret=interpret,
    )(row, x)


@functools.partial(jax.jit, static_argnames="interpret")
def unwritten(x, *, interpret):
    """A result that the kernel forgets."""
    return pl.pallas_call(
        lambda x_ref, out_ref: None, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=interpret
    )(x)


X = np.arange(1, 1 + 8 * 128, dtype=np.float32).reshape(8, 128)


@interpreted_only
def test_a_read_after_the_wait_is_right_and_no_race():
    np.testing.assert_array_equal(launch.launch(fetched, X, waits_first=True), X)


@interpreted_only
def test_a_read_before_the_wait_sees_nan():
    assert np.isnan(fetched(X, waits_first=False, interpret=launch.INTERPRET)).all()


@interpreted_only
def test_a_read_before_the_wait_is_a_race_and_an_error(capfd):
    with pytest.raises(launch.RaceError, match="fetched: the interpreter printed the two accesses"):
        launch.launch(fetched, X, waits_first=False)
    assert "RACE DETECTED" in capfd.readouterr().out
    test_a_read_after_the_wait_is_right_and_no_race()


@interpreted_only
def test_a_read_out_of_bounds_raises_and_the_next_kernel_runs():
    inside, outside = np.array([7], np.int32), np.array([8], np.int32)
    with pytest.raises(Exception, match="Out-of-bounds read"):
        launch.launch(row_of, X, outside)
    np.testing.assert_array_equal(launch.launch(row_of, X, inside), X[7:])


@interpreted_only
def test_memory_that_nobody_wrote_is_nan():
    assert np.isnan(launch.launch(unwritten, X)).all()


@interpreted_only
def test_options_that_xla_does_not_know_are_left_out():
    known = launch._known(launch.QUICKER)
    assert "xla_backend_optimization_level" in known
    assert launch._known({"xla_there_is_no_such_option": 1} | launch.QUICKER) == known


# --- launches


def on_device(value):
    """A handle, or a cache of handles."""
    if isinstance(value, dict):
        return {name: pallas_tpu.to_device(array) for name, array in value.items()}
    return pallas_tpu.to_device(value)


def test_every_launch_is_counted():
    def launched_by(operation, *arguments, **keywords):
        before = pallas_tpu.attest()["launches"]
        operation(*map(on_device, arguments), **keywords)
        return pallas_tpu.attest()["launches"] - before

    heads, dim = 2, min(pallas_tpu.OFFERS["merge_kv"]["head_dim"])
    k = np.zeros((4, heads, dim), np.float32)
    cache = dict.fromkeys("kv", np.zeros((2, 8, heads, dim), np.float32))
    q, lens = np.zeros((1, heads, dim), np.float32), np.array([3], np.int32)
    attend = functools.partial(launched_by, pallas_tpu.paged_decode, q, cache, np.zeros((1, 2), np.int32), lens)
    assert launched_by(pallas_tpu.merge_kv, k, k) == 1
    assert launched_by(pallas_tpu.merge_kv, k, k) == 1, "compiled before, launched again"
    assert launched_by(pallas_tpu.copy_pages, cache, np.array([[0, 1]], np.int32), layout="nhd") == 1
    assert launched_by(pallas_tpu.copy_pages, cache, np.zeros((0, 2), np.int32), layout="nhd") == 0
    assert attend(layout="nhd", sm_scale=1.0, num_splits=1) == 1
    assert attend(layout="nhd", sm_scale=1.0, num_splits=2) == 2, "the parts, and their merge"


# --- features of attention


def attended(table=((0, 1), (2, 3)), q_len=1, spoilt="", negated=(), **features):
    """out and lse of two sequences of two pages of eight slots, in two splits.

    spoilt    fields whose keys older than the newest four are NaN
    negated   a page and slot where K and V have the other sign
    """
    heads, dim, lens = 2, min(pallas_tpu.OFFERS["paged_decode"]["head_dim"]), (11, 16)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((2 * q_len, 4, dim), *[(4, 8, heads, dim)] * 2))
    for field in ({"k": k, "v": v}[name] for name in spoilt):
        field[0, :7] = field[2] = field[3, :4] = np.nan
    for field in (k, v) if negated else ():
        field[negated] *= -1
    tables = (np.array(array, np.int32) for array in (table, lens))
    given = {name: on_device(x) if isinstance(x, np.ndarray) else x for name, x in features.items()}
    called = map(on_device, (q, {"k": k, "v": v}, *tables))
    return [*map(np.asarray, pallas_tpu.paged_decode(*called, layout="nhd", sm_scale=0.5, num_splits=2, **given))]


def of_heads(*values):
    return np.array(values, np.float32)


FEATURES = [
    {"window": 3},
    {"window": 12},
    {"soft_cap": 2.0},
    {"sinks": of_heads(1, 2, 3, 4)},
    {"alibi_slopes": of_heads(1, 0.5, 0.25, 0.125)},
    {"window": 5, "soft_cap": 1.0, "sinks": of_heads(0, 1, 0, 1), "alibi_slopes": of_heads(1, 1, 0.5, 0.5)},
]


def test_one_compilation_serves_every_feature_and_value():
    plain = attended()
    before = launch.compilations()
    others = [attended(**features) for features in FEATURES]
    assert launch.compilations() == before
    for features, other in zip(FEATURES, others, strict=True):
        assert not np.array_equal(other[0], plain[0]), features


def test_a_feature_that_changes_nothing_changes_no_bit():
    plain = attended(q_len=2)
    idle = {"window": 17, "sinks": of_heads(*[-np.inf] * 4), "alibi_slopes": np.zeros(4, np.float32)}
    idle["tree_mask"] = np.ones((4, 2), bool)
    for got, want in zip(attended(q_len=2, q_lens=np.array([2, 2], np.int32), **idle), plain, strict=True):
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_a_draft_changes_the_query_tokens_that_see_it_and_no_bit_of_any_other():
    squares = [ancestry(np.array(parents)) for parents in ((0, 0, 1, 0, 2), (0, 0, 0, 1, 1))]
    told = {"q_len": 5, "q_lens": np.array([5, 5], np.int32), "tree_mask": np.concatenate(squares)}
    before = attended(**told)
    for seq, num_keys in enumerate((11, 16)):
        for token in range(5):
            page, slot = divmod(num_keys - 5 + token, 8)
            after = attended(negated=(2 * seq + page, slot), **told)
            want = np.zeros((2, 5), bool)
            want[seq] = squares[seq][:, token]
            for one, other in zip(before, after, strict=True):
                np.testing.assert_array_equal((one != other).any(tuple(range(1, one.ndim))), want.ravel())


@pytest.mark.parametrize("field", "kv")
def test_keys_that_no_query_token_sees_may_hold_nan(field):
    """They share a page with keys that are seen."""
    for got, want in zip(attended(q_len=2, window=3, spoilt=field), attended(q_len=2, window=3), strict=True):
        np.testing.assert_array_equal(got, want)
    assert np.isnan(attended(q_len=2, window=4, spoilt=field)[0]).any()


@interpreted_only
def test_pages_that_no_query_token_sees_are_not_read():
    """Page 99 is none: a read of it raises."""
    features = {"q_len": 2, "window": 4}
    for got, want in zip(attended(((0, 1), (99, 3)), **features), attended(**features), strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(Exception, match="Out-of-bounds read"):
        attended(((0, 1), (99, 3)), q_len=2, window=8)


def test_query_tokens_that_are_not_as_many_of_each_sequence_are_refused():
    with pytest.raises(ValueError, match=r"as many query tokens of each sequence, not q_lens \[1 3\]"):
        attended(q_len=2, q_lens=np.array([1, 3], np.int32))


# --- narrow caches, and rows whose K and V are not alike


NARROW = sorted(pallas_tpu.OFFERS["paged_decode"]["dtype"] & {"float8_e4m3fn", "int8"})
TWO_LENS, TABLE_OF = np.array([11, 16], np.int32), np.array([[3, 1], [2, 0]], np.int32)


def attended_to(cache, q, layout="nhd", lens=TWO_LENS, **keywords):
    """out and lse of two sequences of two pages of eight slots; every array in keywords goes to the device."""
    given = {name: on_device(x) if isinstance(x, np.ndarray) else x for name, x in keywords.items()}
    called = map(on_device, (q.astype(DTYPES["bfloat16"]), cache, TABLE_OF, lens))
    got = pallas_tpu.paged_decode(*called, layout=layout, sm_scale=0.25, num_splits=2, **given)
    return [np.asarray(one).astype(np.float32) for one in got]


def codes(seed):
    """K and V of small integers [page, slot, head, dim], and queries."""
    heads, dim = 2, min(pallas_tpu.OFFERS["paged_decode"]["head_dim"])
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-8, 9, (4, 8, heads, dim)) for name in "kv"}, rng.standard_normal((2, 2 * heads, dim))


def shared(kv_scales, seed):
    """Powers of two, one for all, one a head, a page and head, or a slot and head; NaN where no token lives."""
    shape = {"tensor": (1,), "head": (2,), "page": (4, 2), "token": (4, 8, 2)}[kv_scales]
    made = np.exp2(np.random.default_rng(seed).integers(-3, 0, shape)).astype(np.float32)
    if kv_scales == "token":
        made[1, 3:] = np.nan  # the second page of a sequence of 11 keys
    return made


def everywhere(scale):
    """An entry a slot and head."""
    return np.broadcast_to(scale[:, None] if scale.ndim == 2 else scale, (4, 8, 2)).astype(np.float32)


@pytest.mark.parametrize("kv_scales", ["tensor", "head", "page", "token"])
@pytest.mark.parametrize("dtype", NARROW)
def test_numbers_of_a_narrow_cache_are_codes_times_the_scale_of_their_place(dtype, kv_scales):
    """Bit for bit as if the products, which bfloat16 holds, lay in the cache."""
    numbers, q = codes(seed=1)
    scales = [shared(kv_scales, seed) for seed in (1, 2)]
    narrow = {name: array.astype(DTYPES[dtype]) for name, array in numbers.items()}
    wide = {
        name: (narrow[name].astype(np.float32) * np.nan_to_num(everywhere(scale))[..., None]).astype(DTYPES["bfloat16"])
        for name, scale in zip("kv", scales, strict=True)
    }
    got = attended_to(narrow, q, k_scale=scales[0], v_scale=scales[1])
    for one, other in zip(got, attended_to(wide, q), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(got[0], attended_to(narrow, q, k_scale=scales[0])[0])
    assert not np.array_equal(got[1], attended_to(narrow, q, v_scale=scales[1])[1])


def test_one_compilation_serves_scales_of_every_kind_and_none():
    numbers, q = codes(seed=1)
    narrow = {name: array.astype(np.int8) for name, array in numbers.items()}
    plain = attended_to(narrow, q)
    before = launch.compilations()
    for kv_scales in ("tensor", "head", "page", "token"):
        ones = np.ones_like(shared(kv_scales, 0))
        for got, want in zip(attended_to(narrow, q, k_scale=ones, v_scale=ones), plain, strict=True):
            np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))
    assert launch.compilations() == before


@pytest.mark.parametrize("side", ["k_scale", "v_scale"])
def test_scales_of_keys_that_are_seen_may_not_be_nan(side):
    """So the ones above that are, and do not show, are of keys that are not."""
    numbers, q = codes(seed=1)
    scale = shared("token", 1)
    scale[1, 2] = np.nan  # the newest key of the first sequence
    out, _ = attended_to({name: array.astype(np.int8) for name, array in numbers.items()}, q, **{side: scale})
    assert np.isnan(out[0]).all()
    assert not np.isnan(out[1]).any()


def small(pages, slots, dim):
    """Integers that say where they are."""
    page, slot, one = np.indices((pages, slots, dim))
    return np.asarray(8 * page + slot + one % 2, np.float32)


WINNERS = (9, 3)
"""Of each sequence the key that has all the weight."""


def place(seq, page_size):
    """Its page and slot."""
    return TABLE_OF[seq, WINNERS[seq] // page_size], WINNERS[seq] % page_size


@pytest.mark.parametrize("dim_v", [8, 16])
@pytest.mark.parametrize("dim", [8, 16])
@interpreted_only
def test_k_and_v_that_lie_beside_each_other_have_widths_of_their_own(dim, dim_v):
    k, v = np.zeros((4, 8, dim)), small(4, 8, dim_v)
    for seq in (0, 1):
        k[place(seq, 8)] = 16
    cache = {"kv": np.concatenate([k, v], -1)[:, None].astype(DTYPES["bfloat16"])}
    q = np.full((2, 4, dim), 4)
    out, lse = attended_to(cache, q, "beside_hnd_diffkv", head_dim=dim, head_dim_v=dim_v)
    for seq in (0, 1):
        np.testing.assert_array_equal(out[seq], np.tile(v[place(seq, 8)], (4, 1)))
        np.testing.assert_array_equal(lse[seq], np.full(4, 16 * dim, np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@interpreted_only
def test_a_latent_is_v_and_with_what_is_beside_it_k(dtype):
    """What pads the latent, the rest and the page is NaN, or as large as codes are."""
    pack, page_size, dim = 4 // DTYPES[dtype].itemsize, 7, 16
    field = np.full((4, 8, 256), 127 if dtype == "int8" else np.nan, np.float32)
    v = small(4, page_size, dim)
    field[:, :page_size, :dim], field[:, :page_size, 128:192] = v, 0
    for seq in (0, 1):
        page, slot = place(seq, page_size)
        field[page, slot, 128:192] = 16
    cache = {"kv_cache": field.reshape(4, 8 // pack, pack, 256).astype(DTYPES[dtype])}
    q, lens = np.full((2, 4, dim + 64), 4), np.array([11, 14], np.int32)
    out, lse = attended_to(cache, q, "mla_aligned", lens=lens, page_size=page_size, head_dim=dim)
    for seq in (0, 1):
        latent = v[place(seq, page_size)]
        np.testing.assert_array_equal(out[seq], np.tile(latent, (4, 1)))
        np.testing.assert_array_equal(lse[seq], np.full(4, latent.sum() + 16 * 64, np.float32))


# --- codes of product quantisation


def test_vectors_are_coded_in_blocks_of_which_the_last_are_not_full():
    """Twelve subspaces are a block and a half, 150 tokens a block and a sixth."""
    rng = np.random.default_rng(1)
    book = rng.integers(-8, 9, (12, 5, 3)).astype(np.float32)
    want = rng.integers(0, 5, (75, 2, 12)).astype(np.uint8)
    distinct = [np.unique(one, axis=0, return_index=True, return_inverse=True)[1:] for one in book]
    for m, (first, at) in enumerate(distinct):  # of equal centroids the first
        want[..., m] = first[at.reshape(-1)][want[..., m]]
    x = book[np.arange(12), want].reshape(75, 2, 36)
    codes = pallas_tpu.pq_encode(on_device(x), on_device(book), dtype="uint8")
    np.testing.assert_array_equal(pallas_tpu.to_host(codes), want)
    same_bits(pallas_tpu.pq_decode(codes, on_device(book), dtype="uint8"), x)


@pytest.mark.parametrize("dtype", ["uint8", "uint4"])
def test_codes_are_written_in_blocks_of_tokens_that_may_share_a_page(dtype):
    """Of 140 tokens the first block ends within a page; V lies slot after slot, two in a byte of uint4."""
    rng, per = np.random.default_rng(1), {"uint8": 1, "uint4": 2}[dtype]
    books = [rng.permutation(np.arange(2 * 16)).reshape(2, 16, 1).astype(np.float32) for _ in "kv"]
    codes = [rng.integers(0, 16, (140, 1, 2)) for _ in "kv"]
    x = [book[np.arange(2), one][..., 0] for book, one in zip(books, codes, strict=True)]
    before = {"k": np.zeros((15, 10, 2 // per), np.uint8), "v": np.zeros((15, 2, 10 // per), np.uint8)}
    slots = np.arange(140, dtype=np.int32)[:, None] + 10
    told = {"layout": "pq_columns", "dtype": dtype, "page_size": 10, "num_subspaces": 2}
    got = pallas_tpu.pq_append(*map(on_device, (before, *x, *books, slots)), **told)
    want = [np.concatenate([np.zeros((10, 2), int), one[:, 0]]).reshape(15, 10, 2) for one in codes]
    for name, pages in zip("kv", (want[0], want[1].swapaxes(1, 2)), strict=True):
        stored = pages if per == 1 else pages[..., 0::2] | pages[..., 1::2] << 4
        np.testing.assert_array_equal(pallas_tpu.to_host(got[name]), stored)


def test_of_no_tokens_there_is_nothing_to_code():
    book, none = on_device(np.zeros((2, 16, 3), np.float32)), np.zeros((0, 1, 6), np.float32)
    codes = pallas_tpu.pq_encode(on_device(none), book, dtype="uint4")
    assert pallas_tpu.to_host(codes).shape == (0, 1, 1)
    same_bits(pallas_tpu.pq_decode(codes, book, dtype="uint4"), none)
    cache = {name: on_device(np.full((2, 4, 1), 7, np.uint8)) for name in "kv"}
    told = {"layout": "pq_rows", "dtype": "uint4", "page_size": 4, "num_subspaces": 2}
    nowhere = on_device(np.zeros((0, 1), np.int32))
    got = pallas_tpu.pq_append(cache, on_device(none), on_device(none), book, book, nowhere, **told)
    for name in "kv":
        same_bits(got[name], np.full((2, 4, 1), 7, np.uint8))


def contiguous_codes(q_dtype="float32", **changed):
    """Arguments of pq_decode_attention over 12 tokens of each of two sequences, in pages of 12 slots."""
    rng = np.random.default_rng(1)
    given = {"q": rng.standard_normal((2, 4, 16)), "k_codebooks": rng.standard_normal((8, 16, 2))}
    given |= {"v_codebooks": rng.standard_normal((8, 16, 2)), "residual_k": rng.standard_normal((2, 3, 2, 16))}
    given |= {"residual_v": rng.standard_normal((2, 3, 2, 16))}
    given = {name: array.astype(DTYPES[q_dtype]) for name, array in given.items()}
    given["cache"] = {name: rng.integers(0, 16, (4, 12, 8)).astype(np.uint8) for name in "kv"}
    given |= {"page_ids": np.arange(4, dtype=np.int32).reshape(2, 2, 1)}
    given |= {"kv_lens": np.array([12, 9], np.int32), "residual_lens": np.array([3, 0], np.int32)} | changed
    told = {"layout": "pq_heads", "dtype": "uint8", "page_size": 12, "num_subspaces": 8, "sm_scale": 0.5}
    return {name: on_device(value) for name, value in given.items()} | told


def test_a_contiguous_page_is_cut_among_the_splits():
    """Not the first one has it all: each, and the residual of the sequence that has one, counts for something."""
    given = contiguous_codes()
    q = pallas_tpu._numbers(given["q"])[0]
    books = pallas_tpu._numbers(given["k_codebooks"], given["v_codebooks"])
    left = pallas_tpu._numbers(given["residual_k"], given["residual_v"])
    of_pages = pallas_tpu._bits(given["cache"]), books, given["page_ids"], given["kv_lens"]
    told = {"layout": "pq_heads", "dtype": "uint8", "num_splits": 3}
    _, lse = launch.launch(pq.attend, q, *of_pages, left, given["residual_lens"], 0.5, **told)
    there = np.isfinite(np.asarray(lse)).all(-1)
    np.testing.assert_array_equal(there, [[True, True], [True, True], [True, True], [True, False]])


def test_one_compilation_serves_every_type_of_q():
    pallas_tpu.pq_decode_attention(**contiguous_codes(), num_splits=2)
    before = launch.compilations()
    for q_dtype in ("float16", "bfloat16"):
        out, _ = pallas_tpu.pq_decode_attention(**contiguous_codes(q_dtype), num_splits=2)
        assert out.dtype == DTYPES[q_dtype]
    assert launch.compilations() == before


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"q": np.zeros((2, 4, 24), np.float32)}, "8 subspaces of 2 numbers do not make a head of 24"),
        (dict.fromkeys(("k_codebooks", "v_codebooks"), np.zeros((8, 257, 2), np.float32)), "of 257 centroids"),
        (
            {"cache": dict.fromkeys("kv", np.zeros((4, 12, 4), np.uint8))},
            "k is of shape .4, 12, 4., and pages of 12 slots",
        ),
    ],
)
def test_codes_that_do_not_fit_are_refused_in_a_sentence(changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        pallas_tpu.pq_decode_attention(**contiguous_codes(**changed), num_splits=2)


# --- every bit pattern


def every_pattern(dtype, shape):
    """K and V that hold every bit pattern of an 8- or 16-bit type; of float32 the kinds that get lost, spread out."""
    kind = DTYPES[dtype]
    if kind.itemsize < 4:
        patterns = np.arange(2 ** (8 * kind.itemsize) + 1)  # one more than there are: no two rows begin alike
        one = np.resize(patterns.astype(f"u{kind.itemsize}"), shape)
    else:
        quiet, signalling = 0x7FC00000 + np.arange(64), 0x7F800001 + np.arange(64)
        corners = [0, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, *quiet, *signalling]
        one = np.resize(np.array([c | sign for c in corners for sign in (0, 1 << 31)], np.uint32), shape)
    return one.view(kind), np.ascontiguousarray(one[::-1]).view(kind)


def same_bits(got, want):
    got = pallas_tpu.to_host(got)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.view(f"u{got.itemsize}"), want.view(f"u{want.itemsize}"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fusing_keeps_every_bit_pattern(dtype):
    k, v = every_pattern(dtype, (16, 4, 1024))
    kv = pallas_tpu.merge_kv(*map(pallas_tpu.to_device, (k, v)))
    same_bits(kv, np.stack([k, v], axis=2).reshape(16, 8, 1024))
    same_bits(pallas_tpu.extract_k(kv), k)
    same_bits(pallas_tpu.extract_v(kv), v)


SLOTS, HEADS, DIM = np.arange(16, dtype=np.int32).reshape(4, 4)[::-1], 4, 1024  # the last page first
SHAPED = {
    "nhd": lambda x: dict.fromkeys("kv", (4, 4, HEADS, DIM)),
    "token_slots": lambda x: dict.fromkeys("kv", (16, HEADS, DIM)),
    "interleaved": lambda x: {"kv": (4, 4, 2 * HEADS, DIM)},
    "packed": lambda x: {"kv": (4, 4, 8 * HEADS // x, x // 4, DIM)},
    "split_x": lambda x: {"k": (4, HEADS, DIM // x, 4, x), "v": (4, HEADS, DIM, 4)},
}
"""Layout -> shapes of its fields; x: elements of 16 bytes."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", sorted(SHAPED.keys() & pallas_tpu.OFFERS["append"]["layout"]))
def test_append_and_gather_keep_every_bit_pattern(layout, dtype):
    k, v = every_pattern(dtype, (16, HEADS, DIM))
    shapes = SHAPED[layout](16 // DTYPES[dtype].itemsize)
    told = {"num_kv_heads": HEADS, "head_dim": DIM} if layout == "packed" else {}
    empty = {name: np.zeros(shape, DTYPES[dtype]) for name, shape in shapes.items()}
    cache = pallas_tpu.append(*map(on_device, (empty, k, v, SLOTS.ravel())), layout=layout, **told)
    table = SLOTS.reshape(1, -1) if layout == "token_slots" else SLOTS[:, :1].T // 4
    gathered = pallas_tpu.gather(cache, *map(on_device, (table, np.array([16], np.int32))), layout=layout, **told)
    for got, want in zip(gathered, (k, v), strict=True):
        same_bits(got, want)


# --- rows that hold K and V together, pages as a whole


def test_a_packed_row_is_k_and_v_by_turns_and_zeros_behind_them():
    """Three heads of bfloat16, of which a pair fills a row of 32 bits: [row, pack] is K0 V0, K1 V1, K2 V2, padding."""
    heads = np.arange(3)[:, None]
    k, v = ((np.full((1, 3, 8), value) + heads).astype(DTYPES["bfloat16"]) for value in (16, 32))
    before = np.full((2, 1, 4, 2, 128), 7, DTYPES["bfloat16"])
    told = {"layout": "packed", "num_kv_heads": 3, "head_dim": 8}
    cache = pallas_tpu.append(*map(on_device, ({"kv": before}, k, v, np.array([1], np.int32))), **told)
    got = pallas_tpu.to_host(cache["kv"]).astype(int)
    want = np.zeros((4, 2, 128), int)
    want[:3, :, :8] = [[[16], [32]], [[17], [33]], [[18], [34]]]
    np.testing.assert_array_equal(got[1, 0], want)
    assert (got[0] == 7).all(), "the other page"


PAGED = {
    "nhd": (0, dict.fromkeys("kv", (5, 8, 2, 128))),
    "heads_first": (1, dict.fromkeys("kv", (2, 5, 8, 128))),
    "packed": (0, {"kv": (5, 8, 2, 2, 128)}),
}
"""Layout -> axis of the pages, and shapes of its fields in 16 bits."""


@pytest.mark.parametrize("layout", sorted(pallas_tpu.OFFERS["copy_pages"]["layout"]))
def test_pages_are_copied_from_what_they_held_before(layout):
    axis, shapes = PAGED[layout]
    rng, pairs = np.random.default_rng(1), np.array([[1, 4], [4, 1], [1, 0]], np.int32)
    cache = {name: rng.integers(0, 2**16, shape, np.uint16) for name, shape in shapes.items()}
    got = pallas_tpu.copy_pages(*map(on_device, (cache, pairs)), layout=layout)
    for name, array in cache.items():
        want = np.moveaxis(array.copy(), axis, 0)
        want[pairs[:, 1]] = want[pairs[:, 0]]
        np.testing.assert_array_equal(np.moveaxis(pallas_tpu.to_host(got[name]), axis, 0), want)


# --- a TPU, without one


def abstract(shape, dtype="uint16"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


ROWS, PAGES = abstract((5, 2, 128)), {name: abstract((7, 8, 2, 128)) for name in "kv"}
PACKED = {"kv": abstract((7, 8, 2, 2, 128))}
TABLE, LENS = abstract((2, 3), "int32"), abstract((2,), "int32")
SCORING = (0.5, 50.0, 3, abstract((4,), "uint32"), abstract((4,), "uint32"))


def attending(q_len, q=128, pages=PAGES):
    rows = LENS.shape[0] * q_len
    return (abstract((rows, 4, q)), pages, TABLE, LENS, *SCORING, abstract((rows, q_len), "uint8"))


PARTS = {"layout": "nhd", "num_splits": 2, "out_dtype": jnp.dtype("float32")}
PARTS |= dict.fromkeys(("dtype", "q_dtype"), jnp.dtype("bfloat16"))
NARROW_PAGES, SCALES = {name: abstract((7, 32, 2, 128), "uint8") for name in "kv"}, abstract((7, 2, 2, 32), "uint32")
BESIDE, LATENT = {"kv": abstract((7, 2, 8, 384))}, {"kv_cache": abstract((7, 4, 2, 256))}
LOWERED = {
    "merge_kv": (movement.merge_kv, (ROWS, ROWS), {}),
    "extract": (movement.extract, (abstract((5, 4, 128)),), {"half": 1}),
    "append": (movement.append, (PAGES, (ROWS, ROWS), abstract((5,), "int32")), {"layout": "nhd"}),
    "gather": (movement.gather, (PAGES, TABLE, LENS), {"layout": "nhd", "token": ()}),
    "append packed": (movement.append, (PACKED, (ROWS, ROWS), abstract((5,), "int32")), {"layout": "packed"}),
    "gather packed": (movement.gather, (PACKED, TABLE, LENS), {"layout": "packed", "token": (2, 128)}),
    "copy_pages": (movement.copy_pages, (PACKED, abstract((2, 2), "int32")), {"layout": "packed"}),
    "paged_decode": (decode.paged_decode, attending(1), PARTS),
    "paged_decode of two tokens": (decode.paged_decode, attending(2), PARTS),
    "paged_decode interleaved": (
        decode.paged_decode,
        attending(1, pages={"kv": abstract((7, 8, 4, 128))}),
        PARTS | {"layout": "interleaved"},
    ),
    "paged_decode of codes": (
        decode.paged_decode,
        (*attending(1, pages=NARROW_PAGES), SCALES),
        PARTS | {"dtype": jnp.dtype("int8")},
    ),
    "paged_decode of a V of its own width": (
        decode.paged_decode,
        attending(1, pages=BESIDE),
        PARTS | {"layout": "beside_hnd_diffkv"},
    ),
    "paged_decode of latents": (
        decode.paged_decode,
        attending(1, q=192, pages=LATENT),
        PARTS | {"layout": "mla_aligned", "page_size": 7},
    ),
    "pq.encode": (pq.encode, (abstract((2, 150, 12, 4), "float32"), abstract((2, 12, 256, 4), "float32")), {}),
    "pq.decode": (pq.decode, (abstract((150, 12), "uint8"), abstract((12, 256, 4))), {}),
    "merge_states": (
        merge.merge_states,
        (abstract((3, 2, 4, 128)), abstract((3, 2, 4), "uint32")),
        {"dtype": jnp.dtype("bfloat16"), "out_dtype": jnp.dtype("bfloat16")},
    ),
}


def coded(layout, dtype):
    """What is lowered over pages of codes of 32 subspaces, 64 slots each."""
    last = {"uint8": 1, "uint4": 2}[dtype]
    k, columns = abstract((7, 64, 32 // last), "uint8"), abstract((7, 32, 64 // last), "uint8")
    cache, told = {"k": k, "v": columns if layout == "pq_columns" else k}, {"layout": layout, "dtype": dtype}
    books, left = abstract((2, 32, 16, 4), "float32"), abstract((2, 2, 5, 2, 128), "float32")
    asked = (abstract((2, 4, 128), "float32"), cache, books, abstract((2, 2, 3), "int32"), LENS, left, LENS, 0.5)
    return {
        f"pq.write {layout} {dtype}": (pq.write, (cache, abstract((2, 5, 32), "uint8"), abstract((5,), "int32")), told),
        f"pq.attend {layout} {dtype}": (pq.attend, asked, told | {"num_splits": 2}),
    }


for one in itertools.product(("pq_rows", "pq_columns", "pq_heads"), ("uint8", "uint4")):
    LOWERED |= coded(*one)


@pytest.mark.parametrize("operation", LOWERED)
def test_the_kernels_lower_for_a_tpu(operation):
    """As far as Pallas goes; Mosaic's own compiler comes with libtpu."""
    kernel, operands, static = LOWERED[operation]
    tpu = sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    with sharding.use_abstract_mesh(sharding.AbstractMesh((), (), abstract_device=tpu)):
        lowered = jax.export.export(
            jax.jit(functools.partial(kernel.__wrapped__, interpret=False, **static)), platforms=["tpu"]
        )
        assert "tpu_custom_call" in lowered(*operands).mlir_module()
