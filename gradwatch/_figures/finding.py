"""What a layer's curve shows, in one line: the title of its figure."""

from __future__ import annotations

import numpy as np

from gradwatch import wording
from gradwatch._figures.curve import Curve
from gradwatch._figures.style import digits, short, text
from gradwatch.records import Incident

UNUSUAL = 1.0
"""Decades from usual that are worth a title."""


def finding(curve: Curve, told: Incident | None) -> str:
    """The title.

    Args:
        curve: The layer's.
        told: The first incident that names the layer; None without one.
    """
    name = short(curve.name, 60)
    if not len(curve.steps):
        return f"{name}: not measured at these steps"
    if curve.bad.any():
        return f"step {int(curve.steps[curve.bad.argmax()]):,}: {name} is not finite any more"
    if (odd := _farthest(curve, told)) is not None:
        step, where, way = odd
        # One lone step is ordinary in many trainings: without an incident the title must not sound like an alarm.
        quiet = f"{name}: farthest from what is usual for it at step {step:,} ({where} it), no alarm"
        return quiet if told is None else f"step {step:,}: {name} {way} to {where} what is usual for it"
    return f"step {told.step:,}: {text(wording.title(told))} in {name}" if told is not None else _calm(curve, name)


def _calm(curve: Curve, name: str) -> str:
    middle = curve.values[np.isfinite(curve.values) & (curve.values > 0)]
    if not middle.size:
        return f"{name}: exactly zero or absent at every step"
    return f"{name} stays within a factor of 10 of what is usual for it, {wording.number(float(np.median(middle)))}"


def _farthest(curve: Curve, told: Incident | None) -> tuple[int, str, str] | None:
    """The step that is farthest from usual, how far, and which way; that of the incident where it is far, too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.log10(curve.values / curve.usual)
    off[~np.isfinite(off)] = 0
    at = int(np.argmax(np.abs(off)))
    if told is not None and told.step in curve.steps:
        own = int(np.searchsorted(curve.steps, told.step))
        at = own if abs(off[own]) >= UNUSUAL else at
    if abs(off[at]) < UNUSUAL:
        return None
    times = digits(10 ** abs(off[at]))
    return int(curve.steps[at]), *((f"{times} times", "jumps") if off[at] > 0 else (f"1/{times} of", "falls"))
