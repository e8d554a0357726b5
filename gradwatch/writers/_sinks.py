"""Where events go: a file of our own, or the training's own ``SummaryWriter``."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from typing import Any, Protocol

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event

from gradwatch.errors import ArgumentTypeError, LogdirError
from gradwatch.writers._events import StepEvent

SECONDS_BETWEEN_FLUSHES = 5.0

_counter = itertools.count()


class Sink(Protocol):
    """Takes events."""

    def add(self, event: StepEvent) -> None:
        """Take one event with its step."""

    def flush(self) -> None:
        """Hand everything to the operating system."""

    def close(self) -> None:
        """Flush and let go."""


class EventFile:
    """A new event file. Written at once and not by a thread: that thread and the training would wait for each other.

    Args:
        logdir: A local directory; made where it is missing.
    """

    def __init__(self, logdir: str) -> None:
        os.makedirs(logdir, exist_ok=True)  # noqa: PTH103
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter)}.gradwatch"
        path = os.path.join(logdir, f"events.out.tfevents.{name}")  # noqa: PTH118
        self._file = open(path, "xb")  # noqa: PTH123, SIM115
        self._flushed_at = time.monotonic()
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        self.flush()

    def add(self, event: StepEvent) -> None:
        """Append one event."""
        self._append(event.encode(time.time()))

    def _append(self, data: bytes) -> None:
        """One record: length, its checksum, the event, its checksum."""
        length = struct.pack("<Q", len(data))
        checks = struct.pack("<I", _masked_crc(length)), struct.pack("<I", _masked_crc(data))
        self._file.write(length + checks[0] + data + checks[1])
        if time.monotonic() - self._flushed_at > SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Borrowed:
    """The training's own writer: flushed, never closed."""

    def __init__(self, summary_writer: object) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not isinstance(summary_writer, SummaryWriter):
            raise ArgumentTypeError("summary_writer", summary_writer, "a torch.utils.tensorboard.SummaryWriter")
        self._writer: Any = summary_writer  # torch annotates neither that file_writer may be None nor its getter

    def add(self, event: StepEvent) -> None:
        """Hand one event to the writer's only file."""
        if self._writer.file_writer is None:
            # torch would open a second event file: TensorBoard's Python loader then stops at the first one's end.
            raise LogdirError("gradwatch: summary_writer was closed before the watch; close the watch first")
        self._writer._get_file_writer().add_event(Event.FromString(event.encode(time.time())), event.step)  # noqa: SLF001

    def flush(self) -> None:
        """Hand everything to the operating system."""
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
