"""What one call of a module tells: its input and its output in a few numbers, from a sample of rows and units.

Nothing is kept but 0-dim tensors on the device of the activations, and nothing waits for it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradwatch._activation_kinds import RELUS

MAX_ROWS = 64
"""Rows of one call that are looked at."""

MAX_SAMPLES = MAX_PIXELS = 20
"""The same, where each sample is an image."""

MAX_UNITS = 64
"""Units or channels of one call that are looked at."""

FLAT = 0.025
"""An activation is saturated where its slope is below this share of its steepest: beyond 5 of a sigmoid's input, 2.5 of
a tanh's. There a signal is weakened 40-fold at least."""

MOST_PENDING = 1 << 20
"""Elements of samples that wait for their statistics: 4 MB."""

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


def sample_of(tensor: Tensor, *, channels_first: bool, whole_rows: bool = False) -> Tensor:
    """Some rows of one side of a call; a copy, for what comes next may change it in place.

    Args:
        tensor: ``[..., units]``, or ``[batch, units, ...]``.
        channels_first: Which of the two.
        whole_rows: Look at all units: a softmax's largest one may be any.

    Returns:
        ``[num_units, num_rows]`` float32; a pixel is a row, too.
    """
    values = tensor.detach()
    window = _window(values.shape, values.stride(), channels_first, whole_rows)
    if window is None:  # it lies in memory in an odd order
        values = values.contiguous()
        window = _window(values.shape, values.stride(), channels_first, whole_rows)
    assert window is not None
    values = values.as_strided(*window, values.storage_offset())
    return values.to(torch.float32, copy=True, memory_format=torch.contiguous_format).flatten(1)


_Window = tuple[tuple[int, int, int], tuple[int, int, int]]


@functools.lru_cache(maxsize=4096)
def _window(shape: torch.Size, strides: tuple[int, ...], channels_first: bool, whole_rows: bool) -> _Window | None:  # noqa: FBT001
    """Sizes and strides of a sample's units, rows and pixels in memory; None where no strides can say it."""
    rows: tuple[int, int] | None
    pixels: tuple[int, int] | None = (1, 1)
    if len(shape) > 2 and channels_first:  # noqa: PLR2004
        units, rows, pixels = (shape[1], strides[1]), (shape[0], strides[0]), _merged(shape[2:], strides[2:])
        most, length, width = MAX_SAMPLES, 1, shape[-1]
    else:
        units = (shape[-1], strides[-1]) if len(shape) > 1 else (1, 1)
        kept, most = max(1, len(shape) - 1), MAX_ROWS
        length, width = shape[-2] if kept > 1 else 1, 1
        rows = _merged(shape[:kept], strides[:kept]) if shape else (1, 1)
    if rows is None or pixels is None:
        return None
    most_units = units[0] if whole_rows else MAX_UNITS
    (a, x), (b, y) = _thinned(*units, most_units), _thinned(*rows, most, length)
    c, z = _thinned(*pixels, MAX_PIXELS, width)
    return (a, b, c), (x, y, z)


def _merged(sizes: Sequence[int], strides: Sequence[int]) -> tuple[int, int] | None:
    """Size and stride of several dimensions as one; None where memory is laid out otherwise."""
    size, stride = 1, 1
    for length, step in reversed(list(zip(sizes, strides, strict=True))):
        if length == 1:
            continue
        if size > 1 and step != size * stride:
            return None
        size, stride = size * length, step if size == 1 else stride
    return size, stride


def _thinned(size: int, stride: int, most: int, period: int = 1) -> tuple[int, int]:
    step = _stride(size, most, period)
    return -(-size // step), stride * step


@dataclass(eq=False)
class Sample:
    """A sample of one tensor, until its statistics are taken.

    Attributes:
        values: As :func:`sample_of` gives it.
        kind: The activation that gave the tensor, "" where none did.
        is_data: Whether it comes from the data.
        means: Whose means these are: row and column in the table of all calls. One call's output is another's input.
        row: The call that gave it.
    """

    values: Tensor
    kind: str = ""
    is_data: bool = False
    means: list[tuple[int, str]] = field(default_factory=list)
    row: int = -1


class Statistics:
    """Takes the statistics of many samples at once: those of one shape are one tensor."""

    def __init__(self) -> None:
        self._pending: list[Sample] = []
        self._size = 0
        self.places: list[tuple[tuple[int, str], ...]] = []
        self.values: list[Tensor] = []

    def add(self, sample: Sample) -> None:
        """Keep a sample, for a while."""
        self._pending.append(sample)
        self._size += sample.values.numel()
        if self._size > MOST_PENDING:
            self.finish()

    def finish(self) -> None:
        """Take the statistics of all that are kept, and let go of them."""
        groups: dict[object, list[Sample]] = {}
        for sample in sorted(self._pending, key=lambda sample: (sample.is_data, sample.kind)):
            groups.setdefault((sample.values.shape, sample.values.device), []).append(sample)
        self._pending, self._size = [], 0
        for samples in groups.values():
            self._describe(samples)

    def _describe(self, samples: list[Sample]) -> None:
        values = torch.stack([sample.values for sample in samples])
        flat = values.flatten(1)
        mean = flat.mean(1)
        std = (
            torch.linalg.vector_norm(flat - mean[:, None], dim=1) * flat.shape[1] ** -0.5
        )  # a third of std_mean's time
        for name, column in (("mean", mean), ("std", std)):
            cells = [tuple((row, f"{side}_{name}") for row, side in sample.means) for sample in samples]
            self._put(cells, column)
        start = 0
        for (is_data, kind), alike in itertools.groupby(samples, key=lambda sample: (sample.is_data, sample.kind)):
            rows = [sample.row for sample in alike]
            for name, column in _more_of(values[start : start + len(rows)], kind, is_data=is_data).items():
                self._put([((row, name),) for row in rows], column)
            start += len(rows)

    def _put(self, cells: Iterable[tuple[tuple[int, str], ...]], values: Tensor) -> None:
        self.places += cells
        self.values.append(values)


def _more_of(values: Tensor, kind: str, *, is_data: bool) -> dict[str, Tensor]:
    """What only data or an activation of this kind tells, ``[num_samples]`` for each column."""
    if is_data:
        each = torch.linalg.vector_norm(values - values.mean(2, keepdim=True), dim=2)
        return {"in_max": values.abs().amax((1, 2)), "in_spread": each.amax(1) / each.median(1).values}
    if kind in RELUS:
        active = values.sign().mean(2)  # much faster than to count zeros
        return {"zero_share": 1 - active.mean(1), "dead_share": (active == 0).mean(1, dtype=torch.float32)}
    if (flat_ends := _at_flat_ends(values, kind)) is not None:
        share = flat_ends.mean(2, dtype=torch.float32)
        sure = (share >= _ONE_HOT).mean(1, dtype=torch.float32)
        return {"saturated_share": share.mean(1), "saturated_units": sure}
    return {}


@functools.lru_cache(maxsize=4096)
def _stride(count: int, most: int, period: int = 1) -> int:
    """Which of the rows (units, pixels) to look at: every so many-th.

    Args:
        count: How many there are.
        most: How many may be looked at.
        period: They are the time steps of sequences, or the lines of an image, one after the other, of this length. A
            stride near a multiple of it would look at the first time steps, or at the left edge, and nowhere else.

    Returns:
        One whose steps leave the smallest gap within the period, and that shares no factor with the count.
    """
    if count <= 1.5 * most:
        return 1
    least = -(-count // most)
    tries = [least + i * max(1, least // 24) for i in range(min(16, least // 2 + 2))]
    while not any(math.gcd(stride, count) == 1 for stride in tries):
        tries.append(tries[-1] + 1)
    fitting = [stride for stride in tries if math.gcd(stride, count) == 1]
    return min(fitting, key=lambda stride: _largest_gap(count, stride, period))


def _largest_gap(count: int, stride: int, period: int) -> int:
    """Between the places within a period that these steps come to."""
    places = sorted({row % period for row in range(0, count, stride)})
    return max(later - place for place, later in itertools.pairwise([*places, places[0] + period]))


def _at_flat_ends(output: Tensor, kind: str) -> Tensor | None:
    """Where the activation that gave these outputs is flat; None for one that has no flat ends."""
    is_flat = _FLAT.get(kind)
    return None if is_flat is None else is_flat(output)


_ROUNDING = 1e-6

_FLAT: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Sigmoid": lambda output: output * (1 - output) < FLAT / 4,
    "Hardsigmoid": lambda output: output * (1 - output) < _ROUNDING,
    "Gate": lambda output: output < FLAT / 4,  # one that is open is no fault
    "Tanh": lambda output: 1 - output.square() < FLAT,
    "RNN": lambda output: 1 - output.square() < FLAT,
    "Hardtanh": lambda output: output.abs() >= 1,
    "Softsign": lambda output: (1 - output.abs()).square() < FLAT,
    "Softmax": lambda output: output.amax(1, keepdim=True) > _ONE_HOT,
}
"""From an output to where its slope is next to nothing."""
