"""Layers x steps in flat memory for any run, and no single-step spike or dip is lost.

Both axes are pooled by halving: when the columns (steps) or rows (layers) are full, neighbours are merged. A cell
keeps its highest and its lowest value, so that merging loses neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch.records import Float64Array, Layer, StepRecord

MAX_ROWS, MAX_COLUMNS = 400, 512

_DIP_DECADES = 1.0
"""A cell shows its lowest value instead of its highest where that one left its row's usual range so much farther."""


class Heatmap:
    """Accumulates log10 gradient norms of one optimizer's layers."""

    def __init__(self) -> None:
        shape = (MAX_COLUMNS, MAX_ROWS)  # a step is one contiguous row in memory
        self._high = np.full(shape, np.nan, dtype=np.float32)
        self._low = np.full(shape, np.nan, dtype=np.float32)
        self._nonfinite = np.zeros(shape, dtype=np.bool_)
        self._steps: list[int] = []  # first step of each column
        self._num_records = 0
        self._per_column = 1
        self._per_row = 1
        self._index: dict[str, int] = {}
        self._known: tuple[Layer, ...] = ()
        self._rows = np.zeros(0, dtype=np.intp)
        self._starts: NDArray[np.intp] | None = None  # where each row begins, if each follows the one before
        self._span = np.s_[:]

    def add(self, *records: StepRecord) -> None:
        """Take steps, in order."""
        for same in _alike(records):
            if same[0].layers is not self._known:
                self._meet(same[0].layers)
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.log10([record.grad_norm for record in same]).astype(np.float32)
            logs[np.isposinf(logs)] = np.nan
            for record, values in zip(same, logs, strict=True):
                self._add(record, values)

    def _add(self, record: StepRecord, values: NDArray[np.float32]) -> None:
        column = self._num_records // self._per_column
        if column == MAX_COLUMNS:
            self._halve_columns()
            column //= 2
        if column == len(self._steps):
            self._steps.append(record.step)
        self._num_records += 1
        if self._starts is None:
            np.fmax.at(self._high[column], self._rows, values)
            np.fmin.at(self._low[column], self._rows, values)
        else:  # rows in order, as nearly always: their neighbours are joined at a fraction of the price
            for plane, join in ((self._high, np.fmax), (self._low, np.fmin)):
                cells = plane[column, self._span]
                join(cells, values if len(cells) == len(values) else join.reduceat(values, self._starts), out=cells)
        if not (record.finite and record.extremes[1] < np.inf):
            bad = (record.num_nonfinite > 0) | np.isinf(record.grad_norm)
            self._nonfinite[column, self._rows[bad]] = True

    def _meet(self, layers: tuple[Layer, ...]) -> None:
        """New layers get the next rows; rows are merged until all fit."""
        for layer in layers:
            self._index.setdefault(layer.name, len(self._index))
        while len(self._index) > MAX_ROWS * self._per_row:
            for array, join in self._planes():
                array[:, : MAX_ROWS // 2] = join(array[:, 0::2], array[:, 1::2])
                array[:, MAX_ROWS // 2 :] = False if array.dtype == np.bool_ else np.nan
            self._per_row *= 2
        self._known = layers
        self._rows = np.array([self._index[layer.name] // self._per_row for layer in layers], dtype=np.intp)
        steps = np.diff(self._rows)
        in_order = len(self._rows) > 0 and bool(((steps == 0) | (steps == 1)).all())
        self._starts = np.flatnonzero(np.concatenate([[1], steps])) if in_order else None
        self._span = np.s_[self._rows[0] : self._rows[-1] + 1] if in_order else np.s_[:]

    def _halve_columns(self) -> None:
        for array, join in self._planes():
            array[: MAX_COLUMNS // 2] = join(array[0::2], array[1::2])
            array[MAX_COLUMNS // 2 :] = False if array.dtype == np.bool_ else np.nan
        self._steps = self._steps[::2]
        self._per_column *= 2

    def _planes(self) -> tuple[tuple[Any, Any], ...]:
        return (self._high, np.fmax), (self._low, np.fmin), (self._nonfinite, np.logical_or)

    def cells(self) -> tuple[Float64Array, NDArray[np.bool_]]:
        """What to show.

        Returns:
            log10 norms ``[num_rows, num_columns]`` (NaN where absent, -inf where exactly zero), and where a value
            was not finite (bool, same shape).
        """
        used = np.s_[: len(self._steps), : -(-len(self._index) // self._per_row)]
        high, low = self._high[used].T.astype(np.float64), self._low[used].T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            fall = _usual(low) - low
            rise = np.abs(high - _usual(high))
            dips = fall > rise + _DIP_DECADES
        return np.where(dips, low, high), self._nonfinite[used].T

    def rows_of(self, layers: tuple[str, ...]) -> list[int]:
        """Rows of parameters or modules."""
        wanted = set(layers)
        places = {row // self._per_row for name, row in self._index.items() if _is_or_in(name, wanted)}
        return sorted(places)

    def column_of(self, step: int) -> int:
        """The column that holds ``step``."""
        return max(0, int(np.searchsorted(self._steps, step, side="right")) - 1)

    def labels(self) -> list[str]:
        """One label a row: the layer, or the first of those merged into it."""
        more = "" if self._per_row == 1 else f" (+{self._per_row - 1})"
        return [wording.name(name, 36) + more for name in list(self._index)[:: self._per_row]]

    @property
    def steps(self) -> list[int]:
        """First step of each column."""
        return self._steps


def _alike(records: Sequence[StepRecord]) -> Iterator[list[StepRecord]]:
    """Runs of records with the very same layers."""
    for _, same in itertools.groupby(records, key=lambda record: id(record.layers)):
        yield list(same)


def _is_or_in(parameter: str, wanted: set[str]) -> bool:
    while parameter:
        if parameter in wanted:
            return True
        parameter = parameter.rpartition(".")[0]
    return False


def _usual(values: Float64Array) -> Float64Array:
    """The median of each row's finite values ``[num_rows, 1]``; NaN where there is none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    usual = np.full((len(values), 1), np.nan)
    seen = np.isfinite(finite).any(axis=1)
    if seen.any():
        usual[seen, 0] = np.nanmedian(finite[seen], axis=1)
    return usual
