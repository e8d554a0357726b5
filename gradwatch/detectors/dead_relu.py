"""Dead ReLUs: units that give exactly zero for every sample, so that nothing can ever bring them back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwatch._baselines import STALLED_STEPS, Episode, Learning, Progress, counts
from gradwatch._scene import Calls
from gradwatch._weights import Weights, WeightScale, bias_size
from gradwatch.detectors._base import Remembering, Shared
from gradwatch.records import Float64Array, Incident, Layer, Severity, StepRecord
from gradwatch.wording import percent

DEAD = 0.95
"""Share of a layer's units that are dead from which on the layer is."""

SICK = 0.85
"""Share that counts where the loss hardly falls, too. Up to a half are dead in many healthy nets."""

PROBES = 2
"""Looks in a row: one batch alone may leave a unit silent."""


@dataclass
class _DeadState:
    """What is remembered of one optimizer: for how many looks in a row each layer has been dead or sick."""

    episode: Episode = field(default_factory=Episode)
    learning: Learning = field(default_factory=Learning)
    progress: Progress = field(default_factory=Progress)
    dead: dict[str, int] = field(default_factory=dict)
    sick: dict[str, int] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)
    """Modules with a parameter of exactly zero: what they give may be zero without any ReLU."""


@dataclass(frozen=True)
class _Layer:
    """A dead layer: its activation, the layer with weights before it, and the share of dead units.

    Attributes:
        activation: Its name.
        layer: The layer before it.
        share: Of the units that were looked at.
        row: Of the activation.
        carries: Whether a signal comes through all the same, by what was not looked at.
    """

    activation: str
    layer: str
    share: float
    row: int
    carries: bool = False

    @property
    def is_dead(self) -> bool:
        """Whether that is sure at sight."""
        return self.share >= DEAD and not self.carries


class DeadReluDetector(Remembering[_DeadState]):
    """A layer's units give zero whatever they are shown; no gradient passes, so none of them recovers."""

    kind = "dead_relu"
    new_state = _DeadState

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__(shared)
        self._measured: dict[int, StepRecord] = {}  # the last one with weights; a resumed run soon has another

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        state.learning, state.progress = self._course.follow(record, state.learning, state.progress)
        if record.weight_norm is not None:
            self._measured[record.optimizer] = record
            state.zero = _modules_of_zeros(record.layers, record.weight_norm)
        if (calls := self._forward.of(record)) is None:
            return []
        found = {layer.activation: layer for layer in (*_silent_layers(calls), *_starved_layers(calls, state))}
        state.dead = {name: state.dead.get(name, 0) + 1 for name, layer in found.items() if layer.is_dead}
        state.sick = {name: state.sick.get(name, 0) + 1 for name in found}
        ripe = [name for name, looks in state.dead.items() if looks >= PROBES]
        stands = state.progress.since >= STALLED_STEPS and state.learning.poor(STALLED_STEPS)
        hardly = stands or state.learning.hardly(STALLED_STEPS)
        if not ripe and hardly:
            ripe = [name for name, looks in state.sick.items() if looks > PROBES]
        if state.episode.begins(symptom=bool(found), alarm=bool(ripe)):
            measured = self._measured.get(record.optimizer)
            weights: dict[str, Any] = {}
            if measured is not None:
                weights = (Weights().scale(measured) or WeightScale()).evidence()
                weights["bias_size"] = bias_size(measured, found[ripe[0]].layer)
            return [_dead(record, calls, [found[name] for name in ripe], weights)]
        return []


def _modules_of_zeros(layers: tuple[Layer, ...], weight_norm: Float64Array) -> list[str]:
    if np.count_nonzero(weight_norm) == len(weight_norm):
        return []
    return [layers[index].module for index in np.flatnonzero(weight_norm == 0).tolist()]


def _silent_layers(calls: Calls) -> list[_Layer]:
    """Activations of the ReLU family of which most units are silent, in forward order; those given nothing are not."""
    seen, plan, found = calls.seen, calls.plan, []
    silent = seen.dead_share >= SICK
    if not np.count_nonzero(silent):
        return []
    for row in plan.relus[silent[plan.relus]].tolist():
        before = calls.before(row)
        if any(seen.in_std[r] == 0 and seen.in_mean[r] == 0 for r in (before, row)):
            continue  # not this layer's doing: it is given zeros, or a branch that begins at zero
        share = float(seen.dead_share[row])
        carries = share == 1 and before >= 0 and seen.out_grad[before] > 0  # units that were not looked at are awake
        found.append(_Layer(seen.modules[row], seen.modules[before], share, row, carries=carries))
    return found


def _starved_layers(calls: Calls, state: _DeadState) -> list[_Layer]:
    """Layers that are given nothing but zeros by the layer before: of a ReLU that nobody could see."""
    seen, plan = calls.seen, calls.plan
    starved = seen.in_std == 0
    if not np.count_nonzero(starved):
        return []
    starved &= plan.is_layer & (seen.in_mean == 0) & (seen.from_data == 0)
    found = []
    for row in np.flatnonzero(starved).tolist():
        before = calls.before(row)
        is_first = before >= 0 and not starved[before] and seen.modules[before] not in state.zero
        is_first = is_first and seen.out_grad[before] == 0  # zeros that carry a signal are a matter of rounding
        if is_first and not seen.kinds[before].startswith("Embedding"):
            found.append(_Layer(seen.modules[row], seen.modules[before], 1.0, row))
    return found


def _dead(record: StepRecord, calls: Calls, layers: list[_Layer], weights: dict[str, Any]) -> Incident:
    first = layers[0]
    names = dict.fromkeys(name for layer in layers for name in (layer.layer, layer.activation))
    rest = "" if len(layers) == 1 else f" and {len(layers) - 1} more"
    seen_itself = first.row in calls.plan.relus
    given = (calls.seen.in_mean[first.row], calls.seen.in_std[first.row]) if seen_itself else (math.nan, math.nan)
    every = "Every unit" if first.share == 1 else f"{percent(first.share)} of the units"
    what = (
        f"{every} of {first.activation}{rest} gives zero for every sample"
        if seen_itself
        else f"{first.activation}{rest} is given nothing but zeros by {first.layer}"
    )
    return Incident(
        kind="dead_relu",
        step=record.step,
        layers=tuple(names),
        severity=Severity.ERROR if first.share >= DEAD else Severity.WARNING,
        value=first.share,
        threshold=DEAD if first.share >= DEAD else SICK,
        message=f"{what}. A ReLU that gives zero passes no "
        "gradient back, so the layers before it learn nothing through it, and it cannot recover by itself.",
        optimizer=record.optimizer,
        num_layers=max(len(calls.plan.relus), len(layers)),
        evidence={
            "rule": "dead" if first.share >= DEAD else "sick",
            "activation": first.activation,
            "layer": first.layer,
            "share": first.share,
            "num_dead": len(layers),
            "given_mean": float(given[0]),
            "given_std": float(given[1]),
            **weights,
            "lr": record.lr,
            "loss": record.loss,
        },
    )
