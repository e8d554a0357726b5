"""L2 norms of many gradients in host memory, at memory speed and right.

torch's own float32 norm is wrong by up to 2.9 % on a long tensor of equal values, because one accumulator runs over
all of it (pytorch#151761). Here no accumulator runs over more than :data:`ROW` elements: every tensor is read as rows,
the rows' float32 norms (relative error <= 2.2e-6 in the worst case) are combined in float64.

Squares of float32 leave its range beyond 1e19 and below 1e-19. The result says where that may have happened, and only
those tensors are looked at again: scaled by an exact power of two where they are tiny, in float64 otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from gradwatch._transfer import look
from gradwatch.records import Float64Array, Int64Array

ROW = 4096
"""Most elements that one float32 accumulator chain runs over."""

_SMALL = 16_384
"""Tensors up to this many elements are copied into one buffer: one call for all of a size instead of one a tensor."""

_TINY_ROW = 2.5e-29
"""Below this squared norm a row, squares of float32 may have been flushed to zero (4,096 x 1.2e-38 / 2e-6)."""

_UP = 2.0**96
"""Lifts 1e-38 .. 1e-14 to where squares of float32 are safe; exact, because it is a power of two."""

_CHUNK = 1 << 20
"""Elements that a second look converts to float64 at a time."""


def flat(tensor: Tensor) -> Tensor:
    """All elements in memory order, shape ``[numel]``: a view wherever the tensor is dense."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):  # noqa: PLR2004 - N, C, H, W
        return tensor.permute(0, 2, 3, 1).reshape(-1)
    return tensor.reshape(-1)


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

    def __call__(self, tensors: Sequence[Tensor | None]) -> tuple[Float64Array, Int64Array]:
        """Measure.

        Args:
            tensors: Dense real tensors of the promised shapes and dtypes, None where absent.

        Returns:
            Squared norms ``[num_tensors]`` float64 (0 where absent) and non-finite counts ``[num_tensors]``.
        """
        squared = np.zeros(self._num, dtype=np.float64)
        nonfinite = np.zeros(self._num, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are what we are looking for
            for bank in self._banks:
                bank.measure(tensors, squared, nonfinite)
        return squared, nonfinite


@dataclass(frozen=True)
class _Piece:
    """What is copied into the buffer: a whole small tensor, or what is left of a large one after its full rows."""

    index: int
    shape: torch.Size
    row: int
    start: int = 0

    def of(self, tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or not self.start else flat(tensor)[self.start :]


@dataclass(frozen=True)
class _Body:
    """The full rows of a large tensor, read where they lie; ``norms`` takes theirs, ``[num_rows]``."""

    index: int
    row: int
    norms: Tensor

    def of(self, tensor: Tensor) -> Tensor:
        num_rows = len(self.norms)
        return flat(tensor)[: num_rows * self.row].view(num_rows, self.row)


class _Bank:
    """All tensors that accumulate in one dtype."""

    def __init__(self, members: list[int], shapes: Sequence[torch.Size], accumulate: torch.dtype) -> None:
        self._accumulate = accumulate
        pieces: list[_Piece] = []
        bodies: list[tuple[int, int, int]] = []
        for i in members:
            numel = shapes[i].numel()
            row = _row_length(numel)
            if numel <= _SMALL and row:
                pieces.append(_Piece(i, shapes[i], row))
            elif numel:
                row = row or ROW
                bodies.append((i, row, numel // row))
                if tail := numel % row:
                    pieces.append(_Piece(i, torch.Size([tail]), tail, numel - tail))
        self._pieces = sorted(pieces, key=lambda piece: (piece.row, piece.shape, piece.start > 0))
        counts = [piece.shape.numel() // piece.row for piece in self._pieces]
        row_counts = counts + [num_rows for _, _, num_rows in bodies]
        owners = [piece.index for piece in self._pieces] + [index for index, _, _ in bodies]
        self._owner = np.repeat(np.array(owners, dtype=np.int64), row_counts)
        self._num_rows = np.bincount(self._owner, minlength=len(shapes))
        self._members = np.flatnonzero(self._num_rows)
        self._norms = torch.zeros(len(self._owner), dtype=accumulate, device="cpu")
        parts = self._norms.split(row_counts) if row_counts else ()
        self._bodies = [_Body(i, row, part) for (i, row, _), part in zip(bodies, parts[len(counts) :], strict=True)]
        self._large = {body.index for body in self._bodies}
        self._lay_out_buffer(counts)

    def _lay_out_buffer(self, counts: list[int]) -> None:
        sizes = [piece.shape.numel() for piece in self._pieces]
        self._buffer = torch.zeros(sum(sizes), dtype=self._accumulate, device="cpu")
        self._slots = (
            [slot.view(piece.shape) for slot, piece in zip(self._buffer.split(sizes), self._pieces, strict=True)]
            if sizes
            else []
        )
        self._runs: list[tuple[slice, Tensor | None]] = []
        """Pieces of one shape side by side, and where they go as one tensor (0-dim ones do not)."""
        self._groups: list[tuple[Tensor, Tensor]] = []
        """Rows of one length side by side ``[num_rows, row]``, and where their norms go ``[num_rows]``."""
        offset = start = first = 0
        for shape, run in groupby(piece.shape for piece in self._pieces):
            stop = start + len(list(run))
            together = self._buffer[offset : offset + (stop - start) * shape.numel()]
            self._runs.append((slice(start, stop), together.view(-1, *shape[1:]) if shape else None))
            offset, start = offset + together.numel(), stop
        offset = 0
        for row, group in groupby(zip(self._pieces, counts, strict=True), key=lambda pair: pair[0].row):
            num_rows = sum(count for _, count in group)
            rows = self._buffer[offset : offset + num_rows * row].view(num_rows, row)
            self._groups.append((rows, self._norms[first : first + num_rows]))
            offset, first = offset + num_rows * row, first + num_rows

    def measure(self, tensors: Sequence[Tensor | None], squared: Float64Array, nonfinite: Int64Array) -> None:
        """Fill in what belongs to this bank's members."""
        self._gather([piece.of(tensors[piece.index]) for piece in self._pieces])
        self._measure_groups()
        for body in self._bodies:
            if (tensor := tensors[body.index]) is None:
                body.norms.zero_()
            else:
                torch.linalg.vector_norm(body.of(tensor), 2, 1, dtype=self._accumulate, out=body.norms)
        sums = self._sums()
        squared[self._members] = sums[self._members]
        doubtful = [int(i) for i in self._members if not math.isfinite(sums[i])] if not np.isfinite(sums).all() else []
        if doubtful:
            self._look_again(doubtful, tensors, squared, nonfinite)
        if self._accumulate is torch.float32:
            tiny = self._members[sums[self._members] < _TINY_ROW * self._num_rows[self._members]]
            tiny = tiny[[tensors[i] is not None for i in tiny]]  # an absent one needs no second look
            if len(tiny):
                self._lift(tiny, tensors, squared)

    def _gather(self, sources: list[Tensor | None]) -> None:
        """Copy all pieces into the buffer, those of one shape in one call: that is four times faster for small ones."""
        for run, together in self._runs:
            present = [source for source in sources[run] if source is not None]
            slots = self._slots[run]
            if len(present) == len(slots) and together is not None:
                torch.cat(present, out=together)
                continue
            for slot, source in zip(slots, sources[run], strict=True):
                if source is None:
                    slot.zero_()
                else:
                    slot.copy_(source)

    def _measure_groups(self) -> None:
        for rows, norms in self._groups:
            torch.linalg.vector_norm(rows, 2, 1, out=norms)

    def _sums(self) -> Float64Array:
        rows = np.square(look(self._norms), dtype=np.float64)
        sums: Float64Array = np.bincount(self._owner, weights=rows, minlength=len(self._num_rows)).astype(np.float64)
        return sums

    def _look_again(
        self, doubtful: list[int], tensors: Sequence[Tensor | None], squared: Float64Array, nonfinite: Int64Array
    ) -> None:
        """A non-finite norm does not prove a non-finite gradient: count, and where there is none use float64."""
        in_buffer = np.zeros(len(self._owner), dtype=np.int64)
        first = 0
        for rows, _ in self._groups:
            in_buffer[first : first + len(rows)] = look(torch.isfinite(rows).logical_not_().sum(1))
            first += len(rows)
        counts = np.bincount(self._owner, weights=in_buffer, minlength=len(self._num_rows)).astype(np.int64)
        for i in doubtful:
            tensor = tensors[i]
            if tensor is None:
                continue
            nonfinite[i] = count_nonfinite(tensor) if i in self._large else counts[i]
            if not nonfinite[i]:
                squared[i] = exact_squared_norm(tensor)

    def _lift(self, tiny: Int64Array, tensors: Sequence[Tensor | None], squared: Float64Array) -> None:
        """Measure again, scaled by a power of two. Zero stays zero, so this also tells zero from tiny."""
        if any(int(i) not in self._large for i in tiny):
            self._buffer.mul_(_UP)
            self._measure_groups()
            squared[tiny] = self._sums()[tiny] / _UP**2
        for i in self._large.intersection(tiny.tolist()):
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


def _row_length(numel: int) -> int:
    """The longest row that divides ``numel`` and is not over :data:`ROW`; 0 where only uselessly short ones do."""
    if numel <= ROW:
        return numel
    longest = next(row for row in range(ROW, 0, -1) if numel % row == 0)
    return longest if longest >= ROW // 16 else 0
