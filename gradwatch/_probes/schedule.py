"""When the probes look, and what they have seen of a step: thinned, so that they stay cheap; at once where it burns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import nn

from gradwatch._layout import Layouts
from gradwatch._measurement import Measurement, Track
from gradwatch._probes.forward import NO_CALLS, ForwardProbe
from gradwatch._probes.sighting import ACTIVATIONS, OWNERLESS, through_time
from gradwatch._statistics import Meter
from gradwatch.errors import ArgumentTypeError, ArgumentValueError
from gradwatch.records import StepRecord, Unavailable

EARLY = 4
"""The first steps are all looked at (but the very first, at which torch may still compile): most faults are there."""

ON_DEMAND = 3
"""Steps in a row that are looked at when something begins."""

_MOST_DEMANDS = 4
"""Doublings of the rest after such looks: a loss that leaps about all the time is how that run is."""

_LEAP = 10.0
"""Times the norm of the step before: something begins."""

_MANY = 0.3
"""More of a layer's units dead or saturated than at the last look."""

_LOSS_LEAP = 3.0
"""Times the loss of the step before."""


@dataclass(frozen=True)
class Probes:
    """What is looked at beside gradients, weights and the loss, and how often.

    Args:
        every: The forward pass is looked at on every n-th step, besides the first few and those at which something
            begins.
        through_time: Whether recurrent layers are followed through time (on every fifth of these steps).
        forward: Whether the forward pass is looked at, at all.

    Raises:
        ArgumentTypeError: ``every`` is no whole number (also a ``TypeError``).
        ArgumentValueError: ``every`` is below 1 (also a ``ValueError``).
    """

    every: int = 20
    through_time: bool = True
    forward: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int):
            raise ArgumentTypeError("every", self.every, "a whole number")
        if self.every < 1:
            raise ArgumentValueError("every", self.every, "must be at least 1")


SWITCHED_OFF = Unavailable("activations and output gradients", "the probes are switched off (probes=False)")


class Probing:
    """Arms the probe ahead of the steps that are looked at, and hands what it has seen to the step's measurement.

    Args:
        model: Held weakly.
        layouts: Of this model.
        probes: How often; None for never.
    """

    def __init__(self, model: nn.Module, layouts: Layouts, probes: Probes | None) -> None:
        self._probes = probes
        self._layouts = layouts
        self._probe = ForwardProbe(model, through_time=probes is None or probes.through_time)
        self._demand = 0
        self._suspicions: dict[int, Suspicion] = {}
        self._rest = self._num_demands = 0
        self._obstacle: Unavailable | None = SWITCHED_OFF if probes is None or not probes.forward else None

    def prepare(self, tracks: list[Track]) -> None:
        """A step is over: look at the next one?"""
        if self._probes is None or not self._probes.forward:
            return
        numbers = [track.identity.num_steps for track in tracks]
        if self._demand or any(self._is_due(number, self._probes.every) for number in numbers):
            self._demand = max(0, self._demand - 1)
            in_time = any(number in (2, 3) or number % (5 * self._probes.every) == 0 for number in numbers)
            self._obstacle = self._probe.arm(through_time=in_time)

    @staticmethod
    def _is_due(number: int, every: int) -> bool:
        return 0 < number <= EARLY or (number > 0 and number % every == 0)

    def hand_over(self, measurement: Measurement, track: Track, *, moved: bool = False) -> None:
        """The gradients of a step are complete: what was seen of it.

        Args:
            measurement: Of this step.
            track: Whose step it is.
            moved: Whether the weights are not those of the forward pass any more.
        """
        if self._is_due(track.identity.num_steps, 1 if self._probes is None else self._probes.every):
            self._look_for_ownerless(measurement)
            if self._obstacle is not None:
                measurement.sighting.unavailable += (self._obstacle,)
        if not self._probe.is_armed:
            return
        seen, sighting = self._probe.take(moved=moved), measurement.sighting
        if seen is None:
            sighting.unavailable += (NO_CALLS,)
            return
        sighting.calls, sighting.places = seen.calls, seen.places
        sighting.unavailable += seen.unavailable
        sighting.recurrent = tuple(signal.label for signal in seen.signals)
        measurement.extras[ACTIVATIONS] = seen.values
        measurement.extras.update({through_time(i): signal.data for i, signal in enumerate(seen.signals)})

    def _look_for_ownerless(self, measurement: Measurement) -> None:
        found = self._layouts.ownerless()
        measurement.sighting.ownerless = tuple(layer for layer, _ in found)
        if found:
            parameters = [parameter for _, parameter in found]
            measurement.extras[OWNERLESS] = Meter(parameters).measure(parameters).norms()

    def follow(self, record: StepRecord) -> None:
        """Look at the next steps, where this one is not like the one before; ever more seldom, if that goes on."""
        suspicion = self._suspicions.setdefault(record.optimizer, Suspicion())
        self._rest -= 1
        if suspicion.of(record) and self._rest <= 0 and self._probes is not None:
            self._demand = ON_DEMAND
            self._rest = self._probes.every << self._num_demands
            self._num_demands = min(self._num_demands + 1, _MOST_DEMANDS)

    def stop(self) -> None:
        """Look no more."""
        self._probe.disarm()


@dataclass
class Suspicion:
    """Whether something begins in one optimizer's steps: a norm or loss that leaps, gradients that become zero."""

    norm: float = math.inf
    loss: float = math.inf
    zeros: int = 1 << 30
    share: float = math.nan

    def of(self, record: StepRecord) -> bool:
        """Take in one step."""
        zeros = int((~(record.grad_norm > 0)).sum())
        loss = self.loss if record.loss is None else record.loss
        changed = self._changed(record)
        begins = (
            changed or record.total_norm > _LEAP * self.norm or loss > _LOSS_LEAP * abs(self.loss) or zeros > self.zeros
        )
        self.norm, self.loss, self.zeros = record.total_norm, loss, zeros
        return begins and not record.skipped

    def _changed(self, record: StepRecord) -> bool:
        """Whether far more units are dead or saturated than when last looked at."""
        if record.activations is None:
            return False
        before = self.share
        shares = np.concatenate([record.activations.saturated_share, record.activations.dead_share])
        known = shares[~np.isnan(shares)]
        self.share = float(known.max()) if len(known) else math.nan
        return self.share > before + _MANY
