"""What wrong adapters of product quantisation are made of: a kernel of two steps, either of which can be replaced."""

from types import SimpleNamespace

import numpy as np

from kvconform.impls.numpy_kernels import pq

DENSE = {"tile": 2**31}


def read(x, seq, head):
    """(K, V) float32 [tokens, head_dim] of one sequence and kv head, those in codes first."""
    position = np.arange(x.kv_lens[seq])
    page, slot = x.page_ids[seq, head][position // x.page_size], position % x.page_size
    sides = []
    for name in ("k", "v"):
        book, left = x[f"{name}_codebooks"].astype(np.float32), x[f"residual_{name}"]
        codes = pq._pages(x.cache, name, x.layout, x.dtype)[page, slot]
        newest = left[seq, : x.residual_lens[seq], head].astype(np.float32)
        sides.append(np.concatenate([pq._decoded(codes, book).reshape(len(position), newest.shape[-1]), newest]))
    return sides


def attend(q, k, v, scale):
    """(out [rows, dim], lse [rows]) of rows over keys."""
    if not len(k):
        return np.zeros(q.shape, np.float32), np.full(len(q), -np.inf, np.float32)
    score = np.einsum("gd,nd->gn", q, k) * q.dtype.type(scale)
    top = score.max(-1, keepdims=True)
    weight = np.exp(score - top)
    total = weight.sum(-1, keepdims=True)
    return np.einsum("gn,nd->gd", weight, v) / total, (top + np.log(total))[:, 0]


class Arguments(SimpleNamespace):
    """The arguments of a call by name, and which sequence and kv head it is about."""

    def __getitem__(self, name):
        return getattr(self, name)

    @property
    def bits(self):
        """Everything that the call was given."""
        return [a.tobytes() for a in vars(self).values() if isinstance(a, np.ndarray)]


NAMES = ("q", "cache", "k_codebooks", "v_codebooks", "page_ids", "kv_lens", "residual_k", "residual_v", "residual_lens")


def attention(one=lambda x, q, k, v: attend(q, k, v, x.sm_scale), read=read, heads=lambda x, head: head):
    """A pq_decode_attention.

    one     what is made of a sequence and kv head: (arguments, its rows of q, K, V) -> out, lse
    read    (arguments, sequence, kv head) -> K, V
    heads   (arguments, kv head) -> whose pages and residual it has
    """

    def pq_decode_attention(*arrays, **options):
        x = Arguments(**dict(zip(NAMES, arrays, strict=True)), **options)
        num_heads = x.page_ids.shape[1]
        group = x.q.shape[1] // num_heads
        out, lse = np.zeros(x.q.shape, np.float32), np.zeros(x.q.shape[:2], np.float32)
        for seq, head in np.ndindex(len(x.q), num_heads):
            x.seq, x.head = seq, head
            of = slice(x.head * group, (x.head + 1) * group)
            k, v = read(x, x.seq, heads(x, x.head))
            out[x.seq, of], lse[x.seq, of] = one(x, x.q[x.seq, of].astype(np.float32), k, v)
        return out.astype(x.q.dtype), lse

    return pq_decode_attention


def again(first, second):
    """A function that is another one when it is called with what it was called with last."""
    last = [None]

    def called(*arrays, **options):
        x = Arguments(**{f"a{i}": a for i, a in enumerate(arrays) if not isinstance(a, dict)})
        now = (x.bits, [pool.tobytes() for pool in arrays[1].values()], sorted(options.items()))
        same, last[0] = now == last[0], now
        return (second if same else first)(*arrays, **options)

    return called
