"""Laws of attention that need no oracle: two calls whose results are tied to each other, bit for bit or within both of
their bounds."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np

from kvconform.oracles import paged
from kvconform.oracles.bound import require_range
from kvconform.specs import data, variations
from kvconform.specs.cells import SIZE_OF, STATIC_AXES, Cell, offers_cell
from kvconform.specs.dtypes import is_floating
from kvconform.specs.features import FEATURES, alone
from kvconform.specs.inputs import inputs
from kvconform.specs.operations import OPERATIONS
from kvconform.specs.paged import PagedInputs
from kvconform.specs.pinned import contexts_beyond_16_bits, high_pages, long_contexts, sparse_pool
from kvconform.specs.row import SIDE_NAMES, SIDES
from kvconform.specs.storage import STRIDES
from kvconform.suites.calls import (
    WHERE_OTHERS_LAY,
    appending,
    attend,
    attention,
    bounds_of,
    bounds_of_filled,
    cached,
    may_be_nan,
    require_agreement,
    require_attention,
    require_both,
    require_decoded,
    require_repeated,
    require_selected,
)
from kvconform.suites.law import law, where_compiled

EXACT = ("plain", "wide", "sharp", "offset", "spike", "stairs_up", "cancel")
"""Contents whose scores keep their bits when a factor of two moves from K to q, in every floating type."""

INDEPENDENT = tuple(data.ARITHMETIC_FAMILIES)
"""Contents that do not ask where a page ends."""

FAR_FROM_ZERO = ("read_out",)
"""Contents of equal weights and of values of one sign: nothing on the way to the result is subnormal or becomes so."""

NEAR = alone("window", "soft_cap", "q_lens", "tree_mask") | {"sinks": ("none", "drawn")}
"""Features that leave such results far from 0."""

ALIKE = {"kv_scales": ("none", "tensor")}
"""Scales that do not ask where a token lies."""

APART = {"shared_pages": (0,), "strides": ("contiguous",), "poison": ("all",)}


def shortened(x):
    """kv_lens with all sequences as short as the shortest that has a key for each query token of any of them: no row
    loses its last key, which may be undefined."""
    most = max(x.case.q_lens, default=1)
    shortest = min((n for n in x.case.kv_lens if n >= most), default=max(x.case.kv_lens, default=0))
    return np.minimum(x.kv_lens, shortest)


def gentle(subject, case):
    """Whether neighbours would hold what is ordinary though they may hold worse, which shows more."""
    return case.dead == "zero" and set(subject.conventions["dead"]) != {"zero"}


def _chosen(case, what, count):
    return int(data.hashes(case.seed, what)) % count


def _asked(x, what):
    """One of the sequences that have a query token."""
    asked = np.unique(x.q_rows[0])
    return int(asked[_chosen(x.case, what, len(asked))])


def in_one_memory(subject, case):
    """In every other case the arguments of a call lie where those of the call before did: who keeps what lay there is
    seen in these, who keeps where it lay in the others. It gives what says whether those of the last call do.

    Not where the seed is the simplest: what is seen there takes no memory.
    """
    return nullcontext(lambda: False) if _chosen(case, "own memory", 2) else subject.overwriting()


def _is(name):
    return lambda conventions: name in conventions["invariances"]


def compiled_unless(name):
    """`where_compiled`, but for laws of a declared invariance, tried whatever they cost: there bits are at stake."""
    return lambda cell: "" if _is(name)(cell.conventions) else where_compiled(cell)


def may_move_in_the_batch(cell):
    """Where it is claimed, in every row; else where tables tell sequences, which places in the batch do elsewhere."""
    return _is("batch")(cell.conventions) or not cell.row.contiguous


@law(
    "paged_decode",
    only={**APART, "dead": ("finite", "nan", "zero")},
    telling=may_be_nan,
)
def test_decode_does_not_see_its_neighbours(subject, case):
    """Other contents of the other sequences, NaN where dead slots may hold it, change no bit of a row."""
    does_not_see_its_neighbours(subject, case)


def does_not_see_its_neighbours(subject, case):
    """Raise Violation unless other contents of the other sequences change no bit of one."""
    x = inputs(case)
    seq = _asked(x, "kept")
    if case.kv_lens[seq] in (0, x.num_tokens):
        subject.saw_nothing()
    if len(case.kv_lens) == 1 or gentle(subject, case):  # the same call twice is another law's
        subject.saw_nothing()
        return
    other = variations.with_other_neighbours(x, seq, case.dead)
    before, after = (attention(subject, one, cached(one, "zero")) for one in (x, other))
    at = x.q_rows[0] == seq
    rows = [{name: got[name][at] for name in got} for got in (after, before)]
    said = f"of sequence {seq} with {variations.told_of_neighbours(case)} in all others against before"
    require_repeated(subject, x, *rows, said, at=at)


@law(
    "paged_decode",
    families=FAR_FROM_ZERO,
    only=APART | NEAR,
    rows=lambda row: row.has_own_v and not row.has_scales,
)
def test_decode_scales_exactly_with_v(subject, case):
    """-V gives -out and 4 V gives 4 out, bit for bit, where no product can underflow."""
    scales_exactly_with_v(subject, case)


def scales_exactly_with_v(subject, case):
    """Raise Violation unless out follows V by a factor of -1, and of 4."""
    x = inputs(case)
    before = attention(subject, x, cached(x, "zero"))
    for factor in (-1.0, 4.0):
        changed = variations.with_v_times(x, factor)
        got = attention(subject, changed, cached(changed, "zero"))
        want = before | {"out": (before["out"].astype(np.float64) * factor).astype(before["out"].dtype)}
        said = f"with V times {factor:g} against before"
        require_repeated(subject, changed, _unsigned_zeros(got), _unsigned_zeros(want), said, other=x, factor=factor)


def _unsigned_zeros(got):
    """A sum that cancels is +0, whatever the signs of its terms."""
    return {name: np.where(array == 0, np.zeros_like(array), array) for name, array in got.items()}


@law(
    "paged_decode",
    families=EXACT,
    only=APART,
    rows=lambda row: row.has_own_v and not row.has_scales,
    cells=lambda cell: is_floating(cell.dtype),
)
def test_decode_takes_a_factor_of_two_from_k_to_q(subject, case):
    """2 q and K / 2 have the same scores, bit for bit."""
    x = inputs(case)
    moved = variations.with_factor_in_q(x, 2.0)
    require_range("an element of q", np.abs(moved.q.astype(np.float64)), subject.profile(case.result_dtype).q_format)
    before = attend(subject, case, paged.filled(x, "zero"))
    got = attend(subject, case, paged.filled(moved, "zero"), q=moved.q)
    require_repeated(subject, moved, got, before, "with 2 q and K / 2 against before", other=x)


def of_sequences(x, seqs):
    """The query rows of some sequences, and the arguments of attention that are theirs."""
    rows = np.concatenate([np.flatnonzero(x.q_rows[0] == one) for one in seqs])
    some = {"q": x.q[rows], **x.told(seqs)}
    some["q_lens"] = None if x.q_lens is None else x.q_lens[seqs]
    some["tree_mask"] = None if x.tree_mask is None else x.tree_mask[rows, : max(some["q_lens"])]
    if x.case.operation.appends:
        tokens = {name: of_all[x.newest][rows] for name, of_all in x.tokens.items()}
        some |= {name: x.row.argument(side, tokens) for side, name in zip(SIDES, SIDE_NAMES, strict=True)}
    return rows, some


@law(
    "paged_decode",
    only={**APART, "dead": ("zero",)},
    cells=lambda cell: cell.takes(num_seqs=(1,)) and may_move_in_the_batch(cell),
    longer=compiled_unless("batch"),
)
def test_decode_does_not_depend_on_its_batch(subject, case):
    """Rows in another order, and each alone, agree within both bounds, and bit for bit where that is declared."""
    does_not_depend_on_its_batch(subject, case)


def does_not_depend_on_its_batch(subject, case):
    """Raise Violation unless rows agree in any order, and alone."""
    x = inputs(case)
    cache = cached(x, "zero")
    whole = attention(subject, x, cache)
    num_seqs = len(case.kv_lens)
    if num_seqs == 1:
        subject.saw_nothing()
    bounds = None if _is("batch")(subject.conventions) else partial(bounds_of_filled, subject, x)
    order = np.argsort(data.hashes(case.seed, "order", np.arange(num_seqs)), kind="stable")
    seq = _asked(x, "alone")
    for seqs, said in ((order, "with the batch in another order"), (np.array([seq]), f"of sequence {seq} alone")):
        rows, some = of_sequences(x, seqs)
        got = attention(subject, x, cache, **some)
        said = f"{said} against the whole batch"
        require_selected(subject, x, got, whole, rows, said, bounds)


@law(
    "paged_decode",
    only=APART | ALIKE | {"dead": ("zero",), "num_kv_heads": (2, 3, 5)},
    rows=lambda row: "head" in row.every_axis,
)
def test_decode_turns_with_its_heads(subject, case):
    """kv heads in another order, with their q heads, agree within both bounds, and bit for bit where it is declared."""
    turns_with_its_heads(subject, case)


def turns_with_its_heads(subject, case):
    """Raise Violation unless heads agree in another order."""
    x = inputs(case)
    order = np.roll(np.arange(case.num_kv_heads), 1 + _chosen(case, "turn", case.num_kv_heads - 1))
    turned = variations.with_heads_in_order(x, order)
    before, after = (attention(subject, one, cached(one, "zero")) for one in (x, turned))
    at, said = (slice(None), variations.q_heads(x, order)), f"with kv heads in the order {order}"
    bounds = None if _is("heads")(subject.conventions) else partial(bounds_of_filled, subject, x)
    require_selected(subject, x, after, before, at, said, bounds)


@law(
    "paged_decode",
    only={**APART, "dead": ("zero",), "num_splits": (2, 3, 5, 7)},
    cells=lambda cell: cell.takes(num_splits=(1,)),
    longer=compiled_unless("splits"),
)
def test_decode_does_not_depend_on_its_splits(subject, case):
    """Any number of splits and one agree within both bounds, and bit for bit where that is declared."""
    x = inputs(case)
    cache = paged.filled(x, "zero")
    one, said = attend(subject, case, cache, num_splits=1), f"in {case.num_splits} splits against one"
    got = attend(subject, case, cache)
    if _is("splits")(subject.conventions):
        require_attention(subject, x, got, one, said)
    else:
        both = partial(bounds_of, subject, x, cache), partial(bounds_of, subject, x, cache, splits=1)
        require_both(subject, x, got, one, said, both)


@law("paged_decode", only=APART | alone("window", "soft_cap"))
def test_decode_forgets_the_calls_before(subject, case):
    """Neither a call with other contents and shorter sequences nor one with longer ones changes a bit of the next.

    In every other case that is written over the arguments of the one before it.
    """
    forgets_the_calls_before(subject, case)


def forgets_the_calls_before(subject, case):
    """Raise Violation unless a call gives the same bits behind another one, longer or shorter."""
    x = inputs(case)
    other, lens = variations.with_v_times(x, -2.0), shortened(x)
    short = partial(attention, subject, other, cached(other, case.dead), q=-other.q, **x.told(kv_lens=lens))
    long = partial(attention, subject, x, cached(x, case.dead))
    if subject.conventions["deterministic"] and _chosen(case, "between", 2):  # of a short one no bound is known
        call, between, said = short, long, "longer"
        x = variations.with_lens(x, lens)
    else:
        call, between, said = long, short, "shorter"
    first = call()
    with in_one_memory(subject, case) as overwrote:
        between()
        got = call()
        where = WHERE_OTHERS_LAY if overwrote() else ""
    require_repeated(subject, x, got, first, f"after a call with {said} sequences{where} against before")


CHANGED = ("sm_scale", "num_splits", "window", "soft_cap", "sinks", "alibi_slopes", "tree_mask")
"""Arguments of attention of which one changes from call to call, while tables, lengths and contents stay."""


def others_of(cell):
    """Argument -> the values that are offered of it, where there are several; what shapes are compiled for stays."""
    changed = [axis for axis in CHANGED if axis in cell.axes and not (cell.static and axis in STATIC_AXES)]
    return {axis: some for axis in changed if len(some := cell.allowed(axis)) > 1}


def _others_in(case, cell):
    """Those of them that a Case can have, and its numbers of query tokens dealt to other sequences."""
    others = others_of(cell)
    if max(case.q_lens, default=1) < FEATURES["tree_mask"].beside["q_lens"]:
        others.pop("tree_mask", None)
    dealt = (case.q_lens[turn:] + case.q_lens[:turn] for turn in range(1, len(case.q_lens)))
    fits = [one for one in dealt if one != case.q_lens and _has_keys(replace(case, q_lens=one))]
    return others | ({"q_lens": [case.q_lens, fits[0]]} if fits else {})


def _has_keys(case):
    """Whether each sequence has a key for each of its query tokens; one without keys may have one that is not new."""
    enough = all(q_len <= max(n, 1) for q_len, n in zip(case.q_lens, case.kv_lens, strict=True))
    return enough and case.counts_new_tokens


@law(
    "paged_decode",
    only={**APART, "dead": ("zero",), "evicted_pages": ("kept",)},
    rows=lambda row: row.has_own_v and not row.has_scales,
    cells=lambda cell: is_floating(cell.dtype) and bool(others_of(cell)),
)
def test_decode_follows_one_changed_argument(subject, case):
    """Whatever one argument was in the call before: -q and -K give the same bits, a sequence less is near.

    The call of -q and -K follows one of the same arguments. The one of a sequence less has other shapes: what is kept
    for a shape shows there, but not in compiled shapes, of one sequence, or where sequences are places in a batch.
    """
    follows_one_changed_argument(subject, case)


def follows_one_changed_argument(subject, case):
    """Raise Violation unless a call, of which the one before differed in an argument alone, gives what it should."""
    cell = Cell(case.op, case.layout, case.dtype, subject.offers[case.op], subject.conventions)
    others, fewer = _others_in(case, cell), len(case.kv_lens) - 1
    if not others:
        subject.saw_nothing()
        return
    axis = sorted(others)[_chosen(case, "changed", len(others))]
    if "q_lens" in others and _chosen(case, "query tokens", 2):  # in few cases they can change, and these are telling
        axis = "q_lens"
    values = [value for value in others[axis] if value != getattr(case, axis)]
    changed = replace(case, **{axis: values[_chosen(case, "to", len(values))]})
    before, x = inputs(case), inputs(changed)
    apart, cache = variations.with_factor_in_q(x, -1.0), cached(x, "zero")
    attention(subject, before, cached(before, "zero"))
    got = attention(subject, x, cache)
    want = attention(subject, apart, cached(apart, "zero"))
    said = f"after a call with {axis} {getattr(case, axis)} against {getattr(changed, axis)} from the first"
    require_repeated(subject, x, got, want, f"{said}, of -q and -K", other=apart)
    if cell.static or not fewer or not may_move_in_the_batch(cell) or not cell.takes(num_seqs=(fewer,)):
        return  # a shape more is compiled, or such a batch is not offered
    rows, some = of_sequences(x, np.arange(fewer))
    if not len(rows):  # the last one alone has query tokens
        return
    first = attention(subject, x, cache, **some)
    bounds = partial(bounds_of_filled, subject, x)
    require_selected(subject, x, first, got, rows, f"of the first {fewer} sequences against all {said}", bounds)


@law(
    "paged_decode",
    only=APART | {"buffers": ("used",)},
    cells=lambda cell: bool(cell.offer.get("into")),
)
def test_decode_does_not_see_what_its_buffers_held(subject, case):
    """Results, and a workspace, that a call with other contents and shorter sequences has left change no bit."""
    x = inputs(case)
    cache = paged.filled(x, case.dead)
    first = attend(subject, replace(case, buffers="nan"), cache)
    between = variations.with_v_times(x, -2.0)
    attend(subject, case, paged.filled(between, case.dead), q=-between.q, **x.told(kv_lens=shortened(x)))
    got = attend(subject, case, cache)
    require_repeated(subject, x, got, first, "written where another call wrote before against where NaN was")


@law(
    "paged_decode",
    needs=("append",),
    only={**APART, "dead": ("zero",)},
    wants=lambda conventions: conventions["skipped_slots"] == "skip",
    cells=lambda cell: cell.takes(skip=(2,)),
)
def test_decode_reads_what_was_appended(subject, case):
    """A cache filled by append, all tokens but the last of each sequence and then those, decodes like a filled one."""
    x = inputs(case)
    cache = x.dead("zero")
    newest = np.zeros(x.num_rows, bool)
    newest[np.cumsum([n for n in case.kv_lens if n], dtype=int) - 1] = True
    for skipped in (newest, ~newest):
        mapping = np.where(skipped, -1, x.slot_mapping).astype(x.slot_mapping.dtype)
        cache = subject.call(case, "append", **appending(x, cache) | {"slot_mapping": mapping})["cache"]
    got = attend(subject, case, cache)
    want = attend(subject, case, paged.filled(x, "zero"))
    require_repeated(subject, x, got, want, "over an appended cache against a filled one")


@law("paged_decode", pinned=long_contexts, drawn=False, longer=where_compiled)
def test_decode_counts_every_page_of_a_long_context(subject, case):
    """Over thousands of keys, each page that has its share of the weight, or one key that has all, is in the result.

    A case that would allow a result without one of its pages is no evidence.
    """
    require_decoded(subject, case, each_page=True)


def large_context(cell):
    """Why short runs leave out a law of more keys than 16 bits count."""
    return "its case takes as long as a hundred others"


@law(
    "paged_decode",
    pinned=contexts_beyond_16_bits,
    drawn=False,
    longer=large_context,
)
def test_decode_counts_keys_beyond_16_bits(subject, case):
    """Over more keys than 16 bits count, those behind count as the others do."""
    require_decoded(subject, case)


GROUPS, PAGE_SIZES = (2, 3, 4), {2: 3, 3: 4, 4: 2}
"""q heads a kv head that are given a kv head each; page sizes, and the one that each is compared with."""


def takes_repeated_kv(cell):
    """Whether as many kv heads are offered as any offered group makes q heads."""
    groups = [group for group in GROUPS if cell.takes(group=(group,))]
    many = [heads * group for heads in cell.allowed("num_kv_heads") for group in groups]
    fits = all(cell.takes(num_kv_heads=(n,)) and cell.admits("num_kv_heads", n) for n in many)
    return bool(groups) and fits and cell.takes(group=(1,))


def takes_page_sizes(cell):
    """Whether each of some page sizes is offered."""
    paged = not cell.row.contiguous and "slot" not in cell.row.fixed
    return paged and all(cell.takes(page_size=(n,)) and cell.admits("page_size", n) for n in PAGE_SIZES)


@law(
    "paged_decode",
    only={**APART, **ALIKE, "dead": ("zero",), "group": GROUPS},
    rows=lambda row: "head" in row.every_axis,
    cells=takes_repeated_kv,
    longer=where_compiled,
)
def test_decode_agrees_with_repeated_kv(subject, case):
    """Grouped q heads agree with q heads that have copies of their kv head to themselves, within both bounds."""
    x = inputs(case)
    require_agreement(subject, x, variations.with_kv_repeated(x), "with K and V repeated for each q head")


@law(
    "paged_decode",
    families=INDEPENDENT,
    only={**APART, **ALIKE, "dead": ("zero",), "page_size": tuple(PAGE_SIZES)},
    rows=lambda row: not row.shares_slots,
    cells=takes_page_sizes,
    longer=where_compiled,
)
def test_decode_agrees_across_page_sizes(subject, case):
    """The same tokens in pages of another size give the same, within both bounds."""
    size = PAGE_SIZES[case.page_size]
    other = PagedInputs(replace(case, page_size=size, capacity=-(-case.capacity * case.page_size // size)))
    require_agreement(subject, inputs(case), other, f"in pages of {other.case.page_size}")


def layouts_beside(cell):
    """The other layouts that are offered of tokens of the same parts, whether sequences own pages or are one."""

    def kind(row):
        return row.contiguous, [(part.name, part.axes, row.fields[part.field].dtype) for part in row.parts]

    alike = [row for row in OPERATIONS[cell.op].layouts if kind(row) == kind(cell.row)]
    return [row.name for row in alike if row != cell.row and offers_cell(cell.op, cell.offer, row, cell.dtype)]


def takes_layouts(cell):
    """Whether what is drawn in a cell can be put into another layout that is offered."""
    return any(_has_sizes_of(cell, replace(cell, layout=name)) for name in layouts_beside(cell))


def _has_sizes_of(cell, other):
    """Whether of each size one that is drawn in a cell fits another layout; else the other's cells draw for both."""
    sizes = [(axis, cell.allowed(axis)) for axis in SIZE_OF if axis in cell.axes]
    return all(any(other.admits(axis, n) for n in some) for axis, some in sizes)


def takes_strides(cell):
    """Whether arguments may be contiguous there, and need not be."""
    views = [one for one in STRIDES[1:] if cell.takes(strides=(one,))]
    return cell.takes(strides=STRIDES[:1]) and bool(views)


@law(
    "paged_decode",
    only={**APART, "dead": ("zero",), "strides": STRIDES[1:]},
    cells=takes_strides,
    longer=where_compiled,
)
def test_decode_agrees_across_strides(subject, case):
    """Views into larger arrays give what contiguous arrays give, within both bounds."""
    whole = inputs(replace(case, strides=STRIDES[0]))
    require_agreement(subject, whole, inputs(case), f"in views ({case.strides})")


@law(
    "paged_decode",
    only={**APART, **ALIKE, "dead": ("zero",)},
    cells=takes_layouts,
    longer=where_compiled,
)
def test_decode_agrees_across_layouts(subject, case):
    """The same tokens in another layout give the same, within both bounds, and bit for bit where that is declared."""
    cell = Cell(case.op, case.layout, case.dtype, subject.offers[case.op], subject.conventions)
    beside = np.array(layouts_beside(cell))
    shuffled = beside[np.argsort(data.hashes(case.seed, "layout", np.arange(len(beside))), kind="stable")]
    moved = (replace(case, layout=str(name)) for name in shuffled)
    other = next((case for case in moved if replace(cell, layout=case.layout).takes_case(case)), None)
    if other is None:
        subject.saw_nothing()
        return
    bitwise = _is("layouts")(subject.conventions)
    require_agreement(subject, inputs(case), PagedInputs(other), f"in {other.layout}", bitwise=bitwise)


@law("paged_decode", pinned=high_pages, drawn=False, every_cell=True)
def test_decode_reaches_high_pages(subject, case):
    """Pages whose numbers need more than 16 bits are attended to where they lie."""
    require_decoded(subject, case)


@law("paged_decode", pinned=sparse_pool, drawn=False, every_cell=True)
def test_decode_counts_elements_beyond_31_bits(subject, case):
    """In a cache of 2**31 elements and more, keys and values are read from where they lie."""
    require_decoded(subject, case)
