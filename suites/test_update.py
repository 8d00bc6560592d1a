"""append_decode: the newest tokens are written as append writes them, and attention sees them, in one call."""

from dataclasses import replace
from functools import partial

import numpy as np

from kvconform.oracles import mistakes, paged, update
from kvconform.oracles.decode import LOCATE
from kvconform.oracles.verdict import require, require_same
from kvconform.specs import variations
from kvconform.specs.cells import LONGEST
from kvconform.specs.dtypes import is_floating
from kvconform.specs.features import alone
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import (
    contexts_beyond_16_bits,
    evicted,
    high_pages,
    large,
    long_contexts,
    loud_garbage,
    many_rows,
    mixtures,
    schedule,
    sizes_beside,
    table_forms,
    two_prefixes,
    waiting,
    wide_windows,
)
from kvconform.suites import test_relations as relations
from kvconform.suites.calls import (
    attend,
    bounds_of,
    exp_of_0,
    may_be_nan,
    require_attention,
    require_both,
    require_repeated,
    require_result,
    updating,
)
from kvconform.suites.law import law, where_compiled
from kvconform.suites.test_decode import does_not_see_page_numbers, ignores_dead_slots, of_many
from kvconform.suites.test_relations import APART


def _update(subject, x, cache, *, buffers=None, **changed):
    """append_decode of a Case over a cache; attention's results apart from the cache.

    buffers   what it writes into, where that is not what the Case says
    """
    case = x.case if buffers is None else replace(x.case, buffers=buffers)
    got = subject.call(case, "append_decode", **updating(x, cache, subject.conventions, **changed))
    return {name: got[name] for name in LOCATE if name in got}, got["cache"]


def _pinned_writes(cell):
    return (*mixtures(cell), *waiting(cell), *large(cell), *high_pages(cell))


@law("append_decode", pinned=_pinned_writes, every_cell=True)
def test_update_writes_exactly_the_newest_tokens(subject, case):
    """The newest tokens lie in the slots that the block table gives them; every other byte is what it was."""
    x = inputs(case)
    before = update.before(x, case.dead)
    _, got = _update(subject, x, before)
    want = update.expect_cache(x, before, padding=subject.conventions["padding"])
    require(got, want, partial(mistakes.of_written, x, before))
    if not any(one.unmet(before[name]).any() for name, one in want.items()):
        subject.saw_nothing()


def _pinned(cell):
    sizes = (*large(cell), *many_rows(cell), *wide_windows(cell), *sizes_beside(cell))
    return (*mixtures(cell), *waiting(cell), *schedule(cell), *table_forms(cell), *two_prefixes(cell), *sizes)


@law("append_decode", pinned=_pinned, every_cell=True)
def test_update_attends_to_what_it_has_written(subject, case):
    """out and lse are attention over the updated cache: a new token is seen from itself and from newer ones."""
    _require_attended(subject, case)


@law("append_decode", pinned=long_contexts, drawn=False, longer=where_compiled)
def test_update_counts_every_page_of_a_long_context(subject, case):
    """Behind thousands of keys, each page that has its share of the weight, or one key that has all, is in the result.

    A case that would allow a result without one of its pages is no evidence.
    """
    _require_attended(subject, case, each_page=True)


@law("append_decode", pinned=contexts_beyond_16_bits, drawn=False, longer=relations.large_context)
def test_update_counts_keys_beyond_16_bits(subject, case):
    """Behind more keys than 16 bits count, those beyond count as the others do."""
    _require_attended(subject, case)


def _require_attended(subject, case, *, each_page=False):
    x = inputs(case)
    before = update.before(x, case.dead)
    updated = update.after(x, before)
    got, _ = _update(subject, x, before)

    def again(level):
        zeros = update.before(level, "zero")
        return _update(subject, level, zeros)[0], update.after(level, zeros)

    def explained(profile, right):
        named = mistakes.of_update(x, before, updated, profile, right)
        return {**named, **exp_of_0(subject, x, updated, again, profile, right)}

    require_result(subject, x, updated, got, explained, each_page=each_page)


def takes_a_token(cell):
    """Whether every operation of a law is offered for some sequence that has a token."""
    rooms = [shape["capacity"] * shape["page_size"] for shape in cell.geometries()] if cell.static else [LONGEST]
    return any(cell.takes(kv_lens=(n,)) for n in range(1, min(rooms) + 1))


@law(
    "append_decode",
    needs=("append", "paged_decode"),
    wants=lambda conventions: conventions["skipped_slots"] == "skip",
    cells=takes_a_token,
)
def test_update_agrees_with_append_and_decode(subject, case):
    """One call and two, append and then paged_decode, are no farther apart than both may be from the truth."""
    x = inputs(case)
    before = update.before(x, case.dead)
    got, _ = _update(subject, x, before)
    rows = slice(None) if case.capacity else x.newest  # of a compiled shape all rows, of which the others are skipped
    right = update.reading(x)
    mapping = np.stack(right.slots) if x.row.pairs_pages else right.slots[0]
    mapping = mapping.astype(case.index_dtype)[..., rows]
    tokens = {"k": x.k[rows], "v": x.v[rows], "slot_mapping": mapping, "layout": case.layout}
    cache = subject.call(case, "append", cache=before, **tokens)["cache"]
    two = attend(subject, case, cache)

    def bounds():
        return bounds_of(subject, x, update.after(x, before))

    both = [{name: results[name] for name in got if name in two} for results in (got, two)]
    require_both(subject, x, *both, "of one call against append and decode", (bounds, bounds))


@law("append_decode", pinned=of_many, wants=lambda conventions: conventions["deterministic"])
def test_update_repeats_bit_for_bit(subject, case):
    """The same call on the same cache gives the same bits, in the cache too."""
    x = inputs(case)
    before = update.before(x, case.dead)
    (first, cache), (second, again) = (_update(subject, x, before) for _ in range(2))
    require_attention(subject, x, second, first, "of the second call against the first")
    for name, array in cache.items():
        require_same(
            again[name], array, f"{name} of the second call against the first", partial(paged.located, x, name)
        )


@law(
    "append_decode",
    only=APART | {"buffers": ("used",)},
    cells=lambda cell: bool(cell.offer.get("into")),
)
def test_update_does_not_see_what_its_buffers_held(subject, case):
    """Results, and a workspace, that a call with other contents and shorter sequences has left change no bit."""
    x = inputs(case)
    first, _ = _update(subject, x, update.before(x, case.dead), buffers="nan")
    between = variations.with_v_times(x, -2.0)
    shorter = x.told(kv_lens=relations.shortened(x))
    _update(subject, between, update.before(between, case.dead), q=-between.q, **shorter)
    got, _ = _update(subject, x, update.before(x, case.dead))
    require_repeated(subject, x, got, first, "written where another call wrote before against where NaN was")


# --- what also holds of attention over a cache that is there; other splits, views, layouts and page sizes are not tried


@law("append_decode", only={**APART, "dead": ("finite", "nan", "zero")}, telling=may_be_nan)
def test_update_does_not_see_its_neighbours(subject, case):
    """Other old and new tokens of the other sequences, NaN where dead slots may hold it, change no bit of a row."""
    relations.does_not_see_its_neighbours(subject, case)


@law(
    "append_decode",
    only={"dead": ("finite", "nan", "inf")},
    pinned=lambda cell: (*evicted(cell), *loud_garbage(cell)),
    wants=lambda conventions: set(conventions["dead"]) - {"zero"},
    telling=may_be_nan,
)
def test_update_ignores_dead_slots(subject, case):
    """What lies in slots that no sequence reads, and in those that are written, changes no bit of the result."""
    ignores_dead_slots(subject, case)


@law("append_decode", only={"dead": ("zero",), "spare_pages": (1, 3)}, rows=lambda row: not row.contiguous)
def test_update_does_not_see_page_numbers(subject, case):
    """Giving every page another number, in cache and block table alike, changes no bit of the result.

    Once in other memory, and once written over the arguments of the call before.
    """
    does_not_see_page_numbers(subject, case)


@law(
    "append_decode",
    families=relations.FAR_FROM_ZERO,
    only=APART | relations.NEAR,
    rows=lambda row: row.has_own_v and not row.has_scales,
)
def test_update_scales_exactly_with_v(subject, case):
    """With -V, old and new, out is -out, and with 4 V it is 4 out, bit for bit, where no product can underflow."""
    relations.scales_exactly_with_v(subject, case)


@law("append_decode", only=APART | alone("window", "soft_cap"))
def test_update_forgets_the_calls_before(subject, case):
    """Neither a call with other contents and shorter sequences nor one with longer ones changes a bit of the next."""
    relations.forgets_the_calls_before(subject, case)


@law(
    "append_decode",
    only={**APART, "dead": ("zero",)},
    rows=lambda row: row.has_own_v and not row.has_scales,
    cells=lambda cell: is_floating(cell.dtype) and bool(relations.others_of(cell)),
)
def test_update_follows_one_changed_argument(subject, case):
    """Whatever one argument was in the call before: -q and -K give the same bits, a sequence less is near."""
    relations.follows_one_changed_argument(subject, case)


@law(
    "append_decode",
    only={**APART, "dead": ("zero",)},
    cells=lambda cell: cell.takes(num_seqs=(1,)) and relations.may_move_in_the_batch(cell),
    longer=relations.compiled_unless("batch"),
)
def test_update_does_not_depend_on_its_batch(subject, case):
    """Rows in another order, and each alone, agree within both bounds, and bit for bit where that is declared."""
    relations.does_not_depend_on_its_batch(subject, case)


@law(
    "append_decode",
    only=APART | {"dead": ("zero",), "num_kv_heads": (2, 3, 5)},
    rows=lambda row: "head" in row.every_axis,
)
def test_update_turns_with_its_heads(subject, case):
    """kv heads in another order, with their q heads, agree within both bounds, and bit for bit where it is declared."""
    relations.turns_with_its_heads(subject, case)
