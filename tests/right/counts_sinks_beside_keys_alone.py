"""Right: where a sequence has no key it writes nothing but the lse of none, whatever the sink is, and says so."""

import numpy as np

from kvconform.impls import numpy_ref

NAME = "counts_sinks_beside_keys_alone"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "q_lens": {"min": 0}}}
OFFERS["paged_decode"] |= {"sinks": {"none", "drawn", "dominant"}, "num_splits": range(1, 8)}
CONVENTIONS = {"empty_with_sink": "lse_of_empty"}
ARITHMETIC = numpy_ref.ARITHMETIC


def paged_decode(q, cache, block_table, kv_lens, *, q_lens=None, **options):
    out, lse = numpy_ref.paged_decode(q, cache, block_table, kv_lens, q_lens=q_lens, **options)
    lse[np.repeat(kv_lens == 0, 1 if q_lens is None else q_lens)] = -np.inf
    return out, lse
