"""Everything into a TensorBoard log: packed for the gradwatch tab, and readable without it.

Each step is one event: the packed statistics (see ``tensorboard_plugin/metadata``) and a handful of plain scalars.
Incidents are on disk when ``write_incident`` returns. A report (Text) and a heat map (Images) tell the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gradwatch._voice import is_speaker
from gradwatch.errors import ArgumentValueError
from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord
from gradwatch.writers import _events, _report
from gradwatch.writers._heatmap import Heatmap
from gradwatch.writers._picture import draw
from gradwatch.writers._scalars import GROUP, INCIDENTS, PlainScalars, prefix
from gradwatch.writers._sinks import Borrowed, Sink, open_logdir
from gradwatch.writers._wire import Wire

if TYPE_CHECKING:
    import os

    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_PICTURES = 60.0


class TensorBoardWriter:
    """Writes a run where TensorBoard finds it. Of many processes the first one alone writes.

    Exactly one of ``logdir`` and ``summary_writer``. Where the training has a ``SummaryWriter`` of its own, hand that
    over: with two event files in one directory TensorBoard may stop showing the older one's new data.

    Args:
        logdir: Directory of this run; made where it is missing.
        summary_writer: The training's own writer. It is flushed, never closed.
        axis: The step of the plain scalars, the report and the picture; by default the optimizer step. Lightning's
            loggers count otherwise.
        clock: Seconds, for the time between two pictures.

    Raises:
        ArgumentValueError: Neither or both of ``logdir`` and ``summary_writer`` are given.
        LogdirError: The directory cannot be written.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str] | None = None,
        *,
        summary_writer: SummaryWriter | None = None,
        axis: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if (logdir is None) == (summary_writer is None):
            raise ArgumentValueError("logdir", logdir, "give exactly one of logdir and summary_writer")
        self._logdir = logdir
        self._sink: Sink | None = None
        if logdir is None:
            self._sink = Borrowed(summary_writer)
        elif is_speaker():
            self._sink = open_logdir(logdir)
        self._axis = axis
        self._clock = clock
        self._drawn_at = clock()
        self._wire = Wire()
        self._model: ModelInfo | None = None
        self._heatmaps: dict[int, Heatmap] = {}
        self._scalars = PlainScalars()
        self._incidents: list[Incident] = []
        self._step = 0

    def __repr__(self) -> str:
        where = "summary_writer" if self._logdir is None else repr(str(self._logdir))
        return f"TensorBoardWriter({where})"

    def write_model(self, model: ModelInfo) -> None:
        """Keep what is known of the model; it is written with the next step."""
        self._model = model

    def write(self, record: StepRecord) -> None:
        """Write one step; it reaches the disk within seconds, or with the next incident."""
        self._open()  # after a close it is another session
        self._step = record.step
        packed, plain = self._wire.step(record, self._model), self._plain(record)
        if self._axis is None:
            self._put(record.step, packed + plain)
        else:
            self._put(record.step, packed)
            self._put_plain(plain)
        if record.optimizer not in self._heatmaps:
            self._heatmaps[record.optimizer] = Heatmap()
        self._heatmaps[record.optimizer].add(record)
        if self._clock() - self._drawn_at >= SECONDS_BETWEEN_PICTURES:
            self._draw()

    def write_incident(self, incident: Incident) -> None:
        """Write one incident; all that was written so far is on disk when this returns."""
        self._open()
        self._step = max(self._step, incident.step)
        # Counted, not at the incident's own step: TensorBoard's default loader keeps one event a step of each tag, and
        # drops what it has when an earlier step comes. Two incidents of one step would be one.
        self._put(len(self._incidents), [self._wire.incident(incident)])
        self._incidents.append(incident)
        self._open().flush()
        plain = [_events.scalar(INCIDENTS, len(self._incidents))]
        if len(self._incidents) <= _report.MAX_INCIDENTS:
            plain.append(_events.text(f"{GROUP}/report", _report.interim(self._incidents)))
        self._put_plain(plain)
        self._open().flush()

    def write_summary(self, summary: RunSummary) -> None:
        """Write the run as a whole, for the tab and as a report."""
        self._open()
        self._put(self._step, [self._wire.summary(summary)])
        self._put_plain([_events.text(f"{GROUP}/report", _report.final(summary))])

    def close(self) -> None:
        """Draw the heat map a last time and flush; the user's own writer stays open."""
        try:
            self._draw()
        finally:
            self._open().close()
            self._sink = self._sink if self._logdir is None else None

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process opens a file of its own."""
        return {**self.__dict__, "_sink": self._sink if self._logdir is None else None}

    def _open(self) -> Sink:
        if self._sink is None:  # closed by the run before (a second ``fit``)
            self._sink = open_logdir(self._logdir)
            self._wire = Wire()
        return self._sink

    def _plain(self, record: StepRecord) -> list[bytes]:
        """What the Scalars page shows."""
        values = {**self._scalars.of(record), INCIDENTS: float(len(self._incidents))}
        return [_events.scalar(tag, value) for tag, value in values.items()]

    def _draw(self) -> None:
        for optimizer, heatmap in self._heatmaps.items():
            own = [incident for incident in self._incidents if incident.optimizer == optimizer]
            self._put_plain([_events.image(f"{prefix(optimizer)}/heatmap", draw(heatmap, own))])
        self._drawn_at = self._clock()

    def _put_plain(self, values: Sequence[bytes]) -> None:
        self._put(self._step if self._axis is None else self._axis(), values)

    def _put(self, step: int, values: Sequence[bytes]) -> None:
        self._open().add(_events.event(step, values))
