"""append and gather move whole tokens between ragged rows and pages, and touch nothing else."""

from functools import partial

from kvconform.oracles import mistakes, paged
from kvconform.oracles.verdict import require, require_any, require_raised
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import high_pages, large, table_forms
from kvconform.suites.calls import BUFFERS, LEFT_OVER, ORDINARY, appending, gathering, require_tokens
from kvconform.suites.law import law


@law("append", families=("plain", "bits"), only=ORDINARY, pinned=large, every_cell=True)
def test_append_writes_exactly_its_slots(subject, case):
    """Every addressed byte is the token's, every other byte is what it was; slot -1 writes nothing."""
    x = inputs(case)
    before = x.dead(LEFT_OVER)
    got = subject.call(case, "append", **appending(x, before))
    want = paged.expect_append(x, before, padding=subject.conventions["padding"])
    require(got["cache"], want, partial(mistakes.of_append, x, before))
    if not any(one.unmet(before[name]).any() for name, one in want.items()):
        subject.saw_nothing()


@law(
    "append",
    families=("bits",),
    only={**ORDINARY, "stray_slots": ("below", "beyond")},
    wants=lambda conventions: conventions["slots_out_of_range"] != "undefined",
)
def test_append_writes_nothing_out_of_range(subject, case):
    """A slot below -1 or past the cache's end is dropped or refused, as declared, and never clamped to a live one."""
    x = inputs(case)
    before = x.dead(LEFT_OVER)
    if subject.conventions["slots_out_of_range"] == "raise" and paged.strays(x):
        require_raised(lambda: subject.call(case, "append", **appending(x, before)), f"slots {paged.strays(x)}")
        return
    got = subject.call(case, "append", **appending(x, before))
    want = paged.expect_append(x, before, padding=subject.conventions["padding"])
    require(got["cache"], want, partial(mistakes.of_append, x, before))


@law(
    "append",
    families=("bits",),
    only={**ORDINARY, "skip": (2, 3)},
    wants=lambda conventions: conventions["skipped_slots"] == "raise",
)
def test_append_refuses_slot_minus_one(subject, case):
    """An implementation that declares to raise at slot -1 does."""
    x = inputs(case)
    if (x.slot_mapping == -1).any():
        require_raised(lambda: subject.call(case, "append", **appending(x, x.dead(LEFT_OVER))), "slot -1")


@law(
    "append",
    families=("bits",),
    only={**ORDINARY, "stray_slots": ("twice",), "skip": (0,)},
    wants=lambda conventions: conventions["duplicate_slots"] != "undefined",
)
def test_append_leaves_one_of_several_tokens_whole(subject, case):
    """Of several tokens for one slot one stays there, K and V and every head of it; the last one where so declared."""
    x = inputs(case)
    before = x.dead(LEFT_OVER)
    got = subject.call(case, "append", **appending(x, before))
    readings = paged.contested(x)
    if subject.conventions["duplicate_slots"] == "last":
        readings = readings[-1:]
    padding = subject.conventions["padding"]
    require_any(got["cache"], [paged.expect_append(x, before, r, padding) for r in readings], "tokens that may stay")


@law("append", families=("bits",), pinned=high_pages, drawn=False, every_cell=True)
def test_append_reaches_high_pages(subject, case):
    """Tokens of pages whose numbers need more than 16 bits lie where they belong."""
    x = inputs(case)
    before = x.dead("zero")
    got = subject.call(case, "append", **appending(x, before))
    require(got["cache"], paged.expect_append(x, before, padding=subject.conventions["padding"]))


def _pinned(cell):
    return (*table_forms(cell), *large(cell))


@law("gather", families=("plain", "bits"), only={"buffers": BUFFERS}, pinned=_pinned, every_cell=True)
def test_gather_reads_the_live_tokens_in_order(subject, case):
    """Sequence after sequence, each token from the page and slot that the block table gives it."""
    x = inputs(case)
    cache = paged.filled(x, LEFT_OVER)
    if case.buffers == "used":
        subject.call(case, "gather", **gathering(x, x.dead(LEFT_OVER)))
    got = subject.call(case, "gather", **gathering(x, cache))
    require(got, paged.expect_gather(x, cache), partial(mistakes.of_gather, x, cache))
    if not x.num_tokens:
        subject.saw_nothing()


@law("gather", families=("bits",), pinned=high_pages, drawn=False, every_cell=True)
def test_gather_reaches_high_pages(subject, case):
    """Tokens of pages whose numbers need more than 16 bits are read from where they lie."""
    x = inputs(case)
    require_tokens(subject.call(case, "gather", **gathering(x, paged.filled(x, "zero"))), x, "gather of high pages")


@law("append", needs=("gather",), families=("plain", "bits"), only={**ORDINARY, "skip": (0,)})
def test_what_was_appended_is_gathered(subject, case):
    """gather after append returns the tokens, bit for bit."""
    x = inputs(case)
    cache = subject.call(case, "append", **appending(x, x.dead(LEFT_OVER)))["cache"]
    require_tokens(subject.call(case, "gather", **gathering(x, cache)), x, "gather(append(...))")
