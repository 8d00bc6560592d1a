"""Wrong: where the workspace begins with lengths that a plan can have, it is taken to hold the plan of this batch."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "plan_in_the_workspace_is_kept"
BACKEND = "numpy"
OFFERS = {"paged_decode": {"layout": {"nhd", "hnd"}, "dtype": {"float32", "bfloat16"}, "into": {"workspace"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC
WORKSPACE = {"paged_decode": lambda q, cache, block_table, kv_lens, **options: 4 * (1 + len(q))}

_WRITTEN = 0x504C414E


def paged_decode(q, cache, block_table, kv_lens, *, workspace=None, **options):
    lens = kv_lens
    if workspace is not None:
        words = workspace.view(np.uint32)
        if words[0] != _WRITTEN:
            words[0], words[1:] = _WRITTEN, kv_lens
        lens = words[1:].astype(kv_lens.dtype)
    return right.paged_decode(q, cache, block_table, lens, **options)
