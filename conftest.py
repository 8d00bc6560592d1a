"""pytest's way in: binds the tree that this file stands in to the name `kvconform`; no logic of its own."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _bind() -> None:
    bound = sys.modules.get("kvconform")
    if bound is not None:
        there = Path(bound.__file__).resolve().parent
        if there != HERE:
            raise RuntimeError(f"two kvconform trees in one process, {there} and {HERE}: run them one after the other")
        return
    spec = importlib.util.spec_from_file_location(
        "kvconform", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["kvconform"] = module
    spec.loader.exec_module(module)


_bind()
from kvconform.harness.plugin import *  # noqa: E402, F403  (hooks and fixtures, see __all__ there)
