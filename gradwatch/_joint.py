"""A step whose gradients lie on several processes: what each measures becomes what all of them record.

An update is only known after its step, when this step's exchange is over: it travels with the next one's, and the
record of a sampled step waits for it. The very last one of a run is recorded without its update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradwatch import _measurement as step
from gradwatch._distributed import FAILED, SEEN, Exchange, Form, Share, Whole
from gradwatch._distributed_roster import View
from gradwatch._probes.loss_reader import LossReader
from gradwatch._probes.sighting import Sighting
from gradwatch._statistics import Column, Statistics
from gradwatch._transfer import Arrays, look, on_host
from gradwatch._voice import is_speaker
from gradwatch.clipping import Clip, ClipValue
from gradwatch.errors import warn

Parcel = tuple[dict[str, Tensor], step.Context]


@dataclass
class _Owed:
    """A record that waits for its update.

    Attributes:
        parcel: The record to be; None where it could not be made.
        view: How the rows of the update stand in the roster of its step.
        update: Squared norms of update and weight here, ``[num_local, 2]``; None where that has failed.
    """

    parcel: Parcel | None
    view: View
    update: Tensor | None


class Joint:
    """Measures together with the other processes, and keeps the records in order.

    Args:
        clip: Our own rule.
        every: How often maxima, weights and updates are looked at.
        loss: What was told of the losses.
    """

    def __init__(self, clip: Clip | None, every: int, loss: LossReader) -> None:
        self._clip = clip
        self._every = every
        self._loss = loss
        self._owed: _Owed | None = None
        self._queue: list[Parcel] = []
        self._error: Exception | None = None
        self._has_told = False

    def measure(
        self, track: step.Track, optimizer: Any, scale: Tensor | float | None, *, skipped: bool = False
    ) -> step.Measurement:
        """Measure the gradients of a step, on all processes at once; whatever goes wrong here, all come back.

        Args:
            track: Whose step it is; it has an exchange.
            optimizer: The same.
            scale: The loss scale that the gradients carry.
            skipped: Whether a GradScaler has kept the optimizer from its step.
        """
        told = step.Measurement.of_nothing()
        sampled, earlier = track.is_sampled(self._every), track.before_clip
        found = skipped or getattr(optimizer, "found_inf", None)

        def measured() -> step.Measurement:
            if (trouble := track.trouble) is not None:
                raise trouble
            track.before_clip = earlier
            local = step.measure(track, self._clip, scale, sampled=sampled)
            local.lr = step.learning_rate(optimizer, local)
            if not told.closed:  # the second time round, after an agreement, there is nothing new
                told.closed = True
                self._loss.hand_over(told)
            local.sighting = told.sighting
            local.extras.update(told.extras)
            local.weight_statistics = step.weights_in_doubt(local, track) or local.weight_statistics
            return local

        return self._together(track, measured, scale, sampled=sampled, skipped=found)

    def complete(self, track: step.Track, local: step.Measurement) -> step.Measurement:
        """Of all processes what has been measured here already: of an optimizer that steps inside the backward pass."""
        return self._together(track, lambda: local, None, sampled=False)

    def again(self, track: step.Track, clip: Clip) -> step.Measurement:
        """Measure for the clipping of a further evaluation of a closure."""
        form = self._form(sampled=False, updated=False)
        local = step.measure(track, clip)
        exchange = _exchange(track)
        return _measurement(exchange.reduce(Share(local.statistics, local.current), form), local, form, None)

    def _together(
        self, track: step.Track, measured: Any, scale: Any, *, sampled: bool, skipped: Any = None
    ) -> step.Measurement:
        exchange = _exchange(track)
        if exchange.settle_late():
            exchange.agree(step.holding_of(track))
        for _ in range(2):  # once more where somebody's layout has changed
            form = self._form(sampled=sampled, updated=True)
            share, local = exchange.neutral(form.columns), None
            try:
                local = measured()
                share = self._share(track, local, form, skipped)
            except Exception as error:  # noqa: BLE001 - the others are waiting for us, whatever it is
                self._error = error
                self._loss.take()
            owed = self._owed
            update = None if owed is None else owed.update
            whole = exchange.reduce(_with(share, update), form, None if owed is None else owed.view)
            if not exchange.must_agree(whole):
                break
            exchange.agree(step.holding_of(track))
        track.trouble = track.before_clip = None
        self._release(whole.update)
        measurement = _measurement(whole, local, form, scale)
        if on_host(whole.ranks):
            self._look(measurement, whole, track, local)
        return measurement

    def _form(self, *, sampled: bool, updated: bool) -> Form:
        owed = self._owed if updated else None
        return Form(
            columns=step.columns_for(self._clip, sampled=sampled),
            sampled=sampled,
            clamped=isinstance(self._clip, ClipValue),
            num_updated=0 if owed is None else owed.view.num_rows,
        )

    def _share(self, track: step.Track, local: step.Measurement, form: Form, skipped: Any) -> Share:
        clamped = None
        if isinstance(self._clip, ClipValue):
            clamped = self._clip.squared_norms_left(track.layout.gradients(), local.scale, local.current.data.device)
        lr = local.extras.get("lr", local.lr)
        return Share(
            before=_in_order(local.statistics, form),
            current=_in_order(local.current, form),
            weights=local.weight_statistics,
            clamped=clamped,
            loss=local.extras.get("loss"),
            lr=lr,
            skipped=0.0 if skipped is None else skipped if isinstance(skipped, Tensor) else float(skipped),
            flags=0.0 if _seen(local.sighting) is None else SEEN,
        )

    def _look(
        self, measurement: step.Measurement, whole: Whole, track: step.Track, local: step.Measurement | None
    ) -> None:
        """What can be decided here and now, in host memory: the same on every process."""
        measurement.incomplete = bool(look(whole.raised(FAILED)).any())
        loss, num_told = whole.loss()
        is_bad = bool(look(whole.before[Column.NUM_NONFINITE]).any())
        is_bad = is_bad or bool(look(num_told) and not look(torch.isfinite(loss)))
        if (is_bad and not track.was_bad) or look(whole.num_nonfinite_weight).any():
            measurement.extras["num_nonfinite_weight"] = whole.num_nonfinite_weight
        track.was_bad = is_bad
        if look(whole.raised(SEEN)).any():
            found = _exchange(track).first(None if local is None else _seen(local.sighting))
            if isinstance(found, Sighting):
                measurement.sighting = found

    # -------------------------------------------------------------------------------------------------- keeping order

    def in_order(self, track: step.Track, finish: Callable[[], Parcel]) -> Iterator[Parcel]:
        """The parcels that may leave now that a step is over.

        Args:
            track: Whose step it was.
            finish: Makes the parcel; of a sampled step it leaves the update on the track. Whether it can or not, the
                other processes expect one.
        """
        is_owed = track.exchange is not None and track.is_sampled(self._every)
        parcel = None
        try:
            tensors, context = finish()
            if is_owed:  # the next step may change what it shares
                tensors = {name: tensor.clone() for name, tensor in tensors.items()}
            parcel = (tensors, context)
            self._queue.append(parcel)
        finally:
            if is_owed:
                self._owed = _Owed(parcel, _exchange(track).view, track.update)
                track.update = None
        if self._owed is None:
            yield from self.rest()

    def waiting(self) -> list[Parcel]:
        """What waits for its update, and what is behind it."""
        return self._queue

    def rest(self) -> Iterator[Parcel]:
        """All that is left, in order; what waits for its update gets none."""
        self._owed = None
        queue, self._queue = self._queue, []
        yield from queue

    def _release(self, update: Tensor | None) -> None:
        if self._owed is not None and self._owed.parcel is not None and update is not None:
            moved, size = update.unbind(1)
            self._owed.parcel[0]["update_ratio"] = (moved / size).sqrt()
        self._owed = None

    def missing(self, context: step.Context, arrays: Arrays) -> list[int]:
        """The processes that have not measured their part of a step; where there are any, say so once."""
        if "ranks" not in arrays:
            return []
        failed = [rank for rank, flags in zip(context.ranks, arrays["ranks"][:, 3], strict=True) if flags % 2 > 0]
        if failed and not self._has_told:
            self._has_told = True
            self._tell(named(failed))
        return failed

    def _tell(self, which: str) -> None:
        """The process itself says what, the first one that there is something."""
        own = self._error
        if own is None and not is_speaker():
            return
        why = f"({type(own).__name__}: {own})" if own is not None else "(its own output says why)"
        warn(
            f"gradwatch failed while measuring on {which}; the training goes on, and steps that are not measured on "
            f"every rank are not judged and not clipped. This is said only once {why}"
        )


def named(ranks: Sequence[int]) -> str:
    """``rank 1``, ``ranks 0, 1 and 3``."""
    *first, last = map(str, ranks)
    return f"ranks {', '.join(first)} and {last}" if first else f"rank {last}"


def _exchange(track: step.Track) -> Exchange:
    assert track.exchange is not None
    return track.exchange


def _with(share: Share, update: Tensor | None) -> Share:
    return Share(**{**share.__dict__, "update": update})


def _in_order(statistics: Statistics, form: Form) -> Statistics:
    """In the form's columns; what was not measured (before a clipping that nobody expected) is 0."""
    if statistics.columns == form.columns:
        return statistics
    nothing = statistics.data.new_zeros(len(statistics.data))
    columns = [statistics[column] if column in statistics.columns else nothing for column in form.columns]
    return Statistics(torch.stack(columns, dim=1), form.columns)


def _measurement(whole: Whole, local: step.Measurement | None, form: Form, scale: Any) -> step.Measurement:
    """The step under way, of the whole model."""
    failed = whole.raised(FAILED).any()
    # by a norm that lacks a part nobody clips, on a device that nobody waits for either
    current = Statistics(torch.where(failed, torch.nan, whole.current.data), form.columns)
    loss, num_told = whole.loss()
    measurement = step.Measurement(whole.before, current, current.total_norm(), scale)
    measurement.clamped_norm = whole.clamped_norm
    measurement.extras = {
        "ranks": whole.ranks,
        "lr": whole.lr,
        "loss": loss,
        "num_told": num_told,
        "skipped_by_any": whole.skipped,
    }
    if whole.weight_norm is not None:
        measurement.extras["weight_norm"] = whole.weight_norm
    if local is not None:
        measurement.weights, measurement.was_clipped = local.weights, local.was_clipped
    return measurement


def _seen(sighting: Sighting) -> Sighting | None:
    """What was seen of a bad loss, if anything."""
    return sighting if sighting.birthplace is not None or sighting.unavailable else None
