"""The torch reference: what its ARITHMETIC rests on, and its offer at the far end, where nothing is drawn."""

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
# our own modules are imported plainly: one that no longer imports is a failure, not a skip
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from kvconform.harness.subject import Subject  # noqa: E402
from kvconform.impls import torch_ref  # noqa: E402
from kvconform.impls.torch_kernels import handles  # noqa: E402
from kvconform.specs.case import Case  # noqa: E402
from kvconform.specs.profile import profile_of  # noqa: E402
from kvconform.suites import test_decode  # noqa: E402

SUBJECT = Subject(torch_ref, "torch_ref", torch_ref.__file__)
CASE = Case(op="paged_decode", layout="nhd", dtype="float32", kv_lens=(5, 0), page_size=4, head_dim=8, num_splits=2)
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


def test_attention_is_two_passes_a_level_and_no_matrix_product():
    """TF32 and bfloat16 products are settings of the process; here nothing heeds them, and no maximum is updated."""
    with Recorded() as recorded:
        test_decode.test_decode_is_within_the_bound.law.check(SUBJECT, CASE)
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
