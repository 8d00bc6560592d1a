"""Into how many splits attention over codes is cut where a caller leaves it open, and that a cache cuts so."""

from types import SimpleNamespace

import numpy as np
import pytest

from kvconform.impls import numpy_ref
from kvconform.impls.host_kernels import pq_caches
from kvconform.impls.host_kernels.pq_caches import PQCache
from kvconform.impls.host_kernels.pq_splits import SPLITS, num_splits_for

RULE = {0: 1, 1: 1, 64: 1, 65: 2, 128: 2, 129: 4, 256: 4, 257: 16, 2048: 16, 2049: 32, 10**6: 32}
CODED = (64, 65, 129, 257)


def test_the_number_of_splits_follows_millions_rule():
    assert {tokens: num_splits_for(tokens) for tokens in RULE} == RULE
    assert {splits for _, splits in SPLITS} == set(RULE.values())


@pytest.mark.parametrize("offered", [{1, 2, 3}, range(1, 4), {"min": 1, "max": 3}], ids=str)
def test_of_fewer_splits_that_are_offered_the_most_are_taken(offered):
    assert [num_splits_for(tokens, offered) for tokens in (1, 65, 129, 10**6)] == [1, 2, 3, 3]


def splits_of(offer):
    """How many splits a cache asks for, by its number of coded tokens; its adapter offers some."""
    asked = []

    def attention(*given, num_splits, **told):
        asked.append(num_splits)
        return numpy_ref.pq_decode_attention(*given, num_splits=num_splits, **told)

    adapter = SimpleNamespace(
        OFFERS={"pq_decode_attention": offer}, pq_append=numpy_ref.pq_append, pq_decode_attention=attention
    )
    book = np.arange(2, dtype=np.float32).reshape(1, 2, 1)
    sizes = {"page_size": 64, "num_pages": 8, "num_layers": 1, "num_seqs": 1, "num_kv_heads": 1}
    cache = PQCache(adapter, book, book, layout="pq_columns", dtype="uint8", **sizes, residual=1, moved=1)
    q, one = np.ones((1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    found = {}
    with pytest.raises(ValueError, match="layer 0 holds no tokens"):
        cache.attend(0, q, 1.0)
    for coded in range(1, max(CODED) + 1):
        cache.append(0, one, one)
        if coded in CODED:
            cache.attend(0, q, 1.0)
            assert cache.num_coded(0) == coded
            found[coded] = asked[-1]
    return found


@pytest.mark.parametrize(
    ("offer", "want"),
    [
        ({"num_splits": range(1, 65)}, {64: 1, 65: 2, 129: 4, 257: 16}),
        ({"num_splits": {1, 2, 3}}, {64: 1, 65: 2, 129: 3, 257: 3}),
        ({}, {64: 1, 65: 1, 129: 1, 257: 1}),
    ],
    ids=str,
)
def test_a_cache_is_cut_as_its_coded_tokens_ask_and_no_further_than_its_adapter_offers(offer, want):
    assert splits_of(offer) == want


def test_a_cache_that_is_never_cut_is_found(monkeypatch):
    monkeypatch.setattr(pq_caches, "num_splits_for", lambda num_tokens, offered: 1)
    assert splits_of({"num_splits": range(1, 65)}) != {64: 1, 65: 2, 129: 4, 257: 16}
