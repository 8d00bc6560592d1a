"""Objects that keep a product-quantised cache: page managers and caches, after every operation of a history."""

from kvconform.oracles.cache_model import KINDS, LONGEST, PREFILL, CacheModel
from kvconform.oracles.page_model import PageModel
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import pinned
from kvconform.specs.pq import of_side
from kvconform.specs.row import SIDES
from kvconform.suites.law import law

SIZES = ("layout", "dtype", "page_size", "num_layers", "num_seqs", "num_kv_heads", "residual")


@law("page_manager", every_cell=True)
def test_a_page_has_the_owners_that_it_was_given(subject, case):
    """No page is given out twice or lost, and what nobody owns is neither freed nor shared, whatever came before."""
    made = subject.make(case, "page_manager", num_pages=case.num_pages)
    model = PageModel(case.num_pages, made.do)
    model.count()
    for number in case.history:
        model.step(number)
    if not model.done:
        subject.saw_nothing()


def _million(cell):
    """The sizes of MILLION's paged cache: 128 tokens that are not coded, of which 64 fill a page; two become full."""
    sizes = {"residual": 128, "moved": 64, "page_size": 64, "num_pages": 3, "num_subspaces": 2}
    many = tuple(KINDS * (LONGEST - 1) + PREFILL for _ in range(-(-200 // LONGEST)))
    fits = not cell.static and cell.takes(**{axis: (value,) for axis, value in sizes.items()})
    return (pinned(cell, history=many, num_seqs=1, **sizes),) if fits else ()


@law(
    "pq_cache",
    families=("plain",),
    pinned=_million,
    only={"residual": (1, 3, 8, 4)},
    every_cell=True,
)
def test_a_cache_is_a_list_of_tokens(subject, case):
    """After every append, counts and attention are those of all tokens, the oldest in codes: none lost or doubled."""
    x = inputs(case)
    given = {name: getattr(case, name) for name in SIZES} | {of_side(side): x.codebooks[side] for side in SIDES}
    pages = case.num_pages * case.num_layers * case.num_seqs * case.num_kv_heads
    moved = min(case.moved, case.residual)
    made = subject.make(case, "pq_cache", **given, num_pages=pages, moved=moved)
    model = CacheModel(x, made.do, subject.profile(case.result_dtype), subject.conventions)
    for number in case.history:
        model.step(number)
    if not any(model.lens) or model.disputed:
        subject.saw_nothing()
