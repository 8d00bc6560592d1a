"""What several suites say in the same words: arguments of a call, and what must come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from kvconform.oracles import decode, evidence, keys, mistakes, paged, pages, update
from kvconform.oracles.decode import LOCATE, DecodeReading
from kvconform.oracles.suspects import suspect
from kvconform.oracles.verdict import (
    Expected,
    Interval,
    Locate,
    Violation,
    is_near,
    require,
    require_near,
    require_same,
    same_bits,
)
from kvconform.specs import data, trees
from kvconform.specs.case import Case
from kvconform.specs.cells import POOL, Cell
from kvconform.specs.data import FLAT, Array
from kvconform.specs.dtypes import FORMATS, is_floating
from kvconform.specs.families import is_screened
from kvconform.specs.inputs import inputs
from kvconform.specs.operations import SCALES
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pq import PQInputs
from kvconform.specs.profile import Profile
from kvconform.suites.law import Subject

ORDINARY = {"stray_slots": ("none",)}
"""Axes that only laws about them leave their simplest value."""

BUFFERS = POOL["buffers"]
"""What results may be written into, for laws that call twice: what the first call was given is what the second is."""

Bounds = Callable[[], Mapping[str, Interval]]
"""Where results can land; worked out when it is asked."""

LEFT_OVER = "bits"
"""Unaddressed bytes hold random bit patterns: any change of any of them shows."""

WHERE_OTHERS_LAY = ", in memory that held the arguments of the call before,"
"""Said of a call whose arguments were written over others (`Subject.overwriting`)."""


def may_be_nan(cell: Cell) -> bool:
    """Whether what is dead may be NaN there: elsewhere laws about it say less."""
    return is_floating(cell.dtype)


def appending(x: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Any]:
    """The arguments of append that write the tokens of a Case."""
    return {"cache": cache, "k": x.k, "v": x.v, "slot_mapping": x.slot_mapping, "layout": x.case.layout}


def gathering(x: PagedInputs, cache: Mapping[str, Array]) -> dict[str, Any]:
    """The arguments of gather that read the tokens of a Case."""
    return {"cache": cache, **x.told(), "layout": x.case.layout}


def attending(
    x: PagedInputs, cache: Mapping[str, Array], conventions: Mapping[str, Any], **changed: Any
) -> dict[str, Any]:
    """The arguments of paged_decode for a Case, in the forms that an implementation's conventions name.

    changed   replaces some of them; a tree_mask as PagedInputs has it
    """
    case = x.case
    given: dict[str, Any] = {"num_splits": case.num_splits, "soft_cap": case.soft_cap or None}
    given["sm_scale"] = x.scale_told(conventions["sm_scale_of_none"])
    given["window"] = case.window - (conventions["window_counts"] == "left") if case.window else None
    given |= dict(zip(SCALES, x.scales, strict=True))
    given |= {"sinks": x.sinks_in(conventions["sinks_dtype"]), "alibi_slopes": x.alibi_slopes, "q_lens": x.q_lens}
    given = {"q": x.q, **gathering(x, cache), **given, "tree_mask": x.tree_mask} | changed
    if given["tree_mask"] is not None:
        lens = given["q_lens"], given["kv_lens"]
        given["tree_mask"] = trees.told(given["tree_mask"], *lens, conventions["tree_mask_form"])
    return given


def updating(
    x: PagedInputs, cache: Mapping[str, Array], conventions: Mapping[str, Any], **changed: Any
) -> dict[str, Any]:
    """The arguments of append_decode for a Case: those of attention, and K and V of the newest tokens."""
    return {"k": x.new_k, "v": x.new_v} | attending(x, cache, conventions, **changed)


def require_tokens(got: Mapping[str, Array], x: PagedInputs, what: str) -> None:
    """Raise Violation unless every part that gather returned is the tokens' own."""
    for part in x.row.parts:
        rows = x.tokens[part.name][: x.num_tokens]
        require_same(got[part.name], rows, f"{what} against {part.name}", partial(paged.located_token, x, part))


def attend(subject: Subject, case: Case, cache: Mapping[str, Array], **changed: Any) -> dict[str, Array]:
    """paged_decode of a Case over a cache; `changed` replaces arguments."""
    x = inputs(case)
    assert isinstance(x, PagedInputs)
    return subject.call(case, "paged_decode", **attending(x, cache, subject.conventions, **changed))


def cached(x: PagedInputs, *contents: str) -> Mapping[str, Array]:
    """The cache that attention of a Case is given: of append_decode without its newest tokens.

    contents   of what is dead, in K and, where it is another, in V
    """
    return (update.before if x.case.operation.appends else paged.filled)(x, *contents)


def attention(
    subject: Subject, x: PagedInputs, cache: Mapping[str, Array], *, case: Case | None = None, **changed: Any
) -> dict[str, Array]:
    """out, and lse where it is returned, of paged_decode or append_decode over a cache.

    case      what messages, buffers and gaps are of, where that is not the inputs' own
    changed   replaces arguments
    """
    case = case or x.case
    arguments = (updating if case.operation.appends else attending)(x, cache, subject.conventions, **changed)
    got = subject.call(case, case.op, **arguments)
    return {name: got[name] for name in LOCATE if name in got}


def merged_in_a_tree(subject: Subject, case: Case, parts: list[tuple[Array, Array]]) -> tuple[dict[str, Array], int]:
    """Partial results (out, lse) merged two at a time in a drawn order and tree; how many merges deep it is."""
    left = [(*part, 0) for part in parts]
    for turn in range(len(parts) - 1):
        one, two = (left.pop(int(h) % len(left)) for h in data.hashes(case.seed, f"tree {turn}", np.arange(2)))
        outs, lses = (np.stack(pair) for pair in ((one[0], two[0]), (one[1], two[1])))
        pair = subject.call(case, "merge_states", outs=outs, lses=lses)
        left.append((pair["out"], pair["lse"], 1 + max(one[2], two[2])))
    out, lse, depth = left[0]
    return {"out": out, "lse": lse}, depth


def require_attention(
    subject: Subject,
    x: PagedInputs | PQInputs,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    what: str,
    at: Any = slice(None),
) -> None:
    """Raise Violation unless two results of attention agree bit for bit; `what` names both calls.

    at   which rows, or heads, of those of the inputs these are
    Where nothing lives, that is no evidence.
    """
    _look_at(subject, want)
    _require_same(subject, x, got, want, what, at)


def _require_same(
    subject: Subject,
    x: PagedInputs | PQInputs,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    what: str,
    at: Any,
) -> None:
    for name in want:
        require_same(got[name], want[name], f"{name} {what}", _located(subject, x, name, at), numbers=True)


def _located(subject: Subject, x: PagedInputs | PQInputs, name: str, at: Any) -> Locate:
    """How an element of some rows, or heads, of a result is named: by its place among all of them."""

    def where(index: tuple[int, ...]) -> str:
        of = decode.locate(x, DecodeReading.right(x, subject.conventions)) if isinstance(x, PagedInputs) else LOCATE
        row, head, *dim = index
        whole = np.arange(x.q[..., 0].size).reshape(x.q.shape[:2])[at]
        return of[name]((*divmod(int(whole[row, head]), x.q.shape[1]), *dim))

    return where


def _look_at(subject: Subject, results: Mapping[str, Array]) -> None:
    """Results without a number are no evidence: what does nothing has the same in each call, and so have empty rows."""
    with np.errstate(all="ignore"):  # of NaN in types of few bits
        numbers = any(((array != 0) & ~np.isinf(array)).any() for array in results.values())
    if not numbers:
        subject.saw_nothing()


def require_decoded(subject: Subject, case: Case, *, each_page: bool = False) -> None:
    """Raise Violation unless paged_decode of a Case lies where a correct kernel of the declared arithmetic can land.

    each_page   whether a case is no evidence where a page could be left out of it unseen
    """
    x = inputs(case)
    assert isinstance(x, PagedInputs)
    cache = pages.filled_sparse(x) if case.pool == "sparse" else paged.filled(x, case.dead)
    got = attend(subject, case, cache)
    require_result(subject, x, cache, got, partial(_explanations, subject, x, cache, got), each_page=each_page)


def require_result(
    subject: Subject,
    x: PagedInputs,
    cache: Mapping[str, Array],
    got: Mapping[str, Array],
    explained: Callable[[Profile, DecodeReading], Mapping[str, Callable[[], Expected]]],
    *,
    each_page: bool = False,
) -> None:
    """Raise Violation unless out, and lse where it is returned, lie where attention over a cache can land.

    explained   what may explain it if they do not, by the profile and the right reading
    each_page   as in `require_decoded`
    """
    case = x.case
    profile = _profile_of(subject, case)
    right = DecodeReading.right(x, subject.conventions)
    kv = keys.of_all(x, cache, right)
    want = decode.required(x, cache, profile, right, screened=is_screened(case.family) and x.row.has_own_v, kv=kv)
    out = want["out"]
    assert isinstance(out, Interval)
    judged = {name: want[name] for name in got}
    if case.pool == "sparse":  # too large for a wrong reading of all of it
        require(got, judged)
    else:
        require(
            got,
            judged,
            lambda: of_returned(got, explained(profile, right)),
            hint=lambda seen: suspect(x, cache, right, out, seen["out"]),
        )
    if said := out.doubt(got["out"]):
        subject.doubts(f"out: {said}")
    subject.saw(evidence.visible_weight(kv, want, right))
    shown = evidence.shown(x, kv, right, judged)
    subject.saw_features(shown)
    unseen = each_page and evidence.unseen_pages(x, kv, right, judged)
    if unseen or passes_zeros(judged) or (evidence.features_on(case) and not shown):
        subject.saw_nothing()


def of_returned(
    got: Mapping[str, Array], named: Mapping[str, Callable[[], Expected]]
) -> Mapping[str, Callable[[], Expected]]:
    """Mistakes with what they say of those results that are returned: not everybody returns lse."""

    def said(oracle: Callable[[], Expected]) -> Expected:
        return {name: one for name, one in oracle().items() if name in got}

    return {name: partial(said, oracle) for name, oracle in named.items()}


def bounds_of(subject: Subject, x: PagedInputs, cache: Mapping[str, Array], **parts: Any) -> dict[str, Interval]:
    """Where out and lse of attention over a cache can land; `parts` of the profile that differ from the Case's."""
    return decode.expected(x, cache, _profile_of(subject, x.case, **parts), DecodeReading.right(x, subject.conventions))


def bounds_of_filled(subject: Subject, x: PagedInputs) -> dict[str, Interval]:
    """The same over a cache that holds every live token, and zeros."""
    return bounds_of(subject, x, paged.filled(x, "zero"))


def _profile_of(subject: Subject, case: Case, **parts: Any) -> Profile:
    """What the implementation declares, completed by a Case, and by what differs from it."""
    return decode.rounding(subject.profile(case.result_dtype), case.result_dtype, **{"splits": case.num_splits} | parts)


def require_both(
    subject: Subject,
    x: PagedInputs | PQInputs,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    what: str,
    bounds: tuple[Bounds, Bounds],
    at: Any = slice(None),
) -> None:
    """Raise Violation unless two results are no farther apart than both may be from the truth.

    x        inputs of `got`
    what     both calls, behind the results' names
    bounds   of `got`, and of `want`
    at       which of their rows, or heads, these are
    """
    _look_at(subject, want)
    _require_near(subject, x, got, want, what, bounds, at)


def _require_near(
    subject: Subject,
    x: PagedInputs | PQInputs,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    what: str,
    bounds: tuple[Bounds, Bounds],
    at: Any,
) -> None:
    """Where no bit differs no bound is asked for, and the second only where the first does not reach."""
    apart = [name for name, array in want.items() if not same_bits(got[name], array)]
    if not apart:
        return
    one = _at(bounds[0](), at)
    if all(is_near(got[name], want[name], one[name]) for name in apart):
        return
    two = _at(bounds[1](), at)
    for name in apart:
        located = replace(one[name], locate=_located(subject, x, name, at))
        require_near(got[name], want[name], located, two[name], f"{name} {what}")


def _at(bounds: Mapping[str, Interval], at: Any) -> dict[str, Interval]:
    """Of some rows, or heads."""
    return {name: replace(one, want=one.want[at], error=one.error[at]) for name, one in bounds.items()}


def require_repeated(
    subject: Subject,
    x: PagedInputs,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    what: str,
    *,
    other: PagedInputs | None = None,
    factor: float = 1.0,
    at: Any = slice(None),
) -> None:
    """Raise Violation unless two results agree bit for bit; within both bounds where the same call may give other bits.

    x, other   inputs of `got`; those of `want`, where they are others
    factor     what `want` was multiplied with
    at         which rows these are of all
    """
    if subject.conventions["deterministic"]:
        require_attention(subject, x, got, want, what, at)
        return

    def of_want() -> dict[str, Interval]:
        found = bounds_of_filled(subject, other or x)
        out = found["out"]
        lost = abs(factor) * (out.error + FORMATS[out.format].half_subnormal * (factor != 1))
        return found | {"out": replace(out, error=lost)}

    of_got = partial(bounds_of_filled, subject, x)
    require_both(subject, x, got, want, what, (of_got, of_want), at)


def require_agreement(
    subject: Subject, one: PagedInputs, other: PagedInputs, what: str, *, bitwise: bool = False
) -> None:
    """Raise Violation unless two forms of one input give results no farther apart than both may be from the truth.

    what      the other form, behind the results' names
    bitwise   whether they must not be apart at all
    """
    caches = [paged.filled(x, "zero") for x in (one, other)]
    first, second = (
        subject.call(x.case, "paged_decode", **attending(x, cache, subject.conventions))
        for x, cache in zip((one, other), caches, strict=True)
    )
    said = f"{what} against without"
    if bitwise:
        require_attention(subject, other, second, first, said)
        return
    of_one, of_other = (partial(bounds_of, subject, x, cache) for x, cache in zip((one, other), caches, strict=True))
    require_both(subject, other, second, first, said, (of_other, of_one))


def require_selected(
    subject: Subject,
    x: PagedInputs,
    got: Mapping[str, Array],
    whole: Mapping[str, Array],
    at: Any,
    what: str,
    bounds: Bounds | None,
) -> None:
    """Raise Violation unless a call gave of some rows, or heads, what another gave of them among all.

    whole    results of the Case
    at       where among those the rows, or heads, of `got` are
    what     both calls
    bounds   of `whole`; None: they must not be apart at all
    """
    _look_at(subject, whole)
    want = {name: array[at] for name, array in whole.items()}
    if bounds is None:
        _require_same(subject, x, got, want, what, at)
    else:
        _require_near(subject, x, got, want, what, (bounds, bounds), at)


def _explanations(
    subject: Subject,
    x: PagedInputs,
    cache: Mapping[str, Array],
    got: Mapping[str, Array],
    profile: Profile,
    right: DecodeReading,
) -> Mapping[str, Callable[[], Expected]]:
    """The named mistakes of attention over a cache that is there, of which `got` came."""

    def again(level: PagedInputs) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        zeros = paged.filled(level, "zero")
        return attend(subject, level.case, zeros), zeros

    named = {**mistakes.of_decode(x, cache, profile, right), **exp_of_0(subject, x, cache, again, profile, right)}
    if x.scale_told(subject.conventions["sm_scale_of_none"]) is not None:
        return named
    want = decode.required(x, cache, profile, right)
    with suppress(Violation):
        if not _is_met(got, want) and _is_met(attend(subject, x.case, cache, sm_scale=x.sm_scale), want):
            # of a scale that is given nothing is wrong: None means something else
            named = {name: oracle for name, oracle in named.items() if not name.startswith("sm_scale_")}
            named |= mistakes.of_default_scale(x, cache, profile, right)
    return named


def _is_met(got: Mapping[str, Array], want: Expected) -> bool:
    return not any(want[name].unmet(array).any() for name, array in got.items())


def exp_of_0(
    subject: Subject,
    x: PagedInputs,
    cache: Mapping[str, Array],
    again: Callable[[PagedInputs], tuple[Mapping[str, Array], Mapping[str, Array]]],
    profile: Profile,
    right: DecodeReading,
) -> Mapping[str, Callable[[], Expected]]:
    """One more mistake, an exponential that errs at 0: measured on the same Case where all keys score 0.

    again   calls the operation on such inputs: results, and the cache that they are of
    """

    def errs_at_0() -> Expected:
        level = inputs(replace(x.case, family=FLAT, num_splits=1, poison="all"))
        assert isinstance(level, PagedInputs)
        got, of = again(level)
        exact = decode.rounding(subject.profile(level.case.result_dtype), level.case.result_dtype)
        want = decode.required(level, of, exact, DecodeReading.right(level, subject.conventions))
        error = decode.error_of_exp_at_0(got, want, right.lse_unit)
        return decode.expected(x, cache, replace(profile, exp_error=profile.exp_error + error), right) if error else {}

    return {"exp_of_0_is_not_1/0": errs_at_0}


def passes_zeros(want: Expected) -> bool:
    """Whether results of nothing but zeros would be what is expected."""
    return not any(one.unmet(np.zeros(one.shape, np.float32)).any() for one in want.values())
