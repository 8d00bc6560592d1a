"""What every backend's operations on codes refuse: a sentence with the value, before anything is written."""

from dataclasses import replace

import numpy as np
import pytest

from kvconform.harness.adapters import find
from kvconform.harness.subject import Subject
from kvconform.oracles import paged
from kvconform.oracles.verdict import Raised
from kvconform.specs.case import Case
from kvconform.specs.inputs import inputs
from kvconform.specs.pq import of_side
from kvconform.specs.row import SIDES, K, V

CASE = Case(
    op="pq_decode_attention",
    layout="pq_columns",
    dtype="uint8",
    q_dtype="float32",
    codes="mixed",
    num_subspaces=2,
    sub_dim=2,
    num_centroids=3,
    num_kv_heads=2,
    kv_lens=(5, 4),
    residual=3,
    page_size=2,
    spare_pages=1,
)
BACKENDS = ("numpy_ref", "torch_ref", "triton_ref", "cuda", "pallas_tpu")
SIZES = ("layout", "dtype", "page_size", "num_subspaces")


def attention():
    x = inputs(CASE)
    given = {"q": x.q, "cache": paged.filled(x.pages, "zero"), "page_ids": x.page_ids, "kv_lens": x.kv_lens}
    given |= {"residual_k": x.residual[K], "residual_v": x.residual[V], "residual_lens": x.residual_lens}
    return given | books() | sizes() | {"sm_scale": x.sm_scale, "num_splits": 1}


def append():
    x = inputs(replace(CASE, op="pq_append"))
    return {"k": x.k, "v": x.v, "slot_mapping": x.slot_mapping, "cache": x.pages.dead("bits")} | books() | sizes()


def books():
    return {of_side(side): inputs(CASE).codebooks[side] for side in SIDES}


def sizes():
    return {name: getattr(CASE, name) for name in SIZES}


def with_one(array, value, at=0):
    array = array.copy()
    array.reshape(-1)[at] = value
    return array


BAD = {
    "five dims in two subspaces": ("pq_append", lambda a: {"k": np.ones((9, 2, 5), np.float32)}, "5"),
    "more centroids than codes count": (
        "pq_append",
        lambda a: {"k_codebooks": np.ones((2, 257, 2), np.float32), "v_codebooks": np.ones((2, 257, 2), np.float32)},
        "257",
    ),
    "codes that are no bytes": (
        "pq_decode_attention",
        lambda a: {"cache": {name: pool.astype(np.int32) for name, pool in a["cache"].items()}},
        "int32",
    ),
    "NaN in K": ("pq_append", lambda a: {"k": with_one(a["k"], np.nan)}, "(?i)nan"),
    "NaN in V": ("pq_append", lambda a: {"v": with_one(a["v"], np.nan, -1)}, "(?i)nan"),
    "a slot past the pool": ("pq_append", lambda a: {"slot_mapping": with_one(a["slot_mapping"], 10_000)}, "10000"),
    "a page past the pool": ("pq_decode_attention", lambda a: {"page_ids": with_one(a["page_ids"], 99)}, "99"),
    "a page below 0": ("pq_decode_attention", lambda a: {"page_ids": with_one(a["page_ids"], -7)}, "-7"),
    "a code without a centroid": (
        "pq_decode_attention",
        lambda a: {"cache": {name: np.full_like(pool, 200) for name, pool in a["cache"].items()}},
        "200",
    ),
    "more tokens than pages hold": ("pq_decode_attention", lambda a: {"kv_lens": with_one(a["kv_lens"], 77)}, "77"),
    "a residual longer than its buffer": (
        "pq_decode_attention",
        lambda a: {"residual_lens": with_one(a["residual_lens"], 4)},
        "4",
    ),
}
"""What is wrong -> the operation, what is changed of its arguments, what the sentence says."""

VALUES = ("NaN in K", "NaN in V", "a slot past the pool", "a page past the pool", "a page below 0")
VALUES += ("a code without a centroid", "more tokens than pages hold", "a residual longer than its buffer")
NOT_SEEN = {("pallas_tpu", name) for name in VALUES} | {("cuda", "a code without a centroid")}
"""Who does not look: under jit there are no values yet; a pass over all codes costs as much as attention does."""

SEEN = [(backend, name) for backend in BACKENDS for name in BAD if (backend, name) not in NOT_SEEN]


def called(backend, name):
    op, change, _ = BAD[name]
    found = find(backend)
    if found.blocked:
        pytest.skip(found.blocked)
    subject = Subject(found.load(), found.name, str(found.path))
    given = {"pq_append": append, "pq_decode_attention": attention}[op]()
    return subject.call(replace(CASE, op=op), op, **(given | change(given)))


@pytest.mark.parametrize(("backend", "name"), SEEN)
def test_bad_input_is_refused_with_its_value(backend, name):
    with pytest.raises(Raised, match=BAD[name][2]) as told:
        called(backend, name)
    assert "ValueError" in str(told.value) or "TypeError" in str(told.value)


@pytest.mark.parametrize(("backend", "name"), sorted(NOT_SEEN))
def test_who_is_said_not_to_look_does_not(backend, name):
    said = ""
    try:
        called(backend, name)
    except Raised as e:  # an interpreter that minds its bounds, with whatever it says
        said = str(e)
    assert "ValueError" not in said


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "pallas_tpu"])
def test_nothing_is_written_before_the_refusal(backend):
    found = find(backend)
    if found.blocked:
        pytest.skip(found.blocked)
    adapter = found.load()
    to_device, to_host = (getattr(adapter, name, lambda a: a) for name in ("to_device", "to_host"))
    given = append()
    given["slot_mapping"] = with_one(given["slot_mapping"], 10_000, -1)
    cache = {name: to_device(pool.copy()) for name, pool in given["cache"].items()}
    arrays = {name: to_device(a.copy()) for name, a in given.items() if isinstance(a, np.ndarray)}
    order = ("k", "v", "k_codebooks", "v_codebooks", "slot_mapping")
    with pytest.raises(ValueError, match="10000"):
        adapter.pq_append(cache, *(arrays[name] for name in order), **sizes())
    for name, pool in cache.items():
        assert np.array_equal(np.asarray(to_host(pool)), given["cache"][name])
