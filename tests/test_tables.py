"""Every page table says the same pages, has them where its source's arithmetic finds them, and refuses the rest."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvconform.oracles.tables import WRONG_READERS, empty_sequence_table
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.row import SIDES, K, V
from kvconform.specs.table import Pages, TableError
from kvconform.specs.tables import TABLES, convert, slot_mapping

SAYS = {"shared": set(TABLES) - {"none"}, "own": set(TABLES), "apart": {"block_pairs"}}
"""Kind of batch -> the tables that can say it."""

BATCH = Pages.shared([[5, 2], [], [7, 0, 4]], [7, 0, 9])
"""Three sequences in pages of 4 slots: a last page of 3 tokens, none, a last page of 1."""

WRITTEN = {
    "block_table": {"block_table": [[5, 2, -1], [-1, -1, -1], [7, 0, 4]], "kv_lens": [7, 0, 9]},
    "csr": {"last_page_len": [3, 1, 1], "kv_indptr": [0, 2, 2, 5], "kv_indices": [5, 2, 7, 0, 4]},
    "token_slots": {
        "kv_indptr": [0, 7, 7, 16],
        "kv_indices": [20, 21, 22, 23, 8, 9, 10, 28, 29, 30, 31, 0, 1, 2, 3, 16],
    },
    "flat": {"page_indices": [5, 2, -1, -1, -1, -1, 7, 0, 4], "kv_lens": [7, 0, 9]},
    "ragged": {"page_indices": [5, 2, 7, 0, 4], "kv_lens": [7, 0, 9], "cu_kv_lens": [0, 8, 8, 20]},
    "block_pairs": {
        "block_table": [[[5, 2, -1]] * 2, [[-1, -1, -1]] * 2, [[7, 0, 4]] * 2],
        "kv_lens": [7, 0, 9],
    },
}

LENGTH = {
    "csr": lambda a, i, size: (
        0
        if a["kv_indptr"][i + 1] == a["kv_indptr"][i]
        else (a["kv_indptr"][i + 1] - a["kv_indptr"][i] - 1) * size + a["last_page_len"][i]
    ),
    "token_slots": lambda a, i, size: a["kv_indptr"][i + 1] - a["kv_indptr"][i],
}
"""The length of sequence i where no kv_lens says it: paged_kv_t::get_length, SGLang's cur_batch_seq_len."""

SLOT = {
    "block_table": lambda a, i, t, size, kv: at(a["block_table"], i * a["block_table"].shape[1] + t // size, t, size),
    "csr": lambda a, i, t, size, kv: at(a["kv_indices"], (a["kv_indptr"][i] * size + t) // size, t, size),
    "token_slots": lambda a, i, t, size, kv: a["kv_indices"][a["kv_indptr"][i] + t],
    "flat": lambda a, i, t, size, kv: at(
        a["page_indices"], i * (len(a["page_indices"]) // len(a["kv_lens"])) + t // size, t, size
    ),
    "ragged": lambda a, i, t, size, kv: at(a["page_indices"], -(-a["cu_kv_lens"][i] // size) + t // size, t, size),
    "block_pairs": lambda a, i, t, size, kv: at(
        a["block_table"],
        i * a["block_table"].shape[2] * 2 + kv * a["block_table"].shape[2] + t // size,
        t,
        size,
    ),
    "none": lambda a, i, t, size, kv: i * size + t,
}
"""The slot of token t of sequence i by the pointer arithmetic of each table's source."""


def at(entries, index, token, page_size):
    return entries.ravel()[index] * page_size + token % page_size


def listed(arrays):
    return {name: array.tolist() for name, array in arrays.items()}


@st.composite
def batches(draw, kind="shared"):
    """(pages, page_size); `own`: sequence i in page i; `apart`: K and V in pages of their own."""
    page_size = draw(st.sampled_from([1, 2, 4]))
    most = page_size if kind == "own" else 3 * page_size
    kv_lens = draw(st.lists(st.integers(0, most), max_size=4))
    counts = [-(-n // page_size) for n in kv_lens]
    if kind == "own":
        return Pages.shared(([i] * n for i, n in enumerate(counts)), kv_lens), page_size
    free = iter(draw(st.permutations(range(2 * sum(counts)))))
    k, v = (tuple(tuple(next(free) for _ in range(n)) for n in counts) for _ in SIDES)
    if draw(st.booleans()) and all(counts):
        k = tuple((k[0][0], *run[1:]) for run in k)
    return Pages(k, v if kind == "apart" else k, tuple(kv_lens)), page_size


def forms(pages):
    """Keywords of `write`."""
    most = max(map(len, pages.k), default=0)
    return st.fixed_dictionaries(
        {
            "index_dtype": st.sampled_from(["int32", "int64"]),
            "padding": st.sampled_from([-1, 0, 1]),
            "width": st.sampled_from([None, most, most + 2]),
            "empty_last_page_len": st.sampled_from([0, 1, 4]),
        }
    )


def quick(test):
    return settings(max_examples=60)(test)


# --- what a row is


def test_every_layout_names_a_page_table():
    assert {row.table for row in LAYOUTS.values()} <= set(TABLES)


def test_rows_are_filed_under_their_names_and_state_everything():
    for name, row in TABLES.items():
        assert row.name == name
        assert row.arrays
        assert all((row.empty, row.cannot, row.source)), name
        assert all(entry.meaning and entry.axes and entry.dtype == "int32" for entry in row.arrays.values())


@pytest.mark.parametrize("name", WRITTEN)
def test_a_table_is_written_as_its_source_lays_it_out(name):
    arrays = TABLES[name].write(BATCH, 4)
    assert set(arrays) == set(TABLES[name].arrays)
    assert listed(arrays) == WRITTEN[name]
    assert TABLES[name].read(arrays, 4) == BATCH


def test_a_cache_without_pages_says_lengths_alone():
    pages = Pages.shared([[0], [], [2]], [3, 0, 4])
    assert listed(TABLES["none"].write(pages, 4)) == {"kv_lens": [3, 0, 4]}
    assert TABLES["none"].read({"kv_lens": np.array([3, 0, 4])}, 4) == pages


# --- what all of them keep


@pytest.mark.parametrize("kind", SAYS)
def test_every_conversion_keeps_the_pages(kind):
    seen = set()

    @quick
    @given(data=st.data())
    def one(data):
        pages, page_size = data.draw(batches(kind))
        form = data.draw(forms(pages))
        for a, b in product(SAYS[kind], repeat=2):
            arrays = TABLES[a].write(pages, page_size, **form)
            assert TABLES[b].read(convert(a, b, arrays, page_size, **form), page_size) == pages, (a, b)
            assert {array.dtype.name for array in arrays.values()} == {form["index_dtype"]}
        seen.add((0 in pages.kv_lens, len(pages.kv_lens), pages.k == pages.v))

    one()
    assert {empty for empty, *_ in seen} == {True, False}
    assert {n for _, n, _ in seen} == {0, 1, 2, 3, 4}
    assert (False in {same for *_, same in seen}) == (kind == "apart")


@pytest.mark.parametrize("name", TABLES)
def test_tokens_lie_where_the_source_s_own_arithmetic_finds_them(name):
    kind = next(kind for kind in ("apart", "shared", "own") if name in SAYS[kind])
    checked = []

    @quick
    @given(data=st.data())
    def one(data):
        pages, page_size = data.draw(batches(kind))
        arrays = TABLES[name].write(pages, page_size, **data.draw(forms(pages)))
        for seq, kv_len in enumerate(pages.kv_lens):
            length = LENGTH.get(name, lambda a, i, size: a["kv_lens"][i])
            assert length(arrays, seq, page_size) == kv_len
            for token, side in product(range(kv_len), SIDES):
                page = pages.of(side)[seq][token // page_size]
                found = SLOT[name](arrays, seq, token, page_size, side)
                assert found == page * page_size + token % page_size
                checked.append(token)

    one()
    assert len(checked) > 100


def test_a_writer_and_a_reader_that_err_alike_are_caught_by_the_source_s_arithmetic():
    """V before K in both: the round trip closes, TensorRT-LLM's own pointer finds the other side's page."""
    pages = Pages(((4,),), ((7,),), (3,))
    row = TABLES["block_pairs"]
    swapped = replace(
        row,
        writer=lambda p, form: row.writer(Pages(p.v, p.k, p.kv_lens), form),
        reader=lambda arrays, size: Pages(*(row.reader(arrays, size).of(side) for side in (V, K)), pages.kv_lens),
    )
    arrays = swapped.write(pages, 4)
    assert swapped.read(arrays, 4) == pages
    assert [SLOT["block_pairs"](arrays, 0, 2, 4, side) for side in SIDES] == [30, 18]
    assert [SLOT["block_pairs"](row.write(pages, 4), 0, 2, 4, side) for side in SIDES] == [18, 30]


def test_empty_sequences_survive_in_every_position():
    for lens in product((0, 1, 4, 5), repeat=3):
        free = iter((6, 1, 4, 0, 2, 5))
        pages = Pages.shared(([next(free) for _ in range(-(-n // 4))] for n in lens), lens)
        for a, b in product(SAYS["shared"], repeat=2):
            assert TABLES[b].read(convert(a, b, TABLES[a].write(pages, 4), 4), 4).kv_lens == lens, (a, b)


def test_padding_and_width_are_the_caller_s():
    assert listed(TABLES["block_table"].write(BATCH, 4, padding=6, width=4))["block_table"] == [
        [5, 2, 6, 6],
        [6, 6, 6, 6],
        [7, 0, 4, 6],
    ]
    assert listed(TABLES["ragged"].write(BATCH, 4, padding=6, width=2))["page_indices"] == [5, 2, 7, 0, 4, 6]
    assert len(TABLES["token_slots"].write(BATCH, 4, width=2)["kv_indices"]) == 3 * 2 * 4
    assert listed(TABLES["csr"].write(BATCH, 4, empty_last_page_len=0))["last_page_len"] == [3, 0, 1]


def test_a_batch_of_empty_sequences_still_has_a_column():
    nothing = Pages.shared([[], []], [0, 0])
    assert TABLES["block_table"].write(nothing, 4)["block_table"].shape == (2, 1)
    assert TABLES["block_pairs"].write(nothing, 4)["block_table"].shape == (2, 2, 1)
    assert TABLES["flat"].write(nothing, 4)["page_indices"].shape == (2,)
    assert TABLES["csr"].write(nothing, 4)["kv_indices"].shape == (0,)


def test_ragged_sequences_begin_where_cu_kv_lens_says_even_with_room_between():
    """cu_kv_lens of seq * pages_per_seq * page_size makes a ragged reader read a flat table."""
    flat = TABLES["flat"].write(BATCH, 4)
    assert TABLES["ragged"].read(flat | {"cu_kv_lens": np.array([0, 12, 24, 36])}, 4) == BATCH


def test_what_stands_behind_a_sequence_s_pages_is_not_read():
    arrays = TABLES["block_table"].write(BATCH, 4, padding=5, width=6)
    assert TABLES["block_table"].read(arrays, 4) == BATCH


# --- goldens, from each source's arithmetic by hand


def test_golden_tensorrt_llm_row_base_is_seq_m_2_plus_kv_m():
    """B = 2, M = 3, H = 3, P = 8, D = 80 in float16; byte offsets of (kv, seq, token, head, dim) in the pool."""
    pages = Pages(((4, 11, 2), (0, 5, 12)), ((7, 1, 9), (3, 10, 6)), (24, 24))
    arrays = TABLES["block_pairs"].write(pages, 8)
    row, sizes = LAYOUTS["trtllm_blocks"], {"page": 13, "slot": 8, "head": 3, "dim": 80}
    for kv, seq, token, head, dim, block, offset in (
        (0, 0, 20, 1, 74, 2, 9748),
        (1, 0, 10, 1, 52, 1, 5544),
        (1, 0, 20, 1, 56, 9, 36592),
    ):
        assert arrays["block_table"].ravel()[seq * 3 * 2 + kv * 3 + (token >> 3)] == block
        page = TABLES["block_pairs"].read(arrays, 8).of(kv)[seq][token // 8]
        part = row.of_side(kv)[0]
        assert row.address(part, (page, token % 8, head, dim), sizes, "float16") == ("pool", 8 * offset)


def test_golden_vllm_slot_mapping():
    """P = 16, table [6, 2, 9, 4]: positions 0, 16 and 47 are slots 96, 32 and 159."""
    slots = slot_mapping(Pages.shared([[6, 2, 9, 4]], [64]), 16)
    assert [slots[position] for position in (0, 16, 47)] == [96, 32, 159]
    assert slots.dtype == np.int64


def test_golden_rpa_flat_index():
    """pages_per_seq = 4: page 2 of sequence 1 stands at 1 * 4 + 2."""
    pages = Pages.shared([[9], [3, 8, 5]], [2, 41])
    entries = TABLES["flat"].write(pages, 16, width=4, padding=0)["page_indices"]
    assert entries.tolist() == [9, 0, 0, 0, 3, 8, 5, 0]
    assert entries[1 * 4 + 2] == 5


def test_golden_sglang_jax_ragged_start():
    """kv_lens 17, 0, 16, 1 in pages of 16 are aligned to 32, 0, 16, 16: sequences begin at pages 0, 2, 2, 3."""
    arrays = TABLES["ragged"].write(Pages.shared([[9, 1], [], [4], [7]], [17, 0, 16, 1]), 16)
    assert arrays["cu_kv_lens"].tolist() == [0, 32, 32, 48, 64]
    assert [-(-cu // 16) for cu in arrays["cu_kv_lens"][:-1]] == [0, 2, 2, 3]
    assert arrays["page_indices"].tolist() == [9, 1, 4, 7]


def test_golden_flashinfer_get_length():
    """Two pages of 16 and a last page of 5 are 21 tokens; 16 is written as 16 and never as 0; no page is length 0."""
    arrays = {"kv_indptr": [0, 2, 2, 3], "kv_indices": [3, 1, 2], "last_page_len": [5, 9, 16]}
    pages = TABLES["csr"].read(arrays, 16)
    assert pages.kv_lens == (21, 0, 16)
    assert pages.k == ((3, 1), (), (2,))
    assert TABLES["csr"].write(pages, 16)["last_page_len"].tolist() == [5, 1, 16]


def test_slots_of_k_and_of_v_are_of_their_own_pages():
    pages = Pages(((2,), ()), ((5,), ()), (3, 0))
    assert slot_mapping(pages, 4).tolist() == [8, 9, 10]
    assert slot_mapping(pages, 4, side=V, index_dtype="int32").tolist() == [20, 21, 22]


def test_slots_of_tokens_are_the_token_slots_table():
    assert slot_mapping(BATCH, 4).tolist() == WRITTEN["token_slots"]["kv_indices"]


# --- what is refused


def arrays_of(name, **changed):
    """The arrays of BATCH, with some of them replaced or, by None, left out."""
    arrays = WRITTEN[name] | changed
    return {name: array for name, array in arrays.items() if array is not None}


APART = {"block_table": [[[4, 2], [4, 6]]], "kv_lens": [8]}
REFUSED = [
    (
        ("block_pairs", "block_table", APART),
        "block_table: sequence 0 has K in pages 4, 2 and V in 4, 6; one list stands for both here",
    ),
    (("block_pairs", "csr", APART), "csr: sequence 0 has K in pages 4, 2 and V in 4, 6; one list"),
    (
        ("token_slots", "csr", {"kv_indptr": [0, 3], "kv_indices": [21, 22, 23]}),
        "token_slots: token 0 of sequence 0 is in slot 21; pages of 4 would have it in slot 20",
    ),
    (
        ("token_slots", "flat", {"kv_indptr": [0, 1, 7], "kv_indices": [3, 8, 9, 11, 10, 4, 5]}),
        "token_slots: token 0 of sequence 0 is in slot 3; pages of 4 would have it in slot 0",
    ),
    (
        ("token_slots", "flat", {"kv_indptr": [0, 1, 7], "kv_indices": [0, 8, 9, 11, 10, 4, 5]}),
        "token_slots: token 2 of sequence 1 is in slot 11; pages of 4 would have it in slot 10",
    ),
    (
        ("block_table", "none", arrays_of("block_table")),
        "none: sequence 0 is in pages 5, 2; without a table it is in page 0 alone",
    ),
    (
        ("block_table", "none", {"block_table": [[0], [0]], "kv_lens": [2, 2]}),
        "none: sequence 1 is in pages 0; without a table it is in page 1 alone",
    ),
    (
        ("none", "flat", {"kv_lens": [4, 5]}),
        "none: sequence 1: kv_len 5 takes 2 pages, and page_size 4 has 1 for it",
    ),
    (
        ("block_table", "csr", arrays_of("block_table", kv_lens=[7, 0, 13])),
        "block_table: sequence 2: kv_len 13 takes 4 pages, and block_table has 3 for it",
    ),
    (
        ("block_table", "csr", arrays_of("block_table", kv_lens=[7, 4, 9])),
        "block_table: sequence 1 has K in page -1, which is no page; padding is the writer's choice",
    ),
    (
        ("block_pairs", "csr", {"block_table": [[[3], [5 - 2**31]]], "kv_lens": [4]}),
        "block_pairs: sequence 0 has V in page -2147483643, which is no page; the top bit of a page is the secondary",
    ),
    (
        ("csr", "flat", arrays_of("csr", last_page_len=[3, 1, 0])),
        "csr: last_page_len of sequence 2 is 0; of one with pages it is 1 to 4",
    ),
    (
        ("csr", "flat", arrays_of("csr", last_page_len=[7, 1, 1])),
        "csr: last_page_len of sequence 0 is 7; of one with pages it is 1 to 4",
    ),
    (
        ("csr", "flat", arrays_of("csr", kv_indptr=[0])),
        "csr: kv_indptr has shape (1,), not (num_seqs + 1) with num_seqs = 3",
    ),
    (
        ("csr", "flat", arrays_of("csr", kv_indices=[5, 2, 7])),
        "csr: sequence 2 has entries 2 to 5 of 3 of kv_indices",
    ),
    (
        ("csr", "flat", arrays_of("csr", kv_indptr=[0, 3, 2, 5])),
        "csr: sequence 1 has entries 3 to 2 of 5 of kv_indices",
    ),
    (
        ("csr", "flat", arrays_of("csr", last_page_len=None)),
        "csr: takes last_page_len, kv_indptr, kv_indices, not kv_indptr, kv_indices",
    ),
    (
        ("ragged", "flat", arrays_of("ragged", cu_kv_lens=[0, 7, 7, 16])),
        "ragged: cu_kv_lens[1] is 7; it sums whole pages of 4",
    ),
    (
        ("ragged", "flat", arrays_of("ragged", cu_kv_lens=[0, 4, 8, 20])),
        "ragged: sequence 0: kv_len 7 takes 2 pages, and cu_kv_lens has 1 for it",
    ),
    (
        ("flat", "csr", arrays_of("flat", page_indices=[5, 2, 7, 0, 4])),
        "flat: page_indices has 5 entries for 3 sequences, not as many for each",
    ),
    (
        ("block_table", "csr", arrays_of("block_table", kv_lens=[7.0, 0.0, 9.0])),
        "block_table: kv_lens is float64; its entries are integers",
    ),
    (
        ("block_pairs", "csr", {"block_table": [[4, 2]], "kv_lens": [8]}),
        "block_pairs: block_table has shape (1, 2), not (num_seqs, 2, width)",
    ),
    (
        ("block_pairs", "csr", {"block_table": [[[4]] * 3], "kv_lens": [4]}),
        "block_pairs: block_table has shape (1, 3, 1), not (num_seqs, 2, width) with num_seqs = 1",
    ),
    (("block_table", "csr", arrays_of("block_table", kv_lens=[7, 0, -1])), "block_table: sequence 2 has kv_len -1"),
    (("pages", "csr", {}), "no page table is called 'pages'; there are block_table, csr, token_slots, flat, ragged"),
]


@pytest.mark.parametrize(("asked", "text"), REFUSED, ids=[f"{a}-{b}-{i}" for i, ((a, b, _), _) in enumerate(REFUSED)])
def test_what_would_be_lost_is_refused_with_a_sentence(asked, text):
    source, target, arrays = asked
    with pytest.raises(TableError) as e:
        convert(source, target, {name: np.array(array) for name, array in arrays.items()}, 4)
    assert str(e.value).startswith(text)


FORMS_REFUSED = [
    ("csr", {"page_size": 0}, "csr: page_size is 0; it is 1 or more"),
    ("flat", {"width": 2}, "flat: a width of 2 has no room for a sequence of 3 pages"),
    ("ragged", {"width": 1}, "ragged: a width of 1 has no room for 5 entries of 3 sequences"),
    ("block_table", {"page_size": 3}, "block_table: sequence 0 has 2 pages of K; kv_len 7 needs 3 of 3 slots"),
]


@pytest.mark.parametrize(("name", "form", "text"), FORMS_REFUSED, ids=[name for name, *_ in FORMS_REFUSED])
def test_a_form_that_pages_do_not_fit_is_refused_with_a_sentence(name, form, text):
    with pytest.raises(TableError) as e:
        TABLES[name].write(BATCH, **{"page_size": 4} | form)
    assert str(e.value) == text


def test_a_page_size_of_zero_is_refused_by_every_reader():
    for name, arrays in WRITTEN.items():
        with pytest.raises(TableError, match=f"{name}: page_size is 0"):
            TABLES[name].read(arrays, 0)
    with pytest.raises(TableError, match="page_size is 0"):
        slot_mapping(BATCH, 0)


def test_a_slot_beyond_the_index_dtype_is_refused_and_its_page_is_not():
    """Page 2**29 of 4 slots fits int32, its slots do not: page tables reach further than token slots."""
    far = Pages.shared([[2**29]], [1])
    assert TABLES["csr"].write(far, 4)["kv_indices"].tolist() == [2**29]
    with pytest.raises(TableError, match="token_slots: kv_indices would hold 2147483648, beyond int32"):
        TABLES["token_slots"].write(far, 4)
    with pytest.raises(TableError, match="slot_mapping would hold 2147483648, beyond int32"):
        slot_mapping(far, 4, index_dtype="int32")
    assert slot_mapping(far, 4).tolist() == [2**31]


def test_sides_that_differ_in_number_are_no_pages():
    assert Pages(((1,),), (), (4,)).flaw(4) == "0 sequences have pages of V and 1 have a kv_len"
    with pytest.raises(TableError, match="csr: 0 sequences have pages of V"):
        TABLES["csr"].write(Pages(((1,),), (), (4,)), 4)


def test_tables_without_sides_refuse_exactly_the_pages_that_differ():
    apart, same = Pages(((1,),), ((2,),), (4,)), Pages(((1,),), ((1,),), (4,))
    for name in SAYS["shared"] - {"block_pairs"}:
        TABLES[name].write(same, 4)
        with pytest.raises(TableError, match=f"{name}: sequence 0 has K in pages 1 and V in 2"):
            TABLES[name].write(apart, 4)


# --- wrong readings

SHOWN = {
    "get_seq_lens": (BATCH, {"kv_lens": (7, 1, 9)}),
    "trtllm_plan": (BATCH, {"kv_lens": (7, 1, 9), "k": ((5, 2), (7,), (0, 4))}),
    "page_of_the_next": (BATCH, {"kv_lens": (7, 1, 9), "k": ((5, 2), (7,), (7, 0, 4))}),
    "append_decode": (BATCH, {"kv_lens": (7, 2**32 - 3, 9)}),
    "modulo_page_size": (Pages.shared([[5, 2], [7]], [8, 3]), {"kv_lens": (4, 3)}),
    "one_more": (BATCH, {"kv_lens": (8, 0, 10)}),
    "next_indptr": (BATCH, {"k": ((7, 0), (), ())}),
    "csr_as_rows": (Pages.shared([[5], [2, 7, 0], [4, 1]], [4, 12, 8]), {"k": ((5,), (7, 0, 4), (4, 1))}),
    "to_the_end": (BATCH, {"k": ((5, 2), (), (7, 0, 4, 6)), "kv_lens": (7, 0, 13)}),
    "strided_slots": (BATCH, {"k": ((5, 2), (), (7, 0))}),
    "as_flat": (Pages.shared([[5], [2, 7, 0], [4, 1]], [4, 12, 8]), {"k": ((5,), (7, 0, 4), (4, 1))}),
    "as_ragged": (BATCH, {"k": ((5, 2), (), (-1, -1, -1))}),
    "k_for_both": (Pages(((1,),), ((2,),), (4,)), {"k": ((1,),), "v": ((1,),)}),
}

SURPLUS = {"to_the_end": {"width": 2, "padding": 6}}
"""Entries to spare, without which a reader is right."""

LOUD = {"modulo_page_size", "one_more", "next_indptr"}
"""Wrong readers that anybody notices."""


@pytest.mark.parametrize("name", WRONG_READERS)
def test_a_wrong_reader_reads_something_else(name):
    wrong, (pages, differs) = WRONG_READERS[name], SHOWN[name]
    row = TABLES[wrong.table]
    arrays = row.write(pages, 4, **SURPLUS.get(name, {}))
    got = wrong.read(arrays, 4)
    assert row.read(arrays, 4) == pages != got
    assert {field: getattr(got, field) for field in differs} == differs


@pytest.mark.parametrize("name", WRONG_READERS)
def test_a_wrong_reader_is_right_about_whole_pages_of_one_number(name):
    """Which is why nobody notices: every sequence has the same number of full pages, and none is empty."""
    wrong, pages = WRONG_READERS[name], Pages.shared([[5, 2], [3, 0]], [8, 8])
    assert (wrong.read(TABLES[wrong.table].write(pages, 4), 4) == pages) == (name not in LOUD)


def test_flashinfer_s_two_lengths_differ_exactly_at_sequences_without_pages():
    """Unless last_page_len is 0 there, which vLLM writes and the documentation forbids."""
    for lens, last in product(product((0, 1, 4, 6), repeat=3), (0, 1, 4)):
        free = iter(range(6))
        pages = Pages.shared(([next(free) for _ in range(-(-n // 4))] for n in lens), lens)
        arrays = TABLES["csr"].write(pages, 4, empty_last_page_len=last)
        assert WRONG_READERS["get_seq_lens"].read(arrays, 4).kv_lens == tuple(n or last for n in lens)
        assert TABLES["csr"].read(arrays, 4).kv_lens == lens


def test_ragged_read_at_a_fixed_stride_is_right_exactly_where_every_start_coincides():
    """A sequence with more or fewer pages than pages_per_seq shifts all that follow it."""
    seen = set()
    for counts in product((0, 1, 2, 3), repeat=3):
        free, stride = iter(range(9)), sum(counts) // 3
        pages = Pages.shared(([next(free) for _ in range(n)] for n in counts), [4 * n for n in counts])
        starts = (0, counts[0], counts[0] + counts[1])
        right = all(start == i * stride for i, (n, start) in enumerate(zip(counts, starts, strict=True)) if n)
        arrays = TABLES["ragged"].write(pages, 4)
        assert (WRONG_READERS["as_flat"].read(arrays, 4) == pages) == right, counts
        seen.add((right, len(set(counts)) == 1))
    assert seen == {(True, True), (False, False), (True, False)}


def test_a_remainder_as_last_page_len_loses_a_page():
    """kv_len % page_size is 0 where the last page is full; get_length then ends a page early."""
    remainder = {"kv_indptr": np.array([0, 2]), "kv_indices": np.array([5, 2]), "last_page_len": np.array([8 % 4])}
    assert LENGTH["csr"](remainder, 0, 4) == 4
    with pytest.raises(TableError, match="last_page_len of sequence 0 is 0"):
        TABLES["csr"].read(remainder, 4)


def test_sums_of_lengths_that_are_not_aligned_begin_in_the_wrong_page():
    """kv_lens 5, 5, 4 take pages 0-1, 2-3, 4; cdiv of the plain sums begins the third in page 3."""
    lens = np.array([5, 5, 4])
    right = TABLES["ragged"].write(Pages.shared([[9, 8], [7, 6], [5]], lens), 4)
    plain = right | {"cu_kv_lens": np.array([0, 5, 10, 14])}
    assert [SLOT["ragged"](one, 2, 0, 4, K) // 4 for one in (right, plain)] == [5, 6]
    with pytest.raises(TableError, match=r"cu_kv_lens\[1\] is 5; it sums whole pages of 4"):
        TABLES["ragged"].read(plain, 4)


# --- what becomes of an empty sequence


def test_every_conversion_keeps_empty_sequences_and_the_table_says_so():
    rows = [row for row in empty_sequence_table() if not row.reader]
    assert {(row.source, row.target) for row in rows} == set(product(TABLES, repeat=2))
    assert {row.last_page_len for row in rows if row.target == "csr"} == {0, 1}
    for row in rows:
        assert row.outcomes == dict.fromkeys(("front", "middle", "last", "all"), "kept"), row


def test_the_table_shows_what_wrong_readers_make_of_an_empty_sequence():
    rows = {
        (row.reader, row.last_page_len): list(row.outcomes.values()) for row in empty_sequence_table() if row.reader
    }
    assert {reader for reader, _ in rows} == set(WRONG_READERS)
    assert rows["get_seq_lens", 1] == ["kv_len 1"] * 4
    assert rows["get_seq_lens", 0] == ["kept"] * 4
    assert rows["trtllm_plan", 1] == [
        "kv_len 1, other pages for sequence 1, 2",
        "kv_len 1, other pages for sequence 2",
        "kv_len 1",
        "kv_len 1",
    ]
    assert rows["append_decode", 1] == [f"kv_len {2**32 - 15}"] * 4
    assert rows["as_ragged", None][:2] == [
        "kept, other pages for sequence 1, 2",
        "kept, other pages for sequence 2",
    ]


def test_a_reader_that_loses_the_zero_is_seen(monkeypatch):
    """Were get_seq_lens the row's reader, whatever goes by csr would be refused, and nothing else."""
    wrong = WRONG_READERS["get_seq_lens"]
    monkeypatch.setitem(TABLES, "csr", replace(TABLES["csr"], reader=wrong.read))
    rows = [row for row in empty_sequence_table() if not row.reader and row.last_page_len != 0]
    for row in rows:
        kept = "csr" not in (row.source, row.target)
        assert all((text == "kept") == kept for text in row.outcomes.values()), row
    text = "refused: csr: sequence 0 has 0 pages of K; kv_len 1 needs 1 of 16 slots"
    into = [row for row in rows if row.target == "csr"]
    assert len(into) == len(TABLES)
    assert all(row.outcomes["front"].startswith(text) for row in into)
