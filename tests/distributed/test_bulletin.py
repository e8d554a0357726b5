"""DDP: who brought a non-finite loss is asked at the first bad step, without a collective, and nobody waits twice."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import placements
import pytest
from plans import Plan, batches
from ranks import on_ranks
from torch import distributed as dist
from torch import optim
from torch.nn import functional

import gradwatch
from gradwatch import _bulletin
from gradwatch.records import Incident, StepRecord

NUM_STEPS = 4
BAD_STEP = 1


@dataclass
class _Run:
    """What a rank has seen, and how long it took."""

    incidents: list[Incident]
    records: list[StepRecord]
    seconds: float


def trained(bad: tuple[int, ...], watching: tuple[int, ...]) -> _Run:
    """A training on DDP with bad rows on some ranks at one step, watched on some."""
    _bulletin.PATIENCE /= 5
    placed = placements.ddp(Plan().model())
    model, rank = placed.model, dist.get_rank()
    optimizer = optim.SGD(model.parameters(), 0.1)
    watch = gradwatch.watch(model, writers=[]) if rank in watching else None
    start = time.monotonic()
    for step, ((x, y),) in enumerate(batches(Plan(num_steps=NUM_STEPS))):
        mine = slice(placed.part, None, placed.num_parts)
        rows = x[mine] * math.nan if step >= BAD_STEP and rank in bad else x[mine]
        loss = functional.cross_entropy(model(rows), y[mine])
        if watch is not None:
            watch.loss(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.monotonic() - start
    if watch is None:
        return _Run([], [], seconds)
    watch.close()
    return _Run([one for one in watch.incidents if one.kind == "nonfinite"], watch.history, seconds)


@pytest.mark.parametrize(("bad", "num"), [((1,), 2), ((0, 2), 3)])
def test_the_ranks_with_a_bad_loss_are_named_on_all(bad, num):
    """They are in the record and in the incident, whose message and birthplace are the same everywhere."""
    everybody = tuple(range(num))
    runs = on_ranks(trained, bad, everybody, num=num)
    for run in runs:
        (incident,) = run.incidents
        assert incident.step == BAD_STEP
        assert incident.ranks == bad
        assert (incident.message, incident.layers) == (runs[0].incidents[0].message, runs[0].incidents[0].layers)
        assert run.records[BAD_STEP].ranks.with_bad_loss == bad
        assert math.isnan(run.records[BAD_STEP].loss)
        assert run.records[0].ranks is None
        assert run.records[BAD_STEP].birthplace is not None


def test_where_all_are_bad_nobody_is_to_blame():
    """The fault is in what they share."""
    for run in on_ranks(trained, (0, 1), (0, 1)):
        (incident,) = run.incidents
        assert incident.ranks == ()
        assert "All 2 ranks" in incident.message


def test_a_rank_that_does_not_watch_is_waited_for_once():
    """Watched on the first rank only, as many do: the incident comes, only nobody knows who brought it."""
    first, second = on_ranks(trained, (1,), (0,), limit=30)
    (incident,) = first.incidents
    assert incident.step == BAD_STEP
    assert incident.ranks == ()
    assert first.seconds < 10
    assert second.incidents == []
