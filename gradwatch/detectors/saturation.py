"""Saturation: activations at their flat ends, where a change of the input changes next to nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradwatch._baselines import STALLED_STEPS, WARM_STEPS, Episode, Learning, Progress, counts
from gradwatch._scene import Calls, Forward
from gradwatch._weights import Weights, WeightScale
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord
from gradwatch.wording import percent

SATURATED = 0.75
"""Share of an activation's elements at the flat ends. Trained nets have some such units, hardly ever most of them."""

PROBES = 3
"""Looks in a row."""

FROM_THE_START = 20
"""Steps within which a layer that was saturated from the start must have let the loss fall."""


@dataclass
class _SaturationState:
    """What is remembered of one optimizer.

    Attributes:
        looks: For how many looks in a row each activation has been saturated.
        early: Those that were so within the first steps.
        count: Steps seen.
    """

    episode: Episode = field(default_factory=Episode)
    learning: Learning = field(default_factory=Learning)
    progress: Progress = field(default_factory=Progress)
    weights: WeightScale = field(default_factory=WeightScale)
    looks: dict[str, int] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    count: int = 0


class SaturationDetector(Remembering[_SaturationState]):
    """Hidden activations sit on their flat ends, and the model hardly learns.

    From the start it is a matter of weights or inputs that are too large, and told as soon as the loss does not fall.
    Learned later it may be what training is for (a gate that is shut, an attention that is sure): then it is a fault
    only where the loss stands still.
    """

    kind = "saturation"

    def __init__(self, forward: Forward | None = None, weights: Weights | None = None) -> None:
        super().__init__(_SaturationState)
        self._forward = forward or Forward()
        self._weights = weights or Weights()

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        state.count += 1
        state.learning.update(record.loss)
        state.progress.update(record.loss)
        state.weights = self._weights.scale(record) or state.weights
        if (calls := self._forward.of(record)) is None:
            return []
        rows = _saturated(calls)
        state.looks = {name: state.looks.get(name, 0) + 1 for name in rows}
        if state.count <= WARM_STEPS:
            state.early = [*state.early, *(name for name in rows if name not in state.early)]
        lasting = [name for name, looks in state.looks.items() if looks >= PROBES]
        early = [name for name in lasting if name in state.early]
        stands = state.progress.since >= STALLED_STEPS
        alarm = early if state.learning.hardly(FROM_THE_START) else lasting if stands else []
        if state.episode.begins(symptom=bool(rows), alarm=bool(alarm)):
            return [_saturation(record, calls, {name: rows[name] for name in alarm}, state)]
        return []


def _saturated(calls: Calls) -> dict[str, int]:
    """Hidden activations at their flat ends, by name, with their row."""
    bounded = calls.plan.bounded
    rows = bounded[calls.seen.saturated_share[bounded] >= SATURATED].tolist()
    return {calls.seen.modules[row]: row for row in reversed(rows)}


def _saturation(record: StepRecord, calls: Calls, rows: dict[str, int], state: _SaturationState) -> Incident:
    seen = calls.seen
    worst = sorted(rows, key=lambda name: -seen.saturated_share[rows[name]])
    row = rows[worst[0]]
    before = calls.before(row)
    layer = seen.modules[before] if before >= 0 else ""
    share, kind = float(seen.saturated_share[row]), seen.kinds[row]
    passed = float(seen.out_grad[before] / seen.out_grad[row]) if before >= 0 and seen.out_grad[row] > 0 else math.nan
    names = dict.fromkeys(name for name in (worst[0], layer, *worst[1:]) if name)
    rest = "" if len(rows) == 1 else f", and {len(rows) - 1} more like it"
    what = "is sure of a single choice" if kind == "Softmax" else "sits on its flat ends"
    early = worst[0] in state.early
    return Incident(
        kind="saturation",
        step=record.step,
        layers=tuple(names),
        severity=Severity.ERROR,
        value=share,
        threshold=SATURATED,
        message=f"{worst[0]} ({kind}) {what} for {percent(share)} of what it is given{rest}: there a change of the "
        "input changes next to nothing, so hardly any learning signal comes through, and the loss hardly falls.",
        optimizer=record.optimizer,
        num_layers=len(calls.plan.bounded),
        evidence={
            "rule": "from_the_start" if early else "learned",
            "activation": worst[0],
            "activation_kind": kind,
            "layer": layer,
            "given_data": bool(before >= 0 and seen.from_data[before] == 1),
            "share": share,
            "num_saturated": len(rows),
            "given_std": float(seen.in_std[row]),
            "passed_on": passed,
            "loss": record.loss,
            "lr": record.lr,
            **state.weights.evidence(),
        },
    )
