"""What the judges of system 3 build on: forms of p . V that count, runs that can be void, faiss that may be absent."""

import gc
import importlib
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.claims import pq_error, pq_kv, pq_pages, pq_speed, quantised
from kvconform.claims.claim import NOT_MEASURED
from kvconform.claims.counting import Meter
from kvconform.harness import cli
from kvconform.impls import numpy_ref
from kvconform.impls.torch_kernels import beside

TINY = pq_speed.Geometry(
    num_kv_heads=2, group=2, num_subspaces=4, num_centroids=16, page_size=8, residual=3, num_splits=3
)
TINY = pq_speed.replace(TINY, least=0.0, copied=1 << 12, spread=0)


# --- p . V


@pytest.mark.parametrize("length", [1, 5, 40])
def test_both_forms_of_p_v_agree_where_nothing_rounds_and_are_counted(length):
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 64, length) / 64
    codes, book = rng.integers(0, 8, (length, 3)), rng.integers(-9, 9, (3, 8, 2)).astype(np.float64)
    counts, found = [], []
    for form in (pq_kv.dequantised, pq_kv.by_mass):
        meter = Meter()
        found.append(form(weights, codes, book, meter))
        counts.append(meter.products)
    want = np.einsum("j,jmk->mk", weights, book[np.arange(3), codes])
    assert found[0] == found[1] == want.tolist()
    assert counts == [length * 6, 8 * 6]


# --- bytes


def test_what_a_cache_keeps_is_counted_by_hand():
    kept = pq_pages.Kept()
    assert [kept.coded(n) for n in (0, 127, 128, 191, 192)] == [0, 0, 64, 64, 128]
    assert kept.parts(128) == {
        "codes": 8 * 2 * 64 * 64,
        "page ids": 8 * 4,
        "codebooks": 2 * 64 * 256 * 2 * 2,
        "unquantised": 2 * 128 * 8 * 128 * 2,
    }
    assert kept.saved(128) < 0 < kept.saved(1024) < 0.75


# --- errors


def test_every_query_of_every_scheme_is_judged_once(monkeypatch):
    for name, fewer in (("LAYERS", 1), ("SEQUENCES", 2), ("TRAINED_ON", 256)):
        monkeypatch.setattr(quantised, name, fewer)
    monkeypatch.setattr(quantised, "trained", quantised.trained.__wrapped__)
    found = quantised.errors(0, 16, numpy_ref)
    assert {len(rows) for rows in found.out.values()} == {2 * quantised.QUERIES}
    assert set(found.out) == {quantised.PQ, quantised.OPQ, *quantised.UNIFORM} == set(found.k) == set(found.k_seen)
    assert all((rows > 0).all() for rows in found.out.values())


def test_channels_are_heavy_tailed():
    one = quantised.layer(0, 0, 0)
    ordinary, larger = np.sort(one.scales)[: -quantised.OUTLIERS], np.sort(one.scales)[-quantised.OUTLIERS :]
    assert larger.min() > ordinary.max()
    x = one.draw(4096) / one.scales
    assert np.mean(x**4) / np.mean(x**2) ** 2 > 3  # a Gaussian's kurtosis


@pytest.mark.parametrize(
    ("quantise", "shared"),
    [(quantised.by_channel, (128, 1)), (quantised.by_group, (64, 1)), (quantised.by_token, (1, 8))],
)
def test_uniform_steps_lie_between_the_ends_of_what_shares_them(quantise, shared):
    """Numbers on the steps come back as they are; of one bit only the ends are left."""
    rows, dims = shared
    x = np.random.default_rng(0).integers(0, 16, (128 // rows, rows, 8 // dims, dims)).astype(np.float64)
    x[:, 0, :, 0], x[:, -1, :, -1] = 0, 15
    x = x.reshape(128, 8)
    assert quantise(x, 4).tolist() == x.tolist()
    assert np.unique(quantise(x, 1)).tolist() == [0, 15]
    moved = x + np.arange(8) * 100 if dims == 1 else x + np.arange(128)[:, None] * 100
    assert quantise(moved, 4).tolist() == moved.tolist()


def test_without_faiss_errors_are_not_measured_and_no_picture_is_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    quantised.trained.cache_clear()
    found = pq_error.beats_uniform_at_2_bits(0)
    assert found.verdict == NOT_MEASURED
    assert "pip install 'kvconform[codebooks]'" in found.explanation
    name = "product_quantisation_beats_uniform_at_4_bits"
    assert cli.main(["claims", name, "--plot", str(tmp_path / "x.svg")]) == 2
    shown = capsys.readouterr().err
    assert shown.endswith("training codebooks needs faiss-cpu: pip install 'kvconform[codebooks]'\n")
    assert "Traceback" not in shown
    assert not (tmp_path / "x.svg").exists()


# --- speed


@pytest.mark.parametrize("name", ["numpy_ref", "torch_ref", *pq_speed.ADAPTERS])
def test_a_tiny_run_times_both_layouts_beside_torch_and_a_copy(name):
    found = pq_speed.measure(importlib.import_module(f"kvconform.impls.{name}"), (8, 16), TINY)
    assert (found.impl, found.void) == (name, "")
    assert list(found.seconds) == [8, 16]
    for took in found.seconds.values():
        assert set(took) == {pq_speed.ROWS, pq_speed.COLUMNS, pq_speed.SDPA}
        assert min(took.values()) > 0
    assert found.copied > 0
    assert found.transposing is not None
    assert len(found.figures()) == 1 + 2 * 3 + 1


def test_times_of_a_wrong_kernel_are_void():
    def wrong(*given, num_splits, **told):
        out, lse = numpy_ref.pq_decode_attention(*given, num_splits=num_splits, **told)
        return out + np.float16(0.1) * (told["layout"] == pq_speed.COLUMNS), lse

    adapter = SimpleNamespace(**(vars(numpy_ref) | {pq_speed.OP: wrong}))
    assert pq_speed.measure(adapter, (16,), TINY).void == (
        "16 of 16 numbers of pq_columns at 16 tokens are outside the derived bound"
    )


def here(monkeypatch, adapters, gpu="some GPU"):
    monkeypatch.setattr(beside, "gpu", lambda: gpu)
    monkeypatch.setattr(pq_speed, "ADAPTERS", adapters)
    monkeypatch.setattr(pq_speed, "measure", partial(pq_speed.measure, contexts=(16,), geometry=TINY))
    return pq_speed.measured_here.__wrapped__(0)


def test_without_a_gpu_nothing_is_measured_and_it_says_so(monkeypatch):
    assert here(monkeypatch, ("numpy_ref",), gpu="") == "there is no GPU here"


def test_without_torch_nothing_is_measured_and_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert here(monkeypatch, ("numpy_ref",)) == "torch is not installed, and attention is timed beside torch's"


def test_with_a_gpu_every_adapter_that_offers_it_is_measured(monkeypatch):
    (found,) = here(monkeypatch, ("numpy_ref", "torch_sdpa_math", "no_such_adapter"))
    assert (found.impl, found.device, found.void) == ("numpy_ref", "some GPU", "")


def test_what_runs_on_the_host_is_not_measured_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(numpy_ref, "attest", lambda: {"device": "cpu", "mode": "emulated"})
    assert here(monkeypatch, ("numpy_ref",)) == "numpy_ref is emulated"


def test_where_no_adapter_is_measured_each_says_why(monkeypatch):
    monkeypatch.setattr(numpy_ref, "pq_decode_attention", lambda q, *given, **told: (q, q[..., 0]))
    assert here(monkeypatch, ("torch_sdpa_math", "no_such_adapter", "numpy_ref")) == (
        "torch_sdpa_math does not offer pq_decode_attention over pq_rows and pq_columns; no_such_adapter cannot be "
        "imported: No module named 'kvconform.impls.no_such_adapter'; numpy_ref's times are void: 16 of 16 numbers of "
        "pq_rows at 16 tokens are outside the derived bound"
    )


def test_calls_take_turns_where_a_cache_would_hold_what_they_read():
    assert TINY.turns(100) == 1
    assert pq_speed.Geometry().turns(1 << 20) == 256
    seen = []
    adapter = SimpleNamespace(to_device=lambda array: array.copy(), op=lambda x: seen.append(id(x)))
    call = pq_speed._ready(adapter, "op", [np.zeros(2)], {}, turns=3)
    for _ in range(6):
        call()
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:]


def test_shares_of_a_copy_are_bytes_a_second_over_its_own():
    of = pq_speed.Geometry(num_kv_heads=1, num_subspaces=2, sub_dim=2, num_centroids=4, residual=0)
    found = pq_speed.Measured(
        "some", "", of, 1000.0, {10: {pq_speed.ROWS: 0.1, pq_speed.SDPA: 0.2, pq_speed.COLUMNS: 0.05}}
    )
    assert of.coded_bytes(10) == 2 * 10 * 2 + 2 * 4 * 4 * 2
    assert found.share_of_copy(10, pq_speed.ROWS) == pytest.approx(104 / 0.1 / 1000)
    assert found.share_of_copy(10, pq_speed.SDPA) == pytest.approx(2 * 10 * 4 * 2 / 0.2 / 1000)
    assert found.faster(10) == pytest.approx(4)


def test_lines_of_whoever_watches_the_garbage_are_no_steps_of_an_allocation():
    """Hypothesis does so, whenever it is imported."""

    def watches(phase, info):
        for _ in range(100):
            pass

    def steps():
        return pq_pages._steps(numpy_ref.page_manager, 1000)

    plain, thresholds = steps(), gc.get_threshold()
    gc.callbacks.append(watches)
    try:
        for threshold in (1, 2, 5):
            gc.set_threshold(threshold)
            assert steps() == plain
    finally:
        gc.callbacks.remove(watches)
        gc.set_threshold(*thresholds)
    assert gc.isenabled()
