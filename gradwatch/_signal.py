"""The learning signal itself at each depth: the gradient of each layer's output, as the forward probe has seen it.

A weight's gradient is the signal times what the layer was given, which can hide that both shrink. Only probed steps
have it; between them the gradients of the parameters (:mod:`gradwatch._depth`) stand for it.
"""

from __future__ import annotations

import math

import numpy as np

from gradwatch._decades import extremes
from gradwatch._depth import Profile
from gradwatch._scene import Forward
from gradwatch.records import Float64Array, StepRecord


class SignalProfiles:
    """The signal's depth profile of each probed step, made once for all detectors that share it."""

    def __init__(self, forward: Forward | None = None) -> None:
        self._forward = forward or Forward()
        self._record: StepRecord | None = None
        self._profile: Profile | None = None

    def of(self, record: StepRecord) -> Profile | None:
        """The profile of this step; None where the probe has not looked, or has seen no chain of layers."""
        if record is not self._record:
            self._record, self._profile = record, self._make(record)
        return self._profile

    def _make(self, record: StepRecord) -> Profile | None:
        if (calls := self._forward.of(record)) is None:
            return None
        grad, modules = calls.seen.out_grad.take(calls.plan.chain), calls.plan.chain_modules
        smallest, largest = extremes(grad) if len(grad) else (0.0, 0.0)
        span = math.log10(largest / smallest) if smallest > 0 and largest < math.inf else math.inf
        if span == math.inf:
            known = np.isfinite(grad)
            grad = grad[known]
            modules = tuple(module for module, is_known in zip(modules, known.tolist(), strict=True) if is_known)
        return Profile(modules, lambda: _level(grad), span) if len(grad) > 1 else None  # a chain has two ends


def _level(grad: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore"):
        return np.log10(grad)
