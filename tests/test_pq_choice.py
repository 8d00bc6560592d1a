"""The choice of a cache by configuration: what is asked for, or the next one, and never in silence."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kvconform.harness.adapters import find
from kvconform.harness.made import Made
from kvconform.harness.subject import Subject
from kvconform.impls.host_kernels.pq_choice import PATHS, FallsBack, Path, cache_of, choose
from kvconform.oracles.cache_model import LONGEST, CacheModel
from kvconform.oracles.verdict import Violation
from kvconform.specs.case import Case
from kvconform.specs.inputs import inputs
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


CASE = Case(
    op="pq_cache",
    layout="pq_columns",
    dtype="uint8",
    q_dtype="float32",
    page_size=3,
    num_pages=8,
    num_layers=2,
    num_seqs=2,
    num_kv_heads=2,
    group=2,
    num_subspaces=2,
    sub_dim=2,
    num_centroids=16,
    residual=4,
    moved=2,
)
SIZES = ("page_size", "num_layers", "num_seqs", "num_kv_heads", "residual", "moved")


def driven(adapters, load=lambda name: find(name).load()):
    """The path that "paged" gets where there are some adapters, after a history that its cache was judged by."""
    x = inputs(CASE)
    sizes = {name: getattr(CASE, name) for name in SIZES}
    pages = CASE.num_pages * CASE.num_layers * CASE.num_seqs * CASE.num_kv_heads
    path, cache = cache_of("paged", 8, there_is(*adapters), load, *x.codebooks, num_pages=pages, **sizes)
    found = find(path.adapter)
    subject = Subject(found.load(), found.name, str(found.path))
    made = Made(subject, replace(CASE, layout=path.layout), OPERATIONS["pq_cache"], cache)
    model = CacheModel(x, made.do, subject.profile(CASE.result_dtype), subject.conventions)
    for layer, count in ((0, 1), (1, LONGEST), (0, 3), (0, 1), (1, 1), (0, LONGEST)):
        model.append(layer, count)
        model.look(layer)
    assert not model.disputed
    assert all(cache.num_coded(layer) for layer in range(CASE.num_layers))
    return path.name


def test_a_cache_that_was_fallen_back_to_keeps_every_token():
    with pytest.warns(FallsBack, match=r"^plain instead of paged: paged \(cuda\) needs a compiler; kernel \(cuda\)"):
        assert driven(("torch_ref",)) == "plain"


def test_a_cache_that_was_asked_for_keeps_every_token():
    if find("cuda").blocked:
        pytest.skip(find("cuda").blocked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert driven(("cuda", "torch_ref")) == "paged"


def test_a_fallback_to_other_codebooks_is_found():
    def load(name):
        adapter = find(name).load()
        swapped = SimpleNamespace(**vars(adapter))
        swapped.pq_cache = lambda k, v, **sizes: adapter.pq_cache(v, k, **sizes)
        return swapped

    with pytest.warns(FallsBack), pytest.raises(Violation):
        driven(("torch_ref",), load)
