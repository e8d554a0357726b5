"""L2 norms of many gradients in host memory, at memory speed and right.

torch's own float32 norm is wrong by up to 2.9 % on a long tensor of equal values, because one accumulator runs over
all of it (pytorch#151761). Here no accumulator runs over more than :data:`ROW` elements: every tensor is read as rows,
the rows' float32 norms (relative error <= 2.2e-6 in the worst case) are combined in float64.

Squares of float32 leave its range beyond 1e19 and below 1e-19. The result says where that may have happened, and only
those tensors are looked at again: scaled by an exact power of two where they are tiny, in float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import is_not

import numpy as np
import torch
from torch import Tensor

from gradwatch._rows import ROW, SMALL, Body, Piece, Results, Tensors, batches, flat, row_length
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


class SquaredNorms:
    """Squared L2 norms of tensors of fixed shapes and dtypes; owns the buffers, so one object a layout.

    Args:
        shapes: One for each tensor.
        dtypes: Likewise; real floating point.
    """

    def __init__(self, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]) -> None:
        self._num = len(shapes)
        self._banks = [
            _Bank([i for i in range(len(shapes)) if (dtypes[i] == torch.float64) == wide], shapes, accumulate)
            for wide, accumulate in ((False, torch.float32), (True, torch.float64))
            if any((dtype == torch.float64) == wide for dtype in dtypes)
        ]

    def __call__(self, tensors: Tensors, maxima: Float64Array | None = None) -> tuple[Float64Array, Int64Array]:
        """Measure.

        Args:
            tensors: Dense real tensors of the promised shapes and dtypes, None where absent.
            maxima: Takes the largest absolute values, ``[num_tensors]``; 0 where absent.

        Returns:
            Squared norms ``[num_tensors]`` float64 (0 where absent) and non-finite counts ``[num_tensors]``.
        """
        squared = np.zeros(self._num, dtype=np.float64)
        nonfinite = np.zeros(self._num, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are what we are looking for
            for bank in self._banks:
                bank.measure(tensors, squared, nonfinite, maxima)
        return squared, nonfinite


class _Bank:
    """All tensors that accumulate in one dtype."""

    def __init__(self, members: list[int], shapes: Sequence[torch.Size], accumulate: torch.dtype) -> None:
        pieces: list[Piece] = []
        bodies: list[tuple[int, int, int]] = []
        for i in members:
            numel = shapes[i].numel()
            row = row_length(numel)
            if numel <= SMALL and row:
                pieces.append(Piece(i, shapes[i], row))
            elif numel:
                row = row or ROW
                bodies.append((i, row, numel // row))
                if tail := numel % row:
                    pieces.append(Piece(i, torch.Size([tail]), tail, numel - tail))
        pieces.sort(key=lambda piece: (piece.row, piece.shape, piece.start > 0))
        row_counts = [piece.num_rows for piece in pieces] + [num_rows for _, _, num_rows in bodies]
        owners = [piece.index for piece in pieces] + [index for index, _, _ in bodies]
        self._owner = np.repeat(np.array(owners, dtype=np.int64), row_counts)
        num_rows_of = np.bincount(self._owner, minlength=len(shapes))
        self._num_copied = sum(row_counts[: len(pieces)])
        """Rows whose squared norms are measured; of the others behind them it is the norms."""
        self._tiny = _TINY_ROW * num_rows_of if accumulate is torch.float32 else np.zeros(len(shapes))
        self._results = Results.of(len(self._owner), accumulate)
        self._batches = batches(pieces, accumulate, self._results)
        self._bodies: dict[int, Body] = {}
        first = self._num_copied
        for i, row, num_rows in bodies:
            self._bodies[i] = Body(row, num_rows, self._results.part(first, first + num_rows))
            first += num_rows

    def measure(
        self, tensors: Tensors, squared: Float64Array, nonfinite: Int64Array, maxima: Float64Array | None
    ) -> None:
        """Fill in what belongs to this bank's members."""
        complete = all(map(is_not, tensors, repeat(None)))
        for batch in self._batches:
            batch.gather(tensors, complete=complete)
            batch.measure(extremes=maxima is not None)
        for i, body in self._bodies.items():
            body.measure(tensors[i], extremes=maxima is not None)
        sums = self._sums()
        squared += sums
        if maxima is not None:
            both = look(torch.maximum(self._results.high, -self._results.low))
            np.maximum.at(maxima, self._owner, both)
        if not np.isfinite(sums).all():
            self._look_again(np.flatnonzero(~np.isfinite(sums)), tensors, squared, nonfinite)
        tiny = np.flatnonzero(sums < self._tiny)
        if len(tiny):
            self._lift({i for i in tiny.tolist() if tensors[i] is not None}, tensors, squared)

    def _sums(self) -> Float64Array:
        rows = look(self._results.norms).astype(np.float64)
        np.square(rows[self._num_copied :], out=rows[self._num_copied :])
        sums: Float64Array = np.bincount(self._owner, weights=rows, minlength=len(self._tiny)).astype(np.float64)
        return sums

    def _look_again(self, doubtful: Int64Array, tensors: Tensors, squared: Float64Array, nonfinite: Int64Array) -> None:
        """A non-finite norm does not prove a non-finite gradient: count, and where there is none use float64."""
        indices = doubtful.tolist()
        counts, first = np.zeros(len(self._owner), dtype=np.int64), 0
        for batch in self._batches:
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
            nonfinite[i] = count_nonfinite(tensor) if i in self._bodies else of_small[i]
            if not nonfinite[i]:
                squared[i] = exact_squared_norm(tensor)

    def _lift(self, tiny: set[int], tensors: Tensors, squared: Float64Array) -> None:
        """Measure again, scaled by a power of two. Zero stays zero, so this also tells zero from tiny."""
        small = [i for i in tiny if i not in self._bodies]
        for batch in self._batches:
            if not batch.members.isdisjoint(small):
                batch.gather(tensors, complete=False)
                batch.scale(_UP)
                batch.measure()
        if small:
            squared[small] = self._sums()[small] / _UP**2
        for i in tiny.intersection(self._bodies):
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
