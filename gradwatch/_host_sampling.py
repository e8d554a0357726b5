"""A sample of each of many parameters in host memory, taken while their norms are measured: they are read once.

Fetching single elements from main memory costs more than reading all of a small tensor in order; what has just been
read for its norm lies in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch._norms import SquaredNorms
from gradwatch._rows import Batch, Elements, dot, in_memory_order
from gradwatch._transfer import as_array, look
from gradwatch.records import Float64Array, Int64Array

_Places = NDArray[np.intp]


class HostSampler:
    """Samples of float32 tensors, those of one size side by side, so that their norms are one call.

    Args:
        parameters: ``[num_params]``.
        picks: Which elements of each; None for all of them.
    """

    def __init__(self, parameters: Sequence[Tensor], picks: Sequence[Tensor | None]) -> None:
        self._num = len(parameters)
        self._norms = SquaredNorms([p.shape for p in parameters], [torch.float32] * len(parameters))
        self._batches: list[tuple[Batch, Elements, _Places, slice]] = []
        self._bodies: dict[int, tuple[_Places, slice]] = {}
        order: list[int] = []
        sizes: list[int] = []
        offset = 0
        for bank in self._norms.banks:  # there is one, or none for no parameters
            for batch in bank.batches:
                members, places = _places(batch, picks)
                order += members
                sizes += [len(part) for part in places]
                joined = np.concatenate(places) if places else np.empty(0, dtype=np.intp)
                self._batches.append((batch, look(batch.gathered), joined, slice(offset, offset + len(joined))))
                offset += len(joined)
            for i in bank.bodies:
                given = picks[i]
                pick: _Places = np.arange(parameters[i].numel()) if given is None else look(given)
                order.append(i)
                sizes.append(len(pick))
                self._bodies[i] = pick, slice(offset, offset + len(pick))
                offset += len(pick)
        self._size = offset
        self._order = np.array(order, dtype=np.intp)
        self._groups = [(size, len(list(group))) for size, group in groupby(sizes)]
        self._after = np.empty(offset, dtype=np.float32)

    def measure(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L2 norms ``[num_params]`` float64, and a copy of all sampled elements ``[num_sampled]``."""
        picker = _Picker(self, np.empty(self._size, dtype=np.float32))
        squared, _ = self._norms(parameters, complete=True, picker=picker)
        return torch.from_numpy(np.sqrt(squared)), torch.from_numpy(picker.sample)

    def take(self, parameters: Sequence[Tensor]) -> Tensor:
        """A copy of all sampled elements, ``[num_sampled]``."""
        sample = np.empty(self._size, dtype=np.float32)
        self._take(parameters, sample)
        return torch.from_numpy(sample)

    def update_ratio(self, before: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """``norm(after - before) / norm(before)`` of each parameter's part of a sample, ``[num_params]`` float64."""
        earlier, after = look(before), self._after
        self._take(parameters, after)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a run may go on with NaN
            np.subtract(after, earlier, out=after)
            return torch.from_numpy(np.sqrt(self._squares(after) / self._squares(earlier)))

    def _take(self, parameters: Sequence[Tensor], sample: Elements) -> None:
        for number, (batch, _, _, _) in enumerate(self._batches):
            batch.gather(parameters)
            self._from_batch(number, sample)
        for i, (pick, part) in self._bodies.items():
            if (parameter := parameters[i]).is_contiguous():
                self._from_body(i, as_array(parameter), sample)
            else:  # in whatever order it lies, it is not copied
                torch.take(in_memory_order(parameter), torch.from_numpy(pick), out=torch.from_numpy(sample[part]))

    def _from_batch(self, number: int, sample: Elements) -> None:
        _, gathered, places, part = self._batches[number]
        gathered.take(places, out=sample[part], mode="clip")  # all lie within: but "raise" would copy first

    def _from_body(self, index: int, elements: Elements, sample: Elements) -> None:
        pick, part = self._bodies[index]
        elements.reshape(-1).take(pick, out=sample[part], mode="clip")

    def _squares(self, sample: Elements) -> Float64Array:
        """Squared L2 norm of each parameter's part, ``[num_params]``; 0 where it is empty."""
        found = np.empty(len(self._order), dtype=np.float32)
        start = first = 0
        for size, count in self._groups:
            rows = sample[start : start + size * count].reshape(count, size)
            dot(rows, rows, found[first : first + count])
            start, first = start + size * count, first + count
        squares: Float64Array = np.zeros(self._num, dtype=np.float64)
        squares[self._order] = found
        return squares


class _Picker:
    """Fills a sample while the norms are measured (:class:`gradwatch._norms.Picker`)."""

    def __init__(self, sampler: HostSampler, sample: Elements) -> None:
        self.sample = sample
        self._sampler = sampler

    def from_batch(self, number: int) -> None:
        self._sampler._from_batch(number, self.sample)  # noqa: SLF001 - a part of it

    def from_body(self, index: int, elements: Elements) -> None:
        self._sampler._from_body(index, elements, self.sample)  # noqa: SLF001


def _places(batch: Batch, picks: Sequence[Tensor | None]) -> tuple[list[int], list[Int64Array]]:
    """Of each small tensor in a batch its index, and where in the buffer its picked elements lie."""
    members, places, offset = [], [], 0
    for piece in batch.pieces:
        numel = piece.shape.numel()
        if not piece.start:  # what is left of a large tensor is sampled with the rest of it
            pick = picks[piece.index]
            members.append(piece.index)
            places.append((np.arange(numel) if pick is None else look(pick)) + offset)
        offset += numel
    return members, places
