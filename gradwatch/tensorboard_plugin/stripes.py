"""One statistic, segment by segment, as the heat map wants it: rows as asked for, what is not finite marked as inf.

Of a long run the highest value of every 16 steps is kept, so that the whole run need not be read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch._pool import highest
from gradwatch._sources.tables import Part, Table, medians, module_rows
from gradwatch.records import Int64Array
from gradwatch.tensorboard_plugin.cache import Cache
from gradwatch.tensorboard_plugin.live import LiveRecording, Segment
from gradwatch.tensorboard_plugin.metadata import SEGMENT_WRITES

MAX_EXACT = 128 * 2**20
"""Bytes of single steps that one picture is made of; above that it is made of blocks of steps."""

MAX_BLOCKS = 192 * 2**20
"""Bytes of blocks that are kept, over all runs."""

BLOCK = 16
"""Steps in a block."""

_SAMPLE = 2048
_COUNTS = "num_nonfinite"


@dataclass(frozen=True, eq=False)
class Blocks:
    """A segment in short.

    Attributes:
        first: First step of each block ``[B]``.
        last: Last step of each block ``[B]``.
        values: Highest value in each ``[B, num_rows]``.
        sample: The value at each block's first step ``[B, num_rows]``.
    """

    first: Int64Array
    last: Int64Array
    values: NDArray[np.float32]
    sample: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return self.first.nbytes + self.last.nbytes + self.values.nbytes + self.sample.nbytes


@dataclass(frozen=True, eq=False)
class Window:
    """Part of a run.

    Attributes:
        steps: ``[T]``, ascending; of blocks the first of each.
        values: float32 ``[T, num_rows]``; NaN where absent, inf where not finite.
        last_step: The last step in it; -1 where it is empty.
        exact: Whether a row is one step.
    """

    steps: Int64Array
    values: NDArray[np.float32]
    last_step: int
    exact: bool


def new_cache() -> Cache[Blocks]:
    """For the blocks of all runs."""
    return Cache(MAX_BLOCKS, lambda blocks: blocks.nbytes)


class Stripes:
    """One statistic of one optimizer of one snapshot.

    Attributes:
        key: Tells it from the others of the snapshot.

    Args:
        recording: The snapshot.
        statistic: One of :data:`gradwatch.recording.STATISTICS`.
        optimizer: Whose.
        modules: A row a module instead of a row a parameter.
        cache: For blocks.
    """

    def __init__(
        self, recording: LiveRecording, statistic: str, optimizer: int, *, modules: bool, cache: Cache[Blocks]
    ) -> None:
        self._recording, self.statistic, self.optimizer = recording, statistic, optimizer
        self._modules, self._cache = modules, cache
        self._names = recording.names(optimizer)
        # Counts are only written for steps that have any: the other steps' zeros are read off the norms.
        self._base = "grad_norm" if statistic == _COUNTS else statistic
        self.key = statistic, optimizer, modules

    @property
    def names(self) -> tuple[str, ...]:
        """The rows in depth order, ``[num_rows]``."""
        return self._rows(np.empty((0, len(self._names)), np.float32)).names

    def window(self, first: int | None, last: int | None, rows: slice) -> Window:
        """The steps from ``first`` to ``last``, both inclusive; None for the run's own."""
        segments = self._segments(first, last)
        size = sum(4 * SEGMENT_WRITES * len(segment.names) for segment in segments)
        exact = size <= MAX_EXACT
        pieces = list(self._exact(segments, first, last) if exact else self._in_blocks(segments, first, last))
        if not pieces:
            return Window(np.empty(0, np.int64), np.empty((0, len(self.names)), np.float32)[:, rows], -1, exact)
        steps = np.concatenate([piece[0] for piece in pieces])
        values = np.concatenate([piece[1][:, rows] for piece in pieces])
        return Window(steps, values, int(pieces[-1][2]), exact)

    def medians(self) -> NDArray[np.float32]:
        """Each row's median over the run ``[num_rows]``; of a long run over evenly spaced steps."""
        segments = self._segments(None, None)
        if len(segments) * SEGMENT_WRITES * len(self._names) * 4 <= MAX_EXACT:
            pieces = [values for _, values, _ in self._exact(segments, None, None)]
        else:
            pieces = [self._blocks(segment).sample for segment in segments]
        every = max(1, sum(map(len, pieces)) // _SAMPLE)
        values = np.concatenate(pieces)[::every] if pieces else np.empty((0, len(self.names)), np.float32)
        return medians(Table(self.names, np.arange(len(values)), values, self.statistic))

    def at(self, step: int, row: int) -> tuple[int, float] | None:
        """The last step up to ``step`` and its value, NaN where absent; None where there is no such step.

        Where an element of the gradient is not finite, the value is inf or, as -inf, not a number.
        """
        part = self._recording.part_before(self._base, self.optimizer, step)
        if part is None:
            return None
        segment = self._recording.segments(self._base, self.optimizer, int(part.steps[0]), int(part.steps[0]))[-1]
        marked = float(self._arranged(part, segment).values[0, row])
        if math.isinf(marked) and not math.isinf(float(self._rows(part.values, part.names).values[0, row])):
            marked = -math.inf
        return int(part.steps[0]), marked

    def _segments(self, first: int | None, last: int | None) -> list[Segment]:
        return self._recording.segments(self._base, self.optimizer, first, last)

    def _exact(
        self, segments: list[Segment], first: int | None, last: int | None
    ) -> Iterator[tuple[Int64Array, NDArray[np.float32], int]]:
        for segment in segments:
            part = self._recording.part(segment, first, last)
            if part is not None:
                yield part.steps, self._arranged(part, segment).values, int(part.steps[-1])

    def _in_blocks(
        self, segments: list[Segment], first: int | None, last: int | None
    ) -> Iterator[tuple[Int64Array, NDArray[np.float32], int]]:
        for segment in segments:
            blocks = self._blocks(segment)
            begin = 0 if first is None else int(np.searchsorted(blocks.last, first))
            end = len(blocks.first) if last is None else int(np.searchsorted(blocks.first, last, side="right"))
            if begin < end:
                yield blocks.first[begin:end], blocks.values[begin:end], int(blocks.last[end - 1])

    def _blocks(self, segment: Segment) -> Blocks:
        state = self._recording.store.state
        counts = tuple(state(other.tag) for other in self._counts_of(segment))
        limit = segment.limit if segment.limit <= segment.last else math.inf
        key = state(segment.tag), limit, counts, self.key, self._names
        return self._cache.get(key, lambda: self._in_short(segment))

    def _in_short(self, segment: Segment) -> Blocks:
        part = self._recording.part(segment, once=True)
        if part is None:
            nothing = np.empty((0, len(self.names)), np.float32)
            return Blocks(np.empty(0, np.int64), np.empty(0, np.int64), nothing, nothing)
        values = self._arranged(part, segment).values
        last = np.append(part.steps[BLOCK - 1 :: BLOCK], part.steps[-1:])[: -(-len(values) // BLOCK)]
        # Copies: a view would keep the whole segment in memory.
        return Blocks(part.steps[::BLOCK].copy(), last, highest(values, BLOCK), values[::BLOCK].copy())

    def _arranged(self, part: Part, segment: Segment) -> Table:
        """A segment's values with the rows that were asked for, what is not finite as inf."""
        counts = self._counts(part, segment)
        values = part.values
        if self.statistic == _COUNTS:
            values = np.where(np.isnan(values) & (counts == 0), np.float32(np.nan), counts)
        elif counts is not None:
            values = np.where((counts > 0) & ~np.isfinite(values), np.float32(np.inf), values)
        return self._rows(values, part.names)

    def _rows(self, values: NDArray[np.float32], names: tuple[str, ...] | None = None) -> Table:
        if names is not None and names != self._names:
            wide = np.full((len(values), len(self._names)), np.nan, np.float32)
            index = {name: column for column, name in enumerate(self._names)}
            wide[:, [index[name] for name in names]] = values
            values = wide
        table = Table(self._names, np.arange(len(values)), values, self.statistic)
        return module_rows(table) if self._modules else table

    def _counts_of(self, segment: Segment) -> list[Segment]:
        """Where the counts of a segment's steps are."""
        found = self._recording.segments(_COUNTS, self.optimizer, max(0, segment.after), segment.last)
        return [other for other in found if other.session == segment.session]

    def _counts(self, part: Part, segment: Segment) -> Any:
        """Non-finite elements of each gradient ``[T, num_layers]``; None where there is none and none is asked for."""
        counts = None if self.statistic != _COUNTS else np.zeros(part.values.shape, np.float32)
        for other in self._counts_of(segment):
            found = self._recording.part(other, int(part.steps[0]), int(part.steps[-1]))
            if found is None:
                continue
            if counts is None:
                counts = np.zeros(part.values.shape, np.float32)
            places = np.searchsorted(part.steps, found.steps)
            here = part.steps[np.minimum(places, len(part.steps) - 1)] == found.steps
            columns = {name: column for column, name in enumerate(part.names)}
            known = [index for index, name in enumerate(found.names) if name in columns]
            into = [columns[found.names[index]] for index in known]
            counts[np.ix_(places[here], into)] = found.values[np.ix_(here, known)]
        return counts
