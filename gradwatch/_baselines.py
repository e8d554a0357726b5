"""What a step is held against: how long a symptom has lasted, and what the run's own norms and loss usually are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gradwatch._decades import root_sum_square
from gradwatch.records import Float64Array, StepRecord

CLEAN_STEPS = 30
"""An incident is over after so many steps without its symptom; then the next one is a new one."""

RECOVERING = 0.3
"""Decades: a gap that closes this fast is a zero-initialised layer waking up, not a fault."""

JUMP = 1.5
"""Decades above the usual norm that heavy-tailed losses do not hold for three steps."""

SPREADS = 5.0
"""Mean deviations above the usual norm: a run that fluctuates a lot must jump further."""

STALLED_STEPS = 60
"""Steps without a better loss that count as standing still."""

SETTLED_STEPS = 90
"""Steps in which a loss that began far above what guessing gives has had time to fall to it."""

WARM_STEPS = 10
"""Steps before a history counts as one."""


def counts(record: StepRecord) -> bool:
    """Whether this step's norms may enter a baseline: neither an overflow nor a NaN is a large gradient."""
    return not record.skipped and record.finite


@dataclass
class Episode:
    """A condition that lasts is one incident that goes on."""

    active: bool = False
    clean: int = 0

    def begins(self, *, symptom: bool, alarm: bool) -> bool:
        """Whether a new incident begins at this step; the symptom alone keeps a running one going."""
        if symptom or alarm:
            new = alarm and not self.active
            self.active, self.clean = self.active or alarm, 0
            return new
        self.clean += 1
        self.active = self.active and self.clean < CLEAN_STEPS
        return False


@dataclass
class Streaks:
    """For how many steps in a row each symptom has lasted."""

    lasted: dict[str, int] = field(default_factory=dict)
    height: dict[str, float] = field(default_factory=dict)

    def update(self, heights: Mapping[str, float]) -> None:
        """Count one step; a symptom that has receded from where it began starts anew."""
        if not heights and not self.lasted:
            return
        for rule, height in heights.items():
            if rule in self.lasted and height >= self.height[rule] - RECOVERING:
                self.lasted[rule] += 1
            else:
                self.lasted[rule], self.height[rule] = 1, height
        for rule in self.lasted.keys() - heights.keys():
            del self.lasted[rule], self.height[rule]

    def ripe(self, patience: Mapping[str, int]) -> list[str]:
        """The symptoms that have lasted long enough, in the order of ``patience``."""
        if not self.lasted:
            return []
        return [rule for rule, steps in patience.items() if self.lasted.get(rule, 0) >= steps]


@dataclass
class Level:
    """The usual size of a norm, in decades: a running mean that no single step can move far.

    Attributes:
        mean: Usual log10 of the norm.
        spread: Mean absolute deviation from it.
        peak: Where the mean has been, forgotten slowly: a converged run that bounces back to where it came from
            has not exploded.
        highest: The largest value ever seen.
        count: Values seen.
    """

    mean: float = 0.0
    spread: float = 0.0
    peak: float = -math.inf
    highest: float = -math.inf
    count: int = 0

    def update(self, value: float) -> None:
        """Take in one finite value; a jump counts as half a decade at most."""
        if self.count == 0:
            self.mean = self.peak = value
        self.count += 1
        rate = 1 / self.count if self.count < 20 else 0.05  # noqa: PLR2004
        off = min(max(value - self.mean, -0.5), 0.5)
        self.mean += rate * off
        self.spread += rate * (abs(off) - self.spread)
        self.peak = max(self.mean, self.peak + 0.005 * (self.mean - self.peak))
        self.highest = max(self.highest, value)

    def shift(self, decades: float) -> None:
        """Move with the set of parameters that it is about."""
        self.mean += decades
        self.peak += decades
        self.highest += decades

    @property
    def limit(self) -> float:
        """What a norm must exceed for several steps to have jumped."""
        return max(self.mean + max(JUMP, SPREADS * self.spread), self.peak)


FALLING = 0.95
"""Loss over ten steps against that over thirty, which lies about 23 steps further back: 5 % in 23 steps."""


@dataclass
class Progress:
    """Whether the loss still gets better.

    Attributes:
        smooth: The usual loss of late, over about ten steps.
        before: The same over about thirty.
        best: The lowest ``smooth`` so far.
        since: Steps since it became lower by a hundredth.
    """

    smooth: float = math.inf
    before: float = math.inf
    best: float = math.inf
    since: int = 0

    @property
    def falls(self) -> bool:
        """Whether the loss is falling right now, by about a fifth in a hundred steps or faster."""
        return 0 < self.smooth < FALLING * self.before < math.inf

    def update(self, loss: float | None) -> None:
        """Take in one step's loss; an unknown or non-finite one tells nothing."""
        if loss is None or not math.isfinite(loss):
            return
        self.smooth = loss if math.isinf(self.smooth) else self.smooth + 0.1 * (loss - self.smooth)
        self.before = loss if math.isinf(self.before) else self.before + 0.03 * (loss - self.before)
        self.since += 1
        if self.smooth < self.best - 0.01 * abs(self.best) or math.isinf(self.best):
            self.best, self.since = self.smooth, 0


@dataclass
class Signal:
    """How much of the learning signal that a run began with is left.

    Attributes:
        first: log10 of the total norm, mean of the first three that are not zero.
        count: How many these are.
    """

    first: float = 0.0
    count: int = 0

    def lost(self, total_norm: float) -> float:
        """Decades below where it began, after taking this step in; -inf before it is known."""
        level = math.log10(total_norm) if total_norm > 0 else -math.inf
        if self.count < 3:  # noqa: PLR2004
            if total_norm > 0:
                self.count += 1
                self.first += (level - self.first) / self.count
            return -math.inf
        return self.first - level


HARDLY = 0.2
"""Share of the first loss: a model that has learnt anything at all in dozens of steps has taken off more than that."""


@dataclass
class Learning:
    """Whether a run has learnt anything since its first step.

    Attributes:
        first: The loss before anything was learnt: mean of the first three steps. NaN where it tells nothing.
        smooth: The usual loss of late.
        best: The lowest that this has been.
        count: Steps with a loss.
        chance: What guessing would give; inf where that is not known. To fall to it from a wild start is no learning.
    """

    first: float = math.nan
    smooth: float = math.nan
    best: float = math.inf
    count: int = 0
    chance: float = math.inf

    @property
    def start(self) -> float:
        """What the loss is held against: the first one, or what guessing gives where it has had time to fall to it."""
        return self.first if self.count < SETTLED_STEPS else min(self.first, self.chance)

    def update(self, loss: float | None) -> None:
        """Take in one step's loss; an unknown or non-finite one tells nothing."""
        if loss is None or not math.isfinite(loss):
            return
        self.count += 1
        if self.count == 1:
            self.first = self.smooth = loss
        elif self.count <= 3:  # noqa: PLR2004
            self.first += (loss - self.first) / self.count
        self.smooth += 0.2 * (loss - self.smooth)
        self.best = min(self.best, self.smooth)

    def is_good(self) -> bool:
        """Whether half of the first loss has gone, or it was nothing from the start."""
        return self.first == 0 or (self.first > 0 and self.best <= 0.5 * self.first)

    def poor(self, steps: int) -> bool:
        """Whether so many steps have taken off less than half of the first loss: no run that has done its work."""
        return self.count >= steps and self.first > 0 and self.best > 0.5 * self.start

    def slow(self, steps: int) -> bool:
        """Whether so many steps have taken off less than a third of the first loss: bad guesses given up, no more."""
        return self.count >= steps and self.first > 0 and self.best > 2 / 3 * self.start

    def nothing(self, steps: int) -> bool:
        """Whether so many steps have taken off less than a twentieth of the first loss."""
        return self.count >= steps and self.first > 0 and self.best > 0.95 * self.start

    def hardly(self, steps: int) -> bool:
        """Whether so many steps have taken off hardly anything of the first loss; a loss below zero has no share."""
        return self.count >= steps and self.first > 0 and self.best > (1 - HARDLY) * self.start


class Course:
    """Whether the loss gets better: followed once a step for all detectors that share it.

    Each keeps it in its own state, so that it can be saved and used alone; whoever comes first in a step brings it up
    to date, and the others take over what that one has.

    Attributes:
        chance: What guessing would give, where the model's graph tells.
        is_squared: Whether the loss is a squared error, as far as that tells.
    """

    def __init__(self) -> None:
        self.chance = math.inf
        self.is_squared = False
        self._followed: dict[int, tuple[StepRecord, Learning, Progress]] = {}

    def follow(self, record: StepRecord, learning: Learning, progress: Progress) -> tuple[Learning, Progress]:
        """Both after this step, given a detector's own after the step before."""
        known = self._followed.get(record.optimizer)
        if known is not None and known[0] is record:
            return known[1], known[2]
        if self.chance < math.inf:  # after a resume the graph may not have been seen yet
            learning.chance = self.chance
        learning.update(record.loss)
        progress.update(record.loss)
        self._followed[record.optimizer] = record, learning, progress
        return learning, progress


@dataclass
class Usual:
    """The usual gradient norm of every parameter; NaN where none was seen that was not zero.

    A running mean in which one step counts as twice the usual at most: it follows slow growth, but needs many steps
    to follow a jump.
    """

    names: tuple[str, ...] = ()
    norm: Float64Array = field(default_factory=lambda: np.empty(0))

    def follow(self, names: tuple[str, ...], grad_norm: Float64Array) -> float:
        """Follow the optimizer to other parameters: what is known is kept by name.

        Args:
            names: The parameters from now on.
            grad_norm: Their first norms, taken as usual where nothing is known.

        Returns:
            By how many decades the usual total norm changes thereby: unfreezing layers is no explosion.
        """
        if names is self.names or names == self.names:
            self.names = names
            return 0.0
        before = root_sum_square(self.norm)
        known = dict(zip(self.names, self.norm.tolist(), strict=True))
        self.names, self.norm = names, np.array([known.get(name, math.nan) for name in names], dtype=np.float64)
        after = root_sum_square(np.where(np.isnan(self.norm), grad_norm, self.norm))
        return math.log10(after / before) if after > 0 < before else 0.0

    def update(self, grad_norm: Float64Array) -> None:
        """Take in one step's norms, those that are finite."""
        change = grad_norm - self.norm
        np.minimum(change, self.norm, out=change)
        change *= 0.1
        if len(change) == 0 or math.isfinite(change.item(change.argmin())):  # the index of a NaN, if there is one
            self.norm += change
            return
        np.add(self.norm, change, out=self.norm, where=np.isfinite(change))
        new = np.isnan(self.norm) & (grad_norm > 0) & np.isfinite(grad_norm)
        np.copyto(self.norm, grad_norm, where=new)
