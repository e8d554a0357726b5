"""Layers x steps of any size on a screen, and no single spike is lost: each cell shows the highest value in it.

Equal integer bins on both axes. Of 500 spikes of one step in one layer, this shows 500, the mean none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradwatch.records import Int64Array

MAX_ROWS, MAX_COLUMNS = 480, 1140

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Pooled:
    """What is drawn.

    Attributes:
        values: float32 ``[R, C]``, a row a bin of layers, a column a bin of steps; NaN where a whole bin is NaN, inf
            where anything in it is not finite.
        step_edges: ``[C + 1]``; column ``c`` holds the steps with index ``step_edges[c]`` up to ``step_edges[c + 1]``.
        row_edges: ``[R + 1]``, the same of the layers.
    """

    values: NDArray[np.float32]
    step_edges: Int64Array
    row_edges: Int64Array


def pool(
    values: NDArray[np.float32],
    max_rows: int = MAX_ROWS,
    max_cols: int = MAX_COLUMNS,
    *,
    nonfinite: NDArray[np.bool_] | None = None,
) -> Pooled:
    """Pool ``values`` ``[T, L]`` (a step is one row in memory) to at most ``max_rows`` layers x ``max_cols`` steps.

    Args:
        values: One value a step and layer; NaN where there is none. NaN hides nothing, inf is never hidden.
        max_rows: At most so many bins of layers.
        max_cols: At most so many bins of steps.
        nonfinite: ``[T, L]``, where a value stands for something that is not finite although it is NaN.
    """
    if nonfinite is not None:
        values = np.where(nonfinite, np.float32(np.inf), values)
    step_edges, row_edges = edges(values.shape[0], max_cols), edges(values.shape[1], max_rows)
    by_step = highest(values, _size(step_edges))
    by_layer = highest(np.ascontiguousarray(by_step.T), _size(row_edges))
    return Pooled(by_layer.astype(np.float32, copy=False), step_edges, row_edges)


def edges(count: int, max_bins: int) -> Int64Array:
    """The edges of as few equal integer bins as there must be: ``[bins + 1]``, the last one ``count``."""
    size = max(1, -(-count // max_bins))
    return np.append(np.arange(0, count, size, dtype=np.int64), np.int64(count))


def highest(values: NDArray[Number], size: int) -> NDArray[Number]:
    """The highest of every ``size`` rows ``[ceil(T / size), ...]``; NaN only where all are NaN."""
    if size <= 1 or not values.size:
        return values[:: max(1, size)]
    whole = len(values) // size * size
    parts: list[Any] = [np.fmax.reduce(values[:whole].reshape(-1, size, *values.shape[1:]), axis=1)]
    if whole < len(values):
        parts.append(np.fmax.reduce(values[whole:], axis=0, keepdims=True))
    joined: NDArray[Number] = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return joined


def _size(bin_edges: Int64Array) -> int:
    return int(bin_edges[1] - bin_edges[0]) if len(bin_edges) > 1 else 1
