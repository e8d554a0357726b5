"""What figures read off a recording: tables by rows, where something was not finite, curves that keep their spikes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch._sources.protocol import STATISTICS, Recording
from gradwatch._sources.tables import Table, module_of, module_rows
from gradwatch.errors import ArgumentValueError
from gradwatch.records import Incident

NAMES = {
    "grad_norm": "gradient norm",
    "num_nonfinite": "non-finite elements",
    "grad_max": "largest gradient element",
    "weight_norm": "weight norm",
    "update_ratio": "update / weight",
}
MAX_POINTS = 2_000


def rows_of(
    recording: Recording,
    statistic: str,
    optimizer: int,
    rows: str,
    *,
    first: int | None = None,
    last: int | None = None,
) -> Table:
    """A statistic by parameters or modules.

    Raises:
        ArgumentValueError: There is no such statistic, or no such rows.
    """
    if statistic not in STATISTICS:
        raise ArgumentValueError("statistic", statistic, f"one of {', '.join(STATISTICS)}")
    if rows not in ("parameters", "modules"):
        raise ArgumentValueError("rows", rows, "parameters or modules")
    table = recording.table(statistic, optimizer, first=first, last=last)
    return module_rows(table) if rows == "modules" else table


def nonfinite(recording: Recording, table: Table, optimizer: int, rows: str) -> NDArray[np.bool_]:
    """Where elements of the gradient were not finite, in the shape of ``table.values``."""
    found = np.isinf(table.values)
    if not len(table.steps):
        return found
    counts = rows_of(recording, "num_nonfinite", optimizer, rows, first=int(table.steps[0]), last=int(table.steps[-1]))
    columns = {name: index for index, name in enumerate(counts.names)}
    here = np.array([index for index, name in enumerate(table.names) if name in columns], dtype=np.int64)
    there = np.array([columns[table.names[index]] for index in here.tolist()], dtype=np.int64)
    places = np.searchsorted(table.steps, counts.steps)
    inside = places < len(table.steps)
    inside[inside] = table.steps[places[inside]] == counts.steps[inside]
    if here.size and inside.any():
        found[np.ix_(places[inside], here)] |= counts.values[np.ix_(np.flatnonzero(inside), there)] > 0
    return found


def thinned(values: NDArray[np.floating], most: int = MAX_POINTS) -> NDArray[np.int64]:
    """Which points of a curve to draw: of each stretch its lowest and its highest, so that no spike is lost.

    Args:
        values: ``[num_points]``.
        most: About so many are kept.

    Returns:
        Indices, ascending.
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most // 2 + 1).astype(np.int64)
    low = np.where(np.isfinite(values), values, np.inf)
    high = np.where(np.isfinite(values), values, -np.inf)
    kept: set[int] = {0, count - 1}
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        kept |= {start + int(low[start:end].argmin()), start + int(high[start:end].argmax())}
    return np.array(sorted(kept), dtype=np.int64)


@dataclass(frozen=True)
class Scalars:
    """What belongs to a whole step of one optimizer, ``[num_steps]`` each."""

    steps: NDArray[np.int64]
    total: NDArray[np.float32]
    clipped: NDArray[np.float32]
    loss: NDArray[np.float32]
    skipped: NDArray[np.bool_]

    @property
    def is_clipped(self) -> NDArray[np.bool_]:
        """Where clipping made the norm smaller."""
        with np.errstate(invalid="ignore"):
            smaller: NDArray[np.bool_] = self.clipped < self.total * (1 - 1e-6)
        return smaller

    def at(self, steps: NDArray[np.int64]) -> Scalars:
        """The rows of other steps; NaN where there is none."""
        places = np.searchsorted(self.steps, steps)
        known = places < len(self.steps)
        known[known] = self.steps[places[known]] == steps[known]

        def taken(column: NDArray[np.float32]) -> NDArray[np.float32]:
            found = np.full(len(steps), np.nan, dtype=np.float32)
            found[known] = column[places[known]]
            return found

        skipped = np.zeros(len(steps), dtype=np.bool_)
        skipped[known] = self.skipped[places[known]]
        return Scalars(steps, taken(self.total), taken(self.clipped), taken(self.loss), skipped)


def scalars(recording: Recording, optimizer: int, *, first: int | None = None, last: int | None = None) -> Scalars:
    """Total norm, norm after clipping, loss, and which steps were skipped."""
    table = recording.table("scalars", optimizer, first=first, last=last)
    if not len(table.steps):
        nothing = np.empty(0, dtype=np.float32)
        return Scalars(table.steps, nothing, nothing, nothing, np.empty(0, dtype=np.bool_))
    column = {name: table.values[:, index] for index, name in enumerate(table.names)}
    return Scalars(table.steps, column["total_norm"], column["clipped_norm"], column["loss"], column["skipped"] == 1)


def row_of(layer: str, names: Iterable[str]) -> int | None:
    """The row of a layer that an incident names: itself, its module, or its first parameter."""
    wanted, beginning = module_of(layer), f"{layer}."
    inside: int | None = None
    for index, name in enumerate(names):
        if name == layer:
            return index
        if inside is None and (name == wanted or name.startswith(beginning)):
            inside = index
    return inside


def worst_incident(incidents: Iterable[Incident]) -> Incident | None:
    """The first of the most severe ones."""
    order = {"error": 0, "warning": 1, "info": 2}
    return min(incidents, key=lambda incident: (order.get(str(incident.severity), 1), incident.step), default=None)
