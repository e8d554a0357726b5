"""What the detectors share: a memory for each optimizer, saved with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from gradwatch._memory import Memory

StateT = TypeVar("StateT")


class Remembering(Generic[StateT]):
    """A detector that remembers one state for each optimizer.

    Args:
        new: Makes the state of an optimizer that has not stepped yet.
    """

    def __init__(self, new: Callable[[], StateT]) -> None:
        self._memory = Memory(new)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)
