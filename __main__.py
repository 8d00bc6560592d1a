"""`python -m kvconform run ...` and `python path/to/tree run ...`: binds this tree like conftest.py, then the command
line."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if sys.path and Path(sys.path[0] or ".").resolve() == HERE:
    del sys.path[
        0
    ]  # `python path/to/tree` puts the tree itself there: specs, tests, ... must not become top-level names
if "kvconform" not in sys.modules:
    _spec = importlib.util.spec_from_file_location(
        "kvconform", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    sys.modules["kvconform"] = _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)

if sys.argv[1:2] == ["child"]:
    from kvconform.harness.child import main
else:
    from kvconform.harness.entry import main

sys.exit(main())
