"""Which cells of a picture the incidents are in."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gradwatch._sources.tables import module_of
from gradwatch.records import Incident, Int64Array

MAX_RINGS, MAX_RINGS_EACH = 2000, 20


@dataclass(frozen=True, eq=False)
class Grid:
    """What a picture's rows and columns are.

    Attributes:
        names: All rows of the run, in depth order: parameters or modules.
        row_first: Index of the first of them in each row of the picture.
        row_last: The same of the last.
        step_first: The first step in each column.
        last_step: The last step of the last column; -1 without a column.
    """

    names: tuple[str, ...]
    row_first: Int64Array
    row_last: Int64Array
    step_first: Int64Array
    last_step: int


def rings(grid: Grid, incidents: Iterable[tuple[int, Incident]]) -> list[dict[str, int]]:
    """Where incidents are: of each its worst layers, and those in the same cell once.

    Args:
        grid: The picture.
        incidents: Each with its number.
    """
    found: dict[tuple[int, int, int], None] = {}
    places = Places(grid.names)
    for number, incident in incidents:
        column = int(np.searchsorted(grid.step_first, incident.step, side="right")) - 1
        if column < 0 or incident.step > grid.last_step:
            continue
        here = [row for layer in incident.layers[:MAX_RINGS_EACH] for row in places.of(layer)]
        for row in here[:MAX_RINGS_EACH]:
            cell = int(np.searchsorted(grid.row_first, row, side="right")) - 1
            if cell >= 0 and row <= grid.row_last[-1]:
                found[cell, column, number] = None
    return [{"row": row, "col": column, "incident": number} for row, column, number in [*found][-MAX_RINGS:]]


class Places:
    """Finds the rows of a layer.

    Args:
        names: The rows: parameters or modules.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._rows = {name: row for row, name in enumerate(names)}
        self._sorted = sorted(names)

    def of(self, layer: str) -> list[int]:
        """Its own row, those of the parameters in it, or that of the module that it is in; in order."""
        if layer in self._rows:
            return [self._rows[layer]]
        start = bisect.bisect_left(self._sorted, f"{layer}.")
        inside = itertools.takewhile(lambda name: name.startswith(f"{layer}."), self._sorted[start:])
        module = module_of(layer)
        return sorted(self._rows[name] for name in inside) or ([self._rows[module]] if module in self._rows else [])
