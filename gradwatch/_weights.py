"""The weight matrices of a step: how large they are, and how much an update changes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwatch._decades import extremes, median
from gradwatch._memory import PerLayers
from gradwatch.records import Float64Array, Layer, StepRecord

REPLACED = 1.0
"""Update over weight: from here on a step does not improve the weights, it replaces them."""

BOLD = 0.1
"""Update over weight: ten such steps forget what was there before. A small net's first steps may be as large."""

LARGE = 2.0
"""Weight scale: a signal that doubles at every layer is the weights' doing, whatever the learning rate."""

LR_CAN_HELP = 10.0
"""Update over weight; beyond, no less than a ten-thousandth of the learning rate would be right: that is no mistyped
rate, but gradients out of all proportion to the weights."""

_RECURRENT_GATES = {"RNN": 1, "RNNCell": 1, "LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}


@dataclass
class WeightScale:
    """How large the weight matrices are, as last measured: diagnosis asks for it at steps that measure no weights.

    Attributes:
        median: Of norm / (norm at a variance of 2 / fan_in), which keeps a signal as strong as it is through ReLUs (He
            et al., 2015); torch's own default is 0.4. NaN where it was never measured.
        smallest: The matrix with the smallest one.
        largest: The matrix with the largest one.
        least: Of the smallest one.
    """

    median: float = math.nan
    smallest: str = ""
    largest: str = ""
    least: float = math.nan

    def evidence(self) -> dict[str, Any]:
        """Its part of an incident's evidence."""
        if math.isnan(self.median):
            return {}
        names = {"smallest_weight": self.smallest, "largest_weight": self.largest}
        return {"weight_scale": self.median, "least_scale": self.least, **names}


class Weights:
    """The weight matrices of each step, measured once for all detectors that share it."""

    def __init__(self) -> None:
        self._matrices = PerLayers(_Matrices)
        self._record: StepRecord | None = None
        self._scale: WeightScale | None = None
        self._updated: StepRecord | None = None
        self._ratio: Float64Array
        self._typical: float | None = None
        self._largest = self._smallest = math.nan

    def scale(self, record: StepRecord) -> WeightScale | None:
        """The size of the weights; None where the step measured none."""
        if record is not self._record:
            norm = record.weight_norm
            self._scale = None if norm is None else self._matrices.of(record).scale(norm)
            self._record = record
        return self._scale

    def update_ratio(self, record: StepRecord) -> Float64Array | None:
        """Update over weight of every matrix, ``[num_params]``: NaN where it means nothing; None without any."""
        if record.update_ratio is None:
            return None
        if record is not self._updated:
            matrices = self._matrices.of(record)
            self._ratio = matrices.update_ratio(record.update_ratio, record.weight_norm)
            self._typical = matrices.typical(self._ratio, record.weight_norm)
            self._largest = float(np.fmax.reduce(self._ratio, initial=math.nan))
            self._smallest = float(np.fmin.reduce(self._ratio, initial=math.nan))
            self._updated = record
        return self._ratio

    def typical_update(self, record: StepRecord, before: float) -> float:
        """Median update over weight of the matrices; ``before`` where the step measured none.

        A matrix below the size of torch's own default counts as one of that size: a small one is replaced by its first
        updates, as it should be.
        """
        if record.update_ratio is None:
            return before
        self.update_ratio(record)
        return before if self._typical is None else self._typical

    def largest_update(self, record: StepRecord) -> float:
        """Largest update over weight of a matrix; NaN where the step measured none."""
        return math.nan if self.update_ratio(record) is None else self._largest

    def smallest_update(self, record: StepRecord) -> float:
        """Smallest update over weight of a matrix; NaN where the step measured none."""
        return math.nan if self.update_ratio(record) is None else self._smallest

    def blames_rate(self, record: StepRecord) -> bool:
        """Whether too large an update is the learning rate's doing, for weights and gradients are sound.

        Weights that are much too large let every signal grow, and gradients of such a net are too large for any rate.
        An optimizer that divides by the gradient's size (Adam, sign descent) moves every element by about the learning
        rate: then it is that, whatever the gradients are.
        """
        scale = self.scale(record)
        if record.update_ratio is None or (scale is not None and scale.median > LARGE):
            return False
        return self._matrices.of(record).blames_rate(record)

    def num_matrices(self, record: StepRecord) -> int:
        """How many weight matrices there are, empty ones among them."""
        return self._matrices.of(record).count

    def is_fresh(self, record: StepRecord) -> bool:
        """Whether the weight matrices look as commonly initialised, so that nothing can have been learnt yet."""
        return record.weight_norm is not None and self._matrices.of(record).are_fresh(record.weight_norm)

    def divisor(self, record: StepRecord) -> float | None:
        """By what the optimizer divides every gradient, if it is about the same for all matrices; None otherwise.

        1 for plain SGD; for Adam with an eps that drowns the gradients it is that eps.
        """
        return self._matrices.of(record).divisor(record)


def looks_untrained(layers: tuple[Layer, ...], weight_norm: Float64Array) -> bool:
    """Whether these parameters have the size that a common initialisation gives: vectors all zeros or all ones."""
    if len(layers) == 0:
        return False
    if any(len(layer.shape) > 1 for layer in layers):
        return _Matrices(layers).are_fresh(weight_norm)
    ones = np.sqrt([layer.numel for layer in layers])
    return bool(np.all((weight_norm == 0) | (np.abs(weight_norm - ones) < 1e-6 * ones)))


def bias_size(record: StepRecord, module: str) -> float:
    """Of one module, its bias over what its weights add to it from inputs of about 1; NaN where that is not known.

    Args:
        record: A step that measured the weights.
        module: A module with one weight matrix and one vector.
    """
    if record.weight_norm is None:
        return math.nan
    own = [index for index, layer in enumerate(record.layers) if layer.module == module]
    shapes = [record.layers[index].shape for index in own]
    if sorted(len(shape) > 1 for shape in shapes) != [False, True]:
        return math.nan
    size = {
        len(shape) > 1: record.weight_norm[index] / math.sqrt(shape[0])
        for index, shape in zip(own, shapes, strict=True)
    }
    return float(size[False] / size[True]) if size[True] > 0 else math.nan


class _Matrices:
    """Which parameters are weight matrices, and how large they would be as commonly initialised.

    Attributes:
        layers: The layers that all this is about.
        matrix: Which of them are weight matrices, ``[num_params]``.
        count: How many have the shape of one, empty or not.
        common_norm: The norm of a matrix whose weights have a variance of 1 / fan_in, ``[num_params]``.
    """

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        self.matrix = np.array([len(layer.shape) > 1 and layer.numel > 0 for layer in layers], dtype=bool)
        self.common_norm = np.sqrt([layer.shape[0] if layer.shape else 1 for layer in layers])
        self.count = sum(len(layer.shape) > 1 for layer in layers)
        self._numel = np.array([layer.numel for layer in layers], dtype=np.float64)
        self._indices = np.nonzero(self.matrix)[0]
        self._named = np.array(["weight" in layer.name.rpartition(".")[2] for layer in layers], dtype=bool)
        """Weights of layers, as torch names them: a class token, or a table of places, is made as its author likes."""
        self._sound_norm = self.common_norm[self._indices] * math.sqrt(2)
        self._tiny_norm = 0.01 * self.common_norm
        self._default_norm = np.where(self.matrix, self.common_norm / math.sqrt(3), 1.0)

    def scale(self, weight_norm: Float64Array) -> WeightScale:
        """How large the weight matrices are against a common initialisation."""
        indices, scale = self._indices, weight_norm.take(self._indices)
        scale /= self._sound_norm
        if len(indices) and not all(map(math.isfinite, extremes(scale))):
            known = np.isfinite(scale)
            indices, scale = indices[known], scale[known]
        if len(indices) == 0:
            return WeightScale()
        least, most = scale.argmin(), scale.argmax()
        smallest, largest = (self.layers[int(indices[index])].name for index in (least, most))
        return WeightScale(median(scale), smallest, largest, float(scale[least]))

    def update_ratio(self, update_ratio: Float64Array, weight_norm: Float64Array | None) -> Float64Array:
        """Update over weight of every matrix; NaN where there is none or where it means nothing.

        A matrix initialised to (nearly) zero is replaced by its first updates, as it should be: at a hundredth of the
        size that weights with a variance of 1 / fan_in have, the ratio means nothing.
        """
        started = self.matrix if weight_norm is None else self.matrix & (weight_norm > self._tiny_norm)
        return update_ratio if np.count_nonzero(started) == len(started) else np.where(started, update_ratio, math.nan)

    def typical(self, ratio: Float64Array, weight_norm: Float64Array | None) -> float | None:
        """Median of update over weight, or over torch's default size where that is larger; None without any."""
        if weight_norm is not None:
            size = weight_norm / self._default_norm
            ratio = ratio * np.minimum(size, 1.0, out=size)
        unknown = np.isnan(ratio)
        measured = ratio[~unknown] if np.count_nonzero(unknown) else ratio
        return median(measured) if len(measured) else None

    def blames_rate(self, record: StepRecord) -> bool:
        """Whether the updates are within what a learning rate can mend, or of its own size."""
        ratio = record.update_ratio
        chosen = self.matrix if ratio is None else self.matrix & np.isfinite(ratio)
        if ratio is None or not chosen.any():
            return False
        if median(ratio[chosen]) <= LR_CAN_HELP:
            return True
        if record.weight_norm is None:
            return False
        each = ratio[chosen] * record.weight_norm[chosen] / np.sqrt(self._numel[chosen])
        return bool(record.lr / 3 <= np.median(each) <= record.lr * 12)  # RMSprop's first steps are ten times as large

    def are_fresh(self, weight_norm: Float64Array) -> bool:
        """Whether one of the common laws gives nearly every matrix the size that it has.

        torch's own default, Kaiming, Xavier, and a standard deviation of 0.02; each within what chance allows for so
        many random numbers. Training moves every matrix away from it, each one differently.
        """
        known = self.matrix & np.isfinite(weight_norm)
        chosen = np.nonzero(known & self._named)[0]
        chosen = chosen if len(chosen) else np.nonzero(known)[0]
        if len(chosen) == 0:
            return False
        variance = weight_norm[chosen] ** 2 / self._numel[chosen]
        laws = np.array([_common_variances(self.layers[int(index)]) for index in chosen])
        tolerance = 3 * np.sqrt(2 / self._numel[chosen]) + 0.005
        fits = np.abs(variance[:, None] / laws - 1) <= tolerance[:, None]
        return bool(fits.mean(axis=0).max() >= 0.9)  # noqa: PLR2004 - a head or a table may have a law of its own

    def divisor(self, record: StepRecord) -> float | None:
        """Learning rate times gradient over the update of every matrix: its median, if they agree within a decade."""
        if record.update_ratio is None or record.weight_norm is None or not record.total_norm > 0:
            return None
        moved = record.update_ratio * record.weight_norm
        given = record.lr * record.grad_norm * (record.clipped_norm / record.total_norm)
        chosen = self.matrix & (moved > 0) & (given > 0) & np.isfinite(moved)
        if not chosen.any():
            return None
        each = np.log10(given[chosen] / moved[chosen])
        low, middle, high = np.percentile(each, (10, 50, 90))
        return float(10**middle) if high - low < 1 else None


def _common_variances(layer: Layer) -> tuple[float, ...]:
    """The variance that each common law gives to this matrix.

    torch's default; Kaiming, by fan-in and by fan-out; Xavier; a fixed 0.02; LeCun; orthogonal.
    """
    rows = layer.shape[0]
    fan_in = layer.numel / rows
    fan_out = rows * math.prod(layer.shape[2:])
    gates = _RECURRENT_GATES.get(layer.module_type)
    default = 1 / (3 * fan_in) if gates is None else gates / (3 * rows)
    if layer.module_type.startswith("Embedding"):
        default = 1.0
    if layer.module_type == "MultiheadAttention" and not layer.name.endswith("out_proj.weight"):
        default = 2 / (fan_in + fan_out)
    orthogonal = 1 / max(rows, fan_in)
    return default, 2 / fan_in, 2 / fan_out, 2 / (fan_in + fan_out), 0.02**2, 1 / fan_in, orthogonal
