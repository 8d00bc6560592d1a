"""What `kvconform layouts` and `kvconform show` say and draw is what the rows are."""

import json
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from kvconform.harness import layout_page, layout_svg, layout_terminal
from kvconform.harness.adapters import AdapterError
from kvconform.harness.layout_commands import layouts, show
from kvconform.harness.layout_facts import facts
from kvconform.harness.layout_picture import (
    LEFT_OUT,
    LETTERS,
    PADDING,
    PictureError,
    colours,
    shade_of,
    small_dtype,
    small_sizes,
)
from kvconform.harness.layout_rows import LONGEST_ROW, MOST_CELLS, picture
from kvconform.harness.layout_svg import write_pictures
from kvconform.impls.numpy_kernels import views as numpy_views
from kvconform.specs.dtypes import width
from kvconform.specs.formula import all_names, formulas, size_name, size_names
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.row import Field, Layout, V
from kvconform.tests import test_goldens, wrong_rows

ROWS = pytest.mark.parametrize("row", LAYOUTS.values(), ids=list(LAYOUTS))
SVG = "{http://www.w3.org/2000/svg}"


def drawn(row, **given):
    dtype = small_dtype(row)
    return picture(row, small_sizes(row, dtype, given), dtype)


@cache
def small(name):
    """The picture that most tests look at."""
    return drawn(LAYOUTS[name])


def runs(shown):
    """(buffer, run) of all that holds something."""
    rows = ((one.buffer, row) for one in shown.buffers for row in one.rows)
    return [(buffer, run) for buffer, row in rows for run in row.runs if run.part not in (PADDING, LEFT_OUT)]


def coordinates(part, label):
    """`h0 t2 d64-127` as people read it: the first place of each; what is not said is 0."""
    said = {word[0]: int(re.match(r"\d+", word[1:])[0]) for word in label.split()}
    return tuple(said.get(LETTERS[axis][0], 0) for axis in part.axes)


def misread(row, shown):
    """Cells whose label is not what the row has at their place."""
    wrong = []
    for buffer, run in runs(shown):
        part = row.part(run.part)
        for number, cell in enumerate(run.cells):
            at = coordinates(part, f"{run.head} {cell.label}")
            if row.address(part, at, shown.sizes, shown.dtype) != (buffer, run.start + number * run.bits):
                wrong.append((run, cell))
    return wrong


def run_of(command, *arguments, columns=100):
    return CliRunner().invoke(command, arguments, env={"COLUMNS": str(columns), "NO_COLOR": "1"})


# --- the picture


@ROWS
def test_every_cell_is_labelled_with_what_lies_there(row):
    shown = small(row.name)
    assert sum(len(run.cells) for _, run in runs(shown)) >= 8
    assert misread(row, shown) == []


@pytest.mark.parametrize(("one", "other"), [("nhd", "hnd"), ("interleaved", "page_first_nhd"), ("kivi", "kivi_torch")])
def test_labels_of_another_layout_are_seen_to_be_wrong(one, other):
    assert misread(LAYOUTS[other], replace(small(one), row=LAYOUTS[other]))


@ROWS
def test_what_is_drawn_as_padding_is_what_no_part_claims(row):
    shown = small(row.name)
    for one in shown.buffers:
        live = row.live(one.buffer, shown.sizes, shown.dtype)
        for line in one.rows:
            for run in line.runs:
                if run.part != LEFT_OUT:
                    bits = run.bits * max(1, len(run.cells))
                    stretch = live[run.start : run.start + bits]
                    assert len(stretch) == bits
                    assert stretch.any() == stretch.all() == (run.part != PADDING)


@ROWS
def test_rows_are_drawn_without_gap_or_overlap(row):
    for one in small(row.name).buffers:
        end = 0
        for line in one.rows:
            stretches = [(run.start, run.start + run.bits * max(1, len(run.cells))) for run in line.runs]
            left_out = {n for n, run in enumerate(line.runs) if run.part == LEFT_OUT}
            assert stretches[0][0] >= end
            for n, (before, after) in enumerate(pairwise(stretches)):
                assert after[0] == before[1] or {n, n + 1} & left_out
            end = stretches[-1][1]


@ROWS
def test_every_part_is_drawn_and_padding_where_a_row_pads(row):
    shown = small(row.name)
    assert {run.part for _, run in runs(shown)} == {part.name for part in row.parts}
    assert any(run.part == PADDING for run in shown.runs) == bool(row.pad)


@ROWS
def test_a_picture_stays_small(row):
    shown = small(row.name)
    assert shown.num_cells <= MOST_CELLS
    assert all(len(run.cells) <= LONGEST_ROW for run in shown.runs if not run.text)


@ROWS
def test_small_sizes_show_what_the_row_does(row):
    dtype = small_dtype(row)
    sizes = small_sizes(row, dtype)
    assert row.admits(sizes, dtype)
    for name in row.fields:
        measured = row.measured(name, sizes, dtype)
        ones = {axis for table in measured.sizes for axis, size in table.items() if size == 1}
        assert ones <= {axis for axis, size in row.fixed.items() if size == 1}, "an axis of size 1 shows nothing"


def test_pages_that_are_not_in_one_piece_are_all_drawn():
    for name, whole in (("nhd", False), ("heads_first", True), ("kv_first_nhd", True), ("token_slots", True)):
        shown = small(name)
        assert any(re.search(r"\bp1\b", run.head) for run in shown.runs) == whole, name
        assert ("All pages" in shown.notes[0]) == whole
        assert ("Page 0 of 2" in shown.notes[0]) != whole


def test_a_pool_of_both_shows_a_page_of_each():
    shown = small("trtllm_blocks")
    assert {(run.part, run.head.split()[0]) for run in shown.runs} == {("k", "p0"), ("v", "p1")}
    assert shown.notes == ("A page holds K or V: here page 0 holds K, page 1 V.",)


def test_a_long_run_is_one_block_with_its_count():
    found = small("mla_656").buffers[0].rows[0].runs
    assert [(run.part, run.head, run.text) for run in found] == [
        ("nope", "t0 d0-511", "512 x float8_e4m3fn"),
        ("nope_scale", "t0 d0-511", "4 x float32"),
        ("rope", "t0 r0-63", "64 x bfloat16"),
    ]


def test_codes_of_one_byte_stand_side_by_side():
    cells = [cell.label for cell in small("q4_0").buffers[0].rows[0].runs[1].cells]
    assert cells[:4] == ["d0", "d16", "d1", "d17"]


def test_codes_in_no_plain_order_are_spelled_out():
    first = small("q6_K").buffers[0].rows[0].runs[0]
    assert first.text == "d0 d64 d1 d65 d2 d66 .. d31 d95, 64 x uint4"


def test_sizes_that_do_not_fit_are_refused_in_the_row_s_own_words():
    row = LAYOUTS["split_x"]
    with pytest.raises(PictureError, match="dim = 12 is not a multiple of 8"):
        small_sizes(row, "float16", {"dim": 12})
    sizes = {"page": 2, "slot": 2, "head": 2, "dim": 12}
    with pytest.raises(PictureError, match="dim = 12 is not a multiple of 8"):
        picture(row, sizes, "float16")


def test_a_cache_too_large_to_draw_is_refused():
    with pytest.raises(PictureError, match="nhd: k has 4800000 bytes in these sizes; a picture has at most 1048576"):
        drawn(LAYOUTS["nhd"], page=100_000)


# --- SVG


@ROWS
def test_an_svg_says_every_label_within_its_frame(row):
    shown = small(row.name)
    root = ElementTree.fromstring(layout_svg.svg(shown))
    wide, high = float(root.get("width")), float(root.get("height"))
    texts = [(float(t.get("x")), float(t.get("y")), t.text) for t in root.iter(f"{SVG}text")]
    for x, y, text in texts:
        assert 0 <= x <= wide
        assert 0 <= y <= high, text
    left = [t for group in root.iter(f"{SVG}g") if group.get("class") != "c" for t in group.iter(f"{SVG}text")]
    assert max(float(t.get("x")) + 5.42 * len(t.text) for t in left) <= wide
    said = [text for *_, text in texts]
    for _, run in runs(shown):
        assert run.name in said
        assert run.text in said if run.text else {cell.label for cell in run.cells} <= set(said)
    assert {part.name for part in row.parts} <= set(said), "the legend"
    assert set(shown.notes) <= set(said) or any(len(note) > 90 for note in shown.notes)


@ROWS
def test_texts_stay_inside_their_boxes(row):
    """Every label in the middle of a box: the box is as wide as the label, and no box overlaps the next."""
    root = ElementTree.fromstring(layout_svg.svg(small(row.name)))
    boxes = [
        tuple(map(float, box))
        for path in root.iter(f"{SVG}path")
        for box in re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v17h", path.get("d"))
    ]
    labels = [t for g in root.iter(f"{SVG}g") if g.get("class") == "c" for t in g.iter(f"{SVG}text")]
    assert boxes
    for text in labels:
        middle, y = float(text.get("x")), float(text.get("y"))
        around = [b for b in boxes if b[1] < y < b[1] + 17 and b[0] <= middle <= b[0] + b[2]]
        if not text.text.startswith(LEFT_OUT):
            assert len(around) == 1, text.text
            assert len(text.text) * 5.42 <= around[0][2], text.text
    for x, y, wide in boxes:
        assert not [b for b in boxes if b[1] == y and x < b[0] < x + wide - 0.11]


def test_an_svg_brings_its_own_background_and_black_text_is_legible_on_every_shade():
    assert '<rect width="' in layout_svg.svg(small("nhd"))
    assert 'fill="#fff"' in layout_svg.svg(small("nhd"))

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for row in LAYOUTS.values():
        for shades in colours(row).values():
            assert len(set(shades)) == len(shades)
            for shade in shades:
                assert (luminance(shade) + 0.05) / (luminance("#111111") + 0.05) >= 4.5


def test_parts_of_a_row_have_colours_of_their_own():
    for row in LAYOUTS.values():
        shades = [shade for several in colours(row).values() for shade in several]
        assert len(set(shades)) == len(shades), row.name
    assert [shade_of(head) for head in range(5)] == [0, 1, 2, 3, 0]


def test_pictures_are_the_same_bytes_each_time_and_small(tmp_path):
    first, second = (layout_svg.write_pictures(tmp_path / name) for name in "ab")
    assert [path.name for path in first] == [f"{name}.svg" for name in LAYOUTS]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert sum(path.stat().st_size for path in first) < 600_000


# --- the terminal


@pytest.mark.parametrize(
    ("name", "columns"), [*((name, 80) for name in LAYOUTS), *((name, 100) for name in ("packed", "nvfp4", "q6_K"))]
)
def test_no_line_is_wider_than_the_terminal(name, columns):
    done = run_of(show, name, columns=columns)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= columns


@ROWS
def test_letters_say_what_colours_say(row):
    shown = small(row.name)
    lines = list(layout_terminal.lines(shown, 100))
    plain = "\n".join(line.plain for line in lines)
    for _, run in runs(shown):
        assert f"{run.name} [{run.text or run.cells[0].label}" in plain
    console = Console(no_color=True, force_terminal=True, width=100, soft_wrap=True)
    with console.capture() as caught:
        for line in lines:
            console.print(line)
    assert "48;" not in caught.get(), "no background without colours"
    coloured = Console(force_terminal=True, color_system="truecolor", no_color=False, width=100, soft_wrap=True)
    with coloured.capture() as caught:
        for line in lines:
            coloured.print(line)
    assert "48;2;" in caught.get()
    assert re.sub(r"\x1b\[[\d;]*m", "", caught.get()).split() == plain.split()


def test_a_comma_joins_the_codes_of_one_byte():
    plain = run_of(show, "q4_0").output
    assert "codes [d0,d16 d1,d17 d2,d18" in plain
    assert "A comma joins what lies in a byte, the lower bits first." in plain
    assert "comma" not in run_of(show, "nhd").output


# --- commands


def test_show_says_all_of_a_layout():
    told = run_of(show, "packed", columns=140).output
    row = LAYOUTS["packed"]
    for text in (
        "kv: kv page slot head dim -> page slot (head kv) dim, then page slot (row pack) lane",
        "[num_pages, page_size, num_kv_heads, 2, up(head_dim, 128)] = [2, 3, 2, 2, 128], 6144 bytes",
        formulas(row, small_dtype(row))["v"].text,
        "up(n, m) is n rounded up to a multiple of m",
        "pack = 4 bytes, 2 of",
        "head_dim is rounded up to a multiple of 128",
        "kv: 5952 of 6144 bytes in these sizes",
        row.source,
        row.sentinels,
        "flat (page_indices",
        "k h0 t0 [d0 d1 d2 d3] [padding 124 x",
    ):
        assert text in told, text
    assert "fixed" not in told


def test_show_takes_sizes_by_their_names():
    told = run_of(
        show, "nhd", "--page-size", "4", "--num-kv-heads", "3", "--head-dim", "8", "--dtype", "float32"
    ).output
    assert "num_pages 2, page_size 4, num_kv_heads 3, head_dim 8, float32" in told
    assert "h2 t3" in told


def test_every_size_of_every_layout_has_an_option():
    options = {option.removeprefix("--").replace("-", "_") for one in show.params for option in one.opts}
    for row in LAYOUTS.values():
        assert set(size_names(row).values()) <= options
    assert options <= {*all_names(), "name", "svg", "dtype"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nhdd",), "no layout 'nhdd'; did you mean 'nhd'?"),
        (("nhd", "--dtype", "int3"), "nhd is not defined for int3; it takes float32"),
        (("split_x", "--head-dim", "12"), "dim = 12 is not a multiple of 8 (x = 8); asked for head_dim 12"),
        (("tokens_last", "--page-size", "64"), "tokens_last has slot = 128, not 64; asked for page_size 64"),
        (("nhd", "--num-elements", "4"), "nhd has no num_elements; its sizes are num_pages, page_size, num_kv_heads"),
        (("nhd", "--svg", "/nowhere/nhd.svg"), "--svg /nowhere/nhd.svg: there is no folder /nowhere"),
    ],
)
def test_wrong_values_give_a_sentence(arguments, said):
    done = run_of(show, *arguments)
    assert isinstance(done.exception, AdapterError)
    assert said in str(done.exception)


def test_show_without_a_name_lists_the_names():
    done = run_of(show)
    assert done.exit_code == 2
    assert "Missing argument 'NAME'. Layouts: nhd, hnd, " in done.output
    assert all(name in done.output for name in LAYOUTS)


def test_show_writes_the_picture(tmp_path):
    file = tmp_path / "nhd.svg"
    done = run_of(show, "nhd", "--svg", str(file))
    assert f"picture: {file}" in done.output.replace("\n", "")
    assert file.read_text() == layout_svg.svg(small("nhd"))


def test_help_teaches_with_an_example():
    told = run_of(show, "--help").output
    for line in re.findall(r"kvconform show (.*?)  ", told):
        arguments = [one for one in line.split() if not one.startswith("--svg") and not one.endswith(".svg")]
        assert run_of(show, *arguments).exit_code == 0, line
    assert "kvconform show split_x --head-dim 32 --page-size 4" in told


@pytest.mark.parametrize("columns", [80, 100])
def test_layouts_lists_every_row(columns):
    told = run_of(layouts, columns=columns).output
    assert max(map(len, told.splitlines())) <= columns
    assert re.findall(r"^. (\w+) ", told, re.M)[1:] == list(LAYOUTS)
    assert "all but int8" in told


# --- the page


def test_the_page_has_a_section_for_every_row_with_its_formulas_and_picture():
    text = layout_page.page().partition("## Page tables")[0]
    sections = re.split(r"^### ", text, flags=re.M)[1:]
    assert [one.partition("\n")[0] for one in sections] == list(LAYOUTS)
    for row, section in zip(LAYOUTS.values(), sections, strict=True):
        assert f"(pictures/layouts/{row.name}.svg)" in section
        assert row.source in section
        assert row.sentinels in section
        assert all(f"`{one.line}`" in section for one in row.fields.values())
        for one in formulas(row, small_dtype(row)).values():
            assert f"in {one.unit}: `{one.text}`" in section
        assert f"(#{row.name.lower()})" in text
        assert all(f"{size_name(row, axis)} = {size}" in section for axis, size in row.fixed.items())


def test_the_command_prints_the_page_and_writes_the_pictures(tmp_path):
    assert run_of(layouts, "--markdown").output == layout_page.whole_page()
    done = run_of(layouts, "--pictures", str(tmp_path / "some" / "folder"))
    assert done.output.startswith(f"{len(LAYOUTS)} pictures in ")
    assert (tmp_path / "some" / "folder" / "packed.svg").is_file()


def test_equivalences_stand_before_the_layouts():
    text = layout_page.page("## Equivalences\n\nnhd is bshd.\n")
    assert (
        text.index("\n## All layouts")
        < text.index("\n## Equivalences\n\nnhd is bshd.\n\n### nhd")
        < text.index("### hnd")
    )
    assert text.replace("## Equivalences\n\nnhd is bshd.\n\n", "") == layout_page.page()


def test_the_page_and_the_pictures_are_those_that_the_rows_generate(tmp_path):
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "layouts.md").read_text() == layout_page.whole_page()
    drawn_now = {path.name: path.read_bytes() for path in write_pictures(tmp_path)}
    assert {path.name: path.read_bytes() for path in (docs / layout_page.PICTURES).iterdir()} == drawn_now


def test_adding_a_layout_takes_the_lines_that_the_page_shows(monkeypatch):
    """The row, its reader and its goldens are run; with the names of the files they are under 40 lines."""
    shown = re.search(r"```diff\n(.*?)```", layout_page.page(), re.S)[1].splitlines()
    assert len(shown) < 40
    added = layout_page.ADDED
    assert shown == [
        line for file, text in added.items() for line in (f"+++ {file}", *("+" + one for one in text.splitlines()))
    ]
    row = eval(added["specs/layouts.py"].strip().rstrip(","), {"Layout": Layout, "Field": Field, "V": V})
    assert row.name not in LAYOUTS
    assert misread(row, drawn(row)) == []
    entries = json.loads("[" + added["tests/goldens.json"].rstrip().rstrip(",") + "]")
    monkeypatch.setattr(test_goldens, "GOLDENS", entries)
    for claim in (
        test_goldens.test_stored_offsets_are_those_of_the_source_s_arithmetic,
        test_goldens.test_addresses_equal_the_golden_ones,
        test_goldens.test_addresses_equal_the_source_s_arithmetic_at_corners_and_200_more,
        test_goldens.test_goldens_cover_every_part_of_every_row,
        test_goldens.test_goldens_come_in_every_width_where_a_row_counts_in_bytes,
        test_goldens.test_sizes_tell_axes_apart_unless_they_are_marked,
        test_goldens.test_sources_name_a_repository_and_a_commit,
        test_goldens.test_goldens_catch_every_misreading_of_a_row,
    ):
        claim(row)
    how_many = eval("{" + added["tests/test_goldens.py"] + "}")
    assert how_many == {row.name: len(list(wrong_rows.misread(row)))}
    views = eval("{" + added["impls/numpy_kernels/views.py"] + "}", vars(numpy_views))[row.name]
    sizes = entries[0]["sizes"]
    cache = {name: np.arange(4200).reshape(row.shape(name, sizes, "float16")) for name in row.buffers}
    for view, part in zip(views(cache, None), row.parts, strict=True):
        assert np.array_equal(view, row.places(part, sizes, "float16") // 16)


@ROWS
def test_facts_leave_nothing_of_a_row_out(row):
    told = facts(row, small_dtype(row), small(row.name).sizes)
    assert ("padding" in told) == bool(row.pad)
    assert ("fixed" in told) == bool(row.fixed)
    assert ("sentinels" in told) == bool(row.sentinels)
    assert ("page table" in told) == (row.holds == "pages")
    own = {one.dtype for one in row.fields.values()} - {""}
    assert all(any(dtype in line for line in told["dtypes"]) for dtype in own)
    assert width(small_dtype(row)) == 16 or all(width(dtype) != 16 for dtype in row.dtypes)
    for axis, multiple in row.pad.items():
        assert sum(str(multiple) in line for line in told["padding"]) >= 1, axis
