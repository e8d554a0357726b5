"""The norms that the gradient had on each rank before DDP averaged it, for the records of those who ask for them.

They are had from a hook on DDP's buckets (:mod:`gradwatch._distributed_buckets`). It is registered at an optimizer's
first step, and the norms begin with its second: by then a training that has a communication hook of its own has
registered it (torch: "before calling backward"), ``ddp.join()`` has been entered, and all ranks have just averaged
their gradients, so that they are near enough in time to agree. All of them have to: a collective that some do not
launch hangs the others. Where they cannot be had, that is said in each record, with the reason.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

from torch import nn

from gradwatch._budget import Budget
from gradwatch._distributed_buckets import JOINS, BucketTap, ddp_kind, tap_of
from gradwatch._distributed_consent import refusal
from gradwatch._distributed_world import rank_and_size
from gradwatch._layout import Layout
from gradwatch._measurement import Measurement, Track
from gradwatch._noise_scale import WHAT
from gradwatch.errors import warn
from gradwatch.records import Unavailable

SHARDED = "the gradients of a sharded model are reduced while they are computed: no rank ever has its own as a whole"
INSIDE = "the optimizer steps inside the backward pass, before there is a whole gradient"
BEGINS = "they begin with the second step, when every hook of the training's own is known"
PARTLY = "DDP averages other parameters than this optimizer owns, and its buckets do not tell whose norm is whose"
NOT_AVERAGED = "no backward pass of this step was averaged over the ranks"


@dataclass
class _Reading:
    """What one optimizer's records get.

    Attributes:
        tap: Of its DDP module; None where there can be none.
        why: There can be none.
        num_averaged: As the tap had it at the step before.
        fits: Whether the tap's buckets hold this layout's parameters, and for which of both that is known.
    """

    tap: BucketTap | None
    why: str = ""
    num_averaged: int = 0
    fits: tuple[Layout, object, bool] | None = None


class LocalLook:
    """Hands the ranks' own norms to each step's measurement.

    Args:
        budget: Takes what it costs.
        wanted: Whether anybody has asked; else nothing is done at all.
    """

    _model: weakref.ref[nn.Module]

    def __init__(self, budget: Budget, *, wanted: bool) -> None:
        self._budget = budget
        self._wanted = wanted
        self._readings: dict[int, _Reading] = {}
        self._has_warned = False

    def bind(self, model: nn.Module) -> None:
        """Begin with (another) model, held weakly."""
        self.close(abandoned=False)
        self._model = weakref.ref(model)

    def hand_over(self, measurement: Measurement, track: Track, *, inside: bool = False) -> None:
        """The gradients of a step are complete.

        Args:
            measurement: Of this step.
            track: Whose step it is.
            inside: Whether it was made inside the backward pass.
        """
        if not self._wanted:
            return
        try:
            why = SHARDED if track.exchange is not None else INSIDE if inside else self._handed(measurement, track)
        except Exception as error:  # noqa: BLE001 - a look like any other: the step goes on without it
            why = self._failed(error)
        if why:
            measurement.sighting.unavailable += (Unavailable(WHAT, why),)

    def close(self, *, abandoned: bool) -> None:
        """Listen no more.

        Args:
            abandoned: The watch was dropped and nobody knows when: the other ranks may still exchange, so we do, too.
        """
        readings, self._readings = self._readings, {}
        for reading in readings.values():
            if reading.tap is not None and not abandoned:
                reading.tap.num_listeners -= 1

    def _handed(self, measurement: Measurement, track: Track) -> str:
        """What was had of this step, into the measurement; or why there is nothing."""
        reading = self._readings.get(track.index)
        if reading is None:
            reading = self._readings[track.index] = self._begin(track)
            return reading.why or BEGINS
        if (tap := reading.tap) is None:
            return reading.why
        self._budget.add(tap.take_seconds())
        num, reading.num_averaged = tap.num_averaged - reading.num_averaged, tap.num_averaged
        if num == 0:
            return JOINS if tap.joins else NOT_AVERAGED
        if num > 1:
            return (
                f"{num} backward passes were averaged since the step before, one after the other, so that of the "
                "earlier ones only their mean is left: accumulate under no_sync()"
            )
        if not _fits(reading, track.layout, tap):
            return PARTLY
        if tap.error is not None:
            self._failed(tap.error)  # on this rank: the others learn of it from what it has sent
        measurement.local_squares, measurement.local_ranks = tap.on_its_way(), tap.ranks
        return ""

    def _begin(self, track: Track) -> _Reading:
        if rank_and_size()[1] == 1:
            return _Reading(None, "there is one process only")
        found = self._averaging(track.layout)
        if len(found) > 1:  # the wrapper of a fit before may be garbage that nobody has taken out yet
            del found
            gc.collect()
            found = self._averaging(track.layout)
        if not found:
            return _Reading(None, "no DistributedDataParallel averages this model's gradients")
        tap: BucketTap | str
        if len(found) > 1:
            tap = "several DDP modules average the parameters of this optimizer"
        elif _averaged_ids(found[0]) != set(map(id, track.layout.parameters)):
            tap = PARTLY
        else:
            tap = tap_of(found[0])
        why = refusal(found[0].process_group, tap if isinstance(tap, str) else "")
        if why or isinstance(tap, str):
            return _Reading(None, why)
        tap.num_listeners += 1
        return _Reading(tap, num_averaged=tap.num_averaged)

    def _averaging(self, layout: Layout) -> list[nn.Module]:
        """The DDP modules that average some of these parameters: in the model, or round it."""
        kind, model = ddp_kind(), self._model()
        if kind is None or model is None:
            return []
        inside = [module for module in model.modules() if isinstance(module, kind)]
        # a module does not know what it is wrapped in
        round_it = [] if inside else [one for one in gc.get_objects() if issubclass(type(one), kind)]
        wanted = set(map(id, layout.parameters))
        return [ddp for ddp in (inside or round_it) if not wanted.isdisjoint(_averaged_ids(ddp))]

    def _failed(self, error: Exception) -> str:
        why = f"gradwatch failed ({type(error).__name__}: {error})"
        if not self._has_warned:
            self._has_warned = True
            warn(f"gradwatch cannot tell this rank's local gradient norm, and goes on without: {why}. Said only once")
        return why


def _averaged_ids(ddp: nn.Module) -> set[int]:
    """Of the trainable parameters that a DDP module was made to average."""
    ignored = getattr(ddp, "parameters_to_ignore", ())
    named = ddp.module.named_parameters()  # type: ignore[union-attr]
    return {id(parameter) for name, parameter in named if parameter.requires_grad and name not in ignored}


def _fits(reading: _Reading, layout: Layout, tap: BucketTap) -> bool:
    """Whether the buckets hold just what the record is about; what was frozen since lies in them as zeros."""
    known = reading.fits
    if known is None or known[0] is not layout or known[1] is not tap.reduced:
        own, ddp = set(map(id, layout.parameters)), tap.ddp()
        in_buckets: set[int] = set().union(*tap.reduced.values())
        fits = own <= in_buckets and ddp is not None and own == _averaged_ids(ddp)
        known = reading.fits = layout, tap.reduced, fits
    return known[2]
