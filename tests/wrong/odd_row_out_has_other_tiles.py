"""Wrong: rows are computed in pairs, the last one of an odd number alone and with other tiles; batch is declared."""

import numpy as np

from kvconform.impls import numpy_ref as right
from kvconform.tests.wrong._reference import both, fused, reference_with

NAME = "odd_row_out_has_other_tiles"
BACKEND = "numpy"
OFFERS = both({"layout": {"nhd", "hnd"}, "dtype": {"float32"}})
CONVENTIONS = right.CONVENTIONS | {"invariances": {"batch"}}
ARITHMETIC = right.ARITHMETIC | {"tile": 4}

_alone = reference_with(TILE=4)


def paged_decode(q, cache, block_table, kv_lens, **options):
    paired = len(q) // 2 * 2
    rows = [(right, slice(0, paired)), (_alone, slice(paired, None))]
    got = [one.paged_decode(q[at], cache, block_table[at], kv_lens[at], **options) for one, at in rows]
    return tuple(map(np.concatenate, zip(*got, strict=True)))


append_decode = fused(paged_decode)
