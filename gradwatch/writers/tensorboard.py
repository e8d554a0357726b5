"""Everything into a TensorBoard log: packed for the gradwatch tab, and readable without it.

Each step is one event: the packed statistics (see ``tensorboard_plugin/metadata``) and a handful of plain scalars.
Steps are encoded and written several together (64 at most are on the way, for about two seconds at most). Incidents,
and all steps before them, are with the operating system when ``write_incident`` returns. A report (Text) and a heat
map (Images) tell the rest.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradwatch._voice import is_speaker
from gradwatch.errors import ArgumentValueError
from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord
from gradwatch.writers._courier import Courier
from gradwatch.writers._encoder import Encoder, Step
from gradwatch.writers._sinks import Borrowed, EventFile, Sink, open_logdir

if TYPE_CHECKING:
    import os

    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_PICTURES = 60.0
"""At least."""

SHARE_OF_PICTURES = 0.0025
"""Of the run, at most: Matplotlib takes half a second for one, and the training waits for it."""


class TensorBoardWriter:
    """Writes a run where TensorBoard finds it. Of many processes the first one alone writes.

    Exactly one of ``logdir`` and ``summary_writer``. Where the training has a ``SummaryWriter`` of its own, hand that
    over: with two event files in one directory TensorBoard may stop showing the older one's new data.

    Args:
        logdir: Directory of this run; made where it is missing.
        summary_writer: The training's own writer. It is flushed at an incident and at the end, and else when it does so
            by itself (its ``flush_secs``); never closed.
        axis: The step of the plain scalars, the report and the picture; by default the optimizer step. Lightning's
            loggers count otherwise.
        clock: Seconds, for the time between two pictures: at least :data:`SECONDS_BETWEEN_PICTURES`, and more where
            drawing would take more than :data:`SHARE_OF_PICTURES` of the run.

    Raises:
        ArgumentValueError: Neither or both of ``logdir`` and ``summary_writer`` are given.
        LogdirError: The directory cannot be written.
    """

    _sink: Sink | None
    _courier: Courier[Step] | None
    _farewell: weakref.finalize[..., TensorBoardWriter]

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
        self._axis = axis
        self._clock = clock
        self._drawn_at, self._patience = clock(), SECONDS_BETWEEN_PICTURES
        self._model: ModelInfo | None = None
        self._step = 0
        self._sink, self._courier = None, None
        if logdir is None:
            self._sink = Borrowed(summary_writer)
        elif is_speaker():
            self._sink = open_logdir(logdir)
        self._encoder = Encoder()
        if self._sink is not None:
            self._encoder.go_on_in(self._sink)
            self._courier = self._begin()

    def __repr__(self) -> str:
        where = "summary_writer" if self._logdir is None else repr(str(self._logdir))
        return f"TensorBoardWriter({where})"

    def write_model(self, model: ModelInfo) -> None:
        """Keep what is known of the model; it is written with the next step."""
        self._model = model

    def write(self, record: StepRecord) -> None:
        """Write one step; it reaches the operating system within seconds, or with the next incident."""
        courier, sink = self._open()
        sink.check()
        self._step = record.step
        place = None if self._axis is None else self._axis()
        courier.add(Step(record, self._model, place, time.time()))
        if self._clock() - self._drawn_at >= self._patience:
            self._draw(courier)

    def write_incident(self, incident: Incident) -> None:
        """Write one incident; all that was written so far is with the operating system when this returns."""
        courier, _ = self._open()
        self._step = max(self._step, incident.step)
        with courier.lock:
            courier.encode()
            self._encoder.incident(incident)
        self.flush()
        with courier.lock:
            self._encoder.interim_report(self._place())
        self.flush()

    def write_summary(self, summary: RunSummary) -> None:
        """Write the run as a whole, for the tab and as a report."""
        courier, _ = self._open()
        with courier.lock:
            courier.encode()
            self._encoder.summary(summary, self._step, self._place())

    def flush(self) -> None:
        """Hand all that was written so far to the operating system: no kill of this process takes it any more."""
        courier, sink = self._open()
        courier.flush()
        sink.flush()

    def close(self) -> None:
        """Draw the heat map a last time and flush; the user's own writer stays open."""
        courier, sink = self._open()
        try:
            self._draw(courier)
        finally:
            self._farewell.detach()
            self._courier, self._sink = None, None if isinstance(sink, EventFile) else sink
            try:
                courier.close()
            finally:
                sink.close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process opens a file of its own, and has a thread of its own."""
        kept = {name: value for name, value in self.__dict__.items() if name != "_farewell"}
        return {**kept, "_courier": None, "_sink": self._sink if self._logdir is None else None}

    def _open(self) -> tuple[Courier[Step], Sink]:
        if self._sink is None:  # closed by the run before (a second ``fit``)
            self._sink = open_logdir(self._logdir)
            self._encoder.go_on_in(self._sink)
        if self._courier is None:
            self._courier = self._begin()
        return self._courier, self._sink

    def _begin(self) -> Courier[Step]:
        assert self._sink is not None
        courier = Courier(self._encoder.steps, self._sink.deliver)
        self._farewell = weakref.finalize(self, courier.abandon)
        return courier

    def _draw(self, courier: Courier[Step]) -> None:
        started = self._clock()
        with courier.lock:
            courier.encode()
            self._encoder.pictures(self._place())
        self._drawn_at = self._clock()
        self._patience = max(SECONDS_BETWEEN_PICTURES, (self._drawn_at - started) / SHARE_OF_PICTURES)

    def _place(self) -> int:
        """Where what is no packed row stands."""
        return self._step if self._axis is None else self._axis()
