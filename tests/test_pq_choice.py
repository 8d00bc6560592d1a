"""The choice of a cache by configuration: what is asked for, or the next one, and never in silence."""

import warnings

import pytest

from kvconform.harness.adapters import find
from kvconform.impls.host_kernels.pq_choice import PATHS, FallsBack, Path, choose
from kvconform.specs.operations import OPERATIONS


def there_is(*adapters):
    return lambda name: "" if name in adapters else "needs a compiler"


@pytest.mark.parametrize("wanted", [path.name for path in PATHS])
def test_what_is_asked_for_is_taken_without_a_word(wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(wanted, 8, there_is("cuda", "torch_ref")).name == wanted


def test_a_fallback_names_what_it_is_what_was_asked_for_and_why():
    with pytest.warns(FallsBack) as told:
        path = choose("paged", 8, there_is("torch_ref"))
    assert path.name == "plain"
    assert [str(one.message) for one in told] == [
        "plain instead of paged: paged (cuda) needs a compiler; kernel (cuda) needs a compiler"
    ]


def test_codes_that_a_path_does_not_take_are_a_reason_too():
    million = (Path("paged", "cuda", "pq_columns", (8,)), Path("plain", "torch_ref", "pq_rows"))
    with pytest.warns(FallsBack, match=r"plain instead of paged: paged \(cuda\) codes of 4 bits; it takes 8"):
        assert choose("paged", 4, there_is("cuda", "torch_ref"), million).name == "plain"


def test_nobody_falls_back_to_something_better():
    with pytest.raises(ValueError, match=r"no cache for 'plain': plain \(torch_ref\) needs a compiler"):
        choose("plain", 8, there_is("cuda"))


def test_a_cache_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="no cache 'page'; known: paged, kernel, plain"):
        choose("page", 8, there_is("cuda"))


def test_every_path_is_offered_by_its_adapter():
    for path in PATHS:
        assert "pq_cache" in find(path.adapter).load().OFFERS, path
        assert path.layout in [row.name for row in OPERATIONS["pq_cache"].layouts], path
