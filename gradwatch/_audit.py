"""The clip audit: says once where clipping cannot have worked as meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradwatch._voice import announce
from gradwatch.records import StepRecord

_MANY_STEPS = 20
_FAR_TOO_SMALL = 100.0

CLIPPED_TWICE = "clipped_twice"
SCALED_GRADIENTS = "scaled_gradients"
INSIDE_BACKWARD = "inside_backward"
TINY_MAX_NORM = "tiny_max_norm"
CANNOT_SKIP = "cannot_skip"

_TEXTS = {
    CLIPPED_TWICE: (
        "gradients are clipped twice, by gradwatch ({clip}) and by somebody else (torch.nn.utils.clip_grad_*_, "
        "Lightning's gradient_clip_val, another watch): the stricter one decides. Remove one of them"
    ),
    SCALED_GRADIENTS: (
        "gradients are clipped while they still carry the GradScaler's factor: the limit is applied to numbers many "
        "times too large. Call scaler.unscale_(optimizer) before clipping, or leave the clipping to gradwatch"
    ),
    INSIDE_BACKWARD: (
        "{clip} cannot work with an optimizer that steps inside the backward pass: most gradients are gone before the "
        "total norm is known. Nothing is clipped. Use ClipValue, or step the optimizer after backward()"
    ),
    CANNOT_SKIP: (
        "skip_if_nonfinite=True cannot work with {optimizer}: {why}. Its steps are taken whatever their norm"
    ),
    TINY_MAX_NORM: (
        "the gradients were clipped by more than 100x at each of the last 20 steps (from {norm:.3g} to {clipped:.3g}): "
        "the limit is so small that it replaces the learning rate. Raise it to about {norm:.2g}, or do without"
    ),
}


class ClipAudit:
    """Remembers what it has said, and what it counts."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self._num_tiny: dict[int, int] = {}

    def say(self, about: str, **details: object) -> None:
        """Warn once about one thing."""
        if about not in self.notes:
            self.notes[about] = _TEXTS[about].format(**details)
            announce(f"gradwatch: {self.notes[about]}.")

    def observe(self, record: StepRecord) -> None:
        """Look for a limit that is far too small, whoever set it."""
        if record.skipped or SCALED_GRADIENTS in self.notes:
            return  # in the latter case the scale is at fault, not the limit
        far = record.clipped and record.total_norm > _FAR_TOO_SMALL * record.clipped_norm
        self._num_tiny[record.optimizer] = self._num_tiny.get(record.optimizer, 0) + 1 if far else 0
        if self._num_tiny[record.optimizer] == _MANY_STEPS:
            self.say(TINY_MAX_NORM, norm=record.total_norm, clipped=record.clipped_norm)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"notes": dict(self.notes), "num_tiny": {str(k): v for k, v in self._num_tiny.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.notes = dict(state["notes"])
        self._num_tiny = {int(k): v for k, v in state["num_tiny"].items()}
