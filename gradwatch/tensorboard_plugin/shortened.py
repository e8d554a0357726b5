"""A run as the figures read it: where a statistic would take too much, the highest value of every few steps."""

from __future__ import annotations

import numpy as np

from gradwatch._sources.tables import Part, Table, join
from gradwatch.records import Incident, Layer, ModelInfo, RunSummary, TimeProfile
from gradwatch.tensorboard_plugin.cache import Cache
from gradwatch.tensorboard_plugin.live import LiveRecording
from gradwatch.tensorboard_plugin.metadata import SEGMENT_WRITES
from gradwatch.tensorboard_plugin.stripes import BLOCK, MAX_EXACT, Blocks, Stripes

_NO_STEP = 2**62  # beyond all


class Shortened:
    """A :class:`gradwatch.recording.Recording`.

    Args:
        recording: The snapshot.
        cache: For blocks of steps: the heat map's.
    """

    def __init__(self, recording: LiveRecording, cache: Cache[Blocks]) -> None:
        self._recording, self._cache = recording, cache

    @property
    def optimizers(self) -> tuple[int, ...]:
        """Their indices, ascending."""
        return self._recording.optimizers

    @property
    def statistics(self) -> tuple[str, ...]:
        """Those that have a value."""
        return self._recording.statistics

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """In order of step."""
        return self._recording.incidents

    @property
    def skipped(self) -> tuple[str, ...]:
        """In words, what could not be read or is not shown."""
        return self._recording.skipped

    @property
    def summary(self) -> RunSummary | None:
        """As written at the end of the run."""
        return self._recording.summary

    @property
    def is_running(self) -> bool | None:
        """Whether it still goes on; None where that cannot be known."""
        return self._recording.is_running

    @property
    def model(self) -> ModelInfo | None:
        """What is known of the model."""
        return self._recording.model

    def layers(self, optimizer: int = 0) -> tuple[Layer, ...]:
        """The parameters of an optimizer in the model's order."""
        return self._recording.layers(optimizer)

    def through_time(self, step: int | None = None) -> tuple[tuple[int, TimeProfile], ...]:
        """The learning signal through time at the last sampled step up to ``step``."""
        return self._recording.through_time(step)

    def table(self, statistic: str, optimizer: int = 0, *, first: int | None = None, last: int | None = None) -> Table:
        """One statistic; see :meth:`gradwatch.recording.Recording.table`.

        Of what would take more than :data:`gradwatch.tensorboard_plugin.stripes.MAX_EXACT` bytes the rows are the
        highest values of 16 steps each, at the first one's step, inf where something was not finite; the last few rows
        are steps as they are, so that the last one up to ``last`` is really that.
        """
        segments = self._recording.segments(statistic, optimizer, first, last)
        if sum(4 * SEGMENT_WRITES * len(segment.names) for segment in segments) <= MAX_EXACT:
            return self._recording.table(statistic, optimizer, first=first, last=last)
        names = self._recording.names(optimizer)
        end = self._recording.part_before(statistic, optimizer, _NO_STEP if last is None else last)
        if end is None:
            return join([], statistic, names)
        begin = max(int(end.steps[0]) - BLOCK, 0 if first is None else first)
        tail = self._recording.table(statistic, optimizer, first=begin, last=last)
        stripes = Stripes(self._recording, statistic, optimizer, modules=False, cache=self._cache)
        window = stripes.window(first, begin - 1, slice(None))
        before = np.searchsorted(window.steps, tail.steps[0])
        head = Part(names, window.steps[:before], window.values[:before])
        return join([head, Part(tail.names, tail.steps, tail.values)], statistic, names)
