"""A recording from step records that are in memory: a watch's own history, or a file of JSON lines."""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradwatch._sources.protocol import STATISTICS
from gradwatch._sources.sessions import Session, in_vain, valid
from gradwatch._sources.tables import Part, Table, join, within
from gradwatch.records import Incident, Layer, ModelInfo, RunSummary, StepRecord, TimeProfile
from gradwatch.tensorboard_plugin.metadata import SCALARS, to_float32


class MemoryRecording:
    """A run from its records (:class:`gradwatch.recording.Recording`).

    Args:
        records: In the order of writing.
        incidents: In the order of writing.
        starts: Index of each session's first record, where there are several.
        incidents_at: For each incident, how many records were written before it; by default all of the same session.
        model: What is known of the model.
        summary: As written at the run's end, with or without its incidents.
        skipped: In words, what could not be read.
        is_running: Whether it still goes on; None where that cannot be known.
    """

    def __init__(
        self,
        records: Iterable[StepRecord],
        incidents: Iterable[Incident] = (),
        *,
        starts: Sequence[int] = (),
        incidents_at: Sequence[int] = (),
        model: ModelInfo | None = None,
        summary: RunSummary | None = None,
        skipped: Iterable[str] = (),
        is_running: bool | None = None,
    ) -> None:
        written, told = list(records), list(incidents)
        bounds = sorted({0, *starts})
        sessions = []
        for number, (start, end) in enumerate(itertools.pairwise([*bounds, len(written)])):
            own = [
                incident
                for index, incident in enumerate(told)
                if not incidents_at or max(0, bisect.bisect_left(bounds, incidents_at[index]) - 1) == number
            ]
            first = min((record.step for record in written[start:end]), default=None)
            sessions.append(Session(first, tuple(own), tuple(written[start:end])))
            if not incidents_at:
                told = []
        self._records = [record for session, limit in valid(sessions) for record in session.rows if record.step < limit]
        self._incidents = tuple(
            incident for session, limit in valid(sessions) for incident in session.incidents if incident.step < limit
        )
        self._skipped = (*skipped, *in_vain(sessions))
        self._model, self._is_running = model, is_running
        self._summary = None if summary is None else replace(summary, incidents=self.incidents)

    @functools.cached_property
    def optimizers(self) -> tuple[int, ...]:
        """Their indices, ascending."""
        return tuple(sorted({record.optimizer for record in self._records}))

    @functools.cached_property
    def statistics(self) -> tuple[str, ...]:
        """Those that have a value."""
        return tuple(name for name in STATISTICS if any(_row(record, name) is not None for record in self._records))

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """In order of step."""
        return tuple(sorted(self._incidents, key=lambda incident: incident.step))

    @property
    def skipped(self) -> tuple[str, ...]:
        """In words, what could not be read or is not shown."""
        return self._skipped

    @property
    def summary(self) -> RunSummary | None:
        """As written at the end of the run."""
        return self._summary

    @property
    def is_running(self) -> bool | None:
        """Whether it still goes on; None where that cannot be known."""
        return self._is_running

    @property
    def model(self) -> ModelInfo | None:
        """What is known of the model."""
        return self._model if self._model is not None or self._summary is None else self._summary.model

    @property
    def records(self) -> Sequence[StepRecord]:
        """Every step that counts, in order."""
        return self._records

    def layers(self, optimizer: int = 0) -> tuple[Layer, ...]:
        """The parameters of an optimizer in the model's order."""
        known: dict[str, Layer] = {}
        for layers, _ in itertools.groupby(record.layers for record in self._records if record.optimizer == optimizer):
            known.update((layer.name, layer) for layer in layers)
        return tuple(known[name] for name in self.table("grad_norm", optimizer).names)

    def table(self, statistic: str, optimizer: int = 0, *, first: int | None = None, last: int | None = None) -> Table:
        """One statistic; see :meth:`gradwatch.recording.Recording.table`."""
        whole = self._table(statistic, optimizer)
        if first is None and last is None:
            return whole
        part = within(Part(whole.names, whole.steps, whole.values), first, last)
        return join([] if part is None else [part], statistic, whole.names)

    def through_time(self, step: int | None = None) -> tuple[tuple[int, TimeProfile], ...]:
        """The learning signal through time at the last sampled step up to ``step``."""
        latest: dict[int, StepRecord] = {}
        for record in self._records:
            if record.through_time and (step is None or record.step <= step):
                latest[record.optimizer] = record
        return tuple((r.step, profile) for _, r in sorted(latest.items()) for profile in r.through_time)

    @functools.lru_cache(maxsize=16)  # noqa: B019 - a recording lives as long as what it is read for
    def _table(self, statistic: str, optimizer: int) -> Table:
        own = [record for record in self._records if record.optimizer == optimizer]
        names: tuple[str, ...] = ()
        parts = []
        for layers, group in itertools.groupby(own, key=lambda record: record.layers):
            columns = tuple(layer.name for layer in layers) if statistic != "scalars" else SCALARS
            rows = [(record.step, row) for record in group if (row := _row(record, statistic)) is not None]
            names = names or columns
            if rows:
                steps = np.array([step for step, _ in rows], dtype=np.int64)
                parts.append(Part(columns, steps, to_float32([row for _, row in rows])))
            else:
                parts.append(Part(columns, np.empty(0, np.int64), np.empty((0, len(columns)), np.float32)))
        return join(parts, statistic, names)


def _row(record: StepRecord, statistic: str) -> Any:
    """One record's values, None where it has none."""
    if statistic == "scalars":
        loss = math.nan if record.loss is None else record.loss
        return record.total_norm, record.clipped_norm, loss, record.lr, float(record.skipped)
    if statistic not in STATISTICS:
        return None
    row = getattr(record, statistic)
    return None if statistic == "num_nonfinite" and not row.any() else row
