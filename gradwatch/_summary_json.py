"""A run's summary to and from JSON. Its incidents are written on their own, as they happen, so they are not in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from gradwatch.records import Incident, LayerSummary, ModelInfo, RunSummary, number_to_json

_LAYER = tuple(field.name for field in fields(LayerSummary))


def summary_to_json(summary: RunSummary) -> dict[str, Any]:
    """A JSON-serialisable dict without the incidents; non-finite numbers become the strings nan, inf and -inf."""
    data = {field.name: getattr(summary, field.name) for field in fields(RunSummary) if field.name != "incidents"}
    layers = [[number_to_json(getattr(layer, key)) for key in _LAYER] for layer in summary.layers]
    return {
        **{key: number_to_json(value) for key, value in data.items() if key not in ("layers", "model")},
        "model": asdict(summary.model),
        "layer_columns": list(_LAYER),
        "layers": layers,
        "num_incidents": len(summary.incidents),
    }


def summary_from_json(data: Mapping[str, Any], incidents: Iterable[Incident] = ()) -> RunSummary:
    """The inverse of :func:`summary_to_json`, with the incidents that were read beside it.

    Raises:
        KeyError, TypeError, ValueError: It is none.
    """
    columns = data["layer_columns"]
    return RunSummary(
        model=ModelInfo.from_json(data["model"]),
        num_steps=int(data["num_steps"]),
        num_skipped=int(data["num_skipped"]),
        num_clipped=int(data["num_clipped"]),
        clip=None if data["clip"] is None else str(data["clip"]),
        last_total_norm=float(data["last_total_norm"]),
        layers=tuple(_layer(dict(zip(columns, row, strict=True))) for row in data["layers"]),
        incidents=tuple(incidents),
        notes=tuple(str(note) for note in data["notes"]),
        watch_seconds=float(data["watch_seconds"]),
        run_seconds=float(data["run_seconds"]),
        num_tensors=int(data["num_tensors"]),
        suppressed=tuple(str(text) for text in data["suppressed"]),
        num_held_back=int(data.get("num_held_back", 0)),
        thinned=str(data.get("thinned", "")),
        local_norms=tuple(str(text) for text in data.get("local_norms", ())),
    )


def _layer(row: Mapping[str, Any]) -> LayerSummary:
    return LayerSummary(
        name=str(row["name"]),
        first=float(row["first"]),
        median=float(row["median"]),
        worst=float(row["worst"]),
        worst_step=int(row["worst_step"]),
        optimizer=int(row["optimizer"]),
    )
