"""Stalled: the weights do not move, and the loss does not either."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gradwatch._baselines import STALLED_STEPS, WARM_STEPS, Episode, Learning, Progress, counts
from gradwatch._decades import extremes, number, root_sum_square
from gradwatch.detectors._base import Remembering
from gradwatch.records import Float64Array, Incident, Severity, StepRecord
from gradwatch.wording import percent

MOTIONLESS = 1e-7
"""Update over weight: 100,000 such steps, all in one direction, change a weight by 1 %, and float32 itself rounds at
6e-8. Nobody chooses that, not even for fine-tuning."""

CREEPING = 3e-5
"""Update over weight, for weights still as they were initialised: a thousandth is usual, and untrained weights are as
wrong as can be. Trained ones may be fine-tuned as gently as this."""

MOVED = 0.01
"""Sum of all updates over weight: weights that have come so far have learnt, and may rest."""

CRAWLED = 0.06
"""The same over all matrices together, for weights that are as they were initialised, while the loss is too: they have
not begun to learn."""

CREPT = 0.1
"""The same where the loss has not moved at all; and for the matrix that moves most where it creeps down at best."""

TOGETHER = 0.25
"""What all matrices together have come by then: many layers that change a little each make a large difference."""

FAR_OFF = 1e3
"""First squared error of outputs that are off by thirty or more, while a net gives about 1: the way there is long."""

WITHERING = 0.5
"""Share of the first size of all weights. A model whose weights go while its loss stays has no more to wait for than
:data:`CRAWLING_STEPS`: they are being decayed away."""

CRAWLING_STEPS = 90
"""Steps in which they should have."""

RESTED = 0.02
"""The same again, for weights that have been looked at for :data:`STALLED_STEPS` steps only."""

IDLE_STEPS = 200
"""Steps in which a model that has anything to learn has begun to: the others are to look at their data."""

LOOK_THROUGH_TIME = 100
"""Steps between two looks through time, as probes are by default."""

IDLE = 0.99
"""Share of the first loss that is left then."""

GUESSING = 0.95
"""Share of the loss that guessing would give: whoever is above it knows nothing."""

STEADY = 0.02
"""Deviation of the loss, as a share of it, up to which a fall of 1 % would show."""

COLLAPSED = 1e-4
"""Share of its highest value from which on a learning rate is as good as zero."""

COARSE = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""What a weight of common size resolves, as a share of it: of smaller changes most are rounded away."""

ROUNDED = 0.1
"""Update over weight, over that: of a hundred weights about one is changed at all in a step."""

PACED = 3e-6
"""Update over weight while the learning rate still rises, after :data:`CRAWLING_STEPS` steps: thousands more would have
to pass until weights move at all."""

AT_ZERO_STEPS = 25
"""Steps at a learning rate of exactly zero, after which a run that is still poor is told: a schedule that ends with the
run touches it for a step, and a small rate may be the end of a long cosine."""

SAME = 0.01
"""A learning rate that rises by less than this over :data:`STALLED_STEPS` steps is not being warmed up."""


@dataclass
class Trend:
    """Whether a loss is still where it began, as far as its fluctuation lets that be seen.

    Attributes:
        first: Mean of the first losses.
        smooth: The usual loss of late.
        spread: Mean absolute deviation from that.
        count: Losses seen.
    """

    first: float = 0.0
    smooth: float = 0.0
    spread: float = 0.0
    count: int = 0

    def update(self, loss: float | None) -> None:
        """Take in one step's loss; an unknown or non-finite one tells nothing."""
        if loss is None or not math.isfinite(loss):
            return
        self.count += 1
        if self.count <= WARM_STEPS:
            self.first += (loss - self.first) / self.count
            self.smooth = self.first
        self.smooth += 0.04 * (loss - self.smooth)
        self.spread += max(1 / self.count, 0.04) * (abs(loss - self.smooth) - self.spread)

    def is_flat(self) -> bool:
        """Whether nothing at all has been learnt for long."""
        if self.first <= 0:
            return False
        # One that rises is no model that learns nothing: two networks may play against each other.
        return IDLE <= self.smooth / self.first <= 2 - IDLE and self.spread <= STEADY * self.first


@dataclass
class _StalledState:
    """What is remembered of one optimizer.

    Attributes:
        fresh: Whether the weights looked as commonly initialised when they were first seen.
        seen: Whether they were seen.
        first_size: L2 norm of all weights then.
        size: The same as last sampled, or when it was last known.
        update: Update over weight of the matrix that moves most, as last sampled; inf where none could tell.
        path: Sum of that over all steps.
        together: Sum of the update over weight of all matrices: many small changes in a row are a large one.
        way: Sum of that over all steps.
        lr: Learning rate when it last rose.
        raises: How often it did.
        since: Step at which the weights were first found at rest; -1 while they move.
        lasted: Steps since then, without those at which the learning rate rose.
        progress: Of the loss since then.
        learning: Of the loss since the first step.
        trend: Of the loss, whether or not the weights move.
        recurrent: Whether a recurrent layer was seen.
        crawled: Steps in a row in which weights as initialised have hardly left their place, and the loss neither.
        clip: Usual norm after clipping over norm before since then, on a log scale.
    """

    episode: Episode = field(default_factory=Episode)
    progress: Progress = field(default_factory=Progress)
    fresh: bool = False
    seen: bool = False
    first_size: float = 0.0
    size: float = 0.0
    update: float = math.inf
    path: float = 0.0
    together: float = 0.0
    way: float = 0.0
    lr: float = 0.0
    raises: int = 0
    since: int = -1
    lasted: int = 0
    clip: float = 0.0
    learning: Learning = field(default_factory=Learning)
    course: Progress = field(default_factory=Progress)
    crawled: int = 0
    trend: Trend = field(default_factory=Trend)
    recurrent: bool = False


class StalledDetector(Remembering[_StalledState]):
    """The weights do not move.

    It looks at the matrix that moves most: in a net whose signal vanishes the last layers still move, under
    layer-wise learning rates the head does, and among frozen layers those that are not frozen.
    """

    kind = "stalled"
    new_state = _StalledState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        ratios = self._weights.update_ratio(record)
        if ratios is not None:
            self._measure(record, ratios, state)
        state.path += state.update if state.update < math.inf else 0.0
        state.way += state.together
        state.learning, state.course = self._course.follow(record, state.learning, state.course)
        state.trend.update(record.loss)
        state.recurrent = state.recurrent or bool(record.through_time)
        at_rest = state.update < _limit(state) and state.path < MOVED
        far_off = self._course.is_squared and state.learning.first >= FAR_OFF
        creeps = state.path < CREPT and _hardly_left(state)
        crawls = state.fresh and _crawls(state, creeps=creeps or far_off)
        rises = _rises(record, state)
        crawls = crawls or (
            state.fresh and state.learning.hardly(CRAWLING_STEPS) and state.update < _slow(record, rises=rises)
        )
        collapsed = record.lr <= COLLAPSED * state.lr and state.learning.poor(STALLED_STEPS)
        halted = state.update < MOTIONLESS and collapsed
        still = at_rest or halted
        _last(record, state, still=still, rises=rises)
        ripe = state.lasted >= STALLED_STEPS and (halted or _stands_still(record, state.progress))
        ripe = ripe or (halted and record.lr == 0 and state.lasted >= AT_ZERO_STEPS)
        state.crawled = state.crawled + 1 if crawls and (not rises or state.update < PACED) else 0
        wastes, idle = _wastes(state) and not rises, _is_idle(state) and not rises
        # Judged on sampled steps only: it is their numbers that are told.
        alarm = ratios is not None and (ripe or state.crawled >= WARM_STEPS or wastes or idle)
        if state.episode.begins(symptom=still or crawls or wastes or idle, alarm=alarm) and ratios is not None:
            rule = "fresh" if state.fresh else "motionless"
            if not ripe and state.crawled < WARM_STEPS:
                rule = "wasting" if wastes and not state.trend.is_flat() else "idle"
            elif not ripe and far_off and not creeps:
                rule = "far_off"
            return [_stalled(record, state, ratios, self._weights.divisor(record), rule)]
        return []

    def _measure(self, record: StepRecord, ratios: Float64Array, state: _StalledState) -> None:
        """How far the weights moved that have a gradient; one of exactly zero is another fault, or none at all."""
        moving = ratios if record.extremes[0] > 0 else ratios[record.grad_norm > 0]
        if len(moving) and not all(map(math.isfinite, extremes(moving))):
            moving = moving[np.isfinite(moving)]
        if record.weight_norm is not None:
            state.size = root_sum_square(record.weight_norm)
            if not state.seen:
                state.seen, state.fresh, state.first_size = True, self._weights.is_fresh(record), state.size
        state.update = float(moving.max()) if len(moving) else math.inf
        state.together = float(moving.sum()) if len(moving) else math.inf


def _hardly_left(state: _StalledState) -> bool:
    """Whether all matrices together have come next to nowhere, or somewhere and it has not changed the loss."""
    return state.way < TOGETHER or (state.way < math.inf and state.learning.nothing(CRAWLING_STEPS))


def _crawls(state: _StalledState, *, creeps: bool) -> bool:
    """Whether weights as initialised have come so far only that no more can be hoped for.

    Args:
        state: Of their optimizer.
        creeps: Whether the way is too long for what has been gone of it, unless the loss is falling right now.
    """
    learning, way = state.learning, state.way
    return (
        (way < RESTED and learning.nothing(STALLED_STEPS))
        or (way < CRAWLED and learning.hardly(CRAWLING_STEPS))
        or (way < CREPT and learning.nothing(CRAWLING_STEPS))
        or (creeps and learning.hardly(CRAWLING_STEPS) and not state.course.falls)
    )


def _is_idle(state: _StalledState) -> bool:
    """Whether nothing has been learnt in all that time, whatever the weights do.

    Trained weights may rest at their best loss, but not at one that guessing gives. Of a recurrent layer the look
    through time has the first word, and it is taken every hundredth step.
    """
    untrained = state.fresh or state.trend.smooth >= GUESSING * state.learning.chance
    patience = IDLE_STEPS + (LOOK_THROUGH_TIME if state.recurrent else 0)
    return untrained and state.trend.count >= patience and state.trend.is_flat()


def _wastes(state: _StalledState) -> bool:
    """Whether the weights shrink and shrink, and the loss stands still for it."""
    stuck = state.course.since >= STALLED_STEPS and state.learning.poor(CRAWLING_STEPS)
    return stuck and state.size < WITHERING * state.first_size


def _shrunk(state: _StalledState) -> str:
    if not state.size < WITHERING * state.first_size:
        return ""
    return f" All weights together have shrunk to {percent(state.size / state.first_size)} of their size."


def _message(rule: str, record: StepRecord, state: _StalledState, dtype: str) -> str:
    trend = state.trend
    if rule == "far_off":
        return (
            f"The model is far off and hardly comes closer: its squared error was {number(state.learning.first)} at "
            f"first, and is {number(state.learning.smooth)} after {state.learning.count} steps."
        )
    if rule == "wasting":
        return (
            f"The weights waste away, and the loss does not fall any more: it is {trend.smooth:.3g}, and began at "
            f"{trend.first:.3g}.{_shrunk(state)}"
        )
    if rule == "idle":
        moved = f"change by up to {state.update:.2g} of their size in a step" if state.update < math.inf else "do move"
        return (
            f"The model has learnt nothing: after {trend.count} steps the loss is {trend.smooth:.3g}, and it began at "
            f"{trend.first:.3g}, although the weights {moved}.{_shrunk(state)}"
        )
    for_steps = state.progress.since if state.lasted else state.learning.count
    loss = "" if record.loss is None else f" The loss has hardly improved in {for_steps} steps."
    if 0 < state.update < PACED and state.raises >= WARM_STEPS:
        loss += " The learning rate is still being raised, but at this pace thousands of steps more will do nothing."
    return f"{_at_rest(state, dtype, for_steps)}.{loss}"


def _at_rest(state: _StalledState, dtype: str, for_steps: int) -> str:
    """How little the weights move."""
    if state.update == 0:
        return "The weights do not move: the updates are exactly zero"
    if state.update <= _limit(state):
        return (
            f"The weights do not move: even the layer that moves most changes by {state.update:.2g} of its size in a "
            f"step (usual: 0.001), so that {number(MOVED / state.update)} steps would change it by 1 %"
        )
    if dtype in COARSE:
        return (
            f"The weights hardly move: they are {dtype}, and even the layer that moves most changes by "
            f"{state.update:.2g} of its size in a step, where one weight cannot change by less than about "
            f"{COARSE[dtype]:.1g}, so that most of each step is rounded away"
        )
    if state.way < CREPT:
        together = f"all updates together, of all layers, are {state.way:.2g} of their size after {for_steps} steps"
        return f"The weights hardly move: {together}"
    return (
        f"The weights hardly move: all updates together change even the layer that moves most by {state.path:.2g} of "
        f"its size in {for_steps} steps"
    )


def _limit(state: _StalledState) -> float:
    """Update over weight below which they do not move."""
    return CREEPING if state.fresh else MOTIONLESS


def _rises(record: StepRecord, state: _StalledState) -> bool:
    """Whether the learning rate rises: that is a warm-up."""
    rises = record.lr > state.lr * (1 + SAME)
    if rises:
        state.lr = record.lr
        state.raises += 1
    return rises


def _slow(record: StepRecord, *, rises: bool) -> float:
    """Update over weight below which a run that has hardly learnt anything will not: 0 where there is no such."""
    if rises:
        return PACED
    return ROUNDED * min((COARSE.get(layer.dtype, 0.0) for layer in record.layers), default=0.0)


def _last(record: StepRecord, state: _StalledState, *, still: bool, rises: bool) -> None:
    """Count for how long nothing has moved."""
    if still and not rises:
        state.since = record.step if state.lasted == 0 else state.since
        state.lasted += 1
        state.progress.update(record.loss)
        if 0 < record.clipped_norm <= record.total_norm:
            state.clip += 0.1 * (math.log10(record.clipped_norm / record.total_norm) - state.clip)
    elif state.lasted:
        state.since, state.lasted, state.progress, state.clip = -1, 0, Progress(), 0.0


def _stands_still(record: StepRecord, progress: Progress) -> bool:
    """Whether the loss has not improved for as long either; one that was never told cannot object."""
    return progress.since >= STALLED_STEPS - 1 or (record.loss is None and math.isinf(progress.smooth))


def _stalled(
    record: StepRecord, state: _StalledState, ratios: Float64Array, divisor: float | None, rule: str
) -> Incident:
    order = [int(index) for index in np.argsort(ratios, kind="stable") if ratios[index] < math.inf]
    dtype = record.layers[order[0]].dtype if order else ""
    return Incident(
        kind="stalled",
        step=record.step,
        layers=tuple(record.layers[index].name for index in order),
        severity=Severity.ERROR,
        value=state.update,
        threshold=_limit(state),
        message=_message(rule, record, state, dtype),
        optimizer=record.optimizer,
        num_layers=len(order),
        evidence={
            "rule": rule,
            "since": state.since,
            "update_ratio": state.update,
            "path": state.path,
            "num_steps": state.learning.count,
            "lr": record.lr,
            "lr_top": state.lr,
            "clip": 10**state.clip,
            "total_norm": record.total_norm,
            "clipped_norm": record.clipped_norm,
            "loss": record.loss,
            "loss_at_first": state.learning.first,
            "divisor": divisor,
            "dtype": dtype,
        },
    )
