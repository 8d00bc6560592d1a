"""What is booked of a cell under a law: one row of the report, of the journal and of the JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvconform.specs.case import DEFAULTS, Case
from kvconform.specs.families import CLAIMS

CONFORMS, VIOLATES, EXPECTED = "conforms", "violates", "expected"
NOT_OFFERED, NOT_REACHED, BLOCKED = "not offered", "not reached", "blocked"
LEFT = "left to longer runs"
CRASHED, TIMED_OUT = "crashed", "timed out"
OUTCOMES = (CONFORMS, VIOLATES, EXPECTED, NOT_OFFERED, LEFT, NOT_REACHED, BLOCKED, CRASHED, TIMED_OUT)

UNTRIED = frozenset({NOT_OFFERED, LEFT})
"""Outcomes of cells that a run does not try, and owes nobody."""

BAD = frozenset({VIOLATES, CRASHED, TIMED_OUT})

OK_EXIT, BAD_EXIT, USAGE_EXIT, NOTHING_EXIT = 0, 1, 2, 3
EXIT_ORDER = (OK_EXIT, NOTHING_EXIT, BAD_EXIT, USAGE_EXIT)
"""Exit codes from the least to the most urgent: 2 before 1 before 3 before 0."""


DOUBTFUL = "doubtful"
"""Label, beside its outcome, of a cell that passes where chance alone explains badly what was seen."""

SIMPLEST = DEFAULTS["family"]


def key_of(op: str, layout: str, dtype: str, law: str) -> str:
    """Identity of a cell under a law, within one implementation."""
    return f"{op}/{layout}/{dtype}/{law}"


@dataclass
class Booked:
    """One (implementation, operation, layout, dtype, law).

    examples         cases that were judged
    planned          cases the profile asked for;  whole: those it asks for where cells take no turns (harness/turns.py)
    idle             cases that were judged and are no evidence, since a kernel that does nothing passes them too
    first_violation  cases that were tried up to and with the first that violates; 0: none does
    features         feature of attention -> cases in which it showed: whoever ignores it would have failed them
    expected         judged cases that violate inside an expectation's region
    resolution       change of a key's weight that a typical element shows; None for bitwise verdicts
    counterexample   the smallest violating Case, as JSON with its digest
    entire_law       whether an expectation's region takes in every case of this cell
    witness_conforms whether it is red because the witness of an expectation conforms
    findings         the expectations whose witness belongs to this cell and still violates: reason, link, when, said
                     (the violation's message), witness, replay
    looks_like       the one mistake that explains every violating case, and the counterexample with other contents
    meant            what to declare where that is no mistake
    suspect          the one key whose omission, repetition or intrusion explains the counterexample
    diagnosis        what is used instead of the claimed layout, told from probes
    replay           the line that shows the violation again
    alone            what is to be said of the counterexample alone, where it conforms in a fresh import
    rerun            the line of the run that led there, where that is so
    doubt            what passes, and what chance alone explains badly (oracles/screen.py): message, flags of so many
                     fresh draws, case, replay. A label: no outcome, and no exit code, depends on it
    """

    impl: str
    op: str
    layout: str
    dtype: str
    law: str
    outcome: str = NOT_REACHED
    examples: int = 0
    planned: int = 0
    whole: int = 0
    idle: int = 0
    first_violation: int = 0
    features: dict[str, int] = field(default_factory=dict)
    expected: int = 0
    resolution: float | None = None
    seconds: float = 0.0
    inside_seconds: float = 0.0
    message: str = ""
    counterexample: dict[str, Any] | None = None
    entire_law: bool = False
    witness_conforms: bool = False
    findings: list[dict[str, Any]] = field(default_factory=list)
    looks_like: str | None = None
    meant: str = ""
    suspect: str | None = None
    diagnosis: str | None = None
    replay: str | None = None
    alone: str | None = None
    rerun: str | None = None
    doubt: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """Identity within one implementation."""
        return key_of(self.op, self.layout, self.dtype, self.law)

    def to_json(self) -> dict[str, Any]:
        """A plain dict, whose own dicts are the cell's."""
        return dict(vars(self))


def paste(cell: Booked) -> str:
    """One red cell: message, case, what it looks like, what is really used, the line that shows it again."""
    lines = [f"  {cell.layout}/{cell.dtype}: {cell.message}"]
    if cell.counterexample:
        case = Case.from_json(cell.counterexample)
        lines.append(f"    case        {case}")
        if case.family != SIMPLEST:
            lines.append(f"    contents    {case.family}: {CLAIMS[case.family]}")
    if cell.looks_like:
        declare = f"; if that is meant, declare {cell.meant}" if cell.meant else ""
        lines.append(f"    looks like  {cell.looks_like}{declare}")
    if cell.suspect:
        lines.append(f"    as if       {cell.suspect}")
    if cell.diagnosis:
        lines.append(f"    diagnosis   {cell.diagnosis}")
    if cell.replay:
        lines.append(f"    replay      {cell.replay}")
    if cell.alone:
        lines.append(f"    but         {cell.alone}" + (f", as in {cell.rerun}" if cell.rerun else ""))
    return "\n".join(lines)


def paste_doubt(cell: Booked) -> str:
    """What the screen saw in one cell, in how many fresh draws, and the line that shows it again."""
    assert cell.doubt is not None
    lines = [
        f"  {cell.layout}/{cell.dtype}: {cell.doubt['message']}; likewise in {cell.doubt['flags']} of "
        f"{cell.doubt['draws']} draws with other seeds",
        f"    case        {Case.from_json(cell.doubt['case'])}",
        f"    replay      {cell.doubt['replay']}",
    ]
    return "\n".join(lines)


def unassigned(apart: str) -> str:
    """That laws about memory say less, and why (`Subject.apart`)."""
    return f"not every argument can be assigned to that of the call before ({apart})"


def attested(said: Mapping[str, Any]) -> str:
    """What an adapter attests, for people: `812 launches on NVIDIA H200, compiled, 24 compilations`."""
    if not said:
        return "attests nothing"
    words = [f"{said['launches']} launches on {said.get('device', 'unknown')}"] if "launches" in said else []
    words = words or [f"on {said.get('device', 'unknown')}"]
    words += [str(said["mode"])] if "mode" in said else []
    if "compilations" in said:
        words.append(f"{said['compilations']} compilation{'s' * (said['compilations'] != 1)}")
    return ", ".join(words)


@dataclass
class Run:
    """Everything booked of one implementation.

    name, backend    what it is
    ref              how the command line named it: a built-in name, a path, a dotted module
    versions         of what it requires
    attested         what its attest() said last: launches, device, mode, compilations; of several processes the sums
    processes        how many judged it at a time
    conventions      its declared conventions, completed
    exit             what the supervisor itself has to say: 0, 2 (adapter), 3 (blocked)
    message          why
    time             what its time went on -> share, largest first, where that was asked for
    apart            which argument could not be assigned to that of the call before, and why (`Subject.apart`)
    """

    name: str
    backend: str = ""
    ref: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    attested: dict[str, Any] = field(default_factory=dict)
    conventions: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Booked] = field(default_factory=dict)
    exit: int = OK_EXIT
    message: str = ""
    seconds: float = 0.0
    processes: int = 1
    time: dict[str, float] = field(default_factory=dict)
    apart: str = ""

    @property
    def code(self) -> int:
        """The exit code of this implementation alone."""
        return worst([self.exit, exit_code([cell.outcome for cell in self.cells.values()])])


def worst(codes: list[int]) -> int:
    """The most urgent of several exit codes."""
    return max(codes, key=EXIT_ORDER.index, default=NOTHING_EXIT)


def exit_code(outcomes: list[str]) -> int:
    """0 all conform or are expected; 1 something is bad; 3 nothing ran or less than was promised."""
    if any(outcome in BAD for outcome in outcomes):
        return BAD_EXIT
    ran = [outcome for outcome in outcomes if outcome in (CONFORMS, EXPECTED)]
    if not ran or NOT_REACHED in outcomes:
        return NOTHING_EXIT
    return OK_EXIT
