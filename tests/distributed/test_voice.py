"""One voice: the first rank alone writes and prints, and every rank can be asked."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import placements
import pytest
from plans import Plan, Seen, together
from ranks import launch, on_ranks
from test_faults import bad_rows_on_rank_1, nan_on_rank_1
from test_pipeline import piped
from torch import distributed as dist
from torch import nn

import gradwatch
from gradwatch import _voice
from gradwatch.errors import GradwatchWarning
from gradwatch.writers.console import ConsoleWriter
from gradwatch.writers.jsonl import JSONLWriter, read_jsonl
from gradwatch.writers.tensorboard import TensorBoardWriter


def to_everywhere(place: Any, plan: Plan, folder: Path) -> Seen:
    """The same script on every rank: terminal, a log directory, and writers made by hand."""
    by_hand = [ConsoleWriter(), JSONLWriter(folder / "lines"), TensorBoardWriter(folder / "by hand")]
    return together(place, replace(plan, watch={"logdir": folder / "logdir", "writers": by_hand}))


@pytest.mark.parametrize(
    ("place", "plan"),
    [
        (placements.ddp, Plan(num_steps=4, spoil=bad_rows_on_rank_1)),
        (placements.fsdp2, Plan(num_steps=4, spoil=bad_rows_on_rank_1)),
        (piped, Plan(num_steps=4, tamper=nan_on_rank_1)),
    ],
    ids=["ddp", "fsdp2", "pipeline"],
)
def test_the_first_rank_alone_writes_and_prints(place, plan, tmp_path):
    """One event file, one session of lines, one terminal, each with the incident, once."""
    first, second = launch(to_everywhere, place, plan, tmp_path)
    assert len(list((tmp_path / "logdir").iterdir())) == 1
    assert len(list((tmp_path / "by hand").iterdir())) == 1
    run = read_jsonl(tmp_path / "lines")
    assert run.sessions == (0,)
    assert [record.step for record in run.records] == [0, 1, 2, 3]
    assert [incident.to_json() for incident in run.incidents] == [i.to_json() for i in first.value.incidents]
    assert first.terminal.count("nonfinite · step 2") == 1, first.terminal
    assert first.terminal.count("1 incident, nonfinite at step 2") == 1, first.terminal
    assert second.terminal == ""
    assert len(second.value.records) == 4


def clipped_by_two(place: Any) -> list[str]:
    """What every rank finds alike: gradients are clipped twice."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradwatchWarning)
        together(place, Plan(clip=gradwatch.ClipNorm(0.3), tamper=clip_too))
        gradwatch.watch(nn.Linear(2, 2), writers=[]).close()
    return [str(warning.message) for warning in caught if issubclass(warning.category, GradwatchWarning)]


def clip_too(model: nn.Module, step: int) -> None:
    """By torch's own function."""
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)


def test_what_all_find_alike_one_rank_warns_of():
    """Once for the run, not once a rank."""
    first, second = on_ranks(clipped_by_two, placements.ddp)
    assert ["clipped twice" in text for text in first] == [True, False]
    assert "saw no optimizer step" in first[1]
    assert second == []


def speaks() -> bool:
    """On this rank."""
    return _voice.is_speaker()


def test_before_there_is_a_group_the_environment_tells(monkeypatch):
    """As torchrun sets it: a watch may be opened ahead of ``init_process_group``."""
    assert on_ranks(speaks) == [True, False]
    assert not dist.is_initialized()
    monkeypatch.setenv("RANK", "1")
    assert not _voice.is_speaker()
    monkeypatch.setenv("RANK", "0")
    assert _voice.is_speaker()
    monkeypatch.delenv("RANK")
    assert _voice.is_speaker()
