"""Pages as a whole: copied, swapped, shared and forked, cut into shards, and far apart."""

from functools import partial

from kvconform.oracles import paged, pages
from kvconform.oracles.verdict import Violation, require, require_same
from kvconform.specs.inputs import inputs
from kvconform.specs.pinned import high_pages, is_narrowest, large, sparse_pool
from kvconform.suites.calls import LEFT_OVER, ORDINARY, appending, gathering, require_tokens
from kvconform.suites.law import law

HEADS = (2, 3, 5)
"""Heads that are cut into shards of one each, where the layout takes one alone."""


def takes_shards(cell):
    """Whether several heads are offered, and one alone."""
    return cell.takes(num_kv_heads=(1,)) and any(cell.takes(num_kv_heads=(n,)) for n in HEADS)


@law("copy_pages", families=("bits",), pinned=lambda cell: (*high_pages(cell), *large(cell)), every_cell=True)
def test_copy_pages_copies_whole_pages(subject, case):
    """Each target holds what its source held before the call, whatever else is copied; every other page stays."""
    x = inputs(case)
    before = paged.filled(x, LEFT_OVER)
    got = subject.call(case, "copy_pages", cache=before, page_mapping=x.page_mapping, layout=case.layout)
    require(got["cache"], pages.expect_copy(x, before, x.page_mapping), partial(pages.copy_mistakes, x, before))
    if not len(x.page_mapping):
        subject.saw_nothing()


@law(
    "copy_pages",
    needs=("append", "gather"),
    families=("bits",),
    only={**ORDINARY, "skip": (0,), "spare_pages": (1, 3), "page_moves": ("apart",), "shared_pages": (0,)},
    rows=lambda row: not row.contiguous and not row.pairs_pages,
    cells=lambda cell: not cell.predicates("kv_lens"),  # the child is one token longer than its parent
)
def test_a_fork_leaves_its_parent_alone(subject, case):
    """Copy on write: the child shares full pages, copies the partial one and appends; the parent reads as before."""
    x = inputs(case)
    fork = pages.forked(x)
    cache = paged.filled(x, LEFT_OVER)
    if len(fork.copied):
        cache = subject.call(case, "copy_pages", cache=cache, page_mapping=fork.copied, layout=case.layout)["cache"]
    cache = subject.call(case, "append", **appending(fork.newest, cache))["cache"]
    require_tokens(subject.call(case, "gather", **gathering(x, cache)), x, "gather of the parent after its fork")
    child = subject.call(case, "gather", **gathering(fork.child, cache))
    require_tokens(child, fork.child, "gather of the child")


@law(
    "append",
    needs=(),
    families=("bits",),
    only={**ORDINARY, "num_kv_heads": HEADS},
    rows=pages.cuts_heads,
    cells=takes_shards,
)
def test_shards_of_the_heads_join_to_the_whole(subject, case):
    """Tensor parallelism: each shard's heads appended to its own cache, joined along the heads, are the whole cache."""
    x = inputs(case)
    before = x.dead(LEFT_OVER)
    whole = subject.call(case, "append", **appending(x, before))["cache"]
    shards = []
    for shard in pages.shards(x):
        cache = pages.shard_of(x, before, shard)
        shards.append(subject.call(shard.inputs.case, "append", **appending(shard.inputs, cache))["cache"])
    for name, joined in pages.joined(x, shards).items():
        said = f"{name} of {len(shards)} shards joined against that of all heads"
        require_same(joined, whole[name], said, partial(paged.located, x, name))


@law(
    "gather",
    families=("bits",),
    only={"num_kv_heads": HEADS, "shared_pages": (0,)},
    rows=pages.has_heads_outside,
    cells=takes_shards,
)
def test_a_shard_of_the_heads_is_read_alone(subject, case):
    """Tensor parallelism: of shards joined along the heads, each with its own padding, each gives its own heads."""
    x = inputs(case)
    shards = pages.shards(x)
    caches = [paged.filled(shard.inputs, LEFT_OVER) for shard in shards]
    whole = pages.joined(x, caches)
    for shard in shards:
        cache = pages.shard_of(x, whole, shard)
        got = subject.call(shard.inputs.case, "gather", **gathering(shard.inputs, cache))
        require_tokens(got, shard.inputs, f"gather of heads {shard.heads.start} to {shard.heads.stop - 1}")


def of_4_gib(cell):
    """Why short runs leave a cell out whose sparse pool takes long to look through for what was written to it."""
    return "" if is_narrowest(cell) else "a pool of 4 GiB and more is looked through, as one of 2 GiB was"


@law("append", families=("bits",), pinned=sparse_pool, drawn=False, longer=of_4_gib, every_cell=True)
def test_append_counts_elements_beyond_31_bits(subject, case):
    """In a cache of 2**31 elements and more, tokens lie where they belong and nothing else was written."""
    x = inputs(case)
    got = subject.call(case, "append", **appending(x, x.dead("zero")))["cache"]
    said = pages.unlike_sparse(x, got)
    if said:
        raise Violation(said)


@law("gather", families=("bits",), pinned=sparse_pool, drawn=False, every_cell=True)
def test_gather_counts_elements_beyond_31_bits(subject, case):
    """In a cache of 2**31 elements and more, tokens are read from where they lie."""
    x = inputs(case)
    cache = pages.filled_sparse(x)
    require_tokens(subject.call(case, "gather", **gathering(x, cache)), x, "gather of a sparse pool")


@law("copy_pages", families=("bits",), pinned=sparse_pool, drawn=False, longer=of_4_gib, every_cell=True)
def test_copy_pages_counts_elements_beyond_31_bits(subject, case):
    """In a cache of 2**31 elements and more, pages are copied from one end to the other; nothing else was written."""
    x = inputs(case)
    call = {"cache": pages.sparse_pages(x), "page_mapping": x.page_mapping, "layout": case.layout}
    said = pages.unlike_sparse_pages(x, subject.call(case, "copy_pages", **call)["cache"])
    if said:
        raise Violation(said)
