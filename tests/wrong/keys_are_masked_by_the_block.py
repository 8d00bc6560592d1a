"""Wrong: slots of a page are compared with the size of the block, not with what is left of the sequence (O22)."""

from kvconform.impls import triton_ref as right
from kvconform.tests.wrong._triton import launch, tl, triton

NAME = "keys_are_masked_by_the_block"
BACKEND = "triton"
REQUIRES = ("torch", "triton")
OFFERS = {"paged_decode": {"layout": {"nhd"}, "dtype": {"float32"}, "page_size": {2, 4}, "static": True}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS | {"sm_scale_of_none": "undefined"}, right.ARITHMETIC | {"tile": 1}

to_device, to_host, attest = right.to_device, right.to_host, right.attest


@launch.kernel()
def _decode(q, k, v, tables, lens, out, lse, width, group, head_dim, sm_scale, SLOTS: tl.constexpr, DIMS: tl.constexpr):
    seq, head, num_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    slots, dims = tl.arange(0, SLOTS), tl.arange(0, DIMS)
    row = seq * num_heads + head
    query = tl.load(q + row * head_dim + dims, mask=dims < head_dim, other=0.0)
    top, total, mixed = float("-inf"), 0.0, tl.zeros([DIMS], tl.float32)
    for column in range(tl.cdiv(tl.load(lens + seq), SLOTS)):
        keys = tl.load(tables + seq * width + column) * SLOTS + slots
        at = (keys * (num_heads // group) + head // group)[:, None] * head_dim + dims[None, :]
        mask = (slots < SLOTS)[:, None] & (dims < head_dim)[None, :]
        scores = tl.sum(query[None, :] * tl.load(k + at, mask=mask, other=0.0), 1) * sm_scale
        old, top = top, tl.maximum(top, tl.max(scores, 0))
        fade, p = tl.exp(old - top), tl.exp(scores - top)
        total = total * fade + tl.sum(p, 0)
        mixed = mixed * fade + tl.sum(p[:, None] * tl.load(v + at, mask=mask, other=0.0), 0)
    tl.store(out + row * head_dim + dims, tl.where(total == 0, 0.0, mixed / total), mask=dims < head_dim)
    tl.store(lse + row, top + tl.log(total))


def paged_decode(q, cache, tables, lens, *, layout, sm_scale):
    out, lse, (_, slots, heads, dim) = q.new_empty(q.shape), q.new_empty(q.shape[:2]), cache["k"].shape
    sizes = tables.shape[1], q.shape[1] // heads, dim, sm_scale, slots, triton.next_power_of_2(dim)
    launch.launch(_decode, tuple(q.shape[:2]), q, cache["k"], cache["v"], tables, lens, out, lse, *sizes)
    return out, lse
