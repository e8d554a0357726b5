"""Who brought a non-finite loss to a mean over all ranks (DDP): asked at the first bad step, and without a collective.

After DDP's mean the gradient is NaN on every rank, whoever began, so every rank knows that there is something to ask.
They tell one another through the key-value store that torch's process group was made with: what takes part in no
collective cannot hang one. A rank that does not answer in time (it watches nothing: many watch on the first one only)
is not waited for again.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

from gradwatch._distributed_world import default_store, rank_and_size
from gradwatch.records import Birthplace, Ranks, StepRecord, number_to_json

PATIENCE = timedelta(seconds=5)
"""For all ranks to come to a step that they have all just averaged their gradients for."""

_MAX_READ = 64
"""Bad ranks that are read: all of them being bad, nobody is to blame."""

_questions = itertools.count()
"""All ranks ask at the same steps: the number tells one question from another."""


class Bulletin:
    """Asks the other ranks what they were told of a bad step."""

    def __init__(self) -> None:
        self._bad: set[int] = set()
        self._gave_up = False

    def completed(self, record: StepRecord) -> StepRecord:
        """The record, with what is known of the ranks where its gradients have just become non-finite."""
        is_bad, was_bad = bool(record.num_nonfinite.any()), record.optimizer in self._bad
        (self._bad.add if is_bad else self._bad.discard)(record.optimizer)
        if not is_bad or was_bad or record.skipped or record.ranks is not None or self._gave_up:
            return record
        size, store = rank_and_size()[1], default_store()
        if size == 1 or store is None:
            return record
        try:
            notes, num_bad = _asked(store, record, size)
        except RuntimeError:  # somebody did not come, or the store is gone: then this is not known
            self._gave_up = True
            return record
        return _with(record, notes, num_bad, size) if notes else record


def _asked(store: Any, record: StepRecord, size: int) -> tuple[list[dict[str, Any]], int]:
    """What ranks with a bad loss have to say, by rank; and how many they are."""
    key = f"gradwatch/bad/{next(_questions)}"
    if record.loss is not None and not math.isfinite(record.loss):
        birthplace = None if record.birthplace is None else record.birthplace.to_json()
        note = {"rank": rank_and_size()[0], "loss": number_to_json(record.loss), "birthplace": birthplace}
        store.set(f"{key}/{store.add(f'{key}/notes', 1)}", json.dumps(note))
    if store.add(f"{key}/here", 1) == size:
        store.set(f"{key}/all", "1")
    store.wait([f"{key}/all"], PATIENCE)
    num_bad = int(store.add(f"{key}/notes", 0))
    notes = [json.loads(store.get(f"{key}/{number}")) for number in range(1, min(num_bad, _MAX_READ) + 1)]
    return sorted(notes, key=lambda note: int(note["rank"])), num_bad


def _with(record: StepRecord, notes: list[dict[str, Any]], num_bad: int, size: int) -> StepRecord:
    """The record, the same on every rank as far as the fault goes: with the mean of all losses, and its birthplace."""
    losses: dict[int, float] = {int(note["rank"]): float(note["loss"]) for note in notes}
    others = None if num_bad < size else math.nan  # where all are bad, those that were not read are, too
    ranks = Ranks(
        numbers=tuple(range(size)),
        num_nonfinite=(int(record.num_nonfinite.sum()),) * size,
        loss=tuple(losses.get(rank, others) for rank in range(size)),
    )
    born = next((note["birthplace"] for note in notes if note["birthplace"] is not None), None)
    return replace(
        record,
        loss=None if record.loss is None else sum(losses.values()),
        birthplace=None if born is None else Birthplace.from_json(born),
        ranks=ranks,
    )
