"""Which rows are the same bytes: what is known of them, and that the condition found is exactly when."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from kvconform.harness.adapters import AdapterError
from kvconform.harness.compare_command import compare_layouts
from kvconform.harness.layout_page import equivalence_section
from kvconform.specs.compare import DIFFERENT, RESHAPED, SAME, compare
from kvconform.specs.equivalence import CONDITIONS, equivalence, equivalences
from kvconform.specs.layouts import LAYOUTS

PACKS = "2 * num_kv_heads are whole packs of 4 bytes"

KNOWN = [
    ("nhd", "bshd", SAME, ""),
    ("packed", "packed_unaligned", SAME, ""),  # where the second can be built
    ("interleaved", "beside_nhd", RESHAPED, ""),
    ("nhd", "kv_first_nhd", RESHAPED, ""),
    ("bshd", "cells", RESHAPED, ""),
    ("nhd", "hnd", RESHAPED, "page_size is 1 or num_kv_heads is 1"),
    ("heads_first", "hnd", RESHAPED, "num_kv_heads is 1"),
    ("interleaved", "packed", RESHAPED, f"head_dim is a multiple of 128 and {PACKS}"),
    ("interleaved", "packed_hd64", RESHAPED, "num_kv_heads are whole packs of 4 bytes"),
    ("split_x", "shuffled_v", RESHAPED, "page_size is at most 16 bytes"),
    ("kivi", "kivi_torch", DIFFERENT, ""),
    ("nvfp4", "nvfp4_swizzled", DIFFERENT, ""),
    ("tokens_last", "interleaved", DIFFERENT, ""),
]


@pytest.mark.parametrize(("left", "right", "relation", "when"), KNOWN)
def test_known_rows_are_the_same_bytes_exactly_when_the_catalogue_says(left, right, relation, when):
    found = equivalence(LAYOUTS[left], LAYOUTS[right])
    assert (found.relation, found.when) == (relation, when)
    if when:
        assert 0 < found.agree < found.tried


def test_a_condition_holds_where_rows_agree_and_nowhere_else():
    """Asked in sizes that the search did not try."""
    left, right = LAYOUTS["interleaved"], LAYOUTS["packed"]
    for dtype in ("float32", "bfloat16", "int8"):
        for head in (5, 6, 8):
            for dim in (40, 384):
                sizes = {"page": 3, "slot": 5, "head": head, "dim": dim}
                stated = CONDITIONS["head_dim is a multiple of 128"](sizes, dtype) and CONDITIONS[PACKS](sizes, dtype)
                assert compare(left, right, sizes, dtype).same_bytes == stated, (dtype, sizes)


def test_rows_that_hold_different_things_are_not_compared():
    for left, right in (("nhd", "mla"), ("nhd", "fused"), ("nhd", "token_head_scales"), ("nhd", "trtllm_blocks")):
        assert equivalence(LAYOUTS[left], LAYOUTS[right]) is None


def test_every_pair_is_found_once_and_those_always_alike_come_first():
    rows = [LAYOUTS[name] for name in ("nhd", "hnd", "bshd", "kivi", "mla", "cells")]
    found = equivalences(rows)
    names = [one.names for one in found]
    assert len(set(names)) == len(names)
    assert names[0] == ("nhd", "bshd")
    assert {frozenset(pair) for pair in names} == {
        frozenset(pair)
        for pair in (
            ("nhd", "hnd"), ("nhd", "bshd"), ("nhd", "cells"), ("hnd", "bshd"), ("hnd", "cells"), ("bshd", "cells")
        )
    }  # fmt: skip


def run(*arguments):
    done = CliRunner().invoke(compare_layouts, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.output


def test_compare_says_when_and_shows_the_first_coordinate_that_differs():
    code, text = run("nhd", "hnd")
    assert code == 1
    assert "same bytes under another shape where page_size is 1 or num_kv_heads is 1, else different" in text
    assert "first k: page 0, slot 0, head 1, dim 0: byte 64 against byte 192" in text
    code, text = run("nhd", "hnd", "--page-size", "1")
    assert code == 0
    assert "same bytes under another shape" in text
    code, text = run("interleaved", "beside_nhd")
    assert code == 0
    assert "in each of" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("nhd", "mla"),
            "nhd holds k and v by page slot head dim, mla holds ckv by page slot dim; kpe by page slot rope",
        ),
        (("nhd", "packd"), "no layout 'packd'; did you mean 'packed'"),
        (("nhd", "nvfp4"), "nvfp4 is stored in float4_e2m1fn: no type of both"),
        (("nhd", "split_x", "--head-dim", "12", "--dtype", "float16"), "dim = 12 is not a multiple of 8"),
        (("nhd", "hnd", "--num-subspaces", "3"), "nhd and hnd have no num_subspaces; their sizes are"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(arguments, said):
    with pytest.raises(AdapterError, match=said):
        run(*arguments)


def test_compare_takes_two_layouts_or_none():
    done = CliRunner().invoke(compare_layouts, ["nhd"])
    assert done.exit_code == 2
    assert "compare takes two layouts or none, not 1: nhd" in done.output


def test_the_section_lists_pairs_that_are_ever_alike_and_no_others():
    found = [equivalence(LAYOUTS["nhd"], LAYOUTS["hnd"]), equivalence(LAYOUTS["kivi"], LAYOUTS["kivi_torch"])]
    text = equivalence_section(found)
    assert "| `nhd` = `hnd` | same bytes under another shape | page_size is 1 or num_kv_heads is 1 |" in text
    assert "kivi" not in text
    assert "always" in equivalence_section([replace(found[0], when="")])


def test_sizes_that_only_one_row_fixes_are_said():
    fixed = equivalence(LAYOUTS["nhd"], LAYOUTS["token_slots"])
    assert str(fixed).endswith("geometries tried; token_slots has page_size 1 alone")
    assert "| always; token_slots has page_size 1 alone |" in equivalence_section([fixed])
    for left, right in (("nhd", "hnd"), ("token_slots", "token_slots"), ("tokens_last", "tokens_last")):
        assert equivalence(LAYOUTS[left], LAYOUTS[right]).only == ""
