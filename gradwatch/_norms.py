"""L2 norms of many gradients in host memory, at memory speed and right.

torch's own float32 norm is wrong by up to 2.9 % on a long tensor of equal values, because one accumulator runs over
all of it (pytorch#151761). Here no accumulator runs over more than :data:`ROW` elements: every tensor is read as rows,
the rows' float32 norms (relative error <= 2.2e-6 in the worst case) are combined in float64.

Squares of float32 leave its range beyond 1e19 and below 1e-19. The result says where that may have happened, and only
those tensors are looked at again: scaled by an exact power of two where they are tiny, in float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gradwatch._decades import extremes as extremes_of
from gradwatch._rows import ROW, SMALL, Body, Elements, Piece, Results, Tensors, batches, body_rows, flat, row_length
from gradwatch._transfer import look
from gradwatch.records import Float64Array, Int64Array

_TINY_ROW = 2.5e-29
"""Below this squared norm a row, squares of float32 may have been flushed to zero (4,096 x 1.2e-38 / 2e-6)."""

_UP = 2.0**96
"""Lifts 1e-38 .. 1e-14 to where squares of float32 are safe; exact, because it is a power of two."""

_CHUNK = 1 << 20
"""Elements that a second look converts to float64 at a time."""


def exact_squared_norm(tensor: Tensor) -> float:
    """Sum of squares in float64, whatever the dtype and range: the second look."""
    total = 0.0
    for chunk in flat(tensor).split(_CHUNK):
        total += float(look(chunk.to(torch.float64).square().sum()))
    return total


def count_nonfinite(tensor: Tensor) -> int:
    """Number of elements that are NaN or infinite."""
    return sum(int(look(torch.isfinite(chunk).logical_not_().sum())) for chunk in flat(tensor).split(_CHUNK))


class Picker(Protocol):
    """Takes a sample of what is read, while it is in the cache."""

    def from_batch(self, number: int) -> None:
        """This batch's pieces lie in its buffer."""

    def from_body(self, index: int, elements: Elements) -> None:
        """All elements of this large tensor, in memory order."""


class SquaredNorms:
    """Squared L2 norms of tensors of fixed shapes and dtypes; owns the buffers, so one object a layout.

    Args:
        shapes: One for each tensor.
        dtypes: Likewise; real floating point.
    """

    def __init__(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> None:
        self._num = len(shapes)
        self.banks = [
            Bank([i for i in range(len(shapes)) if (dtypes[i] == torch.float64) == wide], shapes, accumulate)
            for wide, accumulate in ((False, torch.float32), (True, torch.float64))
            if any((dtype == torch.float64) == wide for dtype in dtypes)
        ]

    def __call__(
        self,
        tensors: Tensors,
        maxima: Float64Array | None = None,
        *,
        complete: bool = False,
        picker: Picker | None = None,
    ) -> tuple[Float64Array, Int64Array | None]:
        """Measure.

        Args:
            tensors: Dense real tensors of the promised shapes and dtypes, None where absent.
            maxima: Takes the largest absolute values, ``[num_tensors]``; 0 where absent.
            complete: None is absent, as far as the caller knows.
            picker: Takes a sample on the way; only where there is one bank.

        Returns:
            Squared norms ``[num_tensors]`` float64 (0 where absent), and non-finite counts ``[num_tensors]``: None
            where all is finite.

        Raises:
            ValueError: A tensor has another shape than promised (also a ``RuntimeError`` of torch's own).
        """
        squared, nonfinite, _ = self.judged(tensors, maxima, complete=complete, picker=picker)
        return squared, nonfinite

    def judged(
        self,
        tensors: Tensors,
        maxima: Float64Array | None = None,
        *,
        complete: bool = False,
        picker: Picker | None = None,
    ) -> tuple[Float64Array, Int64Array | None, bool]:
        """The same, and whether it is known that none is zero, tiny or not finite.

        Raises:
            TypeError: One is absent although all were said to be ``complete``.
        """
        squared: Float64Array | None = None
        nonfinite: Int64Array | None = None
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are what we are looking for
            for bank in self.banks:
                sums, counts, sound = bank.measure(tensors, maxima, complete=complete, picker=picker)
                squared = sums if squared is None else squared + sums
                if counts is not None:
                    nonfinite = counts if nonfinite is None else nonfinite + counts
        if squared is None:
            return np.zeros(self._num, dtype=np.float64), None, False
        return squared, nonfinite, sound and len(self.banks) == 1


class Bank:
    """All tensors that accumulate in one dtype.

    Attributes:
        batches: Of the small ones, and of what is left of large ones.
        bodies: The large ones, by index.
    """

    def __init__(self, members: list[int], shapes: Sequence[torch.Size], accumulate: torch.dtype) -> None:
        pieces: list[Piece] = []
        large: list[tuple[int, int, int]] = []
        for i in members:
            numel = shapes[i].numel()
            row = row_length(numel)
            if numel <= SMALL and row:
                pieces.append(Piece(i, shapes[i], row))
            elif numel:
                row, num_rows = body_rows(numel)
                large.append((i, row, num_rows))
                if tail := numel - row * num_rows:
                    pieces.append(Piece(i, torch.Size([tail]), tail, numel - tail))
        pieces.sort(key=lambda piece: (piece.row, piece.shape, piece.start > 0))
        row_counts = [piece.num_rows for piece in pieces] + [num_rows for _, _, num_rows in large]
        owners = [piece.index for piece in pieces] + [index for index, _, _ in large]
        self._owner = np.repeat(np.array(owners, dtype=np.int64), row_counts)
        self._starts = np.cumsum([0, *row_counts[:-1]]) if len(owners) < len(self._owner) else None
        """Where the rows of each piece and body begin, where any has several."""
        self._owners = np.array(owners, dtype=np.int64)
        with_extremes = [*range(sum(row_counts[: len(pieces)])), *np.cumsum([0, *row_counts])[len(pieces) : -1]]
        self._with_extremes = np.array(with_extremes, dtype=np.int64)
        """The rows of the pieces, and the first of each body: there the extremes of all of it are."""
        num_rows_of = np.bincount(self._owner, minlength=len(shapes))
        self._tiny = _TINY_ROW * num_rows_of if accumulate is torch.float32 else np.zeros(len(shapes))
        self._sound = float(self._tiny.max(initial=0.0))
        self._results = Results.of(len(self._owner), accumulate)
        self._squares, self._high, self._low = (
            look(result) for result in (self._results.squares, self._results.high, self._results.low)
        )
        self.batches = batches(pieces, accumulate, self._results)
        self.bodies: dict[int, Body] = {}
        first = sum(row_counts[: len(pieces)])
        for i, row, num_rows in large:
            self.bodies[i] = Body(shapes[i].numel(), row, self._results.part(first, first + num_rows))
            first += num_rows

    def measure(
        self, tensors: Tensors, maxima: Float64Array | None, *, complete: bool, picker: Picker | None
    ) -> tuple[Float64Array, Int64Array | None, bool]:
        """As :meth:`SquaredNorms.judged`; 0 where it is none of this bank's members."""
        extremes = maxima is not None
        for number, batch in enumerate(self.batches):
            batch.gather(tensors, complete=complete)
            batch.measure(extremes=extremes)
            if picker is not None:
                picker.from_batch(number)
        for i, body in self.bodies.items():
            if (tensor := tensors[i]) is None and complete:
                raise TypeError("a tensor is absent")
            elements = body.measure(tensor, extremes=extremes)
            if picker is not None and elements is not None:
                picker.from_body(i, elements)
        sums, nonfinite = self._sums(), None
        if maxima is not None:
            rows = self._with_extremes
            both = np.maximum(self._high[rows], -self._low[rows])
            np.maximum.at(maxima, self._owner[rows], both.astype(np.float64))
        least, most = extremes_of(sums) if len(sums) else (0.0, 0.0)
        if 0 < least >= self._sound and most < np.inf:
            return sums, None, True  # as at nearly every step; NaN is neither
        bad, tiny = np.flatnonzero(~np.isfinite(sums)), np.flatnonzero(sums < self._tiny)
        if len(bad):
            nonfinite = np.zeros(len(sums), dtype=np.int64)
            self._look_again(bad, tensors, sums, nonfinite)
        if len(tiny):
            self._lift({i for i in tiny.tolist() if tensors[i] is not None}, tensors, sums)
        return sums, nonfinite, False

    def _sums(self) -> Float64Array:
        squares = self._squares.astype(np.float64)
        if self._starts is not None:  # many rows of one tensor: three times faster than counting each
            squares = np.add.reduceat(squares, self._starts)
        sums = np.bincount(self._owners, weights=squares, minlength=len(self._tiny))
        return sums.astype(np.float64, copy=False)  # of nothing at all it makes integers

    def _look_again(self, doubtful: Int64Array, tensors: Tensors, squared: Float64Array, nonfinite: Int64Array) -> None:
        """A non-finite norm does not prove a non-finite gradient: count, and where there is none use float64."""
        indices = doubtful.tolist()
        counts, first = np.zeros(len(self._owner), dtype=np.int64), 0
        for batch in self.batches:
            if batch.members.isdisjoint(indices):
                first += batch.num_rows
                continue
            batch.gather(tensors, complete=False)
            for group in batch.count_nonfinite():
                counts[first : first + len(group)] = look(group)
                first += len(group)
        of_small = np.bincount(self._owner, weights=counts, minlength=len(self._tiny))
        for i in indices:
            if (tensor := tensors[i]) is None:
                continue
            nonfinite[i] = count_nonfinite(tensor) if i in self.bodies else of_small[i]
            if not nonfinite[i]:
                squared[i] = exact_squared_norm(tensor)

    def _lift(self, tiny: set[int], tensors: Tensors, squared: Float64Array) -> None:
        """Measure again, scaled by a power of two. Zero stays zero, so this also tells zero from tiny."""
        small = [i for i in tiny if i not in self.bodies]
        for batch in self.batches:
            if not batch.members.isdisjoint(small):
                batch.gather(tensors, complete=False)
                batch.scale(_UP)
                batch.measure()
        if small:
            squared[small] = self._sums()[small] / _UP**2
        for i in tiny.intersection(self.bodies):
            tensor = tensors[i]
            squared[i] = 0.0 if tensor is None else _lifted_squared_norm(tensor)


def _lifted_squared_norm(tensor: Tensor) -> float:
    if not look(torch.linalg.vector_norm(tensor, 1, dtype=torch.float32)):
        return 0.0  # a sum of absolute values cannot underflow: zero is told from tiny at the price of one read
    total = 0.0
    for chunk in flat(tensor).split(_CHUNK):
        lifted = chunk.to(torch.float32) * _UP
        body = lifted[: len(lifted) // ROW * ROW].view(-1, ROW)
        norms = torch.cat(
            [
                torch.linalg.vector_norm(body, 2, 1),
                torch.linalg.vector_norm(lifted[body.numel() :]).view(1),
            ]
        )
        total += float(look(norms.to(torch.float64).square_().sum()))
    return total / _UP**2
