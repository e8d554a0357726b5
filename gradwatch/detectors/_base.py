"""What the detectors share: what they derive from a step, and a memory for each optimizer, saved with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from gradwatch._baselines import Course
from gradwatch._depth import DepthProfiles
from gradwatch._memory import Memory
from gradwatch._scene import Forward
from gradwatch._signal import SignalProfiles
from gradwatch._weights import Weights

StateT = TypeVar("StateT")


class Shared:
    """What several detectors ask of each step: worked out once for all of them that share it."""

    def __init__(self) -> None:
        self.course = Course()
        self.depth = DepthProfiles()
        self.weights = Weights()
        self.forward = Forward()
        self.signal = SignalProfiles(self.forward)


class Remembering(Generic[StateT]):
    """A detector that remembers one state for each optimizer.

    Args:
        shared: What it shares with others; by default its own.
    """

    new_state: ClassVar[Callable[[], Any]]
    """Makes the state of an optimizer that has not stepped yet."""

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = shared = shared or Shared()
        self._course, self._depth, self._weights = shared.course, shared.depth, shared.weights
        self._forward, self._signal = shared.forward, shared.signal
        self._memory: Memory[StateT] = Memory(type(self).new_state)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)
