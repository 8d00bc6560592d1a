"""Settings that the suite's own property tests share: the same cases every time, and no verdict by the clock."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # of a busy machine, not of a strategy
)
settings.load_profile("tests")
