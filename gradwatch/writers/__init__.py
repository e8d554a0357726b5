"""What a destination looks like. One file per destination; a writer never measures.

A writer that raises is dropped with one ``GradwatchWarning``; the training goes on.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord


@runtime_checkable
class Writer(Protocol):
    """Anything that takes records and incidents."""

    def write(self, record: StepRecord) -> None:
        """Take one step; may buffer."""

    def write_incident(self, incident: Incident) -> None:
        """Take one incident, after the record of its step, and make everything so far safe against a kill."""

    def close(self) -> None:
        """Flush and release; called once, also after an exception."""


@runtime_checkable
class ModelTaker(Protocol):
    """A writer that also wants to know the model: before the first record, and again when more is known of it."""

    def write_model(self, model: ModelInfo) -> None:
        """Take what is known of the model; it holds for all records from here on."""


@runtime_checkable
class SummaryTaker(Protocol):
    """A writer that also wants the whole run in one object, right before ``close()``."""

    def write_summary(self, summary: RunSummary) -> None:
        """Take the summary of the run."""
