"""A sample of each of many parameters in host memory, without a call for each small one.

Small tensors are copied side by side into a buffer that stays in the cache, and one call picks from all of it: fetching
single elements from main memory costs more than reading all of a small tensor in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from gradwatch._rows import SMALL, Batch, Piece, Results, batches, flat


class HostSampler:
    """Samples of float32 tensors, those of one size side by side, so that their norms are one call.

    Args:
        parameters: ``[num_params]``.
        picks: Which elements of each; None for all of them.
    """

    def __init__(self, parameters: Sequence[Tensor], picks: Sequence[Tensor | None]) -> None:
        self._num = len(parameters)
        sizes = [p.numel() if pick is None else len(pick) for p, pick in zip(parameters, picks, strict=True)]
        small = [i for i, p in enumerate(parameters) if 0 < p.numel() <= SMALL]
        small.sort(key=lambda i: (sizes[i], parameters[i].shape))
        large = sorted((i for i, p in enumerate(parameters) if p.numel() > SMALL), key=lambda i: sizes[i])
        pieces = [Piece(i, parameters[i].shape, parameters[i].numel()) for i in small]
        self._batches: list[tuple[Batch, Tensor]] = []
        made = batches(pieces, torch.float32, Results.of(len(pieces), torch.float32))
        first = 0
        for batch in made:
            members = pieces[first : first + batch.num_rows]
            first += batch.num_rows
            self._batches.append((batch, _places(members, picks)))
        self._large = [(i, pick) for i in large if (pick := picks[i]) is not None]
        self._whole = [i for i in large if picks[i] is None]
        order = [*small, *(i for i, _ in self._large), *self._whole]
        self._order = torch.tensor(order, dtype=torch.int64, device="cpu")
        self._groups = [(size, len(list(group))) for size, group in groupby(sizes[i] for i in order)]
        self._size = sum(sizes)

    def take(self, parameters: Sequence[Tensor]) -> Tensor:
        """A copy of all sampled elements, ``[num_sampled]``."""
        sample = torch.empty(self._size, dtype=torch.float32, device="cpu")
        parts = [len(places) for _, places in self._batches] + [len(pick) for _, pick in self._large]
        slots = iter(sample.split([*parts, *(parameters[i].numel() for i in self._whole)]))
        for batch, places in self._batches:
            batch.gather(parameters)
            torch.index_select(batch.gathered, 0, places, out=next(slots))
        for i, pick in self._large:
            parameter = parameters[i]
            if parameter.is_contiguous():
                torch.index_select(parameter.view(-1), 0, pick, out=next(slots))
            else:  # in whatever order it lies, it is not copied
                torch.take(parameter, pick, out=next(slots))
        for i in self._whole:
            next(slots).copy_(flat(parameters[i]))
        return sample

    def norms(self, sample: Tensor) -> Tensor:
        """L2 norm of each parameter's part of a sample, ``[num_params]`` float64."""
        norms = [
            torch.linalg.vector_norm(part.view(count, size), 2, 1)
            for (size, count), part in zip(
                self._groups, sample.split([size * count for size, count in self._groups]), strict=True
            )
        ]
        result = torch.zeros(self._num, dtype=torch.float64, device="cpu")
        if norms:
            result[self._order] = torch.cat(norms).to(torch.float64)
        return result


def _places(pieces: Sequence[Piece], picks: Sequence[Tensor | None]) -> Tensor:
    """Where in the buffer the picked elements of these pieces lie."""
    places, offset = [], 0
    for piece in pieces:
        pick = picks[piece.index]
        places.append((torch.arange(piece.row, device="cpu") if pick is None else pick) + offset)
        offset += piece.row
    return torch.cat(places)
