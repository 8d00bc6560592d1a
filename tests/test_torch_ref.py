"""The torch reference: what its ARITHMETIC and its views rest on, and its offer where little or nothing is drawn."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
# our own modules are imported plainly: one that no longer imports is a failure, not a skip
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kvconform.harness.subject import Subject  # noqa: E402
from kvconform.impls import torch_ref, triton_ref  # noqa: E402
from kvconform.impls.torch_kernels import handles, views  # noqa: E402
from kvconform.impls.torch_kernels import slots as slots_of  # noqa: E402
from kvconform.oracles.verdict import Violation  # noqa: E402
from kvconform.specs.case import Case  # noqa: E402
from kvconform.specs.cells import cells  # noqa: E402
from kvconform.specs.layouts import LAYOUTS  # noqa: E402
from kvconform.specs.operations import ROUNDED  # noqa: E402
from kvconform.specs.pinned import sparse_pool  # noqa: E402
from kvconform.specs.profile import profile_of  # noqa: E402
from kvconform.specs.storage import STRIDES, wrap  # noqa: E402
from kvconform.suites import test_decode, test_pages  # noqa: E402

assert triton_ref.NAME  # imported first: what these tests call imports triton, and not as interpreted

SUBJECT = Subject(torch_ref, "torch_ref", torch_ref.__file__)
CASE = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(5, 0), page_size=4, head_dim=8, num_splits=2)
FEATURES = {"window": 3, "soft_cap": 2.0, "sinks": "drawn", "alibi_slopes": "drawn", "q_lens": (3, 1)}
FEATURES |= {"tree_mask": "drawn"}
MATRIX_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot"}


class Recorded(TorchDispatchMode):
    """Counts by name what torch is asked to compute."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.calls[operation.overloadpacket.__name__] += 1
        return operation(*args, **(kwargs or {}))


def test_a_matrix_product_would_be_seen():
    with Recorded() as recorded:
        torch.einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(3, 2))
    assert MATRIX_PRODUCTS & set(recorded.calls)


@pytest.mark.parametrize("features", [{}, FEATURES], ids=["plain", "with every feature"])
def test_attention_is_two_passes_a_level_and_no_matrix_product(features):
    """TF32 and bfloat16 products are settings of the process; here nothing heeds them, and no maximum is updated."""
    with Recorded() as recorded:
        test_decode.test_decode_is_within_the_bound.law.check(SUBJECT, replace(CASE, **features))
    assert recorded.calls["amax"] == recorded.calls["exp"] == 2, "of the keys of each part, and of the parts"
    assert not MATRIX_PRODUCTS & set(recorded.calls)


@pytest.mark.parametrize("num_splits", [8, 9, max(torch_ref.OFFERS["paged_decode"]["num_splits"])])
def test_there_may_be_more_splits_than_room_for_keys(num_splits):
    case = Case(**{**vars(CASE), "num_splits": num_splits})
    test_decode.test_decode_is_within_the_bound.law.check(SUBJECT, case)


def test_exp_and_log_are_as_accurate_as_declared():
    profile = profile_of(torch_ref.ARITHMETIC, "float32")
    negative = torch.linspace(-87, 0, 1 << 20, device=handles.DEVICE)
    exact = handles.to_host(negative).astype(np.float64)
    error = np.abs(handles.to_host(negative.exp()) / np.exp(exact) - 1)
    assert 0 < error.max() <= profile.exp_error
    assert handles.to_host(negative.exp())[-1] == 1, "exp(0), which is what makes a total at least 1"
    total = torch.linspace(1, 1 << 12, 1 << 20, device=handles.DEVICE)
    want = np.log(handles.to_host(total).astype(np.float64))
    error = np.abs(handles.to_host(total.log()) - want) / (1 + want)
    assert 0 < error.max() <= profile.log_error


# --- K and V that are no plain numbers


def small(layout, dtype, **more):
    """A Case of a few pages that are not full, with NaN wherever no token is; of a narrow cache q is float32."""
    sizes = {"page_size": 4, "num_kv_heads": 2, "group": 2, "head_dim": 8, "kv_lens": (5, 0, 9), "spare_pages": 2}
    sizes |= {"num_splits": 2, "dead": "nan", "strides": "all"}
    sizes |= {} if dtype in ROUNDED else {"q_dtype": "float32"}
    return Case(op="paged_decode", layout=layout, dtype=dtype, **sizes | more)


GIVEN = [
    small("nhd", "float8_e4m3fn", kv_scales="tensor", q_dtype="float16", seed=2),
    small("nhd", "int8", kv_scales="head"),
    small("hnd", "float8_e4m3fn", kv_scales="page", q_dtype="bfloat16"),
    small("split_x", "int8", kv_scales="token", head_dim=32),
    small("mla", "float8_e4m3fn", kv_scales="token", num_kv_heads=1),
    small("mla_aligned", "int8", kv_scales="page", num_kv_heads=1),
]
"""Caches whose scales attention is given."""

STORED = [
    small("token_head_scales", "int8", head_dim=7),
    small("token_head_scales", "float8_e4m3fn", q_dtype="bfloat16"),
    small("cells_q8_0", "int8", head_dim=64, page_size=12, spare_pages=0),
    small("mla_656", "float8_e4m3fn", num_kv_heads=1, head_dim=512),
    small("mla_scales_behind", "float8_e4m3fn", num_kv_heads=1, head_dim=448),
    small("token_head_scales", "uint4"),
    small("nvfp4", "float4_e2m1fn", head_dim=48, q_dtype="bfloat16"),
    small("nvfp4_swizzled", "float4_e2m1fn", head_dim=64, page_size=8),
    small("fp4_slots", "float4_e2m1fn", head_dim=32, page_size=1),
]
"""Caches whose scales lie in them."""

OTHERS = [
    small("nhd", "float8_e4m3fn"),
    small("nhd", "int8", q_dtype="bfloat16"),
    small("token_slots_diffkv", "float32", page_size=1, head_dim_v=3),
    small("beside_nhd_diffkv", "bfloat16", head_dim_v=16),
    small("beside_hnd_diffkv", "float8_e4m3fn", head_dim_v=3),
    small("mla", "float32", num_kv_heads=1),
    small("mla_aligned", "bfloat16", num_kv_heads=1),
]

IN_FORMS = [
    replace(case, table_form=form, window=4, poison="evicted", evicted_pages="minus_one")
    for case in (
        small("hnd", "float8_e4m3fn", kv_scales="page"),
        small("nhd", "int8", kv_scales="token"),
        small("mla", "float8_e4m3fn", kv_scales="token", num_kv_heads=1),
        small("token_head_scales", "int8"),
        small("mla_656", "float8_e4m3fn", num_kv_heads=1, head_dim=512),
    )
    for form in ("csr", "token_slots")
]
"""Scales of pages and of slots that are found by tables of other forms, of which old pages are no longer told."""


def name_of(case):
    return f"{case.layout}-{case.dtype}-{case.kv_scales}-{case.table_form}"


def require_right(subject, case):
    test_decode.test_decode_is_within_the_bound.law.check(subject, case)


class Without:
    """An adapter to which attention is given no such argument."""

    def __init__(self, adapter, name):
        self.adapter, self.left_out = adapter, name

    def __getattr__(self, name):
        return getattr(self.adapter, name)

    def paged_decode(self, *arguments, **keywords):
        return self.adapter.paged_decode(*arguments, **keywords | {self.left_out: None})


def require_that_scales_count(adapter, case, patch):
    """Left out of K or of V, they are missed."""
    for side, name in enumerate(("k_scale", "v_scale")):
        other = Without(adapter, name)
        if case in STORED:
            attended = views.attended

            def without(cache, layout, side=side, attended=attended, **told):
                found = list(attended(cache, layout, **told))
                found[side] = [views.Numbers(one.codes, None) for one in found[side]]
                return tuple(found)

            patch.setattr(views, "attended", without)
            other = adapter
        with pytest.raises(Violation, match="out"):
            require_right(Subject(other, adapter.NAME, adapter.__file__), case)
        patch.undo()


@pytest.mark.parametrize("case", [*GIVEN, *STORED, *OTHERS, *IN_FORMS], ids=name_of)
def test_attention_takes_codes_latents_and_widths_for_what_they_are(case):
    require_right(SUBJECT, case)


@pytest.mark.parametrize("case", [*GIVEN, *STORED], ids=name_of)
def test_a_scale_that_is_left_out_is_missed(case, monkeypatch):
    require_that_scales_count(torch_ref, case, monkeypatch)


class OfNeighbours:
    """An adapter that multiplies every page with the scales of the one before."""

    def __init__(self, adapter):
        self.adapter = adapter

    def __getattr__(self, name):
        return getattr(self.adapter, name)

    def paged_decode(self, *arguments, k_scale, v_scale, **keywords):
        rolled = {"k_scale": k_scale.roll(1, 0), "v_scale": v_scale.roll(1, 0)}
        return self.adapter.paged_decode(*arguments, **rolled, **keywords)


def require_that_scales_are_those_of_a_page(adapter, case):
    """Taken from another page, they are missed."""
    with pytest.raises(Violation, match="out"):
        require_right(Subject(OfNeighbours(adapter), adapter.NAME, adapter.__file__), case)


@pytest.mark.parametrize("case", [case for case in IN_FORMS if case.kv_scales != "none"], ids=name_of)
def test_scales_of_other_pages_are_missed_whatever_the_form_of_the_table(case):
    require_that_scales_are_those_of_a_page(torch_ref, case)


# --- views


def strided(row, strides):
    """A cache of a row in small sizes, and what its shapes do not tell."""
    sizes = {"page": 3, "slot": 16, "head": 4, "dim": 64, "dim_v": 24, "subspace": 8, **row.fixed}
    dtype, told = row.dtypes[-1], {"num_kv_heads": 4, "head_dim": sizes["dim"], "page_size": sizes["slot"]}
    told |= {"head_dim_v": sizes["dim_v"], "dtype": dtype}
    cache = {}
    for name in row.buffers:
        storage, slices = wrap(np.zeros(row.shape(name, sizes, dtype), row.word_of(name, dtype)), strides, name)
        cache[name] = handles.to_device(storage)[slices]
    known = {"num_kv_heads": "head", "head_dim": "dim", "head_dim_v": "dim_v", "page_size": "slot", "dtype": "dtype"}
    return cache, {name: told[name] for name, axis in known.items() if axis in row.hidden}


@pytest.mark.parametrize("layout", views.ROWS | views.RECORDS)
def test_every_view_lies_in_the_cache_itself_whatever_its_strides(layout):
    for strides in STRIDES:
        cache, told = strided(LAYOUTS[layout], strides)
        k, v = views.sides(cache, layout, **told)
        for view in (*k, *v):
            storage = cache[view.part.buffer].untyped_storage()
            assert view.tensor.untyped_storage().data_ptr() == storage.data_ptr()
            assert len(view.tensor.shape) == len(views.AXES)


def test_joining_what_is_strided_would_be_seen_to_copy():
    cache, _ = strided(LAYOUTS["packed"], "outer")
    assert cache["kv"].flatten(2, 3).untyped_storage().data_ptr() != cache["kv"].untyped_storage().data_ptr()


# --- what of an append stays


@given(st.lists(st.sampled_from(range(5)), max_size=12))
def test_of_several_tokens_for_one_slot_the_last_is_kept(slots):
    kept = slots_of.last_of_each(torch.tensor(slots, dtype=torch.int64)).tolist()
    assert sorted(kept) == sorted({slot: token for token, slot in enumerate(slots)}.values())


# --- pools too large to be copied


def peak_of(call):
    """Bytes that this process came to have in memory during a call, beyond what it had before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = peak()
    call()
    return peak() - before


def peak():
    told = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", told)[1])


def require_no_copy(subject, op):
    """Whoever copied the pool would have 2 GiB in memory."""
    laws = {
        "append": test_pages.test_append_counts_elements_beyond_31_bits.law,
        "gather": test_pages.test_gather_counts_elements_beyond_31_bits.law,
        "copy_pages": test_pages.test_copy_pages_counts_elements_beyond_31_bits.law,
    }
    found = [case for cell in cells(op, subject.offers[op], subject.conventions) for case in sparse_pool(cell)]
    of_hnd = [case for case in found if case.layout == "hnd"]
    assert {case.page_size > 1 for case in of_hnd if case.table_form == "block_table"} == {False, True}
    assert peak_of(lambda: np.ones(1 << 28, np.uint8)) > 1 << 27, "memory that is used is seen"
    for case in of_hnd:
        assert peak_of(lambda case=case: laws[op].check(subject, case)) < 1 << 27


LENT = [
    pytest.mark.skipif(handles.DEVICE.type != "cpu", reason="a GPU has memory of its own, and is lent nothing"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process's peak"),
]


@pytest.mark.parametrize("op", [pytest.param(op, marks=LENT) for op in ("append", "gather", "copy_pages")])
def test_a_pool_of_two_gigabytes_is_not_copied(op):
    require_no_copy(SUBJECT, op)
