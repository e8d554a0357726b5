"""What one call of a module tells: its input and its output in a few numbers, from a sample of rows and units.

Nothing is kept but 0-dim tensors on the device of the activations, and nothing waits for it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ROWS = 64
"""Samples (and positions) of one call that are looked at."""

MAX_UNITS = 64
"""Units or channels of one call that are looked at."""

FLAT = 0.025
"""An activation is saturated where its slope is below this share of its steepest: beyond 5 of a sigmoid's input, 2.5 of
a tanh's. There a signal is weakened 40-fold at least."""

_ONE_HOT = 0.99
"""The largest probability of a softmax from which on it passes on next to nothing."""

KIND_OF_OPERATION = {
    "ReluBackward0": "ReLU",
    "ThresholdBackward0": "ReLU",
    "SigmoidBackward0": "Sigmoid",
    "TanhBackward0": "Tanh",
    "HardtanhBackward0": "Hardtanh",
    "HardsigmoidBackward0": "Hardsigmoid",
    "SoftmaxBackward0": "Softmax",
    "GeluBackward0": "GELU",
    "SiluBackward0": "SiLU",
    "EluBackward0": "ELU",
    "LeakyReluBackward0": "LeakyReLU",
}
"""What autograd calls an activation, and what people do: also where no module stands for it."""


@dataclass(frozen=True)
class Side:
    """One side of a call, input or output, as ``[num_samples, num_units, num_positions]`` float32."""

    sample: Tensor

    @classmethod
    def of(cls, tensor: Tensor, *, channels_first: bool, whole_rows: bool = False) -> Side:
        """A sample of it; a copy, for what comes next may change it in place.

        Args:
            tensor: ``[..., units]``, or ``[batch, units, ...]``.
            channels_first: Which of the two.
            whole_rows: Look at all units: a softmax's largest one may be any.
        """
        values = tensor.detach()
        if values.dim() > 2 and channels_first:  # noqa: PLR2004
            values = values.flatten(2)
            values = values[:: _stride(len(values), MAX_ROWS // 4), :, :: _stride(values.shape[2], MAX_ROWS // 4)]
        else:
            units = values.shape[-1] if values.dim() > 1 else 1
            values = values.reshape(-1, units, 1)
            values = values[:: _stride(len(values), MAX_ROWS)]
        if not whole_rows and values.shape[1] > MAX_UNITS:
            values = values[:, :: _stride(values.shape[1], MAX_UNITS)]
        return cls(values.to(torch.float32, copy=True))

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Over all elements."""
        std, mean = torch.std_mean(self.sample, correction=0)
        return mean, std

    def largest(self) -> Tensor:
        """The largest absolute value."""
        low, high = torch.aminmax(self.sample)
        return torch.maximum(-low, high)

    def spread(self) -> Tensor:
        """Largest over median standard deviation of the units."""
        each = self.sample.std((0, 2), correction=0)
        return each.max() / each.median()

    def zeros(self) -> tuple[Tensor, Tensor]:
        """Share of the elements that are exactly zero, and of the units that are so for every row."""
        share = (self.sample == 0).mean((0, 2), dtype=torch.float32)
        return share.mean(), (share == 1).mean(dtype=torch.float32)

    def saturation(self, kind: str) -> tuple[Tensor, Tensor] | None:
        """Share of the elements, and of the units, at the flat ends; None for an activation that has none."""
        flat = _at_flat_ends(self.sample, kind)
        if flat is None:
            return None
        share = flat.mean((0, 2), dtype=torch.float32)
        return share.mean(), (share >= _ONE_HOT).mean(dtype=torch.float32)


@functools.cache
def _stride(count: int, most: int) -> int:
    """Shares no factor with the number of rows: else it may hit the first time step of every sequence, and no other."""
    stride = -(-count // most)
    while math.gcd(stride, count) > 1:
        stride += 1
    return max(1, stride)


def _at_flat_ends(output: Tensor, kind: str) -> Tensor | None:
    """Where the activation that gave this output is flat."""
    if kind in ("Sigmoid", "Hardsigmoid"):
        return output * (1 - output) < (FLAT / 4 if kind == "Sigmoid" else 1e-6)
    if kind in ("Tanh", "RNN"):
        return 1 - output.square() < FLAT
    if kind == "Hardtanh":
        return output.abs() >= 1
    if kind == "Softsign":
        return (1 - output.abs()).square() < FLAT
    if kind == "Softmax":
        return output.amax(1, keepdim=True) > _ONE_HOT
    return None
