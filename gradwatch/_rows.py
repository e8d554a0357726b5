"""Tensors in host memory as rows: no float32 accumulator runs over more than :data:`ROW` elements.

Large tensors are read where they lie, by numpy: its calls cost a fifth of torch's. Small ones, and what is left of a
large one after its full rows, are copied side by side into one buffer first, because even such a call costs more than
they do. The buffer is as small as the processor's cache: what is copied is read again before it has left it, and the
next batch takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch._transfer import as_array, look

ROW = 4096
"""Most elements that one float32 accumulator chain runs over."""

SMALL = 16_384
"""Tensors up to this many elements are copied into the buffer: with more, the copy costs more than a call."""

_CACHED_BYTES = 1 << 20
"""What a batch holds: the share of one core in a common second-level cache."""

_HOT_BYTES = 1 << 18
"""What is read three times in a row, where the extremes are wanted, too."""

_HUGE = 1 << 20
"""Elements of a tensor from which on it does not matter that something is left of it."""

_BODY_ROW = 512
"""Elements of a row of a large tensor, where that leaves nothing: two such rows in turns are read 10 % faster."""

Elements = NDArray[np.floating[Any]]

Tensors = Sequence[Tensor | None]


def flat(tensor: Tensor) -> Tensor:
    """All elements in memory order, shape ``[numel]``: a view wherever the tensor is dense."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    return in_memory_order(tensor).reshape(-1)


def in_memory_order(tensor: Tensor) -> Tensor:
    """A view whose elements come as they lie, where that is a common order; else the tensor itself."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):  # noqa: PLR2004 - N, C, H, W
        return tensor.permute(0, 2, 3, 1)
    return tensor


def dot_by_matmul(left: Elements, right: Elements, out: Elements) -> None:
    """What :data:`dot` does, for numpy 1."""
    np.matmul(left[..., None, :], right[..., None], out=out[..., None, None])


dot: Callable[[Elements, Elements, Elements], object] = getattr(np, "vecdot", dot_by_matmul)
"""Row by row, ``[..., row]`` twice into ``[...]``. By BLAS, row by row: it keeps many
sums at once, which is fast, and closer than one chain; and a row is too short for it to wake threads."""


@dataclass(frozen=True)
class Results:
    """What is taken of each row: its squared norm, and where wanted the extreme elements. ``[num_rows]`` each."""

    squares: Tensor
    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, num_rows: int, dtype: torch.dtype) -> Results:
        """Of this many rows."""
        return cls(*torch.zeros((3, num_rows), dtype=dtype, device="cpu"))

    def part(self, start: int, stop: int) -> Results:
        """A view of some of them."""
        return Results(self.squares[start:stop], self.high[start:stop], self.low[start:stop])


@dataclass(frozen=True)
class Piece:
    """What is copied: a whole small tensor, or what is left of a large one after its full rows."""

    index: int
    shape: torch.Size
    row: int
    start: int = 0

    @property
    def num_rows(self) -> int:
        """How many rows it makes."""
        return self.shape.numel() // self.row


class Body:
    """The full rows of a large tensor, read where they lie.

    Where their number is even, those of the first and of the second half are read in turns: the processor fetches two
    streams from main memory faster than one.

    Args:
        numel: Elements of the tensor.
        row: Elements of a row.
        results: Of its full rows; the extremes of all are in those of the first.
    """

    def __init__(self, numel: int, row: int, results: Results) -> None:
        num_rows = len(results.squares)
        num_streams = 1 + (num_rows % 2 == 0)
        self._results = results
        self._squares = look(results.squares).reshape(-1, num_streams)
        self._high, self._low = look(results.high), look(results.low)
        self._grid = num_streams, num_rows // num_streams, row
        self._stop = num_rows * row
        self._numel = numel
        self._whole = self._stop == numel

    def measure(self, tensor: Tensor | None, *, extremes: bool) -> Elements | None:
        """Fill in the results.

        Returns:
            All elements of the tensor in memory order, without a copy; None where numpy cannot see them.

        Raises:
            ValueError: The tensor has another number of elements than promised.
        """
        if tensor is None:
            for result in (self._squares, self._high, self._low):
                result.fill(0)
            return None
        if tensor.dtype is not self._results.squares.dtype:
            self._measure_halves(tensor, extremes=extremes)
            return None
        elements: Elements = as_array(tensor if tensor.is_contiguous() else flat(tensor))
        if (
            self._whole and not extremes
        ):  # as few calls as can be: of a tensor of middle size they cost more than reading
            rows = elements.reshape(self._grid).swapaxes(0, 1)
            dot(rows, rows, self._squares)
            return elements
        elements = elements.reshape(self._numel)
        streams = elements[: self._stop].reshape(self._grid)
        rows = streams.swapaxes(0, 1)
        if not extremes:
            dot(rows, rows, self._squares)
            return elements
        step = max(1, _HOT_BYTES // (rows[0].size * rows.itemsize))
        high, low = [], []
        for start in range(0, len(rows), step):  # the second reading finds in the cache what the first has brought
            part = np.s_[start : start + step]
            dot(rows[part], rows[part], self._squares[part])
            for stream in streams:
                hot = stream[part].reshape(-1)
                high.append(hot.max())
                low.append(hot.min())
        self._high[0], self._low[0] = np.max(high), np.min(low)  # NaN, if there is one
        return elements

    def _measure_halves(self, tensor: Tensor, *, extremes: bool) -> None:
        """Of a type that BLAS does not know: torch accumulates in float32 what it reads."""
        if tensor.numel() != self._numel:
            raise ValueError(f"{tensor.numel()} elements instead of {self._numel}")
        rows, results = flat(tensor)[: self._stop].view(len(self._high), -1), self._results
        torch.linalg.vector_norm(rows, 2, 1, dtype=results.squares.dtype, out=results.squares)
        np.square(self._squares, out=self._squares)
        if extremes:  # two calls along the rows are twenty times faster than aminmax()
            results.high[0], results.low[0] = rows.amax(1).max(), rows.amin(1).min()


class _Group:
    """Copied rows of one length, ``[num_rows, row]``."""

    def __init__(self, rows: Tensor, results: Results) -> None:
        self.rows = rows
        self._results = results
        self._array, self._squares = look(rows), look(results.squares)

    def measure(self, *, extremes: bool) -> None:
        """Fill in the results."""
        dot(self._array, self._array, self._squares)
        if extremes:  # torch, because these rows may be short: numpy takes a while for each
            torch.amax(self.rows, 1, out=self._results.high)
            torch.amin(self.rows, 1, out=self._results.low)


@dataclass(frozen=True)
class _Run:
    """Pieces of one shape side by side, copied in one call: that is four times faster than one by one."""

    fetch: Callable[[Tensors], Sequence[Tensor | None]]
    starts: list[int]
    join: Callable[..., Tensor]
    together: Tensor
    shape: torch.Size
    absent: Tensor


class Batch:
    """Pieces that are copied together.

    Args:
        pieces: Those of one row length side by side, and within them those of one shape.
        buffer: Where to, shared with other batches.
        results: Of all their rows.
    """

    def __init__(self, pieces: Sequence[Piece], buffer: Tensor, results: Results) -> None:
        self.pieces = tuple(pieces)
        self.members = {piece.index for piece in pieces}
        self.gathered = buffer[: sum(piece.shape.numel() for piece in pieces)]
        self.num_rows = len(results.squares)
        self._runs: list[_Run] = []
        self._groups: list[_Group] = []
        offset = 0
        for (shape, _), run in groupby(pieces, key=lambda piece: (piece.shape, piece.start > 0)):
            alike = list(run)
            together = buffer[offset : offset + len(alike) * shape.numel()].view(-1, *shape[1:])
            offset += together.numel()
            self._runs.append(
                _Run(
                    fetch=_fetcher([piece.index for piece in alike]),
                    starts=[piece.start for piece in alike] if alike[0].start else [],
                    join=torch.cat if shape else torch.stack,
                    together=together,
                    shape=together.shape,
                    absent=buffer.new_zeros(()).expand(shape),
                )
            )
        offset = first = 0
        for row, group in groupby(pieces, key=lambda piece: piece.row):
            num_rows = sum(piece.num_rows for piece in group)
            rows = buffer[offset : offset + num_rows * row].view(num_rows, row)
            self._groups.append(_Group(rows, results.part(first, first + num_rows)))
            offset, first = offset + num_rows * row, first + num_rows

    def gather(self, tensors: Tensors, *, complete: bool = True) -> None:
        """Copy the pieces into the buffer; all are there where it is ``complete``.

        Raises:
            ValueError: One has another shape than promised.
        """
        for run in self._runs:
            sources = run.fetch(tensors)
            if run.starts:
                sources = [s if s is None else flat(s)[start:] for s, start in zip(sources, run.starts, strict=True)]
            if not complete:
                sources = [run.absent if source is None else source for source in sources]
            try:
                run.join(sources, out=run.together)
            finally:
                fits = run.together.shape == run.shape
                if not fits:  # torch resizes what it writes to; only in bounds, for the buffer cannot grow
                    run.together.resize_(run.shape)
            if not fits:
                raise ValueError("a tensor has another shape than promised")

    def measure(self, *, extremes: bool = False) -> None:
        """Fill in the results of what has been gathered."""
        for group in self._groups:
            group.measure(extremes=extremes)

    def scale(self, factor: float) -> None:
        """Multiply what has been gathered."""
        self.gathered.mul_(factor)

    def count_nonfinite(self) -> list[Tensor]:
        """Elements that are NaN or infinite in each row, group by group."""
        return [torch.isfinite(group.rows).logical_not_().sum(1) for group in self._groups]


def batches(pieces: Sequence[Piece], dtype: torch.dtype, results: Results) -> list[Batch]:
    """All pieces, in as many batches as it takes."""
    most = _CACHED_BYTES // dtype.itemsize
    parts: list[list[Piece]] = []
    space = 0
    for piece in pieces:
        if (space := space - piece.shape.numel()) < 0:
            parts.append([])
            space = most - piece.shape.numel()
        parts[-1].append(piece)
    size = max((sum(piece.shape.numel() for piece in part) for part in parts), default=0)
    # numpy's memory: torch cannot let it grow (and move) under the views of it that numpy holds
    buffer = torch.from_numpy(look(torch.zeros(size, dtype=dtype, device="cpu")))
    made, first = [], 0
    for part in parts:
        num_rows = sum(piece.num_rows for piece in part)
        made.append(Batch(part, buffer, results.part(first, first + num_rows)))
        first += num_rows
    return made


def body_rows(numel: int) -> tuple[int, int]:
    """The length and the number of the full rows of a large tensor."""
    if numel % (2 * _BODY_ROW) == 0 or numel >= _HUGE:
        return _BODY_ROW, numel // (2 * _BODY_ROW) * 2
    row = row_length(numel) or ROW
    return row, numel // row


def row_length(numel: int) -> int:
    """The longest row that divides ``numel`` and is not over :data:`ROW`; 0 where only uselessly short ones do."""
    if numel <= ROW:
        return numel
    longest = next(row for row in range(ROW, 0, -1) if numel % row == 0)
    return longest if longest >= ROW // 16 else 0


def _fetcher(indices: list[int]) -> Callable[[Tensors], Sequence[Tensor | None]]:
    if len(indices) == 1:
        return itemgetter(slice(indices[0], indices[0] + 1))
    return itemgetter(*indices)
