"""What can be read off a watch, the same at both entrances, during the run and after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch._monitor import Monitor
from gradwatch.records import Incident, StepRecord
from gradwatch.writers.console import summary_table

if TYPE_CHECKING:
    from gradwatch._notebook import RunFigures


class Readout:
    """Reads a monitor that the entrance holds in ``_monitor``; None as long as there is none."""

    _monitor: Monitor | None

    @property
    def incidents(self) -> list[Incident]:
        """All incidents so far, in order of step."""
        if self._monitor is None:
            return []
        self._monitor.receive()
        return list(self._monitor.ledger.incidents)

    @property
    def history(self) -> list[StepRecord]:
        """The last records, oldest first."""
        if self._monitor is None:
            return []
        with self._monitor.price.lock:
            self._monitor.receive()
            return [*self._monitor.ledger.history, *self._monitor.arrivals.waiting()]

    @property
    def step(self) -> int:
        """Optimizer steps seen, skipped ones and those before a resume included."""
        return 0 if self._monitor is None else self._monitor.num_steps

    @property
    def total_norm(self) -> float:
        """Global L2 norm of the last step's gradients before clipping; NaN before the first step."""
        if self._monitor is None:
            return math.nan
        with self._monitor.price.lock:
            self._monitor.receive()
            waiting = self._monitor.arrivals.waiting()
            return waiting[-1].total_norm if waiting else self._monitor.ledger.aggregates.last_total_norm

    def summary(self) -> str:
        """The run so far as a table for the terminal or a log file."""
        return "gradwatch: no training yet" if self._monitor is None else summary_table(self._monitor.summary())

    @property
    def figures(self) -> RunFigures:
        """Figures of the kept history for a notebook: ``watch.figures.heatmap()`` and others."""
        from gradwatch._notebook import RunFigures
        from gradwatch._sources.memory import MemoryRecording

        summary = None if self._monitor is None else self._monitor.summary()
        return RunFigures(MemoryRecording(self.history, self.incidents, summary=summary))
