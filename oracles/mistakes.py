"""Named mistakes: what a kernel that reads its inputs wrongly would give, on the very same bytes.

A mistake is the right reading with one thing changed. The table has three uses: it names failures ("looks like"), it
says which faults the suite must be able to tell apart, and its claims are the "what goes wrong" page of the
documentation. A mistake is named only when it explains every failing example of a cell, and what the counterexample
gives with other contents, and no other one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from kvconform.oracles import decode, fused, paged, states, update
from kvconform.oracles.bound import Bounded, merge_bound
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.paged import Reading
from kvconform.oracles.tables import WRONG_READERS
from kvconform.oracles.verdict import Expected
from kvconform.specs.case import DEFAULTS
from kvconform.specs.conventions import CONVENTIONS
from kvconform.specs.data import Array
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.fused import FusedInputs
from kvconform.specs.layouts import LAYOUTS, SIDES, K, Layout, Part, V
from kvconform.specs.lse import NATS
from kvconform.specs.paged import PagedInputs, scale_of_none
from kvconform.specs.profile import Profile
from kvconform.specs.row import SCALE, ZERO
from kvconform.specs.table import matrix

Oracle = Callable[[], Expected]
Change = Callable[[PagedInputs, Any], Any]


@dataclass(frozen=True)
class Mistake:
    """A named wrong reading.

    claim     what such a kernel does, in one line
    ops       operations in which it can be made
    changes   ways of making it; each maps (inputs, right reading) to a wrong reading
    applies   whether an input can show it; where it cannot, what is wrong there is something else
    meant     the convention, and the choice of it, by which the reading would be right
    """

    claim: str
    ops: tuple[str, ...]
    changes: tuple[Change, ...]
    applies: Callable[[PagedInputs], bool] = lambda inputs: True
    meant: tuple[str, Any] | None = None


# --- how the pages are found


def _tables(right: Reading, change: Callable[[Array], Array]) -> Reading:
    return replace(right, tables=tuple(change(table) for table in right.tables))


def _pages_in_order(inputs: PagedInputs, right: Reading) -> Reading:
    starts = np.cumsum([0, *inputs.pages_of])[:-1, None]
    return _tables(right, lambda table: starts + np.arange(table.shape[1]))


def _table_of_row(shift: int) -> Change:
    def change(inputs: PagedInputs, right: Reading) -> Reading:
        num_seqs = len(right.lens)
        rows = np.arange(num_seqs) + shift if shift else np.zeros(num_seqs, int)
        return _tables(right, lambda table: table[rows % num_seqs])

    return change


def _lens(change: Callable[[PagedInputs, Array], Array]) -> Change:
    return lambda inputs, right: replace(right, lens=change(inputs, right.lens))


def _misread(name: str) -> Change:
    """The arrays of a page table, as a wrong reader takes them; past what it finds there, page 0."""

    def change(inputs: PagedInputs, right: Reading) -> Reading:
        arrays = {field: array.astype(np.int64) for field, array in inputs.told()["block_table"].items()}
        pages = WRONG_READERS[name].read(arrays, inputs.case.page_size)
        return replace(right, tables=(matrix(pages.k),) * 2, lens=np.array(pages.kv_lens, np.int64), misread=True)

    return change


def _one_more(inputs: PagedInputs, right: Reading) -> Any:
    if inputs.case.table_form == WRONG_READERS["one_more"].table:  # where another index comes next
        return _misread("one_more")(inputs, right)
    return replace(right, lens=right.lens + (right.lens > 0))


def _misreads(*names: str) -> dict[str, Any]:
    """The changes of wrong readers of one table, and where they can be made."""
    (table,) = {WRONG_READERS[name].table for name in names}
    return {"changes": tuple(map(_misread, names)), "applies": lambda inputs: inputs.case.table_form == table}


def _whole_pages(inputs: PagedInputs, lens: Array) -> Array:
    size = inputs.case.page_size
    return np.asarray(-(-lens // size) * size)


def _skipped_go_to(slot: Callable[[PagedInputs], int]) -> Change:
    def change(inputs: PagedInputs, right: Reading) -> Reading:
        last = inputs.sizes["page"] * inputs.case.page_size - 1
        to = slot(inputs) % (last + 1) if last >= 0 else -1
        return replace(right, slots=tuple(np.where(slots == -1, to, slots) for slots in right.slots))

    return change


def _behind(inputs: PagedInputs, right: Reading) -> Reading:
    """Slots of the newest tokens as if kv_lens did not count them; dropped where the table ends."""
    (seq, position), size = inputs.owners, inputs.case.page_size
    num_new = np.bincount(inputs.q_rows[0], minlength=len(right.lens))
    at = (position + num_new[seq])[inputs.newest]
    slots = []
    for to, table in zip(right.slots, right.tables, strict=True):
        moved = to.copy()
        page = table[seq[inputs.newest], np.minimum(at // size, table.shape[1] - 1)].astype(np.int64)
        moved[inputs.newest] = np.where(at // size < table.shape[1], page * size + at % size, -1)
        slots.append(moved)
    return replace(right, slots=tuple(slots))


# --- how scores and partial results become one


def _scale(factor: Callable[[float], float]) -> Change:
    return lambda inputs, right: replace(right, sm_scale=factor(right.sm_scale))


def _lse_unit(unit: float) -> Change:
    return lambda inputs, right: replace(right, lse_unit=unit)


def _with(**values: Any) -> Change:
    return lambda inputs, right: replace(right, **values)


def _scales(change: Callable[[PagedInputs, Array], Array]) -> Change:
    return lambda inputs, right: replace(
        right, scales=tuple(s if s is None else change(inputs, s) for s in right.scales)
    )


def _moved(name: str, change: Callable[[Any], Any]) -> Change:
    return lambda inputs, right: replace(right, **{name: change(getattr(right, name))})


def _on(feature: str) -> Callable[[PagedInputs], bool]:
    """Whether a Case has a feature, without which nothing can be wrong about it."""
    return lambda inputs: getattr(inputs.case, feature) != DEFAULTS[feature]


def _is_keyless_beside_sinks(inputs: PagedInputs) -> bool:
    """Whether there is a sink, and a sequence without keys."""
    return _on("sinks")(inputs) and 0 in inputs.case.kv_lens


def _causal(choice: str) -> Change:
    """Positions, and what is seen of newer keys, by another choice of the convention `causal`."""
    return lambda inputs, right: replace(right, newer=inputs.newer(choice), causal=choice != "none")


def _top_left(inputs: PagedInputs, right: Any) -> Any:
    """The same, under a tree mask as well."""
    return replace(right, newer=right.lens[right.seq_of] - 1 - _token_of(inputs, right))


def _some_wait(inputs: PagedInputs) -> bool:
    """Whether a sequence has no query token."""
    return 0 in inputs.case.q_lens


def _of_sequences(whose: Callable[[Array], Array]) -> Change:
    """whose: query tokens of each sequence -> the sequence of each row."""

    def changed(inputs: PagedInputs, right: Any) -> Any:
        seq_of = whose(np.array(inputs.case.q_lens))
        rows, taken = np.arange(len(seq_of)), np.bincount(seq_of, minlength=len(inputs.case.q_lens))
        ends = np.cumsum(taken)[seq_of]
        at_first = not np.array_equal(right.newer, inputs.q_rows[1])
        of_first = right.lens[seq_of] - 1 - (rows - ends + taken[seq_of])
        return replace(right, seq_of=seq_of, newer=of_first if at_first else ends - 1 - rows)

    return changed


def _one_at_least(q_lens: Array) -> Array:
    return np.repeat(np.arange(len(q_lens)), np.maximum(q_lens, 1))[: q_lens.sum()]


def _first_that_begins(q_lens: Array) -> Array:
    starts = np.cumsum(q_lens) - q_lens
    return np.repeat(np.searchsorted(starts, starts), q_lens)


def _behind_the_first_that_begins(inputs: PagedInputs, right: Any) -> Any:
    """Such a row stands behind all keys of a sequence that has no query tokens."""
    changed = _of_sequences(_first_that_begins)(inputs, right)
    others = changed.seq_of != right.seq_of
    return replace(changed, newer=np.where(others, -1 - _token_of(inputs, right), right.newer))


def _tree(change: Callable[[PagedInputs, Any], Array]) -> Change:
    return lambda inputs, right: replace(right, tree=change(inputs, right))


def _tree_of(change: Callable[[Array], Array]) -> Callable[[PagedInputs, Any], Array]:
    """Every sequence's tree changed on its own; it is square."""

    def changed(inputs: PagedInputs, right: Any) -> Array:
        tree: Array = right.tree.copy()
        for seq, size in enumerate(inputs.case.q_lens):
            tree[right.seq_of == seq, :size] = change(tree[right.seq_of == seq, :size])
        return tree

    return changed


def _first_tree(inputs: PagedInputs, right: Any) -> Array:
    """Rows of a sequence look at the first rows of the mask."""
    return np.asarray(right.tree[_token_of(inputs, right)])


def _padded_tree(inputs: PagedInputs, right: Any) -> Array:
    """Rows of a sequence are looked for as if every one had as many as the longest."""
    rows = right.seq_of * max(inputs.case.q_lens) + _token_of(inputs, right)
    return np.asarray(right.tree[np.minimum(rows, len(right.tree) - 1)])


def _token_of(inputs: PagedInputs, right: Any) -> Array:
    """[num_q_rows] which query token of its sequence a row is."""
    return np.asarray(np.array(inputs.case.q_lens)[right.seq_of] - 1 - inputs.q_rows[1])


def _per_head(name: str, pick: Callable[[PagedInputs], Array]) -> Change:
    return lambda inputs, right: replace(right, **{name: getattr(right, name)[pick(inputs)]})


def _of_kv_head(inputs: PagedInputs) -> Array:
    return np.arange(inputs.case.num_q_heads) // inputs.case.group


def _of_head_zero(inputs: PagedInputs) -> Array:
    return np.zeros(inputs.case.num_q_heads, int)


def _of_place_in_group(inputs: PagedInputs) -> Array:
    return np.arange(inputs.case.num_q_heads) % inputs.case.group


def _log_times(sinks: Array, count: int) -> Array:
    """A sink that is counted so many times is one that scores log(count) more."""
    return np.asarray(sinks.astype(np.float64) + np.log(count))


def _joined(join: Callable[[list[Bounded]], Bounded]) -> tuple[Change, ...]:
    """A join of split results, for each usual rule of cutting a sequence into splits."""

    def change(cut: Callable[[int, int, int], list[int]]) -> Change:
        return lambda inputs, right: replace(right, join=join, cut=cut)

    return tuple(change(cut) for cut in (_cut_up, _cut_down, _cut_pages, _cut_evenly, _cut_floor))


def _cut_up(n: int, splits: int, page: int) -> list[int]:
    return [min(n, -(-n // splits) * (i + 1)) for i in range(splits)]


def _cut_down(n: int, splits: int, page: int) -> list[int]:
    return [n // splits * (i + 1) for i in range(splits - 1)] + [n]


def _cut_pages(n: int, splits: int, page: int) -> list[int]:
    return [min(n, end * page) for end in _cut_up(-(-n // page), splits, 1)]


def _cut_evenly(n: int, splits: int, page: int) -> list[int]:
    return [sum(n // splits + (j < n % splits) for j in range(i + 1)) for i in range(splits)]


def _cut_floor(n: int, splits: int, page: int) -> list[int]:
    return [n * (i + 1) // splits for i in range(splits)]


def _added(parts: list[Bounded]) -> Bounded:
    """Outputs as they are; what such a kernel returns as lse is left open (NaN)."""
    total, error = sum(p.out for p in parts), sum(p.out_error for p in parts)
    slack = len(parts) * FORMATS["float32"].unit * sum(np.abs(p.out) for p in parts)
    unsaid = np.full(np.shape(total)[:-1], np.nan)
    return Bounded(np.asarray(total), np.asarray(error + slack), unsaid, unsaid)


def _averaged(parts: list[Bounded]) -> Bounded:
    added = _added(parts)
    return replace(added, out=added.out / len(parts), out_error=added.out_error / len(parts))


def _without_last(parts: list[Bounded]) -> Bounded:
    kept = parts[:-1] or parts
    merged = merge_bound(np.stack([p.out for p in kept]), np.stack([p.lse for p in kept]), Profile(splits=len(kept)))
    slack = [
        max(float(e.max(initial=0.0)) for e in errors)
        for errors in ([p.out_error for p in kept], [p.lse_error for p in kept])
    ]
    return replace(merged, out_error=merged.out_error + slack[0], lse_error=merged.lse_error + slack[1])


def _is_split(inputs: PagedInputs) -> bool:
    return inputs.case.num_splits > 1


def _has_a_table(inputs: PagedInputs) -> bool:
    """In a contiguous cache pages are in order: what reads them so is right."""
    return not inputs.case.row.contiguous


def _halves(right: Reading) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """The parts of K and those of V."""
    half = len(right.parts) // 2
    return right.parts[:half], right.parts[half:]


def _has_both_sides(inputs: PagedInputs) -> bool:
    """K can be taken for V only where V is stored and looks alike."""
    row = inputs.row
    k, v = (
        [(inputs.token_shape(part), row.dtype_of(part, inputs.case.dtype)) for part in row.of_side(side)]
        for side in SIDES
    )
    return k == v


_READ, _PAGED = ("gather", "paged_decode"), ("append", "gather", "paged_decode")
_WRITTEN = (*_PAGED, "append_decode")

MISTAKES: dict[str, Mistake] = {
    "k_and_v_are_swapped": Mistake(
        "K is taken for V and V for K",
        _WRITTEN,
        (lambda inputs, right: replace(right, parts=_halves(right)[1] + _halves(right)[0]),),
        applies=_has_both_sides,
    ),
    "k_is_used_as_v": Mistake(
        "K is read twice, V never",
        _READ,
        (lambda inputs, right: replace(right, parts=_halves(right)[0] * 2),),
        applies=lambda inputs: _has_both_sides(inputs) and not inputs.row.pairs_pages,  # there K's page is K
    ),
    "pages_of_k_are_used_for_v": Mistake(
        "V is looked up in the pages of K",
        _WRITTEN,
        (lambda inputs, right: replace(right, tables=right.tables[:1] * 2, slots=right.slots[:1] * 2),),
        applies=lambda inputs: inputs.row.pairs_pages,
    ),
    "pages_are_in_order": Mistake(
        "the block table is ignored: pages are taken to lie one after another",
        _READ,
        (
            _pages_in_order,
            lambda inputs, right: _tables(right, lambda table: np.zeros_like(table) + np.arange(table.shape[1])),
        ),
        applies=_has_a_table,
    ),
    "table_of_the_next_sequence": Mistake("each sequence reads the pages of the next one", _READ, (_table_of_row(1),)),
    "table_of_the_first_sequence": Mistake(
        "every sequence reads the pages of the first one", _READ, (_table_of_row(0),)
    ),
    "full_last_page_is_dropped": Mistake(
        "last_page_len is taken modulo page_size: a last page that is full has no token",
        _READ,
        **_misreads("modulo_page_size"),
    ),
    "empty_sequences_have_a_last_page": Mistake(
        "a sequence without pages has last_page_len tokens",
        _READ,
        **_misreads("page_of_the_next", "get_seq_lens", "trtllm_plan"),
    ),
    "indptr_of_the_next_sequence": Mistake(
        "each sequence begins where its pages end: kv_indptr is read one row too far", _READ, **_misreads("next_indptr")
    ),
    "indices_are_rows_of_a_table": Mistake(
        "kv_indices are read as a padded table, as many for each sequence", _READ, **_misreads("csr_as_rows")
    ),
    "last_sequence_has_the_surplus": Mistake(
        "kv_indices are read to their end as pages of the last sequence", _READ, **_misreads("to_the_end")
    ),
    "slots_are_strided_by_the_page": Mistake(
        "every page_size-th slot of all is taken for a page", _READ, **_misreads("strided_slots")
    ),
    "last_page_is_full": Mistake("kv_lens are rounded up to whole pages", _READ, (_lens(_whole_pages),)),
    "last_page_is_dropped": Mistake(
        "kv_lens are rounded down to whole pages",
        _READ,
        (_lens(lambda inputs, lens: lens // inputs.case.page_size * inputs.case.page_size),),
    ),
    "last_token_is_dropped": Mistake(
        "the newest token is not read", _READ, (_lens(lambda inputs, lens: np.maximum(lens - 1, 0)),)
    ),
    "one_token_too_many": Mistake("one slot past the newest token is read", _READ, (_one_more,)),
    "first_token_is_dropped": Mistake(
        "the oldest token is not read",
        ("paged_decode",),
        (lambda inputs, right: replace(right, first=1),),
    ),
    "longest_length_for_all": Mistake(
        "every sequence is read as long as the longest of the batch",
        _READ,
        (_lens(lambda inputs, lens: np.full_like(lens, lens.max(initial=0))),),
    ),
    "skipped_tokens_go_to_the_last_slot": Mistake(
        "slot -1 wraps to the end of the cache", ("append",), (_skipped_go_to(lambda inputs: -1),)
    ),
    "skipped_tokens_go_to_the_first_slot": Mistake(
        "slot -1 writes slot 0", ("append",), (_skipped_go_to(lambda inputs: 0),)
    ),
    "q_heads_are_dealt_out": Mistake(
        "q head h uses kv head h % num_kv_heads instead of h // group",
        ("paged_decode",),
        (lambda inputs, right: replace(right, head_of=np.arange(inputs.case.num_q_heads) % inputs.case.num_kv_heads),),
    ),
    "first_kv_head_for_all": Mistake(
        "every q head uses kv head 0",
        ("paged_decode",),
        (lambda inputs, right: replace(right, head_of=np.zeros_like(right.head_of)),),
    ),
    "sm_scale_is_the_default": Mistake(
        "sm_scale is ignored: scores are scaled by head_dim ** -0.5 whatever it says",
        ("paged_decode",),
        (lambda inputs, right: replace(right, sm_scale=inputs.case.head_dim**-0.5),),
        applies=lambda inputs: inputs.case.sm_scale is not None,
    ),
    "sm_scale_is_missing": Mistake("scores are not scaled", ("paged_decode",), (_scale(lambda scale: 1.0),)),
    "sm_scale_is_applied_twice": Mistake(
        "scores are scaled twice", ("paged_decode",), (_scale(lambda scale: scale * scale),)
    ),
    **{
        f"scale_of_none_is_{means}": Mistake(
            f"where no sm_scale is given scores are {how}",
            ("paged_decode",),
            (),  # it is tried where a scale that is given is right: suites/calls.py
            meant=("sm_scale_of_none", means),
        )
        for means, how in (("head_dim", "scaled by head_dim ** -0.5"), ("one", "not scaled"))
    },
    **{
        f"lse_is_base_{base}": Mistake(
            f"lse is given in base {base}",
            ("paged_decode",),
            (_lse_unit(unit),),
            meant=("lse_base", base),
        )
        for base, unit in NATS.items()
    },
    "k_scale_is_ignored": Mistake(
        "k_scale is not multiplied with",
        ("paged_decode",),
        (lambda inputs, right: replace(right, scales=(None, right.scales[V])),),
        applies=_on("kv_scales"),
    ),
    "v_scale_is_ignored": Mistake(
        "v_scale is not multiplied with",
        ("paged_decode",),
        (lambda inputs, right: replace(right, scales=(right.scales[K], None)),),
        applies=_on("kv_scales"),
    ),
    "k_scale_and_v_scale_are_swapped": Mistake(
        "K is multiplied with v_scale and V with k_scale",
        ("paged_decode",),
        (lambda inputs, right: replace(right, scales=right.scales[::-1]),),
        applies=_on("kv_scales"),
    ),
    "scales_are_divided_by": Mistake(
        "numbers of the cache are divided by their scale",
        ("paged_decode",),
        (_scales(lambda inputs, scale: 1.0 / scale),),
        applies=_on("kv_scales"),
    ),
    "scale_of_the_first_head_for_all": Mistake(
        "every head has the scale of head 0",
        ("paged_decode",),
        (_scales(lambda inputs, scale: np.broadcast_to(scale[..., :1], scale.shape)),),
        applies=lambda inputs: _on("kv_scales")(inputs) and inputs.case.num_kv_heads > 1,
    ),
    "scale_of_the_first_slot_for_its_page": Mistake(
        "every token of a page has the scale of slot 0",
        ("paged_decode",),
        (_scales(lambda inputs, scale: np.broadcast_to(scale[:, :1], scale.shape)),),
        applies=lambda inputs: inputs.case.kv_scales == "token",
    ),
    "scale_of_page_zero_for_all": Mistake(
        "every page has the scales of page 0",
        ("paged_decode",),
        (_scales(lambda inputs, scale: np.broadcast_to(scale[:1], scale.shape)),),
        applies=lambda inputs: inputs.case.kv_scales in ("page", "token"),
    ),
    "codes_are_not_scaled": Mistake(
        "the scales beside the codes are not multiplied with",
        ("paged_decode",),
        (_with(counts=(ZERO,)),),
        applies=lambda inputs: inputs.row.has_scales,
    ),
    "zeros_are_not_added": Mistake(
        "the zeros beside the codes are not added",
        ("paged_decode",),
        (_with(counts=(SCALE,)),),
        applies=lambda inputs: any(inputs.row.beside(part, ZERO) for part in inputs.row.parts),
    ),
    "window_is_ignored": Mistake(
        "keys older than the window are read", ("paged_decode",), (_with(window=0),), applies=_on("window")
    ),
    "window_is_one_wider": Mistake(
        "the window counts the keys left of the query: it sees one key more",
        ("paged_decode",),
        (_moved("window", lambda window: window + 1),),
        applies=_on("window"),
        meant=("window_counts", "left"),
    ),
    "window_is_one_narrower": Mistake(
        "the window is one key short",
        ("paged_decode",),
        (_moved("window", lambda window: window - 1),),
        applies=lambda inputs: inputs.case.window > 1,
        meant=("window_counts", "keys"),
    ),
    "window_starts_at_the_newest_key": Mistake(
        "every query token has the window of the newest one",
        ("paged_decode",),
        (_with(one_window=True),),
        applies=lambda inputs: inputs.case.window > 0 and bool(inputs.case.q_lens),
    ),
    "soft_cap_is_ignored": Mistake(
        "scores are not bent", ("paged_decode",), (_with(soft_cap=0.0),), applies=_on("soft_cap")
    ),
    "soft_cap_bends_unscaled_scores": Mistake(
        "soft_cap is applied before sm_scale",
        ("paged_decode",),
        (lambda inputs, right: replace(right, soft_cap=inputs.case.soft_cap * inputs.sm_scale),),
        applies=_on("soft_cap"),
        meant=("soft_cap_order", "unscaled"),
    ),
    "soft_cap_bends_scaled_scores": Mistake(
        "soft_cap is applied after sm_scale",
        ("paged_decode",),
        (lambda inputs, right: replace(right, soft_cap=inputs.case.soft_cap),),
        applies=_on("soft_cap"),
        meant=("soft_cap_order", "scaled"),
    ),
    "sinks_are_ignored": Mistake("no sink is counted", ("paged_decode",), (_with(sinks=None),), applies=_on("sinks")),
    "sinks_are_not_in_lse": Mistake(
        "the sink weighs in out and not in lse",
        ("paged_decode",),
        (_with(lse_sinks=False),),
        applies=_on("sinks"),
        meant=("sinks_in_lse", False),
    ),
    "sinks_are_in_lse": Mistake(
        "the sink weighs in lse as it does in out",
        ("paged_decode",),
        (_with(lse_sinks=True),),
        applies=_on("sinks"),
        meant=("sinks_in_lse", True),
    ),
    "sink_is_in_lse_without_keys": Mistake(
        "lse of a sequence without keys is the sink",
        ("paged_decode",),
        (_with(sink_of_empty=True),),
        applies=_is_keyless_beside_sinks,
        meant=("empty_with_sink", "sink"),
    ),
    "sink_is_not_in_lse_without_keys": Mistake(
        "the sink is counted where there is a key",
        ("paged_decode",),
        (_with(sink_of_empty=False),),
        applies=_is_keyless_beside_sinks,
        meant=("empty_with_sink", "lse_of_empty"),
    ),
    "sinks_are_counted_in_each_split": Mistake(
        "every split counts the sink again",
        ("paged_decode",),
        (lambda inputs, right: replace(right, sinks=_log_times(right.sinks, inputs.case.num_splits)),),
        applies=lambda inputs: _is_split(inputs) and inputs.case.sinks != "none",
    ),
    "sinks_are_dealt_out": Mistake(
        "the sink of another q head is taken",
        ("paged_decode",),
        tuple(_per_head("sinks", pick) for pick in (_of_kv_head, _of_head_zero, _of_place_in_group)),
        applies=_on("sinks"),
    ),
    "slopes_are_ignored": Mistake(
        "ALiBi is not applied", ("paged_decode",), (_with(slopes=None),), applies=_on("alibi_slopes")
    ),
    "slopes_are_dealt_out": Mistake(
        "the slope of another q head is taken",
        ("paged_decode",),
        tuple(_per_head("slopes", pick) for pick in (_of_kv_head, _of_head_zero, _of_place_in_group)),
        applies=_on("alibi_slopes"),
    ),
    **{
        f"alibi_is_from_the_{origin}": Mistake(
            f"the distance of ALiBi is counted from the {origin.replace('_', ' ')}",
            ("paged_decode",),
            (_with(origin=origin),),
            applies=_on("alibi_slopes"),
            meant=("alibi_from", origin),
        )
        for origin in CONVENTIONS["alibi_from"].choices
    },
    "causality_is_ignored": Mistake(
        "every query token sees the newest key",
        ("paged_decode",),
        (_causal("none"), lambda inputs, right: replace(right, newer=np.zeros_like(right.newer))),
        applies=_on("q_lens"),
        meant=("causal", "none"),
    ),
    "causality_is_bottom_right": Mistake(
        "the last query token of a sequence stands at its last key, and each sees nothing newer than itself",
        ("paged_decode",),
        (_causal("bottom_right"),),
        applies=_on("q_lens"),
        meant=("causal", "bottom_right"),
    ),
    "causality_is_top_left": Mistake(
        "the first query token of a sequence stands at its first key",
        ("paged_decode",),
        (_causal("top_left"), _top_left),
        applies=_on("q_lens"),
        meant=("causal", "top_left"),
    ),
    "sequences_without_query_tokens_have_one": Mistake(
        "a sequence without query tokens is given one: the rows behind it belong to the sequence before theirs",
        ("paged_decode",),
        (_of_sequences(_one_at_least),),
        applies=_some_wait,
    ),
    "rows_go_to_sequences_without_query_tokens": Mistake(
        "a row belongs to the first sequence that begins there, though that one has no query tokens",
        ("paged_decode",),
        (_of_sequences(_first_that_begins), _behind_the_first_that_begins),
        applies=_some_wait,
    ),
    "query_token_misses_itself": Mistake(
        "a query token sees only what is older than itself",
        ("paged_decode",),
        (lambda inputs, right: replace(right, newer=right.newer + 1),),
        applies=_on("q_lens"),
    ),
    "newest_tokens_go_behind_kv_lens": Mistake(
        "kv_lens are taken for the lengths before the call: the newest tokens are written behind the last one",
        ("append_decode",),
        (_behind,),
    ),
    "attends_before_it_appends": Mistake(
        "attention sees the cache as it was given, without the newest tokens",
        ("append_decode",),
        (),  # it is another cache: of_update
    ),
    "tree_mask_is_ignored": Mistake(
        "a query token sees the siblings of its ancestors, as in a chain",
        ("paged_decode",),
        (_with(tree=None),),
        applies=_on("tree_mask"),
    ),
    "tree_mask_is_transposed": Mistake(
        "rows and columns of the tree mask are swapped: a query token sees its descendants",
        ("paged_decode",),
        (
            _tree(_tree_of(lambda tree: tree.T)),
            lambda inputs, right: replace(right, tree=_tree_of(lambda tree: tree.T)(inputs, right), causal=False),
        ),
        applies=_on("tree_mask"),
    ),
    "tree_mask_starts_at_the_first_key": Mistake(
        "columns of the tree mask are counted from the first key and not from the first query token",
        ("paged_decode",),
        (_with(tree_from="first_key"), _with(tree_from="first_key", tree_alone=True)),
        applies=_on("tree_mask"),
    ),
    "tree_mask_hides_what_is_older": Mistake(
        "keys older than the first query token are masked with those that the tree hides",
        ("paged_decode",),
        (_with(tree_alone=True),),
        applies=_on("tree_mask"),
    ),
    "tree_mask_of_another_sequence": Mistake(
        "a query token has the row of the tree mask that belongs to another sequence's",
        ("paged_decode",),
        (_tree(_first_tree), _tree(_padded_tree)),
        applies=lambda inputs: inputs.case.tree_mask != "none" and len(inputs.case.q_lens) > 1,
    ),
    "tree_mask_hides_the_token_itself": Mistake(
        "a query token sees its ancestors and not itself",
        ("paged_decode",),
        (_tree(_tree_of(lambda tree: tree & ~np.eye(len(tree), dtype=bool))),),
        applies=_on("tree_mask"),
    ),
    "tree_mask_is_a_column_off": Mistake(
        "the tree mask is looked at one column too early or too late",
        ("paged_decode",),
        (_tree(_tree_of(partial(np.roll, shift=1, axis=1))), _tree(_tree_of(partial(np.roll, shift=-1, axis=1)))),
        applies=_on("tree_mask"),
    ),
    "exp_of_0_is_not_1": Mistake(
        "the exponential errs at 0 too, and every rescale of a finished sum with it",
        ("paged_decode",),
        (),  # it is measured, where all keys score the same: suites/calls.py
    ),
    "partials_are_added": Mistake(
        "outputs of splits are added without weights", ("paged_decode",), _joined(_added), _is_split
    ),
    "partials_are_averaged": Mistake(
        "outputs of splits are averaged without weights", ("paged_decode",), _joined(_averaged), _is_split
    ),
    "last_split_is_dropped": Mistake(
        "the last split never reaches the result", ("paged_decode",), _joined(_without_last), _is_split
    ),
}
"""Mistakes of the operations on paged caches."""


def meant_by(name: str | None, conventions: Mapping[str, Any]) -> str:
    """What to declare where a mistake is no mistake, such as `CONVENTIONS["lse_base"] = "2"`; nothing where none is."""
    mistake = MISTAKES.get(name or "")
    if mistake is None or mistake.meant is None or conventions[mistake.meant[0]] == mistake.meant[1]:
        return ""
    name_of, choice = mistake.meant
    return f'CONVENTIONS["{name_of}"] = {choice!r}'.replace("'", '"')


def _readings(op: str, inputs: PagedInputs, right: Any) -> Iterator[tuple[str, Any]]:
    """(name, wrong reading): the table's, and the rows that this row can be taken for."""
    for name, mistake in MISTAKES.items():
        if op in mistake.ops and mistake.applies(inputs):
            for change in mistake.changes:
                yield name, change(inputs, right)
    for name, row in other_rows(right.row, inputs.sizes, inputs.case.dtype):
        yield name, replace(right, row=row)


def other_rows(row: Layout, sizes: Mapping[str, int], dtype: str) -> Iterator[tuple[str, Layout]]:
    """Rows whose fields have the same names and sizes in bytes: what the buffers may be mistaken for."""
    halves = {name: replace(one, line=one.line.replace("(head kv)", "(kv head)")) for name, one in row.fields.items()}
    if halves != row.fields:
        yield "heads_are_halves", replace(row, fields=halves)
    num_bytes = [row.num_bytes(buffer, sizes, dtype) for buffer in row.buffers]
    for other in LAYOUTS.values():
        if (
            other is not row
            and other.buffers == row.buffers
            and other.kind == row.kind
            and other.admits(sizes, dtype)
            and [other.num_bytes(buffer, sizes, dtype) for buffer in other.buffers] == num_bytes
        ):
            yield f"taken_for_{other.name}", other


def _numbered(tries: Iterator[tuple[str, Oracle]]) -> dict[str, Oracle]:
    """`name/0`, `name/1`, ...: each way of making a mistake must explain every example on its own."""
    ways: dict[str, Oracle] = {}
    for name, oracle in tries:
        ways[f"{name}/{sum(key.startswith(name + '/') for key in ways)}"] = oracle
    return ways


def of_append(inputs: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Oracle]:
    """What wrong appends would leave in this cache."""
    tries = _readings("append", inputs, Reading.of(inputs))
    return _numbered((name, partial(paged.expect_append, inputs, cache, r)) for name, r in tries)


def of_gather(inputs: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Oracle]:
    """What wrong gathers would read from this cache."""
    tries = _readings("gather", inputs, Reading.of(inputs))
    return _numbered((name, partial(paged.expect_gather, inputs, cache, r)) for name, r in tries)


def of_decode(
    inputs: PagedInputs, cache: Mapping[str, Array], profile: Profile, right: DecodeReading
) -> dict[str, Oracle]:
    """What wrong decodes would compute from this cache."""
    tries = _readings("paged_decode", inputs, right)
    return _numbered((name, partial(decode.required, inputs, cache, profile, r)) for name, r in tries)


def of_update(
    inputs: PagedInputs,
    cache: Mapping[str, Array],
    updated: Mapping[str, Array],
    profile: Profile,
    right: DecodeReading,
) -> dict[str, Oracle]:
    """What wrong append_decodes would compute that are given one cache and leave another."""
    early = partial(decode.required, inputs, cache, profile, right)
    return {**of_decode(inputs, updated, profile, right), "attends_before_it_appends/0": early}


def of_written(inputs: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Oracle]:
    """What wrong append_decodes would leave in this cache."""
    tries = _readings("append_decode", inputs, update.reading(inputs))
    return _numbered((name, partial(update.expect_cache, inputs, cache, r)) for name, r in tries)


def of_default_scale(
    inputs: PagedInputs, cache: Mapping[str, Array], profile: Profile, right: DecodeReading
) -> dict[str, Oracle]:
    """What decodes to whom None means another scale would compute from this cache."""
    scales = {means: scale_of_none(means, inputs.case.head_dim) for means in CONVENTIONS["sm_scale_of_none"].choices}
    return {
        f"scale_of_none_is_{means}/0": partial(decode.required, inputs, cache, profile, replace(right, sm_scale=scale))
        for means, scale in scales.items()
        if scale not in (None, right.sm_scale)
    }


FUSED = {"heads_are_halves": "all of K, then all of V", "k_and_v_are_swapped": "V0 K0 V1 K1 ..."}
"""Mistakes of merge_kv, extract_k and extract_v."""


def of_fused(inputs: FusedInputs, fused_kv: Array | None, side: int | None) -> dict[str, Oracle]:
    """What a wrong merge (no fused tensor given) or a wrong extract of `side` would return."""
    row = inputs.case.row
    halves = dict(other_rows(row, inputs.sizes, inputs.case.dtype))["heads_are_halves"]
    swapped = FusedInputs(inputs.case)
    swapped.sides = inputs.sides[::-1]
    if fused_kv is None or side is None:
        return {
            "heads_are_halves/0": lambda: fused.expect_merge(inputs, halves),
            "k_and_v_are_swapped/0": lambda: fused.expect_merge(swapped, row),
        }
    return {
        "heads_are_halves/0": lambda: fused.expect_extract(inputs, fused_kv, side, halves),
        "k_and_v_are_swapped/0": lambda: fused.expect_extract(inputs, fused_kv, side, row, V - side),
    }


MERGES: dict[str, str] = {
    "partials_are_added": "outputs of parts are added without weights",
    "partials_are_averaged": "outputs of parts are averaged without weights",
    "last_part_is_dropped": "the last part never reaches the result",
    "lse_is_taken_for_base_2": "parts are weighted by 2 ** lse",
    "lse_is_base_2": "lse is returned in base 2",
    "weights_are_not_normalised": "parts are weighted by exp(lse), and nothing divides by the sum",
}
"""Mistakes of merge_states."""


def of_merge(outs: Array, lses: Array, profile: Profile, lse_unit: float = 1.0) -> dict[str, Oracle]:
    """What wrong merges would make of these parts; lses in nats, `lse_unit` nats in a unit of the result."""
    live, other_unit = np.isfinite(lses), lse_unit * float(np.log(2.0))

    def of(weights: Array) -> Oracle:
        return lambda: states.weighted(outs, weights, profile)

    return {
        "partials_are_added/0": of(np.ones(lses.shape)),
        "partials_are_added/1": of(live * 1.0),
        "partials_are_averaged/0": of(np.full(lses.shape, 1.0 / len(outs))),
        "partials_are_averaged/1": of(live / np.maximum(live.sum(0), 1)),
        "last_part_is_dropped/0": lambda: states.expected(outs[:-1], lses[:-1], profile, lse_unit),
        "lse_is_taken_for_base_2/0": lambda: {"out": states.expected(outs, lses * np.log(2.0), profile)["out"]},
        "lse_is_base_2/0": lambda: {"lse": states.expected(outs, lses, profile, other_unit)["lse"]},
        "weights_are_not_normalised/0": lambda: states.weighted(outs, np.exp(lses), profile),  # which may overflow
    }
