"""Every backend's handles carry every bit there and back, and slices of them are views of the same storage."""

import numpy as np
import pytest

from kvconform.harness.adapters import builtin, find
from kvconform.harness.subject import _same_bytes
from kvconform.specs import data
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.storage import STRIDES, wrap

INDICES = ("int32", "int64")
BLOCKED = {name: find(name).blocked for name in builtin()}
RUNNABLE = [name for name, why in BLOCKED.items() if not why]


def every_pattern(dtype):
    """An array with every bit pattern of an 8- or 16-bit type, and of a wider one many."""
    if dtype in INDICES:
        return np.array([[-1, 0, 1], [2**31 - 1, -(2**31), 12345]], dtype)
    width = DTYPES[dtype].itemsize
    if width <= 2:
        return data.patterns(dtype, (16, 2 ** (8 * width - 4)), 0)
    return data.bits(dtype, data.hashes(3, dtype, *data.grid(16, 4096)))


def device(adapter):
    """to_device and to_host of an adapter, which defaults to numpy arrays."""
    identity = lambda array: array  # noqa: E731
    return getattr(adapter, "to_device", identity), getattr(adapter, "to_host", identity)


def taken(adapter):
    """Dtypes of arrays that an adapter takes: those it offers, and those of its tables."""
    dtypes = {dtype for offer in adapter.OFFERS.values() for dtype in offer.get("dtype", DTYPES)}
    indexed = [offer for op, offer in adapter.OFFERS.items() if "index_dtype" in OPERATIONS[op].case_axes]
    indices = {word for offer in indexed for word in offer.get("index_dtype", INDICES)}
    return [dtype for dtype in (*DTYPES, *INDICES) if dtype in dtypes | indices]


def test_every_backend_can_be_tried_here():
    assert not {name: why for name, why in BLOCKED.items() if why}


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_bit_pattern_comes_back(name):
    adapter = find(name).load()
    to_device, to_host = device(adapter)
    assert taken(adapter)
    for dtype in taken(adapter):
        array = every_pattern(dtype)
        back = to_host(to_device(array.copy()))
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert back.tobytes() == array.tobytes(), dtype


@pytest.mark.parametrize("name", RUNNABLE)
def test_arrays_without_elements_keep_their_shape(name):
    adapter = find(name).load()
    to_device, to_host = device(adapter)
    for dtype in taken(adapter):
        array = every_pattern(dtype)[:0]
        assert to_host(to_device(array.copy())).shape == array.shape, dtype


@pytest.mark.parametrize("strides", [word for word in STRIDES if word != "contiguous"])
@pytest.mark.parametrize(
    "names", [("q", "paged_decode out"), ("q", "k", "v", "append_decode out"), ("cache k", "cache v")]
)
def test_no_array_of_attention_has_the_strides_of_another_one(names, strides):
    """Who takes those of q for those of out would be right."""
    array = np.zeros((4, 3, 8), np.float32)
    found = {name: (storage := wrap(array, strides, name))[0][storage[1]].strides for name in names}
    assert len(set(found.values())) == len(names), found
    assert all(found["q"][1] != of[1] for name, of in found.items() if name.endswith(" out"))


@pytest.mark.parametrize("at", [0, 7, 1 << 14, -9, -1])
@pytest.mark.parametrize("more", [0, 1, 7])
def test_one_byte_of_a_large_array_is_a_difference_wherever_it_is(more, at):
    """Large arrays are compared eight bytes at a time, and what is left behind the last eight as well."""
    one = np.zeros((1 << 15) + more, np.uint8)
    other = one.copy()
    assert _same_bytes(one, other)
    other[at] = 1
    assert not _same_bytes(one, other)


@pytest.mark.parametrize("strides", [word for word in STRIDES if word != "contiguous"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_a_slice_of_a_handle_is_the_array_in_its_storage(name, strides):
    adapter = find(name).load()
    if not any(strides in offer.get("strides", ()) for offer in adapter.OFFERS.values()):
        assert {strides, "strides"} & set(adapter.WHY_NOT), "what is not offered has a reason"
        return
    to_device, to_host = device(adapter)
    for dtype in taken(adapter):
        array = every_pattern(dtype)
        storage, slices = wrap(array, strides)
        view = to_device(storage.copy())[slices]
        assert to_host(view).tobytes() == array.tobytes(), dtype
