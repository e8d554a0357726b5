"""All healthy scenarios, from the files by kind."""

from __future__ import annotations

from zoo import healthy_nets, healthy_parts, healthy_rate
from zoo.core import Registry

SCENARIOS = Registry()
for part in (healthy_rate, healthy_parts, healthy_nets):
    for scenario in part.SCENARIOS:
        SCENARIOS.put(scenario)
