"""A step's record, from the numbers that have arrived on the host and what travelled beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradwatch._distributed import FAILED, TOLD
from gradwatch._noise_scale import norms_of
from gradwatch._probes.sighting import Sighting
from gradwatch._statistics import Column
from gradwatch._transfer import Arrays
from gradwatch.records import Float64Array, Layer, LocalNorms, Ranks, StepRecord, Unavailable


@dataclass(frozen=True)
class Context:
    """What travels to the host beside a step's tensors."""

    step: int
    optimizer: int
    layers: tuple[Layer, ...]
    columns: tuple[Column, ...]
    sound: bool
    sampled: bool
    skipped: bool
    lr: float
    sighting: Sighting
    ranks: tuple[int, ...] = ()
    local_ranks: tuple[int, ...] = ()


def record_of(context: Context, arrays: Arrays) -> StepRecord:
    """What was measured, on the host."""
    statistics = dict(zip(context.columns, arrays["statistics"].T, strict=True))
    grad_norm = np.sqrt(statistics[Column.SQUARED_NORM])
    num_nonfinite = np.zeros(len(grad_norm), dtype=np.int64)
    if not context.sound:
        grad_norm[statistics[Column.PRESENT] == 0] = np.nan
        num_nonfinite[:] = statistics[Column.NUM_NONFINITE]
    skipped = context.skipped or any(arrays[key] > 0 for key in ("skipped", "skipped_by_any") if key in arrays)
    was_told = "loss" in arrays and arrays.get("num_told", 1) > 0
    maxima = statistics.get(Column.ABS_MAX) if context.sampled else None
    bad_weights = arrays.get("num_nonfinite_weight")
    local, gaps = _local_norms(context, arrays), context.sighting.unavailable
    return StepRecord(
        step=context.step,
        optimizer=context.optimizer,
        layers=context.layers,
        grad_norm=grad_norm,
        num_nonfinite=num_nonfinite,
        total_norm=float(arrays["total_norm"]),
        clipped_norm=math.nan if skipped else float(arrays["clipped_norm"]),
        own_clipped_norm=float(arrays["own_clipped_norm"]) if "own_clipped_norm" in arrays else None,
        skipped=skipped,
        held_back="held_back" in arrays and bool(arrays["held_back"] > 0),
        loss=float(arrays["loss"]) if was_told else None,
        lr=float(arrays.get("lr", context.lr)),
        loss_scale=float(arrays["loss_scale"]) if "loss_scale" in arrays else None,
        grad_max=None if maxima is None else np.where(statistics[Column.PRESENT] == 0, np.nan, maxima),
        weight_norm=arrays.get("weight_norm"),
        update_ratio=None if context.ranks and skipped else arrays.get("update_ratio"),
        num_nonfinite_weight=None if bad_weights is None else bad_weights.astype(np.int64),
        activations=context.sighting.activations(arrays, float(arrays.get("loss_scale", 1.0))),
        through_time=context.sighting.profiles(arrays, float(arrays.get("loss_scale", 1.0))),
        ownerless=context.sighting.without_owner(arrays),
        birthplace=context.sighting.birthplace,
        unavailable=(*gaps, local) if isinstance(local, Unavailable) else gaps,
        ranks=_ranks(context, arrays["ranks"]) if "ranks" in arrays else None,
        local_norms=local if isinstance(local, LocalNorms) else None,
    )


def _local_norms(context: Context, arrays: Arrays) -> LocalNorms | Unavailable | None:
    if not context.local_ranks:
        return None
    return norms_of(context.local_ranks, arrays["local_squares"], float(arrays.get("loss_scale", 1.0)))


def ranks_that_failed(context: Context, arrays: Arrays) -> list[int]:
    """The processes that have not measured their part of a step."""
    if "ranks" not in arrays:
        return []
    return [rank for rank, flags in zip(context.ranks, arrays["ranks"][:, 3], strict=True) if flags % (2 * FAILED) > 0]


def _ranks(context: Context, values: Float64Array) -> Ranks | None:
    """What each process had of this step, where something was not finite."""
    num_nonfinite, largest, losses, flags = values.T
    told = (flags // TOLD) % 2 > 0
    if not num_nonfinite.any() and np.isfinite(losses[told]).all():
        return None
    return Ranks(
        numbers=context.ranks,
        num_nonfinite=tuple(int(count) for count in num_nonfinite),
        loss=tuple(float(loss) if known else None for loss, known in zip(losses, told, strict=True)),
        grad_max=tuple(map(float, largest)) if Column.ABS_MAX in context.columns else None,
    )
