"""The blind corpus: written by others than the detectors' authors, without a look at their rules."""

from __future__ import annotations

from zoo import blind_faulty, blind_healthy
from zoo.core import Registry

SCENARIOS = Registry()
for scenario in (*blind_faulty.SCENARIOS, *blind_healthy.SCENARIOS):
    SCENARIOS.put(scenario)
