"""For all tests: one thread, so that runs are comparable and two cores do not fight."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()  # a test that compiled would leave the forward probe blind in all that follow
    torch.set_num_threads(1)
    torch.manual_seed(0)
