"""When the probes look, and what they have seen of a step: thinned, so that they stay cheap; at once where it burns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gradwatch._budget import PROBE, Budget
from gradwatch._layout import Layouts
from gradwatch._measurement import Measurement, Track
from gradwatch._probes.alertness import Alertness
from gradwatch._probes.forward import NO_CALLS, ForwardProbe
from gradwatch._probes.sighting import ACTIVATIONS, OWNERLESS, through_time
from gradwatch._statistics import Meter
from gradwatch.errors import ArgumentTypeError, ArgumentValueError
from gradwatch.records import StepRecord, Unavailable

EARLY = 4
"""The first steps are all looked at (but the very first, at which torch may still compile): most faults are there."""

_EVERY, _SETTLED = 20, 300
"""Most trainings that go wrong do so early; what begins later calls for a look by itself."""


@dataclass(frozen=True)
class Probes:
    """What is looked at beside gradients, weights and the loss, and how often.

    Args:
        every: The forward pass is looked at on every n-th step, besides the first few and those at which something
            begins. None: on every 20th of the first 300 steps, and on every 40th from then on.
        through_time: Whether recurrent layers are followed through time (on every fifth of these steps).
        forward: Whether the forward pass is looked at, at all.

    Raises:
        ArgumentTypeError: ``every`` is no whole number (also a ``TypeError``).
        ArgumentValueError: ``every`` is below 1 (also a ``ValueError``).
    """

    every: int | None = None
    through_time: bool = True
    forward: bool = True

    def __post_init__(self) -> None:
        if self.every is None:
            return
        if isinstance(self.every, bool) or not isinstance(self.every, int):
            raise ArgumentTypeError("every", self.every, "a whole number or None")
        if self.every < 1:
            raise ArgumentValueError("every", self.every, "must be at least 1")

    def every_at(self, number: int) -> int:
        """How many steps there are from one look to the next, ``number`` steps into the run."""
        return self.every or (_EVERY if number <= _SETTLED else 2 * _EVERY)

    def is_due(self, number: int, *, times: int = 1) -> bool:
        """Whether a step is looked at for its number alone, or for a multiple of ``times`` looks."""
        return number > 0 and number % (times * self.every_at(number)) == 0


_EACH = Probes(every=1)
"""Where nothing is looked at, that is said of each step."""

SHARDED = Unavailable(
    "activations and output gradients", "the model is sharded over several processes, each of which sees its own"
)
SWITCHED_OFF = Unavailable("activations and output gradients", "the probes are switched off (probes=False)")


class Probing:
    """Arms the probe ahead of the steps that are looked at, and hands what it has seen to the step's measurement.

    Args:
        model: Held weakly.
        layouts: Of this model.
        probes: How often; None for never.
        alertness: What else calls for a look; it outlives this model.
        budget: Grants looks.
    """

    def __init__(
        self, model: nn.Module, layouts: Layouts, probes: Probes | None, alertness: Alertness, budget: Budget
    ) -> None:
        self._probes = probes
        self._layouts = layouts
        self._probe = ForwardProbe(model, through_time=probes is None or probes.through_time)
        self._alertness = alertness
        self._budget = budget
        self._obstacle: Unavailable | None = SWITCHED_OFF if probes is None or not probes.forward else None

    def prepare(self, tracks: list[Track]) -> None:
        """A step is over: look at the next one?"""
        if self._probes is None or not self._probes.forward or self._layouts.world is not None:
            return
        numbers = [track.identity.num_steps for track in tracks]
        due = any(self._is_due(number) for number in numbers)
        wanted = self._alertness.is_demanded() or due
        if wanted and not self._probe.is_armed and self._budget.grants(PROBE, min(numbers, default=0)):
            in_time = any(number in (2, 3) or self._probes.is_due(number, times=5) for number in numbers)
            self._obstacle = self._probe.arm(through_time=in_time)

    def _is_due(self, number: int) -> bool:
        return 0 < number <= EARLY or (self._probes or _EACH).is_due(number)

    def hand_over(self, measurement: Measurement, track: Track, *, moved: bool = False) -> None:
        """The gradients of a step are complete: what was seen of it.

        Args:
            measurement: Of this step.
            track: Whose step it is.
            moved: Whether the weights are not those of the forward pass any more.
        """
        is_due = self._is_due(track.identity.num_steps)
        if track.exchange is not None:
            measurement.sighting.unavailable += (SHARDED,) if is_due else ()
            return
        if is_due:
            self._look_for_ownerless(measurement)
            if self._obstacle is not None:
                measurement.sighting.unavailable += (self._obstacle,)
        if not self._probe.is_armed:
            return
        seen, sighting = self._probe.take(moved=moved), measurement.sighting
        self._budget.add(self._probe.take_seconds())
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

    def follow(self, record: StepRecord) -> bool:
        """Look at the next steps, where this one is not like the one before; whether it is not."""
        return self._alertness.follow(record, 1 if self._probes is None else self._probes.every_at(record.step))

    def stop(self) -> None:
        """Look no more."""
        self._probe.disarm()
