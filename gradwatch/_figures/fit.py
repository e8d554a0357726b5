"""By how much the gradient changes from layer to layer at one step, as the detectors see it."""

from __future__ import annotations

import math

import numpy as np

from gradwatch._depth import FADE, DepthProfiles, Profile
from gradwatch._figures.series import nonfinite, rows_of
from gradwatch._sources.protocol import Recording
from gradwatch._sources.tables import Table
from gradwatch.records import Layer, StepRecord

HEALTHY = 1.0
"""Decades from the first layer to the last within which healthy networks stay."""

MIN_FITTED = 3
"""Layers that a line through them takes."""


def fitted(recording: Recording, optimizer: int, step: int) -> Profile | None:
    """The depth profile of a step as the detectors see it; None where too few layers have a gradient."""
    table = row_at(recording, "grad_norm", optimizer, "parameters", step)
    if table is None:
        return None
    known = {layer.name: layer for layer in recording.layers(optimizer)}
    layers = tuple(_shaped(known.get(name), name) for name in table.names)
    norm = table.values[0].astype(np.float64)
    bad = nonfinite(recording, table, optimizer, "parameters")[0]
    record = StepRecord(step, optimizer, layers, norm, bad.astype(np.int64), math.nan, math.nan)
    if bad.any() or not np.isfinite(norm).any():
        return None
    profile = DepthProfiles().of(record)
    alive = int((profile.level > -math.inf).sum())
    return profile if alive >= MIN_FITTED else None


def growth(profile: Profile) -> float:
    """By what the gradient is multiplied from one layer to the one before it."""
    alive = int((profile.level > -math.inf).sum())
    return float(10 ** -(profile.fade / max(1, alive - 1)))


def judged(profile: Profile) -> str:
    """The profile in words: ``"vanishing"``, ``"fading"``, ``"healthy"``, ``"growing"``, ``"exploding"``."""
    if abs(profile.fade) < HEALTHY:
        return "healthy"
    if profile.fade > 0:
        return "vanishing" if profile.fade >= FADE else "fading"
    return "exploding" if profile.fade <= -FADE else "growing"


def _shaped(layer: Layer | None, name: str) -> Layer:
    """A layer with a shape: an early log does not tell them, and then names have to do."""
    if layer is not None and layer.shape:
        return layer
    module, _, own = name.rpartition(".")
    return Layer(name, module, "" if layer is None else layer.module_type, (1,) if "bias" in own else (1, 1))


def row_at(recording: Recording, statistic: str, optimizer: int, rows: str, step: int | None) -> Table | None:
    """The last row up to a step, in a table of its own."""
    steps = rows_of(recording, statistic, optimizer, rows, last=step).steps
    if not len(steps):
        return None
    at = int(steps[-1])
    return rows_of(recording, statistic, optimizer, rows, first=at, last=at)
