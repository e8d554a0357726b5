"""What was read or computed once is kept, up to so many bytes; the same thing is never read twice at the same time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Cache(Generic[T]):
    """The least recently used goes first.

    Args:
        max_bytes: What all values together may take. A value that alone takes more is handed out and not kept.
        size: Bytes of a value.
    """

    def __init__(self, max_bytes: int, size: Callable[[T], int]) -> None:
        self._max_bytes, self._size = max_bytes, size
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._coming: dict[Hashable, Future[T]] = {}
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made where it is not known. Others that ask meanwhile wait for the same value."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key][0]
            coming = self._coming.get(key)
            if coming is None:
                mine = self._coming[key] = Future()
        if coming is not None:
            return coming.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._keep(key, value)
        mine.set_result(value)
        return value

    def peek(self, key: Hashable) -> T | None:
        """The value of ``key`` where it is known."""
        with self._lock:
            known = self._known.get(key)
            return None if known is None else known[0]

    def _keep(self, key: Hashable, value: T) -> None:
        size = self._size(value)
        if size > self._max_bytes:
            return
        self._known[key] = value, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, gone) = self._known.popitem(last=False)
            self._bytes -= gone
