"""The checksum of event files."""

from __future__ import annotations

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from gradwatch.writers._crc32c import crc32c, masked_crc32c


def test_known_value():
    """The check value of the standard comes out."""
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, 1023, 1024, 1025, 1027, 5000])
def test_as_tensorboard(size):
    """Any length gives what TensorBoard's own code gives."""
    data = np.random.default_rng(size).bytes(size)
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)
