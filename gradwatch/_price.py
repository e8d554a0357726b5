"""What watching costs: measured, not estimated."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")

CLOCK: Callable[[], float] = time.perf_counter
"""Reads seconds."""

_local = threading.local()


def arrives() -> float:
    """When news of the training has arrived: for :func:`leading_to_events`."""
    return CLOCK()


@contextlib.contextmanager
def leading_to_events(arrived: float) -> Iterator[None]:
    """Within, this thread's next event is what the news has led to: finding out whom it concerns is in its price."""
    _local.arrived = arrived
    try:
        yield
    finally:
        _local.__dict__.pop("arrived", None)


class Price:
    """Seconds spent inside a watch, and seconds from its first event to its last.

    They are those that the training waits. What is not among them: the writer's thread, which works beside it (a few
    microseconds a step), and what the training has lost from the processor's caches.

    Args:
        clock: Reads seconds, by default :data:`CLOCK`.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = CLOCK if clock is None else clock
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
        arrived = _local.__dict__.pop("arrived", None)
        now = self.clock() if arrived is None or self.clock is not CLOCK else arrived
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
