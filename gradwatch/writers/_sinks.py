"""Where events go: a file of our own, or the training's own ``SummaryWriter``."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
import time
from collections import deque
from typing import Any, Protocol

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from gradwatch.errors import ArgumentTypeError, LogdirError
from gradwatch.writers._events import StepEvent

_MOST_BYTES = 1 << 28
"""What may wait for a disk that does not answer."""

_MOST_EVENTS = 1_000
"""What may wait for a ``SummaryWriter`` that is slower than the training; then the training waits for it, as it would
with ``add_scalar``."""

_counter = itertools.count()


class Sink(Protocol):
    """Takes events. One thread at a time adds; any may deliver, flush and close."""

    def check(self) -> None:
        """Raise where nothing can be written any more."""

    def add(self, event: StepEvent, wall_time: float | None = None) -> None:
        """Take one event with its step and its time (by default now); does not wait for a disk."""

    def deliver(self) -> None:
        """Write what was added: soon after, and by a thread that may wait."""

    def flush(self) -> None:
        """Hand everything to the operating system."""

    def close(self) -> None:
        """Flush and let go."""


class EventFile:
    """A new event file. What is added is kept in memory until somebody delivers it.

    Args:
        logdir: A local directory; made where it is missing.
    """

    def __init__(self, logdir: str) -> None:
        os.makedirs(logdir, exist_ok=True)  # noqa: PTH103
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter)}.gradwatch"
        path = os.path.join(logdir, f"events.out.tfevents.{name}")  # noqa: PTH118
        self._file = open(path, "xb")  # noqa: PTH123, SIM115
        self._adding, self._writing = threading.Lock(), threading.Lock()
        self._waiting: list[bytes] = []
        self._num_bytes = 0
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self.flush()

    def check(self) -> None:
        """It is ours, and stays open."""

    def add(self, event: StepEvent, wall_time: float | None = None) -> None:
        """Append one event."""
        self._append(event.encode(time.time() if wall_time is None else wall_time))

    def _append(self, data: bytes) -> None:
        """One record: length, its checksum, the event, its checksum."""
        length = struct.pack("<Q", len(data))
        checks = struct.pack("<I", _masked_crc(length)), struct.pack("<I", _masked_crc(data))
        with self._adding:
            self._waiting.append(length + checks[0] + data + checks[1])
            self._num_bytes += len(data)
        if self._num_bytes > _MOST_BYTES:
            raise LogdirError(
                f"gradwatch: {self._file.name!r} has taken nothing for so long that {_MOST_BYTES >> 20} MiB wait for it"
            )

    def deliver(self) -> None:
        """Write what was added."""
        with self._writing:
            with self._adding:
                waiting, self._waiting, self._num_bytes = self._waiting, [], 0
            if waiting:
                self._file.write(b"".join(waiting))
                self._file.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.deliver()

    def close(self) -> None:
        """Close the file."""
        self.deliver()
        self._file.close()


class Borrowed:
    """The training's own writer: flushed, never closed.

    Its queue holds ten events, and its thread takes a third of a millisecond for the checksum of one: handed over in
    batches by the training itself, they would make it wait.
    """

    def __init__(self, summary_writer: object) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not isinstance(summary_writer, SummaryWriter):
            raise ArgumentTypeError("summary_writer", summary_writer, "a torch.utils.tensorboard.SummaryWriter")
        self._writer: Any = summary_writer  # torch annotates neither that file_writer may be None nor its getter
        self._writing = threading.Lock()
        self._waiting: deque[tuple[StepEvent, float]] = deque()

    def check(self) -> None:
        """Raise where the user has closed it."""
        if self._writer.file_writer is None:
            # torch would open a second event file: TensorBoard's Python loader then stops at the first one's end.
            raise LogdirError("gradwatch: summary_writer was closed before the watch; close the watch first")

    def add(self, event: StepEvent, wall_time: float | None = None) -> None:
        """Keep one event for the writer's only file."""
        self._waiting.append((event, time.time() if wall_time is None else wall_time))
        if len(self._waiting) > _MOST_EVENTS:
            self.deliver()

    def deliver(self) -> None:
        """Hand over what was added."""
        with self._writing:
            while self._waiting:
                self.check()
                event, wall_time = self._waiting.popleft()
                message = Event.FromString(event.encode(wall_time))
                self._writer._get_file_writer().add_event(message, event.step, wall_time)  # noqa: SLF001

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.deliver()
        if self._writer.file_writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush: the writer belongs to the training."""
        self.flush()


def open_logdir(logdir: object) -> Sink:
    """A new event file in ``logdir``.

    Raises:
        ArgumentTypeError: It is no path.
        LogdirError: It cannot be written.
    """
    if not isinstance(logdir, (str, os.PathLike)):
        raise ArgumentTypeError("logdir", logdir, "a path of a directory")
    path = str(os.fspath(logdir))
    try:
        if "://" in path:  # a bucket: TensorBoard's own file systems know how
            from torch.utils.tensorboard import SummaryWriter

            return Borrowed(SummaryWriter(path))
        return EventFile(path)
    except OSError as error:
        why = "it is a file, not a directory" if os.path.isfile(path) else error.strerror or error  # noqa: PTH113
        raise LogdirError(
            f"gradwatch: logdir={path!r} cannot be written ({why}): "
            "give a directory that exists or can be made, and that this process may write to"
        ) from error


def _masked_crc(data: bytes) -> int:
    """The CRC-32C, rotated and shifted as TensorFlow's record format wants it."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
