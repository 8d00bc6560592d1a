"""Sizes in which a row can be built, for tests: telling ones, and those in which wrong readings coincide."""

from itertools import product

TELLING = {
    "page": (3,),
    "slot": (4, 7, 12, 32, 64, 128),
    "head": (3, 6, 5),
    "dim": (16, 20, 48, 32, 64, 96, 128, 256),
    "dim_v": (24, 40),
    "subspace": (5, 10),
}
"""Sizes of each axis, preferred first; no two axes have one in common where the row leaves a choice."""

AMBIGUOUS = {
    "page_size is num_kv_heads": lambda s: s["slot"] == s["head"],
    "two heads": lambda s: s["head"] == 2,
    "one slot a page": lambda s: s["slot"] == 1,
    "one head": lambda s: s["head"] == 1,
}
"""Sizes in which axes can be taken for each other, on purpose."""

OTHER = {"token": 6, "part": 2, "seq": 3, "rope": 64}


def sizes_of(row, dtype, wanted=lambda sizes: len(set(sizes.values())) == len(sizes), smallest=None):
    """The first sizes that the row can be built in and that are wanted, else the first that it can be built in."""
    table = smallest or TELLING
    choices = [(row.fixed[axis],) if axis in row.fixed else table[axis] for axis in TELLING]
    found = None
    for some in product(*choices):
        sizes = dict(zip(TELLING, some, strict=True))
        whole = {**OTHER, **sizes, **row.fixed}
        if not row.flaw(whole, dtype):
            if wanted({axis: sizes[axis] for axis in sizes if axis in row.axes or axis == "page"} | _kept(sizes)):
                return whole
            found = found or whole
    return found


def _kept(sizes):
    return {axis: sizes[axis] for axis in ("slot", "head")}


def ambiguous(row, dtype, kind):
    """Sizes of one ambiguous kind, or None where the row cannot be built in them."""
    table = {**TELLING, "slot": (1, 2, 3, 4, 32, 64, 128), "head": (1, 2, 3, 4, 32)}
    for some in product(*((row.fixed[axis],) if axis in row.fixed else table[axis] for axis in TELLING)):
        sizes = {**OTHER, **dict(zip(TELLING, some, strict=True)), **row.fixed}
        if AMBIGUOUS[kind](sizes) and not row.flaw(sizes, dtype):
            return sizes
    return None
