"""A cache whose oldest tokens are in codes, by the definition: a plain list of tokens, and how many of them are codes.

Tokens come one after another. When `residual` of them are as they came, the oldest `moved` become codes: so it was for
MILLION's paged cache (128, of which 64 are moved) and for its dynamic one (all of them are).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.oracles.bound import attention_bound
from kvconform.oracles.decode import LOCATE
from kvconform.oracles.nearest import nearest
from kvconform.oracles.page_model import Do, told
from kvconform.oracles.pq import rounding
from kvconform.oracles.verdict import Interval, Raised, Violation, require
from kvconform.specs.lse import NATS
from kvconform.specs.pq import CacheInputs
from kvconform.specs.profile import Profile
from kvconform.specs.row import SIDES

Floats = npt.NDArray[np.float64]

MISTAKES = {
    "moved_tokens_are_counted_twice": "tokens are counted when they are appended and again when they become codes",
    "moved_tokens_are_not_counted": "tokens that became codes are no longer counted",
    "last_token_before_a_flush_is_appended_again": "the token that fills the residual is appended by two paths",
    "moved_tokens_are_kept_too": "tokens that became codes stay in the residual",
    "moved_tokens_are_lost": "tokens leave the residual and are not in codes",
    "newest_token_is_lost": "the newest token never reaches the result",
    "newest_token_is_there_twice": "the newest token counts twice",
    "residual_is_lost": "tokens that are not in codes never reach the result",
    "codes_are_lost": "tokens in codes never reach the result",
    "residual_is_not_shifted": "the residual begins with tokens that became codes",
    "residual_is_shifted_onto_itself": "what is left is moved by an overlapping copy, and is one token again and again",
    "codes_of_head_0": "all heads have the codes of head 0",
    "codes_of_seq_0_and_head_0": "all heads of all sequences have the codes of the first one of the first",
}
"""Mistakes of caches: what they would count, or give."""

LONGEST = 16
"""Tokens of the longest prefill of a history."""


def coded(num_tokens: int, residual: int, moved: int) -> int:
    """How many of so many tokens are codes: of `residual` that are as they came the oldest `moved` become codes."""
    over = num_tokens - residual
    return 0 if over < 0 else (over // moved + 1) * moved


KINDS, PREFILL = 4, 3
"""Kinds of operations, number % KINDS, and that of several tokens at once."""


@dataclass
class CacheModel:
    """What a cache must answer. Of a layer without tokens there is no attention: it refuses.

    inputs    tokens and queries
    profile   of the implementation;  conventions: its own
    lens      tokens of each layer;  known: the centroids that a token is made into, by side, layer and position
    flushes   appends of each layer after which tokens became codes
    disputed  whether some token could have become other codes
    """

    inputs: CacheInputs
    do: Do
    profile: Profile
    conventions: Mapping[str, Any]
    lens: list[int] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    known: dict[tuple[int, int, int], Floats] = field(default_factory=dict)
    flushes: list[int] = field(default_factory=list)
    disputed: bool = False

    def __post_init__(self) -> None:
        self.lens = [0] * self.inputs.case.num_layers
        self.flushes = [0] * self.inputs.case.num_layers

    @property
    def moved(self) -> int:
        """Tokens that become codes at a time."""
        return min(self.inputs.case.moved, self.inputs.case.residual)

    def coded(self, num_tokens: int) -> int:
        """How many of so many tokens are codes."""
        return coded(num_tokens, self.inputs.case.residual, self.moved)

    def step(self, number: int) -> None:
        """One operation of a history: a token, several at once, or a look."""
        which, kind = divmod(number, KINDS)
        layer = which % len(self.lens)
        if kind:
            self.append(layer, 1 + which % LONGEST if kind == PREFILL else 1)
        self.look(layer)

    def append(self, layer: int, count: int) -> None:
        """Some tokens more; refused, with nothing changed, where their codes have no room."""
        positions = range(self.lens[layer], self.lens[layer] + count)
        k, v = (self.inputs.tokens(side, layer, positions) for side in SIDES)
        call = partial(self.do, "append", layer=layer, k=k, v=v)
        if self._pages(layer, self.lens[layer] + count) <= self._room:
            try:
                call()
            except Raised as e:
                raise Raised(self._wrong(e.message).message) from e
            self.flushes[layer] += self.coded(self.lens[layer] + count) > self.coded(self.lens[layer])
            self.lens[layer] += count
            self.done.append(f"append(layer {layer}, {count} token{'s' * (count > 1)})")
            return
        why = f"the codes of {count} tokens more need more than {self._room} pages"
        self._refused("append", why, layer=layer, k=k, v=v)
        self.done.append(f"append(layer {layer}, {count}) is refused")

    def _refused(self, method: str, why: str, **arguments: Any) -> None:
        """A call that must raise."""
        try:
            self.do(method, **arguments)
        except Raised:
            return
        raise self._wrong(f"{method} did not raise, though {why}")

    @cached_property
    def _room(self) -> int:
        case = self.inputs.case
        return case.num_pages * case.num_layers * case.num_seqs * case.num_kv_heads

    def _pages(self, layer: int, num_tokens: int) -> int:
        """Pages of all layers, if one of them had so many tokens."""
        case = self.inputs.case
        lens = [num_tokens if one == layer else n for one, n in enumerate(self.lens)]
        return sum(-(-self.coded(n) // case.page_size) for n in lens) * case.num_seqs * case.num_kv_heads

    def look(self, layer: int) -> None:
        """Counts, and attention of a query that sees all tokens of a layer."""
        num_tokens = self.lens[layer]
        for method, want in (("num_tokens", num_tokens), ("num_coded", self.coded(num_tokens))):
            got = self.do(method, layer=layer)[method]
            if got != want:
                said = self._wrong(f"{method} of layer {layer} is {got}, want {want}")
                raise Violation(said.message, self._miscounts(layer, method, got))
        q = self.inputs.query(len(self.done))
        if not num_tokens:
            self._refused("attend", f"layer {layer} holds no tokens", layer=layer, q=q, sm_scale=self.inputs.sm_scale)
            return
        got = self.do("attend", layer=layer, q=q, sm_scale=self.inputs.sm_scale)
        of = partial(self._attention, layer, q)
        right = self._right(layer)
        try:
            bounded = of(*right)
            if not self.disputed:  # else which centroids it attends to is not known
                require(got, bounded, partial(self._mistakes, layer, of))
        except Violation as violation:
            raise Violation(
                f"attend(layer {layer}) {violation.message}; {told(self.done)}", violation.explanations
            ) from violation

    def _right(self, layer: int) -> tuple[list[int], list[int]]:
        """The tokens that are codes, and those that are not."""
        coded = self.coded(self.lens[layer])
        return list(range(coded)), list(range(coded, self.lens[layer]))

    def _mistakes(self, layer: int, of: Callable[..., Mapping[str, Interval]]) -> dict[str, Any]:
        """What caches would give that have lost tokens, or have them twice, or took them from another layer or head."""
        coded, left = self._right(layer)
        lists = {
            "moved_tokens_are_kept_too": (coded, coded[-self.moved :] + left),
            "moved_tokens_are_lost": (coded[: -self.moved], left),
            "newest_token_is_lost": (coded, left[:-1]),
            "newest_token_is_there_twice": (coded, left + left[-1:]),
            "residual_is_lost": (coded, []),
            "codes_are_lost": ([], left),
            "residual_is_not_shifted": (coded, [*coded[-self.moved :], *left][: len(left)]),
            "residual_is_shifted_onto_itself": (coded, left[:1] * len(left)),
        }
        found = {f"{name}/0": partial(of, *some) for name, some in lists.items() if some != (coded, left)}
        found["codes_of_head_0/0"] = partial(of, coded, left, first_head=True)
        found["codes_of_seq_0_and_head_0/0"] = partial(of, coded, left, first_head=True, first_seq=True)
        return found

    def _attention(
        self,
        layer: int,
        q: npt.NDArray[Any],
        coded: list[int],
        left: list[int],
        first_head: bool = False,
        first_seq: bool = False,
    ) -> dict[str, Interval]:
        """out and lse of a layer that has these tokens."""
        case, sides = self.inputs.case, []
        for side in SIDES:
            of_codes = [self._decoded(side, layer, position) for position in coded]
            if first_head:
                of_codes = [np.broadcast_to(one[:, :1], one.shape) for one in of_codes]
            if first_seq:
                of_codes = [np.broadcast_to(one[:1], one.shape) for one in of_codes]
            as_they_came = [self.inputs.token(side, layer, position).astype(np.float64) for position in left]
            none = np.zeros((0, case.num_seqs, case.num_kv_heads, self.inputs.head_dim))
            tokens = np.stack([*of_codes, *as_they_came]) if coded or left else none
            sides.append(np.repeat(np.moveaxis(tokens, 0, 2), case.group, 1))
        k, v = sides
        profile = rounding(self.profile, case.result_dtype, max(1, len(coded)))  # however it splits them
        found = attention_bound(q, k, v, self.inputs.sm_scale, profile)
        unit = NATS[self.conventions["lse_base"]]
        return {
            "out": Interval(found.out, found.out_error, profile.out_format, LOCATE["out"]),
            "lse": Interval(found.lse / unit, found.lse_error / unit, profile.lse_format, LOCATE["lse"]),
        }

    def _decoded(self, side: int, layer: int, position: int) -> Floats:
        """The centroids that a token is made into, [num_seqs, num_kv_heads, head_dim]."""
        key = side, layer, position
        if key not in self.known:
            choice = nearest(self.inputs.token(*key), self.inputs.codebooks[side], self.profile)
            self.disputed |= bool((choice.allowed.sum(-1) > 1).any())
            codes = choice.distance.argmin(-1).astype(np.uint8)
            self.known[key] = self.inputs.decoded(codes, side).astype(np.float64)
        return self.known[key]

    def _miscounts(self, layer: int, method: str, got: int) -> dict[str, Callable[[], bool]]:
        """Mistakes that a count tells."""
        num_tokens, flushes = self.lens[layer], self.flushes[layer]
        counts = {
            "moved_tokens_are_counted_twice": num_tokens + self.coded(num_tokens),
            "moved_tokens_are_not_counted": num_tokens - self.coded(num_tokens),
            "last_token_before_a_flush_is_appended_again": num_tokens + flushes,
        }
        if method != "num_tokens":
            return {}
        return {f"{name}/0": partial(int.__eq__, got, count) for name, count in counts.items()}

    def _wrong(self, what: str) -> Violation:
        return Violation(f"{what}; {told(self.done)}")
