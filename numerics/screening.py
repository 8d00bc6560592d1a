"""Emulated kernels against the screen (oracles/screen.py): how much narrower it is than the bound, whom it flags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from kvconform.numerics.emulators import Emulator, Row, f32
from kvconform.numerics.ratios import bounded
from kvconform.oracles import screen
from kvconform.oracles.bound import Floats, OutsideDomain
from kvconform.oracles.rounding import admissible
from kvconform.specs import data, scales
from kvconform.specs.families import is_screened
from kvconform.specs.operations import NARROW

FAMILIES = tuple(family for family in data.ARITHMETIC_FAMILIES if is_screened(family))

KEYS = (1, 7, 40, 512)
"""Lengths that are judged."""

SHOWN_KEYS = (40, 512, 4096)
"""Lengths at which the screen is compared with the bound, on contents that use every bit."""

HEAD_DIM, VALUE_DIM = 16, 64


@dataclass(frozen=True)
class Screened:
    """One kernel.

    elements   of out, held against the screen
    flagged    rows with an element outside
    narrower   at each of SHOWN_KEYS: bound / screen, the median over elements
    """

    name: str
    elements: int
    flagged: int
    narrower: tuple[float, ...]


def drawn(family: str, keys: int, storage: str, seed: int) -> Row:
    """A row of contents that are hashed, as a Case of the family has them."""
    sizes = {"q": (HEAD_DIM,), "k": (keys, HEAD_DIM), "v": (keys, VALUE_DIM)}
    hashed = {name: data.hashes(seed, name, *data.grid(*size)) for name, size in sizes.items()}
    of_q = "bfloat16" if storage in NARROW else storage
    q, k, v = (f32(data.values(of_q if name == "q" else storage, family, name, h)) for name, h in hashed.items())
    row = Row(q, k, v, float(np.float32(HEAD_DIM**-0.5)))
    if storage not in NARROW:
        return row
    of_k, of_v = (f32(scales.drawn(storage, data.hashes(seed, f"of {name}", *data.grid(keys)))) for name in "kv")
    return replace(row, of_k=of_k, of_v=of_v)


def limits(emulator: Emulator, row: Row) -> tuple[Floats, Floats, Floats]:
    """Exact out, its bound, and the screen's. Raises OutsideDomain."""
    want = bounded(row, emulator.profile, keep_terms=True)
    lam = screen.multiple(want.out.size, len(row.k))
    return want.out, want.out_error, screen.out_error(want, emulator.profile, lam)


def flags(emulator: Emulator, row: Row) -> bool:
    """Whether the screen flags what a kernel makes of a row. Raises OutsideDomain."""
    want, _, likely = limits(emulator, row)
    with np.errstate(all="ignore"):
        out, _ = emulator(row)
    return not admissible(out, want, likely, emulator.profile.out_format).all()


def screened(emulator: Emulator, seeds: int) -> Screened:
    """Judge a kernel on every family and length, with so many seeds."""
    elements = flagged = 0
    for family, keys, seed in product(FAMILIES, KEYS, range(seeds)):
        try:
            flagged += flags(emulator, drawn(family, keys, emulator.storage, seed))
            elements += VALUE_DIM
        except OutsideDomain:
            continue
    return Screened(emulator.name, elements, flagged, tuple(narrower(emulator, keys) for keys in SHOWN_KEYS))


def narrower(emulator: Emulator, keys: int) -> float:
    """How many times the screen is narrower than the bound."""
    _, bound, likely = limits(emulator, drawn(data.FINE, keys, emulator.storage, seed=0))
    return float(np.median(bound / likely))
