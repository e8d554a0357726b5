"""What a TensorBoard log is made of: records, incidents and the summary, turned into events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord
from gradwatch.writers import _events, _report
from gradwatch.writers._heatmap import Heatmap
from gradwatch.writers._picture import draw
from gradwatch.writers._scalars import GROUP, INCIDENTS, PlainScalars, prefix
from gradwatch.writers._sinks import Sink
from gradwatch.writers._wire import Wire


@dataclass(frozen=True)
class Step:
    """A step that waits to be encoded.

    Attributes:
        record: What was measured.
        model: What was known of the model.
        place: Where the plain scalars stand; None for the record's own step.
        wall_time: Seconds since the epoch.
    """

    record: StepRecord
    model: ModelInfo | None
    place: int | None
    wall_time: float


class Encoder:
    """Adds events to a sink; remembers what they build on: the heat map, the incidents, the curve of the maximum.

    One thread at a time, and nothing before :meth:`go_on_in`.
    """

    _sink: Sink

    def __init__(self) -> None:
        self._wire = Wire()
        self._heatmaps: defaultdict[int, Heatmap] = defaultdict(Heatmap)
        self._scalars = PlainScalars()
        self._incidents: list[Incident] = []

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process has a file of its own; see :meth:`go_on_in`."""
        return {**self.__dict__, "_sink": None}

    def go_on_in(self, sink: Sink) -> None:
        """A session begins (a second ``fit``): events go to this file, and all tags are told anew."""
        self._sink, self._wire = sink, Wire()

    def steps(self, batch: Sequence[Step]) -> None:
        """One event a step, two where the plain scalars have an axis of their own."""
        packed = self._wire.steps([step.record for step in batch], [step.model for step in batch])
        for step, values in zip(batch, packed, strict=True):
            record, plain = step.record, self._plain(step.record)
            if step.place is None:
                self._sink.add(_events.event(record.step, values + plain), step.wall_time)
            else:
                self._sink.add(_events.event(record.step, values), step.wall_time)
                self._sink.add(_events.event(step.place, plain), step.wall_time)
        for optimizer in dict.fromkeys(step.record.optimizer for step in batch):
            own = [step.record for step in batch if step.record.optimizer == optimizer]
            self._heatmaps[optimizer].add(*own)

    def incident(self, incident: Incident) -> None:
        """The incident itself, for the tab."""
        # Counted, not at the incident's own step: TensorBoard's default loader keeps one event a step of each tag, and
        # drops what it has when an earlier step comes. Two incidents of one step would be one.
        self._put(len(self._incidents), [self._wire.incident(incident)])
        self._incidents.append(incident)

    def interim_report(self, place: int) -> None:
        """The incidents so far, for the pages of TensorBoard's own."""
        plain = [_events.scalar(INCIDENTS, len(self._incidents))]
        if len(self._incidents) <= _report.MAX_INCIDENTS:
            plain.append(_events.text(f"{GROUP}/report", _report.interim(self._incidents)))
        self._put(place, plain)

    def summary(self, summary: RunSummary, step: int, place: int) -> None:
        """The run as a whole, for the tab and as a report."""
        self._put(step, [self._wire.summary(summary)])
        self._put(place, [_events.text(f"{GROUP}/report", _report.final(summary))])

    def pictures(self, place: int) -> None:
        """The heat map of every optimizer."""
        for optimizer, heatmap in self._heatmaps.items():
            own = [incident for incident in self._incidents if incident.optimizer == optimizer]
            self._put(place, [_events.image(f"{prefix(optimizer)}/heatmap", draw(heatmap, own))])

    def _plain(self, record: StepRecord) -> list[bytes]:
        """What the Scalars page shows."""
        values = {**self._scalars.of(record), INCIDENTS: float(len(self._incidents))}
        return [_events.scalar(tag, value) for tag, value in values.items()]

    def _put(self, step: int, values: Sequence[bytes]) -> None:
        self._sink.add(_events.event(step, values))
