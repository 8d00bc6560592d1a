"""Where the time of a run goes: the main thread is interrupted every few milliseconds, and what it does is counted.

Nothing that is timed knows of it. What a moment belongs to is told by the innermost of our own frames on the stack that
has a place in `PLACES`; a kernel's own frames lie inside `Subject.guarded`, which stands for the implementation.

It is interrupted by a signal, not looked at by another thread. That would have to wait for the interpreter's lock, and
would get it where the main thread lets go of it, as large operations of numpy and torch do: far too often in those.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from kvconform.harness.adapters import ROOT

EVERY_SECONDS = 0.005

PLACES = {
    "implementation": ("harness/subject.py:guarded",),
    "bound": ("oracles/bound.py",),
    "oracle": ("oracles/",),
    "inputs": (*(f"specs/{name}.py" for name in ("paged", "fused", "states", "pq", "families", "data")),),
    "drawing": ("specs/strategies.py", "specs/cells.py"),
    "calling": ("harness/subject.py",),
}
"""What a moment is spent on -> files, folders or functions of ours, as `file:function`; the first that fits counts."""

OTHER = "other"


class Sampler:
    """Counts, between `start` and `stop`, what the main thread does; both are called by it."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self._handler: Any = None

    def start(self) -> None:
        """Begin to look."""
        self._handler = signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, EVERY_SECONDS, EVERY_SECONDS)

    def stop(self) -> Counter[str]:
        """What was seen -> how often."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, self._handler)
        return self.seen

    def _look(self, number: int, frame: FrameType | None) -> None:
        self.seen[place_of(frame)] += 1


def shares(seen: Counter[str]) -> dict[str, float]:
    """Counts as shares of their sum, largest first."""
    return {name: count / seen.total() for name, count in seen.most_common()}


def time_line(time: Mapping[str, float]) -> str:
    """`time: drawing 41 %, implementation 12 %, ...`."""
    return "time: " + ", ".join(f"{name} {share:.0%}" for name, share in time.items())


def place_of(frame: FrameType | None) -> str:
    """What the innermost of our frames that has a place is spent on."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_ROOT):
            inside = name[len(_ROOT) :].replace("\\", "/")
            for place, marks in PLACES.items():
                if any(_fits(inside, frame.f_code.co_name, mark) for mark in marks):
                    return place
        frame = frame.f_back
    return OTHER


_ROOT = str(ROOT) + str(Path("/"))


def _fits(inside: str, function: str, mark: str) -> bool:
    path, _, only = mark.partition(":")
    return inside.startswith(path) and only in ("", function)
