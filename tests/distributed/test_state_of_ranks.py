"""The state is the same on every rank, and a run goes on with it on any number of them."""

from __future__ import annotations

import io
from typing import Any

import placements
import pytest
import torch
from agreement import shared
from placements import column_row_net
from plans import Placed, Plan, Seen, local_of, together
from ranks import on_ranks
from test_pipeline import piped
from torch import nn

import gradwatch

SPIKES = (30, 70)
INTERRUPTED_AT = 60
NUM_STEPS = 75


def spiky(model: nn.Module, step: int) -> None:
    """A gradient that explodes, before the interruption and after it."""
    if step in SPIKES:
        for parameter in model.parameters():
            if parameter.grad is not None:
                local_of(parameter.grad).mul_(1e5)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Without a memory of its own, and so careful that no spike moves the weights far."""
    return torch.optim.SGD(parameters, 0.01)


def plan(**more: Any) -> Plan:
    """Clipped, so that a spike does no harm."""
    return Plan(**{"optimizer": sgd, "tamper": spiky, "clip": gradwatch.ClipNorm(1.0), "num_steps": NUM_STEPS, **more})


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, as a checkpoint goes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def goes_on(ranks: list[Seen], whole: Seen, start: int) -> None:
    """These ranks have resumed what ``whole`` did in one go."""
    for seen in ranks:
        assert [incident.kind for incident in seen.incidents] == [incident.kind for incident in whole.incidents]
        assert [incident.step for incident in seen.incidents] == [incident.step for incident in whole.incidents]
        assert [incident.layers for incident in seen.incidents] == [incident.layers for incident in whole.incidents]
        for record, expected in zip(seen.records, whole.records[start:], strict=True):
            assert record.step == expected.step
            assert record.total_norm == pytest.approx(expected.total_norm, rel=1e-6)


PLACES: dict[str, tuple[Any, int, Any]] = {
    # nothing is exchanged under DDP: what a rank sees of its own rows, the loss and activations, stays its own
    "ddp": (placements.ddp, 2, plan(tell=False, watch={"probes": False})),
    "fsdp2": (placements.fsdp2, 2, plan()),
    "fsdp1": (placements.fsdp1, 2, plan()),
    "tensor parallel": (placements.tensor_parallel, 2, plan(net=column_row_net)),
    "pipeline": (piped, 2, plan()),
}


@pytest.mark.parametrize("name", PLACES)
def test_every_rank_has_the_same_state(name):
    """So that whichever writes the checkpoint, it is everybody's; it holds plain values."""
    place, num, what = PLACES[name]
    ranks = on_ranks(together, place, what, num=num)
    assert ranks[0].incidents
    for seen in ranks:
        assert saved(seen.state) == ranks[0].state
        assert [shared(record) for record in seen.records][-1] == shared(ranks[0].records[-1])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((placements.fsdp2, 2), (placements.fsdp2, 4)),
        ((placements.fsdp2, 4), (placements.fsdp1, 2)),
        ((placements.fsdp2, 2), (Placed, 1)),
        ((Placed, 1), (placements.hsdp, 4)),
        ((placements.ddp, 2), (placements.ddp, 4)),
        ((piped, 2), (placements.fsdp2, 2)),
    ],
    ids=lambda pair: f"{pair[0].__name__} on {pair[1]}",
)
def test_a_run_goes_on_with_another_number_of_ranks(before, after):
    """It says what the run in one go on one process says, before the change and after it."""
    whole = together(Placed, plan())
    assert {incident.step for incident in whole.incidents} >= set(SPIKES)
    first = _run(before, plan(num_steps=INTERRUPTED_AT))
    rest = plan(start=INTERRUPTED_AT, weights=first[0].weights, state=saved(first[0].state))
    goes_on(first, _until(whole, INTERRUPTED_AT), 0)
    goes_on(_run(after, rest), whole, INTERRUPTED_AT)


def _run(where: tuple[Any, int], what: Plan) -> list[Seen]:
    place, num = where
    return [together(place, what)] if num == 1 else on_ranks(together, place, what, num=num)


def _until(whole: Seen, step: int) -> Seen:
    incidents = [incident for incident in whole.incidents if incident.step < step]
    return Seen(whole.records[:step], incidents, [], [], [], {})
