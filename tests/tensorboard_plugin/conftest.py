"""One log directory and one TensorBoard of each kind for all tests of the tab."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import planted
import pytest
from boards import board


@dataclass
class Runs:
    """What was written.

    Attributes:
        logdir: Where.
        last: The last step of each run.
        incidents: How many each has.
        norms: Of the planted ones every norm.
    """

    logdir: Path
    last: dict[str, int] = field(default_factory=dict)
    incidents: dict[str, int] = field(default_factory=dict)
    norms: dict[str, np.ndarray] = field(default_factory=dict)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Every kind of run."""
    made = Runs(tmp_path_factory.mktemp("runs"))
    for name, make in (
        ("sick", planted.sick),
        ("blown_up", planted.blown_up),
        ("recurrent", planted.recurrent),
        ("two", planted.two_optimizers),
    ):
        made.incidents[name] = len(make(made.logdir / name))
    made.last |= {"sick": 39, "blown_up": 39, "recurrent": 29, "two": 19}
    made.norms["spikes"] = planted.spiky(made.logdir / "spikes", 40, 2000, planted.SPIKES)
    planted.resumed(made.logdir / "resumed")
    planted.killed(made.logdir / "killed")
    planted.hostile(made.logdir / planted.HOSTILE_RUN)
    made.last |= {"spikes": 1999, "resumed": 69, "killed": 25, planted.HOSTILE_RUN: 11}
    made.incidents |= {"spikes": 2, "resumed": 4, "killed": 6, planted.HOSTILE_RUN: 1}
    return made


@pytest.fixture(scope="session")
def fast_board(runs):
    """TensorBoard as it is started by default."""
    with board(runs.logdir) as running:
        running.wait_for(runs.last)
        yield running


@pytest.fixture(scope="session")
def slow_board(runs):
    """TensorBoard with the loader in Python."""
    with board(runs.logdir, "--load_fast=false") as running:
        running.wait_for(runs.last)
        yield running


@pytest.fixture(params=["fast_board", "slow_board"])
def any_board(request):
    """Both."""
    return request.getfixturevalue(request.param)
