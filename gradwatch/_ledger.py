"""The host's side of a watch: every record is kept, judged and written here, and the run as a whole is known here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from gradwatch._aggregates import Aggregates
from gradwatch._audit import ClipAudit
from gradwatch._budget import Budget
from gradwatch._judges import Judges
from gradwatch._noise_scale import NoiseScales
from gradwatch._outlets import Outlets
from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord
from gradwatch.writers import Writer

MOST_WAITING = 16
"""Records that may wait for being judged: so many fit into the processor's cache with the code that judges them."""


class Ledger:
    """Takes records in order of step.

    Those of fast steps may wait for one another: the code of detectors and writers, fetched from main memory once for
    sixteen records instead of at every step, takes a third of the time. What is found is the same, in the same order.

    Args:
        judges: Judge every record.
        writers: Get every record and incident.
        history: Number of records kept.
        patience: Seconds that an unsuspicious record may wait; 0 for none.
    """

    def __init__(self, judges: Judges, writers: Iterable[Writer], history: int, *, patience: float = 0.0) -> None:
        self.incidents: list[Incident] = []
        self.history: deque[StepRecord] = deque(maxlen=history)
        self.aggregates = Aggregates()
        self.audit = ClipAudit()
        self.noise_scales = NoiseScales()
        self.outlets = Outlets(writers)
        self._judges = judges
        self._patience = patience
        self._waiting: list[tuple[StepRecord, ModelInfo]] = []
        self._since = 0.0

    def take(self, record: StepRecord, model: ModelInfo, *, urgent: bool) -> None:
        """Keep it, count it, write it, judge it: now, or soon where it is not ``urgent``."""
        self.audit.observe(record)  # warns at the very step
        now = time.monotonic()
        if not self._waiting:
            self._since = now
        self._waiting.append((record, model))
        may_wait = len(self._waiting) < MOST_WAITING and now - self._since < self._patience
        if urgent or not may_wait or record.skipped or not record.finite:
            self.catch_up()

    def write_to(self, writers: Iterable[Writer]) -> None:
        """From now on to these; what waits still goes to those before."""
        self.catch_up()
        self.outlets = Outlets(writers)

    def catch_up(self) -> None:
        """Nothing waits any more."""
        waiting, self._waiting = self._waiting, []
        for record, model in waiting:
            self._take(record, model)

    def _take(self, record: StepRecord, model: ModelInfo) -> None:
        """An incident is written after the record that it is about."""
        self.history.append(record)
        self.aggregates.observe(record)
        self.outlets.write_model(model)
        self.outlets.write(record)
        for incident in self._judges.observe(record, model):
            self.incidents.append(incident)
            self.outlets.write_incident(incident)

    def keep(self, record: StepRecord) -> None:
        """Keep a step that could not be measured: there is nothing to judge."""
        self.history.append(record)
        self.aggregates.last_total_norm = record.total_norm
        self.outlets.write(record)

    def summary(self, model: ModelInfo, num_steps: int, clip: object, budget: Budget) -> RunSummary:
        """The run so far."""
        counted = self.aggregates
        return RunSummary(
            model=model,
            num_steps=num_steps,
            num_skipped=counted.num_skipped,
            num_held_back=counted.num_held_back,
            num_clipped=counted.num_clipped,
            clip=None if clip is None else str(clip),
            last_total_norm=counted.last_total_norm,
            layers=counted.layers(self.history),
            incidents=tuple(self.incidents),
            notes=tuple(self.audit.notes.values()),
            watch_seconds=budget.price.watch_seconds,
            run_seconds=budget.price.run_seconds,
            num_tensors=counted.num_tensors,
            suppressed=self._judges.suppressed,
            thinned=budget.told(),
            local_norms=self.noise_scales.told(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Baselines, counters and incidents as plain values; not the history."""
        return {
            "judges": self._judges.state_dict(),
            "aggregates": self.aggregates.state_dict(),
            "audit": self.audit.state_dict(),
            "noise_scales": self.noise_scales.state_dict(),
            "incidents": [incident.to_json() for incident in self.incidents],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._judges.load_state_dict(state["judges"])
        self.aggregates.load_state_dict(state["aggregates"])
        self.audit.load_state_dict(state["audit"])
        self.noise_scales.load_state_dict(state.get("noise_scales", {}))
        self.incidents = [Incident.from_json(incident) for incident in state["incidents"]]
