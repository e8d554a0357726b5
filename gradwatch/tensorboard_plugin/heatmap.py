"""The heat map as the page wants it: one byte a cell on a log scale, never more than fits on a screen."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch._pool import Pooled, pool
from gradwatch.records import Incident, Int64Array
from gradwatch.tensorboard_plugin.metadata import UNITS
from gradwatch.tensorboard_plugin.rings import Grid, rings
from gradwatch.tensorboard_plugin.stripes import Stripes, Window

ABSENT, LOWEST, HIGHEST, ZERO, NOT_FINITE = 0, 1, 250, 251, 254
"""What a cell's byte says; from LOWEST to HIGHEST it is the logarithm, linear between the answer's low and high."""

_TAIL = 4.0  # decades beyond all but 1 % of the cells; what is farther out has the last colour, not the whole scale
_NARROWEST = 0.1


@dataclass(frozen=True)
class Ask:
    """What part is asked for; steps and rows inclusive, None for all.

    Attributes:
        first: First step.
        last: Last step.
        row_first: First row.
        row_last: Last row.
        relative: Each value over its own row's median over the run.
    """

    first: int | None = None
    last: int | None = None
    row_first: int | None = None
    row_last: int | None = None
    relative: bool = False

    @property
    def whole(self) -> Ask:
        """The whole run instead."""
        return Ask(relative=self.relative)


@dataclass(frozen=True, eq=False)
class Picture:
    """Pooled values, not yet coded.

    Attributes:
        grid: What its rows and columns are.
        values: float32 ``[num_rows, num_columns]``; NaN where absent, inf where not finite.
        exact: Whether it was made of single steps: else a column may hold up to 15 steps of its neighbours.
        step_last: The last step in each column ``[num_columns]``: where it is the first, nothing is pooled.
    """

    grid: Grid
    values: NDArray[np.float32]
    exact: bool
    step_last: Int64Array


def draw(stripes: Stripes, ask: Ask) -> Picture:
    """Read and pool what is asked for."""
    names = stripes.names
    start = min(ask.row_first or 0, len(names))
    stop = len(names) if ask.row_last is None else min(ask.row_last + 1, len(names))
    rows = slice(start, max(start, stop))
    window = stripes.window(ask.first, ask.last, rows)
    pooled = _relative(window, stripes.medians()[rows]) if ask.relative else pool(window.values)
    grid = Grid(
        names,
        row_first=pooled.row_edges[:-1] + start,
        row_last=pooled.row_edges[1:] + start - 1,
        step_first=window.steps[pooled.step_edges[:-1]],
        last_step=window.last_step,
    )
    if window.exact:
        step_last = window.steps[pooled.step_edges[1:] - 1]
    else:  # of blocks the first step is known, and they are next to one another
        step_last = np.append(grid.step_first[1:] - 1, window.last_step)
    return Picture(grid, pooled.values, window.exact, step_last)


def answer(
    picture: Picture, whole: Picture, stripes: Stripes, ask: Ask, incidents: Iterable[tuple[int, Incident]]
) -> dict[str, Any]:
    """What the page gets.

    Args:
        picture: The part that is asked for.
        whole: The whole run: its colours stay the same when the page zooms in.
        stripes: What it is of.
        ask: What was asked for.
        incidents: Those to ring, each with its place in the list that the page has.
    """
    grid = picture.grid
    scale = _scale(whole.values, ask)
    low, high = min(scale[0], _scale(picture.values, ask)[0]) if not ask.relative else scale[0], scale[1]
    unit = UNITS.get(stripes.statistic, "")
    return {
        "rows": len(grid.row_first),
        "cols": len(grid.step_first),
        "names": [grid.names[index] for index in grid.row_first],
        "names_last": [grid.names[index] for index in grid.row_last],
        "row_first": grid.row_first.tolist(),
        "num_rows": len(grid.names),
        "step_first": grid.step_first.tolist(),
        "step_last": picture.step_last.tolist(),
        "first_step": int(grid.step_first[0]) if len(grid.step_first) else None,
        "last_step": grid.last_step if len(grid.step_first) else None,
        "exact": picture.exact,
        "low": low,
        "high": high,
        "unit": f"times the layer's own median · {unit}" if ask.relative else unit,
        "rings": rings(grid, incidents),
        "cells": base64.b64encode(codes(picture.values, low, high).tobytes()).decode("ascii"),
    }


def nothing(why: str) -> dict[str, Any]:
    """The answer where there is nothing to draw."""
    empty: dict[str, list[Any]] = {
        key: [] for key in ("names", "names_last", "row_first", "step_first", "step_last", "rings")
    }
    sizes = {"rows": 0, "cols": 0, "num_rows": 0, "first_step": None, "last_step": None}
    return {**empty, **sizes, "exact": True, "low": -1.0, "high": 1.0, "unit": "", "cells": "", "empty": why}


def codes(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """A byte a value; what lies beyond ``low`` or ``high`` (log10) has the first or the last colour."""
    with np.errstate(divide="ignore", invalid="ignore"):
        places = (np.log10(values) - low) * ((HIGHEST - LOWEST) / (high - low)) + LOWEST
    found = np.clip(np.nan_to_num(places, nan=0.0), LOWEST, HIGHEST).round().astype(np.uint8)
    found[np.isnan(values)] = ABSENT
    found[values == 0] = ZERO
    found[np.isinf(values)] = NOT_FINITE
    return found


def _relative(window: Window, usual: NDArray[np.float32]) -> Pooled:
    """Pooled over steps first: a row's median is the same for all its steps, so few values are divided by it."""
    by_step = pool(window.values, max_rows=max(1, window.values.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotients: NDArray[np.float32] = np.divide(
            by_step.values.T, np.where(usual > 0, usual, np.nan), dtype=np.float32
        )
    quotients[np.isposinf(by_step.values.T)] = np.inf  # also in a row that nothing is known to be usual for
    return replace(pool(quotients, max_cols=max(1, len(quotients))), step_edges=by_step.step_edges)


def _scale(values: NDArray[np.float32], ask: Ask) -> tuple[float, float]:
    """log10 of the values that have the first and the last colour; around the median where values are relative."""
    usable = values[np.isfinite(values) & (values > 0)]
    if not len(usable):
        return -1.0, 1.0
    logs = np.log10(usable)
    inner = np.percentile(logs, (1, 99))
    low = max(float(logs.min()), float(inner[0]) - _TAIL)
    high = min(float(logs.max()), float(inner[1]) + _TAIL)
    if ask.relative:
        far = max(abs(low), abs(high), 0.5)
        return -far, far
    return (low, high) if high - low > _NARROWEST else (low - 0.5, high + 0.5)
