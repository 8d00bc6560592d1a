"""What the README shows is what the tree does."""

import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from kvconform.harness import reference
from kvconform.harness.adapters import builtin, find
from kvconform.harness.booking import CONFORMS, UNTRIED
from kvconform.harness.cli import all_laws
from kvconform.tests.planted import adapter_text

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_the_adapter_has_two_functions_and_at_most_40_lines():
    text = adapter_text()
    assert len(text.splitlines()) <= 40
    assert sum(isinstance(node, ast.FunctionDef) for node in ast.parse(text).body) == 2


def test_the_adapter_conforms(tmp_path):
    (tmp_path / "my_kernel.py").write_text(adapter_text())
    command = [
        sys.executable,
        "-P",
        str(ROOT / "__main__.py"),
        "run",
        "--impl",
        "my_kernel.py",
        "--json",
        "report.json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads((tmp_path / "report.json").read_text())["summary"]["outcomes"]
    assert outcomes["conforms"] >= 5
    assert set(outcomes) == {CONFORMS, *UNTRIED}


def test_the_adapter_is_seen_when_it_is_wrong(tmp_path):
    """The example of a failure in the README: a last page that is taken to be full."""
    wrong = adapter_text().replace("[:length] for name", "for name")
    assert wrong != adapter_text()
    (tmp_path / "my_kernel.py").write_text(wrong)
    command = [sys.executable, "-P", str(ROOT / "__main__.py"), "run", "--impl", "my_kernel.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    shown = re.search(r"```\n(my_kernel violates .*?)```", README, re.S)[1].splitlines()
    whole = [line for line in shown if "..." not in line]
    assert whole
    assert set(whole) <= set(done.stdout.splitlines())


def test_the_two_commands_are_the_tox_environments():
    tox = (ROOT / "tox.ini").read_text()
    for name in re.findall(r"tox run -e (\w+)", README):
        assert re.search(rf"\[testenv:.*\b{name}\b.*\]", tox), name


def test_files_that_documents_link_to_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).is_file(), (page.name, link)


def test_the_reference_is_the_one_that_the_tables_generate():
    assert (ROOT / "docs" / "reference.md").read_text() == reference.markdown(all_laws())


def test_every_backend_has_a_tox_environment_and_an_extra_of_its_name():
    backends = {find(name).literals["BACKEND"] for name in builtin()}
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    assert {name.strip() for name in tox["tox"]["env_list"].split(",")} == backends
    assert any(set(re.findall(r"\w+", section)) == {"testenv", *backends} for section in tox.sections())
    beside = {"bench", "expect", "plots", "codebooks", "all"}
    assert set(EXTRAS) == backends | beside
    assert set(re.findall(r"\w+", EXTRAS["all"][0].partition("[")[2])) == backends | beside - {"all"}


def test_every_requirement_is_a_range_that_resolves_on_a_mac():
    no_mac = {"triton", "cuda-bindings", "nvidia-cuda-nvrtc"}  # publish no wheels for it
    lines = [*PROJECT["dependencies"], *(line for name, extra in EXTRAS.items() if name != "all" for line in extra)]
    for requirement in map(Requirement, lines):
        assert {spec.operator for spec in requirement.specifier} == {">=", "<"}, requirement
        on_mac = requirement.marker is None or requirement.marker.evaluate({"sys_platform": "darwin"})
        assert on_mac != (requirement.name in no_mac), requirement
        assert requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux"}), requirement


def test_every_environment_with_torch_has_the_same_one():
    text = (ROOT / "tox.ini").read_text()
    assert re.findall(r"torch==([\d.]+)", text) == ["2.13.0"]
