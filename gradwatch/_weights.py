"""The weight matrices of a step: how large they are, and how much an update changes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwatch._memory import PerLayers
from gradwatch.records import Float64Array, Layer, StepRecord


@dataclass
class WeightScale:
    """How large the weight matrices are, as last measured: diagnosis asks for it at steps that measure no weights.

    Attributes:
        median: Of norm / (norm at a variance of 2 / fan_in), which keeps a signal as strong as it is through ReLUs (He
            et al., 2015); torch's own default is 0.4. NaN where it was never measured.
        smallest: The matrix with the smallest one.
        largest: The matrix with the largest one.
    """

    median: float = math.nan
    smallest: str = ""
    largest: str = ""

    def evidence(self) -> dict[str, Any]:
        """Its part of an incident's evidence."""
        if math.isnan(self.median):
            return {}
        return {"weight_scale": self.median, "smallest_weight": self.smallest, "largest_weight": self.largest}


class Weights:
    """The weight matrices of each step, measured once for all detectors that share it."""

    def __init__(self) -> None:
        self._matrices = PerLayers(_Matrices)
        self._record: StepRecord | None = None
        self._scale: WeightScale | None = None

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
        return self._matrices.of(record).update_ratio(record.update_ratio, record.weight_norm)


class _Matrices:
    """Which parameters are weight matrices, and how large they would be as commonly initialised.

    Attributes:
        layers: The layers that all this is about.
        matrix: Which of them are weight matrices, ``[num_params]``.
        common_norm: The norm of a matrix whose weights have a variance of 1 / fan_in, ``[num_params]``.
    """

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        self.matrix = np.array([len(layer.shape) > 1 and layer.numel > 0 for layer in layers], dtype=bool)
        self.common_norm = np.sqrt([layer.shape[0] if layer.shape else 1 for layer in layers])

    def scale(self, weight_norm: Float64Array) -> WeightScale:
        """How large the weight matrices are against a common initialisation."""
        indices = np.nonzero(self.matrix & np.isfinite(weight_norm))[0]
        if len(indices) == 0:
            return WeightScale()
        scale = weight_norm[indices] / (self.common_norm[indices] * math.sqrt(2))
        smallest, largest = (self.layers[int(indices[find(scale)])].name for find in (np.argmin, np.argmax))
        return WeightScale(float(np.median(scale)), smallest, largest)

    def update_ratio(self, update_ratio: Float64Array, weight_norm: Float64Array | None) -> Float64Array:
        """Update over weight of every matrix; NaN where there is none or where it means nothing.

        A matrix initialised to (nearly) zero is replaced by its first updates, as it should be: at a hundredth of the
        size that weights with a variance of 1 / fan_in have, the ratio means nothing.
        """
        started = self.matrix if weight_norm is None else self.matrix & (weight_norm > 0.01 * self.common_norm)
        return np.where(started, update_ratio, math.nan)
