"""Expectations cover exactly their region, and notice when their witness conforms."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvconform.harness.adapters import AdapterError
from kvconform.harness.cli import all_laws
from kvconform.harness.expectations import load

ROOT = Path(__file__).resolve().parent.parent

LEAKS = """
import numpy as np
from kvconform.impls.numpy_ref import gather as right
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32"}}}

def gather(cache, block_table, kv_lens, *, layout):
    k, v = right(cache, block_table, kv_lens, layout=layout)
    return (k, v) if WRONG_WHEN else (k, v)
"""
WRONG = "(k + 1, v) if cache['k'].shape[1] == 4 else (k, v)"
WITNESS = """
schema = 1
op = "gather"
layout = "nhd"
dtype = "float32"
page_size = 4
num_kv_heads = 1
head_dim = 1
kv_lens = [1]
"""


def entry(when="page_size = [4]", laws='["gather_reads_the_live_tokens_in_order"]', witness=WITNESS, extra=""):
    text = f'[[expect]]\nimpl = "kernel"\nlaws = {laws}\nreason = "known"\n{extra}\n'
    return text + f"[expect.when]\n{when}\n[expect.witness]\n{witness}"


def run(tmp_path, returns, expectations, *arguments):
    text = LEAKS.replace("(k, v) if WRONG_WHEN else (k, v)", returns)
    (tmp_path / "kernel.py").write_text(text)
    if expectations:
        (tmp_path / "expectations.toml").write_text(expectations)
    command = [sys.executable, "-P", str(ROOT / "__main__.py"), "run", "--impl", "kernel.py", "--profile", "default"]
    command += ["--json", "r.json", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    report = tmp_path / "r.json"
    cells = json.loads(report.read_text())["cells"] if report.exists() else []
    return done.returncode, [c for c in cells if c["outcome"] != "not offered"], done.stdout + done.stderr


def test_a_known_violation_is_expected_and_the_rest_of_the_law_holds(tmp_path):
    code, [cell], text = run(tmp_path, WRONG, entry())
    assert code == 0, text
    assert cell["outcome"] == "expected"
    assert 0 < cell["expected"] < cell["examples"]


def test_without_the_expectation_it_violates(tmp_path):
    code, [cell], _ = run(tmp_path, WRONG, entry(), "--expect", "none")
    assert code == 1
    assert cell["outcome"] == "violates"
    assert cell["counterexample"]["page_size"] == 4


def test_a_violation_outside_the_region_is_no_known_one(tmp_path):
    code, [cell], _ = run(tmp_path, "(k + 1, v) if cache['k'].shape[1] >= 4 else (k, v)", entry())
    assert code == 1
    assert cell["counterexample"]["page_size"] > 4


def test_a_witness_that_conforms_asks_to_be_removed(tmp_path):
    code, [cell], text = run(tmp_path, "(k, v)", entry())
    assert code == 1
    assert cell["outcome"] == "violates"
    assert "the witness of the expectation 'known' conforms now: remove this line" in text


def test_a_region_without_a_condition_reads_entire_law(tmp_path):
    code, [cell], text = run(tmp_path, "(k + 1, v)", entry(when=""))
    assert code == 0, text
    assert cell["message"] == "entire law: known"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (entry(laws='["gather_reads"]'), "expects a violation of law 'gather_reads'; did you mean 'gather_reads_the_"),
        (entry(when="page_sise = [4]"), "`when`: no case has 'page_sise'; did you mean 'page_size'"),
        (entry(when="page_size = [8]"), "its witness lies outside its own `when`"),
        (entry(witness=WITNESS.replace("schema = 1", "schema = 9")), "the witness cannot be read: a case of schema 9"),
        (entry(extra='resaon = "x"'), "has 'resaon'; did you mean 'reason'"),
        (entry(witness=""), "has no 'witness'"),
        ("[[expect]\n", "cannot be read as TOML"),
    ],
)
def test_an_expectation_that_makes_no_sense_is_refused_in_a_sentence(tmp_path, text, complaint):
    path = tmp_path / "expectations.toml"
    path.write_text(text)
    with pytest.raises(AdapterError) as e:
        load(path, "kernel", all_laws())
    assert complaint in str(e.value)
    assert str(path) in str(e.value)


def test_a_bad_expectation_ends_a_run_with_2_and_no_traceback(tmp_path):
    code, cells, text = run(tmp_path, WRONG, entry(laws='["gather_reads"]'))
    assert code == 2
    assert not cells
    assert "did you mean" in text
    assert "Traceback" not in text


def test_expectations_of_other_implementations_do_not_matter(tmp_path):
    path = tmp_path / "expectations.toml"
    path.write_text(entry())
    assert load(path, "another", all_laws()) == ()
    assert len(load(path, "kernel", all_laws())) == 1


@pytest.mark.parametrize("claim", ["nan", "finite"])
def test_jax_gpu_paged_attention_leaks_nan_from_dead_v_slots_and_nothing_finite(tmp_path, claim):
    """The kernel that nobody here wrote: with NaN claimed it violates, with the claim lowered it conforms."""
    text = (ROOT / "impls" / "jax_gpu_paged_attention.py").read_text()
    lowered = text.replace('"dead": {"zero", "finite", "nan"}', '"dead": {"zero", "finite"}')
    assert lowered != text
    (tmp_path / "kernel.py").write_text(text if claim == "nan" else lowered)
    command = [sys.executable, "-P", str(ROOT / "__main__.py"), "run", "--impl", "kernel.py", "--profile", "default"]
    done = subprocess.run([*command, "--json", "r.json"], cwd=tmp_path, capture_output=True, text=True)
    cells = {
        (c["law"], c["dtype"]): c for c in json.loads((tmp_path / "r.json").read_text())["cells"] if c["layout"] != "*"
    }
    assert len(cells) == 8
    if claim == "finite":
        assert done.returncode == 0, done.stdout
        assert {c["outcome"] for c in cells.values()} == {"conforms"}
        return
    assert done.returncode == 1
    leak = cells["decode_ignores_dead_slots", "float32"]
    assert leak["outcome"] == "violates"
    assert "nan contents in dead slots of V" in leak["message"]
    assert len(leak["counterexample"]["kv_lens"]) == 1
