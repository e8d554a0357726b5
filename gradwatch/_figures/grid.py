"""The cells of a heat map: pooled to what fits, with zero and not finite apart, and the rows' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradwatch._figures.style import short
from gradwatch._pool import pool
from gradwatch._sources.tables import Table


@dataclass(frozen=True, eq=False)
class Grid:
    """What is drawn, ``[num_rows, num_columns]``; edges in steps and rows; the rows' names, unlike one another."""

    level: NDArray[np.float32]
    zero: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    step_edges: NDArray[np.float64]
    row_edges: NDArray[np.int64]
    labels: list[str]


def pooled_grid(table: Table, bad: NDArray[np.bool_], max_cells: tuple[int, int], *, counts: bool) -> Grid:
    """Pool a table to what fits; of ``counts`` zero is as it should be, and no cell of its own."""
    pooled = pool(table.values, *max_cells, nonfinite=bad)
    values, infinite = pooled.values, np.isinf(pooled.values)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log10(values).astype(np.float32)
    zero = (values == 0) & ~np.isnan(values)
    level[zero | infinite] = np.nan
    starts = table.steps[pooled.step_edges[:-1]].astype(np.float64)
    last = table.steps[-1:].astype(np.float64) + 1
    # no number of non-finite elements is as it should be, and not finite is what the whole statistic is about
    nothing = np.zeros_like(zero)
    return Grid(
        level,
        nothing if counts else zero,
        nothing if counts else infinite,
        np.append(starts, last) - 0.5,
        pooled.row_edges,
        _labels(table.names, pooled.row_edges),
    )


def _labels(names: Sequence[str], edges: NDArray[np.int64]) -> list[str]:
    """The rows' names for the hover, whole as far as that goes; plotly takes equal ones for one row."""
    labels = [label(names, edges, row, 160) for row in range(len(edges) - 1)]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} ({row})" for row, label in enumerate(labels)]


def label(names: Sequence[str], edges: NDArray[np.int64], row: int, limit: int) -> str:
    """A row's name, with how many more are in it."""
    more = int(edges[row + 1] - edges[row]) - 1
    return short(names[int(edges[row])], limit) + (f" (+{more})" if more else "")
