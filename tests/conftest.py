"""Settings that the suite's own property tests share: the same cases every time, and no verdict by the clock."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # of a busy machine, not of a strategy
)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """The marker of tests that take more than a minute each."""
    config.addinivalue_line("markers", "longest: takes more than a minute")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of a module that says `ASKED_TOGETHER` which are about one and the same thing follow one another.

    Where several processes share the tests, what takes longest is begun first: last, it would leave others idle.
    """
    first: dict[object, int] = {}
    for place, item in enumerate(items):
        first.setdefault(_about(item), place)
    items.sort(key=lambda item: first[_about(item)])
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def _about(item: pytest.Item) -> object:
    """What a test is about: where tests are asked together its parameter, else nothing but itself."""
    together = getattr(getattr(item, "module", None), "ASKED_TOGETHER", False) and hasattr(item, "callspec")
    return (item.path, item.callspec.id) if together else item.nodeid
