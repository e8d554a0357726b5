"""Data outlier: a single batch whose loss and gradients are out of all proportion, while everything else was normal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gradwatch._baselines import SPREADS, WARM_STEPS, Episode, Level, counts
from gradwatch._decades import number, power
from gradwatch._weights import BOLD
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

FAR = 3.0
"""Decades above the usual norm. Legitimate heavy tails (log-normal targets, wrong labels, a batch of two) reach one to
two in the loss, and their norm grows with the loss's square root."""

FAR_LOSS = 2.0
"""Decades above the usual loss, together with the norm: an input that is far off makes the loss grow in proportion,
and the norm by its square."""

KNOWN_STEPS = 5
"""Steps after which such distances, of norm and loss at once, are beyond doubt."""

SPIKE = 1.5
"""Decades above the usual norm that are evidence of a bad batch once the loss has not recovered from them."""

AFTERMATH = 16
"""Steps in which it should have: after a spike that is part of the data the very next loss is an ordinary one."""

ECHO = 2.0
"""Decades above the usual norm and above anything seen by one less: evidence of a bad batch if the very next norm has
fallen far back, and the loss is still worse. Weights that were spoilt, or run away, stay as loud as they were."""

ECHO_LOSS = 1.0
"""The same for the loss."""

FALLEN = 0.7
"""Decades by which the next norm is below it."""

WORSE = 0.08
"""Decades above the usual loss: a fifth."""

UNSEEN = 1.0
"""Decades less than those above anything seen: a run that has converged was far above its usual loss before."""

SAME_RATE = 2.0
"""A learning rate that has not changed by more than this cannot have brought about three decades."""


@dataclass
class _OutlierState:
    """What is remembered of one optimizer.

    Attributes:
        episode: The incident that goes on.
        total: log10 of the total norm.
        loss: log10 of the loss.
        spiked: Steps since the last spike; -1 where it is over.
        worse: How many of these had a loss above the usual one.
        before: log10 of the usual loss before it.
        spike: Its step, norm and loss.
        seen: The highest norm and loss before it, as log10.
        loud: Whether it was beyond what else could bring it about, if it is over at the next step.
        lr: Learning rate of the last step; 0 where it is not known.
        calm: Whether the last step could not have hurt the weights: usual norm, usual learning rate.
        update: Median update over weight, as last sampled.
    """

    episode: Episode = field(default_factory=Episode)
    total: Level = field(default_factory=Level)
    loss: Level = field(default_factory=Level)
    spiked: int = -1
    worse: int = 0
    before: float = 0.0
    spike: list[float] = field(default_factory=list)
    loud: bool = False
    seen: list[float] = field(default_factory=list)
    lr: float = 0.0
    calm: bool = False
    update: float = 0.0


class DataOutlierDetector(Remembering[_OutlierState]):
    """One batch is to blame: its loss and norm leap up from one step to the next, though nothing else changed.

    The weights at this step are those of the step before plus one update. If that update was an ordinary one, the
    same weights gave an ordinary loss a moment ago; then only what the model was shown can have changed.
    """

    kind = "data_outlier"
    new_state = _OutlierState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        state = self._memory.of(record.optimizer)
        loss = record.loss
        if not counts(record) or loss is None or not 0 < loss < math.inf or record.total_norm <= 0:
            state.calm = state.calm and record.skipped  # a skipped step leaves the weights as they were
            return []
        level, height = math.log10(record.total_norm), math.log10(loss)
        same_rate = not record.lr > SAME_RATE * state.lr or state.lr == 0  # unknown is no reason to suspect it
        far = _far(state.total, level, FAR, KNOWN_STEPS) and _far(state.loss, height, FAR_LOSS, KNOWN_STEPS)
        hurt = _hurts(record, state, level, height, same_rate=same_rate)
        alarm = far and state.calm and same_rate and state.update < BOLD
        found = [_outlier(record, state)] if state.episode.begins(symptom=far or hurt, alarm=alarm or hurt) else []
        state.calm = same_rate and state.total.count > 0 and level < state.total.limit
        if hurt:  # what was told is no history: the same again is told again
            state.total.highest, state.loss.highest = state.seen
        if hurt or not found:
            state.total.update(level)
            state.loss.update(height)
        state.lr = record.lr if record.lr > 0 else 0.0
        if not far:
            state.update = self._weights.typical_update(record, state.update)
        return found


def _hurts(record: StepRecord, state: _OutlierState, level: float, height: float, *, same_rate: bool) -> bool:
    """Whether a spike some steps ago has thrown the run back for good: nothing has gone as well since."""
    if state.spiked < 0:
        if state.calm and same_rate and _far(state.total, level, SPIKE, WARM_STEPS):
            state.spiked, state.worse, state.before = 0, 0, state.loss.mean
            state.spike = [record.step, record.total_norm, record.loss or 0.0]
            state.seen = [state.total.highest, state.loss.highest]
            loud = _far(state.total, level, ECHO, WARM_STEPS) and _far(state.loss, height, ECHO_LOSS, WARM_STEPS)
            state.loud = loud and state.update < BOLD and height >= state.loss.highest + ECHO_LOSS / 2
        return False
    state.spiked += 1
    state.worse += height >= state.before + WORSE
    if state.spiked == 1 and state.loud and state.worse == 1 and level <= math.log10(state.spike[1]) - FALLEN:
        state.spiked = -1
        return True
    if state.spiked < AFTERMATH:
        return False
    state.spiked = -1
    if state.worse < AFTERMATH:
        state.spike = []  # it has left nothing behind: a later batch is told as one of its own
        return False
    return True


def _far(usual: Level, value: float, decades: float, num_steps: int) -> bool:
    """Whether a value is beyond a history of so many steps, also measured by how much it fluctuates."""
    above = value - usual.mean
    far = above >= decades and above >= SPREADS * usual.spread and value >= usual.highest + decades - UNSEEN
    return far and usual.count >= num_steps


def _outlier(record: StepRecord, state: _OutlierState) -> Incident:
    if state.worse and state.spike and state.spiked < 0:
        return _aftermath(record, state)
    loss = record.loss or 0.0
    usual_norm, usual_loss = power(state.total.mean), power(state.loss.mean)
    times = number(loss / usual_loss)
    order = np.argsort(-np.nan_to_num(record.grad_norm), kind="stable")
    return Incident(
        kind="data_outlier",
        step=record.step,
        layers=tuple(record.layers[int(index)].name for index in order[:3]),
        severity=Severity.ERROR,
        value=loss / usual_loss,
        threshold=10**FAR_LOSS,
        message=f"One batch is far off: its loss of {number(loss)} is {times} times the usual {number(usual_loss)}, "
        f"and its gradient norm of {number(record.total_norm)} is {number(record.total_norm / usual_norm)} times the "
        f"usual {number(usual_norm)}. The step before was an ordinary one, so that the weights are not to blame.",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={
            "rule": "single_batch",
            "loss": loss,
            "usual_loss": usual_loss,
            "total_norm": record.total_norm,
            "usual_norm": usual_norm,
            "lr": record.lr,
            "update_ratio": state.update,
        },
    )


def _aftermath(record: StepRecord, state: _OutlierState) -> Incident:
    step, norm, loss = state.spike
    usual_loss, state.spike = power(state.before), []
    order = np.argsort(-np.nan_to_num(record.grad_norm), kind="stable")
    steps = record.step - int(step)
    since = f"in the {steps} steps since then" if steps > 1 else "after the step that it led to"
    return Incident(
        kind="data_outlier",
        step=record.step,
        layers=tuple(record.layers[int(index)].name for index in order[:3]),
        severity=Severity.ERROR,
        value=norm,
        threshold=power(state.total.mean + SPIKE),
        message=f"One batch has thrown training back: at step {step:.0f} the gradient norm leapt to {norm:.3g}, after "
        f"an ordinary step, and {since} the loss has not come back to the usual {usual_loss:.3g} (now "
        f"{record.loss or 0.0:.3g}).",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={
            "rule": "aftermath",
            "since": int(step),
            "loss": loss,
            "usual_loss": usual_loss,
            "total_norm": norm,
            "usual_norm": power(state.total.mean),
            "lr": record.lr,
            "update_ratio": state.update,
        },
    )
