"""What the probes have last seen of the model at work: kept between the sampled steps, for whoever judges in between."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch._memory import Memory, PerLayers
from gradwatch.records import Activations, Incident, Layer, StepRecord, Unavailable

LARGE_INPUT = 10.0
"""Root mean square of what comes from the data, where standardised inputs have 1 and pixels in 0..1 have 0.5."""

BOUNDED = frozenset({"Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", "Softmax", "RNN"})
"""Activations with flat ends."""


@dataclass(frozen=True, eq=False)
class Calls:
    """One step's activations, with what their order tells.

    Attributes:
        seen: The calls.
        is_layer: Where the module holds a weight matrix, ``[num_calls]``.
    """

    seen: Activations
    is_layer: NDArray[np.bool_]

    def before(self, row: int) -> int:
        """Row of the nearest layer before this call; -1 where there is none."""
        found = np.flatnonzero(self.is_layer[:row])
        return int(found[-1]) if len(found) else -1

    def is_hidden(self, row: int) -> bool:
        """Whether a layer follows: the model's output is not hidden."""
        return bool(self.is_layer[row + 1 :].any())

    def input_size(self) -> tuple[int, float]:
        """Row of the first call with a weight matrix that is given data, and the root mean square of that; or -1."""
        rows = np.flatnonzero(self.is_layer & (self.seen.from_data == 1) & ~np.isnan(self.seen.in_std))
        if len(rows) == 0:
            return -1, math.nan
        row = int(rows[0])
        return row, float(np.hypot(self.seen.in_mean[row], self.seen.in_std[row]))


class Forward:
    """The calls of each step, made once for all that share it."""

    def __init__(self) -> None:
        self._names = PerLayers(_layers_with_matrix)
        self._record: StepRecord | None = None
        self._calls: Calls | None = None

    def of(self, record: StepRecord) -> Calls | None:
        """The calls of this step; None where nobody has looked."""
        if record is not self._record:
            self._record, seen = record, record.activations
            known = self._names.of(record)
            self._calls = (
                None if seen is None else Calls(seen, np.array([name in known for name in seen.modules], dtype=bool))
            )
        return self._calls


def _layers_with_matrix(layers: tuple[Layer, ...]) -> frozenset[str]:
    return frozenset(layer.module for layer in layers if len(layer.shape) > 1)


@dataclass
class _Known:
    """What was last seen of one optimizer's steps.

    Attributes:
        input_module: The first layer that is given data.
        input_rms: Root mean square of that.
        input_max: Its largest absolute value.
        input_spread: Largest over median standard deviation of its features.
        num_bounded: Hidden activations with flat ends.
        saturated_share: Share of their elements at the flat ends.
    """

    input_module: str = ""
    input_rms: float = math.nan
    input_max: float = math.nan
    input_spread: float = math.nan
    num_bounded: int = 0
    saturated_share: float = math.nan


class Scene:
    """Remembers what the probes have seen, and adds it to the evidence of the incidents."""

    def __init__(self) -> None:
        self._forward = Forward()
        self._memory = Memory(_Known)
        self._gaps: tuple[Unavailable, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)

    def observe(self, record: StepRecord) -> None:
        """Take in one step."""
        self._gaps = record.unavailable or (() if record.activations is not None else self._gaps)
        if (calls := self._forward.of(record)) is None:
            return
        known, seen = self._memory.of(record.optimizer), calls.seen
        row, rms = calls.input_size()
        if row >= 0 and math.isfinite(rms):
            known.input_module, known.input_rms = seen.modules[row], rms
            known.input_max, known.input_spread = float(seen.in_max[row]), float(seen.in_spread[row])
        share = seen.saturated_share[[i for i in range(len(seen.kinds)) if calls.is_hidden(i)]]
        share = share[~np.isnan(share)]
        known.num_bounded = len(share)
        known.saturated_share = float(share.mean()) if len(share) else math.nan

    def complete(self, incident: Incident) -> Incident:
        """The incident with what was last seen as evidence, and with what could not be seen."""
        known = dataclasses.asdict(self._memory.of(incident.optimizer))
        facts = {key: value for key, value in known.items() if value not in ("", 0) and value == value}  # noqa: PLR0124
        gaps = tuple(gap for gap in self._gaps if gap not in incident.unavailable)
        return dataclasses.replace(
            incident, evidence={**facts, **incident.evidence}, unavailable=(*incident.unavailable, *gaps)
        )
