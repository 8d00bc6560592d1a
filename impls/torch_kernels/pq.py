"""Product-quantised K and V in torch: heads of all sequences at once, codes as indices of their codebooks.

Arithmetic is float32, products and sums and no matrix product. A distance is the sum of squared differences, summed
directly. Of attention, a score is a sum over subspaces of entries of the table of q against centroids, each of which is
a sum over a subspace: no chain of additions is longer than a dot of head_dim; the rest is attention over the decoded
numbers, which are centroids as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kvconform.impls.torch_kernels import codes as coded
from kvconform.impls.torch_kernels.codes import Codes, live, places, read
from kvconform.impls.torch_kernels.handles import bits, into
from kvconform.impls.torch_kernels.slots import last_of_each
from kvconform.impls.torch_kernels.softmax import mean

_MOST_DIFFERENCES = 1 << 24
"""That are held at a time."""


def _write(side: Codes, pages: Tensor, slots: Tensor, given: Tensor) -> None:
    """Codes [num_tokens, num_subspaces] into their slots, no two of which are one; neighbours in a byte take turns."""
    subspaces = torch.arange(side.num_subspaces, device=slots.device)
    at, shift = places(side, pages[:, None], slots[:, None], subspaces)
    for turn in range(0, 8, side.bits):
        mine = (shift == turn).expand(given.shape)
        place = tuple(index.expand(given.shape)[mine] for index in at)
        others = side.tensor[place].long() & ~(((1 << side.bits) - 1) << turn)
        side.tensor[place] = (others | given[mine] << turn).to(torch.uint8)


def _nearest(rows: Tensor, codebooks: Tensor) -> Tensor:
    """int64 codes [num_rows, num_subspaces] of rows [num_rows, head_dim]; of the nearest ones the lowest."""
    centroids = codebooks.float()
    parts = rows.float().unflatten(1, (len(codebooks), 1, -1)).split(max(1, _MOST_DIFFERENCES // centroids.numel()))
    return torch.cat([(part - centroids).square().sum(-1).argmin(-1) for part in parts])


def _decoded(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The centroids of codes [..., num_subspaces] side by side, [..., head_dim]."""
    return codebooks[torch.arange(len(codebooks), device=codes.device), codes].flatten(-2)


def pq_encode(x: Tensor, codebooks: Tensor, *, dtype: str = "uint8", num_subspaces: int | None = None) -> Tensor:
    """Codes [num_tokens, num_kv_heads, subspace], packed, of x [num_tokens, num_kv_heads, head_dim]."""
    coded.require_codebooks("codebooks", codebooks, dtype, num_subspaces)
    coded.require_rows("x", x, codebooks)
    coded.require_nearest("x", x, codebooks)
    num_tokens, num_heads, _ = x.shape
    codes = x.new_zeros(coded.packed_shape(x, codebooks, dtype), dtype=torch.uint8)
    tokens, heads = torch.ones(num_tokens, num_heads, device=x.device).nonzero().unbind(1)
    _write(coded.rows_of("codes", codes, len(codebooks), dtype), tokens, heads, _nearest(x.flatten(0, 1), codebooks))
    return codes


def pq_decode(codes: Tensor, codebooks: Tensor, *, dtype: str = "uint8", num_subspaces: int | None = None) -> Tensor:
    """Centroids, bit for bit, [num_tokens, num_kv_heads, head_dim]."""
    coded.require_codebooks("codebooks", codebooks, dtype, num_subspaces)
    side = coded.rows_of("codes", codes, len(codebooks), dtype)
    tokens, heads = (torch.arange(n, device=codes.device) for n in codes.shape[:2])
    coded.require_decode(side, codebooks)
    found = read(side, tokens[:, None], heads.expand(codes.shape[:2]))
    return _decoded(found.clamp(max=codebooks.shape[1] - 1), bits(codebooks)).view(codebooks.dtype)


def pq_append(
    cache: Mapping[str, Tensor],
    k: Tensor,
    v: Tensor,
    k_codebooks: Tensor,
    v_codebooks: Tensor,
    slot_mapping: Tensor,
    *,
    layout: str,
    dtype: str,
    page_size: int,
    num_subspaces: int,
) -> Mapping[str, Tensor]:
    """Codes of k and v into their slots; one below 0 skips its token, as on a GPU one beyond the last does."""
    both = coded.sides(cache, layout, dtype, page_size, num_subspaces)
    is_kept = coded.require_append(both, (k, v), (k_codebooks, v_codebooks), slot_mapping, dtype)
    slots = slot_mapping.long()[is_kept]
    last = last_of_each(slots)
    pages, slots = slots[last] // page_size, slots[last] % page_size
    found = [
        _nearest(rows[is_kept][last], codebooks)
        for rows, codebooks in zip((k, v), (k_codebooks, v_codebooks), strict=True)
    ]
    for side, codes in zip(both, found, strict=True):
        _write(side, pages, slots, codes)
    return cache


def pq_decode_attention(
    q: Tensor,
    cache: Mapping[str, Tensor],
    k_codebooks: Tensor,
    v_codebooks: Tensor,
    page_ids: Tensor,
    kv_lens: Tensor,
    residual_k: Tensor,
    residual_v: Tensor,
    residual_lens: Tensor,
    *,
    layout: str,
    dtype: str,
    page_size: int,
    num_subspaces: int,
    sm_scale: float | None = None,
    num_splits: int = 1,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one query token a sequence over codes, in parts, and over what is not yet encoded, one part more."""
    both = coded.sides(cache, layout, dtype, page_size, num_subspaces)
    for name, codebooks in (("k_codebooks", k_codebooks), ("v_codebooks", v_codebooks)):
        coded.require_codebooks(name, codebooks, dtype, num_subspaces)
    residual = residual_k, residual_v
    coded.require_attention(q, both, k_codebooks, v_codebooks, page_ids, kv_lens, residual, residual_lens, num_splits)
    sm_scale = q.shape[-1] ** -0.5 if sm_scale is None else sm_scale
    rows = q.float().unflatten(1, (residual_k.shape[2], -1))  # seq head group dim
    k_codes, v_codes, is_live = _live(both, page_ids, kv_lens, num_splits)  # seq head part key [subspace]
    score = _looked_up(_table(rows, k_codebooks), k_codes.clamp(max=k_codebooks.shape[1] - 1)) * sm_scale
    value = _decoded(v_codes.clamp(max=v_codebooks.shape[1] - 1), v_codebooks).float()
    outs, lses = mean(score.masked_fill(~is_live[:, :, None], -torch.inf), value[:, :, None], axis=4)

    k, v = (one.float().transpose(1, 2)[:, :, None] for one in residual)  # seq head 1 key dim
    is_new = torch.arange(residual_k.shape[1], device=q.device) < residual_lens[:, None]
    score = ((rows[:, :, :, None] * k).sum(-1) * sm_scale).masked_fill(~is_new[:, None, None], -torch.inf)
    newest, newest_lse = mean(*_with_one_masked(score, v), axis=3)

    lses, outs = torch.cat([lses, newest_lse[..., None]], 3), torch.cat([outs, newest[:, :, :, None]], 3)
    merged, total = mean(lses, outs, axis=3)
    return into(out, merged.flatten(1, 2).to(q.dtype)), into(lse, total.flatten(1, 2))


def _live(
    both: tuple[Codes, Codes], page_ids: Tensor, kv_lens: Tensor, num_parts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of K and of V [seq, head, part, key, subspace], one key a part at least, and which of them are live."""
    num_seqs, num_heads, width = page_ids.shape
    page_size, num_subspaces = both[0].page_size, both[0].num_subspaces
    keys = max(1, -(-width * page_size // num_parts))
    position = torch.arange(num_parts * keys, device=page_ids.device).view(num_parts, keys)
    if 0 in (width, len(both[0].tensor)):  # nowhere to read
        nothing = position.new_zeros(num_seqs, num_heads, num_parts, keys, num_subspaces)
        return nothing, nothing, nothing[..., 0] > 0
    pages, slots, is_live = live(page_ids, kv_lens, position, page_size)
    return read(both[0], pages, slots), read(both[1], pages, slots), is_live


def _table(rows: Tensor, codebooks: Tensor) -> Tensor:
    """float32 [seq, head, group, subspace, centroid]: parts of q times centroids."""
    return (rows.unflatten(3, (len(codebooks), 1, -1)) * codebooks.float()).sum(-1)


def _looked_up(table: Tensor, codes: Tensor) -> Tensor:
    """The sums of entries [seq, head, group, part, key] that codes [seq, head, part, key, subspace] name."""
    at = codes.flatten(2, 3).transpose(2, 3)[:, :, None].expand(*table.shape[:4], -1)
    return table.gather(4, at).sum(3).unflatten(3, codes.shape[2:4])


def _with_one_masked(score: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """One key more, which is masked: a maximum wants one."""
    pad = torch.nn.functional.pad
    return pad(score, (0, 1), value=-torch.inf), pad(value, (0, 0, 0, 1))
