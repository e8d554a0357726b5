"""What is kept for each optimizer: a detector's state, saved with checkpoints, and what its layers alone tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np

from gradwatch.errors import StateError
from gradwatch.records import Layer, StepRecord

StateT = TypeVar("StateT")
DerivedT = TypeVar("DerivedT")


class Memory(Generic[StateT]):
    """One state per optimizer, to and from plain data."""

    def __init__(self, new: Callable[[], StateT]) -> None:
        self._new = new
        self._states: dict[int, StateT] = {}

    def of(self, optimizer: int) -> StateT:
        """The state of this optimizer, a new one at its first step."""
        state = self._states.get(optimizer)
        if state is None:
            state = self._states[optimizer] = self._new()
        return state

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers only: survives ``torch.load(weights_only=True)``."""
        return {str(optimizer): _to_plain(state) for optimizer, state in self._states.items()}

    def from_plain(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_plain`.

        Raises:
            StateError: The data is not what :meth:`to_plain` gives.
        """
        try:
            states = {int(optimizer): _from_plain(self._new(), plain) for optimizer, plain in data.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise StateError(f"gradwatch: this is not the state of a detector of this version: {error}") from error
        self._states = states


class PerLayers(Generic[DerivedT]):
    """What follows from the layers alone: made once for each optimizer, and anew where it gets other layers."""

    def __init__(self, make: Callable[[tuple[Layer, ...]], DerivedT]) -> None:
        self._make = make
        self._made: dict[int, tuple[tuple[Layer, ...], DerivedT]] = {}

    def of(self, record: StepRecord) -> DerivedT:
        """What was made from the layers of this record."""
        made = self._made.get(record.optimizer)
        if made is None or made[0] is not record.layers:
            made = self._made[record.optimizer] = record.layers, self._make(record.layers)
        return made[1]


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {item.name: _to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, (tuple, list)) else dict(value) if isinstance(value, dict) else value


def _from_plain(default: Any, plain: Any) -> Any:
    """``plain`` in the types of ``default``."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        changes = {key: _from_plain(getattr(default, key), value) for key, value in plain.items()}
        return dataclasses.replace(default, **changes)
    return np.array(plain, dtype=np.float64) if isinstance(default, np.ndarray) else type(default)(plain)
