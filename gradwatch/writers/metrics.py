"""A handful of plain scalars for loggers that are not TensorBoard: CSV, wandb, MLflow and the like."""

from __future__ import annotations

from collections.abc import Callable

from gradwatch.records import Incident, StepRecord
from gradwatch.writers._scalars import INCIDENTS, PlainScalars


class MetricsWriter:
    """Hands the plain scalars of the TensorBoard log to a function such as a Lightning logger's ``log_metrics``.

    Args:
        log_metrics: Called as ``log_metrics({name: value}, step=axis())``.
        axis: Where the values stand.
        every: Every n-th step of an optimizer, from its first; the step of an incident in any case.
    """

    def __init__(self, log_metrics: Callable[..., object], axis: Callable[[], int], *, every: int = 1) -> None:
        self._log_metrics = log_metrics
        self._axis = axis
        self._every = every
        self._scalars = PlainScalars()
        self._num_steps: dict[int, int] = {}
        self._num_incidents = 0
        self._held_back: dict[int, dict[str, float]] = {}

    def write(self, record: StepRecord) -> None:
        """Hand over one step, if it is its turn."""
        values, optimizer = self._scalars.of(record), record.optimizer
        num_before = self._num_steps.get(optimizer, 0)
        self._num_steps[optimizer] = num_before + 1
        if num_before % self._every == 0:
            self._hand_over(optimizer, values)
        else:
            self._held_back[optimizer] = values

    def write_incident(self, incident: Incident) -> None:
        """Hand over the step of this incident, and how many there are."""
        self._num_incidents += 1
        self._hand_over(incident.optimizer, self._held_back.get(incident.optimizer, {}))

    def close(self) -> None:
        """Nothing to release: the logger belongs to the user."""

    def _hand_over(self, optimizer: int, values: dict[str, float]) -> None:
        self._held_back.pop(optimizer, None)
        self._log_metrics({**values, INCIDENTS: float(self._num_incidents)}, step=self._axis())
