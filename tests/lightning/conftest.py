"""Every test here begins with the same random numbers, trains on the CPU, and must leave torch as it found it."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from fits import PACKAGES
from helpers import torch_as_it_is

LIGHTNINGS_OWN_WARNINGS = [
    "ignore:The '.*dataloader' does not have many workers",  # two batches of eight numbers need none
    "ignore:The number of training batches:UserWarning",  # fewer batches than log_every_n_steps: tests are short
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning 2.6.6 on torch 2.13
    "ignore:You defined a `validation_step` but have no `val_dataloader`",  # one module for all tests
    "ignore:Starting from v1.9.0, `tensorboardX` has been removed",  # what is installed beside does not matter
    "ignore:Be aware that when using `ckpt_path`(?!.*GradWatch)",  # no second ModelCheckpoint where we resume
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nothing but these passes: every other warning, Lightning's included, fails the test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in LIGHTNINGS_OWN_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(params=PACKAGES, ids=lambda package: package.__name__)
def pl(request: pytest.FixtureRequest) -> Any:
    """``lightning.pytorch`` and ``pytorch_lightning``."""
    return request.param


@pytest.fixture(autouse=True)
def _seeded_and_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for package in PACKAGES:
        logging.getLogger(package.__name__).setLevel(logging.ERROR)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    before, ctrl_c = torch_as_it_is(), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, ctrl_c)  # Lightning ignores it from the first one on
    gc.collect()
    assert torch_as_it_is() == before, "hooks or patches were left behind"
