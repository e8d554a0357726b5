"""Steps on their way into a log: taken at once, encoded a batch at a time, written by a thread of their own.

Between two steps of a training everything that a writer needs has left the processor's caches: encoding a step by
itself takes several times as long as encoding it as one of sixteen. And a disk may be slow, or far away: whoever
trains must not wait for it. The thread does what waits (and what has become too old); it does no Python work of any
length, because the training would wait for that, too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

STEPS_A_BATCH = 16
"""Steps that are encoded together."""

STEPS_ON_THE_WAY = 64
"""Steps for which the thread is woken: it takes turns with the training for Python's lock. At first it is woken for
fewer (1, 2, 4, ...): most faults are there, and so are most kills."""

SECONDS_ON_THE_WAY = 2.0
"""No step waits much longer than this to be handed to the operating system, also when no other follows."""

Item = TypeVar("Item")


class Courier(Generic[Item]):
    """Collects items and sees that they are written: in order, and none twice.

    A kill loses at most the last :data:`STEPS_ON_THE_WAY` items (and those that are just being written), none of them
    much older than :data:`SECONDS_ON_THE_WAY`; :meth:`flush` is for what must not be lost. An error of the thread's is
    raised by the next call.

    Args:
        encode: Takes the items of a batch, in order; must not wait for anything. One thread at a time calls it.
        deliver: Writes what was encoded so far; may wait. Several threads may call it at a time.
    """

    def __init__(self, encode: Callable[[Sequence[Item]], None], deliver: Callable[[], None]) -> None:
        self.lock = threading.RLock()
        """Held while something is encoded."""
        self._encode = encode
        self._deliver = deliver
        self._waiting: list[Item] = []
        self._since = 0.0
        self._on_the_way, self._enough = 0, 1
        self._wake = threading.Event()
        self._closed = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def add(self, item: Item) -> None:
        """Take one item; it is written soon."""
        with self.lock:
            self._raise()
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(item)
            if self._thread is None or not self._thread.is_alive():  # a fork has no threads
                self._thread = threading.Thread(target=self._work, name="gradwatch-writer", daemon=True)
                self._thread.start()
            self._on_the_way += 1
            due = self._on_the_way >= self._enough or self._is_late()
            if due or len(self._waiting) >= STEPS_A_BATCH:
                self.encode()
            if due:
                self._on_the_way, self._enough = 0, min(2 * self._enough, STEPS_ON_THE_WAY)
                self._wake.set()

    def encode(self) -> None:
        """Encode what waits, so that it stands before what comes next."""
        with self.lock:
            if self._waiting:
                waiting, self._waiting = self._waiting, []
                self._encode(waiting)

    def flush(self) -> None:
        """Encode and write everything; it has been handed to the operating system when this returns."""
        self.encode()
        self._deliver()
        self._raise()

    def close(self) -> None:
        """Flush and stop."""
        self.stop()
        self.flush()

    def stop(self) -> None:
        """End the thread; what it has not written waits for :meth:`flush`."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._process == os.getpid():
            self._thread.join()

    def abandon(self) -> None:
        """Nobody holds the writer any more, or the process ends: save what there is; nobody can be told of an error."""
        if self._process != os.getpid():
            return  # a copy that a fork has left in a child: the parent writes all this itself
        with contextlib.suppress(Exception):
            self.close()

    def _is_late(self) -> bool:
        return time.monotonic() - self._since >= SECONDS_ON_THE_WAY

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait(SECONDS_ON_THE_WAY / 2)
            self._wake.clear()
            try:
                with self.lock:
                    if self._waiting and self._is_late():
                        self.encode()
                self._deliver()
            except Exception as error:  # noqa: BLE001 - whoever comes next is told
                self._error = error
                return
