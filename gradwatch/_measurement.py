"""One optimizer step while it happens: what was measured before, around and after the update.

A :class:`Track` is one optimizer's line through the run; a :class:`Measurement` is its step under way, all on the
device; what becomes of it on the host is a matter of :mod:`gradwatch._unpacking`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradwatch._before_clip import BeforeClip
from gradwatch._budget import SAMPLE, Budget
from gradwatch._distributed import Exchange
from gradwatch._distributed_roster import Holding
from gradwatch._fused import LeftToStep
from gradwatch._layout import Layout
from gradwatch._probes.sighting import Sighting
from gradwatch._sampling import WeightSampler, drawn
from gradwatch._statistics import ALWAYS, Column, Statistics
from gradwatch._transfer import look, on_host
from gradwatch._unpacking import Context
from gradwatch.clipping import Clip, ClipNorm
from gradwatch.errors import NonfiniteGradientError
from gradwatch.records import Layer

EVERY, SETTLED, EVERY_SETTLED = 10, 100, 20
"""By default maxima, weights and updates are looked at on every 10th of an optimizer's first hundred steps, where most
faults are, and on every 20th from there on."""


@dataclass
class Measurement:
    """A step under way, on the device.

    Attributes:
        statistics: Of the gradients before any clipping, unscaled.
        current: Of the gradients as we found them: somebody may have clipped already.
        clipped_norm: Total norm as the optimizer will see it, 0-dim, as far as known.
        scale: The loss scale that the gradients carry, None for none.
        extras: More for the record, under the names of its fields.
        weights: Sampled elements of the weights before the step, on a sampled step.
        weight_statistics: Of all elements of the weights, on a sampled step.
        was_clipped: Somebody has clipped before us, so that ``statistics`` and ``current`` differ.
        clamped_norm: Total norm that clipping by value would leave, 0-dim, where it could not be measured after it.
        lr: Largest learning rate, where it is a plain number.
        early: Measured ahead of torch's own hook (Lightning, ``observe``), which is still to come.
        outdated: Somebody has clipped since: ``clipped_norm`` has to be measured again.
        left_to_step: Our own clipping, where the optimizer will do it.
        closed: What comes until the end of this step is no news (further evaluations of a closure).
        sighting: What the probes have seen.
        incomplete: Another process could not measure its part: nothing may follow from this step.
        local_squares: Waits for the ranks' own squared norms, as late as can be: they travel while the optimizer steps.
        local_ranks: Those that they are of, ``[num_ranks]``; empty without them.
    """

    statistics: Statistics
    current: Statistics
    clipped_norm: Tensor
    scale: Tensor | float | None = None
    extras: dict[str, Tensor | float] = field(default_factory=dict)
    weights: Tensor | None = None
    weight_statistics: Statistics | None = None
    was_clipped: bool = False
    clamped_norm: Tensor | None = None
    lr: float = math.nan
    early: bool = False
    outdated: bool = False
    left_to_step: LeftToStep | None = None
    closed: bool = False
    sighting: Sighting = field(default_factory=Sighting)
    incomplete: bool = False
    local_squares: Callable[[], Tensor] | None = None
    local_ranks: tuple[int, ...] = ()

    @classmethod
    def of_nothing(cls) -> Measurement:
        """Of no parameter at all."""
        nothing = Statistics(torch.zeros((0, len(ALWAYS)), dtype=torch.float64, device="cpu"), ALWAYS)
        return cls(nothing, nothing, nothing.total_norm())

    def wait_for_step(self, layout: Layout) -> None:
        """Torch's own hook is still to come, and others have their turn before it."""
        self.early = True
        if self.left_to_step is not None:
            self.left_to_step.mark(layout)


@dataclass
class Identity:
    """What is left of an optimizer when it is gone: by its names another one is known as the same.

    Attributes:
        index: Its number in the records.
        names: The parameters that it owns.
        num_steps: How often it has stepped.
    """

    index: int
    names: list[str]
    num_steps: int = 0


@dataclass
class Track:
    """One optimizer's line through the run."""

    identity: Identity
    layout: Layout
    pending: Measurement | None = None
    before_clip: BeforeClip | None = None
    was_bad: bool = False
    thinned: int = -1
    """Number of its step that is not sampled although it would be due."""
    loss_scale: Tensor | None = None
    """What a GradScaler has just taken out of the gradients."""
    exchange: Exchange | None = None
    """With the other processes that hold parts of the model; None where there are none."""
    trouble: Exception | None = None
    """What has kept us from measuring the step to come."""
    update: Tensor | None = None
    """Squared norms of the update just made and of the weights before, ``[num_params, 2]``, to be exchanged."""
    _sampler: tuple[Layout, WeightSampler] | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What its records are about: on many processes all of theirs."""
        return self.layout.layers if self.exchange is None else self.exchange.roster.layers

    @property
    def index(self) -> int:
        """Its number in the records."""
        return self.identity.index

    def is_sampled(self, every: int | None) -> bool:
        """Whether maxima, weights and updates are looked at in the step to come."""
        return self.is_due(every) and self.identity.num_steps != self.thinned

    def plan(self, every: int | None, budget: Budget) -> None:
        """A step is over: whether the next one is sampled, should it be due."""
        budget.step_is_over()
        if self.exchange is not None:
            return  # processes that share a model look at the same steps, and each has a clock of its own
        if self.is_due(every) and not budget.grants(SAMPLE, self.identity.num_steps):
            self.thinned = self.identity.num_steps

    def is_due(self, every: int | None) -> bool:
        """Whether the step to come is one of every ``every``; None for the default."""
        done = self.identity.num_steps
        return done % (every or (EVERY if done < SETTLED else EVERY_SETTLED)) == 0

    @property
    def sampler(self) -> WeightSampler:
        """For the current layout."""
        if self._sampler is None or self._sampler[0] is not self.layout:
            self._sampler = (self.layout, WeightSampler(self.layout.weights(), self._picks()))
        return self._sampler[1]

    def _picks(self) -> list[Tensor | None] | None:
        """Which of the elements here are looked at: of all processes' the same ones as a single one would."""
        if self.exchange is None:
            return None
        roster, parts = self.exchange.roster, self.layout.parts or (None,) * len(self.layout.layers)
        of_all = [*drawn([layer.numel for layer in roster.layers]), torch.empty(0, dtype=torch.int64, device="cpu")]
        places = roster.places(self.exchange.own)
        picks = [of_all[row] for row in places]  # nothing of a layer that came after the agreement
        return [pick if part is None else part.places(pick) for pick, part in zip(picks, parts, strict=True)]


def measure_gradients(
    layout: Layout,
    clip: Clip | None = None,
    *,
    sampled: bool = False,
    gradients: Sequence[Tensor | None] | None = None,
) -> Statistics:
    """What the gradients are now, still scaled; nothing is changed.

    Args:
        layout: Their parameters.
        clip: The rule whose columns are wanted, too.
        sampled: Whether the maxima are wanted.
        gradients: Those of the layout, where they have been fetched already.
    """
    norm_type = 2.0 if clip is None else clip.norm_type
    found = layout.gradients() if gradients is None else gradients
    return layout.meter.measure(found, columns_for(clip, sampled=sampled), norm_type)


def measure(
    track: Track,
    current: Statistics,
    clip: Clip | None = None,
    scale: Tensor | float | None = None,
    *,
    sampled: bool = False,
) -> Measurement:
    """Begin a step with the gradients just measured; nothing is changed.

    Args:
        track: Whose step it is; its ``before_clip`` is used up.
        current: Of its gradients (:func:`measure_gradients`).
        clip: The rule.
        scale: The loss scale that the gradients carry.
        sampled: Whether this step's weights and updates are looked at.
    """
    layout, norm_type = track.layout, 2.0 if clip is None else clip.norm_type
    if scale is not None:
        current = current.unscaled(scale, norm_type)
    before, earlier = current, track.before_clip
    track.before_clip = None
    if earlier is not None and earlier.layout is layout:
        before = earlier.over(current, scale)
    measurement = Measurement(before, current, current.total_norm(), scale, was_clipped=before is not current)
    if sampled:
        here = layout.weights()
        both = track.sampler.measure(here) if track.exchange is None else None
        if both is None:
            measurement.weight_statistics = layout.meter.measure(here)
            both = measurement.weight_statistics.norms(), track.sampler.take(here)
        measurement.extras["weight_norm"], measurement.weights = both
    return measurement


def measure_share(alone: Track, clip: Clip | None) -> Measurement:
    """The gradients of these parameters, which are no step of their own."""
    return measure(alone, measure_gradients(alone.layout, clip), clip)


def clip_gradients(measurement: Measurement, track: Track, clip: Clip, *, may_overflow: bool = False) -> None:
    """Apply our own rule to the gradients just measured.

    Args:
        measurement: Of these gradients.
        track: Whose they are.
        clip: The rule.
        may_overflow: Under a GradScaler a non-finite norm is how it works: it skips the step, and nobody raises.
    """
    scale = 1.0 if measurement.scale is None else measurement.scale
    try:
        clipped_norm = clip.apply(track.layout.parameters, _for_rule(clip, measurement, track), scale)
    except NonfiniteGradientError:
        if not may_overflow:
            raise
        return
    if clipped_norm is None and measurement.clamped_norm is not None:
        measurement.clipped_norm = measurement.clamped_norm
    elif clipped_norm is None:
        measurement.outdated = True
        bring_up_to_date(measurement, track)
    else:
        measurement.clipped_norm = clipped_norm
    measurement.extras["own_clipped_norm"] = measurement.clipped_norm


def _for_rule(clip: Clip, measurement: Measurement, track: Track) -> Statistics:
    """What a rule is given: a row for each of its parameters, and the total norm over all processes.

    torch's own two need the rows of all, or none.
    """
    if track.exchange is None or isinstance(clip, ClipNorm):
        return measurement.current
    return measurement.current.of(track.exchange.view.own_rows(measurement.current.data))


def look_before_clip(
    earlier: BeforeClip | None, layout: Layout, clip: Clip | None, gradients: list[Tensor], *, sampled: bool
) -> BeforeClip:
    """What the gradients were before anybody clipped, given an earlier look; these are about to be clipped."""
    if earlier is not None and earlier.layout is layout and earlier.knows(gradients):
        return earlier  # clipped twice, or one by one: the first look was the one before any clipping
    norm_type = 2.0 if clip is None else clip.norm_type
    now = BeforeClip.look(layout, columns_for(clip, sampled=sampled), norm_type)
    return now.renewed(earlier) if earlier is not None and earlier.layout is layout else now


def bring_up_to_date(measurement: Measurement, track: Track) -> None:
    """Measure the clipped norm again where somebody has clipped since."""
    if measurement.outdated:
        layout = track.layout
        current = layout.meter.measure(layout.gradients())
        if measurement.scale is not None:
            current = current.unscaled(measurement.scale, 2.0)
        total = current.total_norm() if track.exchange is None else track.exchange.total_norm(current)
        measurement.clipped_norm = total
        measurement.outdated = False


def look_at_weights(measurement: Measurement, track: Track) -> None:
    """Count the weights' non-finite elements, where there is reason to and looking is free.

    There is reason at the first bad step: from then on every gradient is NaN, whoever began.
    """
    if not on_host(measurement.current.data):
        return
    if (weights := weights_in_doubt(measurement, track)) is not None:
        measurement.extras["num_nonfinite_weight"] = weights[Column.NUM_NONFINITE]
    track.was_bad = _is_bad(measurement)


def weights_in_doubt(measurement: Measurement, track: Track) -> Statistics | None:
    """Statistics of the weights that lie here, where there is reason to look at them and it is free."""
    if not on_host(measurement.current.data):
        return None
    weight_norm = measurement.extras.get("weight_norm")
    has_bad_weight = isinstance(weight_norm, Tensor) and not np.isfinite(look(weight_norm)).all()
    if (_is_bad(measurement) and not track.was_bad) or has_bad_weight:
        return track.layout.meter.measure(track.layout.weights())
    return None


def _is_bad(measurement: Measurement) -> bool:
    """Whether a gradient or the loss is known to be non-finite."""
    total = float(look(measurement.statistics.total_norm()))  # not finite either where an element is not
    if not math.isfinite(total) and bool(measurement.statistics.values(Column.NUM_NONFINITE).any()):
        return True
    loss = measurement.extras.get("loss")
    if isinstance(loss, Tensor):
        return on_host(loss) and not math.isfinite(float(look(loss)))
    return loss is not None and not math.isfinite(loss)


def learning_rate(optimizer: Any, measurement: Measurement) -> float:
    """The largest of the optimizer's groups; NaN where it has none, and where it is a tensor (that travels along)."""
    rates = [group.get("lr") for group in getattr(optimizer, "param_groups", ())]
    tensors = [rate for rate in rates if isinstance(rate, Tensor)]
    if tensors:
        device = tensors[0].device
        moved = [
            torch.as_tensor(r).reshape(()).to(device, torch.float64, non_blocking=True) for r in rates if r is not None
        ]
        measurement.extras["lr"] = torch.stack(moved).max()
    numbers = [float(rate) for rate in rates if isinstance(rate, (int, float))]
    return max(numbers, default=math.nan)


def finish(
    track: Track, number: int, *, every: int | None, moved: bool, skipped: bool
) -> tuple[dict[str, Tensor | float], Context]:
    """The step is over: what to send to the host.

    Args:
        track: Its pending measurement is used up.
        number: Of this step, over all optimizers.
        every: How often maxima and weights are looked at; None for the default.
        moved: Whether the optimizer was called, so that there is an update to look at.
        skipped: Whether a GradScaler kept it from being called.
    """
    measurement = track.pending
    assert measurement is not None
    sampled = track.is_sampled(every)
    track.pending = None  # whatever goes wrong from here on, this step is counted
    track.identity.num_steps += 1
    bring_up_to_date(measurement, track)
    context = Context(
        step=number,
        optimizer=track.index,
        layers=track.layers,
        columns=measurement.statistics.columns,
        sound=measurement.statistics.sound,
        sampled=sampled,
        skipped=skipped,
        lr=measurement.lr,
        sighting=measurement.sighting,
        ranks=() if track.exchange is None else track.exchange.roster.ranks,
        local_ranks=measurement.local_ranks,
    )
    if measurement.weights is not None and moved:
        if track.exchange is None:
            measurement.extras["update_ratio"] = track.sampler.update_ratio(measurement.weights, track.layout.weights())
        else:
            track.update = track.sampler.squares(measurement.weights, track.layout.weights())
    if (loss_scale := measurement.scale if isinstance(measurement.scale, Tensor) else track.loss_scale) is not None:
        measurement.extras["loss_scale"] = loss_scale
    track.loss_scale = None
    if measurement.local_squares is not None:
        measurement.extras["local_squares"] = measurement.local_squares()
    parcel: dict[str, Tensor | float] = {
        "statistics": measurement.statistics.data,
        "total_norm": measurement.statistics.total_norm(),
        "clipped_norm": measurement.clipped_norm,
        **measurement.extras,
    }
    return parcel, context


def holding_of(track: Track) -> Holding:
    """What other processes have to know of a track's layout."""
    assert track.layout.holding is not None
    return track.layout.holding


def columns_for(clip: Clip | None, *, sampled: bool) -> tuple[Column, ...]:
    """What is measured of the gradients of a step."""
    needed = () if clip is None else clip.needs
    return (*ALWAYS, *needed, *((Column.ABS_MAX,) if sampled and Column.ABS_MAX not in needed else ()))
