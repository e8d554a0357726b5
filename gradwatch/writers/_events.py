"""The values that make up a TensorBoard event, built by hand: torch's ``add_tensor`` sets no data class.

What comes at every step (packed statistics and plain scalars) is put into protobuf's wire format here. Building one
message object for each field takes five times as long, and a step must not notice that it is written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING

from gradwatch.tensorboard_plugin.metadata import PLUGIN_NAME, to_float32
from gradwatch.writers._picture import Picture

# A field is its number and the kind of its content in one byte, then the content.
_EVENT_WALL_TIME, _EVENT_STEP, _EVENT_SUMMARY = b"\x09", b"\x10", b"\x2a"
_SUMMARY_VALUE = b"\x0a"
_VALUE_TAG, _VALUE_SIMPLE, _VALUE_TENSOR, _VALUE_METADATA = b"\x0a", b"\x15", b"\x42", b"\x4a"
_TENSOR_FLOAT, _TENSOR_SHAPE, _TENSOR_CONTENT = b"\x08\x01", b"\x12", b"\x22"
_SHAPE_DIM, _DIM_SIZE = b"\x12", b"\x08"

_FLOAT = struct.Struct("<f")


@dataclass(frozen=True)
class StepEvent:
    """One event with several values, each a field of ``Summary``: an encoded ``Summary.Value`` with its size."""

    step: int
    values: Sequence[bytes]

    def encode(self, wall_time: float) -> bytes:
        """An encoded ``Event``."""
        summary = b"".join(self.values)
        step = _EVENT_STEP + _varint(self.step) if self.step else b""
        return _EVENT_WALL_TIME + struct.pack("<d", wall_time) + step + _sized(_EVENT_SUMMARY, summary)


def event(step: int, values: Iterable[bytes]) -> StepEvent:
    """One event with several values."""
    return StepEvent(step, tuple(values))


def packed(tag: str, values: Any, content: bytes | None) -> bytes:
    """A value a layer as little-endian float32.

    Args:
        tag: The tag.
        values: Shape ``[num_layers]``.
        content: Metadata of the tag's first event, None afterwards.
    """
    row = to_float32(values)
    return packed_head(tag, len(row), content) + row.tobytes()


def packed_head(tag: str, size: int, content: bytes | None = None) -> bytes:
    """What stands before the ``size`` float32 of a packed row; the same at every step."""
    row = 4 * size
    tensor = _float_head(size) + _TENSOR_CONTENT + _varint(row)
    metadata = b"" if content is None else _sized(_VALUE_METADATA, _metadata(PLUGIN_NAME, content).SerializeToString())
    value = _head(tag) + metadata + _VALUE_TENSOR + _varint(len(tensor) + row) + tensor
    return _SUMMARY_VALUE + _varint(len(value) + row) + value


def strings(tag: str, texts: Sequence[str], content: bytes | None) -> bytes:
    """Strings of JSON, shape ``[len(texts)]``."""
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(len(texts)), string_val=[text.encode() for text in texts])
    metadata = None if content is None else _metadata(PLUGIN_NAME, content)
    return _encoded(Summary.Value(tag=tag, tensor=tensor, metadata=metadata))


def scalar(tag: str, value: float) -> bytes:
    """A plain scalar, in the form that torch writes and every reader knows."""
    return _scalar_head(tag) + _FLOAT.pack(value)


def text(tag: str, page: str) -> bytes:
    """A page of Markdown for the Text page."""
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(), string_val=[page.encode()])
    return _encoded(Summary.Value(tag=tag, tensor=tensor, metadata=_metadata("text", b"")))


def image(tag: str, picture: Picture) -> bytes:
    """A PNG for the Images page."""
    encoded = Summary.Image(height=picture.height, width=picture.width, colorspace=4, encoded_image_string=picture.png)
    return _encoded(Summary.Value(tag=tag, image=encoded))


def _encoded(message: Any) -> bytes:
    return _sized(_SUMMARY_VALUE, message.SerializeToString())


def _sized(field: bytes, content: bytes) -> bytes:
    return field + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; a negative number has 64 bits."""
    number &= 0xFFFF_FFFF_FFFF_FFFF
    if number < 0x80:  # noqa: PLR2004 - one byte holds it, as most
        return bytes((number,))
    parts = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - more is to come
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


@lru_cache(maxsize=256)
def _head(tag: str) -> bytes:
    return _sized(_VALUE_TAG, tag.encode())


@lru_cache(maxsize=256)
def _scalar_head(tag: str) -> bytes:
    head = _head(tag) + _VALUE_SIMPLE
    return _SUMMARY_VALUE + _varint(len(head) + _FLOAT.size) + head


@lru_cache(maxsize=256)
def _float_head(size: int) -> bytes:
    dim = _sized(_SHAPE_DIM, _DIM_SIZE + _varint(size))
    return _TENSOR_FLOAT + _sized(_TENSOR_SHAPE, dim)


def _shape(*sizes: int) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _metadata(plugin: str, content: bytes) -> Any:
    """TensorBoard reads the metadata of a tag's first event only, and hides a tag without a data class."""
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return SummaryMetadata(plugin_data=data, data_class=DATA_CLASS_TENSOR)
