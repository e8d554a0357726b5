"""Records and incidents in the wire format of ``tensorboard_plugin/metadata``: session, segments, packed values."""

from __future__ import annotations

import datetime as dt
import math
import secrets
from collections.abc import Sequence
from typing import Any

from gradwatch.records import Incident, Layer, StepRecord
from gradwatch.tensorboard_plugin import metadata
from gradwatch.writers import _events
from gradwatch.writers._lines import dumps

_SAMPLED = ("grad_max", "weight_norm", "update_ratio")
_INCIDENTS = (-1, "incidents")


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
        self._layers: dict[int, tuple[Layer, ...]] = {}
        self._names: dict[int, tuple[str, ...]] = {}

    def step(self, record: StepRecord) -> list[Any]:
        """The packed values of one step."""
        self._meet(record.optimizer, record.layers)
        names = self._names[record.optimizer]
        values = [self._packed(record.optimizer, "grad_norm", record.grad_norm, names)]
        if record.num_nonfinite.any():
            values.append(self._packed(record.optimizer, "num_nonfinite", record.num_nonfinite, names))
        for statistic in _SAMPLED:
            sample = getattr(record, statistic)
            if sample is not None:
                values.append(self._packed(record.optimizer, statistic, sample, names))
        loss = math.nan if record.loss is None else record.loss
        row = (record.total_norm, record.clipped_norm, loss, record.lr, float(record.skipped))
        values.append(self._packed(record.optimizer, "scalars", row, metadata.SCALARS))
        return values

    def incident(self, incident: Incident) -> Any:
        """One incident as JSON."""
        segment, first = self._advance(_INCIDENTS)
        content = metadata.content("incidents", ()) if first else None
        return _events.strings(metadata.incidents_tag(self._session, segment), [dumps(incident.to_json())], content)

    def _packed(self, optimizer: int, statistic: str, row: Any, names: Sequence[str]) -> Any:
        segment, first = self._advance((optimizer, statistic))
        tag = metadata.statistic_tag(self._session, optimizer, statistic, segment)
        return _events.packed(tag, row, metadata.content(statistic, names) if first else None)

    def _advance(self, key: tuple[int, str]) -> tuple[int, bool]:
        """The segment to write to, and whether this is its first write."""
        segment, written = self._places.get(key, (0, 0))
        if written == metadata.SEGMENT_WRITES:
            segment, written = segment + 1, 0
        self._places[key] = segment, written + 1
        return segment, written == 0

    def _meet(self, optimizer: int, layers: tuple[Layer, ...]) -> None:
        """Other layers begin a new segment of every statistic: a tag's metadata names its layers once."""
        known = self._layers.get(optimizer)
        if layers is known:
            return
        self._layers[optimizer] = layers
        names = tuple(layer.name for layer in layers)
        if names == self._names.get(optimizer):
            return
        self._names[optimizer] = names
        for key, (segment, _) in self._places.items():
            if key[0] == optimizer:
                self._places[key] = segment + 1, 0
