"""Records, incidents and summary in the wire format of ``tensorboard_plugin/metadata``: session, segments, packed."""

from __future__ import annotations

import datetime as dt
import json
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch._summary_json import summary_to_json
from gradwatch.records import Incident, Layer, ModelInfo, RunSummary, StepRecord
from gradwatch.tensorboard_plugin import metadata
from gradwatch.writers import _events
from gradwatch.writers._lines import dumps

_SAMPLED = ("grad_max", "weight_norm", "update_ratio")
Row = NDArray[np.float32]
_SESSION = -1  # in place of an optimizer: what belongs to the whole session


def new_session() -> str:
    """A name that sorts by time and that no other writer has (``"20260131T235959.123456-9f3a1c"``)."""
    # From the operating system's randomness: the training's generators must not notice.
    now = dt.datetime.now(dt.timezone.utc)
    return f"{now:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}"


class Wire:
    """Turns records into packed values; knows which segment each tag is in."""

    def __init__(self) -> None:
        self._session = new_session()
        self._places: dict[tuple[int, str], tuple[int, int]] = {}  # segment, writes in it
        self._heads: dict[tuple[int, str], tuple[int, bytes]] = {}  # segment, what stands before a row
        self._layers: dict[int, tuple[Layer, ...]] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        self._told: dict[int, set[Layer]] = {}
        self._model: ModelInfo | None = None

    def steps(self, records: Sequence[StepRecord], models: Sequence[ModelInfo | None]) -> list[list[bytes]]:
        """The packed values of each step, after what is new of the model and its layers.

        Args:
            records: ``[num_steps]``, in order.
            models: What is known of the model at each of them.
        """
        rows = zip(records, models, _narrow([record.grad_norm for record in records]), _scalars(records), strict=True)
        return [self._step(record, model, norms, scalars) for record, model, norms, scalars in rows]

    def _step(self, record: StepRecord, model: ModelInfo | None, norms: Row, scalars: Row) -> list[bytes]:
        values = self._news(record, model)
        optimizer, names = record.optimizer, self._names[record.optimizer]
        values.append(self._packed(optimizer, "grad_norm", norms, names))
        if not record.finite and record.num_nonfinite.any():
            values.append(self._packed(optimizer, "num_nonfinite", metadata.to_float32(record.num_nonfinite), names))
        for statistic in _SAMPLED:
            sample = getattr(record, statistic)
            if sample is not None:
                values.append(self._packed(optimizer, statistic, metadata.to_float32(sample), names))
        values.append(self._packed(optimizer, "scalars", scalars, metadata.SCALARS))
        if record.local_norms is not None:
            values.append(self._texts(optimizer, "local_norms", [dumps(record.local_norms.to_json())]))
        if record.through_time:
            profiles = [dumps(profile.to_json()) for profile in record.through_time]
            values.append(self._texts(optimizer, "through_time", profiles))
        return values

    def incident(self, incident: Incident) -> bytes:
        """One incident as JSON."""
        return self._texts(_SESSION, "incidents", [dumps(incident.to_json())])

    def summary(self, summary: RunSummary) -> bytes:
        """The run as a whole, as JSON: that it is there says that the run has come to its end."""
        return self._texts(_SESSION, "summary", [dumps(summary_to_json(summary))])

    def _news(self, record: StepRecord, model: ModelInfo | None) -> list[bytes]:
        values = []
        if model is not None and model is not self._model:
            self._model = model
            values.append(self._texts(_SESSION, "model", [dumps(model.to_json())]))
        known = self._layers.get(record.optimizer)
        if record.layers is not known:
            self._meet(record.optimizer, record.layers)
            told = self._told.setdefault(record.optimizer, set())
            if new := [layer for layer in record.layers if layer not in told]:
                told.update(new)
                text = json.dumps([layer.to_json() for layer in new])
                values.append(self._texts(record.optimizer, "layers", [text]))
        return values

    def _texts(self, optimizer: int, what: str, texts: Sequence[str]) -> bytes:
        segment, first = self._advance((optimizer, what))
        content = metadata.content(what, ()) if first else None
        if optimizer == _SESSION:
            return _events.strings(metadata.session_tag(self._session, what, segment), texts, content)
        return _events.strings(metadata.statistic_tag(self._session, optimizer, what, segment), texts, content)

    def _packed(self, optimizer: int, statistic: str, row: Row, names: Sequence[str]) -> bytes:
        key = optimizer, statistic
        segment, first = self._advance(key)
        known = self._heads.get(key)
        if first or known is None or known[0] != segment:
            tag = metadata.statistic_tag(self._session, optimizer, statistic, segment)
            self._heads[key] = segment, _events.packed_head(tag, len(row))
            if first:
                return _events.packed(tag, row, metadata.content(statistic, names))
        return self._heads[key][1] + row.tobytes()

    def _advance(self, key: tuple[int, str]) -> tuple[int, bool]:
        """The segment to write to, and whether this is its first write."""
        segment, written = self._places.get(key, (0, 0))
        if written == metadata.SEGMENT_WRITES:
            segment, written = segment + 1, 0
        self._places[key] = segment, written + 1
        return segment, written == 0

    def _meet(self, optimizer: int, layers: tuple[Layer, ...]) -> None:
        """Other layers begin a new segment of every statistic: a tag's metadata names its layers once."""
        self._layers[optimizer] = layers
        names = tuple(layer.name for layer in layers)
        if names == self._names.get(optimizer):
            return
        self._names[optimizer] = names
        for key, (segment, _) in self._places.items():
            if key[0] == optimizer:
                self._places[key] = segment + 1, 0


def _scalars(records: Sequence[StepRecord]) -> list[Row]:
    """One row of :data:`metadata.SCALARS` a step."""
    return _narrow(
        [
            (r.total_norm, r.clipped_norm, math.nan if r.loss is None else r.loss, r.lr, float(r.skipped))
            for r in records
        ]
    )


def _narrow(rows: Sequence[Any]) -> list[Row]:
    """Each row as float32; all at once where they are of one length, as they are unless the layers have changed."""
    if len({len(row) for row in rows}) == 1:
        return list(metadata.to_float32(np.asarray(rows, dtype=np.float64)))
    return [metadata.to_float32(row) for row in rows]
