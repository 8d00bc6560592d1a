"""What a law is: a check of (subject, case), bound to one operation and run over cells that are offered.

A suite writes the check as a test function and decorates it; the decorated function is an ordinary pytest test that
takes the `subject` fixture, and its row is in `LAWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hypothesis import strategies as st

from kvconform.specs.case import Case
from kvconform.specs.cells import Cell, OfferError
from kvconform.specs.data import Array
from kvconform.specs.layouts import Layout
from kvconform.specs.profile import Profile
from kvconform.specs.strategies import cases, simplest


class Made(Protocol):
    """An object of an implementation as a law sees it."""

    def do(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call one of the operation's methods; results by name. Raises Raised where the object raises."""
        ...


class Subject(Protocol):
    """One implementation as a law sees it; the harness provides it (harness/subject.py)."""

    @property
    def offers(self) -> Mapping[str, Mapping[str, Any]]:
        """What it offers of each operation."""
        ...

    @property
    def conventions(self) -> Mapping[str, Any]:
        """Its declared conventions, completed."""
        ...

    def profile(self, dtype: str) -> Profile:
        """Its declared arithmetic on caches of one dtype, completed."""
        ...

    def call(self, case: Case, op: str, **arguments: Any) -> dict[str, Array]:
        """Call an operation on host arrays; results by name. Whatever a call does wrong by itself raises Violation."""
        ...

    def make(self, case: Case, op: str, **arguments: Any) -> Made:
        """An object of the implementation's own, on host arrays."""
        ...

    def overwriting(self) -> AbstractContextManager[Callable[[], bool]]:
        """Arguments of the calls inside lie in the same memory one after another, where the implementation's can; it
        gives what says whether those of the last call do."""
        ...

    def saw(self, weights: list[float]) -> None:
        """Book the resolution of what has just passed (oracles.verdict.resolution)."""
        ...

    def doubts(self, said: str) -> None:
        """Book that what has just passed is farther out than chance takes a correct kernel (oracles/screen.py)."""
        ...

    def saw_nothing(self) -> None:
        """Book that the case in hand is no evidence: a kernel that does nothing passes it too."""
        ...

    def saw_features(self, shown: tuple[str, ...]) -> None:
        """Book the features that show in the case in hand: without one of them, the verdict would have been another."""
        ...


class Search(Protocol):
    """What the `subject` fixture hands to a law's test function."""

    def search(self, law: Law) -> None:
        """Try the law on every cell."""
        ...


Check = Callable[[Subject, Case], None]


def where_compiled(cell: Cell) -> str:
    """Why short runs leave out a law whose cases have shapes of their own."""
    return "its cases take shapes of their own, and each shape is compiled" if cell.static else ""


@dataclass(frozen=True)
class Law:
    """One row.

    name       the test's name without `test_`: a claim
    op         the operation whose cells it is tried on
    check      raises Violation where the claim does not hold
    families   kinds of contents it is tried on; None: those of the operation
    only       axes it restricts
    needs      further operations that the implementation must offer
    wants      condition on the implementation's conventions without which the law says nothing
    rows       condition on the layout without which it says nothing
    cells      condition on what is offered of a cell without which it says nothing
    longer     why short runs leave a cell to longer ones, or nothing
    every_cell whether short runs try it in each cell, not in each layout and each dtype alone (harness/turns.py)
    telling    cells of a layout of which short runs try one, where there are any, rather than another
    pinned     cases of a cell that are tried before anything is drawn
    drawn      whether anything is drawn beside them
    """

    name: str
    op: str
    check: Check
    families: tuple[str, ...] | None = None
    only: Mapping[str, tuple[Any, ...]] | None = None
    needs: tuple[str, ...] = ()
    wants: Callable[[Mapping[str, Any]], bool] = lambda conventions: True
    rows: Callable[[Layout], bool] = lambda row: True
    cells: Callable[[Cell], bool] = lambda cell: True
    longer: Callable[[Cell], str] = lambda cell: ""
    every_cell: bool = False
    telling: Callable[[Cell], bool] = lambda cell: True
    pinned: Callable[[Cell], tuple[Case, ...]] = lambda cell: ()
    drawn: bool = True

    def strategy(self, cell: Cell, families: tuple[str, ...] | None = None) -> st.SearchStrategy[Case]:
        """Cases of a cell; `families`: some of those it is tried on."""
        return cases(cell, families or self.families, self.only)

    def pinned_cases(self, cell: Cell) -> tuple[Case, ...]:
        """Those of a cell that are pinned, and have no more sequences than are offered in one call."""
        return tuple(case for case in self.pinned(cell) if cell.has_room_for(case))

    def simplest(self, cell: Cell, families: tuple[str, ...] | None = None) -> Case:
        """The one of those cases that they shrink towards."""
        return simplest(cell, families or self.families, self.only)

    def silence(self, cell: Cell) -> str:
        """Why the law says nothing about a cell, or nothing.

        An offer from which the operation itself cannot be drawn is wrong, which is found when it is tried.
        """
        if not self.rows(cell.row):
            return f"says nothing about {cell.layout}"
        try:
            if self.drawn and cell.narrows(self.only or {}):
                self.strategy(cell)
            silent = not self.cells(cell) or not (self.drawn or self.pinned_cases(cell))
            return f"says nothing about what is offered of {cell.layout}" if silent else ""
        except OfferError as e:
            with suppress(OfferError):
                cases(replace(cell, also=()))
                return f"says nothing there: {e}"
        return ""

    @property
    def operations(self) -> tuple[str, ...]:
        """The further operations that the check calls."""
        return tuple(op for op in (need.partition(":")[0] for need in self.needs) if op != self.op)

    @property
    def claim(self) -> str:
        """The first line of the check's docstring."""
        return (self.check.__doc__ or self.name).strip().splitlines()[0]


LAWS: dict[str, Law] = {}
"""Every law that has been imported, by name."""


def law(op: str, **row: Any) -> Callable[[Check], Callable[[Search], None]]:
    """Decorate a check: registers its Law and returns the pytest test. Keywords are the fields of `Law`."""

    def wrap(check: Check) -> Callable[[Search], None]:
        found = Law(check.__name__.removeprefix("test_"), op, check, **row)
        LAWS[found.name] = found

        def test(subject: Search) -> None:
            subject.search(found)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        test.law = found  # type: ignore[attr-defined]
        return test

    return wrap
