"""Wrong: of two codes in a byte the even element is taken to be the high one."""

from kvconform.impls import numpy_ref as right

NAME = "odd_elements_are_the_low_nibbles"
BACKEND = "numpy"
OFFERS = {op: {"layout": {"nvfp4"}} for op in ("append", "gather")}


def _turned(codes):
    return codes.reshape(*codes.shape[:-1], -1, 2)[..., ::-1].reshape(codes.shape)


def append(cache, k, v, slot_mapping, *, layout):
    k, v = k | {"k": _turned(k["k"])}, v | {"v": _turned(v["v"])}
    return right.append(cache, k, v, slot_mapping, layout=layout)


def gather(cache, block_table, kv_lens, *, layout):
    k, v = right.gather(cache, block_table, kv_lens, layout=layout)
    return k | {"k": _turned(k["k"])}, v | {"v": _turned(v["v"])}
