"""Where Hypothesis is driven: it draws cases, and makes small what violates.

A case is drawn from bytes of a seed, as a fuzzer's is: the engine that looks for further cases costs more than most of
them do, and cases that have a seed of their own are hardly drawn twice. Hypothesis keeps the choices of a case that
violates, and its engine makes those smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any
from unittest import SkipTest

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase

from kvconform.oracles.verdict import Violation
from kvconform.specs.case import Case

_BYTES = 4096
"""More than the choices of a case take."""


class _Drive:
    """A Hypothesis test of whatever it is told: to make one costs as much as several cases, and cells are many."""

    def __init__(self) -> None:
        self.strategy: st.SearchStrategy[Case] = st.nothing()
        self.judge: Callable[[Case], bool] = lambda case: False
        self.shown = False

        # Hypothesis reads the source of every test it runs: few lines
        def drawn(case: Case) -> None:
            self.shown = self.judge(case)

        self.test: Any = settings(
            deadline=None,  # the supervisor times calls; a slow kernel is not a wrong one
            database=InMemoryExampleDatabase(),  # a run depends on its seed alone
            derandomize=False,
            print_blob=False,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.reuse, Phase.shrink),
            suppress_health_check=list(HealthCheck),  # a kernel may be slow
        )(seed(0)(given(case=_told(self))(drawn)))  # in this order: a seed forgets the database

    def draw(self, drawn_from: bytes) -> bool:
        """Draw a case and judge it; what judging returns."""
        self.shown = False
        self.test.hypothesis.fuzz_one_input(drawn_from)
        return self.shown

    def make_smaller(self) -> None:
        """Judge what is smaller than the case that violated last; raises Violation of the smallest.

        Returns where nothing was kept: `pytest --hypothesis-seed` keeps Hypothesis from its database.
        """
        with suppress(SkipTest):
            self.test()


_drive = cache(_Drive)


@st.composite
def _told(draw: st.DrawFn, drive: _Drive) -> Case:
    """A case of the strategy that a test is told when it is run."""
    return draw(drive.strategy)


def judged(strategy: st.SearchStrategy[Case], judge: Callable[[Case], bool], by: int) -> Iterator[bool]:
    """What judging says of one case after another, drawn from a seed, without an end.

    A case that violates is made smaller; raises Violation of the smallest. What else judging raises leaves at once.
    """
    random = Random(by)
    while True:
        drive = _drive()
        drive.strategy, drive.judge = strategy, judge
        try:
            shown = drive.draw(random.randbytes(_BYTES))
        except BaseException as e:
            _drive.cache_clear()  # it keeps choices only where they are shorter than those it has kept
            if isinstance(e, Violation):
                drive.make_smaller()
            raise
        yield shown
