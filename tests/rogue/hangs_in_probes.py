"""Reads K for V; in contents that spell addresses, as those of a diagnosis do, it never answers."""

import time

import numpy as np

NAME = "hangs_in_probes"
BACKEND = "numpy"
OFFERS = {"gather": {"layout": {"nhd"}, "dtype": {"float32", "int8"}}}


def gather(cache, block_table, kv_lens, *, layout):
    k = cache["k"]
    if k.size > 100 and (k.view(np.uint8) - 0x20 < 64).all():
        time.sleep(1000)
    pages = [table[: -(-n // k.shape[1])] for table, n in zip(block_table, kv_lens, strict=True)]
    rows = [k[own].reshape(-1, *k.shape[2:])[:n] for own, n in zip(pages, kv_lens, strict=True)]
    return np.concatenate([k[:0, 0], *rows]), np.concatenate([k[:0, 0], *rows])
