"""The detectors of a watch and the diagnosis of what they find; none of them can hurt the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from gradwatch._precedence import Precedence
from gradwatch._scene import Scene
from gradwatch.causes.inputs import BURNT_OUT
from gradwatch.detectors import Detector
from gradwatch.detectors._base import Shared
from gradwatch.diagnosis import diagnose
from gradwatch.errors import warn
from gradwatch.records import Incident, ModelInfo, StepRecord, number_to_json
from gradwatch.suppression import Sieve, Suppression

_SQUARED = ("Pow", "Mean")
"""The end of a squared error that was written by hand, in autograd's words."""

_PRECEDENCE, _SUPPRESSED, _SCENE = "_precedence", "_suppressed", "_scene"  # no detector's kind: those are plain words


class Judges:
    """Every detector sees every record; one that raises is dropped with one warning. Consequences are kept quiet.

    Args:
        detectors: Judge every record, in order.
        suppress: What is not told. It is sifted last, so that the consequences of what is suppressed stay quiet too.
    """

    def __init__(self, detectors: Iterable[Detector], suppress: Iterable[Suppression] = ()) -> None:
        self._detectors = list(detectors)
        self._precedence = Precedence()
        held = (getattr(detector, "shared", None) for detector in self._detectors)
        shared = next((found for found in held if isinstance(found, Shared)), None) or Shared()
        self._scene = Scene(shared.forward, shared.weights)
        self._course = shared.course
        self._sieve = Sieve(suppress)

    @property
    def suppressed(self) -> tuple[str, ...]:
        """What was not told although it was found, in words."""
        return self._sieve.suppressed

    def observe(self, record: StepRecord, model: ModelInfo) -> list[Incident]:
        """The incidents that begin at this step, with their causes."""
        if record.held_back:  # but for us the optimizer would have taken this step
            record = dataclasses.replace(record, skipped=False)
        incidents: list[Incident] = []
        self._scene.observe(record)
        if model.operations is not None:
            self._course.is_squared = "MseLoss" in model.operations.in_loss or model.operations.in_loss[-2:] == _SQUARED
            if model.operations.chance is not None:
                self._course.chance = model.operations.chance
        for detector in list(self._detectors):
            try:
                found = detector.observe(record)
                if found != []:  # as at nearly no step of nearly no run
                    incidents += [self._explained(incident, record, model) for incident in found]
            except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
                self._detectors.remove(detector)
                warn(
                    f"gradwatch: the detector {type(detector).__name__} failed at step {record.step} and judges no "
                    f"more ({type(error).__name__}: {error}); the training and the other detectors go on"
                )
        return self._sieve.sift(self._precedence.sift(incidents)) if incidents else incidents

    def _explained(self, incident: Incident, record: StepRecord, model: ModelInfo) -> Incident:
        """The incident with what was last seen of the model, with its causes, and under the name of its root."""
        return _at_its_root(diagnose(self._scene.complete(incident), record, model))

    def state_dict(self) -> dict[str, Any]:
        """The detectors' states by kind, and what precedes what."""
        states = {detector.kind: number_to_json(detector.state_dict()) for detector in self._detectors}
        return {
            **states,
            _PRECEDENCE: self._precedence.state_dict(),
            _SUPPRESSED: self._sieve.state_dict(),
            _SCENE: number_to_json(self._scene.state_dict()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; a detector without a saved state begins afresh."""
        for detector in self._detectors:
            if detector.kind in state:
                detector.load_state_dict(state[detector.kind])
        self._precedence.load_state_dict(state.get(_PRECEDENCE, {}))
        self._scene.load_state_dict(state.get(_SCENE, {}))
        self._sieve.load_state_dict(state.get(_SUPPRESSED, {}))


_ROOTS: Mapping[tuple[str, str], str] = {
    ("exploding", "unscaled_inputs"): "input_scale",
    ("lr_too_high", "unscaled_inputs"): "input_scale",
    ("vanishing", "unsuited_loss"): "saturation",
    ("disconnected", "unscaled_logits"): "saturation",
    ("disconnected", "dead_relu"): "dead_relu",
}
"""Symptom and first cause of incidents whose cause is a kind of its own: what blows up because of the inputs is a
matter of the inputs."""

_DIED_AWAY = ("gone", "nothing")
"""Rules of a signal that is gone altogether: where the last activation is to blame, that is what has to be said."""


def _at_its_root(incident: Incident) -> Incident:
    """The incident under the name of its root, where that is a kind of its own."""
    kind = _ROOTS.get((incident.kind, incident.causes[0].name))
    if incident.causes[0].name == "unscaled_inputs" and incident.evidence.get("rule") in BURNT_OUT:
        kind = "input_scale"
    if incident.causes[0].name == "saturating_activations" and incident.evidence.get("rule") in _DIED_AWAY:
        kind = "saturation"
    if kind is None:
        return incident
    return dataclasses.replace(incident, kind=kind, evidence={**incident.evidence, "symptom": incident.kind})
