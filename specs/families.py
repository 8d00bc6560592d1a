"""Contents with a structure: which keys count, and what they hold, by where each of them stands.

Independent draws (specs/data.py) give every key about the same weight, so that of thousands one more or less is lost
in rounding. These put the weight where kernels go wrong: on page and split edges, on one key, on ties, on steps that
an online softmax must rescale by. One dim is hot: K holds a key's level there and q holds what a level is worth, so
that scores are exact numbers, chosen here, in every floating type; the other dims are drawn as usual.

A family of merge_states is the same thing on parts instead of keys: the level is that of its lse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kvconform.specs import data
from kvconform.specs.data import Array, Hashes
from kvconform.specs.dtypes import DTYPES, FORMATS, is_floating
from kvconform.specs.scales import STEPS

Floats = npt.NDArray[np.float64]

HIGHEST = 255
"""Greatest level: bfloat16 counts no further."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where elements stand, in integer arrays that broadcast with their hashes; 0 where there is no such axis.

    seed          of the Case
    row           sequence, or row of merge_states
    key           position in the sequence, or part
    num_keys      how many there are
    dim           index of the last axis
    head_dim      its size
    page_size     of the cache; 1 where there are no pages
    num_splits    parts that the keys are cut into
    sm_scale      what a product of q and K is multiplied with
    orders        binary orders below 1 at which eighths are exact in the type
    """

    seed: int
    row: Any = 0
    key: Any = 0
    num_keys: Any = 1
    dim: Any = 0
    head_dim: int = 1
    page_size: int = 1
    num_splits: int = 1
    sm_scale: float = 1.0
    orders: int = 0

    @property
    def hot(self) -> int:
        """The dim in which K holds levels."""
        return int(data.hashes(self.seed, "hot")) % self.head_dim

    def draw(self, what: str, *axes: Any) -> Hashes:
        """Hashes of whole keys or rows."""
        return data.hashes(self.seed, what, *axes)


def place_in(
    case: Any, head_dim: int, sm_scale: float, row: Any = 0, key: Any = 0, num_keys: Any = 1, dim: Any = 0
) -> Place:
    """Where elements of a Case stand that belong to keys, or to whole rows."""
    return Place(
        seed=case.seed,
        row=row,
        key=key,
        num_keys=num_keys,
        dim=dim,
        head_dim=head_dim,
        page_size=case.page_size,
        num_splits=case.num_splits,
        sm_scale=sm_scale,
    )


Level = Callable[[Place], Any]
Value = Callable[[Hashes, Place], Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row.

    claim      what its scores and values are
    level      whole or binary fraction of at most eight bits, a key
    gains      nats that a level is worth, at least and at most twice as many: q is a power of two; one is drawn a Case
    value      what V holds
    rest       factor of q in the other dims: a power of two, or 0
    offset     what is added to K in the other dims
    screened   as of a family that is drawn (specs/data.py): where a key stands says what it holds, so chance has no say
    """

    claim: str
    level: Level
    gains: tuple[float, ...]
    value: Value
    rest: float = 1.0
    offset: float = 0.0
    screened: bool = False

    def gain(self, place: Place) -> float:
        """Nats a level, as drawn."""
        return self.gains[int(place.draw("gain")) % len(self.gains)]


def _eighths(h: Hashes) -> Floats:
    return data.ARITHMETIC_FAMILIES["plain"]("", h)


def _plain(h: Hashes, place: Place) -> Floats:
    return _eighths(h)


def _fine(h: Hashes, place: Place) -> Floats:
    return data.ARITHMETIC_FAMILIES["fine"]("v", h)


DIGITS = 8
"""Base of the digits of an address."""

SPELLED = ("key", "key", "key", "row", "key", "key", "row")
"""What each odd dim of V has a digit of, over and over: the lowest ones first."""


def _address(h: Hashes, place: Place) -> Floats:
    """In odd dims digits of the address, n + 1 eighths each, in even ones every bit: what comes back tells where."""
    turn, odd = np.divmod(np.asarray(place.dim), 2)
    which = turn % len(SPELLED)
    of_key = np.array([name == "key" for name in SPELLED])
    lower = np.array([SPELLED[:i].count(name) for i, name in enumerate(SPELLED)])
    number = np.where(of_key[which], np.asarray(place.key), np.asarray(place.row))
    digit = number // DIGITS ** lower[which] % DIGITS
    return np.where(odd == 1, (digit + 1.0) / DIGITS, _fine(h, place))


def _alternating(h: Hashes, place: Place) -> Floats:
    """Around 16 and around -16, a key each."""
    return _eighths(h) + np.where(np.asarray(place.key) % 2, -16.0, 16.0)


FAINTEST = 20
"""Binary orders below 1 of the smallest contents, where their type has as many: float16 has subnormals alone there."""

FAINTNESS = (0, 7, 14, FAINTEST)
"""Those of the dims of V, in turn; of types that have fewer as many times fewer."""


def _faint(h: Hashes, place: Place) -> Floats:
    """Eighths, smaller by as many orders as the dim says: what is lost of small numbers shows beside no large one."""
    turn = int(place.draw("faint")) % len(FAINTNESS)
    which = (np.asarray(place.dim) + turn) % len(FAINTNESS)
    orders = np.array([n * place.orders // FAINTEST for n in FAINTNESS])
    return np.asarray(np.ldexp(_eighths(h), -orders[which]))


@cache
def _orders_of(dtype: str) -> int:
    """Binary orders below 1 at which eighths are exact in a type, as many as are used."""
    if not is_floating(dtype):
        return 0
    return min(FAINTEST, -int(np.log2(8 * 2 * FORMATS[dtype].half_subnormal)))


PRIMES = np.array([1000003, 1000033, 1000037, 1000039, 1000081, 1000099, 1000117, 1000121])
"""Primes that divide no number of keys: multiples of one, from anywhere on, meet each remainder once."""


def _paired(h: Hashes, place: Place) -> Floats:
    """In every dim keys cancel in pairs, other ones in each; of an odd number one is 0, another one in each.

    With the same pairs in all dims both keys of one could be lost, or the middle one, and one lost for its like twice.
    """
    num_keys = np.maximum(np.asarray(place.num_keys), 1)
    order = place.draw("order", place.row, place.dim)
    turn = (order >> np.uint64(32)).astype(np.int64) % num_keys
    rank = (np.asarray(place.key) * PRIMES[(order % np.uint64(len(PRIMES))).astype(np.int64)] + turn) % num_keys
    last = num_keys - 1
    shared = place.draw("pair", place.row, np.minimum(rank, last - rank), place.dim)
    sign = np.where((shared >> np.uint64(40)) % np.uint64(2), -1.0, 1.0)
    size = sign * (1.0 + ((shared >> np.uint64(50)) % np.uint64(8)).astype(np.float64) / 8)
    return np.where(2 * rank == last, 0.0, np.where(2 * rank > last, -size, size)) + np.zeros(h.shape)


def _page_in_a_dim(h: Hashes, place: Place) -> Floats:
    """1 in the dim that the key's page has, 0 in the others."""
    page = np.asarray(place.key) // place.page_size
    dim = place.draw("page", place.row, page) % np.uint64(place.head_dim)
    return np.asarray(np.asarray(place.dim) == dim.astype(np.int64), np.float64)


def _chosen(place: Place) -> Array:
    """1 on one key of each row, 0 elsewhere: the first, the last, one beside a page's or a split's edge, or any."""
    num_keys, page = np.asarray(place.num_keys), place.page_size
    last = num_keys - 1
    anywhere = (place.draw("anywhere", place.row) % np.maximum(num_keys, 1).astype(np.uint64)).astype(np.int64)
    begins = [0 * last, 0 * last + page, last // page * page, -(-num_keys // place.num_splits), num_keys // 2]
    wishes = np.stack(np.broadcast_arrays(anywhere, last, *begins, *(begin - 1 for begin in begins)))
    which = (place.draw("chosen", place.row) % np.uint64(len(wishes))).astype(np.int64)
    wish = np.take_along_axis(wishes, np.broadcast_to(which, wishes.shape[1:])[None], axis=0)[0]
    return np.asarray(np.asarray(place.key) == np.clip(wish, 0, np.maximum(last, 0)), np.float64)


def _rising(place: Place) -> Any:
    return np.minimum(place.key, HIGHEST)


def _falling(place: Place) -> Any:
    return np.clip(np.asarray(place.num_keys) - 1 - np.asarray(place.key), 0, HIGHEST)


def _far(place: Place) -> Any:
    """About 128 below zero, or above it, all of a row on one side."""
    side = np.where(place.draw("side", place.row) >> np.uint64(63), 1.0, -1.0)
    return side * (128.0 + (place.draw("far", place.row, place.key) >> np.uint64(61)))


def _tied(place: Place) -> Any:
    """Two keys after each other have one level, or the second one a 128th more: the last bit of eight at 1."""
    pair = place.draw("tie", place.row, np.asarray(place.key) // 2)
    nearly = (pair >> np.uint64(20)) % np.uint64(2) * (np.asarray(place.key) % 2)
    return _eighths(pair) + nearly * 2.0**-7


def _drawn(place: Place) -> Any:
    return _eighths(place.draw("level", place.row, place.key))


def _none(place: Place) -> Any:
    return 0.0


FAMILIES: dict[str, Family] = {
    "spike": Family(
        claim="one key of each sequence, on an edge or at an end, outweighs a hundred others",
        level=_chosen,
        gains=(5.0,),
        value=_plain,
    ),
    "needle": Family(
        claim="one key of each sequence, on an edge or at an end, has all of the weight, and V spells where it is",
        level=_chosen,
        gains=(256.0,),
        value=_address,
    ),
    "zero_sum": Family(
        claim="every key weighs the same and values cancel, in other pairs in each dim: what is lost leaves a rest",
        level=_none,
        gains=(0.0,),
        value=_paired,
        rest=0.0,
    ),
    "read_out": Family(
        claim="every key weighs the same and V holds 1 in its page's dim alone: out lists how much each page weighs",
        level=_none,
        gains=(0.0,),
        value=_page_in_a_dim,
        rest=0.0,
    ),
    "stairs_up": Family(
        claim="scores rise from key to key, 255 times: every new maximum rescales what there is, by up to exp(-96)",
        level=_rising,
        gains=(0.5, 8.0, 96.0),
        value=_plain,
    ),
    "stairs_down": Family(
        claim="scores fall from key to key down to the last 255: the first ones keep the weight",
        level=_falling,
        gains=(0.5, 8.0, 96.0),
        value=_plain,
    ),
    "huge": Family(
        claim="scores beyond 65536 or 131072 on either side, farther out than finite stand-ins for minus infinity",
        level=_far,
        gains=(512.0, 1024.0),
        value=_plain,
    ),
    "tiny": Family(
        claim="scores of about 2**-12: weights differ in their last bits alone",
        level=_none,
        gains=(0.0,),
        value=_fine,
        rest=2.0**-12,
    ),
    "ties": Family(
        claim="keys tie in pairs, bit for bit or but for a 128th of a level, and a pair counts most",
        level=_tied,
        gains=(16.0,),
        value=_plain,
        rest=0.0,
    ),
    "cancel": Family(
        claim="values around 16 and -16 in turn: sums are small beside their terms",
        level=_drawn,
        gains=(1.0,),
        value=_alternating,
    ),
    "k_offset": Family(
        claim="K around 8: scores have a large part in common, which the softmax takes away again",
        level=_drawn,
        gains=(1.0,),
        value=_plain,
        offset=8.0,
    ),
    "faint": Family(
        claim="V of some dims is small in every key, down to subnormals of types of few bits, and so are sums of it",
        level=_drawn,
        gains=(1.0,),
        value=_faint,
    ),
}
"""Structured contents, simplest first."""

CLAIMS: dict[str, str] = data.CLAIMS | {name: family.claim for name, family in FAMILIES.items()}
"""Every family of contents, of either kind -> what it holds and what for."""


def is_screened(family: str) -> bool:
    """Whether results on such contents are also held against what chance does (oracles/screen.py)."""
    rows: dict[str, data.Drawn | Family] = {**data.ARITHMETIC_FAMILIES, **FAMILIES}
    return family in rows and rows[family].screened


def values(dtype: str, family: str, tensor: str, h: Hashes, place: Place) -> Array:
    """One value of the family a hash, whatever kind of family it is.

    tensor   q, k, v of attention, latent where k and v are one; lse and outs of merge_states
    """
    if family not in FAMILIES or dtype not in DTYPES:
        return data.values(dtype, family, tensor, h)
    place = replace(place, orders=_orders_of(dtype))
    made = np.broadcast_to(np.asarray(_SHAPED[tensor](FAMILIES[family], h, place), np.float64), h.shape)
    if DTYPES[dtype].kind in "iu":  # codes: the nearest there is
        ends = np.iinfo(DTYPES[dtype])
        made = np.clip(np.rint(made / STEPS.get(dtype, 1.0)), ends.min, ends.max)
    return made.astype(DTYPES[dtype])


def _of_q(family: Family, h: Hashes, place: Place) -> Any:
    gain = family.gain(place)
    hot = 2.0 ** np.ceil(np.log2(gain / place.sm_scale)) if gain else 0.0
    return np.where(np.asarray(place.dim) == place.hot, hot, family.rest * _eighths(h))


def _of_k(family: Family, h: Hashes, place: Place) -> Any:
    return np.where(np.asarray(place.dim) == place.hot, family.level(place), family.offset + _eighths(h))


def _of_v(family: Family, h: Hashes, place: Place) -> Any:
    return family.value(h, place)


def _of_latent(family: Family, h: Hashes, place: Place) -> Any:
    """What is K and V: a level in the hot dim, values in the others."""
    return np.where(np.asarray(place.dim) == place.hot, family.level(place), family.offset + family.value(h, place))


def _of_lse(family: Family, h: Hashes, place: Place) -> Any:
    return family.gain(place) * np.asarray(family.level(place)) + family.rest * _eighths(h)


_SHAPED: dict[str, Callable[[Family, Hashes, Place], Any]] = {
    "q": _of_q,
    "k": _of_k,
    "v": _of_v,
    "latent": _of_latent,
    "lse": _of_lse,
    "outs": _of_v,
}
