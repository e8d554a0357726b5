"""Through time: in a recurrent layer the learning signal fades, or grows, from step to step on its way back.

No gradient of a weight shows it, for that is the sum over all time steps, and the last ones make up for the rest. A
fade is no fault in itself: a default LSTM on a task that needs a short memory has one, too. So it counts only where the
loss stands still, and growth only where it does harm. A spectral radius above 1 is no rule either: up to 1.7 was
harmless in our corpus, for saturated units and clipping hold against it. What is judged is what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from gradwatch._baselines import CLEAN_STEPS, STALLED_STEPS, WARM_STEPS, Episode, Level, Progress, counts
from gradwatch._horizon import Horizon, horizon, in_words
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord, TimeProfile

LOST = 4.0
"""Decades over the sequence: what a ten-thousandth of the signal could teach is lost in the noise of the rest. A signal
that loses three has been seen to find its way, slowly."""

STUCK = 3.0
"""The same where nothing at all has been learnt since the first step: then it has not found its way."""

STUCK_STEPS = 90
"""Steps that it has had by then."""

GAINED = 4.0
"""Decades over the sequence: the first steps outweigh the last ones ten-thousandfold."""

BEYOND = 5.0
"""Decades over the sequence that are evidence enough: all that the last steps say is lost in float32's rounding."""

PROBES = 2
"""Probed steps in a row: a single batch proves nothing."""

LOOK_STEPS = 30
"""Steps for which a look holds good: it was taken when the loss stood still already."""

_POOR = 0.5
"""Share of its first loss that a run has lost which needs no second thought about what it does not learn."""

_CREEPING = 3e-5
"""Update over weight of the matrix that moves most, below which a loss stands still because nothing moves."""

_CREPT = 0.1
"""Sum of those of all steps, below which it does because next to nothing has moved yet."""

_LEARNT = 0.9
"""Share of its first loss that a run has lost when its task is done, long memory or not."""

_NOTHING = 0.05
"""Share below which a run has learnt nothing."""

_BEGUN = 0.1
"""The same for one whose loss looks at every step: having learnt something there says that a short memory is enough."""


@dataclass
class _TimeState:
    """What is remembered of one optimizer.

    Attributes:
        fades: For how many probed steps in a row each module's signal has faded.
        grows: The same for growing.
        first: The first loss; NaN before.
        spiked: Steps since the total norm last jumped.
        pace: Largest update over weight of a matrix, as last sampled; inf before.
        path: Sum of the largest update over weight of a matrix, over all steps.
        rests: Whether the weights hardly moved when that was last measured: then that is why the loss stands still.
        look: What the last look showed, where it faded.
        looked: Steps since then.
    """

    faded: Episode = field(default_factory=Episode)
    grown: Episode = field(default_factory=Episode)
    fades: dict[str, int] = field(default_factory=dict)
    grows: dict[str, int] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    total: Level = field(default_factory=Level)
    first: float = math.nan
    spiked: int = 1 << 30
    path: float = 0.0
    pace: float = math.inf
    rests: bool = False
    look: list[dict[str, Any]] = field(default_factory=list)
    looked: int = 0


@dataclass(frozen=True)
class _Finding:
    """One module at one step: of its layers the one that carries the signal farthest, or makes it grow most."""

    profile: TimeProfile
    horizon: Horizon
    at_end: bool


class ThroughTimeDetector(Remembering[_TimeState]):
    """The learning signal fades or grows through time in a recurrent layer: ``vanishing``, ``exploding``."""

    kind = "through_time"
    new_state = _TimeState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        self._follow(record, state)
        found = _by_module(record.through_time) if record.through_time else {}
        state.looked += 1
        if not found:  # nothing new is known of either
            late = self._late(state)
            state.grown.begins(symptom=bool(state.grows), alarm=False)
            if state.faded.begins(symptom=bool(state.fades), alarm=bool(late)):
                return [_vanishing(record, max(late, key=lambda f: f.horizon.decades), state)]
            return []
        state.fades = {m: state.fades.get(m, 0) + 1 for m, f in found.items() if _fading(f).horizon.decades >= STUCK}
        state.grows = {m: state.grows.get(m, 0) + 1 for m, f in found.items() if _growing(f).horizon.decades <= -GAINED}
        state.look = [profile.to_json() for profile in record.through_time or ()] if state.fades else []
        state.looked = 0
        fading = [_fading(found[m]) for m, num in state.fades.items() if m in found and num >= PROBES]
        fading = [finding for finding in fading if _matters(finding, state)]
        growing = [_growing(found[m]) for m, num in state.grows.items() if m in found and num >= PROBES]
        growing = [finding for finding in growing if finding.horizon.decades <= -BEYOND or _harms(state)]
        incidents = []
        if state.faded.begins(symptom=bool(state.fades), alarm=bool(fading)):
            incidents.append(_vanishing(record, max(fading, key=lambda f: f.horizon.decades), state))
        if state.grown.begins(symptom=bool(state.grows), alarm=bool(growing)):
            incidents.append(_exploding(record, min(growing, key=lambda f: f.horizon.decades), state))
        return incidents

    def _late(self, state: _TimeState) -> list[_Finding]:
        """What the last look showed, once the loss has come to stand still since: the next look may be far off."""
        if not state.look or state.progress.since != STALLED_STEPS:
            return []
        if state.looked > LOOK_STEPS or not _learnt(state) < _POOR:
            return []
        found = _by_module(tuple(TimeProfile.from_json(profile) for profile in state.look))
        lasting = [_fading(found[m]) for m, num in state.fades.items() if m in found and num >= PROBES]
        return [finding for finding in lasting if _matters(finding, state)]

    def _follow(self, record: StepRecord, state: _TimeState) -> None:
        """Take in what every step tells."""
        state.progress.update(record.loss)
        if math.isnan(state.first) and not math.isinf(state.progress.smooth):
            state.first = state.progress.smooth
        if record.update_ratio is not None and not math.isnan(largest := self._weights.largest_update(record)):
            state.pace = largest
        state.path += state.pace
        state.rests = state.pace < _CREEPING or state.path < _CREPT
        state.spiked += 1
        if record.total_norm > 0:
            level = math.log10(record.total_norm)
            if state.total.count >= WARM_STEPS and level >= state.total.limit:
                state.spiked = 0
            state.total.update(level)


def _by_module(profiles: tuple[TimeProfile, ...]) -> dict[str, list[_Finding]]:
    """What each module's layers tell. The loss speaks to the last layer; those below hear from the one above."""
    found: dict[str, list[_Finding]] = {}
    for profile in profiles:
        measured = horizon(profile)
        if measured is None:
            continue
        top = max((p for p in profiles if p.module == profile.module), key=lambda p: int(p.layer.split()[0]))
        seen = measured if top is profile else horizon(top)
        # Where only the sum of all signals is known, and it fades, the loss cannot have spoken to the early steps.
        at_end = seen is None or seen.at_end is not False
        found.setdefault(profile.module, []).append(_Finding(profile, measured, at_end))
    return found


def _fading(findings: list[_Finding]) -> _Finding:
    """The layer with the longest memory: through it the signal may reach the first steps."""
    return min(findings, key=lambda finding: finding.horizon.decades)


def _growing(findings: list[_Finding]) -> _Finding:
    return min(findings, key=lambda finding: finding.horizon.decades)


def _matters(finding: _Finding, state: _TimeState) -> bool:
    """Whether the run seems to need what does not arrive: the loss has stood still, and the task is not done."""
    if state.rests or math.isnan(state.first):
        return False
    # Where nothing at all has been learnt, noise may still give a slightly better loss now and then.
    if state.progress.since < STALLED_STEPS and not _is_stuck(state):
        return False
    return finding.horizon.decades >= _lost(state) and _learnt(state) < (_LEARNT if finding.at_end else _BEGUN)


def _lost(state: _TimeState) -> float:
    """Decades that count as lost."""
    return STUCK if _is_stuck(state) else LOST


def _is_stuck(state: _TimeState) -> bool:
    """Whether nothing at all has been learnt since the first step, and there was time for it."""
    return _learnt(state) < _NOTHING and state.total.count >= STUCK_STEPS


def _learnt(state: _TimeState) -> float:
    """Share of its first loss that the run has lost."""
    return (state.first - state.progress.best) / abs(state.first) if state.first else 0.0


def _harms(state: _TimeState) -> bool:
    """Whether the loss stands still, or hangs while the norm jumps."""
    since = state.progress.since
    return since >= STALLED_STEPS or (state.spiked < CLEAN_STEPS and since >= WARM_STEPS)


def _vanishing(record: StepRecord, finding: _Finding, state: _TimeState) -> Incident:
    # A floor that is reached and a memory that is too short look alike: only the user knows the task.
    loss = f"the loss has stood still for {state.progress.since} steps"
    if state.progress.since < STALLED_STEPS:
        loss = f"in {state.total.count} steps nothing has been learnt"
    perhaps = " Where the task needs no longer memory, this is no fault." if _learnt(state) >= _BEGUN else ""
    return Incident(
        kind="vanishing",
        step=record.step,
        layers=(finding.profile.module,),
        severity=Severity.WARNING,
        value=finding.horizon.ratio,
        threshold=10 ** -_lost(state),
        message=f"In {_place(finding.profile)} {in_words(finding.horizon)}; and {loss}.{perhaps}",
        optimizer=record.optimizer,
        evidence=_evidence(record, finding, state),
    )


def _exploding(record: StepRecord, finding: _Finding, state: _TimeState) -> Incident:
    harm = (
        f"the loss has stood still for {state.progress.since} steps"
        if state.progress.since >= STALLED_STEPS
        else f"the gradients' norm jumped {state.spiked} steps ago"
        if state.spiked
        else "the gradients' norm has just jumped"
    )
    return Incident(
        kind="exploding",
        step=record.step,
        layers=(finding.profile.module,),
        severity=Severity.ERROR,
        value=finding.horizon.ratio,
        threshold=10**GAINED,
        message=f"In {_place(finding.profile)} {in_words(finding.horizon)}; and {harm}.",
        optimizer=record.optimizer,
        evidence={
            **_evidence(record, finding, state),
            "total_norm": record.total_norm,
            "usual_norm": 10**state.total.mean,
            "lr": record.lr,
        },
    )


def _evidence(record: StepRecord, finding: _Finding, state: _TimeState) -> dict[str, Any]:
    measured, profile = finding.horizon, finding.profile
    return {
        "rule": "through_time",
        "module": profile.module,
        "module_kind": profile.kind,
        "layer": profile.layer,
        "per_step": measured.per_step,
        "half_life": measured.half_life,
        "decades": measured.decades,
        "ratio": measured.ratio,
        "num_steps": measured.num_steps,
        "at_end": finding.at_end,
        "since": max(0, record.step - state.progress.since),
    }


def _place(profile: TimeProfile) -> str:
    """``rnn``, ``rnn (layer 1)``."""
    name = profile.module or "the model"
    return name if profile.layer == "0" else f"{name} (layer {profile.layer})"
