"""What every recorded run looks like to figures, reports and the tab, wherever it is kept."""

from __future__ import annotations

from typing import Protocol

from gradwatch._sources.tables import Table
from gradwatch.records import Incident, Layer, ModelInfo, RunSummary, TimeProfile

STATISTICS = ("grad_norm", "num_nonfinite", "grad_max", "weight_norm", "update_ratio")
"""What is kept of every layer."""


class Recording(Protocol):
    """A recorded run, or one that still goes on.

    Where a run was resumed, the steps that it repeated are those of the later session: one step, one row.
    """

    @property
    def optimizers(self) -> tuple[int, ...]:
        """Their indices, ascending."""

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those of :data:`STATISTICS` that have a value, in that order."""

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """In order of step; those of steps that a resumed session has repeated are its own."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """In words, what could not be read or is not shown."""

    @property
    def summary(self) -> RunSummary | None:
        """As written at the end of the run; None where it still runs or was killed."""

    @property
    def is_running(self) -> bool | None:
        """Whether it still goes on; None where that cannot be known."""

    @property
    def model(self) -> ModelInfo | None:
        """What is known of the model; None where nothing is."""

    def layers(self, optimizer: int = 0) -> tuple[Layer, ...]:
        """The parameters of an optimizer in the model's order; with names alone where no more was recorded."""

    def table(self, statistic: str, optimizer: int = 0, *, first: int | None = None, last: int | None = None) -> Table:
        """One statistic.

        Args:
            statistic: One of :data:`STATISTICS`, or ``"scalars"``: then the columns are
                :data:`gradwatch.tensorboard_plugin.metadata.SCALARS`. ``num_nonfinite`` has rows only for steps with
                a non-finite element.
            optimizer: Whose.
            first: First step, inclusive; None for the run's first.
            last: Last step, inclusive; None for the run's last.

        Returns:
            The table; empty where nothing was recorded.
        """

    def through_time(self, step: int | None = None) -> tuple[tuple[int, TimeProfile], ...]:
        """The learning signal through time at the last step that was sampled up to ``step``, with that step.

        Args:
            step: None for the run's last; before the first sample there is nothing.
        """
