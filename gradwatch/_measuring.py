"""How a step is measured: by this process alone, or together with all that hold parts of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradwatch import _measurement as step
from gradwatch._arrivals import Arrivals
from gradwatch._distributed import FAILED, SEEN, Exchange, Form, Share, Whole
from gradwatch._probes.loss_reader import LossReader
from gradwatch._probes.sighting import Sighting
from gradwatch._statistics import Column, Statistics
from gradwatch._tracks import Tracks
from gradwatch._transfer import look, on_host
from gradwatch.clipping import Clip, ClipValue

Gradients = Sequence[Tensor | None]


class Measuring:
    """Measures steps; where a track has an exchange all processes call this at the same steps.

    Args:
        clip: Our own rule.
        every: How often maxima, weights and updates are looked at.
        loss: What was told of the losses.
        arrivals: Knows what is owed to an exchange.
        tracks: Look at the gradients of a single process.
    """

    def __init__(
        self, clip: Clip | None, every: int | None, loss: LossReader, arrivals: Arrivals, tracks: Tracks
    ) -> None:
        self._clip = clip
        self._every = every
        self._loss = loss
        self._arrivals = arrivals
        self._tracks = tracks

    def can_wait(self, track: step.Track) -> bool:
        """Whether complete gradients need not be measured before the step itself: then one exchange is enough.

        We do nothing to them, and whoever clips meanwhile is seen.
        """
        return self._clip is None and track.exchange is not None

    def measure(
        self, track: step.Track, optimizer: Any, scale: Tensor | float | None, *, skipped: bool = False
    ) -> step.Measurement:
        """Measure the gradients of a step; on many processes all come back, whatever goes wrong on one of them.

        Args:
            track: Whose step it is.
            optimizer: The same.
            scale: The loss scale that the gradients carry.
            skipped: Whether a GradScaler has kept the optimizer from its step.
        """
        sampled, earlier = track.is_sampled(self._every), track.before_clip
        if track.exchange is None:
            current = self._tracks.look(track, optimizer, self._clip, sampled=sampled)
            measured = step.measure(track, current, self._clip, scale, sampled=sampled)
            measured.lr = step.learning_rate(optimizer, measured)
            self._loss.hand_over(measured)
            step.look_at_weights(measured, track)
            return measured
        news = step.Measurement.of_nothing()

        def local(gradients: Gradients) -> step.Measurement:
            if (trouble := track.trouble) is not None:
                raise trouble
            track.before_clip = earlier  # it is used up, and after an agreement everything is measured once more
            current = step.measure_gradients(track.layout, self._clip, sampled=sampled, gradients=gradients)
            measured = step.measure(track, current, self._clip, scale, sampled=sampled)
            measured.lr = step.learning_rate(optimizer, measured)
            if not news.closed:
                news.closed = True
                self._loss.hand_over(news)
            measured.sighting = news.sighting
            measured.extras.update(news.extras)
            return measured

        found = skipped or getattr(optimizer, "found_inf", None)
        return self._together(track, track.exchange, local, scale, sampled=sampled, skipped=found)

    def complete(self, track: step.Track, measured: step.Measurement) -> step.Measurement:
        """What has been measured here already, of an optimizer that steps inside the backward pass: of all."""
        self._loss.hand_over(measured)
        if track.exchange is None:
            return measured
        measurement = self._together(track, track.exchange, lambda _: measured, None, sampled=False)
        if self._clip is not None and self._clip.per_parameter:  # share by share: what is left of all is not known
            measurement.clipped_norm = torch.full_like(measurement.clipped_norm, torch.nan)
        return measurement

    def again(self, track: step.Track, clip: Clip) -> step.Measurement:
        """Measure for the clipping of a further evaluation of a closure."""
        measured = step.measure(track, step.measure_gradients(track.layout, clip), clip)
        if track.exchange is None:
            return measured
        form = Form(measured.statistics.columns)
        return _measurement(track.exchange.reduce(Share(measured.statistics, measured.current), form), form, None)

    def _together(
        self,
        track: step.Track,
        exchange: Exchange,
        local: Callable[[Gradients], step.Measurement],
        scale: Any,
        *,
        sampled: bool,
        skipped: Any = None,
    ) -> step.Measurement:
        if exchange.settle_late():
            exchange.agree(step.holding_of(track))
        owed = self._arrivals.owed
        form = Form(
            columns=step.columns_for(self._clip, sampled=sampled),
            sampled=sampled,
            clamped=isinstance(self._clip, ClipValue),
            num_updated=0 if owed is None else owed.view.num_rows,
        )
        for _ in range(2):  # once more where somebody's layout has changed
            share, measured = exchange.neutral(form.columns), None
            try:
                gradients = track.layout.gradients()  # first of all, for Partial ones are summed by all processes
                measured = local(gradients)
                share = self._share(gradients, measured, form, skipped, step.weights_in_doubt(measured, track))
            except Exception as error:  # noqa: BLE001 - the others are waiting for us, whatever it is
                self._arrivals.error = error
                self._loss.take()
            if owed is not None:
                share = replace(share, update=owed.update)
            whole = exchange.reduce(share, form, None if owed is None else owed.view)
            if not exchange.must_agree(whole):
                break
            exchange.agree(step.holding_of(track))
        track.trouble = track.before_clip = None
        self._arrivals.settle(whole.update)
        measurement = _measurement(whole, form, scale)
        if measured is not None:
            measurement.weights, measurement.was_clipped = measured.weights, measured.was_clipped
        if on_host(whole.ranks):
            _look(measurement, whole, track, None if measured is None else _seen(measured.sighting))
        return measurement

    def _share(
        self, gradients: Gradients, measured: step.Measurement, form: Form, skipped: Any, weights: Statistics | None
    ) -> Share:
        clamped, device = None, measured.current.data.device
        if isinstance(self._clip, ClipValue):
            clamped = self._clip.squared_norms_left(gradients, measured.scale, device)
        loss = measured.extras.get("loss")
        return Share(
            before=measured.statistics.in_columns(form.columns),
            current=measured.current.in_columns(form.columns),
            weights=weights or measured.weight_statistics,
            clamped=clamped,
            loss=torch.tensor(loss, dtype=torch.float64, device=device) if isinstance(loss, float) else loss,
            lr=measured.extras.get("lr", measured.lr),
            skipped=0.0 if skipped is None else skipped if isinstance(skipped, Tensor) else float(skipped),
            flags=0.0 if _seen(measured.sighting) is None else SEEN,
        )


def _measurement(whole: Whole, form: Form, scale: Any) -> step.Measurement:
    """The step under way, of the whole model."""
    failed = whole.raised(FAILED).any()
    # by a norm that lacks a part nobody clips, on a device that nobody waits for either
    current = Statistics(torch.where(failed, torch.nan, whole.current.data), form.columns)
    loss, num_told = whole.loss()
    measurement = step.Measurement(whole.before, current, current.total_norm(), scale, clamped_norm=whole.clamped_norm)
    measurement.extras = {
        "ranks": whole.ranks,
        "lr": whole.lr,
        "loss": loss,
        "num_told": num_told,
        "skipped_by_any": whole.skipped,
    }
    if whole.weight_norm is not None:
        measurement.extras["weight_norm"] = whole.weight_norm
    return measurement


def _look(measurement: step.Measurement, whole: Whole, track: step.Track, seen: Sighting | None) -> None:
    """What can be decided here and now, in host memory: the same on every process."""
    measurement.incomplete = bool(look(whole.raised(FAILED)).any())
    loss, num_told = whole.loss()
    is_bad = bool(look(whole.before[Column.NUM_NONFINITE]).any())
    is_bad = is_bad or bool(look(num_told) and not look(torch.isfinite(loss)))
    if (is_bad and not track.was_bad) or look(whole.num_nonfinite_weight).any():
        measurement.extras["num_nonfinite_weight"] = whole.num_nonfinite_weight
    track.was_bad = is_bad
    if track.exchange is not None and look(whole.raised(SEEN)).any():
        found = track.exchange.first(seen)
        if isinstance(found, Sighting):
            measurement.sighting = found


def _seen(sighting: Sighting) -> Sighting | None:
    """What was seen of a bad loss, if anything."""
    return sighting if sighting.birthplace is not None or sighting.unavailable else None
