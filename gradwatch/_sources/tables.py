"""One statistic of a whole run as a table: steps x layers, put together from pieces and grouped by module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

COUNTS = frozenset({"num_nonfinite"})
LARGEST = frozenset({"grad_max", "update_ratio"})
"""Statistics whose value for a module is the largest of its parameters'; norms add up as norms do."""


@dataclass(frozen=True, eq=False)
class Table:
    """One statistic of one optimizer over a run.

    Attributes:
        names: The columns in the model's order, ``[num_layers]``.
        steps: Strictly ascending, int64 ``[num_steps]``.
        values: float32 ``[num_steps, num_layers]``; NaN where absent or not measured.
        statistic: Which one.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    values: NDArray[np.float32]
    statistic: str = "grad_norm"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return self.values.size == 0


@dataclass(frozen=True, eq=False)
class Part:
    """Some consecutive steps with the same layers: a segment of a log, or a stretch of records.

    Attributes:
        names: ``[num_layers]``.
        steps: int64 ``[num_steps]``.
        values: float32 ``[num_steps, num_layers]``.
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    values: NDArray[np.float32]


def join(parts: Sequence[Part], statistic: str, names: Sequence[str] = ()) -> Table:
    """Put a table together.

    Args:
        parts: In the order of writing. A step that comes twice is taken from the later one.
        statistic: What it is of.
        names: Columns that are there also without a value, in the model's order.
    """
    order: tuple[str, ...] = tuple(names)
    for part in parts:
        order = _merged(order, part.names)
    if not parts:
        empty = np.empty((0, len(order)), dtype=np.float32)
        return Table(order, np.empty(0, dtype=np.int64), empty, statistic)
    index = {name: column for column, name in enumerate(order)}
    steps = np.concatenate([part.steps for part in parts]).astype(np.int64, copy=False)
    if all(part.names == order for part in parts):
        values = parts[0].values if len(parts) == 1 else np.concatenate([part.values for part in parts])
    else:
        values = np.full((len(steps), len(order)), np.nan, dtype=np.float32)
        row = 0
        for part in parts:
            values[row : row + len(part.steps), [index[name] for name in part.names]] = part.values
            row += len(part.steps)
    if (np.diff(steps) <= 0).any():
        kept = _last_of_each(steps)
        steps, values = steps[kept], values[kept]
    return Table(order, steps, values, statistic)


def within(part: Part, first: int | None, last: int | None) -> Part | None:
    """Its rows from step ``first`` to step ``last``, both inclusive; None where there are none."""
    kept = np.ones(len(part.steps), dtype=np.bool_)
    if first is not None:
        kept &= part.steps >= first
    if last is not None:
        kept &= part.steps <= last
    if kept.all():
        return part if len(kept) else None
    return Part(part.names, part.steps[kept], part.values[kept]) if kept.any() else None


def module_of(parameter: str) -> str:
    """The module that holds a parameter; the parameter itself where that is the model."""
    return parameter.rpartition(".")[0] or parameter


def module_rows(table: Table) -> Table:
    """A column a module instead of one a parameter, in the order in which they begin.

    Norms are put together as norms (root of the sum of squares), counts are added up, of maxima and ratios the largest
    counts. NaN only where all of a module's parameters are NaN; inf stays inf.
    """
    modules = [module_of(name) for name in table.names]
    names = tuple(dict.fromkeys(modules))
    if not names or names == table.names:
        return table
    place = {name: row for row, name in enumerate(names)}
    owner = np.array([place[module] for module in modules], dtype=np.int64)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(names)))
    values = table.values if (np.diff(owner) >= 0).all() else table.values[:, order]
    if table.statistic in LARGEST:
        grouped = _folded(values, starts, np.fmax)
    elif table.statistic in COUNTS:
        grouped = _folded(values, starts, np.add)
    else:
        grouped = _folded(values, starts, np.hypot)  # no square that leaves the range of a float32
        overflown = np.isinf(grouped)
        if overflown.any():
            overflown &= ~np.isinf(_folded(values, starts, np.fmax))
            grouped[overflown] = np.finfo(np.float32).max
    return replace(table, names=names, values=grouped)


def _folded(
    values: NDArray[np.float32], starts: NDArray[np.int64], fold: Callable[..., NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Columns ``starts[i]`` up to ``starts[i + 1]`` in one; NaN only where all are NaN.

    One fold for each place within a group, over all groups at once: numpy's own ``reduceat`` is ten times slower for
    many small groups.
    """
    sizes = np.diff(np.append(starts, values.shape[1]))
    gaps = fold is not np.fmax and bool(np.isnan(values).any())
    if len(starts) == values.shape[1]:
        return values
    grouped = values[:, starts]
    with np.errstate(over="ignore", invalid="ignore"):
        for place in range(1, int(sizes.max(initial=1))):
            wide = np.flatnonzero(sizes > place)
            have, more = grouped[:, wide], values[:, starts[wide] + place]
            both = fold(have, more)
            if gaps:
                both = np.where(np.isnan(have), more, np.where(np.isnan(more), have, both))
            grouped[:, wide] = both
    return grouped


def relative_rows(table: Table, median: NDArray[np.floating] | None = None) -> Table:
    """Each value over what is usual for its own layer.

    Args:
        table: Any.
        median: What is usual, ``[num_layers]``; by default each column's median over its finite, positive values.

    Returns:
        The quotients; NaN where nothing is known to be usual.
    """
    usual = medians(table) if median is None else median
    divisor: NDArray[np.float32] = np.where(usual > 0, usual, np.nan).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values: NDArray[np.float32] = np.divide(table.values, divisor)
    return replace(table, values=values)


def medians(table: Table) -> NDArray[np.float32]:
    """Each column's median over its finite, positive values, ``[num_layers]``; NaN where there is none."""
    usable = np.isfinite(table.values) & (table.values > 0)
    ordered = np.sort(np.where(usable, table.values, np.inf), axis=0)
    count = usable.sum(axis=0)
    found = np.full(len(table.names), np.nan, dtype=np.float32)
    some = np.flatnonzero(count)
    found[some] = ordered[(count[some] - 1) // 2, some]  # one of the values: a mean of two decades apart is neither
    return found


def _merged(known: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """Both in one order: what is new stands behind the name that it followed."""
    if new == known or not new:
        return known
    names = set(known)
    behind: dict[str | None, list[str]] = {}
    previous: str | None = None
    for name in dict.fromkeys(new):
        if name in names:
            previous = name
        else:
            behind.setdefault(previous, []).append(name)
    if not behind:
        return known
    merged = behind.get(None, [])
    for name in known:
        merged += [name, *behind.get(name, ())]
    return tuple(merged)


def _last_of_each(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows to keep, in order of step: of every step the last one written."""
    reverse = steps[::-1]
    _, first_seen = np.unique(reverse, return_index=True)
    return len(steps) - 1 - first_seen
