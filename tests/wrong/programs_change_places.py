"""Wrong: the grid is (token, head), and the kernel takes its first axis for the head, its second for the token."""

from kvconform.impls import triton_ref as right
from kvconform.tests.wrong._triton import launch, tl, triton

NAME = "programs_change_places"
BACKEND = "triton"
REQUIRES = ("torch", "triton")
OFFERS = {op: {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}, "static": True} for op in ("append", "gather")}
IN_PLACE = {"append": "cache"}

to_device, to_host, attest, gather = right.to_device, right.to_host, right.attest, right.gather


@launch.kernel()
def _append(cache, rows, slot_mapping, num_tokens, num_heads, head_dim, DIMS: tl.constexpr):
    head, token, dims = tl.program_id(0), tl.program_id(1), tl.arange(0, DIMS)
    if (token < num_tokens) & (head < num_heads):
        slot = tl.load(slot_mapping + token)
        if slot >= 0:
            row = tl.load(rows + (token * num_heads + head) * head_dim + dims, mask=dims < head_dim)
            tl.store(cache + (slot * num_heads + head) * head_dim + dims, row, mask=dims < head_dim)


def append(cache, k, v, slot_mapping, *, layout):
    for name, rows in (("k", k), ("v", v)):
        dims = triton.next_power_of_2(rows.shape[2])
        launch.launch(_append, tuple(rows.shape[:2]), cache[name], rows, slot_mapping, *rows.shape, dims)
    return cache
