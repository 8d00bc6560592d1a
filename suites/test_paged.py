"""append and gather move whole tokens between ragged rows and pages, and touch nothing else."""

from kvconform.oracles import mistakes, paged
from kvconform.oracles.verdict import by_axes, require, require_same
from kvconform.specs.inputs import inputs
from kvconform.specs.layouts import SIDE_NAMES
from kvconform.suites.law import law

LEFT_OVER = "bits"  # unaddressed bytes hold random bit patterns: any change of any of them shows


@law("append", families=("plain", "bits"))
def test_append_writes_exactly_its_slots(subject, case):
    """Every addressed byte is the token's, every other byte is what it was; slot -1 writes nothing."""
    x = inputs(case)
    before = x.dead(LEFT_OVER)
    k, v = x.tokens
    got = subject.call(case, "append", cache=before, k=k, v=v, slot_mapping=x.slot_mapping, layout=case.layout)
    require(got["cache"], paged.expect_append(x, before), mistakes.of_append(x, before))


@law("gather", families=("plain", "bits"))
def test_gather_reads_the_live_tokens_in_order(subject, case):
    """Sequence after sequence, each token from the page and slot that the block table gives it."""
    x = inputs(case)
    cache = paged.filled(x, LEFT_OVER)
    got = subject.call(case, "gather", cache=cache, block_table=x.block_table, kv_lens=x.kv_lens, layout=case.layout)
    require(got, paged.expect_gather(x, cache), mistakes.of_gather(x, cache))


@law("append", needs=("gather",), families=("plain", "bits"), only={"skip": (0,)})
def test_what_was_appended_is_gathered(subject, case):
    """gather after append returns the tokens, bit for bit."""
    x = inputs(case)
    k, v = x.tokens
    call = subject.call
    cache = call(case, "append", cache=x.dead(LEFT_OVER), k=k, v=v, slot_mapping=x.slot_mapping, layout=case.layout)[
        "cache"
    ]
    got = call(case, "gather", cache=cache, block_table=x.block_table, kv_lens=x.kv_lens, layout=case.layout)
    for side in case.row.sides:
        name = SIDE_NAMES[side]
        rows = x.tokens[side][: x.num_tokens]
        require_same(got[name], rows, f"gather(append(...)) against {name}", by_axes("token", *case.row.token_axes))
