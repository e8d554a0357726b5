"""Learning rate too high: updates that replace sound weights, or a loss that leaps up after large steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gradwatch._baselines import STALLED_STEPS, WARM_STEPS, Episode, Learning, Progress, Streaks, counts
from gradwatch._decades import number
from gradwatch._weights import BOLD, REPLACED, WeightScale
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

HIGHER = 10.0
"""Times the loss before the first step: an untrained model knows nothing, and a worse loss is learnt nonsense."""

LEAP = 5.0
"""Times the learning rate of the step before, after :data:`WARM_STEPS` steps: no warm-up rises like that. Harmless in
itself (He et al., 2016, rise tenfold after 400 steps), but what follows it at once comes from it."""

RESTLESS = 0.05
"""Update over weight of late: twenty such steps forget what was there before."""

RESTLESS_STEPS = 40
"""Steps without a better loss: such steps would have found one."""

AFTERMATH = 20
"""Steps within which a leap of the learning rate explains what goes wrong."""

BEYOND = 10.0
"""Times the largest norm or loss seen before such a leap."""

SETBACK = 2.0
"""Times the usual loss before such a leap, at (nearly) every step of its aftermath."""

HARMFUL = 2
"""Steps in a row with a loss no better than before the weights were replaced: a convex model survives such a step, and
a small one under Adam may learn from it."""

UPSET = 5
"""The same from the very first step: Adagrad's and RMSprop's first updates are far larger than those that follow."""

WORSE = 1.2
"""Times the loss before it, at the end of these: as good as before is no harm."""

RETURNED = 3.0
"""Times the loss before it, and less than half of the worst one since: it is on its way back."""

SINKING = 2.0
"""Times the loss before the first step, for many steps, by bold steps: it gets worse and worse, if slowly."""

_PATIENCE = {"jumped": 1, "replaced": 1, "diverged": 3, "restless": 1, "sinking": 10}


@dataclass
class _RateState:
    """What is remembered of one optimizer.

    Attributes:
        progress: Of the loss.
        learning: Of the loss since the first step.
        matrices: Number of weight matrices.
        usual: Update over weight of late, a geometric mean over the samples.
        first_loss: The loss before the first step; 0 where it was not told or tells nothing.
        lr: Learning rate of the last step.
        lr_top: The largest one seen until the last leap.
        leap: Steps since the learning rate leapt up; -1 where it has not.
        lr_leapt: The largest one since then.
        count: Steps seen.
        set_back: Steps since then with a loss far above the usual one.
        usual_loss: The usual loss of late, until the last leap.
        norm_top: The largest total norm until the last leap.
        loss_top: The largest loss until the last leap.
        replaced: Whether an update as large as the weights was the learning rate's doing, as last sampled.
        before: The loss at that step.
        worst: The highest one since then.
        worse: Steps in a row since then with no better loss.
        update: Median update over weight, as last sampled.
    """

    episode: Episode = field(default_factory=Episode)
    streaks: Streaks = field(default_factory=Streaks)
    weights: WeightScale = field(default_factory=WeightScale)
    progress: Progress = field(default_factory=Progress)
    learning: Learning = field(default_factory=Learning)
    usual: float = 0.0
    matrices: int = 0
    first_loss: float = 0.0
    lr: float = 0.0
    lr_top: float = 0.0
    leap: int = -1
    lr_leapt: float = 0.0
    count: int = 0
    set_back: int = 0
    usual_loss: float = 0.0
    norm_top: float = 0.0
    loss_top: float = 0.0
    replaced: bool = False
    before: float = 0.0
    worst: float = 0.0
    worse: int = 0
    update: float = 0.0

    @property
    def restless(self) -> float:
        """The usual update; 0 for a single matrix, which may be as wild as it likes: its loss has one valley."""
        return self.usual if self.matrices > 1 else 0.0


class LrTooHighDetector(Remembering[_RateState]):
    """Steps so large that they undo what was learnt, although weights and gradients are sound in themselves.

    An update as large as the weights has two possible roots. With weights or gradients that are out of all proportion
    it is ``exploding``; where they are sound, the learning rate is all that is left.
    """

    kind = "lr_too_high"
    new_state = _RateState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        if state.count == 0 and record.loss is not None and 0 < record.loss < math.inf:
            state.first_loss = record.loss
        _follow_rate(record, state)
        state.weights = self._weights.scale(record) or state.weights
        self._measure(record, state)
        state.learning, state.progress = self._course.follow(record, state.learning, state.progress)
        if state.leap < 0:
            state.usual_loss = state.learning.smooth
        findings = self._findings(record, state)
        ripe: list[str] = []
        if findings or state.streaks.lasted:
            state.streaks.update(dict.fromkeys(findings, 0.0))
            ripe = state.streaks.ripe(_PATIENCE)
        if state.episode.begins(symptom=bool(findings) or state.restless >= RESTLESS, alarm=bool(ripe)):
            return [findings[ripe[0]]()]
        return []

    def _measure(self, record: StepRecord, state: _RateState) -> None:
        """How large the update is, and whether one that replaces the weights has done harm.

        A small initial weight is replaced by its first updates, as it should be: it counts as one of common size.
        """
        state.update = self._weights.typical_update(record, state.update)
        if record.update_ratio is not None:
            state.matrices = self._weights.num_matrices(record)
            state.usual = state.update if state.usual == 0 else state.usual**0.7 * max(state.update, 0.0) ** 0.3
        if state.replaced and record.loss is not None:
            state.worse = state.worse + 1 if record.loss >= state.before else 0
            state.worst = max(state.worst, record.loss)
        if record.update_ratio is not None:
            replaced = state.update >= REPLACED and self._weights.blames_rate(record)
            if replaced and not state.replaced:
                state.before, state.worst, state.worse = record.loss or 0.0, 0.0, 0
            state.replaced = replaced

    def _findings(self, record: StepRecord, state: _RateState) -> dict[str, Callable[[], Incident]]:
        """The symptoms of this step; each can be made an incident."""
        findings: dict[str, Callable[[], Incident]] = {}
        if 0 <= state.leap <= AFTERMATH and _leapt(record, state):
            findings["jumped"] = lambda: _after_leap(record, state)
        if state.replaced and (record.loss is None or _is_harmed(record.loss, state)):
            findings["replaced"] = lambda: _bold(record, state, "replaced")
        if state.update >= BOLD and record.loss is not None and record.loss >= HIGHER * state.first_loss > 0:
            findings["diverged"] = lambda: _bold(record, state, "diverged")
        if (
            state.restless >= RESTLESS
            and state.progress.since >= RESTLESS_STEPS
            and state.learning.hardly(STALLED_STEPS)
        ):
            findings["restless"] = lambda: _bold(record, state, "restless")
        usual = min(state.learning.smooth, record.loss or 0.0)  # of a lone spike the smooth one remembers too much
        worse = usual >= SINKING * state.learning.first > 0 and state.count >= STALLED_STEPS
        if worse and state.restless >= RESTLESS / 2:
            findings["sinking"] = lambda: _bold(record, state, "sinking")
        return findings


def _follow_rate(record: StepRecord, state: _RateState) -> None:
    """Notice a leap of the learning rate to where it has never been: a restart of a schedule is none."""
    lr = record.lr if record.lr > 0 else 0.0  # unknown is no leap
    if lr >= LEAP * state.lr_top > 0 and lr >= LEAP * state.lr and state.count >= WARM_STEPS:
        state.leap = state.set_back = 0
        state.lr_leapt = lr
    elif 0 <= state.leap < AFTERMATH:
        state.leap += 1
        state.lr_leapt = max(state.lr_leapt, lr)
        state.set_back += record.loss is not None and record.loss >= SETBACK * state.usual_loss > 0
    else:
        state.leap, state.lr_top = -1, max(state.lr_top, lr)
        state.norm_top = max(state.norm_top, record.total_norm)
        state.loss_top = max(state.loss_top, record.loss or 0.0)
    state.count += 1
    state.lr = lr


def _leapt(record: StepRecord, state: _RateState) -> bool:
    """Whether the norm or the loss has leapt beyond anything seen before the learning rate did."""
    wild = record.update_ratio is not None and state.leap == 0 and state.update >= REPLACED
    louder = record.total_norm >= BEYOND * state.norm_top > 0
    worse = (record.loss or 0.0) >= BEYOND * state.loss_top > 0
    return wild or louder or worse or _is_set_back(state)


def _is_harmed(loss: float, state: _RateState) -> bool:
    """Whether replaced weights have made the loss worse to stay.

    From the very first step some optimizers need a few more to find their pace: there it must be clearly worse, and not
    be on its way back.
    """
    if state.count > WARM_STEPS or state.before <= 0:
        return state.worse >= (UPSET if state.count <= WARM_STEPS else HARMFUL)
    returns = loss <= min(RETURNED * state.before, state.worst / 2)
    return state.worse >= UPSET and loss >= WORSE * state.before and not returns


def _is_set_back(state: _RateState) -> bool:
    """Whether the loss has been far above the usual one ever since, but for a few steps."""
    return state.leap == AFTERMATH and state.set_back >= AFTERMATH - HARMFUL


def _worst(record: StepRecord) -> tuple[str, ...]:
    """The weight matrices that change most, of those that were measured; of all gradients otherwise."""
    measured = record.grad_norm if record.update_ratio is None else record.update_ratio
    order = np.argsort(-np.nan_to_num(measured, nan=-1.0, posinf=1e300), kind="stable")
    names = [record.layers[int(index)].name for index in order if len(record.layers[int(index)].shape) > 1]
    return tuple(names)


def _after_leap(record: StepRecord, state: _RateState) -> Incident:
    factor = state.lr_leapt / state.lr_top
    what = []
    if record.total_norm >= BEYOND * state.norm_top > 0:
        what.append(
            f"the gradient norm is {number(record.total_norm)}, and was {number(state.norm_top)} at most before"
        )
    if (record.loss or 0.0) >= BEYOND * state.loss_top > 0:
        what.append(f"the loss is {number(record.loss or 0.0)}, and was {number(state.loss_top)} at most before")
    if _is_set_back(state):
        what.append(
            f"the loss went up, and has been about {number(state.learning.smooth)} ever since, where "
            f"{number(state.usual_loss)} was usual"
        )
    if not what:
        what.append(f"one update is {number(state.update)} times as large as the weights (about 0.001 is usual)")
    message = (
        f"The learning rate leapt up by a factor of {number(factor)}, from {state.lr_top:.3g} to {state.lr_leapt:.3g}, "
        f"and right after that {'; '.join(what)}."
    )
    return _incident(record, state, "jumped", message, value=factor, threshold=LEAP)


def _bold(record: StepRecord, state: _RateState, rule: str) -> Incident:
    update = number(state.update)
    if rule == "replaced":
        message = (
            f"The steps are far too large: one update is {update} times as large as the weights (median of the weight "
            "matrices; about 0.001 is usual), so that each step replaces what was learnt instead of improving it."
        )
        return _incident(record, state, rule, message, value=state.update, threshold=REPLACED)
    share = f"one update is {update} of the size of the weights (about 0.001 is usual)"
    if rule in ("diverged", "sinking"):
        times = number((record.loss or 0.0) / state.first_loss)
        message = f"Training makes the model worse: the loss is {times} times what it was before the first step, and "
        return _incident(record, state, rule, message + share + ".", value=state.update, threshold=BOLD)
    message = f"The model jumps about and learns nothing: {share}, and the loss has not improved for "
    return _incident(record, state, rule, f"{message}{state.progress.since} steps.", value=state.update, threshold=BOLD)


def _incident(
    record: StepRecord, state: _RateState, rule: str, message: str, *, value: float, threshold: float
) -> Incident:
    leapt = 0 <= state.leap <= AFTERMATH
    return Incident(
        kind="lr_too_high",
        step=record.step,
        layers=_worst(record),
        severity=Severity.ERROR,
        value=value,
        threshold=threshold,
        message=message,
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={
            "rule": rule,
            "update_ratio": state.update,
            "loss": record.loss,
            "first_loss": state.first_loss or None,
            "lr": record.lr,
            "lr_before": state.lr_top if leapt else None,
            "lr_leapt": state.lr_leapt if leapt else None,
            "total_norm": record.total_norm,
            **state.weights.evidence(),
        },
    )
