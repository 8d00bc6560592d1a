"""Named mistakes of pq_decode_attention: what a kernel that reads codes, pages or the residual wrongly would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from kvconform.oracles import pq
from kvconform.oracles.mistakes import Oracle, other_rows
from kvconform.oracles.pq import PQReading
from kvconform.specs.data import Array
from kvconform.specs.dtypes import width
from kvconform.specs.lse import NATS
from kvconform.specs.pq import PQInputs
from kvconform.specs.profile import Profile
from kvconform.specs.row import K, V

Change = Callable[[PQInputs, PQReading], PQReading]


@dataclass(frozen=True)
class PQMistake:
    """A named wrong reading of pages of codes.

    claim     what such a kernel does, in one line
    changes   ways of making it
    applies   whether an input can show it
    """

    claim: str
    changes: tuple[Change, ...]
    applies: Callable[[PQInputs], bool] = lambda inputs: True


def _tables(pick: Callable[[Array], Array]) -> Change:
    """Pages of each (sequence, head) taken from another one; pick: [num_seqs, num_kv_heads, width] -> which."""

    def change(inputs: PQInputs, right: PQReading) -> PQReading:
        shape = len(inputs.case.kv_lens), inputs.case.num_kv_heads
        tables = [np.broadcast_to(pick(t.reshape(*shape, -1)), (*shape, t.shape[-1])) for t in right.tables]
        of_k, of_v = (table.reshape(-1, table.shape[-1]) for table in tables)
        return replace(right, tables=(of_k, of_v))

    return change


def _with(**fields: object) -> Change:
    return lambda inputs, right: replace(right, **fields)  # type: ignore[arg-type]


def _lens(by: int) -> Change:
    return lambda inputs, right: replace(right, lens=np.maximum(right.lens + by * (right.lens > 0), 0))


def _whole_pages(inputs: PQInputs, right: PQReading) -> PQReading:
    size = inputs.case.page_size
    return replace(right, lens=-(-right.lens // size) * size)


def _without_codes(inputs: PQInputs, right: PQReading) -> PQReading:
    return replace(right, lens=np.zeros_like(right.lens))


def _residual(first: Callable[[Array], Array], last: Callable[[Array, int], Array]) -> Change:
    return lambda inputs, right: replace(
        right,
        residual_first=first(right.residual_lens),
        residual_lens=last(right.residual_lens, inputs.case.residual),
    )


def _heads(of: Callable[[PQInputs, Array], Array]) -> Change:
    return lambda inputs, right: replace(right, head_of=of(inputs, np.arange(len(right.head_of))))


def _has_residual(inputs: PQInputs) -> bool:
    return bool(inputs.residual_lens.any())


def _has_codes(inputs: PQInputs) -> bool:
    return bool(inputs.kv_lens.any())


MISTAKES: dict[str, PQMistake] = {
    "pages_of_head_0": PQMistake(
        "all heads read the pages of head 0",
        (_tables(lambda t: t[:, :1]),),
        lambda inputs: inputs.case.num_kv_heads > 1,
    ),
    "pages_of_seq_0": PQMistake(
        "all sequences read the pages of sequence 0",
        (_tables(lambda t: t[:1]), _tables(lambda t: t[:1, :1])),
        lambda inputs: len(inputs.case.kv_lens) > 1,
    ),
    "residual_is_left_out": PQMistake(
        "tokens that are not coded yet never reach the result",
        (_residual(np.zeros_like, lambda lens, _: np.zeros_like(lens)),),
        _has_residual,
    ),
    "codes_are_left_out": PQMistake("tokens in codes never reach the result", (_without_codes,), _has_codes),
    "residual_is_read_whole": PQMistake(
        "rows of the residual at and beyond residual_lens count",
        (_residual(np.zeros_like, lambda lens, rows: np.full_like(lens, rows)),),
        lambda inputs: inputs.case.residual > 0,
    ),
    "oldest_of_residual_is_dropped": PQMistake(
        "the oldest token that is not coded is left out",
        (_residual(lambda lens: np.minimum(lens, 1), lambda lens, _: lens),),
        _has_residual,
    ),
    "newest_of_residual_is_dropped": PQMistake(
        "the newest token that is not coded is left out",
        (_residual(np.zeros_like, lambda lens, _: np.maximum(lens - 1, 0)),),
        _has_residual,
    ),
    "one_code_too_many": PQMistake("one token more is read than there is in codes", (_lens(1),), _has_codes),
    "one_code_too_few": PQMistake("the newest token in codes is left out", (_lens(-1),), _has_codes),
    "last_page_is_read_whole": PQMistake("the last page is read to its end", (_whole_pages,), _has_codes),
    "codebooks_are_swapped": PQMistake(
        "K is decoded with the codebooks of V, or both with one", (_with(books=(V, K)), _with(books=(K, K)))
    ),
    "nibbles_are_swapped": PQMistake(
        "of two codes in a byte the high one is taken for the first",
        (_with(swaps_nibbles=True),),
        lambda inputs: width(inputs.case.dtype) < 8,
    ),
    "kv_heads_in_turn": PQMistake(
        "q head h reads kv head h % num_kv_heads",
        (_heads(lambda inputs, head: head % inputs.case.num_kv_heads),),
        lambda inputs: inputs.case.num_kv_heads > 1 and inputs.case.group > 1,
    ),
    "sm_scale_is_left_out": PQMistake("scores are not scaled", (_with(sm_scale=1.0),)),
    "sm_scale_counts_twice": PQMistake(
        "scores are scaled twice", (lambda inputs, right: replace(right, sm_scale=right.sm_scale**2),)
    ),
    "lse_is_base_2": PQMistake("lse is a logarithm to base 2", (_with(lse_unit=NATS["2"]),)),
    "lse_is_base_e": PQMistake("lse is a natural logarithm", (_with(lse_unit=NATS["e"]),)),
}
"""Mistakes of pq_decode_attention, simplest first."""


def _readings(inputs: PQInputs, right: PQReading) -> Iterator[tuple[str, PQReading]]:
    for name, mistake in MISTAKES.items():
        if mistake.applies(inputs):
            for way, change in enumerate(mistake.changes):
                yield f"{name}/{way}", change(inputs, right)
    for name, row in other_rows(right.row, inputs.pages.sizes, inputs.case.dtype):
        yield f"{name}/0", replace(right, row=row, parts=row.parts)


def of_attention(inputs: PQInputs, cache: Mapping[str, Array], profile: Profile, right: PQReading) -> dict[str, Oracle]:
    """What wrong kernels would compute from this cache."""
    return {name: partial(pq.expected, inputs, cache, profile, reading) for name, reading in _readings(inputs, right)}
