"""Every test here must leave torch as it found it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from helpers import torch_as_it_is


@pytest.fixture(autouse=True)
def _torch_stays_untouched() -> Iterator[None]:
    before = torch_as_it_is()
    yield
    if torch_as_it_is() != before:
        gc.collect()  # a watch may only be waiting for the garbage collector
    assert torch_as_it_is() == before, "hooks or patches were left behind"
