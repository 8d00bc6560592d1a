"""A page manager by the definition: who owns which page, and what it has to refuse.

A history is a list of whole numbers, each one operation on whatever is owned by then; so every list is a history, and
a shorter one is simpler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvconform.oracles.verdict import Raised, Violation

Do = Callable[..., dict[str, Any]]
"""Calls a method of the object under test: (method, **arguments) -> results by name."""


@dataclass
class PageModel:
    """What a manager of `num_pages` pages must answer.

    owners   page -> how many own it
    done     what has been done, in words
    """

    num_pages: int
    do: Do
    owners: dict[int, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def step(self, number: int) -> None:
        """One operation of a history."""
        kind, which = number % 4, number // 4
        if kind in (1, 2):
            self.allocate()
        elif kind == 3 and self.owners:
            self.release(which)
        elif self.owners and which % 2:
            self.share(which)
        else:
            self.misuse(which)

    def allocate(self) -> None:
        """A page that nobody owns; refused where there is none."""
        if len(self.owners) == self.num_pages:
            self.refused("allocate")
            return
        page = self.do("allocate")["page"]
        self.done.append(f"allocate() is {page}")
        if not 0 <= page < self.num_pages:
            raise self.wrong(f"there are pages 0 to {self.num_pages - 1}")
        if page in self.owners:
            raise self.wrong(f"page {page} is owned already")
        self.owners[page] = 1
        self.count()

    def share(self, which: int) -> None:
        """One more owner of a page."""
        page = self._owned(which)
        self.do("share", page=page)
        self.done.append(f"share({page})")
        self.owners[page] += 1
        self.count()

    def release(self, which: int) -> None:
        """One owner less; without any the page can be given out again."""
        page = self._owned(which)
        self.do("free", page=page)
        self.done.append(f"free({page})")
        self.owners[page] -= 1
        if not self.owners[page]:
            del self.owners[page]
        self.count()

    def misuse(self, which: int) -> None:
        """A page that nobody owns, or that there is not, is neither freed nor shared."""
        others = [-1, self.num_pages, *(page for page in range(self.num_pages) if page not in self.owners)]
        self.refused("share" if which % 3 == 2 else "free", page=others[which % len(others)])

    def refused(self, method: str, **arguments: int) -> None:
        """A call that must raise, and change nothing."""
        said = f"{method}({', '.join(map(str, arguments.values()))})"
        try:
            self.do(method, **arguments)
        except Raised:
            self.done.append(f"{said} is refused")
            self.count()
            return
        page = arguments.get("page", 0)
        why = f"nobody owns page {page}" if 0 <= page < self.num_pages else f"there are {self.num_pages} pages"
        name = "what_nobody_owns_is_shared_or_freed"
        if method == "allocate":
            why, name = "no page is free", "empty_pool_gives_out_a_page"
        raise Violation(self.wrong(f"{said} did not raise, though {why}").message, {f"{name}/0": lambda: True})

    def count(self) -> None:
        """Nothing is lost, and nothing there twice."""
        free, want = self.do("num_free")["num_free"], self.num_pages - len(self.owners)
        if free != want:
            said = self.wrong(f"num_free is {free}, want {want} of {self.num_pages}: {len(self.owners)} are owned")
            name = "freed_pages_are_lost" if free < want else "pages_are_free_and_owned"
            raise Violation(said.message, {f"{name}/0": lambda: True})

    def wrong(self, what: str) -> Violation:
        """A violation that says how it came about."""
        return Violation(f"{what}; {told(self.done)}")

    def _owned(self, which: int) -> int:
        return sorted(self.owners)[which % len(self.owners)]


def told(done: list[str]) -> str:
    """The end of a history in words."""
    last = done[-_SHOWN:]
    before = f"{len(done) - len(last)} operations, " if len(done) > len(last) else ""
    return f"after {before}{', '.join(last)}" if last else "at first"


_SHOWN = 8
