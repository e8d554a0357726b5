"""The depth profile of a step: how strong the learning signal is in each module, from the first to the last."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch._decades import SQUARABLE, extremes
from gradwatch._memory import PerLayers
from gradwatch.records import Float64Array, Int64Array, Layer, StepRecord

FADE = 3.0
"""Decades across the depth. Healthy nets stay within about one; half of three decades is already slow learning."""

_STACKED = re.compile(r"_l(\d+)(?:_reverse)?$")
_MAX_POINTS = 32  # more pairs of modules than 500 tell no more of a trend
_MIN_TREND = 4  # two layers have no trend, and three only just


class Profile:
    """How strong the learning signal is at each depth of one step.

    A module's norm is taken over all its parameters, since a bias's gradient is the signal itself, while a weight's is
    the signal times the activation and can hide that both shrink. Modules without a weight matrix tell nothing of the
    way between layers, and an embedding's gradient has few rows.

    Most steps need no closer look than how far the gradients lie apart, so that the levels are made when asked for.

    Args:
        modules: The modules that have a gradient, in the model's order.
        levels: Makes :attr:`level`.
        span: Decades that no two levels can lie further apart, as far as that is known before they are made.
    """

    def __init__(self, modules: tuple[str, ...], levels: Callable[[], Float64Array], span: float = math.inf) -> None:
        self.modules = modules
        self._levels = levels
        self._span = span + 1e-9  # a hair for rounding

    def __getstate__(self) -> dict[str, Any]:
        """With the levels themselves: how they are made cannot be pickled."""
        return {"modules": self.modules, "level": self.level, "_levels": None, "_span": self._span}

    @functools.cached_property
    def level(self) -> Float64Array:
        """log10 of each module's norm, ``[num_modules]``; -inf where it is exactly zero."""
        return self._levels()

    @functools.cached_property
    def _extremes(self) -> tuple[float, float]:
        return extremes(self.level) if self.modules else (0.0, 0.0)

    @property
    def lowest(self) -> float:
        """Smallest level."""
        return self._extremes[0]

    @property
    def highest(self) -> float:
        """Largest level."""
        return self._extremes[1]

    @property
    def alive(self) -> bool:
        """Whether no level is -inf."""
        return self._span < math.inf or self.lowest > -math.inf

    @property
    def dead(self) -> bool:
        """Whether every level is -inf."""
        return self._span == math.inf and self.highest == -math.inf

    def within(self, decades: float) -> bool:
        """Whether the lowest and the highest level are less than so many decades apart."""
        return self._span < decades or self.highest - self.lowest < decades

    def is_level(self, decades: float) -> bool:
        """Whether no line through it can rise or fall by so many decades: by 3/2 of its range at most.

        That is what a single step in the middle gives.
        """
        return self.within(decades / 1.5)

    @property
    def fade(self) -> float:
        """Decades from the last module to the first, by a least-squares line through those that are not zero."""
        alive = self.level if self.alive else self.level[self.level > -math.inf]
        return float((_line(len(alive)) * alive).sum())  # not @: over 10,000 modules it would wake BLAS's threads

    @property
    def last(self) -> int:
        """Index of the last module whose level is not -inf: what the others are held against."""
        return int(np.flatnonzero(self.level > -math.inf)[-1])

    def trend(self) -> float:
        """Decades from the last module to the first, by the median slope of all pairs: one odd layer has no say."""
        level = self.level[self.level > -math.inf]
        count = len(level)
        if count < _MIN_TREND:
            return 0.0
        if count > _MAX_POINTS:
            starts = np.linspace(0, count, _MAX_POINTS, endpoint=False).astype(np.int64)
            level = np.add.reduceat(level, starts) / np.diff(np.append(starts, count))
        first, last = np.triu_indices(len(level), 1)
        return float(np.median((level[last] - level[first]) / (last - first))) * (len(level) - 1)


class DepthProfiles:
    """The depth profile of a step, computed once for all detectors that share it."""

    def __init__(self) -> None:
        self._chains = PerLayers(_Chain)
        self._record: StepRecord | None = None
        self._profile: Profile

    def of(self, record: StepRecord) -> Profile:
        """The profile of this step."""
        if record is not self._record:
            self._record, self._profile = record, self._chains.of(record).profile(record)
        return self._profile


class _Chain:
    """The modules with a weight matrix, in the model's order, and which parameters belong to each."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        members: dict[str, list[int]] = {}
        deep: set[str] = set()
        for index, layer in enumerate(layers):
            if layer.numel == 0 or layer.module_type.startswith("Embedding"):
                continue
            module = _link(layer)
            members.setdefault(module, []).append(index)
            if len(layer.shape) > 1:
                deep.add(module)
        self._modules = np.array([module for module in members if module in deep], dtype=object)
        groups = [members[module] for module in self._modules]
        self._params = np.array([index for group in groups for index in group], dtype=np.int64)
        self._owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self._all = self._without(np.zeros(len(layers), dtype=bool))
        self._absent: bytes | None = None
        self._links: _Links

    def profile(self, record: StepRecord) -> Profile:
        """The profile over the modules that have a gradient.

        Which gradients are absent seldom changes from one step to the next, so that what follows from it is kept.
        """
        smallest, largest = record.extremes
        if 1 / SQUARABLE < smallest <= largest < SQUARABLE:  # as at nearly every step of nearly every run
            return self._all.ordinary_profile(record.grad_norm, math.log10(largest / smallest))
        absent = np.isnan(record.grad_norm)
        pattern = absent.tobytes()
        if pattern != self._absent:
            self._absent, self._links = pattern, self._without(absent)
        return self._links.profile(record.grad_norm)

    def _without(self, absent: NDArray[np.bool_]) -> _Links:
        present = ~absent[self._params]
        sizes = np.bincount(self._owner[present], minlength=len(self._modules))
        kept = sizes > 0
        starts = np.cumsum(sizes[kept]) - sizes[kept]
        widening = math.log10(sizes.max(initial=1)) / 2
        return _Links(tuple(self._modules[kept].tolist()), self._params[present], starts, widening)


def _link(layer: Layer) -> str:
    """The module; of a recurrent one with several layers the first weight of each of them."""
    stack = _STACKED.search(layer.name)
    if stack is not None and layer.module_type in ("RNN", "LSTM", "GRU"):
        return f"{layer.module}.weight_ih_l{stack[1]}" if layer.module else f"weight_ih_l{stack[1]}"
    return layer.module or layer.name


@dataclass(frozen=True, eq=False)
class _Links:
    """The part of a chain that has gradients.

    Attributes:
        modules: Its modules.
        params: Their parameters, module by module, ``[num_present]``.
        starts: Where each module's parameters start in ``params``, ``[num_modules]``.
        widening: Decades that a module's norm can exceed that of its largest parameter.
    """

    modules: tuple[str, ...]
    params: Int64Array
    starts: Int64Array
    widening: float

    def ordinary_profile(self, grad_norm: Float64Array, span: float) -> Profile:
        """The profile over these modules, where no gradient is absent, zero or beyond what can be squared.

        Args:
            grad_norm: Of all parameters.
            span: Decades from the smallest to the largest of them.
        """
        return Profile(self.modules, lambda: self._levels(grad_norm.take(self.params)), span + self.widening)

    def profile(self, grad_norm: Float64Array) -> Profile:
        """The profile over these modules."""
        return Profile(self.modules, lambda: self._levels(np.minimum(grad_norm.take(self.params), SQUARABLE)))

    def _levels(self, norm: Float64Array) -> Float64Array:
        if not self.modules:
            return np.empty(0)
        square = np.multiply(norm, norm, out=norm)
        if len(self.params) > len(self.starts):
            square = np.add.reduceat(square, self.starts)
        with np.errstate(all="ignore"):
            level: Float64Array = np.log10(square)
        level *= 0.5
        return level


@functools.lru_cache(maxsize=4)
def _line(count: int) -> Float64Array:
    """Weights whose dot product with ``count`` levels is the rise of their least-squares line."""
    depth: Float64Array = np.arange(count, dtype=np.float64) - (count - 1) / 2
    return depth * (12 / (count * (count + 1))) if count else depth
