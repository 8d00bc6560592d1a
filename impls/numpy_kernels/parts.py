"""What a view of one part of a cache is where numpy has none: slots cut into several axes, places shared by slots.

A view is indexed [page, slot, *token axes], to be read by pages and written by (pages, slots). Its last axis may still
be cut in two.
"""

import math
from itertools import accumulate, pairwise

import numpy as np

SIZES = ("num_kv_heads", "head_dim", "head_dim_v", "page_size", "dtype")


class Told(dict):
    """What a caller says of a cache beside its arrays: any of SIZES; None says nothing.

    Raises TypeError for an unknown name, and when a row needs a size that was not told.
    """

    def __init__(self, layout, told):
        super().__init__((name, value) for name, value in told.items() if value is not None)
        self.layout = layout
        for name in told:
            if name not in SIZES:
                raise TypeError(f"{layout}: no keyword {name!r}; known: {', '.join(SIZES)}")

    def __missing__(self, name):
        raise TypeError(f"{self.layout}: the arrays of the cache do not tell {name}; pass {name}=...")


class Folded:
    """An array [page, *slot axes, *axes of a token], to be indexed as [page, slot, *token] would be.

    array       what is read and written
    num_slots   how many axes the slot is cut into
    token       shape of a token where the array's own is cut otherwise
    """

    def __init__(self, array, num_slots, token=None):
        self.array, self.slots, self.cut = array, array.shape[1 : 1 + num_slots], array.shape[1 + num_slots :]
        self.shape = (array.shape[0], math.prod(self.slots), *(token or self.cut))

    def __getitem__(self, pages):
        rows = self.array[pages]
        return rows.reshape(len(rows), *self.shape[1:])

    def __setitem__(self, at, rows):
        page, slot = at
        self.array[page, *np.unravel_index(slot, self.slots)] = rows.reshape(-1, *self.cut)


def shared(array, axis, count):
    """The array with one more axis, behind `axis`: `count` indices that all mean the same place."""
    shape, strides = list(array.shape), list(array.strides)
    shape.insert(axis + 1, count)
    strides.insert(axis + 1, 0)
    return np.lib.stride_tricks.as_strided(array, shape, strides)


def segments(array, *sizes):
    """Consecutive pieces of the last axis."""
    return [array[..., start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
