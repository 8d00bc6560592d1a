"""How hard a run tries: the rows behind `--profile quick|default|thorough`.

Counts decide; time is only a ceiling, shared out among the cells of an implementation by what each tries, and printed
as `cut short 23/40` where it was reached. Where a law has many cells, some are tried and take turns: harness/turns.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kvconform.specs.cells import NUM_SEQS
from kvconform.specs.operations import OPERATIONS


@dataclass(frozen=True, kw_only=True)
class Effort:
    """One row.

    examples          drawn cases a cell
    static_examples   the same where shapes are shared, because each call is slow
    geometries        shapes that such a cell is drawn from, because each is compiled
    num_seqs          sequences that a drawn call of any other cell has
    attention         what else holds of operations that attend, of examples and num_seqs
    whole_cells       of a law with more cells than these, so many at least are tried, and each draws a part of as many
                      cases as these would; None: every cell tries all
    pinned_cells      of such a law, cells in which each pinned case is tried that all of them have
    each_family       cases of each family of contents that a law sees at least, over all of its cells
    longer            whether laws are tried where each of their cases takes long (`Law.longer`)
    shrink_calls      calls spent on making a counterexample small
    seconds           ceiling for one implementation
    """

    examples: int
    static_examples: int
    geometries: int
    shrink_calls: int
    seconds: float
    num_seqs: tuple[int, ...] = NUM_SEQS
    attention: Mapping[str, Any] = field(default_factory=dict, hash=False)
    whole_cells: int | None = None
    pinned_cells: int = 4
    each_family: int = 3
    longer: bool = True

    def of(self, op: str) -> Effort:
        """How hard one operation is tried."""
        return replace(self, **self.attention) if OPERATIONS[op].attends else self


BATCHES = {"examples": 24, "num_seqs": (1, 3, 9, 17, 49)}
"""Of attention where there is time: fewer calls of more sequences. What is worked out beside a call costs hardly more
for a large batch, so that more of the time is the implementation's. 49: more than a warp has threads.

Of attention alone: what else takes sequences costs as much for each of them, or, of product quantisation, far more.
"""

EFFORTS: dict[str, Effort] = {
    "quick": Effort(
        examples=6, static_examples=2, geometries=1, shrink_calls=150, seconds=45.0, whole_cells=8, longer=False
    ),
    "default": Effort(
        examples=40, static_examples=12, geometries=3, shrink_calls=400, seconds=280.0, attention=BATCHES
    ),
    "thorough": Effort(
        examples=400,
        static_examples=60,
        geometries=4,
        shrink_calls=2000,
        seconds=7200.0,
        attention=BATCHES | {"examples": 240},
    ),
}

HOW_HARD = "How hard to try: quick leaves most dtypes of a layout to other laws, default and thorough leave out none."
"""Of the option that names a row."""

DEFAULT_EFFORT = "quick"
"""The row of a run that names none."""

STALL_SECONDS = 20.0
"""A call that is silent for so long is taken to hang."""

STARTING_FACTOR = 4
"""How many times as long the first cell may take: imports and first compilations are slow."""
