"""What watching costs: measured, not estimated."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")


class Price:
    """Seconds spent inside a watch, and seconds from its first event to its last.

    Args:
        clock: Reads seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.watch_seconds = 0.0
        self._began: float | None = None
        self._ended = 0.0

    @property
    def run_seconds(self) -> float:
        """Wall-clock time over which the watch was at work."""
        return 0.0 if self._began is None else self._ended - self._began

    def start(self) -> float:
        """An event begins."""
        now = self.clock()
        self._began = now if self._began is None else self._began
        return now

    def stop(self, start: float) -> None:
        """It is over."""
        self._ended = self.clock()
        self.watch_seconds += self._ended - start

    def add(self, seconds: float) -> None:
        """Spent between two events, by a probe."""
        self.watch_seconds += seconds


class Priced(Protocol):
    """Something that keeps account of itself."""

    price: Price


S = TypeVar("S", bound=Priced)


def event(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """A method that runs one at a time, without autograd, and is accounted for."""

    @functools.wraps(method)
    def accounted(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        price = self.price
        with price.lock:
            start = price.start()
            try:
                if torch.is_grad_enabled():
                    with torch.no_grad():
                        method(self, *args, **kwargs)
                else:
                    method(self, *args, **kwargs)
            finally:
                price.stop(start)

    return accounted  # type: ignore[return-value]  # mypy does not see a method in what wraps() returns
