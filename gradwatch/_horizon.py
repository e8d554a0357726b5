"""How far the learning signal reaches back through time: half-life, factor per step, decades over the sequence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradwatch._decades import fraction, number, power
from gradwatch.records import Float64Array, TimeProfile

MIN_STEPS = 4
"""Fewer tell nothing about a trend."""

_AT_END = 0.1
"""Share of the time steps that are the end of a sequence: where only these have a direct gradient, everything earlier
hangs on the recurrence."""

_SMALL = 1e-3
"""A direct gradient below this share of the largest counts as none."""


@dataclass(frozen=True)
class Horizon:
    """The memory that training can reach, of one recurrent layer at one step.

    Attributes:
        num_steps: Steps that the signal was followed over, the last one included.
        per_step: By what it is multiplied at each step back, as a robust fit says.
        half_life: Steps after which half of it is left; inf where it does not fade.
        decades: By how many powers of ten it is weaker at the first step than at the last; negative where it grows.
            Of the fit and the measured ends the one nearer to 0.
        ratio: What the first step receives, as a share of what the last one does, as measured; 0 for nothing.
        at_end: Whether the loss looks at the last steps alone, so that all earlier ones hang on the recurrence; None
            where that is not known.
        exact: Whether the last step's signal alone was followed; otherwise the signal of the other steps is in it, and
            the true one fades at least as much.
    """

    num_steps: int
    per_step: float
    half_life: float
    decades: float
    ratio: float
    at_end: bool | None
    exact: bool


def horizon(profile: TimeProfile) -> Horizon | None:
    """What a profile tells; None where it tells nothing: too short, not finite, or no signal at its end.

    The slope of log10 over time is the median over all pairs of steps that lie half the sequence apart (Theil, 1950;
    Sen, 1968, thinned out): one odd step does not move it.
    """
    exact = bool(profile.response)
    signal = np.array(profile.response if exact else profile.norm, dtype=np.float64)
    if exact:
        signal = signal[np.cumsum(~np.isnan(signal)) > 0]  # before the first step of every sample there is nothing
    else:
        signal = signal[: int(np.max(np.nonzero(signal)[0], initial=-1)) + 1]
    if len(signal) < MIN_STEPS or not np.isfinite(signal).all() or signal[-1] <= 0:
        return None
    reached = signal[int(np.max(np.nonzero(signal == 0)[0], initial=-1)) + 1 :]
    ratio = float(signal[0] / signal[-1])
    measured = -math.log10(ratio) if ratio > 0 else math.inf
    slope = _slope(np.log10(reached)) if len(reached) > 1 else math.inf
    fitted = slope * (len(signal) - 1)
    decades = 0.0 if measured * fitted <= 0 else min(measured, fitted, key=abs)
    return Horizon(
        num_steps=len(signal),
        per_step=power(-slope),
        half_life=math.log10(2) / slope if slope > 0 else math.inf,
        decades=decades,
        ratio=ratio,
        at_end=_at_end(profile.direct),
        exact=exact,
    )


def _slope(decades: Float64Array) -> float:
    """Decades per step, towards the end of the sequence."""
    apart = max(1, len(decades) // 2)
    return float(np.median(decades[apart:] - decades[:-apart]) / apart)


def _at_end(direct: tuple[float, ...]) -> bool | None:
    """Whether the loss itself speaks to the last steps alone."""
    size = np.array(direct, dtype=np.float64)
    if not len(size) or not np.isfinite(size).all() or size.max() <= 0:
        return None
    first = int(np.nonzero(size >= _SMALL * size.max())[0][0])
    return len(size) - first <= max(1, round(_AT_END * len(size)))


def in_words(found: Horizon) -> str:
    """``the learning signal halves every 7 steps on its way back through time, so the first of 30 frames ...``."""
    if found.ratio == 0:
        return (
            f"the learning signal is lost on its way back through time: nothing measurable reaches the first of "
            f"{found.num_steps} time steps"
        )
    arrives = f"so the first of {found.num_steps} time steps receives"
    if found.decades > 0:
        return (
            f"the learning signal {_pace(found.half_life, 'halves')} on its way back through time, {arrives} "
            f"{fraction(found.ratio)} of it"
        )
    doubling = math.log(2) / math.log(found.per_step) if found.per_step > 1 else math.inf
    if found.decades < 0 and math.isfinite(doubling):
        return (
            f"the learning signal {_pace(doubling, 'doubles')} on its way back through time, {arrives} "
            f"{number(found.ratio)} times what the last one does"
        )
    return f"the learning signal is carried back through all of {found.num_steps} time steps"


def _pace(steps: float, verb: str) -> str:
    if steps < 1:
        factor = 2 ** (1 / steps)
        return (
            f"is divided by {factor:.2g} at every time step"
            if verb == "halves"
            else (f"is multiplied by {factor:.2g} at every time step")
        )
    return f"{verb} every {steps:.2g} time steps" if steps < 10 else f"{verb} every {steps:,.0f} time steps"  # noqa: PLR2004
