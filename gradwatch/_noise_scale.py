"""How noisy the gradient is, from what the ranks had of it before it was averaged: the gradient noise scale.

McCandlish, Kaplan, Amodei and the OpenAI Dota Team, "An Empirical Model of Large-Batch Training" (2018),
arXiv:1812.06162, appendix A.1. A gradient of a batch of ``b`` rows is the true gradient ``G`` plus noise, and
``E |G_b|^2 = |G|^2 + S / b``, where ``S`` is the trace of the covariance of a single row's gradient. Data-parallel
training has two batch sizes at every step: ``b`` on each of ``W`` ranks, and ``b W`` of their mean. Solved for both::

    |G|^2 = (W |G_big|^2 - |G_small|^2) / (W - 1)          S / b = (|G_small|^2 - |G_big|^2) / (1 - 1 / W)

with ``|G_small|^2`` the mean over the ranks of the squared local norms. Both are unbiased, and so noisy at a single
step that ``|G|^2`` may come out below zero. Their ratio is biased, so each is averaged over the steps (as the paper
does, by an exponential moving average) before one is divided by the other. The noise scale ``(S / b) / |G|^2`` is in
batches of one rank: the paper's ``B_simple / b``.

The moving averages begin at 0; what corrects that is the same factor for both, and cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from gradwatch.records import Float64Array, LocalNorms, StepRecord, Unavailable
from gradwatch.wording import noise_scale_in_words, ranks_in_words

DECAY = 0.99
"""Of the moving averages, a step: they reach back about a hundred steps."""

FEWEST = 10
"""Steps that the averages hold before they are divided: the ratio of a few is a number, but no estimate."""

WHAT = "local gradient norms of the ranks"
"""What is said to be unavailable."""

_ROUNDING = 1e-5
"""No mean is longer than what it is the mean of, but for the rounding of float32 and half precision gradients."""


def norms_of(ranks: tuple[int, ...], told: Float64Array, scale: float) -> LocalNorms | Unavailable:
    """The norms of a step as the ranks have told them; or who has failed to.

    Args:
        ranks: Their numbers, ``[num_ranks]``.
        told: Squared norms, and above 0 where a rank could not measure; ``[2, num_ranks]``.
        scale: The loss scale that the gradients carried.
    """
    squares, failed = told
    if missing := [rank for rank, flag in zip(ranks, failed, strict=True) if flag > 0]:
        return Unavailable(WHAT, f"gradwatch failed on {ranks_in_words(missing)}")
    norms = tuple(float(norm) for norm in np.sqrt(squares) / scale)
    return LocalNorms(ranks, norms, spread(norms))


def estimates(local_squares: tuple[float, ...], squared_norm: float) -> tuple[float, float]:
    """One step's unbiased estimates of ``S / b`` and ``|G|^2``; see the module for the formula and its source.

    Args:
        local_squares: Squared norms of the gradients of the ranks, ``[num_ranks]``, at least two.
        squared_norm: Of their mean.
    """
    num_ranks = len(local_squares)
    small = sum(local_squares) / num_ranks
    noise = (small - squared_norm) / (1 - 1 / num_ranks)
    signal = (num_ranks * squared_norm - small) / (num_ranks - 1)
    return noise, signal


def spread(norms: tuple[float, ...]) -> float:
    """Standard deviation over mean, over all ranks (divided by their number); 0 where all are 0, NaN for one."""
    mean = sum(norms) / len(norms)
    if mean == 0:
        return 0.0
    # by the mean first: squares of tiny or huge norms would leave the range
    return math.sqrt(sum((norm / mean - 1) ** 2 for norm in norms) / len(norms)) if math.isfinite(mean) else math.nan


def _is_mean(squares: tuple[float, ...], squared_norm: float) -> bool:
    """Whether a gradient may be the mean of those of the ranks: if not, somebody has changed it since."""
    return squared_norm <= sum(squares) / len(squares) * (1 + _ROUNDING)


@dataclass
class _Averages:
    """Of one optimizer's steps.

    Attributes:
        num_ranks: Over how many ranks.
        num_steps: That went in.
        noise: Moving average of the estimates of ``S / b``.
        signal: Likewise of ``|G|^2``.
    """

    num_ranks: int
    num_steps: int = 0
    noise: float = 0.0
    signal: float = 0.0

    def add(self, noise: float, signal: float) -> None:
        self.num_steps += 1
        self.noise += (1 - DECAY) * (noise - self.noise)
        self.signal += (1 - DECAY) * (signal - self.signal)

    @property
    def noise_scale(self) -> float | None:
        if self.num_steps < FEWEST or self.signal <= 0:
            return None
        ratio = max(self.noise, 0.0) / self.signal  # rounding alone may bring equal gradients below zero
        return ratio if math.isfinite(ratio) else None


class NoiseScales:
    """Follows the noise scale of every optimizer, the same on all ranks; non-finite steps leave it as it is."""

    def __init__(self) -> None:
        self._averages: dict[int, _Averages] = {}
        self._last: dict[int, LocalNorms] = {}
        self._gaps: dict[int, str] = {}
        self._begun_anew: dict[int, str] = {}

    def completed(self, record: StepRecord) -> StepRecord:
        """The record, with the noise scale as far as it is known after this step."""
        norms = record.local_norms
        if norms is None:
            for gap in record.unavailable:
                if gap.what == WHAT:
                    self._gaps[record.optimizer] = gap.because
            return record
        averages = self._averages.get(record.optimizer)
        if averages is not None and averages.num_ranks != len(norms.norms):
            why = f"it was averaged over {averages.num_ranks} ranks before, and there are {len(norms.norms)} now"
            self._begun_anew[record.optimizer] = why
            record = replace(
                record, unavailable=(*record.unavailable, Unavailable("earlier gradient noise scale", why))
            )
            averages = None
        if averages is None:
            averages = self._averages[record.optimizer] = _Averages(len(norms.norms))
        squares, squared_norm = tuple(norm * norm for norm in norms.norms), record.total_norm * record.total_norm
        is_finite = math.isfinite(squared_norm) and all(map(math.isfinite, squares))
        if is_finite and not record.skipped and _is_mean(squares, squared_norm):
            averages.add(*estimates(squares, squared_norm))
        norms = self._last[record.optimizer] = replace(norms, noise_scale=averages.noise_scale)
        return replace(record, local_norms=norms)

    def told(self) -> tuple[str, ...]:
        """A line for each optimizer that was asked about: what its noise scale is and means, or why it is not known."""
        lines = []
        several = len(self._last.keys() | self._gaps.keys()) > 1
        for optimizer in sorted(self._last.keys() | self._gaps.keys()):
            last = self._last.get(optimizer)
            text = f"{WHAT}: unavailable, because {self._gaps.get(optimizer)}"
            if last is not None:
                text = noise_scale_in_words(last.noise_scale, len(last.norms), last.spread)
            if (why := self._begun_anew.get(optimizer)) is not None:
                text += f" (begun anew: {why})"
            lines.append(f"optimizer {optimizer}: {text}" if several else text)
        return tuple(lines)

    def state_dict(self) -> dict[str, Any]:
        """The averages, in plain values."""
        return {str(optimizer): asdict(averages) for optimizer, averages in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._averages = {
            int(optimizer): _Averages(
                int(one["num_ranks"]), int(one["num_steps"]), float(one["noise"]), float(one["signal"])
            )
            for optimizer, one in state.items()
        }
