"""Every fault, by name."""

from __future__ import annotations

from kvconform.faults.fault import Fault
from kvconform.faults.of_caches import CACHE_FAULTS
from kvconform.faults.of_features import FEATURE_FAULTS
from kvconform.faults.of_tables import TABLE_FAULTS

FAULTS: dict[str, Fault] = {**FEATURE_FAULTS, **CACHE_FAULTS, **TABLE_FAULTS}
