"""Dead ReLUs: units that give exactly zero for every sample, so that nothing can ever bring them back."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradwatch._baselines import STALLED_STEPS, Episode, Learning, Progress, counts
from gradwatch._scene import Calls, Forward
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord
from gradwatch.wording import percent

DEAD = 0.95
"""Share of a layer's units that are dead from which on the layer is."""

SICK = 0.75
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


@dataclass(frozen=True)
class _Layer:
    """A dead layer: its activation, the layer with weights before it, and the share of dead units."""

    activation: str
    layer: str
    share: float
    row: int


class DeadReluDetector(Remembering[_DeadState]):
    """A layer's units give zero whatever they are shown; no gradient passes, so none of them recovers."""

    kind = "dead_relu"

    def __init__(self, forward: Forward | None = None) -> None:
        super().__init__(_DeadState)
        self._forward = forward or Forward()

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        state.learning.update(record.loss)
        state.progress.update(record.loss)
        if (calls := self._forward.of(record)) is None:
            return []
        found = {layer.activation: layer for layer in _silent_layers(calls)}
        state.dead = {name: state.dead.get(name, 0) + 1 for name, layer in found.items() if layer.share >= DEAD}
        state.sick = {name: state.sick.get(name, 0) + 1 for name in found}
        ripe = [name for name, looks in state.dead.items() if looks >= PROBES]
        hardly = state.learning.hardly(STALLED_STEPS) or state.progress.since >= STALLED_STEPS
        if not ripe and hardly:
            ripe = [name for name, looks in state.sick.items() if looks > PROBES]
        if state.episode.begins(symptom=bool(found), alarm=bool(ripe)):
            return [_dead(record, calls, [found[name] for name in ripe])]
        return []


def _silent_layers(calls: Calls) -> list[_Layer]:
    """Activations of the ReLU family of which most units are silent, in forward order; those given nothing are not."""
    seen, plan, found = calls.seen, calls.plan, []
    shares = seen.dead_share[plan.relus]
    for row in plan.relus[shares >= SICK].tolist():
        before = calls.before(row)
        if seen.in_std[before] == 0 and seen.in_mean[before] == 0:
            continue  # not this layer's doing: it is given zeros
        found.append(_Layer(seen.modules[row], seen.modules[before], float(seen.dead_share[row]), row))
    return found


def _dead(record: StepRecord, calls: Calls, layers: list[_Layer]) -> Incident:
    first = layers[0]
    names = dict.fromkeys(name for layer in layers for name in (layer.layer, layer.activation))
    rest = "" if len(layers) == 1 else f" and {len(layers) - 1} more"
    mean, spread = float(calls.seen.in_mean[first.row]), float(calls.seen.in_std[first.row])
    every = "Every unit" if first.share == 1 else f"{percent(first.share)} of the units"
    return Incident(
        kind="dead_relu",
        step=record.step,
        layers=tuple(names),
        severity=Severity.ERROR if first.share >= DEAD else Severity.WARNING,
        value=first.share,
        threshold=DEAD if first.share >= DEAD else SICK,
        message=f"{every} of {first.activation}{rest} gives zero for every sample. A ReLU that gives zero passes no "
        "gradient back, so the layers before it learn nothing through it, and it cannot recover by itself.",
        optimizer=record.optimizer,
        num_layers=len(calls.plan.relus),
        evidence={
            "rule": "dead" if first.share >= DEAD else "sick",
            "activation": first.activation,
            "layer": first.layer,
            "share": first.share,
            "num_dead": len(layers),
            "given_mean": mean,
            "given_std": spread,
            "lr": record.lr,
            "loss": record.loss,
        },
    )
