"""The values that make up a TensorBoard event, built by hand: torch's ``add_tensor`` sets no data class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING

from gradwatch.tensorboard_plugin.metadata import PLUGIN_NAME, to_float32
from gradwatch.writers._picture import Picture


def event(step: int, values: Sequence[Any]) -> Any:
    """One event with several values."""
    return Event(step=step, summary=Summary(value=values))


def packed(tag: str, values: Any, content: bytes | None) -> Any:
    """A value a layer as little-endian float32.

    Args:
        tag: The tag.
        values: Shape ``[num_layers]``.
        content: Metadata of the tag's first event, None afterwards.
    """
    tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=_shape(len(values)), tensor_content=to_float32(values).tobytes())
    return Summary.Value(tag=tag, tensor=tensor, metadata=_metadata(PLUGIN_NAME, content))


def strings(tag: str, texts: Sequence[str], content: bytes | None) -> Any:
    """Strings of JSON, shape ``[len(texts)]``."""
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(len(texts)), string_val=[text.encode() for text in texts])
    return Summary.Value(tag=tag, tensor=tensor, metadata=_metadata(PLUGIN_NAME, content))


def scalar(tag: str, value: float) -> Any:
    """A plain scalar, in the form that torch writes and every reader knows."""
    return Summary.Value(tag=tag, simple_value=value)


def text(tag: str, page: str) -> Any:
    """A page of Markdown for the Text page."""
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape(), string_val=[page.encode()])
    return Summary.Value(tag=tag, tensor=tensor, metadata=_metadata("text", b""))


def image(tag: str, picture: Picture) -> Any:
    """A PNG for the Images page."""
    encoded = Summary.Image(height=picture.height, width=picture.width, colorspace=4, encoded_image_string=picture.png)
    return Summary.Value(tag=tag, image=encoded)


def _shape(*sizes: int) -> Any:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def _metadata(plugin: str, content: bytes | None) -> Any:
    """TensorBoard reads the metadata of a tag's first event only, and hides a tag without a data class."""
    if content is None:
        return None
    data = SummaryMetadata.PluginData(plugin_name=plugin, content=content)
    return SummaryMetadata(plugin_data=data, data_class=DATA_CLASS_TENSOR)
