"""append_decode by the definition: the newest tokens are written as append writes them, then attention sees the cache.

What attention over the updated cache must be says oracles/decode.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from kvconform.oracles import paged
from kvconform.oracles.memory import Cache
from kvconform.oracles.paged import Reading
from kvconform.oracles.verdict import Exact
from kvconform.specs.data import Array
from kvconform.specs.paged import PagedInputs


def reading(inputs: PagedInputs) -> Reading:
    """The right reading of a Case, in which no slots but those of the newest tokens are written."""
    right = Reading.of(inputs)
    is_new = np.zeros(inputs.num_rows, bool)
    is_new[inputs.newest] = True
    return replace(right, slots=tuple(np.where(is_new, slots, -1) for slots in right.slots))


def before(inputs: PagedInputs, k_contents: str, v_contents: str | None = None) -> Cache:
    """The cache that the call is given: every token but the newest, in whose slots such contents lie in any case.

    k_contents   one of specs.data.DEAD
    v_contents   the same for V, where it is another
    """
    cache = paged.filled(inputs, k_contents, v_contents)
    new = tuple(slots[inputs.newest] for slots in inputs.slots)
    paged.emptied(inputs, cache, (k_contents, k_contents if v_contents is None else v_contents), new)
    return cache


def after(inputs: PagedInputs, cache: Mapping[str, Array]) -> Cache:
    """A copy of the cache with the newest tokens written."""
    return paged.appended(inputs, cache, reading(inputs))


def expect_cache(
    inputs: PagedInputs, cache: Mapping[str, Array], right: Reading | None = None, padding: str = "kept"
) -> dict[str, Exact]:
    """Every byte of every buffer after the call; `padding`: the convention about that of the slots it writes."""
    return paged.expect_append(inputs, cache, right or reading(inputs), padding)
