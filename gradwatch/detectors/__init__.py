"""Says from step records alone that training goes wrong: ``StepRecord`` → ``list[Incident]``.

One file and one small class per kind of incident: a new kind is a file here and a line in :func:`default_detectors`.
A detector never acts, raises or does I/O; what it remembers is kept per optimizer. It knows no absolute size of a
gradient, because a loss may be scaled by anything: it holds a norm against its own history, against the other layers
of the same step, or an update against the weights that it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gradwatch.detectors._base import Shared
from gradwatch.detectors.data_outlier import DataOutlierDetector
from gradwatch.detectors.dead_relu import DeadReluDetector
from gradwatch.detectors.disconnected import DisconnectedDetector
from gradwatch.detectors.exploding import ExplodingDetector
from gradwatch.detectors.input_scale import InputScaleDetector
from gradwatch.detectors.lr_too_high import LrTooHighDetector
from gradwatch.detectors.nonfinite import NonfiniteDetector
from gradwatch.detectors.saturation import SaturationDetector
from gradwatch.detectors.stalled import StalledDetector
from gradwatch.detectors.through_time import ThroughTimeDetector
from gradwatch.detectors.vanishing import VanishingDetector
from gradwatch.records import Incident, StepRecord

__all__ = [
    "DataOutlierDetector",
    "DeadReluDetector",
    "Detector",
    "DisconnectedDetector",
    "ExplodingDetector",
    "InputScaleDetector",
    "LrTooHighDetector",
    "NonfiniteDetector",
    "SaturationDetector",
    "StalledDetector",
    "ThroughTimeDetector",
    "VanishingDetector",
    "default_detectors",
]


class Detector(Protocol):
    """One kind of fault: looks at every step, remembers what it needs, says when an incident begins."""

    kind: str

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        ...


def default_detectors() -> tuple[Detector, ...]:
    """One detector of every kind, root causes first; they share what they derive from a step."""
    shared = Shared()
    return (
        NonfiniteDetector(shared),
        DataOutlierDetector(shared),
        LrTooHighDetector(shared),
        ExplodingDetector(shared),
        DisconnectedDetector(shared),
        DeadReluDetector(shared),
        SaturationDetector(shared),
        InputScaleDetector(shared),
        VanishingDetector(shared),
        StalledDetector(shared),
        ThroughTimeDetector(shared),
    )
