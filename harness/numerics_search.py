"""Random search for false alarms of an implementation behind an adapter, by the searcher that runs its laws.

Known violations (expectations) are judged as in a run: they count neither as alarms nor as anything measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from kvconform.harness.adapters import AdapterError, Found
from kvconform.harness.booking import VIOLATES
from kvconform.harness.efforts import EFFORTS
from kvconform.harness.expectations import FILE_NAME
from kvconform.harness.plan import Options, planned
from kvconform.harness.search import Searcher
from kvconform.harness.subject import Subject
from kvconform.numerics.adapted import measuring
from kvconform.numerics.measured import Measured, Tally
from kvconform.suites.law import Law

LAW = "decode_is_within_the_bound"
"""The law whose verdict is searched for false alarms."""

CASES = 10
"""Cases that are drawn at once."""

SECONDS = 30.0
"""Ceiling for one implementation and dtype; kernels that are interpreted reach it."""


def measure_adapter(found: Found, laws: Mapping[str, Law], elements: int, seed: int) -> list[Measured]:
    """A row for each dtype, on the first layout that is offered in it.

    laws       all there are
    elements   outputs that each row is to have seen, unless its time is up
    Raises AdapterError.
    """
    if found.blocked:
        return [Measured(found.name, "", note=f"blocked: {found.blocked}")]
    subject = Subject(found.load(), found.name, found.file, found.ref)
    if laws[LAW].op not in subject.offers:
        raise AdapterError(f"{found.name} does not offer {laws[LAW].op}: it has no arithmetic to measure")
    effort = replace(EFFORTS["quick"], examples=CASES, static_examples=CASES, seconds=SECONDS)
    dtypes = dict.fromkeys(cell.dtype for cell, _ in planned(subject, laws[LAW], Options(effort)))
    return [_measured(subject, found, laws, dtype, elements, Options(effort, seed)) for dtype in dtypes]


def _measured(
    subject: Subject, found: Found, laws: Mapping[str, Law], dtype: str, elements: int, options: Options
) -> Measured:
    tally = Tally(f"{subject.name}, {dtype}", subject.profile(dtype))
    expectations = found.path.parent / FILE_NAME
    layout = next(cell.layout for cell, _ in planned(subject, laws[LAW], options) if cell.dtype == dtype)
    law = replace(laws[LAW], check=measuring(tally), cells=lambda c: (c.layout, c.dtype) == (layout, dtype))
    until = time.monotonic() + SECONDS
    number = 0
    while tally.measured.elements < elements and time.monotonic() < until and not tally.measured.alarms:
        searcher = Searcher(
            subject,
            replace(options, seed=options.seed + 1000 * number),
            expectations_file=expectations if expectations.is_file() else None,
        )
        before = tally.measured.cases
        searcher.read_expectations(laws)
        searcher.begin(1)
        alarms = [one for one in searcher.run(law) if one.outcome == VIOLATES]
        tally.measured.alarms += [f"{one.message}\n{one.replay}" for one in alarms]
        if tally.measured.cases == before and not alarms:
            tally.measured.note = "every case drawn was a known violation, or outside the domain"
            break
        number += 1
    return tally.done()
