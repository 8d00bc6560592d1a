"""Wrong: slots of tokens are multiplied with a token's stride in int32, which wraps; pages of block tables are not."""

import numpy as np

from kvconform.impls import numpy_ref as right

NAME = "token_slots_are_scaled_in_int32"
BACKEND = "numpy"
FORMS = {"block_table", "token_slots"}
OFFERS = {
    "paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "table_form": FORMS, "pool": {"dense", "sparse"}},
}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC


def paged_decode(q, cache, block_table, *arguments, **options):
    if isinstance(block_table, dict):
        room = 2**31 // cache["k"][0, 0].size
        block_table = block_table | {"kv_indices": np.mod(block_table["kv_indices"], room)}
    return right.paged_decode(q, cache, block_table, *arguments, **options)
