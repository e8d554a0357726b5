"""The run so far in a few numbers a module: bounded memory, whatever the number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch.records import Float64Array, Layer, LayerSummary, StepRecord, number_to_json

_LARGEST = 1e150
"""Squares of norms below this one and their sums are finite."""

_FIELDS = ("first", "low", "low_step", "high", "high_step", "bad", "bad_step")


class Aggregates:
    """Counters, and of every module the first, the extreme and the first non-finite gradient norm."""

    def __init__(self) -> None:
        self.num_skipped = 0
        self.num_held_back = 0
        self.num_clipped = 0
        self.last_total_norm = math.nan
        self._tables: dict[int, _Table] = {}

    def observe(self, record: StepRecord) -> None:
        """Take one step in."""
        self.num_skipped += record.skipped
        self.num_held_back += record.held_back
        self.num_clipped += record.clipped
        self.last_total_norm = record.total_norm
        if record.skipped and not record.held_back:
            return
        table = self._tables.get(record.optimizer)
        if table is None or table.modules is None or table.modules.layers is not record.layers:
            table = self._tables[record.optimizer] = _Table(record, table)
        table.observe(record)

    @property
    def num_tensors(self) -> int:
        """Parameters watched, over all optimizers."""
        return sum(len(table.modules.layers) for table in self._tables.values() if table.modules is not None)

    def layers(self, history: Iterable[StepRecord]) -> tuple[LayerSummary, ...]:
        """One row a module; the medians are over ``history``."""
        norms: dict[tuple[int, str], list[float]] = {}
        groupings: dict[int, _Modules] = {}
        for record in history:
            if not record.skipped:
                modules = groupings.get(id(record.layers)) or _Modules(record.layers)
                groupings[id(record.layers)] = modules
                for name, norm in zip(modules.names, modules.grad_norm(record).tolist(), strict=True):
                    norms.setdefault((record.optimizer, name), []).append(norm)
        rows = []
        for optimizer, table in sorted(self._tables.items()):
            for i, name in enumerate(table.names):
                values = np.array(norms.get((optimizer, name), []))
                values = values[np.isfinite(values)]
                # one of the norms: the mean of two that lie decades apart would be neither
                median = float(np.percentile(values, 50, method="lower")) if len(values) else math.nan
                rows.append(table.row(i, optimizer, median))
        return tuple(rows)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "num_skipped": self.num_skipped,
            "num_held_back": self.num_held_back,
            "num_clipped": self.num_clipped,
            "last_total_norm": number_to_json(self.last_total_norm),
            "tables": {str(index): table.state_dict() for index, table in self._tables.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.num_skipped, self.num_clipped = state["num_skipped"], state["num_clipped"]
        self.num_held_back = state.get("num_held_back", 0)
        self.last_total_norm = float(state["last_total_norm"])
        self._tables = {int(index): _Table.from_state(table) for index, table in state["tables"].items()}


class _Modules:
    """Which parameters make up which module: what people call a layer."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        modules = [layer.module or layer.name for layer in layers]  # the model's own parameters stand for themselves
        self.names = tuple(dict.fromkeys(modules))
        rows = {name: row for row, name in enumerate(self.names)}
        self._rows = np.array([rows[module] for module in modules], dtype=np.int64)

    def grad_norm(self, record: StepRecord) -> Float64Array:
        """L2 norm over each module's present gradients, ``[num_modules]``; NaN where all are absent."""
        smallest, largest = record.extremes
        if record.finite and smallest >= 0 and largest < _LARGEST:  # none is absent: at nearly every step
            return np.sqrt(self._sum(np.square(record.grad_norm)))
        present = ~record.absent
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.where(present, np.square(record.grad_norm), 0.0)
        norm: Float64Array = np.sqrt(self._sum(squares))
        norm[self._sum(present.astype(np.float64)) == 0] = math.nan
        return norm

    def is_bad(self, record: StepRecord) -> NDArray[np.bool_]:
        """Where a gradient has non-finite elements, ``[num_modules]``."""
        bad: NDArray[np.bool_] = self._sum(record.num_nonfinite.astype(np.float64)) > 0
        return bad

    def _sum(self, values: Float64Array) -> Float64Array:
        sums = np.bincount(self._rows, weights=values, minlength=len(self.names))
        return sums.astype(np.float64, copy=False)  # of nothing at all it makes integers


class _Table:
    """The arrays of one optimizer, ``[num_modules]`` each; carried over by name when its layers change."""

    def __init__(self, record: StepRecord | None, previous: _Table | None = None, names: tuple[str, ...] = ()) -> None:
        self.modules = None if record is None else _Modules(record.layers)
        self.names = names if self.modules is None else self.modules.names
        self.columns: dict[str, Float64Array] = {key: np.full(len(self.names), math.nan) for key in _FIELDS}
        if previous is not None:
            old = {name: i for i, name in enumerate(previous.names)}
            kept = [(i, old[name]) for i, name in enumerate(self.names) if name in old]
            here, there = [i for i, _ in kept], [j for _, j in kept]
            for key in _FIELDS:
                self.columns[key][here] = previous.columns[key][there]

    def observe(self, record: StepRecord) -> None:
        assert self.modules is not None
        norm, column = self.modules.grad_norm(record), self.columns
        if record.finite and self._is_usual(norm):
            return
        finite = np.isfinite(norm)
        fresh = np.isnan(column["first"]) & finite
        column["first"][fresh] = norm[fresh]
        for key, better in (("low", np.less), ("high", np.greater)):
            # an exact zero is a state of its own (an unused branch, a zero-initialised head), no extreme
            wins = finite & (norm > 0) & (np.isnan(column[key]) | better(norm, column[key]))
            column[key][wins] = norm[wins]
            column[f"{key}_step"][wins] = record.step
        bad = self.modules.is_bad(record) & np.isnan(column["bad_step"])
        column["bad"][bad] = norm[bad]
        column["bad_step"][bad] = record.step

    def _is_usual(self, norm: Float64Array) -> bool:
        """Whether each norm lies between its extremes so far, so that nothing is new; NaN lies nowhere."""
        low, high = self.columns["low"], self.columns["high"]
        return bool(np.logical_and(low <= norm, norm <= high).all())

    def row(self, i: int, optimizer: int, median: float) -> LayerSummary:
        at = {key: float(values[i]) for key, values in self.columns.items()}
        worst, step = median, math.nan
        if not math.isnan(at["bad_step"]):
            worst, step = at["bad"], at["bad_step"]
        elif not math.isnan(at["low"]):
            centre = math.log(median) if median > 0 else math.log(at["high"])
            falls, rises = abs(math.log(at["low"]) - centre), abs(math.log(at["high"]) - centre)
            worst, step = (at["high"], at["high_step"]) if rises >= falls else (at["low"], at["low_step"])
        return LayerSummary(self.names[i], at["first"], median, worst, -1 if math.isnan(step) else int(step), optimizer)

    def state_dict(self) -> dict[str, Any]:
        columns = {key: [number_to_json(v) for v in values.tolist()] for key, values in self.columns.items()}
        return {"names": list(self.names), **columns}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Table:
        table = cls(None, names=tuple(state["names"]))
        table.columns = {key: np.array([float(v) for v in state[key]]) for key in _FIELDS}
        return table
