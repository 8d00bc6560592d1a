"""What runs inside a child: pytest on this tree's own suites, and nothing of the place it was started from."""

from __future__ import annotations

import gc
import sys
from typing import Any

from kvconform.harness.adapters import ROOT


class _Settled:
    """What has been imported stays until the end: no collection of garbage looks at it."""

    def pytest_runtestloop(self, session: Any) -> None:
        gc.freeze()


def main() -> int:
    """Judge one implementation; arguments behind `child` are the plugin's options. The journal says what happened."""
    import pytest

    from kvconform.harness import plugin, shares  # noqa: F401  (what pytest would import behind a wait)

    if not shares.is_wanted():
        return 0
    fixed = [
        str(ROOT / "suites"),
        f"--rootdir={ROOT}",
        f"--config-file={ROOT / 'pytest.ini'}",
        "--override-ini=filterwarnings=default",  # a kernel library's warning is not ours to fail on
        "-p",
        "no:cacheprovider",
        "-p",
        "no:unraisableexception",  # collects garbage, time and again, to find what nobody here asks for
        "--assert=plain",
        "-q",
    ]
    return int(pytest.main([*fixed, *sys.argv[2:]], plugins=[_Settled()]))
