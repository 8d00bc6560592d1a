"""Faults of window, soft cap, sinks, ALiBi, several query tokens and trees of them, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kvconform.faults.fault import Fault
from kvconform.faults.kernel import Floats, Sequence, Steps, bent, over_keys
from kvconform.specs.data import Array

Take = Callable[[Sequence], Sequence]

TILE = 16
"""Keys that a kernel takes at a time, where a fault depends on it."""


def _taken(name: str, takes: Take, needs: Mapping[str, Any], **row: Any) -> Fault:
    return Fault(name=name, steps=Steps(takes=takes), needs=needs, **row)


# --- window


def _sees(change: Callable[[Sequence], Any]) -> Take:
    """What is seen instead, where there is a window; causality stays."""

    def takes(s: Sequence) -> Sequence:
        if s.window is None:
            return s
        return replace(s, seen=np.broadcast_to((s.keys <= s.own) & s.in_tree & change(s), s.seen.shape))

    return takes


def _window(change: Callable[[int, Sequence], Any]) -> Take:
    return _sees(lambda s: s.keys > s.own - change(s.window or 0, s))


def _floor(keys: int) -> Take:
    """The first key is that of its page or tile."""
    return _sees(lambda s: s.keys >= np.maximum(s.own - (s.window or 0) + 1, 0) // keys * keys)


def _ceil_of_page(s: Sequence) -> Any:
    page = s.case.page_size
    return s.keys >= -(-np.maximum(s.own - (s.window or 0) + 1, 0) // page) * page


def _in_one_split(s: Sequence) -> Any:
    """Each split has the last `window` of its own keys."""
    kept = np.zeros(s.k.shape[1], bool)
    for _, end in s.ends:
        kept[max(0, end - (s.window or 0)) : end] = True
    return kept


_WINDOW = {"window": 3}
_WINDOW_ROWS = {"window": 3, "q_lens": 2}
_WINDOW_SPLIT = {"window": 3, "num_splits": 2}

WINDOW = (
    _taken("window_is_ignored", _sees(lambda s: True), _WINDOW, source="O16"),
    _taken("window_is_one_wider", _window(lambda w, s: w + 1), _WINDOW, source="O16; SGLang's W + 1"),
    _taken("window_is_one_narrower", _window(lambda w, s: w - 1), _WINDOW, source="O16"),
    _taken("window_starts_at_its_page", lambda s: _floor(s.case.page_size)(s), _WINDOW),
    _taken("window_starts_at_the_next_page", _sees(_ceil_of_page), _WINDOW),
    _taken("window_starts_at_its_tile", _floor(TILE), _WINDOW),
    _taken("window_is_rounded_up_to_even", _window(lambda w, s: w + w % 2), _WINDOW),
    _taken("window_keeps_the_first_keys", _sees(lambda s: s.keys < (s.window or 0)), _WINDOW),
    _taken("window_counts_pages", _window(lambda w, s: w * s.case.page_size), _WINDOW),
    _taken(
        "window_excludes_the_query_itself",
        _sees(lambda s: (s.keys >= s.own - (s.window or 0)) & (s.keys < s.own)),
        _WINDOW,
    ),
    _taken("window_waits_for_twice_its_length", _window(lambda w, s: w if s.k.shape[1] > 2 * w else 1 << 30), _WINDOW),
    _taken(
        "window_of_the_first_kv_head_alone",
        lambda s: _heads(s, lambda h: h >= s.case.group, _sees(lambda s: True)),
        _WINDOW | {"num_kv_heads": 2},
    ),
    _taken(
        "every_other_sequence_has_no_window",
        lambda s: _sees(lambda s: True)(s) if s.index % 2 else s,
        _WINDOW,
        source="layers alternate, and the flag sticks",
    ),
    _taken("window_is_that_of_the_newest_row", _sees(lambda s: s.keys > s.own.max() - (s.window or 0)), _WINDOW_ROWS),
    _taken("window_is_that_of_the_oldest_row", _sees(lambda s: s.keys > s.own.min() - (s.window or 0)), _WINDOW_ROWS),
    _taken(
        "window_counts_rows",
        _sees(lambda s: s.keys > s.own - (s.window or 0) - np.arange(len(s.q))[:, None, None]),
        _WINDOW_ROWS,
    ),
    _taken("window_is_one_of_each_split", _sees(_in_one_split), _WINDOW_SPLIT),
    _taken(
        "window_is_ignored_where_there_are_splits",
        lambda s: _sees(lambda s: True)(s) if len(s.ends) > 1 else s,
        _WINDOW_SPLIT,
    ),
    _taken(
        "window_is_of_the_last_split_alone",
        _sees(lambda s: (s.keys > s.own - (s.window or 0)) | (s.keys < s.ends[-1][0])),
        _WINDOW_SPLIT,
    ),
    Fault(name="masked_keys_score_a_finite_number", steps=Steps(masked=lambda s: -20.0), needs=_WINDOW),
    Fault(
        name="masked_keys_score_the_least_of_float32",
        steps=Steps(masked=lambda s: -3.4e38),
        needs=_WINDOW,
        equivalent="a row sees its own key, and e to the difference of any score of it and this one is 0 in float32; a "
        "row that sees none has none to mask, but where shapes are compiled: there it is seen, and not counted either",
    ),
    Fault(
        name="masked_keys_score_the_least_of_float16",
        steps=Steps(masked=lambda s: -65504.0),
        needs=_WINDOW | {"dtype": "float32"},
        source="finite stand-ins for minus infinity",
    ),
    Fault(
        name="v_of_masked_keys_is_multiplied_by_zero",
        steps=Steps(leaks=True),
        needs=_WINDOW | {"dead": "nan"},
        source="O30",
    ),
)


def _heads(s: Sequence, which: Callable[[Any], Any], change: Take) -> Sequence:
    """A change of some q heads alone: what they see and what is added to their scores."""
    other, at = change(s), which(np.arange(s.q.shape[1]))[:, None]
    return replace(s, seen=np.where(at, other.seen, s.seen), slant=np.where(at, other.slant, s.slant))


# --- soft cap


def _bends(name: str, bends: Callable[[Sequence, Floats, float], Floats], **row: Any) -> Fault:
    def wrong(s: Sequence, t: Floats) -> Floats:
        return t if s.soft_cap is None else bends(s, t, s.soft_cap)

    return Fault(name=name, steps=Steps(bends=wrong), needs={"soft_cap": 2.0} | row.pop("needs", {}), **row)


def _fractions(s: Sequence, t: Floats, cap: float) -> Floats:
    """tanh as a quotient of exponentials, in float32: NaN where they overflow."""
    x = (t / cap).astype(np.float32)
    up, down = np.exp(x), np.exp(-x)
    return np.asarray(cap * ((up - down) / (up + down)).astype(np.float64))


def _one_row(s: Sequence, t: Floats, cap: float) -> Floats:
    newest = np.arange(t.shape[0])[:, None, None] == t.shape[0] - 1
    return np.where(newest, bent(s, t), t)


SOFT_CAP = (
    _bends("soft_cap_is_ignored", lambda s, t, cap: t, source="O33"),
    _bends(
        "soft_cap_bends_unscaled_scores",
        lambda s, t, cap: cap * s.sm_scale * np.tanh(t / (cap * s.sm_scale)),
        needs={"sm_scale": 0.25},
        source="llama.cpp without flash attention",
    ),
    _bends("soft_cap_clips", lambda s, t, cap: np.clip(t, -cap, cap)),
    _bends("soft_cap_is_not_multiplied_back", lambda s, t, cap: np.tanh(t / cap)),
    _bends("soft_cap_is_not_divided_by", lambda s, t, cap: cap * np.tanh(t)),
    _bends("soft_cap_is_applied_twice", lambda s, t, cap: bent(s, bent(s, t))),
    _bends(
        "soft_cap_scales_twice",
        lambda s, t, cap: bent(s, t * s.sm_scale),
        needs={"sm_scale": 0.25},
        source="FlashInfer with ALiBi",
    ),
    _bends("soft_cap_is_always_fifty", lambda s, t, cap: 50.0 * np.tanh(t / 50.0)),
    _bends(
        "soft_cap_is_an_integer",
        lambda s, t, cap: (
            t if int(cap) == cap and cap < 1 else max(int(cap) - 1, 1) * np.tanh(t / max(int(cap) - 1, 1))
        ),
    ),
    _bends("soft_cap_is_a_quotient_of_exponentials", _fractions, source="vLLM's apply_softcap"),
    _bends("soft_cap_is_a_rational_function", lambda s, t, cap: t / np.sqrt(1 + (t / cap) ** 2)),
    _bends("soft_cap_is_of_the_newest_row_alone", _one_row, needs={"q_lens": 2}),
    _bends("soft_cap_bends_positive_scores_alone", lambda s, t, cap: np.where(t > 0, bent(s, t), t)),
    _bends(
        "soft_cap_is_left_out_of_the_last_tile",
        lambda s, t, cap: (
            np.where(s.keys >= (t.shape[-1] - 1) // TILE * TILE, t, bent(s, t)) if t.shape[-1] % TILE else bent(s, t)
        ),
    ),
    _bends(
        "soft_cap_is_left_out_of_the_first_split",
        lambda s, t, cap: np.where(s.keys < s.ends[0][1], t, bent(s, t)),
        needs={"num_splits": 2},
    ),
    Fault(
        name="soft_cap_comes_after_alibi",
        steps=Steps(slant_first=True),
        needs={"soft_cap": 2.0, "alibi_slopes": "drawn"},
    ),
    Fault(
        name="masked_keys_are_bent_to_minus_the_cap",
        steps=Steps(masked=lambda s: -np.inf if s.soft_cap is None else -s.soft_cap),
        needs={"soft_cap": 2.0, "window": 3},
    ),
)


# --- sinks


def _sinks(
    name: str, change: Callable[[Sequence, Floats], Floats | None], needs: Mapping[str, Any] | None = None, **row: Any
) -> Fault:
    def takes(s: Sequence) -> Sequence:
        return s if s.sinks is None else replace(s, sinks=change(s, s.sinks))

    return _taken(name, takes, {"sinks": "drawn"} | dict(needs or {}), **row)


def _of_kv_head(s: Sequence, a: Floats) -> Floats:
    return a[np.arange(len(a)) // s.case.group]


def _of_place(s: Sequence, a: Floats) -> Floats:
    return a[np.arange(len(a)) % s.case.group]


def _lse_of(s: Sequence, seen: Any, sinks: Floats | None) -> Floats:
    """[rows, num_q_heads] of keys that are seen, and of sinks."""
    scores = bent(s, s.sm_scale * np.einsum("rhd,hnd->rhn", s.q, s.k)) + s.slant
    sink = np.full(1, -np.inf) if sinks is None else sinks[:, None]
    sink = np.broadcast_to(sink, (*scores.shape[:2], 1))
    scores = np.concatenate([np.where(seen, scores, -np.inf), sink], axis=-1)
    top = scores.max(-1)
    level = np.where(np.isneginf(top), 0.0, top)
    return np.asarray(level + np.log(np.exp(scores - level[..., None]).sum(-1)))


def _lse_without_sink(s: Sequence, out: Floats, lse: Floats) -> tuple[Floats, Floats]:
    return out, lse if s.sinks is None else _lse_of(s, s.seen, None)


def _sink_has_v(s: Sequence, out: Floats, lse: Floats) -> tuple[Floats, Floats]:
    """The sink's value is that of the first key."""
    if s.sinks is None or not s.v.shape[1]:
        return out, lse
    return out + np.exp(s.sinks - lse)[..., None] * np.nan_to_num(s.v[:, 0]), lse


def _lse_of_none(s: Sequence, out: Floats, lse: Floats) -> tuple[Floats, Floats]:
    """A block without keys is stored before the sink is counted."""
    return out, lse if s.k.shape[1] else np.full_like(lse, -np.inf)


SINKS = (
    _sinks("sinks_are_ignored", lambda s, a: None),
    _sinks("sinks_are_those_of_kv_heads", _of_kv_head, {"group": 2}),
    _sinks("sinks_are_those_of_places_in_a_group", _of_place, {"num_kv_heads": 2}),
    _sinks("sinks_are_all_that_of_head_zero", lambda s, a: np.full_like(a, a[0]), {"group": 2}),
    _sinks("sinks_are_scaled_like_scores", lambda s, a: a * s.sm_scale),
    _sinks("sinks_are_bent_like_scores", lambda s, a: bent(s, a), {"soft_cap": 2.0}),
    _sinks("sinks_are_taken_as_base_two", lambda s, a: a * np.log(2.0)),
    _sinks("sinks_are_counted_once_a_row", lambda s, a: a + np.log(len(s.q)), {"q_lens": 2}),
    _sinks("sinks_are_zeros_where_negative", lambda s, a: np.maximum(a, 0.0)),
    _sinks(
        "sinks_are_rounded_to_bfloat16",
        lambda s, a: _rounded(a),
        {"dtype": "float32"},
        claims=lambda conventions: conventions["sinks_dtype"] == "float32",
        source="s_aux of vLLM's FlashAttention is bfloat16",
    ),
    _sinks(
        "sinks_are_clamped_to_the_greatest_score",
        lambda s, a: np.minimum(
            a, np.max(s.sm_scale * np.einsum("rhd,hnd->rhn", s.q, np.nan_to_num(s.k)), initial=0.0)
        ),
    ),
    _sinks("sinks_weigh_in_the_first_sequence_alone", lambda s, a: a if s.index == 0 else None),
    _sinks("sinks_are_left_out_of_short_sequences", lambda s, a: a if s.k.shape[1] > 4 else None),
    _sinks("sinks_are_weights_and_not_scores", lambda s, a: np.log(np.maximum(a, 1e-30))),
    Fault(
        name="sinks_are_counted_where_there_are_keys",
        steps=Steps(returns=_lse_of_none),
        needs={"sinks": "drawn", "returns": "lse", "empty_rows": "zero"},
        claims=lambda c: bool(c["sinks_in_lse"] and c["empty_with_sink"] == "sink"),
        source="FlashAttention 3, store_zero",
    ),
    Fault(
        name="sinks_are_counted_in_each_split",
        steps=Steps(sink_in=lambda split, s: True),
        needs={"sinks": "drawn", "num_splits": 2},
        source="O75",
    ),
    Fault(
        name="sinks_are_counted_without_splits_alone",
        steps=Steps(sink_in=lambda split, s: len(s.ends) == 1),
        needs={"sinks": "drawn", "num_splits": 2},
        source="O72b",
    ),
    Fault(
        name="sinks_are_counted_with_splits_alone",
        steps=Steps(sink_in=lambda split, s: split == 0 and len(s.ends) > 1),
        needs={"sinks": "drawn", "num_splits": 2},
        source="O72b",
    ),
    Fault(
        name="sinks_are_counted_in_the_first_split_with_keys",
        steps=Steps(sink_in=lambda split, s: s.ends[split][1] > s.ends[split][0] and s.ends[split][0] == 0),
        needs={"sinks": "drawn"},
    ),
    Fault(
        name="sinks_are_not_in_lse",
        steps=Steps(returns=_lse_without_sink),
        needs={"sinks": "drawn", "returns": "lse"},
        claims=lambda conventions: bool(conventions["sinks_in_lse"]),
    ),
    Fault(name="sinks_have_the_value_of_the_first_key", steps=Steps(returns=_sink_has_v), needs={"sinks": "drawn"}),
)


def _rounded(a: Floats) -> Floats:
    bits = (a.astype(np.float32).view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


# --- ALiBi


def _slants(
    name: str, change: Callable[[Sequence, Floats], Any], needs: Mapping[str, Any] | None = None, **row: Any
) -> Fault:
    """What is added to scores instead; change: (sequence, slopes [num_q_heads, 1]) -> [rows, heads, keys]."""

    def takes(s: Sequence) -> Sequence:
        if s.slopes is None:
            return s
        return replace(s, slant=np.broadcast_to(change(s, s.slopes[:, None]), s.slant.shape))

    return _taken(name, takes, {"alibi_slopes": "drawn"} | dict(needs or {}), **row)


def _from_split(s: Sequence) -> Any:
    begin = np.zeros(s.k.shape[1], np.int64)
    for a, b in s.ends:
        begin[a:b] = a
    return s.keys - begin


def _geometric(s: Sequence) -> Floats:
    """The slopes that a power of two of heads has by default, whatever was given."""
    heads = s.q.shape[1]
    return np.asarray(2.0 ** (-8.0 * (np.arange(heads) + 1) / heads))[:, None]


ALIBI = (
    _slants("slopes_are_ignored", lambda s, m: 0.0),
    _slants(
        "slopes_are_those_of_kv_heads",
        lambda s, m: m[np.arange(len(m)) // s.case.group] * (s.keys - s.own),
        {"group": 2},
        source="O32",
    ),
    _slants(
        "slopes_are_those_of_places_in_a_group",
        lambda s, m: m[np.arange(len(m)) % s.case.group] * (s.keys - s.own),
        {"num_kv_heads": 2},
    ),
    _slants("slopes_are_recomputed", lambda s, m: _geometric(s) * (s.keys - s.own)),
    _slants("distance_starts_anew_in_each_split", lambda s, m: m * _from_split(s), {"num_splits": 2}, source="O32c"),
    _slants("distance_is_that_within_a_page", lambda s, m: m * (s.keys % s.case.page_size), {"page_size": 2}),
    _slants("distance_counts_pages", lambda s, m: m * (s.keys // s.case.page_size - s.own // s.case.page_size)),
    _slants("distance_is_the_slot_in_the_tile", lambda s, m: m * (s.keys % TILE - s.own % TILE), {"page_size": 4}),
    _slants("slopes_have_the_other_sign", lambda s, m: m * (s.own - s.keys)),
    _slants(
        "distance_is_its_square_root", lambda s, m: -m * np.sqrt(np.maximum(s.own - s.keys, 0)), source="USE_ALIBI_SQRT"
    ),
    _slants("slopes_are_scaled_like_scores", lambda s, m: s.sm_scale * m * (s.keys - s.own)),
    _slants(
        "slopes_are_left_out_of_later_heads",
        lambda s, m: np.where(np.arange(len(m))[:, None] < 2, m, 0.0) * (s.keys - s.own),
        {"num_kv_heads": 3},
    ),
    _slants(
        "distance_is_from_the_first_key",
        lambda s, m: m * s.keys,
        {"returns": "lse"},
        claims=lambda c: c["alibi_from"] not in ("first_key", "query_index"),
        source="O32b; FlashAttention 2 with causal masking",
    ),
    _slants(
        "distance_is_from_the_newest_key",
        lambda s, m: m * (s.keys - s.k.shape[1] + 1),
        {"returns": "lse", "q_lens": 2},
        claims=lambda c: c["alibi_from"] != "last_key",
    ),
    _slants(
        "distance_is_from_the_oldest_query_token",
        lambda s, m: m * (s.keys - s.own[:1]),
        {"returns": "lse", "q_lens": 2},
        claims=lambda c: c["alibi_from"] != "first_query",
        source="vLLM's unified Triton kernel",
    ),
    _slants(
        "distance_is_from_the_index_of_the_query_token",
        lambda s, m: m * (s.keys - (s.own - s.own[:1])),
        {"returns": "lse", "q_lens": 2},
        claims=lambda c: c["alibi_from"] != "query_index",
        source="FlashInfer",
    ),
    _slants(
        "distance_is_from_one_past_the_query",
        lambda s, m: m * (s.keys - s.own - 1),
        {"returns": "lse"},
        claims=lambda c: c["alibi_from"] == "query",
    ),
)


# --- several query tokens


def _own(name: str, change: Callable[[Sequence], Any], needs: Mapping[str, Any] | None = None, **row: Any) -> Fault:
    """Other positions of the query rows; ALiBi and window go with them."""

    def takes(s: Sequence) -> Sequence:
        own = np.broadcast_to(np.asarray(change(s)), s.own.shape)
        seen = (s.keys <= own) & ((s.keys > own - s.window) if s.window else True) & s.in_tree
        slant = s.slant + (0.0 if s.slopes is None else s.slopes[:, None] * (s.own - own))
        return replace(s, own=own, seen=np.broadcast_to(seen, s.seen.shape), slant=slant)

    return _taken(name, takes, {"q_lens": 2} | dict(needs or {}), **{"claims": _at_the_last} | row)


def _at_the_last(conventions: Mapping[str, Any]) -> bool:
    """Query tokens stand at the last keys, and see nothing newer than themselves."""
    return bool(conventions["causal"] == "bottom_right")


def _newer_too(s: Sequence) -> Sequence:
    """What is newer than a query token is seen as well, unless a tree hides it."""
    in_window = (s.keys > s.own - s.window) if s.window else True
    return replace(s, seen=np.broadcast_to(s.in_tree & in_window, s.seen.shape))


def _rows_of(s: Sequence) -> Any:
    return np.arange(len(s.q))[:, None, None]


def _reads(name: str, change: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]], **row: Any) -> Fault:
    def reads(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
        return given if given.get("q_lens") is None else change(given, memory)

    return Fault(name=name, steps=Steps(reads=reads), needs={"q_lens": 2} | row.pop("needs", {}), **row)


def _padded_rows(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """Row i of a sequence is looked for at sequence * the longest + i."""
    q_lens = np.asarray(given["q_lens"])
    at = np.concatenate([seq * int(q_lens.max()) + np.arange(n) for seq, n in enumerate(q_lens)] or [np.zeros(0, int)])
    return given | {"q": given["q"][np.minimum(at.astype(int), len(given["q"]) - 1)]}


def _rows_backwards(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    q_lens = np.asarray(given["q_lens"])
    starts = np.cumsum(q_lens) - q_lens
    at = np.concatenate([(start + np.arange(n))[::-1] for start, n in zip(starts, q_lens, strict=True)])
    return given | {"q": given["q"][at.astype(int)]}


def _first_row_for_all(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    q_lens = np.asarray(given["q_lens"])
    return given | {"q": given["q"][np.repeat(np.cumsum(q_lens) - q_lens, q_lens)]}


def _rows_and_heads_swapped(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """Query tokens of a sequence are read as [num_q_heads, rows]."""
    q, made, start = np.asarray(given["q"]), [], 0
    for n in np.asarray(given["q_lens"]):
        rows = q[start : start + n]
        made.append(rows.reshape(q.shape[1], n, q.shape[-1]).swapaxes(0, 1))
        start += n
    return given | {"q": np.concatenate(made)}


def _one_row_at_least(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    q_lens = np.asarray(given["q_lens"])
    return _rows_are_of(given, np.repeat(np.arange(len(q_lens)), np.maximum(q_lens, 1))[: q_lens.sum()])


def _first_that_begins(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    q_lens = np.asarray(given["q_lens"])
    starts = np.cumsum(q_lens) - q_lens
    return _rows_are_of(given, np.repeat(np.searchsorted(starts, starts), q_lens))


def _rows_are_of(given: dict[str, Any], seq_of: Any) -> dict[str, Any]:
    q_lens = np.asarray(given["q_lens"])
    return given | {"q_lens": np.bincount(seq_of, minlength=len(q_lens)).astype(q_lens.dtype)}


def _masks_are_square(conventions: Mapping[str, Any]) -> bool:
    """A row of a mask has a column for each query token, of whichever sequence it is."""
    return bool(conventions["tree_mask_form"] == "tree")


def _without_new_tokens(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    lens = np.asarray(given["kv_lens"])
    return given | {"kv_lens": np.maximum(lens - np.asarray(given["q_lens"]) + 1, 0).astype(lens.dtype)}


def _lse_of_first_row(s: Sequence, out: Floats, lse: Floats) -> tuple[Floats, Floats]:
    return out, np.broadcast_to(lse[:1], lse.shape)


def _zero_tail(s: Sequence, out: Floats, lse: Floats) -> tuple[Floats, Floats]:
    """Rows beyond a whole tile of two are never written."""
    out = out.copy()
    out[len(out) // 2 * 2 :] = 0.0 if len(out) > 1 else out[len(out) // 2 * 2 :]
    return out, lse


_SOME_WAIT = {"q_lens": 0}

Q_LENS = (
    _own("causality_is_ignored", lambda s: s.k.shape[1] - 1),
    _own("causality_is_top_left", _rows_of, source="O20"),
    _own(
        "causality_is_top_left_of_several_query_tokens",
        lambda s: _rows_of(s) if s.case.q_lens and s.tree is None else s.own,
        source="torch's is_causal",
    ),
    _taken("newer_tokens_are_seen", _newer_too, {"q_lens": 2}, claims=lambda c: c["causal"] != "none"),
    _own("query_tokens_miss_themselves", lambda s: s.own - 1),
    _own("query_tokens_see_one_newer", lambda s: np.minimum(s.own + 1, s.k.shape[1] - 1)),
    _own("every_row_stands_where_the_oldest_does", lambda s: s.own.min(initial=0)),
    _own(
        "causality_goes_by_pages",
        lambda s: np.minimum((s.own // s.case.page_size + 1) * s.case.page_size - 1, s.k.shape[1] - 1),
    ),
    _own(
        "causality_goes_by_tiles_of_queries",
        lambda s: np.minimum(s.own.min(initial=0) + (_rows_of(s) // 2 + 1) * 2 - 1, s.k.shape[1] - 1),
    ),
    _own("rows_stand_in_reverse", lambda s: s.own[::-1]),
    _own(
        "causality_is_ignored_with_splits", lambda s: s.own if len(s.ends) == 1 else s.k.shape[1] - 1, {"num_splits": 2}
    ),
    _reads("rows_are_looked_for_as_if_padded", _padded_rows, source="O80"),
    _reads("rows_are_read_backwards", _rows_backwards),
    _reads("first_row_of_a_sequence_for_all", _first_row_for_all),
    _reads("rows_and_heads_are_swapped", _rows_and_heads_swapped),
    _reads("sequences_without_query_tokens_have_one", _one_row_at_least, needs=_SOME_WAIT, claims=_masks_are_square),
    _reads(
        "rows_go_to_sequences_without_query_tokens", _first_that_begins, needs={"q_lens": 0}, claims=_masks_are_square
    ),
    _reads("kv_lens_are_taken_without_the_new_tokens", _without_new_tokens),
    Fault(
        name="lse_is_that_of_the_first_row",
        steps=Steps(returns=_lse_of_first_row),
        needs={"q_lens": 2, "returns": "lse"},
        source="O81",
    ),
    Fault(name="an_odd_last_row_is_not_written", steps=Steps(returns=_zero_tail), needs={"q_lens": 3}),
)

# --- a tree of them


_TREE = {"tree_mask": "drawn", "q_lens": 3}


def _as_chain(s: Sequence) -> Any:
    """What would be seen without a tree."""
    return (s.keys <= s.own) & _in_window(s)


def _in_window(s: Sequence) -> Any:
    return s.keys > s.own - s.window if s.window else True


def _with_tree(s: Sequence, in_tree: Any, otherwise: Any = None) -> Sequence:
    """Another mask in the tree's place; otherwise: what else must hold, where that is another thing as well."""
    seen = (_as_chain(s) if otherwise is None else otherwise) & in_tree
    return replace(s, seen=np.broadcast_to(seen, s.seen.shape))


def _tree(
    name: str, change: Callable[[Sequence, Array], Sequence], needs: Mapping[str, Any] | None = None, **row: Any
) -> Fault:
    """change: (sequence, its own square of the mask) -> what it is taken for."""

    def takes(s: Sequence) -> Sequence:
        return s if s.tree is None else change(s, s.tree[:, : len(s.q)])

    return _taken(name, takes, _TREE | dict(needs or {}), **row)


def _square(name: str, change: Callable[[Array], Array], **row: Any) -> Fault:
    """Every sequence's square of the mask taken for another one."""
    return _tree(name, lambda s, tree: _with_tree(s, over_keys(s, change(tree))), **row)


def _parents(tree: Array) -> Array:
    """[nodes] the newest ancestor of each node; the root has itself."""
    above = tree & ~np.eye(len(tree), dtype=bool)
    return np.asarray(np.where(above.any(1), len(tree) - 1 - above[:, ::-1].argmax(1), 0))


def _with_siblings(tree: Array) -> Array:
    parents = _parents(tree)
    same = parents[:, None] == parents
    same[0] = same[:, 0] = False
    return np.asarray(tree | same)


def _own_and_parent(tree: Array) -> Array:
    return np.asarray(np.eye(len(tree), dtype=bool) | (np.arange(len(tree)) == _parents(tree)[:, None]))


def _by_depth(s: Sequence, tree: Array) -> tuple[Array, Array]:
    """Positions of query rows and of keys where a query token stands as far behind the root as its depth says."""
    root = s.k.shape[1] - len(s.q)
    depth = tree.sum(1) - 1
    key = s.keys.copy()
    key[max(root, 0) :] = root + depth[max(-root, 0) :]
    return (root + depth)[:, None, None], key


def _depth_in_alibi(s: Sequence, tree: Array) -> Sequence:
    own, key = _by_depth(s, tree)
    return s if s.slopes is None else replace(s, slant=s.slopes[:, None] * (key - own))


def _depth_in_window(s: Sequence, tree: Array) -> Sequence:
    own, key = _by_depth(s, tree)
    return _with_tree(s, s.in_tree, (s.keys <= s.own) & ((key > own - s.window) if s.window else True))


def _hidden_cost(s: Sequence, tree: Array) -> Sequence:
    """A bias that is not minus infinity."""
    return replace(_with_tree(s, True), slant=s.slant - np.where(s.in_tree, 0.0, 8.0))


def _bent_mask(s: Sequence, t: Floats) -> Floats:
    """minus infinity added to scores before they are bent."""
    return bent(s, t if s.soft_cap is None else np.where(s.in_tree, t, -np.inf))


def _hidden_late(s: Sequence, out: Floats, lse: Floats) -> tuple[Floats, Floats]:
    """Hidden keys are in the sum, and their values are left out."""
    if s.tree is None:
        return out, lse
    of_all = _lse_of(s, _as_chain(s), s.sinks)
    return np.where(np.isneginf(lse)[..., None], out, out * np.exp(lse - of_all)[..., None]), of_all


def _masks(name: str, change: Callable[[Array, Array], Array], **row: Any) -> Fault:
    """change: (mask, q_lens) -> the mask that is read."""

    def reads(given: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
        mask = given.get("tree_mask")
        return given if mask is None else given | {"tree_mask": change(mask, np.asarray(given["q_lens"]))}

    return Fault(name=name, steps=Steps(reads=reads), needs=_TREE, claims=_masks_are_square, **row)


def _places(q_lens: Array) -> Array:
    """[num_q_rows] which query token of its sequence a row is."""
    starts = np.cumsum(q_lens) - q_lens
    return np.asarray(np.arange(sum(q_lens)) - np.repeat(starts, q_lens))


def _of_padded_rows(mask: Array, q_lens: Array) -> Array:
    rows = np.repeat(np.arange(len(q_lens)), q_lens) * mask.shape[1] + _places(q_lens)
    return np.asarray(mask[np.minimum(rows, len(mask) - 1)])


def _as_if_packed(mask: Array, q_lens: Array) -> Array:
    """Squares one after another, no wider than each sequence's own."""
    ends = np.cumsum(q_lens.astype(np.int64) ** 2)
    first = np.repeat(ends - q_lens.astype(np.int64) ** 2, q_lens) + _places(q_lens) * np.repeat(q_lens, q_lens)
    return np.asarray(mask.ravel()[np.minimum(first[:, None] + np.arange(mask.shape[1]), mask.size - 1)])


def _ending_together(s: Sequence, tree: Array) -> Sequence:
    assert s.tree is not None
    return _with_tree(s, over_keys(s, s.tree, start=s.k.shape[1] - s.tree.shape[1]))


TREE_MASK = (
    _tree("tree_mask_is_ignored", lambda s, tree: _with_tree(s, True)),
    _square("tree_mask_is_transposed", lambda tree: tree.T),
    _tree("descendants_are_seen", lambda s, tree: _with_tree(s, over_keys(s, tree.T), _in_window(s))),
    _square("tree_mask_is_a_column_early", lambda tree: np.roll(tree, 1, 1)),
    _square("tree_mask_is_a_column_late", lambda tree: np.roll(tree, -1, 1)),
    _square("tree_mask_is_that_of_the_newest_row", lambda tree: np.broadcast_to(tree[-1:], tree.shape)),
    _square("siblings_are_seen", _with_siblings),
    _square("of_the_ancestors_only_parents_are_seen", _own_and_parent),
    _square("nodes_do_not_see_themselves", lambda tree: tree & ~np.eye(len(tree), dtype=bool)),
    _square("the_root_is_hidden", lambda tree: tree & (np.arange(len(tree)) > 0)),
    _square("columns_beyond_the_third_are_seen", lambda tree: tree | (np.arange(len(tree)) >= 3), needs={"q_lens": 5}),
    _tree("older_keys_are_masked_with_the_tree", lambda s, tree: _with_tree(s, over_keys(s, tree, older=False))),
    _tree(
        "columns_count_from_the_first_key",
        lambda s, tree: _with_tree(s, over_keys(s, tree, start=0)),
        source="a mask of all keys taken for one of drafts",
    ),
    _tree(
        "columns_end_with_the_longest_sequence_s",
        _ending_together,
        claims=lambda conventions: conventions["tree_mask_form"] == "tree",
        source="one number of drafts for a whole batch; columns that are no token's are read",
    ),
    _masks("tree_mask_is_that_of_the_first_sequence", lambda mask, q_lens: mask[_places(q_lens)]),
    _masks("rows_of_the_tree_mask_are_looked_for_as_if_padded", _of_padded_rows),
    _masks("tree_mask_is_read_as_if_packed", _as_if_packed),
    _tree(
        "tree_mask_is_ignored_with_splits",
        lambda s, tree: s if len(s.ends) == 1 else _with_tree(s, True),
        {"num_splits": 2},
    ),
    _tree(
        "tree_mask_is_ignored_in_the_last_split",
        lambda s, tree: _with_tree(s, s.in_tree | (s.keys >= s.ends[-1][0])),
        {"num_splits": 2},
    ),
    _tree(
        "tree_mask_is_of_the_last_split_alone",
        lambda s, tree: _with_tree(s, s.in_tree | (s.keys < s.ends[-1][0])),
        {"num_splits": 5},
    ),
    _tree(
        "tree_mask_is_ignored_beside_a_window", lambda s, tree: _with_tree(s, True) if s.window else s, {"window": 3}
    ),
    _tree("window_counts_depths", _depth_in_window, {"window": 3}),
    _tree(
        "distance_counts_depths",
        _depth_in_alibi,
        {"alibi_slopes": "drawn"},
        claims=lambda conventions: conventions["alibi_from"] == "query",
    ),
    _tree(
        "tree_mask_is_of_the_first_kv_head_alone",
        lambda s, tree: _heads(s, lambda h: h >= s.case.group, lambda s: _with_tree(s, True)),
        {"num_kv_heads": 2},
    ),
    _tree("hidden_keys_score_eight_less", _hidden_cost, source="a bias that is added, and not minus infinity"),
    Fault(
        name="hidden_keys_are_bent_to_minus_the_cap",
        steps=Steps(takes=lambda s: s if s.soft_cap is None else _with_tree(s, True), bends=_bent_mask),
        needs=_TREE | {"soft_cap": 2.0},
    ),
    Fault(name="hidden_keys_are_in_the_sum", steps=Steps(returns=_hidden_late), needs=_TREE),
)

FEATURE_FAULTS = {row.name: row for row in (*WINDOW, *SOFT_CAP, *SINKS, *ALIBI, *Q_LENS, *TREE_MASK)}
"""Every one, by name."""
