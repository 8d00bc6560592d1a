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


def encode():
    return {"x": inputs(replace(CASE, op="pq_append")).k, "codebooks": inputs(CASE).codebooks[K], "dtype": CASE.dtype}


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
    "NaN in what is encoded": ("pq_encode", lambda a: {"x": with_one(a["x"], np.nan)}, "holds nan"),
    "NaN in K": ("pq_append", lambda a: {"k": with_one(a["k"], np.nan)}, "k of token 0, head 0 holds nan"),
    "NaN in V": ("pq_append", lambda a: {"v": with_one(a["v"], np.nan, -1)}, "v of token 8, head 1 holds nan"),
    "an infinite centroid": ("pq_append", lambda a: {"v_codebooks": with_one(a["v_codebooks"], np.inf)}, "v hold inf"),
    "a slot past the pool": ("pq_append", lambda a: {"slot_mapping": with_one(a["slot_mapping"], 10_000)}, "10000"),
    "a slot given twice": (
        "pq_append",
        lambda a: {"slot_mapping": with_one(a["slot_mapping"], a["slot_mapping"][0, 0], 2)},
        "given to 2 tokens",
    ),
    "a page past the pool": ("pq_decode_attention", lambda a: {"page_ids": with_one(a["page_ids"], 99)}, "99"),
    "a page below 0": ("pq_decode_attention", lambda a: {"page_ids": with_one(a["page_ids"], -7)}, "-7"),
    "a page owned twice": (
        "pq_decode_attention",
        lambda a: {"page_ids": with_one(a["page_ids"], a["page_ids"][0, 0, 0], 3)},
        "owned 2 times",
    ),
    "pages of another size": ("pq_decode_attention", lambda a: {"page_size": 7}, r"\b7\b"),
    "appended pages of another size": ("pq_append", lambda a: {"page_size": 7}, r"\b7\b"),
    "another number of subspaces": ("pq_decode_attention", lambda a: {"num_subspaces": 5}, r"\b5\b"),
    "another number of subspaces appended": ("pq_append", lambda a: {"num_subspaces": 5}, r"\b5\b"),
    "no splits": ("pq_decode_attention", lambda a: {"num_splits": 0}, "num_splits is 0"),
    "a code without a centroid": (
        "pq_decode_attention",
        lambda a: {"cache": {name: np.full_like(pool, 200) for name, pool in a["cache"].items()}},
        "200",
    ),
    "more tokens than pages hold": ("pq_decode_attention", lambda a: {"kv_lens": with_one(a["kv_lens"], 77)}, "77"),
    "fewer tokens than none": ("pq_decode_attention", lambda a: {"kv_lens": with_one(a["kv_lens"], -3)}, "-3"),
    "a residual longer than its buffer": (
        "pq_decode_attention",
        lambda a: {"residual_lens": with_one(a["residual_lens"], 4)},
        "residual_lens of sequence 0 is 4",
    ),
    "a residual of fewer rows than none": (
        "pq_decode_attention",
        lambda a: {"residual_lens": with_one(a["residual_lens"], -2)},
        "residual_lens of sequence 0 is -2",
    ),
}
"""What is wrong -> the operation, what is changed of its arguments, what the sentence says."""

WITHOUT_CENTROID = "a code without a centroid"
NOT_SEEN = {
    ("cuda", WITHOUT_CENTROID): "a copy of all codes to the host costs more than attention over them does",
    ("pallas_tpu", WITHOUT_CENTROID): "the same; its one-hot matrix picks nothing for such a code",
}
"""Who does not look at what -> why."""

SEEN = [(backend, name) for backend in BACKENDS for name in BAD if (backend, name) not in NOT_SEEN]


def called(backend, name):
    op, change, _ = BAD[name]
    found = find(backend)
    if found.blocked:
        pytest.skip(found.blocked)
    subject = Subject(found.load(), found.name, str(found.path))
    given = {"pq_encode": encode, "pq_append": append, "pq_decode_attention": attention}[op]()
    layout = "codes" if op == "pq_encode" else CASE.layout
    return subject.call(replace(CASE, op=op, layout=layout), op, **(given | change(given)))


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


@pytest.mark.parametrize("backend", BACKENDS)
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
