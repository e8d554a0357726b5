"""Events put together by hand are the ones that protobuf would have made."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util.tensor_util import make_ndarray

from gradwatch.writers import _events


def _by_protobuf(tag, values, content):
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(values))])
    tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=shape, tensor_content=values.tobytes())
    metadata = None
    if content is not None:
        data = SummaryMetadata.PluginData(plugin_name="gradwatch", content=content)
        metadata = SummaryMetadata(plugin_data=data, data_class=DATA_CLASS_TENSOR)
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


@pytest.mark.parametrize("step", [0, 1, 127, 128, 20_000, 2**40, -1])
@pytest.mark.parametrize("size", [1, 3, 127, 128, 5000])
@pytest.mark.parametrize("content", [None, b"", b"{}" * 300])
def test_an_event_is_what_protobuf_makes(step, size, content):
    """Steps and lengths on both sides of a byte's border, with metadata and without."""
    values = np.random.default_rng(size).normal(size=size).astype("<f4")
    tag, plain = "gradwatch/v1/ü/0/grad_norm/00000", "gradwatch/log10 gradient norm"
    made = _events.event(step, [_events.packed(tag, values, content), _events.scalar(plain, -2.5)]).encode(1e9)
    expected = [_by_protobuf(tag, values, content), Summary.Value(tag=plain, simple_value=-2.5)]
    assert Event.FromString(made) == Event(wall_time=1e9, step=step, summary=Summary(value=expected))
    assert (make_ndarray(Event.FromString(made).summary.value[0].tensor) == values).all()


def test_what_is_not_finite_stays_so():
    """NaN and infinities are what the log is read for; zero is a value like any other."""
    for value in (math.nan, math.inf, -math.inf, 0.0):
        (read,) = Event.FromString(_events.event(3, [_events.scalar("a", value)]).encode(0.0)).summary.value
        assert read.WhichOneof("value") == "simple_value"
        assert np.array_equal(read.simple_value, value, equal_nan=True)


def test_texts_and_pictures_are_ordinary_values():
    """What is written seldom is built by protobuf itself and goes the same way."""
    made = _events.event(1, [_events.strings("a", ["x", "y"], b"{}"), _events.text("b", "# page")]).encode(0.0)
    strings, page = Event.FromString(made).summary.value
    assert list(strings.tensor.string_val) == [b"x", b"y"]
    assert strings.metadata.plugin_data.plugin_name == "gradwatch"
    assert page.metadata.plugin_data.plugin_name == "text"
