"""Golden addresses: where the sources themselves put an element, against where our rows put it.

Each entry of `goldens.json` is one part of one row in one type and size. `arithmetic` is the source's own pointer
arithmetic over the source's own names, `variables` those of its names that are no coordinate: numbers, or arithmetic
over what stands before them. `coordinates` are the source's names of the part's axes, in the row's order. An offset
counts units of `unit` from the beginning of `buffer`. Where `ambiguous` says so, sizes that are easily taken for one
another are equal on purpose.
"""

import ast
import itertools
import json
import math
import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from kvconform.specs import pattern
from kvconform.specs.dtypes import width
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.row import Bytes, K
from kvconform.tests.wrong_rows import misread, same_places, written

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())

SAME_BYTES = "they lie one behind another: the same bytes whatever their size, where it can be built"
NO_WHOLE_PACKS = "without the pad they are no whole packs: cannot be built where the pad does anything"
PACKS = {
    "pack is half of 4 bytes": SAME_BYTES,
    "pack is twice 4 bytes": SAME_BYTES,
    "pack is elements, not bytes, of 4 bytes": SAME_BYTES,
}
NEVER_ELSEWHERE = {
    "packed": PACKS | {"head is not padded to 2 bytes": NO_WHOLE_PACKS},
    "packed_hd64": PACKS | {"head is not padded to 4 bytes": NO_WHOLE_PACKS},
    "packed_unaligned": PACKS,
    "tokens_last": PACKS,
    "mla_aligned": PACKS | {"slot is not padded to 4 bytes": NO_WHOLE_PACKS},
    "mla_packed": PACKS | {"slot is not padded to 4 bytes": NO_WHOLE_PACKS},
    "mla_scales_behind": {"nope_scale: 64 is twice 64": "448 is no multiple of 128: cannot be built"},
    "nvfp4_swizzled": {"part is half of 4": SAME_BYTES, "part is twice 4": SAME_BYTES},
}
"""Row -> misreading that moves nothing -> why. Each is held against the places of the row below."""

# fmt: off
HOW_MANY = {
    "nhd": 7, "hnd": 7, "heads_first": 7, "split_x": 15, "shuffled_v": 20, "token_slots": 5, "trtllm_blocks": 3,
    "kv_first_nhd": 5, "kv_first_hnd": 5, "page_first_nhd": 5, "page_first_hnd": 5, "beside_nhd": 5,
    "beside_hnd": 5, "interleaved": 5, "packed": 16, "packed_hd64": 15, "packed_unaligned": 14, "tokens_last": 15,
    "fractal": 12, "bshd": 7, "bhsd": 7, "cells": 7, "cells_v_transposed": 7, "cells_q8_0": 35, "mla": 4,
    "mla_aligned": 18, "mla_packed": 12, "mla_tokens_last": 2, "mla_656": 11, "mla_scales_behind": 14,
    "indexer_k": 10, "token_head_scales": 11, "nvfp4": 27, "nvfp4_swizzled": 39, "fp4_slots": 21, "kivi": 46,
    "kivi_torch": 54, "kvquant": 19, "code_rows": 2, "code_columns": 2, "code_heads": 3, "fused": 4,
    "parts_first": 3, "q8_0": 8, "q4_0": 12, "q4_1": 16, "q5_0": 17, "q5_1": 21, "q6_K": 37, "iq4_nl": 12,
    "mxfp4": 12, "nvfp4_blocks": 18, "token_slots_diffkv": 5, "beside_nhd_diffkv": 6, "beside_hnd_diffkv": 6,
    "codes": 2, "pq_rows": 5, "pq_columns": 5, "pq_heads": 5,
}
"""Row -> how many ways of misreading it there are: a generator that falls silent is seen here."""
# fmt: on

WITHOUT_A_COMMIT = {"code_columns", "pq_rows", "pq_columns"}
UNCONFIRMED = {"fractal"}


def of(row):
    return [entry for entry in GOLDENS if entry["layout"] == row.name]


every_row = pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))


# --- arithmetic as text

ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.UnaryOp, ast.USub),
    *(ast.IfExp, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Name, ast.Load),
)


@cache
def compiled(text):
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not (isinstance(node, ARITHMETIC) or (isinstance(node, ast.Constant) and type(node.value) is int)):
            raise ValueError(f"{text!r} is more than integer arithmetic: {type(node).__name__}")
    return compile(tree, text, "eval")


def evaluated(text, names):
    return eval(compiled(text), {"__builtins__": {}}, names)


def offset_by_source(entry, at):
    names = dict(zip(entry["coordinates"], at, strict=True))
    for name, value in entry["variables"].items():
        names[name] = evaluated(value, names) if isinstance(value, str) else value
    return evaluated(entry["arithmetic"], names)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "page.real", "2**3", "1.5", "page/2", "(1, 2)", "True", "page and 1"]
)
def test_arithmetic_is_integer_arithmetic_and_nothing_else(text):
    with pytest.raises(ValueError, match="is more than integer arithmetic"):
        evaluated(text, {"page": 1})


def test_arithmetic_may_be_conditional():
    assert [evaluated("a-b%3*2 if a//b>=1 else -a", {"a": a, "b": 5}) for a in (4, 6)] == [-4, 2]


# --- rows against sources


def bits_a_unit(row, entry):
    return {"bit": 1, "byte": 8, "element": width(row.dtype_of(row.part(entry["part"]), entry["dtype"]))}[entry["unit"]]


def address_by_row(row, entry, at):
    """(buffer, offsets in units) of many coordinates, one row of `at` each."""
    columns = tuple(np.asarray(at, np.int64).T)
    buffer, bits = row.address(row.part(entry["part"]), columns, entry["sizes"], entry["dtype"])
    whole, rest = np.divmod(np.broadcast_to(bits, len(at)), bits_a_unit(row, entry))
    return buffer, np.where(rest, -1, whole).tolist()


def goldens(entry):
    return [at for *at, _ in entry["goldens"]], [offset for *_, offset in entry["goldens"]]


def wrong_ones(entry, at, expected, found):
    return [
        f"{entry['part']} of {entry['dtype']} {entry['sizes']} at {c}: {e}, not {f}"
        for c, e, f in zip(at, expected, found, strict=True)
        if e != f
    ]


@every_row
def test_stored_offsets_are_those_of_the_source_s_arithmetic(row):
    for entry in of(row):
        at, offsets = goldens(entry)
        assert not wrong_ones(entry, at, offsets, [offset_by_source(entry, one) for one in at])


@every_row
def test_addresses_equal_the_golden_ones(row):
    for entry in of(row):
        at, offsets = goldens(entry)
        buffer, found = address_by_row(row, entry, at)
        assert buffer == entry["buffer"]
        assert not wrong_ones(entry, at, offsets, found)


def corners_and_samples(row, entry, count=200):
    """All corners, and coordinates that the entry's own words choose."""
    sizes = [row.fixed.get(axis, entry["sizes"][axis]) for axis in row.part(entry["part"]).axes]
    chosen = random.Random(f"{entry['layout']} {entry['part']} {entry['dtype']} {entry['sizes']}")
    corners = itertools.product(*({0, size - 1} for size in sizes))
    return [*map(list, corners), *([chosen.randrange(size) for size in sizes] for _ in range(count))]


@every_row
def test_addresses_equal_the_source_s_arithmetic_at_corners_and_200_more(row):
    for entry in of(row):
        at = corners_and_samples(row, entry)
        buffer, found = address_by_row(row, entry, at)
        assert buffer == entry["buffer"]
        assert not wrong_ones(entry, at, [offset_by_source(entry, one) for one in at], found)


# --- what the goldens are


def test_goldens_are_of_rows_that_exist():
    assert {entry["layout"] for entry in GOLDENS} == set(LAYOUTS)


@every_row
def test_goldens_cover_every_part_of_every_row(row):
    assert {entry["part"] for entry in of(row)} == {part.name for part in row.parts}
    assert all(entry["goldens"] for entry in of(row))
    assert sum(len(entry["goldens"]) for entry in of(row)) >= 6
    for entry in of(row):
        assert row.admits(entry["sizes"], entry["dtype"]), entry
        inside = [entry["sizes"][axis] for axis in row.part(entry["part"]).axes]
        assert all(0 <= i < size for *at, _ in entry["goldens"] for i, size in zip(at, inside, strict=True)), entry


@every_row
def test_goldens_come_in_every_width_where_a_row_counts_in_bytes(row):
    counts_in_bytes = any(isinstance(size, Bytes) for table in (row.inner, row.pad) for size in table.values())
    widths = {width(dtype) for dtype in row.dtypes}
    found = {width(entry["dtype"]) for entry in of(row)}
    assert found == widths if counts_in_bytes else len(found) >= min(2, len(widths))


def coincidences(sizes):
    equal = [f"{a} == {b}" for a, b in itertools.combinations(sizes, 2) if sizes[a] == sizes[b]]
    return equal + ["head == 2"] * (sizes.get("head") == 2)


@every_row
def test_sizes_tell_axes_apart_unless_they_are_marked(row):
    for entry in of(row):
        assert entry.get("ambiguous", []) == coincidences(entry["sizes"]), entry["sizes"]
    for part in row.parts:
        assert any(entry["part"] == part.name and "ambiguous" not in entry for entry in of(row))


def test_known_ambiguous_sizes_are_among_the_goldens():
    marked = {(entry["layout"], one) for entry in GOLDENS for one in entry.get("ambiguous", [])}
    fused = {row.name for row in LAYOUTS.values() if "kv" in row.fields and "head" in row.parts[0].axes}
    assert fused <= {name for name, one in marked if one == "head == 2"}
    assert {"nhd", "hnd", "beside_nhd", "beside_hnd", "bshd", "bhsd"} <= {
        n for n, one in marked if one == "slot == head"
    }


@every_row
def test_sources_name_a_repository_and_a_commit(row):
    sources = {entry["source"] for entry in of(row)}
    pinned = any(re.search(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,40}\b", source) for source in sources)
    assert pinned == (row.name not in WITHOUT_A_COMMIT)
    assert any(source.startswith("UNCONFIRMED") for source in sources) == (row.name in UNCONFIRMED)


# --- what the goldens would catch


def differs(entry, wrong):
    """Whether a row puts some golden of an entry elsewhere; None where it cannot be built in these sizes."""
    if wrong.flaw(entry["sizes"], entry["dtype"]):
        return None
    at, offsets = goldens(entry)
    return address_by_row(wrong, entry, at) != (entry["buffer"], offsets)


def built(row, wrong):
    """The sizes and types of a row's goldens that a misreading of it takes, but those of a million elements."""
    cases = {
        (entry["dtype"], *entry["sizes"].items()) for entry in of(row) if not wrong.flaw(entry["sizes"], entry["dtype"])
    }
    return [(dict(sizes), dtype) for dtype, *sizes in cases if math.prod(size for _, size in sizes) < 1_000_000]


@every_row
def test_goldens_catch_every_misreading_of_a_row(row):
    """But for those that keep every place, which are written down with the reason."""
    misreadings = dict(misread(row))
    assert len(misreadings) == len(list(misread(row)))
    unseen = {what for what, wrong in misreadings.items() if not any(differs(entry, wrong) for entry in of(row))}
    assert unseen == set(NEVER_ELSEWHERE.get(row.name, {}))
    for what in unseen:
        cases = built(row, misreadings[what])
        refused = [differs(entry, misreadings[what]) is None for entry in of(row)]
        assert cases or all(refused), what
        assert all(same_places(row, misreadings[what], sizes, dtype) for sizes, dtype in cases), what


def test_every_row_has_as_many_misreadings_as_are_written_down():
    assert {name: len(list(misread(row))) for name, row in LAYOUTS.items()} == HOW_MANY


@every_row
def test_at_the_origin_no_exchange_of_axes_would_be_caught(row):
    """The catch is the coordinates' doing: where all of them are 0 it is gone."""
    exchanged = [wrong for what, wrong in misread(row) if " and " in what and "K and V" not in what]
    for entry in of(row):
        if row.part(entry["part"]).side == K and not any("|" in one.line for one in row.fields.values()):
            origin = [[0] * len(entry["coordinates"])]
            right = address_by_row(row, entry, origin)
            assert all(
                address_by_row(wrong, entry, origin) == right
                for wrong in exchanged
                if not wrong.flaw(entry["sizes"], entry["dtype"])
            )


# --- the misreadings themselves


@every_row
def test_a_line_survives_being_read_and_written(row):
    for one in row.fields.values():
        assert pattern.parse(written(pattern.parse(one.line))).steps == pattern.parse(one.line).steps


def test_misreadings_are_of_every_kind():
    kinds = {"exchanged", "for", "half", "twice", "elements", "padded", "before"}
    words = [set(re.findall(r"\w+", what)) for row in LAYOUTS.values() for what, _ in misread(row)]
    assert all(kinds & one for one in words)
    assert all(any(kind in one for one in words) for kind in kinds)
