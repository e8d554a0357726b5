"""Tensors in host memory as rows: no float32 accumulator runs over more than :data:`ROW` elements.

Large tensors are read where they lie. Small ones, and what is left of a large one after its full rows, are copied side
by side into one buffer first, because a call costs more than they do. The buffer is as small as the processor's cache:
what is copied is read again before it has left it, and the next batch takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from gradwatch._transfer import look

ROW = 4096
"""Most elements that one float32 accumulator chain runs over."""

SMALL = 16_384
"""Tensors up to this many elements are copied into the buffer."""

_CACHED_BYTES = 1 << 20
"""What a batch holds: the share of one core in a common second-level cache."""

Tensors = Sequence[Tensor | None]


def flat(tensor: Tensor) -> Tensor:
    """All elements in memory order, shape ``[numel]``: a view wherever the tensor is dense."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):  # noqa: PLR2004 - N, C, H, W
        return tensor.permute(0, 2, 3, 1).reshape(-1)
    return tensor.reshape(-1)


@dataclass(frozen=True)
class Results:
    """What is taken of each row: its norm (of a copied one its square), and where wanted the extreme elements."""

    norms: Tensor
    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, num_rows: int, dtype: torch.dtype) -> Results:
        """Of this many rows."""
        return cls(*torch.zeros((3, num_rows), dtype=dtype, device="cpu"))

    def part(self, start: int, stop: int) -> Results:
        """A view of some of them."""
        return Results(self.norms[start:stop], self.high[start:stop], self.low[start:stop])

    def take_extremes(self, rows: Tensor) -> None:
        """Of ``rows``, shape ``[num_rows, row]``: two calls along the rows are twenty times faster than aminmax()."""
        self.high.copy_(rows.amax(1))
        self.low.copy_(rows.amin(1))


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


@dataclass(frozen=True)
class Body:
    """The full rows of a large tensor, read where they lie."""

    row: int
    num_rows: int
    results: Results

    def measure(self, tensor: Tensor | None, *, extremes: bool) -> None:
        """Fill in the results."""
        num_rows = self.num_rows
        if tensor is None:
            self.results.norms.zero_()
            self.results.high.zero_()
            self.results.low.zero_()
            return
        if tensor.is_contiguous() and tensor.numel() == num_rows * self.row:  # one call instead of three
            rows = tensor.view(num_rows, self.row)
        else:
            rows = flat(tensor)[: num_rows * self.row].view(num_rows, self.row)
        if not extremes:
            _take_norms(rows, self.results)
            return
        step = max(1, _CACHED_BYTES // (self.row * tensor.element_size()))
        for start in range(0, num_rows, step):  # the second reading finds in the cache what the first has brought there
            stop = min(start + step, num_rows)
            part = self.results.part(start, stop)
            _take_norms(rows[start:stop], part)
            part.take_extremes(rows[start:stop])


def _take_norms(rows: Tensor, results: Results) -> None:
    torch.linalg.vector_norm(rows, 2, 1, dtype=results.norms.dtype, out=results.norms)


class _Group:
    """Copied rows of one length, ``[num_rows, row]``."""

    def __init__(self, rows: Tensor, results: Results) -> None:
        self.rows = rows
        self.results = results
        array = look(rows)
        self._left, self._right = array[:, None, :], array[:, :, None]
        self._squares = look(results.norms)[:, None, None]

    def measure(self, *, extremes: bool) -> None:
        """Squares by BLAS: it keeps several sums at once, twice as fast in the cache as a chain of one, and closer."""
        np.matmul(self._left, self._right, out=self._squares)
        if extremes:
            self.results.take_extremes(self.rows)


@dataclass(frozen=True)
class _Run:
    """Pieces of one shape side by side, copied in one call: that is four times faster than one by one."""

    fetch: Callable[[Tensors], Sequence[Tensor | None]]
    starts: list[int]
    join: Callable[..., Tensor]
    together: Tensor
    absent: Tensor


class Batch:
    """Pieces that are copied together.

    Args:
        pieces: Those of one row length side by side, and within them those of one shape.
        buffer: Where to, shared with other batches.
        results: Of all their rows.
    """

    def __init__(self, pieces: Sequence[Piece], buffer: Tensor, results: Results) -> None:
        self.members = {piece.index for piece in pieces}
        self.gathered = buffer[: sum(piece.shape.numel() for piece in pieces)]
        self.num_rows = len(results.norms)
        self._runs: list[_Run] = []
        self._groups: list[_Group] = []
        offset = 0
        for (shape, _), run in groupby(pieces, key=lambda piece: (piece.shape, piece.start > 0)):
            alike = list(run)
            together = buffer[offset : offset + len(alike) * shape.numel()]
            offset += together.numel()
            self._runs.append(
                _Run(
                    fetch=_fetcher([piece.index for piece in alike]),
                    starts=[piece.start for piece in alike] if alike[0].start else [],
                    join=torch.cat if shape else torch.stack,
                    together=together.view(-1, *shape[1:]),
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
        """Copy the pieces into the buffer; all are there where it is ``complete``."""
        for run in self._runs:
            sources = run.fetch(tensors)
            if run.starts:
                sources = [s if s is None else flat(s)[start:] for s, start in zip(sources, run.starts, strict=True)]
            if not complete:
                sources = [run.absent if source is None else source for source in sources]
            run.join(sources, out=run.together)

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
    buffer = torch.zeros(size, dtype=dtype, device="cpu")
    made, first = [], 0
    for part in parts:
        num_rows = sum(piece.num_rows for piece in part)
        made.append(Batch(part, buffer, results.part(first, first + num_rows)))
        first += num_rows
    return made


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
