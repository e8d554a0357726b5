"""All faulty scenarios, from the files by kind."""

from __future__ import annotations

from zoo import faulty_data, faulty_numeric, faulty_poison, faulty_rate, faulty_signal, faulty_units
from zoo.core import Registry

SCENARIOS = Registry()
for part in (faulty_signal, faulty_numeric, faulty_poison, faulty_units, faulty_rate, faulty_data):
    for scenario in part.SCENARIOS:
        SCENARIOS.put(scenario)
