"""A run as TensorBoard holds it by now, read segment by segment: only what a question needs."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass

from gradwatch._sources.packed import PackedRecording
from gradwatch._sources.sessions import Session, valid
from gradwatch._sources.tables import Part, Table, join, within
from gradwatch.records import Incident
from gradwatch.tensorboard_plugin.metadata import SCALARS
from gradwatch.tensorboard_plugin.store import ProviderStore

HEARD_OF = 120.0
"""A run without an end that was heard of so many seconds ago is still running."""


@dataclass(frozen=True)
class Segment:
    """One tag of one statistic: up to 4,096 steps.

    Attributes:
        tag: Where it is.
        session: Whose.
        names: Its layers, ``[num_layers]``.
        after: Its steps are greater than this one; -1 where that is not known.
        last: Its last step.
        limit: From this step on it does not count: a resumed session has trained that again.
    """

    tag: str
    session: str
    names: tuple[str, ...]
    after: int
    last: int
    limit: float

    def reaches(self, first: int | None, last: int | None) -> bool:
        """Whether it may hold a step from ``first`` to ``last`` that counts."""
        low = -math.inf if first is None else first
        high = math.inf if last is None else last
        return self.last >= low and self.after < min(high, self.limit - 1)


class LiveRecording(PackedRecording):
    """A snapshot (:class:`gradwatch.recording.Recording`); a run that has grown is another one.

    Args:
        store: Its tags.
        serial: Tells snapshots apart.
    """

    def __init__(self, store: ProviderStore, serial: int) -> None:
        super().__init__(store)
        self.store, self.serial = store, serial
        self._orders: dict[int, tuple[str, ...]] = {}

    @functools.cached_property
    def sessions(self) -> tuple[Session[str], ...]:
        """What each process wrote. The first one's first step is not read: nothing depends on it."""
        return tuple(
            Session(
                self._first_step(name) if number else None,
                tuple(self._texts(name, None, "incidents", Incident.from_json)),
                name,
            )
            for number, name in enumerate(self._written)
        )

    @functools.cached_property
    def told(self) -> tuple[tuple[Incident, bool], ...]:
        """Every incident of every session in order of step, and whether its step has been trained again since."""
        found = [(one, one.step >= limit) for session, limit in valid(self.sessions) for one in session.incidents]
        return tuple(sorted(found, key=lambda pair: pair[0].step))

    @property
    def unread(self) -> tuple[str, ...]:
        """In words, what could not be read; unlike ``skipped`` without the incidents in vain, which are in ``told``."""
        _ = self.told
        return tuple(self._skipped)

    @property
    def is_running(self) -> bool | None:
        """Whether it still goes on; None where it has neither come to its end nor been heard of lately."""
        if self.summary is not None:
            return False
        return True if time.time() - self.store.last_time() < HEARD_OF else None

    @property
    def has_through_time(self) -> bool:
        """Whether the signal through time of a recurrent layer was recorded."""
        return any(what == "through_time" for written in self._written.values() for _, what in written.tags)

    @property
    def last_step(self) -> int:
        """The last step that counts, -1 without one."""
        lasts = [segment for optimizer in self.optimizers for segment in self.segments("grad_norm", optimizer)]
        return max((int(min(segment.last, segment.limit - 1)) for segment in lasts), default=-1)

    def names(self, optimizer: int = 0) -> tuple[str, ...]:
        """The parameters of an optimizer in the model's order."""
        if optimizer not in self._orders:
            self._orders[optimizer] = super().names(optimizer)
        return self._orders[optimizer]

    def segments(
        self, statistic: str, optimizer: int, first: int | None = None, last: int | None = None
    ) -> list[Segment]:
        """What may hold a step from ``first`` to ``last``, both inclusive, in order; nothing is read for it."""
        found = []
        for session, limit in valid(self.sessions):
            after = -1
            for tag in self._tags(session.rows, optimizer, statistic):
                until = self.store.last_step(tag)
                names = SCALARS if statistic == "scalars" else self._names(tag) or self.names(optimizer)
                segment = Segment(tag, session.rows, names, after, until, limit)
                if segment.reaches(first, last):
                    found.append(segment)
                after = max(after, until)
        return found

    def table(self, statistic: str, optimizer: int = 0, *, first: int | None = None, last: int | None = None) -> Table:
        """One statistic; see :meth:`gradwatch.recording.Recording.table`. Only what reaches into the range is read."""
        segments = self.segments(statistic, optimizer, first, last)
        parts = [part for segment in segments if (part := self.part(segment, first, last)) is not None]
        return join(parts, statistic, SCALARS if statistic == "scalars" else self.names(optimizer))

    def part(
        self, segment: Segment, first: int | None = None, last: int | None = None, *, once: bool = False
    ) -> Part | None:
        """The rows of a segment that count; None where there are none, or where they do not fit their names."""
        steps, values = (self.store.numbers_once if once else self.store.numbers)(segment.tag)
        if not len(steps):
            return None
        if values.shape[1] != len(segment.names):
            self._skip(f"{segment.tag}: {values.shape[1]} values for {len(segment.names)} names")
            return None
        until = last if segment.limit == math.inf else int(min(segment.limit - 1, math.inf if last is None else last))
        return within(Part(segment.names, steps, values), first, until)

    def part_before(self, statistic: str, optimizer: int, step: int) -> Part | None:
        """The row of the last step up to ``step``, ``[1, num_layers]``; None where there is none."""
        for segment in reversed(self.segments(statistic, optimizer, None, step)):
            part = self.part(segment, None, step)
            if part is not None:
                return Part(part.names, part.steps[-1:], part.values[-1:])
        return None

    def _first_step(self, session: str) -> int | None:
        """Read off what is small."""
        firsts = []
        for (_, what), tags in self._written[session].tags.items():
            if what == "scalars":
                firsts += self.store.numbers(tags[0])[0].tolist()[:1]
        return min(firsts) if firsts else super()._first_step(session)
