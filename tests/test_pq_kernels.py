"""Product-quantised kernels of torch and Triton beside plain numpy in float64: what each writes, reads and refuses.

Codes are compared exactly on inputs whose distances are exact in float32; attention is judged by the error bound of the
adapter's own ARITHMETIC.
"""

import importlib.util
from dataclasses import dataclass, replace
from functools import partial

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("triton") is None:
    pytest.skip("no triton", allow_module_level=True)  # not importorskip, which would import it before its mode is set
from kvconform.impls import torch_ref, triton_ref  # noqa: E402
from kvconform.impls.torch_kernels import codes  # noqa: E402
from kvconform.oracles.bound import attention_bound  # noqa: E402
from kvconform.specs.profile import profile_of  # noqa: E402
from kvconform.specs.storage import wrap  # noqa: E402
from kvconform.tests.wrong._source import adapter_with  # noqa: E402

FLOATS = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "float16", "bfloat16")}
ADAPTERS = (torch_ref, triton_ref)
each_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda one: one.NAME)


@dataclass(frozen=True)
class Sizes:
    """One call; codes are of `dtype`, numbers of `q_dtype`."""

    layout: str = "pq_rows"
    dtype: str = "uint8"
    q_dtype: str = "float32"
    num_subspaces: int = 4
    sub_dim: int = 2
    num_centroids: int = 16
    page_size: int = 4
    num_kv_heads: int = 2
    group: int = 2
    kv_lens: tuple[int, ...] = (9, 0, 4)
    residual_lens: tuple[int, ...] = (2, 0, 3)
    capacity: int = 3
    num_splits: int = 2
    index_dtype: str = "int32"
    spare_pages: int = 2
    seed: int = 0

    @property
    def head_dim(self):
        return self.num_subspaces * self.sub_dim

    @property
    def told(self):
        return {name: getattr(self, name) for name in ("layout", "dtype", "page_size", "num_subspaces")}


def drawn(sizes, *shape):
    """Numbers that are exact in every type, few enough bits for a sum of squared differences to be exact in float32."""
    rng = np.random.default_rng([sizes.seed, *shape])
    return (rng.integers(-15, 16, shape) / 8).astype(FLOATS[sizes.q_dtype])


def books(sizes, side=0):
    """Codebooks in which three centroids are the same, if there are three: they may be far apart."""
    found = drawn(replace(sizes, seed=sizes.seed + side), sizes.num_subspaces, sizes.num_centroids, sizes.sub_dim)
    if sizes.num_centroids > 2:
        found[:, 2] = found[:, -1] = found[:, 0]
    return found


def normal(sizes, *shape):
    """Numbers whose products and sums are rounded."""
    return np.random.default_rng([sizes.seed, *shape]).standard_normal(shape).astype(FLOATS[sizes.q_dtype])


def nearest(rows, codebooks):
    """In float64: of the nearest centroids the lowest."""
    parts = rows.astype(np.float64).reshape(*rows.shape[:-1], len(codebooks), 1, codebooks.shape[2])
    return ((parts - codebooks.astype(np.float64)) ** 2).sum(-1).argmin(-1).astype(np.uint8)


def packed(codes, dtype, onto=None):
    """Codes as they lie in bytes; in the half of a byte that is nobody's what was there."""
    if dtype == "uint8":
        return codes
    wide = np.zeros((*codes.shape[:-1], codes.shape[-1] + codes.shape[-1] % 2), np.uint8)
    if onto is not None and codes.shape[-1] % 2:
        wide[..., -1] = onto[..., -1] >> 4
    wide[..., : codes.shape[-1]] = codes
    return wide[..., 0::2] | wide[..., 1::2] << 4


def unpacked(pool, sizes, side):
    """uint8 [page, slot, subspace] of a pool."""
    columns = sizes.layout == "pq_columns" and side == "v"
    count = sizes.page_size if columns else sizes.num_subspaces
    if sizes.dtype == "uint4":
        pool = np.stack([pool & 15, pool >> 4], -1).reshape(*pool.shape[:-1], -1)[..., :count]
    return pool.swapaxes(1, 2) if columns else pool


def repacked(codes, sizes, side, onto):
    """The inverse, onto what was there."""
    columns = sizes.layout == "pq_columns" and side == "v"
    return packed(codes.swapaxes(1, 2) if columns else codes, sizes.dtype, onto)


def num_pages(sizes):
    needed = sum(-(-n // sizes.page_size) for n in sizes.kv_lens) * sizes.num_kv_heads
    return len(sizes.kv_lens) * sizes.num_kv_heads if sizes.layout == "pq_heads" else needed + sizes.spare_pages


def garbage(sizes):
    """Pools of random bits."""
    rng = np.random.default_rng(sizes.seed + 7)
    pools = {}
    for side in "kv":
        columns = sizes.layout == "pq_columns" and side == "v"
        outer, inner = (sizes.page_size, sizes.num_subspaces)[:: -1 if columns else 1]
        shape = (num_pages(sizes), outer, -(-inner // (1 if sizes.dtype == "uint8" else 2)))
        pools[side] = rng.integers(0, 256, shape).astype(np.uint8)
    return pools


def page_ids(sizes, beyond=2**30):
    """Every page has one owner, in no order; entries beyond a sequence's pages are no pages."""
    counts = [-(-n // sizes.page_size) for n in sizes.kv_lens]
    ids = np.full((len(counts), sizes.num_kv_heads, max(1, *counts) + 1), beyond, sizes.index_dtype)
    if sizes.layout == "pq_heads":
        ids = ids[..., :1]
        ids[..., 0] = np.arange(ids.size).reshape(ids.shape[:2])
        return ids
    order = iter(np.random.default_rng(sizes.seed).permutation(num_pages(sizes)))
    for seq, count in enumerate(counts):
        for head in range(sizes.num_kv_heads):
            ids[seq, head, :count] = [next(order) for _ in range(count)]
    return ids


def slots_of(sizes, ids):
    """slot_mapping [token, head] of all tokens of all sequences, and to which sequence and position each belongs."""
    where = [(seq, at) for seq, n in enumerate(sizes.kv_lens) for at in range(n)]
    mapping = [ids[seq, :, at // sizes.page_size] * sizes.page_size + at % sizes.page_size for seq, at in where]
    return np.array(mapping, sizes.index_dtype).reshape(-1, sizes.num_kv_heads), where


def filled(sizes, ids):
    """Pools in which live codes are indices of centroids, all others random bits; and [page, slot, subspace]."""
    pools, codes = garbage(sizes), {}
    mapping, _ = slots_of(sizes, ids)
    pages, slots = mapping.ravel() // sizes.page_size, mapping.ravel() % sizes.page_size
    for side, pool in pools.items():
        codes[side] = unpacked(pool, sizes, side).copy()
        codes[side][pages, slots] = codes[side][pages, slots].astype(int) % sizes.num_centroids
        pools[side] = repacked(codes[side], sizes, side, pool)
    return pools, codes


def on_device(adapter, value):
    if isinstance(value, dict):
        return {name: on_device(adapter, one) for name, one in value.items()}
    return adapter.to_device(np.array(value)) if isinstance(value, np.ndarray) else value


def called(adapter, op, *arguments, **told):
    """Results on the host."""
    found = getattr(adapter, op)(*(on_device(adapter, one) for one in arguments), **told)
    if isinstance(found, dict):
        return {name: adapter.to_host(one) for name, one in found.items()}
    return tuple(map(adapter.to_host, found)) if isinstance(found, tuple) else adapter.to_host(found)


def same_bits(got, want):
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(got.view(f"u{got.itemsize}"), want.view(f"u{want.itemsize}"))


# --- codes

SHAPES = [
    Sizes(),
    Sizes(num_subspaces=1, sub_dim=3, num_centroids=2, q_dtype="float16"),
    Sizes(num_subspaces=3, sub_dim=1, num_centroids=3, q_dtype="bfloat16"),
    Sizes(num_subspaces=16, sub_dim=4, num_centroids=256),
    Sizes(num_subspaces=64, sub_dim=2, num_centroids=256, q_dtype="float16", num_kv_heads=1),
    Sizes(num_subspaces=2, sub_dim=8, num_centroids=100, q_dtype="bfloat16", num_kv_heads=3),
]
PACKED = [replace(one, dtype="uint4", num_centroids=min(16, one.num_centroids)) for one in SHAPES]


def name_of(sizes):
    default = vars(Sizes())
    return " ".join(f"{k}={v}" for k, v in vars(sizes).items() if v != default[k]) or "plain"


each_size = pytest.mark.parametrize("sizes", [*SHAPES, *PACKED], ids=name_of)


def require_encoded(adapter, sizes, num_tokens=19):
    x, codebooks = drawn(sizes, num_tokens, sizes.num_kv_heads, sizes.head_dim), books(sizes)
    want = nearest(x, codebooks)
    if sizes.num_centroids > 2:
        assert not np.isin(want, (2, sizes.num_centroids - 1)).any(), "the same as centroid 0"
    got = called(adapter, "pq_encode", x, codebooks, dtype=sizes.dtype, num_subspaces=sizes.num_subspaces)
    same_bits(got, packed(want, sizes.dtype))


@each_adapter
@each_size
@pytest.mark.parametrize("num_tokens", [0, 1, 19])
def test_encode_names_the_nearest_centroid_and_of_several_the_lowest(adapter, sizes, num_tokens):
    require_encoded(adapter, sizes, num_tokens)


def require_decoded(adapter, sizes):
    bits = np.random.default_rng(3).integers(0, 256, (sizes.num_subspaces, sizes.num_centroids, sizes.sub_dim, 4))
    codebooks = bits[..., : FLOATS[sizes.q_dtype].itemsize].astype(np.uint8).view(FLOATS[sizes.q_dtype])[..., 0]
    shape = (7, sizes.num_kv_heads, sizes.num_subspaces)
    codes = np.random.default_rng(1).integers(0, sizes.num_centroids, shape).astype(np.uint8)
    got = called(adapter, "pq_decode", packed(codes, sizes.dtype), codebooks, dtype=sizes.dtype)
    same_bits(got, codebooks[np.arange(sizes.num_subspaces), codes].reshape(*shape[:2], -1))


@each_adapter
@each_size
def test_decode_moves_every_bit_of_centroids(adapter, sizes):
    require_decoded(adapter, sizes)


LAYOUTS = [
    replace(one, layout=layout, page_size=page_size)
    for one in (*SHAPES[:4], *PACKED[:4])
    for layout, page_size in (("pq_rows", 4), ("pq_columns", 5), ("pq_columns", 1), ("pq_heads", 9))
]


def appended(sizes):
    """Arguments of append: some tokens are skipped, and hold NaN."""
    mapping, _ = slots_of(sizes, page_ids(sizes))
    mapping[3:5] = -1
    given = [drawn(replace(sizes, seed=i), *mapping.shape, sizes.head_dim) for i in (1, 2)]
    for rows in given:
        rows[3] = np.nan
    return garbage(sizes), *given, books(sizes), books(sizes, 1), mapping


def require_appended(adapter, sizes):
    pools, *given, mapping = appended(sizes)
    want = {}
    live = mapping >= 0
    for side, rows, one in zip("kv", given[:2], given[2:], strict=True):
        codes = unpacked(pools[side], sizes, side).copy()
        codes[mapping[live] // sizes.page_size, mapping[live] % sizes.page_size] = nearest(rows[live], one)
        want[side] = repacked(codes, sizes, side, pools[side])
    got = called(adapter, "pq_append", pools, *given, mapping, **sizes.told)
    for side in "kv":
        same_bits(got[side], want[side])
        assert (got[side] != pools[side]).any()


@each_adapter
@pytest.mark.parametrize("sizes", LAYOUTS, ids=name_of)
def test_append_writes_the_codes_of_its_tokens_and_no_other_bit(adapter, sizes):
    require_appended(adapter, sizes)


@pytest.mark.parametrize("dtype", ["uint8", "uint4"])
def test_of_several_tokens_for_one_slot_torch_keeps_the_last_where_it_does_not_look(dtype, monkeypatch):
    """As on a GPU, which nobody waits for; on the host they are refused."""
    monkeypatch.setattr(codes, "on_host", lambda *tensors: False)
    sizes = Sizes(dtype=dtype)
    rows = drawn(sizes, 3, 2, sizes.head_dim)
    several = np.array([[5, 9], [5, 8], [5, 9]], np.int64)
    one = np.where([[0, 0], [0, 1], [1, 1]], several, -1)
    append = partial(called, torch_ref, "pq_append", garbage(sizes), rows, rows, books(sizes), books(sizes))
    got, want = append(several, **sizes.told), append(one, **sizes.told)
    for side in "kv":
        same_bits(got[side], want[side])


# --- attention

ATTENDED = [
    Sizes(),
    Sizes(num_splits=1, group=1),
    Sizes(num_splits=40, group=3, index_dtype="int64"),
    Sizes(layout="pq_columns", num_splits=3, q_dtype="float16"),
    Sizes(layout="pq_columns", page_size=1, q_dtype="bfloat16", group=4),
    Sizes(layout="pq_heads", page_size=9, num_splits=2),
    Sizes(layout="pq_columns", dtype="uint4", page_size=6, num_splits=3),
    Sizes(layout="pq_columns", dtype="uint4", page_size=5, num_centroids=3),
    Sizes(dtype="uint4", num_subspaces=3, sub_dim=1, num_centroids=3, q_dtype="bfloat16"),
    Sizes(layout="pq_heads", dtype="uint4", page_size=11, num_subspaces=16, sub_dim=4, q_dtype="float16"),
    Sizes(
        num_subspaces=16, sub_dim=8, num_centroids=256, kv_lens=(70,), residual_lens=(40,), capacity=64, page_size=64
    ),
    Sizes(num_subspaces=64, layout="pq_columns", num_centroids=256, kv_lens=(3, 40), residual_lens=(0, 1), capacity=2),
    Sizes(num_subspaces=1, sub_dim=3, num_centroids=2, num_kv_heads=3),
    Sizes(num_subspaces=32, sub_dim=4, num_centroids=100, q_dtype="bfloat16", num_splits=3),
    Sizes(residual_lens=(0, 0, 0)),
    Sizes(residual_lens=(0, 0, 0), capacity=0),
    Sizes(kv_lens=(0, 0), residual_lens=(3, 0)),
    Sizes(kv_lens=(0, 0), residual_lens=(3, 0), spare_pages=0),
]


def call_of(sizes, beyond=2**30):
    """Arguments of attention, with NaN in residual rows that are dead; and K, V [seq] that are attended to."""
    ids = page_ids(sizes, beyond)
    pools, codes = filled(sizes, ids)
    num_seqs = len(sizes.kv_lens)
    q = normal(replace(sizes, seed=11), num_seqs, sizes.num_kv_heads * sizes.group, sizes.head_dim)
    shape = sizes.num_subspaces, sizes.num_centroids, sizes.sub_dim
    books_of = {side: normal(replace(sizes, seed=seed), *shape) for seed, side in enumerate("kv", 31)}
    shape = (num_seqs, sizes.capacity, sizes.num_kv_heads, sizes.head_dim)
    residual = {side: normal(replace(sizes, seed=seed), *shape) for seed, side in enumerate("kv", 21)}
    attended = {side: [] for side in "kv"}
    for seq, (num_keys, num_new) in enumerate(zip(sizes.kv_lens, sizes.residual_lens, strict=True)):
        at = np.arange(num_keys)
        for side in "kv":
            residual[side][seq, num_new:] = np.nan
            found = codes[side][ids[seq][:, at // sizes.page_size], at % sizes.page_size]  # head key subspace
            rows = books_of[side][np.arange(sizes.num_subspaces), found].reshape(*found.shape[:2], sizes.head_dim)
            attended[side].append(np.concatenate([rows, residual[side][seq, :num_new].swapaxes(0, 1)], 1))
    lens = [np.array(one, sizes.index_dtype) for one in (sizes.kv_lens, sizes.residual_lens)]
    arguments = (q, pools, books_of["k"], books_of["v"], ids, lens[0], residual["k"], residual["v"], lens[1])
    return arguments, attended


SCALE = 0.4


def require_within_the_bound(adapter, sizes, got, q, attended):
    """out and lse where a correct kernel of the adapter's ARITHMETIC may put them, rounded into their types."""
    profile = replace(profile_of(adapter.ARITHMETIC, sizes.q_dtype), splits=sizes.num_splits + 1)
    out, lse = got
    assert (out.dtype, lse.dtype) == (q.dtype, np.float32)
    for seq, (k, v) in enumerate(zip(attended["k"], attended["v"], strict=True)):
        grouped = q[seq].astype(np.float64).reshape(sizes.num_kv_heads, sizes.group, -1)
        k, v = k.astype(np.float64)[:, None], v.astype(np.float64)[:, None]
        exact = attention_bound(grouped, k, v, SCALE, profile)
        low, high = ((exact.out + sign * exact.out_error).astype(q.dtype).astype(np.float64) for sign in (-1, 1))
        rows = out[seq].astype(np.float64).reshape(exact.out.shape)
        assert ((low <= rows) & (rows <= high)).all(), seq
        low, high = ((exact.lse + sign * exact.lse_error).astype(np.float32) for sign in (-1, 1))
        rows = lse[seq].reshape(exact.lse.shape)
        assert ((low <= rows) & (rows <= high)).all(), seq
        if k.shape[2]:
            assert np.isfinite(rows).all()
        else:
            assert (out[seq] == 0).all()
            assert (rows == -np.inf).all()


def require_attended(adapter, sizes, beyond=2**30):
    arguments, attended = call_of(sizes, beyond)
    told = sizes.told | {"sm_scale": SCALE, "num_splits": sizes.num_splits}
    got = called(adapter, "pq_decode_attention", *arguments, **told)
    require_within_the_bound(adapter, sizes, got, arguments[0], attended)
    return got


@each_adapter
@pytest.mark.parametrize("sizes", ATTENDED, ids=name_of)
def test_attention_over_codes_and_residual_is_within_the_bound(adapter, sizes):
    require_attended(adapter, sizes)


@each_adapter
@pytest.mark.parametrize("beyond", [-1, 0, 2**31 - 1])
def test_an_entry_beyond_the_pages_of_a_sequence_does_not_matter(adapter, beyond):
    for one, other in zip(require_attended(adapter, Sizes()), require_attended(adapter, Sizes(), beyond), strict=True):
        same_bits(one, other)


def calls_of(sizes):
    """Each operation, its arguments and its keywords."""
    x, codebooks = drawn(sizes, 5, sizes.num_kv_heads, sizes.head_dim), books(sizes)
    codes, of = packed(nearest(x, codebooks), sizes.dtype), {"dtype": sizes.dtype}
    told = sizes.told | {"sm_scale": SCALE, "num_splits": sizes.num_splits}
    return [
        ("pq_encode", (x, codebooks), of),
        ("pq_decode", (codes, codebooks), of),
        ("pq_append", appended(sizes), sizes.told),
        ("pq_decode_attention", call_of(sizes)[0], told),
    ]


@each_adapter
@pytest.mark.parametrize("dtype", ["uint8", "uint4"])
def test_strides_change_no_bit(adapter, dtype, monkeypatch):
    def spread(value):
        storage, slices = wrap(value, "all", "argument")
        return to_device(np.array(storage, order="C"))[slices]

    sizes, to_device = Sizes(layout="pq_columns", dtype=dtype, page_size=5), adapter.to_device
    for op, arguments, told in calls_of(sizes):
        want = called(adapter, op, *arguments, **told)
        with monkeypatch.context() as patch:
            patch.setattr(adapter, "to_device", spread)
            got = called(adapter, op, *arguments, **told)
        for one, other in zip(*(r.values() if isinstance(r, dict) else r for r in (got, want)), strict=True):
            same_bits(one, other)


@each_adapter
def test_every_call_counts_its_launches(adapter):
    for op, arguments, told in calls_of(Sizes()):
        before = adapter.attest()["launches"]
        called(adapter, op, *arguments, **told)
        assert adapter.attest()["launches"] > before, op


# --- wrong ones

COLUMNS = Sizes(layout="pq_columns", dtype="uint4", page_size=5)
ROOMY, inside = Sizes(capacity=5), partial(require_attended, beyond=0)
"""What is read too far is memory of the call."""
WRONG = [
    # of torch: what is changed, and what that fails
    (torch_ref, "argmin(-1)", "flip(-1).argmin(-1).neg().add(centroids.shape[1] - 1)", require_encoded, SHAPES[0]),
    (torch_ref, "side.tensor[place].long() & ~", "0 & ~", require_appended, COLUMNS),
    (torch_ref, "score.masked_fill(~is_live[:, :, None], -torch.inf)", "score", inside, ROOMY),
    (torch_ref, ".masked_fill(~is_new[:, None, None], -torch.inf)", "", inside, ROOMY),
    (torch_ref, "v_codes.clamp(max=v_codebooks.shape[1] - 1)", "v_codes", inside, replace(ROOMY, kv_lens=(1, 0, 1))),
    (
        torch_ref,
        "(rows[:, :, :, None] * k).sum(-1) * sm_scale",
        "(rows[:, :, :, None] * k).sum(-1)",
        inside,
        ROOMY,
    ),
    # of Triton
    (
        triton_ref,
        "found = tl.where(least < nearest, ",
        "found = tl.where(least <= nearest, ",
        require_encoded,
        SHAPES[3],
    ),
    (triton_ref, "& (240 >> turn)", "& 0", require_appended, COLUMNS),
    (
        triton_ref,
        "lengths * (splits + 1) // num_splits",
        "lengths // num_splits * (splits + 1)",
        inside,
        ROOMY,
    ),
    (triton_ref, "is_key = keys < lengths[:, None]", "is_key = keys < lengths[:, None] + 1", inside, ROOMY),
    (triton_ref, "is_key = keys < last[:, None]", "is_key = keys < last[:, None] + 1", inside, ROOMY),
    (triton_ref, "(dims // sub_dim)[None, None, :]", "(dims % sub_dim)[None, None, :]", inside, ROOMY),
    (
        triton_ref,
        "return merge_states(outs, lses, q.dtype, (out, lse))",
        "return merge_states(outs[:-1], lses[:-1], q.dtype, (out, lse))",
        inside,
        ROOMY,
    ),
    (triton_ref, "(byte >> shift) & 15", "(byte >> (4 - shift)) & 15", require_decoded, PACKED[0]),
]


@pytest.mark.parametrize(
    ("adapter", "old", "new", "required", "sizes"), WRONG, ids=[one[2].strip() or one[1] for one in WRONG]
)
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy says so of the NaN that is read
def test_a_wrong_kernel_fails(adapter, old, new, required, sizes):
    required(adapter, sizes)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        required(adapter_with(adapter.pq, old, new, of=adapter), sizes)


# --- what is refused


def refused(adapter, op, sentence, *, of=None, arguments=None, **told):
    """A call, with other arguments by their place, or other keywords; its sentence; and nothing is written."""
    sizes = of or Sizes()
    ((given, keywords),) = [(list(a), t) for name, a, t in calls_of(sizes) if name == op]
    for place, value in (arguments or {}).items():
        given[place] = value(given[place]) if callable(value) else value
    handles = [on_device(adapter, one) for one in given]
    with pytest.raises(ValueError, match=sentence):
        getattr(adapter, op)(*handles, **keywords | told)
    for handle, one in zip(handles, given, strict=True):
        for side in one if isinstance(one, dict) else ():
            same_bits(adapter.to_host(handle[side]), one[side])


def with_one(value, *at):
    def changed(array):
        array = array.copy()
        array[at] = value
        return array

    return changed


@each_adapter
def test_bad_input_is_refused_in_a_sentence_before_anything_is_written(adapter):
    no = partial(refused, adapter)
    no("pq_encode", "x has head_dim 8, not 3 subspaces of 2", arguments={1: lambda one: one[:3]})
    no("pq_encode", "codebooks has 4 subspaces, not 5", num_subspaces=5)
    no("pq_encode", "codebooks has 17 centroids, more than codes of uint4", of=Sizes(num_centroids=17), dtype="uint4")
    no("pq_encode", "codes of 'int8': they are uint8 or uint4", dtype="int8")
    no(
        "pq_encode",
        "x of token 2, head 1 holds nan at dim 7, of which",
        arguments={0: with_one(np.nan, 2, 1, 7)},
    )
    no("pq_encode", "the codebooks of x hold inf in subspace 1, centroid 5", arguments={1: with_one(np.inf, 1, 5, 0)})
    no("pq_encode", "of two types", arguments={0: lambda one: one.astype(np.float16)})
    no("pq_encode", "codebooks is float32.*, not floats", arguments={1: lambda one: one[0]})
    no("pq_encode", "x is float32.*, not of 3 axes", arguments={0: lambda one: one[0]})
    no("pq_decode", "codes is int8.*, not uint8", arguments={0: lambda one: one.view(np.int8)})
    no("pq_decode", "codes is uint8.5, 2, 3., not", arguments={0: lambda one: one[..., :3]})
    no("pq_decode", r"codes hold 16 at \[4, 1, 2\], and there are 16", arguments={0: with_one(16, 4, 1, 2)})
    no("pq_append", "layout is 'nhd', not one of", layout="nhd")
    no("pq_append", "cache k is uint8.*, not uint8.num_pages, 7, 4", page_size=7)
    no("pq_append", "page_size is 0", page_size=0)
    no("pq_append", "K has 9 pages and V has 10", arguments={0: lambda one: one | {"k": one["k"][1:]}})
    no("pq_append", "k of token 2, head 0 holds nan", arguments={1: with_one(np.nan, 2, 0, 3)})
    no("pq_append", "v of token 2, head 0 holds inf", arguments={2: with_one(np.inf, 2, 0, 3)})
    no("pq_append", "slot_mapping is int32", arguments={5: lambda one: one[:, :1]})
    no("pq_append", "slot_mapping of token 1, head 0 is 40, and there are 40 slots", arguments={5: with_one(40, 1, 0)})
    no("pq_append", "slot 16 is given to 2 tokens", arguments={5: lambda one: with_one(one[0, 0], 1, 0)(one)})
    no("pq_append", "slot_mapping is float32", arguments={5: lambda one: one.astype(np.float32)})
    attention = partial(no, "pq_decode_attention")
    attention("kv_lens of sequence 0 is 17, and there is room for 0 to 16", arguments={5: with_one(17, 0)})
    attention("kv_lens of sequence 1 is -1", arguments={5: with_one(-1, 1)})
    attention("residual_lens of sequence 2 is 4, and there is room for 0 to 3", arguments={8: with_one(4, 2)})
    attention("page_ids of sequence 2, head 1 has -5 at 0", arguments={4: with_one(-5, 2, 1, 0)})
    attention("page_ids of sequence 0, head 0 has 99 at 2, and the pool has 10", arguments={4: with_one(99, 0, 0, 2)})
    attention(r"page [0-9] is owned 2 times", arguments={4: lambda one: with_one(one[0, 0, 1], 0, 0, 0)(one)})
    attention("live codes of V hold", arguments={1: lambda one: one | {"v": one["v"] | 128}})
    attention("live codes of K hold", arguments={1: lambda one: one | {"k": one["k"] | 16}})
    halves = {place: lambda one: one.astype(np.float16) for place in (3, 7)}
    attention("k_codebooks are float32.* and v_codebooks float16.*: of two types", arguments=halves)
    attention("page_ids is float32.*, not int32 or int64", arguments={4: lambda one: one.astype(np.float32)})
    attention("num_splits is 0", num_splits=0)
    attention("4 q heads do not fall into 3 groups", arguments={i: lambda one: one[:, :, [0, 0, 1]] for i in (6, 7)})
    attention("residual_v is", arguments={7: lambda one: one[:, 1:]})
    attention("residual_k has head_dim 7", arguments={6: lambda one: one[..., 1:]})
    attention("q is float16", arguments={0: lambda one: one.astype(np.float16)})
