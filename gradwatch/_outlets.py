"""The writers of a watch, none of which can hurt the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gradwatch.errors import warn
from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord
from gradwatch.writers import ModelTaker, SummaryTaker, Writer


class Outlets:
    """Hands everything to every writer; one that raises is dropped with one warning."""

    def __init__(self, writers: Iterable[Writer]) -> None:
        self._writers = list(writers)
        self._model: ModelInfo | None = None

    def write_model(self, model: ModelInfo) -> None:
        """The watched model, to those who want it, whenever more is known of it than before."""
        if model is not self._model:
            if model != self._model:
                self._each(lambda writer: writer.write_model(model) if isinstance(writer, ModelTaker) else None)
            self._model = model

    def write(self, record: StepRecord) -> None:
        """One step."""
        self._each(lambda writer: writer.write(record))

    def write_incident(self, incident: Incident) -> None:
        """One incident."""
        self._each(lambda writer: writer.write_incident(incident))

    def close(self, summarise: Callable[[], RunSummary]) -> None:
        """Hand the summary to those who want it, then close all."""
        writers = self._writers.copy()
        self._each(lambda writer: writer.write_summary(summarise()) if isinstance(writer, SummaryTaker) else None)
        self._writers = writers  # one whose summary failed still has something to flush
        self._each(lambda writer: writer.close())
        self._writers = []

    def _each(self, call: Callable[[Writer], object]) -> None:
        for writer in list(self._writers):
            try:
                call(writer)
            except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
                self._writers.remove(writer)
                warn(
                    f"gradwatch: {type(writer).__name__} failed and gets nothing more in this run "
                    f"({type(error).__name__}: {error}); the training and the other writers go on"
                )
