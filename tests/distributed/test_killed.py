"""A rank is killed, as the kernel does it when memory is short: what was found so far can be read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import placements
import pytest
from plans import Plan, together
from ranks import launch
from test_faults import BAD_STEP, bad_rows_on_rank_1
from torch import distributed as dist
from torch import nn

import gradwatch
from gradwatch.writers.jsonl import JSONLWriter

LAST_STEP = BAD_STEP + 2


class Killing:
    """Kills a rank once the gradients of a step are complete. Picklable."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, model: nn.Module, step: int) -> None:
        """Called by the training."""
        if step == LAST_STEP and dist.get_rank() == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(place: Any, victim: int, folder: Path, kind: str) -> str:
    """What the training ends with on a rank that lives on."""
    plan = Plan(num_steps=LAST_STEP + 3, spoil=bad_rows_on_rank_1, tamper=Killing(victim))
    watch: dict[str, Any] = {"logdir": folder} if kind == "tensorboard" else {"writers": [JSONLWriter(folder / "run")]}
    try:
        together(place, replace(plan, watch=watch))
    except RuntimeError as error:  # gloo's own: its peer is gone
        return type(error).__name__
    return "trained on"


@pytest.mark.parametrize("kind", ["tensorboard", "jsonl"])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("place", [placements.ddp, placements.fsdp2])
def test_the_log_holds_what_was_found_before(place, victim, kind, tmp_path):
    """Whichever rank dies, the one that writes included; the others end with the error of their own next step."""
    outcomes = launch(killed, place, victim, tmp_path, kind, doomed=frozenset({victim}), limit=30)
    assert outcomes[victim].exit_code == -signal.SIGKILL
    assert outcomes[1 - victim].value == "RuntimeError"
    path = tmp_path if kind == "tensorboard" else tmp_path / "run"
    recording = gradwatch.recording.read(path)
    (found,) = [incident for incident in recording.incidents if incident.kind == "nonfinite"]
    assert found.step == BAD_STEP
    steps = recording.table("grad_norm").steps
    assert list(steps) == list(range(len(steps)))
    assert len(steps) > BAD_STEP
    report = [sys.executable, "-W", "error", "-m", "gradwatch", "report", str(path)]
    done = subprocess.run(report, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"step {BAD_STEP}" in done.stdout
    assert "NaN" in done.stdout
