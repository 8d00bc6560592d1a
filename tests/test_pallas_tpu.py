"""Pallas-TPU kernels: what the suite cannot see from outside.

That the interpreter's alarms ring (positive controls), that they are errors here, that launches are counted one by one,
that movement keeps every bit pattern there is, and that the kernels lower for a TPU.
"""

import functools

import numpy as np
import pytest

from kvconform.specs.dtypes import DTYPES

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
pl = pytest.importorskip("jax.experimental.pallas")
pltpu = pytest.importorskip("jax.experimental.pallas.tpu")
sharding = pytest.importorskip("jax.sharding")
# our own modules are imported plainly: one that no longer imports is a failure, not a skip
from kvconform.impls import pallas_tpu  # noqa: E402
from kvconform.impls.pallas_kernels import decode, launch, merge, movement  # noqa: E402

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
    assert attend(layout="nhd", sm_scale=1.0, num_splits=1) == 1
    assert attend(layout="nhd", sm_scale=1.0, num_splits=2) == 2, "the parts, and their merge"


# --- every bit pattern


def every_pattern(dtype, shape):
    """K and V that hold every bit pattern of an 8- or 16-bit type; of float32 the kinds that get lost, spread out."""
    kind = DTYPES[dtype]
    if kind.itemsize < 4:
        one = np.resize(np.arange(2 ** (8 * kind.itemsize)).astype(f"u{kind.itemsize}"), shape)
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", sorted(pallas_tpu.OFFERS["append"]["layout"] & {"nhd", "interleaved", "split_x"}))
def test_append_and_gather_keep_every_bit_pattern(layout, dtype):
    k, v = every_pattern(dtype, (16, 4, 1024))
    pages, slots, heads, dim, x = 4, 4, 4, 1024, 16 // DTYPES[dtype].itemsize
    shapes = {
        "nhd": {"k": (pages, slots, heads, dim), "v": (pages, slots, heads, dim)},
        "interleaved": {"kv": (pages, slots, 2 * heads, dim)},
        "split_x": {"k": (pages, heads, dim // x, slots, x), "v": (pages, heads, dim, slots)},
    }[layout]
    empty = {name: np.zeros(shape, DTYPES[dtype]) for name, shape in shapes.items()}
    order = np.arange(16, dtype=np.int32).reshape(4, 4)[::-1]  # the last page first
    cache = pallas_tpu.append(*map(on_device, (empty, k, v, order.ravel())), layout=layout)
    table, lens = map(on_device, (np.array([[3, 2, 1, 0]], np.int32), np.array([16], np.int32)))
    for got, want in zip(pallas_tpu.gather(cache, table, lens, layout=layout), (k, v), strict=True):
        same_bits(got, want)


# --- a TPU, without one


def abstract(shape, dtype="uint16"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


ROWS, PAGES = abstract((5, 2, 128)), {name: abstract((7, 8, 2, 128)) for name in "kv"}
TABLE, LENS = abstract((2, 3), "int32"), abstract((2,), "int32")
LOWERED = {
    "merge_kv": (movement.merge_kv, (ROWS, ROWS), {}),
    "extract": (movement.extract, (abstract((5, 4, 128)),), {"half": 1}),
    "append": (movement.append, (PAGES, (ROWS, ROWS), abstract((5,), "int32")), {"layout": "nhd"}),
    "gather": (movement.gather, (PAGES, TABLE, LENS), {"layout": "nhd"}),
    "paged_decode": (
        decode.paged_decode,
        (abstract((2, 4, 128)), PAGES, TABLE, LENS, 0.5),
        {"layout": "nhd", "num_splits": 2, "dtype": jnp.dtype("bfloat16"), "out_dtype": jnp.dtype("float32")},
    ),
    "merge_states": (
        merge.merge_states,
        (abstract((3, 2, 4, 128)), abstract((3, 2, 4), "uint32")),
        {"dtype": jnp.dtype("bfloat16"), "out_dtype": jnp.dtype("bfloat16")},
    ),
}


@pytest.mark.parametrize("operation", LOWERED)
def test_the_kernels_lower_for_a_tpu(operation):
    """As far as Pallas goes; Mosaic's own compiler comes with libtpu."""
    kernel, operands, static = LOWERED[operation]
    tpu = sharding.AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    with sharding.use_abstract_mesh(sharding.AbstractMesh((), (), abstract_device=tpu)):
        lowered = jax.export.export(jax.jit(functools.partial(kernel, interpret=False, **static)), platforms=["tpu"])
        assert "tpu_custom_call" in lowered(*operands).mlir_module()
