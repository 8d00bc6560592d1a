"""Every law there is: importing a suite registers its own."""

from __future__ import annotations

import importlib

from kvconform.harness.adapters import ROOT
from kvconform.suites.law import LAWS, Law


def all_laws() -> dict[str, Law]:
    """Every law of suites/, by name, in the order of the files, whatever was imported first."""
    for path in sorted((ROOT / "suites").glob("test_*.py")):
        importlib.import_module(f"kvconform.suites.{path.stem}")
    return dict(sorted(LAWS.items(), key=lambda law: law[1].check.__module__))
