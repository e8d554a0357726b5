"""What a layer's line is drawn from: its values, what was usual for it before each step, and the steps as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradwatch._baselines import WARM_STEPS, Level
from gradwatch._figures.series import Scalars, nonfinite, rows_of, scalars
from gradwatch._sources.protocol import Recording
from gradwatch._sources.tables import module_of, module_rows


@dataclass(frozen=True, eq=False)
class Curve:
    """One layer, ``[num_steps]`` each.

    Attributes:
        name: The parameter or module.
        steps: Where it was measured.
        values: NaN where absent or not finite.
        bad: Where it was not finite.
        usual: What was usual before each step.
        limit: What it had to exceed to be unusual; NaN before there was a history.
        run: What belongs to the whole step.
    """

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    bad: NDArray[np.bool_]
    usual: NDArray[np.float64]
    limit: NDArray[np.float64]
    run: Scalars


def curve_of(
    recording: Recording, layer: str, statistic: str, optimizer: int, *, first: int | None, last: int | None
) -> Curve | None:
    """A parameter's or a module's curve; None where the run has no such layer."""
    whole = rows_of(recording, statistic, optimizer, "parameters", first=first, last=last)
    columns = [column for column, name in enumerate(whole.names) if name == layer]
    columns = columns or [column for column, name in enumerate(whole.names) if module_of(name) == layer]
    if not columns:
        return None
    own = replace(whole, names=tuple(whole.names[column] for column in columns), values=whole.values[:, columns])
    bad: NDArray[np.bool_] = np.logical_or.reduce(nonfinite(recording, own, optimizer, "parameters"), axis=1)
    values = own.values if len(columns) == 1 else module_rows(own).values
    curve = np.where(bad, np.nan, values[:, 0].astype(np.float64))
    usual, limit = baseline(curve)
    run = scalars(recording, optimizer, first=first, last=last)
    return Curve(layer, own.steps, curve, bad, usual, limit, run.at(own.steps))


def baseline(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is usual and what is too much before each step, by the same running level that judges the total norm."""
    level = Level()
    usual, limit = np.full(len(values), np.nan), np.full(len(values), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(values)
    for index, (value, usable) in enumerate(zip(decades.tolist(), np.isfinite(decades).tolist(), strict=True)):
        if level.count >= WARM_STEPS:
            usual[index], limit[index] = level.mean, level.limit
        if usable:
            level.update(value)
    return 10**usual, 10**limit


def after_clipping(curve: Curve) -> NDArray[np.float64]:
    """The layer's norm as the optimizer sees it: clipping by norm makes all layers smaller alike."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.minimum(1.0, curve.run.clipped.astype(np.float64) / curve.run.total)
    after: NDArray[np.float64] = curve.values * share
    return after
