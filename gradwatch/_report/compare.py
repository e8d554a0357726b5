"""Two recorded runs beside each other: which layers and incidents differ, and from which step on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch._figures.series import nonfinite
from gradwatch._sources.protocol import Recording
from gradwatch._sources.tables import Table
from gradwatch.records import Incident

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Difference:
    """One layer, or one number of the whole step, that differs.

    Attributes:
        name: The parameter; ``"loss"``, ``"lr"`` and the like for what belongs to the whole step.
        optimizer: Whose.
        step: The first step at which it differs.
        a: Its value in the first run at that step; NaN where absent or not finite.
        b: The same of the second run.
        num_steps: At how many of the common steps it differs.
        largest: The largest difference, as a share of the larger value; inf where only one of them has a value.
    """

    name: str
    optimizer: int
    step: int
    a: float
    b: float
    num_steps: int
    largest: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two runs have in common, and what not.

    Attributes:
        tolerance: Relative; what differs by less counts as alike.
        steps_a: How many steps the first run has, over all optimizers.
        steps_b: The same of the second run.
        num_common: Steps that both have.
        num_layers: Parameters that both have.
        only_a: Parameters of the first run alone.
        only_b: Of the second alone.
        layers: Gradient norms that differ, in the order in which they begin to.
        scalars: What differs of whole steps: total norm, loss, learning rate.
        incidents: In both, at the same step.
        moved: In both, with the step in the first run and in the second.
        incidents_a: In the first run alone.
        incidents_b: In the second alone.
    """

    tolerance: float
    steps_a: int
    steps_b: int
    num_common: int = 0
    num_layers: int = 0
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    layers: tuple[Difference, ...] = ()
    scalars: tuple[Difference, ...] = ()
    incidents: tuple[Incident, ...] = ()
    moved: tuple[tuple[Incident, Incident], ...] = ()
    incidents_a: tuple[Incident, ...] = ()
    incidents_b: tuple[Incident, ...] = ()

    @property
    def is_alike(self) -> bool:
        """Whether nothing differs, and there was something to compare."""
        layers_differ = self.only_a or self.only_b or self.layers or self.scalars
        incidents_differ = self.moved or self.incidents_a or self.incidents_b
        return not layers_differ and not incidents_differ and self.steps_a == self.steps_b == self.num_common

    @property
    def first_step(self) -> int | None:
        """From which step on something differs; None where no step does."""
        steps = [difference.step for difference in (*self.layers, *self.scalars)]
        steps += [incident.step for incident in (*self.incidents_a, *self.incidents_b)]
        steps += [min(a.step, b.step) for a, b in self.moved]
        return min(steps, default=None)


@dataclass
class _Counted:
    steps_a: int = 0
    steps_b: int = 0
    num_common: int = 0
    num_layers: int = 0
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    layers: list[Difference] = field(default_factory=list)
    scalars: list[Difference] = field(default_factory=list)


def compare(
    a: Recording, b: Recording, *, tolerance: float = TOLERANCE, first: int | None = None, last: int | None = None
) -> Comparison:
    """Compare two runs step by step.

    Args:
        a: The first.
        b: The second.
        tolerance: Relative; below a millionth a TensorBoard log cannot tell, since it keeps float32.
        first: First step to compare, inclusive.
        last: Last one, inclusive.
    """
    counted = _Counted()
    for optimizer in sorted({*a.optimizers, *b.optimizers}):
        _compare_optimizer(a, b, optimizer, (tolerance, first, last), counted)
    both, moved, only_a, only_b = _match(_within(a.incidents, first, last), _within(b.incidents, first, last))
    return Comparison(
        tolerance=tolerance,
        steps_a=counted.steps_a,
        steps_b=counted.steps_b,
        num_common=counted.num_common,
        num_layers=counted.num_layers,
        only_a=tuple(counted.only_a),
        only_b=tuple(counted.only_b),
        layers=tuple(sorted(counted.layers, key=lambda difference: difference.step)),
        scalars=tuple(sorted(counted.scalars, key=lambda difference: difference.step)),
        incidents=both,
        moved=moved,
        incidents_a=only_a,
        incidents_b=only_b,
    )


def _compare_optimizer(
    a: Recording, b: Recording, optimizer: int, limits: tuple[float, int | None, int | None], counted: _Counted
) -> None:
    tolerance, first, last = limits
    tables = [run.table("grad_norm", optimizer, first=first, last=last) for run in (a, b)]
    bad = [nonfinite(run, table, optimizer, "parameters") for run, table in zip((a, b), tables, strict=True)]
    counted.steps_a += len(tables[0].steps)
    counted.steps_b += len(tables[1].steps)
    counted.num_common += len(np.intersect1d(tables[0].steps, tables[1].steps))
    names = set(tables[0].names) & set(tables[1].names)
    counted.num_layers += len(names)
    counted.only_a += [name for name in tables[0].names if name not in names]
    counted.only_b += [name for name in tables[1].names if name not in names]
    counted.layers += _differences(tables[0], tables[1], optimizer, tolerance, bad)
    whole = [run.table("scalars", optimizer, first=first, last=last) for run in (a, b)]
    counted.scalars += _differences(whole[0], whole[1], optimizer, tolerance, None)


def _differences(
    a: Table, b: Table, optimizer: int, tolerance: float, bad: Sequence[NDArray[np.bool_]] | None
) -> list[Difference]:
    """Columns that both tables have, where they differ at a common step."""
    steps, in_a, in_b = np.intersect1d(a.steps, b.steps, assume_unique=True, return_indices=True)
    columns = {name: index for index, name in enumerate(b.names)}
    found = []
    for index, name in enumerate(a.names):
        if name not in columns or not len(steps):
            continue
        ours, theirs = a.values[in_a, index].astype(np.float64), b.values[in_b, columns[name]].astype(np.float64)
        share = _share(ours, theirs)
        if bad is not None:
            mixed = bad[0][in_a, index] != bad[1][in_b, columns[name]]
            share[mixed] = np.inf
        places = np.flatnonzero(share > tolerance)
        if len(places):
            at = int(places[0])
            found.append(
                Difference(
                    name=name,
                    optimizer=optimizer,
                    step=int(steps[at]),
                    a=float(ours[at]),
                    b=float(theirs[at]),
                    num_steps=len(places),
                    largest=float(share.max()),
                )
            )
    return found


def _share(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference as a share of the larger value; inf where only one of them is a number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share: NDArray[np.float64] = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    share[(a == b) | (np.isnan(a) & np.isnan(b))] = 0
    share[np.isnan(share)] = np.inf
    return share


def _within(incidents: Sequence[Incident], first: int | None, last: int | None) -> list[Incident]:
    return [i for i in incidents if (first is None or i.step >= first) and (last is None or i.step <= last)]


def _match(
    a: list[Incident], b: list[Incident]
) -> tuple[tuple[Incident, ...], tuple[tuple[Incident, Incident], ...], tuple[Incident, ...], tuple[Incident, ...]]:
    """The same ones, those at another step, and those of one run alone; the same is a kind in a layer."""
    left = list(b)
    both, rest = [], []
    for incident in a:
        twin = next((other for other in left if _key(other) == _key(incident) and other.step == incident.step), None)
        if twin is None:
            rest.append(incident)
        else:
            left.remove(twin)
            both.append(incident)
    moved, only_a = [], []
    for incident in rest:
        twin = next((other for other in left if _key(other) == _key(incident)), None)
        if twin is None:
            only_a.append(incident)
        else:
            left.remove(twin)
            moved.append((incident, twin))
    return tuple(both), tuple(moved), tuple(only_a), tuple(left)


def _key(incident: Incident) -> tuple[str, int, str]:
    return incident.kind, incident.optimizer, incident.layers[0] if incident.layers else ""
