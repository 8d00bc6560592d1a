"""Wrong things to hand to the judges of system 3, and the verdicts that they turn to."""

import time
from types import SimpleNamespace

import numpy as np

from kvconform.claims import pq_error, pq_kv, pq_pages, pq_speed
from kvconform.claims.claim import CONFIRMED, NOT_MEASURED, REFUTED
from kvconform.impls import numpy_ref
from kvconform.impls.host_kernels.pq_caches import PageManager
from kvconform.oracles import pq


class Searching(PageManager):
    """Looks for a page without an owner from the first one on."""

    def allocate(self):
        page = self._owners.index(0)
        self._owners[page] = 1
        return page


class SearchingUnseen(PageManager):
    """Hands out the lowest page, which it looks for in one line that no list sees."""

    def __init__(self, num_pages):
        super().__init__(num_pages)
        self._pages = set(range(num_pages))

    def allocate(self):
        page = min(self._pages)
        self._pages.remove(page)
        self._owners[page] = 1
        return page

    def free(self, page):
        self._pages.add(page)
        self._owners[page] = 0


class Slow(PageManager):
    def allocate(self):
        time.sleep(2e-3)
        return super().allocate()


def reshaped(*given, layout, page_size, num_subspaces, **told):
    """Codes in the order of rows, under the shape of columns."""
    told = {"page_size": page_size, "num_subspaces": num_subspaces, **told}
    cache = numpy_ref.pq_append(*given, layout=layout, **told)
    if layout == "pq_columns":
        codes = cache["v"]
        cache["v"] = np.ascontiguousarray(codes.swapaxes(1, 2)).reshape(codes.shape)
    return cache


def other_splits(*given, layout, num_splits, **told):
    """Attention that cuts transposed pages elsewhere: as right, and not the same bits."""
    splits = num_splits + (layout == "pq_columns")
    return numpy_ref.pq_decode_attention(*given, layout=layout, num_splits=splits, **told)


def impl(**changed):
    own = {name: getattr(numpy_ref, name) for name in ("pq_append", "pq_decode_attention", "pq_encode", "pq_decode")}
    return SimpleNamespace(**(own | changed))


def without_residual(inputs, of, reading, codes):
    bare = SimpleNamespace(**(vars(of) | {"there": of.there & (np.arange(of.there.shape[-1]) < of.longest)}))
    return pq.by_table(inputs, bare, reading, codes)


def one_centroid(inputs, of, reading, codes):
    """Lets all weight of V fall on the first centroid."""
    return pq.by_table(inputs, of, reading, (codes[0], np.zeros_like(codes[1])))


def measured(rows, columns, sdpa=1e-3, transposing=5e-4, copied=1e12):
    """What a GPU might say of 32 K tokens; rows and columns as shares of the copy."""
    geometry = pq_speed.Geometry()
    took = {
        layout: geometry.coded_bytes(pq_speed.STATED) / (share * copied)
        for layout, share in ((pq_speed.ROWS, rows), (pq_speed.COLUMNS, columns))
    }
    seconds = {pq_speed.STATED: took | {pq_speed.SDPA: sdpa}}
    return [pq_speed.Measured("some", "some GPU", geometry, copied, seconds, transposing)]


NO_CODES = impl(pq_encode=lambda x, codebooks, *, dtype: np.zeros((len(x), 1, len(codebooks)), np.uint8))
NOTHING_LOST = impl(pq_encode=lambda x, codebooks, *, dtype: x, pq_decode=lambda codes, codebooks, *, dtype: codes)
WITH_ONE_SPLIT = (*pq_kv.INSTANCES, *((1, *one[1:]) for one in pq_kv.INSTANCES[:4]))

TURNED = [
    (pq_pages.codes_take_4_bits, {"page_bytes": lambda *sizes: 2 * pq_pages.pool_bytes(*sizes)}, REFUTED),
    (pq_pages.memory_saved_is_75_percent, {"kept": pq_pages.Kept(capacity=0, books=0)}, CONFIRMED),
    (pq_pages.memory_saved_is_75_percent, {"kept": pq_pages.Kept(capacity=0, books=0, num_subspaces=32)}, REFUTED),
    (pq_pages.pool_takes_2_44_mb, {"bytes_of": lambda *sizes: 5 * pq_pages.pool_bytes(*sizes)}, CONFIRMED),
    (pq_pages.page_overhead_below_5_percent, {"page_size": 1}, CONFIRMED),
    (pq_pages.allocation_takes_constant_steps, {"make": Searching}, REFUTED),
    (pq_pages.allocation_takes_constant_steps, {"make": SearchingUnseen}, REFUTED),
    (pq_pages.allocation_takes_less_than_1_ms, {"make": Slow, "sizes": (300,)}, REFUTED),
    (pq_kv.transposition_changes_no_value, {"impl": impl(pq_append=reshaped)}, REFUTED),
    (pq_kv.transposition_changes_no_value, {"impl": impl(pq_decode_attention=other_splits)}, REFUTED),
    (pq_kv.there_are_40_instances, {"instances": WITH_ONE_SPLIT}, REFUTED),
    (pq_kv.instances_cover_the_adaptive_rule, {"instances": WITH_ONE_SPLIT}, CONFIRMED),
    (pq_kv.v_cannot_use_a_table, {"form": without_residual}, CONFIRMED),
    (pq_kv.v_cannot_use_a_table, {"form": one_centroid}, CONFIRMED),
    (pq_kv.perplexity_changes_below_1_percent, {"measured": (5.0, 5.04)}, CONFIRMED),
    (pq_kv.perplexity_changes_below_1_percent, {"measured": (5.0, 5.06)}, REFUTED),
    (pq_error.beats_uniform_at_2_bits, {"coder": NO_CODES}, REFUTED),
    (pq_error.beats_uniform_at_4_bits, {"coder": NOTHING_LOST}, CONFIRMED),
    (pq_speed.transposed_pages_use_95_percent, {"found": measured(0.6, 0.95)}, CONFIRMED),
    (pq_speed.transposed_pages_use_95_percent, {"found": measured(0.6, 0.9)}, REFUTED),
    (pq_speed.transposed_pages_use_95_percent, {"found": measured(0.7, 0.95)}, REFUTED),
    (pq_speed.transposed_pages_use_95_percent, {"found": "there is no GPU here"}, NOT_MEASURED),
    (pq_speed.transposition_takes_half_a_ms, {"found": measured(0.6, 0.95)}, CONFIRMED),
    (pq_speed.transposition_takes_half_a_ms, {"found": measured(0.6, 0.95, transposing=1e-5)}, REFUTED),
    (pq_speed.transposition_takes_half_a_ms, {"found": measured(0.6, 0.95, transposing=None)}, NOT_MEASURED),
    (pq_speed.end_to_end_is_2_09_times_as_fast, {"found": measured(0.6, 0.95, sdpa=5e-5)}, REFUTED),
    (pq_speed.end_to_end_is_2_09_times_as_fast, {"found": measured(0.6, 0.95, sdpa=5e-4)}, NOT_MEASURED),
    (pq_speed.transposed_is_2_5_to_3_times_as_fast, {"found": measured(0.6, 0.95, sdpa=5e-4)}, CONFIRMED),
    (pq_speed.transposed_is_2_5_to_3_times_as_fast, {"found": measured(0.6, 0.95, sdpa=5e-5)}, REFUTED),
]
