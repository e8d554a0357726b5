"""All scenarios, faulty and healthy, in one list."""

from __future__ import annotations

from zoo import faulty, healthy
from zoo.core import Registry

SCENARIOS = Registry()
for scenario in (*faulty.SCENARIOS, *healthy.SCENARIOS):
    SCENARIOS.put(scenario)
