"""Bugs planted in the README's adapter, and of other laws adapters of `tests/wrong`, and what a failure says of each:
the message alone has to lead to it.

`python tests/planted.py > docs/failures.md` writes the page that shows them.
"""

import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRONG = ROOT / "tests" / "wrong"


@dataclass(frozen=True)
class Planted:
    """One bug.

    what, right, wrong   what is done wrong, and the edit that does it
    law                  the law whose failure is shown
    names                what its failure has to say for a reader to find the bug
    """

    what: str
    right: str
    wrong: str
    law: str
    names: str


_LENGTH = '[:length] for name in "kv")'

PLANTED: dict[str, Planted] = {
    "newest_token_is_lost": Planted(
        what="the newest token is not read",
        right=_LENGTH,
        wrong='[: max(1, length - 1)] for name in "kv")',
        law="decode_is_within_the_bound",
        names="key 1 of seq 0 (page 0, slot 0) is left out",
    ),
    "slot_behind_is_read": Planted(
        what="one slot past the newest token is read",
        right=_LENGTH,
        wrong='[: length + 1] for name in "kv")',
        law="decode_is_within_the_bound",
        names="(past the newest token) is read as one more key",
    ),
    "scale_is_ignored": Planted(
        what="scores are scaled by head_dim ** -0.5 whatever sm_scale says",
        right="* np.float32(sm_scale)",
        wrong="* np.float32(q.shape[-1] ** -0.5)",
        law="decode_is_within_the_bound",
        names="sm_scale_is_the_default",
    ),
    "heads_are_dealt_out": Planted(
        what="q head h reads kv head h % num_kv_heads",
        right="np.arange(q.shape[1]) // (q.shape[1] // num_kv_heads)",
        wrong="np.arange(q.shape[1]) % num_kv_heads",
        law="decode_is_within_the_bound",
        names="q_heads_are_dealt_out",
    ),
    "maximum_is_not_taken_away": Planted(
        what="exp of raw scores",
        right="top = score.max(-1, keepdims=True)",
        wrong="top = 0 * score.max(-1, keepdims=True)",
        law="decode_is_within_the_bound",
        names="scores meet exp as they are",
    ),
    "skipped_tokens_are_written": Planted(
        what="slot -1 counts from the end",
        right="written = slot_mapping >= 0",
        wrong="written = slot_mapping >= -1",
        law="append_writes_exactly_its_slots",
        names="skipped_tokens_go_to_the_last_slot",
    ),
    "heads_and_slots_change_places": Planted(
        what="pages are read as head slot dim",
        right="cache[name][pages].reshape(-1, num_kv_heads, q.shape[-1])",
        wrong="cache[name][pages].reshape(len(pages), num_kv_heads, page_size, -1).swapaxes(1, 2)"
        ".reshape(-1, num_kv_heads, q.shape[-1])",
        law="decode_is_within_the_bound",
        names="K and V are read as in hnd",
    ),
    "one_key_in_the_middle_is_lost": Planted(
        what="the sixth key is dropped",
        right=_LENGTH,
        wrong='[np.arange(length) != 5] for name in "kv")',
        law="decode_is_within_the_bound",
        names="key 5 of seq 0",
    ),
}
"""Bug -> its edit and its failure."""

OTHER: dict[str, str] = {
    "gaps_between_dims_are_multiplied_by_zero": "in the gaps between elements of a strided cache against numbers there",
    "pages_in_order_of_their_numbers": "pages renumbered against before",
    "neighbours_are_multiplied_by_zero": "of sequence 0 with nan in all others against before",
    "splits_follow_the_size_of_the_batch": "alone against the whole batch",
    "plan_of_shorter_sequences_is_kept": "after a call with shorter sequences against before",
    "breaks_after_fifty_calls": "alone it conforms: it takes calls before it",
    "one_call_in_seven": "it violates now and then",
    "new_tokens_are_seen_by_older_queries": 'declare CONVENTIONS["causal"] = "none"',
    "update_clears_the_rest_of_the_page": "(past the newest token): got 0.0",
    "pages_are_gathered_as_if_full": "lies where nhd has k: page",
    "write_after_a_copy_goes_to_the_source": "gather of the child against k",
    "merge_drops_the_last_part": "last_part_is_dropped",
    "fused_v_comes_first": "k_and_v_are_swapped",
    "pq_cache_loses_its_newest_code": "after append(layer 0, 1 token), append(layer 0, 1 token)",
}
"""Adapter of tests/wrong -> what the failure of the first law that kills it (tests/power.py) has to say."""


def adapter_text() -> str:
    """The README's adapter."""
    readme = (ROOT / "README.md").read_text()
    return re.search(r"## Bring your kernel.*?```python\n(.*?)```", readme, re.S)[1]


def planted_text(name: str) -> str:
    """The README's adapter with one bug."""
    bug, right = PLANTED[name], adapter_text()
    assert right.count(bug.right) == 1, name
    return right.replace(bug.right, bug.wrong).replace('"my_kernel"', f'"{name}"')


@cache
def failure(name: str) -> str:
    """What the failure of a bug's law says, as it is pasted, without the line that replays it."""
    from kvconform.tests.power import FAULTS

    if name in OTHER:
        return _failure(WRONG / f"{name}.py", FAULTS[name][0][0], f"tests/wrong/{name}.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(planted_text(name))
        return _failure(path, PLANTED[name].law, path.name)


def _failure(path: Path, name: str, ref: str) -> str:
    from kvconform.harness import report
    from kvconform.harness.adapters import find
    from kvconform.harness.booking import VIOLATES, Run
    from kvconform.harness.cli import all_laws
    from kvconform.harness.efforts import EFFORTS
    from kvconform.harness.plan import Options
    from kvconform.harness.search import Searcher
    from kvconform.harness.subject import Subject

    searcher = Searcher(Subject(find(str(path)).load(), path.stem, path.name, ref), Options(EFFORTS["quick"]))
    searcher.begin(1)
    red = next(cell for cell in searcher.run(all_laws()[name]) if cell.outcome == VIOLATES)
    text = "\n".join(text.plain for text in report.details(Run(path.stem, cells={red.key: red})))
    return "\n".join(line for line in text.splitlines() if not line.startswith("    replay"))


def _headline(name: str) -> str:
    """What is wrong with an adapter, as its first line says it."""
    first = (WRONG / f"{name}.py").read_text().splitlines()[0]
    said = re.sub(r'(\.?( \([^()]*\))?\.?("""|$))', "", first.removeprefix('"""Wrong: '))
    return said[0].upper() + said[1:]


def page() -> str:
    """docs/failures.md."""
    parts = [
        "# What a failure says\n\nBugs planted one at a time in the README's adapter, and behind them wrong kernels of "
        "`tests/wrong`, whose first lines say what is wrong; the failure of each as `kvconform run` pastes it, without "
        "the line that replays it. Generated by `python tests/planted.py > docs/failures.md`.\n"
    ]
    for name, bug in PLANTED.items():
        parts.append(
            f"## {bug.what[0].upper()}{bug.what[1:]}\n\n```diff\n- {bug.right}\n+ {bug.wrong}\n```\n\n"
            f"```\n{failure(name)}\n```\n"
        )
    for name in OTHER:
        parts.append(f"## {_headline(name)}\n\n```\n{failure(name)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "kvconform", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["kvconform"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(page(), end="")
