"""Vanishing: the learning signal fades on its way back, breaks off, or skips a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch._baselines import STALLED_STEPS, WARM_STEPS, Episode, Learning, Progress, Signal, Streaks, counts
from gradwatch._decades import fraction, power
from gradwatch._depth import FADE, Profile
from gradwatch._weights import WeightScale
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

FADE_WEAK = 1.5
"""Decades across the depth that count only when the loss has stood still too."""

FADE_MOVING = 4.5
"""Decades across the depth where every layer moves at an ordinary pace all the same: Adam makes up for a weak signal,
and the first layers soon pass on more of it."""

MOVING = 1e-3
"""Update over weight of the slowest matrix: the usual pace."""

GONE = 4.0
"""Decades of the learning signal lost while the loss is still about what it was: nothing has been learnt, and nothing
will be."""

FIRST_STEPS = 3
"""Steps that may have had a gradient before it went out for good: one bad step at the start is enough for that."""

NOTHING_STEPS = 20
"""Steps from the very first without any gradient but zero."""

SILENT_STEPS = 30
"""Steps with a gradient of exactly zero after which a layer in the midst of others counts as silenced: a branch that
is used now and then is none."""

_LOOKS = {"fade": 2, "slow": 2}
"""Probed steps in a row that show the signal itself fading."""

_PATIENCE = {"zero": 5, "fade": 5, "gap": 10, "notch": 10, "silent": 1, "nothing": 1, "gone": 5, "slow": 5}


@dataclass
class _VanishingState:
    """What is remembered of one optimizer.

    Attributes:
        looks: For how many looks in a row the signal itself has faded.
        signal: What the run began with.
        lost: Decades of it that are gone.
        dying: Whether it has been seen to fade before it was gone.
        nothing: Steps in a row with gradients of exactly zero only, almost from the start; -1 once there was one later.
        steps: Steps seen.
        silent: For how many steps in a row each module in the midst of others has had a gradient of exactly zero.
        awake: Steps in a row in which every module had a gradient.
        complete: Whether that has been so for long: a module that is silent now is then not an unused branch.
        pace: Update over weight of the slowest matrix, as last sampled.
    """

    episode: Episode = field(default_factory=Episode)
    streaks: Streaks = field(default_factory=Streaks)
    weights: WeightScale = field(default_factory=WeightScale)
    progress: Progress = field(default_factory=Progress)
    learning: Learning = field(default_factory=Learning)
    looks: Streaks = field(default_factory=Streaks)
    signal: Signal = field(default_factory=Signal)
    lost: float = -math.inf
    dying: bool = False
    nothing: int = 0
    steps: int = 0
    silent: dict[str, int] = field(default_factory=dict)
    awake: int = 0
    complete: bool = False
    pace: float = 0.0


@dataclass(frozen=True, eq=False)
class _Symptom:
    """A weak signal: in which modules, worst first, and how many decades below which other module."""

    rule: str
    modules: tuple[str, ...]
    decades: float
    reference: str
    threshold: float = field(default_factory=lambda: FADE)  # as it is now: a replay may judge by another one
    height: float = 0.0


class VanishingDetector(Remembering[_VanishingState]):
    """The learning signal does not reach some layers: it fades on its way back, breaks off, or skips one."""

    kind = "vanishing"
    new_state = _VanishingState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        state.weights = self._weights.scale(record) or state.weights
        state.learning, state.progress = self._course.follow(record, state.learning, state.progress)
        if not math.isnan(least := self._weights.smallest_update(record)):
            state.pace = least
        profile = self._depth.of(record)
        state.lost = state.signal.lost(record.total_norm)
        if state.nothing >= 0:
            early = FIRST_STEPS if record.loss is None else NOTHING_STEPS
            state.nothing = state.nothing + 1 if record.total_norm == 0 else 0 if state.steps < early else -1
        state.steps += 1
        state.awake = state.awake + 1 if profile.alive else 0
        state.complete = state.complete or state.awake >= WARM_STEPS
        symptoms = _lasting(_symptoms(profile, state), state.streaks)
        ripe = state.streaks.ripe(_PATIENCE)
        if not ripe and (signal := self._signal.of(record)) is not None:
            fading = _lasting(_fading(signal, state), state.looks)
            ripe = state.looks.ripe(_LOOKS)
            if ripe:
                profile, symptoms = signal, fading
        if state.episode.begins(symptom=bool(symptoms), alarm=bool(ripe)):
            return [_vanishing(record, profile, symptoms[ripe[0]], state.weights)]
        return []


def _lasting(symptoms: list[_Symptom], streaks: Streaks) -> dict[str, _Symptom]:
    """The symptoms by rule, after each has been counted."""
    by_rule = {symptom.rule: symptom for symptom in symptoms} if symptoms else {}
    streaks.update({rule: symptom.height for rule, symptom in by_rule.items()} if symptoms else {})
    return by_rule


def _symptoms(profile: Profile, state: _VanishingState) -> list[_Symptom]:
    """Every way in which the signal of this step is weak somewhere."""
    trend = _fading(profile, state)
    state.dying = state.dying or 1 < state.lost < math.inf
    # What is switched off from one step to the next has not died away.
    if state.lost >= GONE and state.dying and state.learning.hardly(NOTHING_STEPS) and profile.modules:
        trend = [_Symptom("gone", profile.modules, state.lost, profile.modules[-1], GONE)]
    if profile.dead:
        state.silent = {}
        # Later on it may be the end of a phase, or a loss that is satisfied.
        satisfied = state.learning.first > 0 and state.learning.is_good()
        never = state.nothing >= NOTHING_STEPS and profile.modules and not satisfied
        return [_Symptom("nothing", profile.modules, math.inf, profile.modules[-1])] if never else trend
    if profile.within(FADE):
        state.silent = {}
        return trend
    broken = _broken_off(profile)
    # Where one place makes up most of the fade, it breaks off there and does not fade from layer to layer.
    if any(symptom.rule == "gap" and symptom.decades > fade.decades / 2 for symptom in broken for fade in trend):
        trend = []
    # Where the run does well, a part that needs no more learning (an attention that is sure) is no fault.
    notch = _notch(profile) if state.learning.poor(WARM_STEPS) or state.learning.count == 0 else []
    return [*broken, *trend, *notch, *_silenced(profile, state)]


def _fading(profile: Profile, state: _VanishingState) -> list[_Symptom]:
    """A trend over depth; half of it counts when the loss stands still, or has hardly fallen since the start.

    Where the first layers move no less than usual, a fade of no more than a few decades is first left to the optimizer.
    """
    moving, learning = state.pace >= MOVING, state.learning
    stands = state.progress.since >= STALLED_STEPS and (learning.poor(STALLED_STEPS) or learning.count == 0)
    if learning.is_good() and learning.count and not stands:
        return []  # most of the loss is gone: what the first layers had to learn they have learnt
    slow = stands or (learning.nothing(STALLED_STEPS) if moving else learning.hardly(STALLED_STEPS))
    threshold = FADE_WEAK if slow else FADE_MOVING if moving and learning.count else FADE
    if profile.is_level(threshold) or profile.fade < threshold or (decades := profile.trend()) < threshold:
        return []
    rule = "fade" if decades >= FADE else "slow"
    end = profile.last
    below = profile.level <= profile.level[end] - threshold
    below[end:] = False
    worst = _lowest_first(profile, below) or profile.modules[:1]
    return [_Symptom(rule, worst, decades, profile.modules[end], threshold)]


def _broken_off(profile: Profile) -> list[_Symptom]:
    """Everything before some layer is far below everything behind it, or exactly zero."""
    top = np.maximum.accumulate(profile.level)[:-1]
    bottom = np.minimum.accumulate(profile.level[::-1])[::-1][1:]
    with np.errstate(all="ignore"):
        gap = np.nan_to_num(bottom - top, nan=0.0, posinf=math.inf, neginf=0.0)
    cut = int(np.argmax(gap)) + 1
    decades = float(gap[cut - 1])
    modules, reference = profile.modules[:cut], profile.modules[cut]
    if math.isinf(decades):
        return [_Symptom("zero", modules, decades, reference)]
    # One weak first layer is no broken chain: its input may simply be small.
    return [_Symptom("gap", modules, decades, reference, height=decades)] if decades >= FADE and cut > 1 else []


def _notch(profile: Profile) -> list[_Symptom]:
    """A layer far below most others, between stronger ones: to compare the first with the last would not show it."""
    middle = float(np.median(profile.level))
    low = profile.level < middle - FADE
    strong = np.cumsum(~low)
    inside = low & (strong > 1) & (strong < strong[-1]) & (profile.level > -math.inf)
    if not inside.any():
        return []
    decades = middle - float(profile.level[inside].min())
    reference = profile.modules[int(np.argmin(np.abs(profile.level - middle)))]
    return [_Symptom("notch", _lowest_first(profile, inside), decades, reference, height=decades)]


def _silenced(profile: Profile, state: _VanishingState) -> list[_Symptom]:
    """Modules that had a signal, and for long have had exactly none, while others on both sides have."""
    zero = profile.level == -math.inf
    inside = zero & (np.cumsum(~zero) > 0)
    names = [profile.modules[int(index)] for index in np.nonzero(inside)[0]]
    state.silent = {name: state.silent.get(name, 0) + 1 for name in names} if state.complete else {}
    lasting = tuple(name for name, steps in state.silent.items() if steps >= SILENT_STEPS)
    return [_Symptom("silent", lasting, math.inf, profile.modules[profile.last])] if lasting else []


def _lowest_first(profile: Profile, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    order = np.argsort(profile.level, kind="stable")
    return tuple(profile.modules[int(index)] for index in order if chosen[index])


def _vanishing(record: StepRecord, profile: Profile, symptom: _Symptom, weights: WeightScale) -> Incident:
    per_layer = power(-symptom.decades / max(1, len(profile.modules) - 1))
    indices = {module: index for index, module in enumerate(profile.modules)}
    worst, reference = symptom.modules[0], symptom.reference
    both = [float(profile.level[indices[module]]) for module in (worst, reference)]
    ratio = 0.0 if both[0] == -math.inf else power(both[0] - both[1])
    return Incident(
        kind="vanishing",
        step=record.step,
        layers=symptom.modules,
        severity=Severity.WARNING if symptom.rule == "slow" else Severity.ERROR,
        value=power(-symptom.decades) if symptom.rule in ("fade", "slow", "gone") else ratio,
        threshold=10**-symptom.threshold,
        message=_vanishing_message(symptom, worst, per_layer, ratio),
        optimizer=record.optimizer,
        num_layers=len(profile.modules),
        evidence={
            "rule": symptom.rule,
            "per_layer": per_layer,
            "decades": symptom.decades,
            "ratio": ratio,
            "first": worst,
            "last": reference,
            "num_modules": len(symptom.modules),
            **weights.evidence(),
        },
    )


def _vanishing_message(symptom: _Symptom, worst: str, per_layer: float, ratio: float) -> str:
    span = worst if len(symptom.modules) == 1 else f"{worst} and {len(symptom.modules) - 1} more"
    reference = symptom.reference or "the model's output"
    steps, share = _PATIENCE[symptom.rule], f"{fraction(ratio)} of what {reference} does"
    stalled = f", and the loss has stood still for {STALLED_STEPS} steps" if symptom.rule == "slow" else ""
    messages = {
        "gone": "The learning signal has died away: "
        + (
            "all gradients are exactly zero"
            if math.isinf(symptom.decades)
            else f"all gradients together are {fraction(power(-symptom.decades))} of what they were at the start"
        )
        + ", while the loss has hardly fallen.",
        "nothing": "There is no learning signal at all: every gradient has been exactly zero for "
        f"{NOTHING_STEPS} steps.",
        "zero": f"No learning signal reaches {span}: the gradient has been exactly zero for {steps} steps, while "
        f"{reference} behind receives one.",
        "silent": f"No learning signal reaches {span} any more: the gradient has been exactly zero for {SILENT_STEPS} "
        "steps, while other layers before and behind receive one.",
        "gap": f"The learning signal breaks off on its way back: {span} receives {share}, for {steps} steps now.",
        "notch": f"One part hardly learns: {span} receives {share}, while the layers before and behind are well.",
    }
    fading = (
        f"The learning signal fades on its way back: every layer passes on about {100 * per_layer:.2g} % of it, so "
        f"{worst} receives {share}{stalled}."
    )
    return messages.get(symptom.rule, fading)
