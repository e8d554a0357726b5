"""The event files of one log directory as a store of packed tags, read without torch and without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwatch._sources.event_records import EventRecords
from gradwatch.tensorboard_plugin.metadata import PLUGIN_NAME, parse_tag

_PREFIX = f"{PLUGIN_NAME}/v"


@dataclass
class _Tag:
    content: bytes = b""
    steps: list[int] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    texts: list[tuple[int, Sequence[str]]] = field(default_factory=list)


class EventFiles:
    """The gradwatch tags of some event files, all in memory (:class:`gradwatch._sources.packed.Store`).

    Args:
        paths: The files, in order of time.

    Attributes:
        skipped: In words, what could not be read.

    Raises:
        OSError: A file cannot be opened.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        self.skipped: list[str] = []
        self._tags: dict[str, _Tag] = {}
        self._numbers: dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
        for path in paths:
            self._read(os.fspath(path))

    def contents(self) -> Mapping[str, bytes]:
        """Every tag with the plugin content of its first event."""
        return {name: tag.content for name, tag in self._tags.items()}

    def numbers(self, tag: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps and rows of a packed statistic; rows of another width than most are damage, and left out."""
        if tag not in self._numbers:
            self._numbers[tag] = self._stacked(tag)
        return self._numbers[tag]

    def _stacked(self, tag: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        held = self._tags[tag]
        widths = [len(row) for row in held.rows]
        width = max(set(widths), key=widths.count, default=0)
        kept = [index for index, size in enumerate(widths) if size == width]
        if len(kept) < len(widths):
            self.skipped.append(f"{tag}: {len(widths) - len(kept):,} rows of another length")
        steps = np.array([held.steps[index] for index in kept], dtype=np.int64)
        values = np.frombuffer(b"".join(held.rows[index] for index in kept), dtype="<f4")
        held.rows.clear()
        return steps, values.reshape(len(kept), width // 4).astype(np.float32, copy=False)

    def texts(self, tag: str) -> Iterable[tuple[int, Sequence[str]]]:
        """Step and strings of each event."""
        return self._tags[tag].texts

    def _read(self, path: str) -> None:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event

        records, name, foreign = EventRecords(path), os.path.basename(path), 0  # noqa: PTH119
        for data in records:
            if _PREFIX.encode() not in data:  # most events of a user's own writer: nothing of ours to decode
                continue
            try:
                event = Event.FromString(data)
            except DecodeError:
                foreign += 1
                continue
            for value in event.summary.value:
                self._keep(event.step, value)
        if foreign:
            records.skipped.append(f"{name}: {foreign:,} records that are no events")
        self.skipped += records.skipped

    def _keep(self, step: int, value: Any) -> None:
        if not value.tag.startswith(_PREFIX) or parse_tag(value.tag) is None:
            return
        if value.metadata.plugin_data.plugin_name not in ("", PLUGIN_NAME) or not value.HasField("tensor"):
            return  # somebody else's, by a name like ours
        tag = self._tags.setdefault(value.tag, _Tag())
        if value.metadata.plugin_data.content and not tag.content:
            tag.content = value.metadata.plugin_data.content
        tensor = value.tensor
        if tensor.string_val:
            tag.texts.append((step, [text.decode("utf-8", "replace") for text in tensor.string_val]))
        elif len(tensor.tensor_content) % 4 == 0:
            tag.steps.append(step)
            tag.rows.append(tensor.tensor_content)
