"""The detectors of a watch and the diagnosis of what they find; none of them can hurt the training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gradwatch._precedence import Precedence
from gradwatch.detectors import Detector
from gradwatch.diagnosis import diagnose
from gradwatch.errors import warn
from gradwatch.records import Incident, ModelInfo, StepRecord, number_to_json

_PRECEDENCE = "_precedence"  # no detector's kind: those are plain words


class Judges:
    """Every detector sees every record; one that raises is dropped with one warning. Consequences are kept quiet."""

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._detectors = list(detectors)
        self._precedence = Precedence()

    def observe(self, record: StepRecord, model: ModelInfo) -> list[Incident]:
        """The incidents that begin at this step, with their causes."""
        incidents: list[Incident] = []
        for detector in list(self._detectors):
            try:
                incidents += [diagnose(incident, record, model) for incident in detector.observe(record)]
            except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
                self._detectors.remove(detector)
                warn(
                    f"gradwatch: the detector {type(detector).__name__} failed at step {record.step} and judges no "
                    f"more ({type(error).__name__}: {error}); the training and the other detectors go on"
                )
        return self._precedence.sift(incidents) if incidents else incidents

    def state_dict(self) -> dict[str, Any]:
        """The detectors' states by kind, and what precedes what."""
        states = {detector.kind: number_to_json(detector.state_dict()) for detector in self._detectors}
        return {**states, _PRECEDENCE: self._precedence.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; a detector without a saved state begins afresh."""
        for detector in self._detectors:
            if detector.kind in state:
                detector.load_state_dict(state[detector.kind])
        self._precedence.load_state_dict(state.get(_PRECEDENCE, {}))
