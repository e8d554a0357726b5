"""Saturation: activations at their flat ends, where a change of the input changes next to nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gradwatch._baselines import STALLED_STEPS, WARM_STEPS, Episode, Learning, Progress, Signal, counts
from gradwatch._scene import Calls
from gradwatch._weights import WeightScale
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord
from gradwatch.wording import percent

SATURATED = 0.75
"""Share of an activation's elements at the flat ends. Trained nets have some such units, hardly ever most of them."""

SURE = 0.9
"""Share that an output, which is meant to be sure in the end, or a sudden change must reach."""

CALM = 0.5
"""Share from which a sudden change starts."""

FAR_OUT = 5.0
"""Standard deviation of what a hidden activation is given from which on the flat ends are no matter of training: its
steep part ends at about 2."""

GONE = 2.0
"""Decades of the learning signal lost while the loss is far from low."""

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
        leapt: Those that became so from one look to the next.
        share: Of each bounded activation, its share at the last look.
        count: Steps seen.
        since: The look at which it began; -1 where nothing is saturated.
    """

    episode: Episode = field(default_factory=Episode)
    learning: Learning = field(default_factory=Learning)
    progress: Progress = field(default_factory=Progress)
    weights: WeightScale = field(default_factory=WeightScale)
    looks: dict[str, int] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    leapt: list[str] = field(default_factory=list)
    share: dict[str, float] = field(default_factory=dict)
    count: int = 0
    since: int = -1
    signal: Signal = field(default_factory=Signal)
    lost: float = -math.inf
    """Decades of the learning signal that are gone."""


class SaturationDetector(Remembering[_SaturationState]):
    """Activations sit on their flat ends, and the model hardly learns.

    From the start it is a matter of weights or inputs that are too large, and told as soon as the loss does not fall.
    Learned little by little it may be what training is for (a gate that is shut, an attention that is sure): then it is
    a fault only where the loss stands still.
    """

    kind = "saturation"
    new_state = _SaturationState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        state.count += 1
        state.learning, state.progress = self._course.follow(record, state.learning, state.progress)
        state.lost = state.signal.lost(record.total_norm)
        state.weights = self._weights.scale(record) or state.weights
        if (calls := self._forward.of(record)) is None:
            return []
        rows = _saturated(calls)
        state.since = -1 if not rows else record.step if state.since < 0 else state.since
        _remember(calls, rows, state)
        rule, alarm = _judge(calls, rows, state) if rows else ("", [])
        if state.episode.begins(symptom=bool(rows), alarm=bool(alarm)):
            return [_saturation(record, calls, {name: rows[name] for name in alarm}, state, rule)]
        return []


def _saturated(calls: Calls) -> dict[str, int]:
    """Activations at their flat ends, by name, with their row; an output only where nearly all of it is."""
    shares, modules = calls.seen.saturated_share, calls.seen.modules
    limits = (calls.plan.bounded, SATURATED), (calls.plan.outputs, SURE)
    rows = [row for some, limit in limits if len(some) for row in some[shares[some] >= limit].tolist()]
    return {modules[row]: row for row in reversed(rows)}


def _remember(calls: Calls, rows: dict[str, int], state: _SaturationState) -> None:
    shares = calls.seen.saturated_share
    leapt = [n for n, row in rows.items() if shares[row] >= SURE and state.share.get(n, 1.0) <= CALM]
    state.leapt = [name for name in (*state.leapt, *leapt) if name in rows]
    state.looks = {name: state.looks.get(name, 0) + 1 for name in rows}
    if state.count <= WARM_STEPS:
        state.early = [*state.early, *(name for name in rows if name not in state.early)]
    state.share = {calls.seen.modules[row]: float(shares[row]) for row in calls.plan.bounded.tolist()}


def _judge(calls: Calls, rows: dict[str, int], state: _SaturationState) -> tuple[str, list[str]]:
    """The rule that holds, and for which activations."""
    last = int(np.flatnonzero(calls.plan.is_layer).max(initial=-1))
    lasting = [name for name, looks in state.looks.items() if looks >= PROBES]
    hidden = [name for name in lasting if rows[name] < last]
    early = [name for name in hidden if name in state.early]
    stands = state.progress.since >= STALLED_STEPS and state.learning.poor(STALLED_STEPS)
    kinds = calls.seen.kinds
    choices = [name for name in early if kinds[rows[name]] == "Softmax"]
    ripe = [name for name in early if name not in choices and state.learning.hardly(FROM_THE_START)]
    slow = state.learning.slow(STALLED_STEPS) and not state.progress.falls
    if slow or state.progress.since >= STALLED_STEPS:
        ripe += choices if _all_sure(calls) else []
    wide = {name for name in early if kinds[rows[name]] != "Softmax" and calls.seen.in_std[rows[name]] >= FAR_OUT}
    far = [name for name in early if state.looks[name] > PROBES and name in wide]
    # One layer of several may be beyond help, and the rest still learn.
    if ripe or (far and 2 * len(far) > len(calls.plan.bounded)):
        return "from_the_start", ripe or far
    # A choice that has become sure all at once may have been found; where it was wrong, the loss stands still.
    if leapt := [name for name in hidden if name in state.leapt and kinds[rows[name]] != "Softmax"]:
        return "leapt", leapt
    if stands and hidden:
        return "learned", hidden
    outputs = [name for name in lasting if rows[name] > last]
    gone = state.lost >= GONE and state.learning.poor(FROM_THE_START)
    return "output", outputs if stands or gone or state.learning.hardly(FROM_THE_START) else []


def _all_sure(calls: Calls) -> bool:
    """Whether no choice in the model is open any more."""
    rows = [row for row in calls.plan.bounded.tolist() if calls.seen.kinds[row] == "Softmax"]
    return bool((calls.seen.saturated_share[rows] >= SURE).all())


def _saturation(record: StepRecord, calls: Calls, rows: dict[str, int], state: _SaturationState, rule: str) -> Incident:
    seen = calls.seen
    worst = sorted(rows, key=lambda name: -seen.saturated_share[rows[name]])
    row = rows[worst[0]]
    before = calls.before(row)
    layer = seen.modules[before] if before >= 0 else ""
    share, kind = float(seen.saturated_share[row]), seen.kinds[row]
    came, went = float(seen.out_grad[row]), float(seen.out_grad[before]) if before >= 0 else math.nan
    passed = went / came if 0 < came < math.inf else math.nan
    names = dict.fromkeys(name for name in (worst[0], layer, *worst[1:]) if name)
    rest = "" if len(rows) == 1 else f", and {len(rows) - 1} more like it"
    what = {"Softmax": "is sure of a single choice", "Gate": "is shut"}.get(kind, "sits on its flat ends")
    return Incident(
        kind="saturation",
        step=record.step,
        layers=tuple(names),
        severity=Severity.ERROR,
        value=share,
        threshold=SATURATED,
        message=f"{worst[0]} ({kind}) {what} for {percent(share)} of what it is given{rest}: there a change of the "
        "input changes next to nothing, so hardly any learning signal comes through.",
        optimizer=record.optimizer,
        num_layers=len(calls.plan.bounded),
        evidence={
            "rule": rule,
            "since": state.since,
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
