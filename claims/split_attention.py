"""Attention over split keys and values in float32: partial results, what joins them, and the bound they are held to.

A join maps (outs [num_parts, rows, 1, dim], lses [num_parts, rows, 1]) to (out, lse), as `merge_states` of an adapter
does; `added` is the one that split_kv_attention uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from kvconform.oracles.bound import Bounded, attention_bound
from kvconform.oracles.rounding import admissible
from kvconform.specs import data
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.profile import Profile

State = tuple[Array, Array]
Join = Callable[[Array, Array], State]
Keys = slice | Array

FAMILIES = tuple(data.ARITHMETIC_FAMILIES)

# numpy's float32 exp errs by up to 2**-22.1 where all floats of [-87, 0] were tried; another build may use other code
PROFILE = Profile(exp_error=2.0**-21, log_error=2.0**-21, renormalises=True, partial_format="float32")
"""The arithmetic of `attend` and of a float32 merge whose weights are divided by their own sum."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Independent rows of attention: one query each, over keys of its own.

    q      float32 [rows, dim]
    k, v   float32 [rows, num_keys, dim]
    """

    q: Array
    k: Array
    v: Array

    @property
    def num_keys(self) -> int:
        """Keys of each row."""
        return int(self.k.shape[1])

    @property
    def sm_scale(self) -> float:
        """head_dim ** -0.5."""
        return float(self.q.shape[1] ** -0.5)

    @cached_property
    def single_pass(self) -> State:
        """Attention over all keys at once."""
        return attend(self, slice(None))

    def bound(self, num_parts: int, levels: int) -> Bounded:
        """Exact attention, and how far partial results of `num_parts` parts merged `levels` deep may be from it."""
        profile = replace(PROFILE, tile=max(1, self.num_keys), splits=num_parts, merge_levels=levels)
        return attention_bound(self.q, self.k, self.v, self.sm_scale, profile)


@lru_cache(maxsize=16)
def drawn(seed: int, num_keys: int, dim: int, families: tuple[str, ...] = FAMILIES, copies: int = 1) -> Rows:
    """`copies` rows of each family of numbers, family by family; cached, so never write into them."""
    q, k, v = (
        np.concatenate([_values(seed, family, tensor, (copies, *shape)) for family in families])
        for tensor, shape in (("q", (dim,)), ("k", (num_keys, dim)), ("v", (num_keys, dim)))
    )
    return Rows(q, k, v)


def _values(seed: int, family: str, tensor: str, shape: tuple[int, ...]) -> Array:
    return data.values("float32", family, tensor, data.hashes(seed, f"{family} {tensor}", *data.grid(*shape)))


def attend(rows: Rows, keys: Keys) -> State:
    """out [rows, 1, dim] and lse [rows, 1] of attention over some keys; of none: 0 and -inf."""
    k, v = rows.k[:, keys], rows.v[:, keys]
    if not k.shape[1]:
        return np.zeros_like(rows.q)[:, None], np.full((len(rows.q), 1), -np.inf, np.float32)
    score = np.einsum("rnd,rd->rn", k, rows.q) * np.float32(rows.sm_scale)
    top = score.max(-1, keepdims=True)
    p = np.exp(score - top)
    total = p.sum(-1, keepdims=True)
    return (np.einsum("rn,rnd->rd", p, v) / total)[:, None], top + np.log(total)


def stacked(states: Iterable[State]) -> State:
    """Partial results as a join takes them."""
    outs, lses = zip(*states, strict=True)
    return np.stack(outs), np.stack(lses)


def split(rows: Rows, parts: Iterable[Keys], join: Join) -> State:
    """Attend to each part by itself, then join."""
    return join(*stacked(attend(rows, part) for part in parts))


def added(outs: Array, lses: Array) -> State:
    """The join of split_kv_attention: outputs that were each divided by their own sum, added as they are."""
    return outs.sum(0), np.logaddexp.reduce(lses, 0)


# --- where a sequence is cut


def even_parts(num_keys: int, num_splits: int) -> list[slice]:
    """Parts that differ by one key at most and hold every key."""
    ends = [num_keys * i // num_splits for i in range(num_splits + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


# --- the verdict


@dataclass
class Seen:
    """What has been held to a bound so far.

    elements, outside   of out and lse; those where no correct float32 kernel can land
    worst               greatest distance in units of bound and half an ulp
    """

    elements: int = 0
    outside: int = 0
    worst: float = 0.0

    def hold(self, got: Array, want: Array, error: Array) -> None:
        """Judge one array."""
        self.elements += got.size
        self.outside += int((~admissible(got, want, error, "float32")).sum())
        self.worst = max(self.worst, float(ratio(got, want, error).max(initial=0.0)))

    def hold_state(self, state: State, want: Bounded) -> None:
        """Judge out and lse."""
        self.hold(state[0][:, 0], want.out, want.out_error)
        self.hold(state[1][:, 0], want.lse, want.lse_error)


def ratio(got: Array, want: Array, error: Array) -> Array:
    """Distance in units of the bound and half an ulp of float32: above 1 is outside."""
    half_ulp = np.maximum(FORMATS["float32"].unit * (np.abs(want) + error), FORMATS["float32"].half_subnormal)
    distance = np.abs(got.astype(np.float64) - want)
    return np.where(np.isnan(distance), np.inf, distance / (error + half_ulp))
