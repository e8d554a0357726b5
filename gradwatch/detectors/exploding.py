"""Exploding: gradients far above their usual size, growing from layer to layer, or too large for the weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gradwatch._baselines import (
    STALLED_STEPS,
    WARM_STEPS,
    Episode,
    Learning,
    Level,
    Progress,
    Signal,
    Streaks,
    Usual,
    counts,
)
from gradwatch._decades import number, power
from gradwatch._depth import FADE, Profile
from gradwatch._memory import PerLayers
from gradwatch._scene import Calls
from gradwatch._weights import LARGE, REPLACED, WeightScale
from gradwatch.detectors._base import Remembering, Shared
from gradwatch.records import Float64Array, Incident, Layer, Severity, StepRecord

BURST = 3.0
"""Decades above anything seen that are evidence enough in a single step."""

ALONE = 1.0
"""Decades above the usual norm that count where one layer alone is to blame, far above its own usual."""

LEARNT = 0.2
"""Share of the first loss below which a run has done its work."""

PILED = 0.3
"""Share of a gradient that was already there when the backward pass began."""

SHALLOW = 2
"""Weight matrices up to which a network has no depth for a signal to grow over."""

LOOKS = 2
"""Probed steps in a row that show the signal itself growing on its way back."""

RUNAWAY = 30.0
"""Times the size that the loss, below zero, and the norm had at first: a loss that sinks the faster the lower it is."""

_PATIENCE = {"replaced": 1, "burst": 1, "jump": 3, "growth": 3, "runaway": 5}


@dataclass
class _ExplodingState:
    episode: Episode = field(default_factory=Episode)
    streaks: Streaks = field(default_factory=Streaks)
    weights: WeightScale = field(default_factory=WeightScale)
    total: Level = field(default_factory=Level)
    usual: Usual = field(default_factory=Usual)
    progress: Progress = field(default_factory=Progress)
    learning: Learning = field(default_factory=Learning)
    signal: Signal = field(default_factory=Signal)
    grown: float = -math.inf
    """Decades by which the norm is above what it was at first."""
    piled: int = 0
    """Probed steps in a row at which gradients of the step before were still there."""
    looks: int = 0
    """Probed steps in a row that show the signal itself growing."""


class ExplodingDetector(Remembering[_ExplodingState]):
    """Gradients far above their usual size, growing from layer to layer, or too large for any learning rate."""

    kind = "exploding"
    new_state = _ExplodingState

    def __init__(self, shared: Shared | None = None) -> None:
        super().__init__(shared)
        self._names = PerLayers(_names)

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        names = self._names.of(record)
        if names is not state.usual.names:
            state.total.shift(state.usual.follow(names, record.grad_norm))
        state.weights = self._weights.scale(record) or state.weights
        state.learning, state.progress = self._course.follow(record, state.learning, state.progress)
        state.grown = -state.signal.lost(record.total_norm)
        findings = self._findings(record, state)
        state.streaks.update(dict.fromkeys(findings, 0.0) if findings else {})
        ripe = state.streaks.ripe(_PATIENCE)
        if (signal := self._signal.of(record)) is not None:
            grows = _is_early(state) and _grows(signal)
            state.looks = state.looks + 1 if grows else 0
            if state.looks >= LOOKS and not ripe:
                findings["growth"], ripe = (lambda: _growing(record, signal)), ["growth"]
        if (calls := self._forward.of(record)) is not None:
            pile = _piled(record, calls)
            state.piled = state.piled + 1 if pile is not None else 0
            if pile is not None and state.piled > LOOKS and not ripe:
                findings["piled"], ripe = (lambda: _piling_up(record, pile, state)), ["piled"]
        found = []
        if state.episode.begins(symptom=bool(findings), alarm=bool(ripe)):
            incident = findings[ripe[0]]()
            found.append(dataclasses.replace(incident, evidence={**incident.evidence, **state.weights.evidence()}))
        if record.total_norm > 0 and not found:  # what was told is no history: the same again is told again
            state.total.update(math.log10(record.total_norm))
        state.usual.update(record.grad_norm)
        return found

    def _findings(self, record: StepRecord, state: _ExplodingState) -> dict[str, Callable[[], Incident]]:
        """The symptoms of this step; each can be made an incident."""
        findings: dict[str, Callable[[], Incident]] = {}
        total, level = state.total, math.log10(record.total_norm) if record.total_norm > 0 else -math.inf
        if total.count >= WARM_STEPS:
            if level >= total.highest + BURST:
                findings["burst"] = lambda: _jumped(record, state, power(total.highest + BURST), "burst")
            high = level >= total.limit or (level >= total.peak + ALONE and _carried_by_one(record, state))
            if high and _is_new(record, level, state):
                findings["jump"] = lambda: _jumped(record, state, power(total.limit), "jump")
        if _runs_away(record, state):
            findings["runaway"] = lambda: _running_away(record, state)
        if _is_early(state) and _grows(profile := self._depth.of(record)):
            findings["growth"] = lambda: _growing(record, profile)
        ratios = self._weights.update_ratio(record)
        replaced = ratios is not None and self._weights.largest_update(record) >= REPLACED
        if ratios is not None and replaced and np.nanmedian(ratios) >= REPLACED:
            # Where weights and gradients are sound, the learning rate is to blame: that is lr_too_high.
            # One or two sound matrices have no depth to explode through: their first steps may well replace them.
            deep = (~np.isnan(ratios)).sum() > SHALLOW or state.weights.median > LARGE
            if deep and not self._weights.blames_rate(record):
                findings["replaced"] = lambda: _replaced(record, ratios)
        return findings


def _is_new(record: StepRecord, level: float, state: _ExplodingState) -> bool:
    """Whether a jump leads anywhere: a run that has done its work may bounce, below where it came from."""
    learnt = record.loss is not None and 0 <= record.loss < LEARNT * state.learning.first
    return level > state.total.highest or not learnt


def _runs_away(record: StepRecord, state: _ExplodingState) -> bool:
    """Whether the loss falls without end: far below zero, by ever larger gradients."""
    if record.loss is None or not record.loss < -RUNAWAY * max(1.0, abs(state.learning.first)):
        return False
    return math.isfinite(state.grown) and state.grown >= math.log10(RUNAWAY)


def _is_early(state: _ExplodingState) -> bool:
    """Whether growth over depth can be the weights' own: later on, the last layers may just have done their work."""
    return state.total.count <= 2 * WARM_STEPS or state.progress.since >= STALLED_STEPS


def _grows(profile: Profile) -> bool:
    return not profile.is_level(FADE) and profile.fade <= -FADE and profile.trend() <= -FADE


def _names(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)


def _carried_by_one(record: StepRecord, state: _ExplodingState) -> bool:
    """Whether one layer alone outweighs the whole model's usual norm, far above its own usual: diluted by the rest."""
    alone = record.grad_norm >= power(state.total.peak)
    far = power(state.total.limit - state.total.mean)
    with np.errstate(over="ignore"):
        return bool((alone & (record.grad_norm >= far * state.usual.norm)).any())


def _piled(record: StepRecord, calls: Calls) -> int | None:
    """The parameter that still had a gradient of the step before; one of another optimizer's may have it rightly."""
    if calls.carried_grad == 0:
        return None
    carried = calls.seen.carried_grad
    row = int(np.nanargmax(carried))
    for index, layer in enumerate(record.layers):
        if layer.module and layer.module == calls.seen.modules[row]:
            share = carried[row] / record.grad_norm[index] if record.grad_norm[index] > 0 else 0.0
            # All of it is no rest: the parameter is used behind the layer too, and its gradient was there early.
            return index if share >= PILED and abs(share - 1) > 1e-4 else None  # noqa: PLR2004
    return None


def _piling_up(record: StepRecord, index: int, state: _ExplodingState) -> Incident:
    first = record.layers[index].name
    return Incident(
        kind="exploding",
        step=record.step,
        layers=(first,),
        severity=Severity.ERROR,
        value=record.total_norm,
        threshold=power(state.total.mean),
        message=f"The gradients pile up: when the backward pass began, {first} still had the gradient of the step "
        f"before, so that each step adds to all those before it (norm now {record.total_norm:.3g}).",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={"rule": "piled", "total_norm": record.total_norm, "lr": record.lr, "loss": record.loss},
    )


def _jumped(record: StepRecord, state: _ExplodingState, threshold: float, rule: str) -> Incident:
    usual = power(state.total.mean)
    with np.errstate(all="ignore"):
        times = np.nan_to_num(record.grad_norm / state.usual.norm, nan=0.0)
    order = [int(index) for index in np.argsort(-times, kind="stable") if times[index] >= 10]  # noqa: PLR2004
    order = order or [int(np.nanargmax(record.grad_norm))]
    worst = f"{record.layers[order[0]].name} ({number(times[order[0]])} times its usual)"
    factor = number(record.total_norm / usual)
    lasted = "in a single step" if rule == "burst" else f"for {_PATIENCE[rule]} steps in a row"
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(record.layers[index].name for index in order),
        severity=Severity.ERROR,
        value=record.total_norm if rule == "burst" or record.total_norm > threshold else float(times[order[0]] * usual),
        threshold=threshold,
        message=f"The gradients have exploded: their norm of {record.total_norm:.3g} is {factor} times the usual "
        f"{usual:.3g}, {lasted}; most of all {worst}.",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={
            "rule": rule,
            "total_norm": record.total_norm,
            "usual_norm": usual,
            "highest_norm": power(state.total.highest),
            "lr": record.lr,
            "loss": record.loss,
        },
    )


def _running_away(record: StepRecord, state: _ExplodingState) -> Incident:
    order = np.argsort(-np.nan_to_num(record.grad_norm), kind="stable")
    times = power(state.grown)
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(record.layers[int(index)].name for index in order[:3]),
        severity=Severity.ERROR,
        value=times,
        threshold=RUNAWAY,
        message=f"The loss falls without end, and ever faster: it is {number(record.loss or 0.0)}, after "
        f"{number(state.learning.first)} at first, and the gradients are {number(times)} times as large as they were.",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={
            "rule": "runaway",
            "loss": record.loss,
            "loss_at_start": state.learning.first,
            "total_norm": record.total_norm,
            "lr": record.lr,
        },
    )


def _growing(record: StepRecord, profile: Profile) -> Incident:
    order = np.argsort(-profile.level, kind="stable")
    end = profile.last
    worst = [int(index) for index in order if profile.level[index] >= profile.level[end] + FADE] or [int(order[0])]
    decades = -profile.trend()
    factor = power(decades / (len(profile.modules) - 1))
    first, last = profile.modules[worst[0]], profile.modules[end]
    ratio = power(float(profile.level[worst[0]] - profile.level[end]))
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(profile.modules[index] for index in worst),
        severity=Severity.ERROR,
        value=power(decades),
        threshold=10**FADE,
        message=f"The learning signal grows on its way back: every layer multiplies it by about {number(factor)}, so "
        f"{first} receives {number(ratio)} times what {last} does.",
        optimizer=record.optimizer,
        num_layers=len(profile.modules),
        evidence={
            "rule": "growth",
            "per_layer": factor,
            "decades": decades,
            "first": first,
            "last": last,
            "total_norm": record.total_norm,
            "lr": record.lr,
        },
    )


def _replaced(record: StepRecord, ratios: Float64Array) -> Incident:
    order = [int(index) for index in np.argsort(-ratios, kind="stable") if ratios[index] >= REPLACED]
    median, looked_at = float(np.nanmedian(ratios)), int((~np.isnan(ratios)).sum())
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(record.layers[index].name for index in order),
        severity=Severity.ERROR,
        value=median,
        threshold=REPLACED,
        message=f"Each step replaces the weights instead of improving them: the update is {number(median)} times as "
        f"large as the weights (median of {looked_at} weight matrices; about 0.001 is usual), most of all in "
        f"{record.layers[order[0]].name} ({number(ratios[order[0]])} times).",
        optimizer=record.optimizer,
        num_layers=looked_at,
        evidence={
            "rule": "replaced",
            "update_ratio": median,
            "total_norm": record.total_norm,
            "lr": record.lr,
            "loss": record.loss,
        },
    )
