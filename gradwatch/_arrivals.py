"""Steps on their way from the device to the ledger, in order; what is not known yet is waited for.

On many processes an update is only known after its step, when this step's exchange is over: it travels with the next
one's, and the record of a sampled step waits for it. Only a step that is known to be bad does not wait: nothing can be
learnt from its update. The very last sampled step of a run is recorded without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gradwatch._bulletin import Bulletin
from gradwatch._distributed_roster import View
from gradwatch._ledger import Ledger
from gradwatch._measurement import Track
from gradwatch._tracks import Tracks
from gradwatch._transfer import Arrays, Transfer, as_arrays
from gradwatch._unpacking import Context, ranks_that_failed, record_of
from gradwatch._voice import is_speaker
from gradwatch.errors import warn
from gradwatch.records import StepRecord, Unavailable
from gradwatch.wording import ranks_in_words

Parcel = tuple[dict[str, Tensor | float], Context]


@dataclass
class Owed:
    """The update of a sampled step, that the next exchange will report: on all processes, whatever became of theirs.

    Attributes:
        parcel: The record that waits for it; None where none does.
        view: How its rows stand in the roster of its step.
        update: Squared norms of update and weight here, ``[num_local, 2]``; None where there is none.
    """

    parcel: Parcel | None
    view: View
    update: Tensor | None


class Arrivals:
    """Sends what was measured, and hands the records over as they arrive.

    Args:
        every: How often maxima, weights and updates are looked at.
        ledger: Takes the records.
        tracks: Whose steps they are.
    """

    def __init__(self, every: int | None, ledger: Ledger, tracks: Tracks) -> None:
        self._every = every
        self._ledger = ledger
        self._tracks = tracks
        self._transfer: Transfer[Context] = Transfer()
        self._queue: list[Parcel] = []
        self._has_told = False
        self._bulletin = Bulletin()
        self.owed: Owed | None = None
        """What the next exchange has to report."""
        self.error: Exception | None = None
        """What has kept this process from measuring."""

    def send(self, track: Track, finish: Callable[[], Parcel]) -> None:
        """A step is over.

        Args:
            track: Whose step it was.
            finish: Makes the parcel; of a sampled step it leaves the update on the track. Whether it can or not, the
                other processes expect one.
        """
        exchange = track.exchange if track.is_sampled(self._every) else None
        parcel = None
        try:
            tensors, context = finish()
            if exchange is not None:  # the next step may change what it shares
                tensors = {name: v.clone() if isinstance(v, Tensor) else v for name, v in tensors.items()}
            parcel = (tensors, context)
            self._queue.append(parcel)
        finally:
            if exchange is not None:
                self.owed = Owed(None if track.was_bad else parcel, exchange.view, track.update)
                track.update = None
        self._send_queue()

    def settle(self, update: Tensor | None) -> None:
        """An exchange is over: what it has reported, ``[num_params, 2]``, completes the record that waits."""
        owed, self.owed = self.owed, None
        if owed is not None and owed.parcel is not None and update is not None:
            moved, size = update.unbind(1)
            owed.parcel[0]["update_ratio"] = (moved / size).sqrt()

    def collect(self, *, wait: bool = False) -> None:
        """Hand over what has arrived; with ``wait`` all that does not wait for an exchange."""
        errors = []
        for context, arrays in self._transfer.receive(wait=wait):
            try:
                self._take(context, arrays)
            except Exception as error:  # noqa: BLE001 - it does not keep back the records behind it
                errors.append(error)
        if errors:
            raise errors[0]

    def finish(self) -> None:
        """There will be no further exchange: hand over all that is left."""
        self.owed = None
        self._send_queue()
        self.collect(wait=True)
        self._ledger.catch_up()

    def waiting(self) -> list[StepRecord]:
        """What waits for an exchange, as far as it is known in host memory: it is yet to be judged."""
        parcels = [(context, as_arrays(tensors)) for tensors, context in self._queue]
        return [record_of(context, arrays) for context, arrays in parcels if arrays is not None]

    def _send_queue(self) -> None:
        """All that stands before what waits for its update."""
        waiting = None if self.owed is None else self.owed.parcel
        while self._queue and self._queue[0] is not waiting:
            self._transfer.send(*self._queue.pop(0))

    def _take(self, context: Context, arrays: Arrays) -> None:
        record = record_of(context, arrays)
        missing = ranks_that_failed(context, arrays)
        if missing:
            self._tell(missing)
            self._ledger.keep(_without_numbers(record, missing))
        else:
            record = self._ledger.noise_scales.completed(self._bulletin.completed(record))
            self._ledger.take(record, self._tracks.layouts.info, urgent=self._tracks.probing.follow(record))

    def _tell(self, missing: Sequence[int]) -> None:
        """Once: the first process that there is such a step, and the one that is to blame why."""
        if self._has_told:
            return
        self._has_told = True
        if self.error is not None or is_speaker():
            why = "its own output says why" if self.error is None else f"{type(self.error).__name__}: {self.error}"
            warn(
                f"gradwatch failed while measuring on {ranks_in_words(missing)}; the training goes on, and steps that "
                f"are not measured on every rank are not judged and not clipped. This is said only once ({why})"
            )


def _without_numbers(record: StepRecord, missing: Sequence[int]) -> StepRecord:
    """A step that these processes have not measured their part of: what is left are not its norms."""
    return StepRecord(
        step=record.step,
        optimizer=record.optimizer,
        layers=record.layers,
        grad_norm=np.full(len(record.layers), np.nan),
        num_nonfinite=np.zeros(len(record.layers), dtype=np.int64),
        total_norm=np.nan,
        clipped_norm=np.nan,
        skipped=record.skipped,
        lr=record.lr,
        unavailable=(Unavailable("the gradients of this step", f"gradwatch failed on {ranks_in_words(missing)}"),),
    )
