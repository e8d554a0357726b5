"""Which few samples of a recurrent call are looked at, and where they lie in what it is given and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradwatch._transfer import look

MAX_SAMPLES = 8
"""Of the batch; fewer where one is very large."""

_MAX_ELEMENTS = 1 << 22
"""Of one call's inputs and outputs."""


@dataclass(frozen=True, eq=False)
class SequenceSample:
    """Where the first few samples lie in what a call is given and gives.

    Attributes:
        steps: Number of time steps.
        count: Number of samples.
        dtype: In which everything is kept: float32 or wider.
        time_dim: Dimension of the time steps, -1 in a packed sequence.
        batched: Whether there is a dimension for the samples.
        rows: In a packed sequence the row of each step and sample, ``[steps * count]``.
        valid: Where there is one, ``[steps, count, 1]``.
        turn: The step with which each changes places for the backward direction, ``[steps, count, 1]``.
        ends: The last step of each sample, ``[1, count, 1]``.
        order: Which samples of the batch they are, as the states have them, ``[count]``.
    """

    steps: int
    count: int
    dtype: torch.dtype
    time_dim: int = 0
    batched: bool = True
    rows: Tensor | None = None
    valid: Tensor | None = None
    turn: Tensor | None = None
    ends: Tensor | None = None
    order: Tensor | None = None

    @classmethod
    def of(cls, module: nn.RNNBase, given: Tensor | PackedSequence, output: Tensor) -> SequenceSample:
        """Choose them; the lengths of a packed sequence lie in host memory."""
        dtype = torch.float64 if output.dtype == torch.float64 else torch.float32
        width = output.shape[-1] + module.input_size
        if isinstance(given, PackedSequence):
            return cls._packed(given, width, dtype)
        batched = given.dim() > 2  # noqa: PLR2004 - [time, features] has no batch
        time_dim = 1 if batched and module.batch_first else 0
        steps, num_samples = given.shape[time_dim], given.shape[1 - time_dim] if batched else 1
        return cls(steps, _affordable(num_samples, steps * width), dtype, time_dim, batched)

    @classmethod
    def _packed(cls, given: PackedSequence, width: int, dtype: torch.dtype) -> SequenceSample:
        sizes, device = look(given.batch_sizes), given.data.device
        steps, count = len(sizes), _affordable(int(sizes[0]), len(sizes) * width)
        offset, sample = (np.cumsum(sizes) - sizes)[:, None], np.arange(count)
        valid = sample < sizes[:, None]
        lengths = valid.sum(0)
        turn = np.maximum(lengths - 1 - np.arange(steps)[:, None], 0)
        rows = offset + np.minimum(sample, sizes[:, None] - 1)

        def there(array: np.ndarray[Any, Any]) -> Tensor:
            return torch.as_tensor(array).to(device, non_blocking=True)

        return cls(
            steps,
            count,
            dtype,
            -1,
            rows=there(rows.reshape(-1)),
            valid=there(valid[..., None]),
            turn=there(turn[..., None]),
            ends=there((lengths - 1)[None, :, None]),
            order=None if given.sorted_indices is None else given.sorted_indices[:count],
        )

    def sequence(self, tensor: Tensor) -> Tensor:
        """A copy of their part, ``[steps, count, features]``."""
        if self.rows is not None and self.valid is not None:
            kept = tensor.detach().index_select(0, self.rows).unflatten(0, (self.steps, self.count))
            return torch.where(self.valid, kept, torch.zeros_like(kept)).to(self.dtype)
        kept = tensor.detach() if self.batched else tensor.detach().unsqueeze(1)
        kept = kept.transpose(0, 1) if self.time_dim == 1 else kept
        return kept[:, : self.count].to(self.dtype, copy=True)

    def state(self, tensor: Tensor) -> Tensor:
        """A copy of their part of a state, ``[layers * directions, count, size]``."""
        kept = tensor.detach() if self.batched else tensor.detach().unsqueeze(1)
        kept = kept[:, : self.count] if self.order is None else kept.index_select(1, self.order)
        return kept.to(self.dtype, copy=True)

    def turned(self, tensor: Tensor) -> Tensor:
        """``[steps, count, features]`` in the order in which the backward direction reads it, and back again."""
        if self.turn is None or self.valid is None:
            return tensor.flip(0)
        return torch.where(self.valid, tensor.gather(0, self.turn.expand(-1, -1, tensor.shape[-1])), 0)

    def at_end(self, tensor: Tensor) -> Tensor:
        """``[count, size]`` at the last step of each sample, zero elsewhere."""
        placed = tensor.new_zeros(self.steps, *tensor.shape)
        if self.ends is None:
            placed[-1] = tensor
            return placed
        return placed.scatter(0, self.ends.expand(1, *tensor.shape), tensor.unsqueeze(0))


def _affordable(num_samples: int, size: int) -> int:
    return min(num_samples, MAX_SAMPLES, max(1, _MAX_ELEMENTS // max(1, size)))
