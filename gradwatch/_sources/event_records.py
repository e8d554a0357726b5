"""The records of an event file, checksums checked: whatever is damaged is passed over and said in words.

TensorBoard's own reader stops for good at the first damaged record, and its checksums are pure Python.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import google_crc32c

_HEADER, _FOOTER = 12, 4
_SEARCH = 2**24  # bytes looked through in a file for the next whole record
_MAX_RECORD = 2**30


def looks_like_events(path: str | os.PathLike[str]) -> bool:
    """Whether it begins as an event file does."""
    with open(path, "rb") as file:  # noqa: PTH123
        return _length(file.read(_HEADER)) is not None


@dataclass
class EventRecords:
    """The payloads of one event file.

    Attributes:
        path: The file.
        skipped: In words, what has been passed over so far.
    """

    path: str
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[bytes]:
        """Every whole record; an ``OSError`` where the file cannot be read."""
        name = os.path.basename(self.path)  # noqa: PTH119
        with open(self.path, "rb") as file:  # noqa: PTH123
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                self.skipped.append(f"{name}: empty; the run has not come to write anything")
                return
            if _length(file.read(_HEADER)) is None:
                torn = "torn off before its first record" if size < _HEADER else "no event file"
                self.skipped.append(f"{name}: {torn}")
                return
            file.seek(0)
            yield from self._records(file, size, name)

    def _records(self, file: BinaryIO, size: int, name: str) -> Iterator[bytes]:
        searched = 0
        while (start := file.tell()) < size:
            length = _length(file.read(_HEADER))
            if length is not None and start + _HEADER + length + _FOOTER > size:
                self.skipped.append(f"{name}: the last record is torn off, by a kill or because it is being written")
                return
            data = b"" if length is None else file.read(length)
            if length is not None and _checks(data, file.read(_FOOTER)):
                yield data
                continue
            found = None
            if searched < _SEARCH:
                found, looked_at = _next_record(file, start + 1, min(size, start + _SEARCH - searched))
                searched += looked_at
            what = f"{(size if found is None else found) - start:,} damaged bytes at byte {start:,}"
            if found is None:
                self.skipped.append(f"{name}: {what}, and nothing readable after them")
                return
            self.skipped.append(f"{name}: {what}")
            file.seek(found)


def _next_record(file: BinaryIO, start: int, end: int) -> tuple[int | None, int]:
    """Where the next whole record begins, and how many bytes were looked at."""
    file.seek(start)
    window = file.read(end - start)
    for offset in range(len(window) - _HEADER + 1):
        length = _length(window[offset : offset + _HEADER])
        if length is None:
            continue
        file.seek(start + offset + _HEADER)
        data = file.read(length)
        if len(data) == length and _checks(data, file.read(_FOOTER)):
            return start + offset, offset
    return None, len(window)


def _length(header: bytes) -> int | None:
    """The record's length; None where this is no header."""
    if len(header) < _HEADER or not _checks(header[:8], header[8:]):
        return None
    length = int(struct.unpack("<Q", header[:8])[0])
    return length if length <= _MAX_RECORD else None


def _checks(data: bytes, checksum: bytes) -> bool:
    """Whether TensorFlow's masked CRC-32C fits."""
    crc = int(google_crc32c.value(data))
    return checksum == struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
