"""An implementation whose attention has a fault: what it offers, declares and does otherwise is as it was."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kvconform.faults.fault import Fault
from kvconform.faults.kernel import Steps, attend
from kvconform.harness.subject import Subject
from kvconform.specs import lse
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES
from kvconform.specs.operations import OPERATIONS


class FaultySubject(Subject):
    """Its paged_decode is that of `faults/kernel.py` with one step replaced; other operations are the adapter's own.

    fault   what is wrong; None: nothing, which every law must pass
    """

    def __init__(self, subject: Subject, fault: Fault | None) -> None:
        super().__init__(subject.adapter, subject.name, subject.file, subject.ref)
        self._fault, self._kept = fault, dict[str, Any]()

    def call(self, case: Case, op: str, **arguments: Any) -> dict[str, Array]:
        """The faulty results, in the suite's own form; nothing of the adapter is called."""
        if op != "paged_decode":
            return super().call(case, op, **arguments)
        start = time.perf_counter()
        keywords = {name: name for name in OPERATIONS[op].optional} | dict(OPERATIONS[op].follows)
        given = {n: v for n, v in arguments.items() if keywords.get(n, n) in self.offers[op] or n not in keywords}
        if given.get("window") is not None:
            given["window"] += self.conventions["window_counts"] == "left"
        steps = self._fault.steps if self._fault else Steps()
        out, nats = attend(case, given, self.conventions, steps, self._kept)
        with np.errstate(all="ignore"):
            got = {"out": out.astype(np.asarray(arguments["q"]).dtype)}
            stored = DTYPES[self.conventions["lse_dtype"]]
            got["lse"] = (nats / lse.NATS[self.conventions["lse_base"]]).astype(stored)
        self.inside += time.perf_counter() - start
        return {name: value for name, value in got.items() if self.offers_result(op, name)}
