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

MAX_UNITS = 128
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
    """One side of a call, input or output, as ``[num_rows, num_units]`` float32."""

    sample: Tensor

    @classmethod
    def of(cls, tensor: Tensor, *, channels_first: bool, whole_rows: bool = False) -> Side:
        """A sample of it; a copy, for what comes next may change it in place."""
        values = tensor.detach()
        if values.dim() < 2:  # noqa: PLR2004 - a vector has one unit a row
            values = values.reshape(-1, 1)
        elif channels_first and values.dim() > 2:  # noqa: PLR2004
            values = values[:: max(1, len(values) // 16)].movedim(1, -1)
        units = values.shape[-1]
        values = values.reshape(-1, units)
        stride = _stride(len(values))
        values = values[::stride][:MAX_ROWS, :: 1 if whole_rows else max(1, -(-units // MAX_UNITS))]
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
        each = self.sample.std(0, correction=0)
        return each.max() / each.median()

    def zeros(self) -> tuple[Tensor, Tensor]:
        """Share of the elements that are exactly zero, and of the units that are so for every row."""
        zero = self.sample == 0
        return zero.mean(dtype=torch.float32), zero.all(0).mean(dtype=torch.float32)

    def saturation(self, kind: str) -> tuple[Tensor, Tensor] | None:
        """Share of the elements, and of the units, at the flat ends; None for an activation that has none."""
        flat = _at_flat_ends(self.sample, kind)
        if flat is None:
            return None
        units = flat.mean(0, dtype=torch.float32) >= _ONE_HOT
        return flat.mean(dtype=torch.float32), units.mean(dtype=torch.float32)


@functools.cache
def _stride(num_rows: int) -> int:
    """Shares no factor with the number of rows: else it may hit the first time step of every sequence, and no other."""
    stride = max(1, num_rows // MAX_ROWS)
    while math.gcd(stride, num_rows) > 1:
        stride += 1
    return stride


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
        return output.amax(-1, keepdim=True) > _ONE_HOT
    return None
