"""Step records from the packed statistics of a TensorBoard log, as far as these go."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradwatch._sources.packed import PackedRecording
from gradwatch._sources.tables import module_of
from gradwatch.records import Incident, Layer, ModelInfo, StepRecord, TimeProfile
from gradwatch.tensorboard_plugin.metadata import SCALARS
from gradwatch.writers.jsonl import RecordedRun

_SAMPLED = ("grad_max", "weight_norm", "update_ratio", "num_nonfinite")
_GAPS = (
    "a TensorBoard log does not keep what the probes saw of activations, of where a non-finite value was born and of "
    "parameters without an optimizer, so that dead units, saturation and unscaled inputs cannot be judged again from "
    "it, and some causes are missing; a file of JSON lines (gradwatch.JSONLWriter) keeps all of it"
)
_NO_SHAPES = "this log is of an early gradwatch and does not tell the layers' shapes, which the depth profile needs"
_Rows = dict[int, tuple[tuple[str, ...], NDArray[np.float32]]]


def unpacked(recording: PackedRecording) -> tuple[RecordedRun, tuple[str, ...]]:
    """Every record of every session, in the order of writing.

    Returns:
        The run, and in words what is not in it although it was seen when it was recorded.
    """
    records: list[StepRecord] = []
    models: list[ModelInfo | None] = []
    starts: list[int] = []
    incidents: list[Incident] = []
    has_shapes = True
    for session in recording.sessions:
        starts.append(len(records))
        incidents += session.incidents
        own = [record for optimizer in recording.optimizers for record in _records(recording, session.rows, optimizer)]
        own.sort(key=lambda record: record.step)
        known = recording.models(session.rows)
        models += [next((model for step, model in reversed(known) if step <= record.step), None) for record in own]
        records += own
        has_shapes &= all(recording.layers_written(session.rows, optimizer) for optimizer in recording.optimizers)
    run = RecordedRun(
        records=tuple(records),
        incidents=tuple(incidents),
        skipped=tuple(recording.skipped),
        models=tuple(models),
        sessions=tuple(dict.fromkeys(start for start in starts if start < len(records))),
        summary=recording.summary,
    )
    return run, (_GAPS,) if has_shapes else (_GAPS, _NO_SHAPES)


def _records(recording: PackedRecording, session: str, optimizer: int) -> Iterator[StepRecord]:
    known = {layer.name: layer for layers in recording.layers_written(session, optimizer) for layer in layers}
    scalars = _rows(recording, session, "scalars", optimizer)
    sampled = {statistic: _rows(recording, session, statistic, optimizer) for statistic in _SAMPLED}
    profiles = dict(recording.profiles_through_time(optimizer, session))
    local = recording.local_norms(session, optimizer)
    unknown = np.full(len(SCALARS), math.nan, dtype=np.float32)
    for part in recording.parts(session, "grad_norm", optimizer):
        layers = tuple(known.get(name) or Layer(name, module_of(name)) for name in part.names)
        for step, norm in zip(part.steps.tolist(), part.values.astype(np.float64), strict=True):
            row = dict(zip(SCALARS, scalars.get(step, (SCALARS, unknown))[1].tolist(), strict=True))
            found = {
                statistic: rows[step][1].astype(np.float64)
                for statistic, rows in sampled.items()
                if step in rows and rows[step][0] == part.names
            }
            counts = found.pop("num_nonfinite", None)
            record = _record(step, optimizer, layers, norm, counts, row, found, profiles.get(step, ()))
            yield replace(record, local_norms=local[step]) if step in local else record


def _record(  # noqa: PLR0917 - all of them are what a record is made of
    step: int,
    optimizer: int,
    layers: tuple[Layer, ...],
    norm: NDArray[np.float64],
    counts: NDArray[np.float64] | None,
    row: dict[str, float],
    sampled: dict[str, NDArray[np.float64]],
    profiles: tuple[TimeProfile, ...],
) -> StepRecord:
    return StepRecord(
        step=step,
        optimizer=optimizer,
        layers=layers,
        grad_norm=norm,
        num_nonfinite=np.zeros(len(layers), np.int64) if counts is None else np.nan_to_num(counts).astype(np.int64),
        total_norm=row["total_norm"],
        clipped_norm=row["clipped_norm"],
        skipped=row["skipped"] == 1,
        loss=None if math.isnan(row["loss"]) else row["loss"],
        lr=row["lr"],
        grad_max=sampled.get("grad_max"),
        weight_norm=sampled.get("weight_norm"),
        update_ratio=sampled.get("update_ratio"),
        through_time=profiles,
    )


def _rows(recording: PackedRecording, session: str, statistic: str, optimizer: int) -> _Rows:
    """Names and values of each step."""
    return {
        step: (part.names, row)
        for part in recording.parts(session, statistic, optimizer)
        for step, row in zip(part.steps.tolist(), part.values, strict=True)
    }
