"""Corrupting any single axis of any row is caught by at least two of the three guards: bijection, goldens, reader.

Bijection alone sees few slips, since most of them put every element somewhere: what has to see nearly all are the
goldens and the reader, which know nothing of each other.
"""

import math
from itertools import islice, product

import numpy as np
import pytest

from kvconform.impls import numpy_ref
from kvconform.impls.numpy_kernels import codes
from kvconform.oracles import memory
from kvconform.specs.layouts import LAYOUTS
from kvconform.tests.geometry import sizes_of
from kvconform.tests.test_goldens import NEVER_ELSEWHERE, built, differs, of
from kvconform.tests.test_layouts import overlaps
from kvconform.tests.test_numpy_views import KINDS, ROWS, cells_of, disagreeing, filled
from kvconform.tests.wrong_rows import misread, same_places

# --- readers of what holds no pages: slices of bytes, and nibbles


def _halves(nibbles):
    """Codes of 32 elements in 16 bytes: elements 0 to 15 low, 16 to 31 high."""
    return np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)


def _bits(octets):
    return np.unpackbits(octets, axis=-1, bitorder="little")


def _f16(octets):
    return np.ascontiguousarray(octets).view(np.float16)[..., 0]


def _q6_k(b):
    low, high = b[:, :128].reshape(-1, 2, 2, 32), b[:, 128:192].reshape(-1, 2, 32)
    codes_of = np.stack([low & 15, low >> 4], axis=2).reshape(len(b), -1)  # part, top, pair, inside
    pairs = np.stack([high >> 2 * shift & 3 for shift in range(4)], axis=2).reshape(len(b), -1)
    return {"codes": codes_of, "high": pairs, "scales": b[:, 192:208].view(np.int8), "scale": _f16(b[:, 208:])}


def _nvfp4(b):
    nibbles = b[:, 4:].reshape(-1, 4, 8)
    return {"scale": b[:, :4], "codes": np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)}


READERS = {
    "q8_0": lambda b: {"scale": _f16(b[:, :2]), "codes": b[:, 2:].view(np.int8)},
    "q4_0": lambda b: {"scale": _f16(b[:, :2]), "codes": _halves(b[:, 2:])},
    "iq4_nl": lambda b: {"scale": _f16(b[:, :2]), "codes": _halves(b[:, 2:])},
    "q4_1": lambda b: {"scale": _f16(b[:, :2]), "least": _f16(b[:, 2:4]), "codes": _halves(b[:, 4:])},
    "q5_0": lambda b: {"scale": _f16(b[:, :2]), "fifth": _bits(b[:, 2:6]), "codes": _halves(b[:, 6:])},
    "q5_1": lambda b: {
        "scale": _f16(b[:, :2]), "least": _f16(b[:, 2:4]), "fifth": _bits(b[:, 4:8]), "codes": _halves(b[:, 8:])
    },
    "mxfp4": lambda b: {"scale": b[:, 0], "codes": _halves(b[:, 1:])},
    "q6_K": _q6_k,
    "nvfp4_blocks": _nvfp4,
    "fused": lambda kv: {"k": numpy_ref.extract_k(kv), "v": numpy_ref.extract_v(kv)},
    "parts_first": lambda outs: {"outs": outs},
}  # fmt: skip


TRANSPOSED = {"codes": {"codes": False}, "pq_rows": {"k": False, "v": False}, "pq_heads": {"k": False, "v": False}}
TRANSPOSED |= {"pq_columns": {"k": False, "v": True}}
"""Rows of codes -> buffer -> whether its last two axes change places once codes are one a byte."""


def _coded(name, cache, dtype):
    one_a_byte = {part: codes.expand(array, 4) if dtype == "uint4" else array for part, array in cache.items()}
    return {part: a.swapaxes(1, 2) if TRANSPOSED[name][part] else a for part, a in one_a_byte.items()}


def unread(row, sizes, dtype, formula=None):
    """Parts of which a reader and a formula, the row's own unless another is given, do not find the same."""
    cache, formula = filled(row, sizes, dtype), formula or row
    is_coded = row.name in TRANSPOSED
    found = _coded(row.name, cache, dtype) if is_coded else READERS[row.name](cache[row.buffers[0]])
    wrong = []
    for part in formula.parts:
        at = formula.everywhere(part, sizes, dtype)
        try:
            want = memory.load(formula, cache, part, at, sizes, dtype)
        except IndexError:  # past the end
            wrong.append(part.name)
            continue
        if found[part.name].size != want.size or found[part.name].tobytes() != want.tobytes():
            wrong.append(part.name)
    return wrong


@pytest.mark.parametrize("name", [*READERS, *TRANSPOSED])
def test_plain_slices_find_what_the_formula_addresses(name):
    row = LAYOUTS[name]
    for dtype in row.dtypes:
        assert unread(row, large(row, dtype), dtype) == []


def test_every_row_has_a_reader():
    assert set(READERS) | set(TRANSPOSED) | set(ROWS) == set(LAYOUTS)


def large(row, dtype):
    """Sizes with more than one block."""
    sizes = sizes_of(row, dtype)
    return {**sizes, "dim": 512} if row.holds == "elements" else sizes


# --- two of three


ROOMY = {
    "page": (4, 8, 32, 64, 128),
    "slot": (3, 4, 32, 128),
    "head": (2, 8, 16, 32, 64),
    "dim": (32, 64, 128, 256, 512),
    "dim_v": (64, 32),
}
"""Sizes in which an axis can be cut that the row itself leaves whole."""


def together(row, wrong):
    """The smallest of these sizes in which both rows can be built, if any, in the row's last dtype."""
    axes = [axis for axis in ROOMY if axis in row.axes]
    choices = [(row.fixed[axis],) if axis in row.fixed else ROOMY[axis] for axis in axes]
    tried = sorted(product(*choices), key=math.prod)
    every = ({**sizes_of(row, row.dtypes[-1]), **dict(zip(axes, some, strict=True))} for some in tried)
    fits = (sizes for sizes in every if not any(one.flaw(sizes, row.dtypes[-1]) for one in (row, wrong)))
    return [(row.dtypes[-1], sizes) for sizes in islice(fits, 1)]


def caught_by_reader(row, wrong):
    if row.name in READERS or row.name in TRANSPOSED:
        cells, judge = [(dtype, large(row, dtype)) for dtype in row.dtypes], unread
    else:
        cells, judge = [cell for kind in KINDS for cell in cells_of(row.name, kind)], disagreeing
    if all(wrong.flaw(sizes, dtype) for dtype, sizes in cells):
        cells = together(row, wrong)
    return any(
        not wrong.flaw(sizes, dtype)
        and not same_places(row, wrong, sizes, dtype)
        and bool(judge(row, sizes, dtype, formula=wrong))
        for dtype, sizes in cells
    )


def caught_by_bijection(row, wrong):
    for dtype in row.dtypes[-1:]:
        sizes = sizes_of(row, dtype)
        if not wrong.flaw(sizes, dtype) and overlaps(wrong, sizes, dtype):
            return True
    return False


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_slip_in_a_row_is_caught_by_two_of_three_guards(name):
    """But for those that move nothing: each is held against the row's places, and written down with the reason."""
    row, counted = LAYOUTS[name], 0
    harmless = NEVER_ELSEWHERE.get(name, {})
    for what, wrong in misread(row):
        if what in harmless:
            assert all(same_places(row, wrong, sizes, dtype) for sizes, dtype in built(row, wrong))
            continue
        guards = {
            "goldens": any(differs(entry, wrong) for entry in of(row)),
            "reader": caught_by_reader(row, wrong),
            "bijection": caught_by_bijection(row, wrong),
        }
        assert sum(guards.values()) >= 2, (what, guards)
        counted += 1
    assert counted >= len(row.fields)


def test_a_reader_that_agrees_with_everything_would_be_seen():
    row = LAYOUTS["q4_0"]
    sizes = large(row, "uint4")
    slips = dict(misread(row))
    assert any(unread(row, sizes, "uint4", formula=wrong) for wrong in slips.values() if not wrong.flaw(sizes, "uint4"))
    assert codes.expand(np.array([0x21], np.uint8), 4).tolist() == [1, 2]
