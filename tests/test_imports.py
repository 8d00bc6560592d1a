"""Imports point one way: specs <- oracles <- suites <- numerics, claims, faults <- harness; specs <- impls."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "specs": {"specs"},
    "oracles": {"specs", "oracles"},
    "suites": {"specs", "oracles", "suites"},
    "numerics": {"specs", "oracles", "suites", "numerics"},
    "claims": {"specs", "oracles", "impls", "suites", "claims"},
    "faults": {"specs", "oracles", "faults"},
    "harness": {"specs", "oracles", "suites", "numerics", "claims", "faults", "harness"},
    "impls": {"specs", "impls"},
}
FRAMEWORKS = {"jax", "torch", "triton", "cuda", "cupy", "tensorflow"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("kvconform.") and name.split(".")[1] in MAY_IMPORT}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert rooms(imported(path)) <= MAY_IMPORT[room], path


def test_the_rule_sees_a_wrong_import(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from kvconform.oracles import bound\n")
    assert rooms(imported(bad)) == {"oracles"}
    assert not rooms(imported(bad)) <= MAY_IMPORT["impls"]


def test_no_framework_is_imported_outside_impls():
    for room in set(MAY_IMPORT) - {"impls"}:
        for path in (ROOT / room).rglob("*.py"):
            assert not {name.split(".")[0] for name in imported(path)} & FRAMEWORKS, path


def test_no_adapter_bears_a_library_s_file_name_at_top_level():
    """impls/ never enters sys.path, so `import cuda` must not be able to find impls/cuda.py."""
    import sys

    import kvconform.impls  # noqa: F401

    assert str(ROOT / "impls") not in sys.path
