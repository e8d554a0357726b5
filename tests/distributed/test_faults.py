"""One rank goes bad: every rank has the same incident, at the same step, and it names the layer and the rank."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import placements
import pytest
import torch
from agreement import agree, same_weights
from placements import column_row_net
from plans import Plan, alone, local_of, plain_name, together
from ranks import on_ranks
from test_pipeline import piped
from torch import Tensor, nn
from torch import distributed as dist

import gradwatch
from gradwatch.records import Incident

BAD_STEP = 2
LAYER = "second.weight"


def nan_on_rank_1(model: nn.Module, step: int) -> None:
    """In one element of the layer's shard that lies there."""
    if step == BAD_STEP and dist.get_rank() == 1:
        for name, parameter in model.named_parameters():
            if plain_name(name) == LAYER and parameter.grad is not None and parameter.grad.numel():
                local_of(parameter.grad).view(-1)[0] = math.nan


def bad_rows_on_rank_1(rows: Tensor, step: int) -> Tensor:
    """One of them holds a NaN."""
    if step == BAD_STEP and dist.get_rank() == 1:
        rows = rows.clone()
        rows[0, 20] = math.nan
    return rows


def bad_rows_everywhere(rows: Tensor, step: int) -> Tensor:
    """All of them hold an infinite value."""
    return rows + math.inf if step == BAD_STEP else rows


def no_gradients_at_bad_step(model: nn.Module, step: int) -> None:
    """What a skipped step comes to."""
    if step == BAD_STEP:
        model.zero_grad()


def ranks_named(incident: Incident) -> set[int]:
    """Those that its message or its causes speak of."""
    text = json.dumps([incident.message, [cause.evidence for cause in incident.causes]])
    return {rank for rank in range(8) if f"rank {rank}" in text}


def told(incident: Incident) -> tuple[Any, ...]:
    """What all ranks say alike; the evidence may hold what each has seen of its own rows."""
    return incident.kind, incident.step, incident.layers, incident.ranks, incident.message


def the_one(incidents: list[Incident]) -> Incident:
    """Of its kind."""
    (incident,) = [incident for incident in incidents if incident.kind == "nonfinite"]
    return incident


SHARDED = {
    "fsdp2": (placements.fsdp2, 2, Plan),
    "fsdp2 on 4": (placements.fsdp2, 4, Plan),
    "fsdp1": (placements.fsdp1, 2, Plan),
    "hsdp": (placements.hsdp, 4, Plan),
    "tensor parallel": (placements.tensor_parallel, 2, lambda **more: Plan(net=column_row_net, **more)),
    "fsdp and tensor parallel": (
        placements.fsdp_and_tensor_parallel,
        4,
        lambda **more: Plan(net=column_row_net, **more),
    ),
    "pipeline": (piped, 2, Plan),
}


@pytest.mark.parametrize("name", SHARDED)
def test_a_nan_in_one_shard_is_the_same_incident_on_every_rank(name):
    """Step, layer and rank are those of the fault, and nobody who looks only at himself sees it but one."""
    place, num, plan = SHARDED[name]
    ranks = on_ranks(together, place, plan(num_steps=4, tamper=nan_on_rank_1), num=num)
    agree([_until(seen, BAD_STEP + 1) for seen in ranks], ranks[0].whole[: BAD_STEP + 1])
    assert [seen.local[BAD_STEP].num_nonfinite.get(LAYER, 0) for seen in ranks] == [
        int(rank == 1) for rank in range(num)
    ]
    incident = the_one(ranks[0].incidents)
    assert incident.step == BAD_STEP
    assert incident.layers[0] == LAYER
    assert incident.ranks == (1,)
    assert ranks_named(incident) == {1}
    assert all([told(one) for one in seen.incidents] == [told(incident)] for seen in ranks)


@pytest.mark.parametrize("place", [placements.ddp, placements.fsdp2, placements.fsdp1])
def test_bad_rows_on_one_rank_are_the_same_incident_on_every_rank(place):
    """The mean over all ranks is NaN everywhere: the incident tells who brought it."""
    ranks = on_ranks(together, place, Plan(num_steps=4, spoil=bad_rows_on_rank_1))
    incident = the_one(ranks[0].incidents)
    assert incident.step == BAD_STEP
    assert incident.ranks == (1,)
    assert ranks_named(incident) == {1}
    assert told(the_one(ranks[1].incidents)) == told(incident)


@pytest.mark.parametrize("place", [placements.ddp, placements.fsdp2])
def test_a_fault_of_all_is_not_blamed_on_one(place):
    """No rank is named where all are bad."""
    ranks = on_ranks(together, place, Plan(num_steps=4, spoil=bad_rows_everywhere))
    incident = the_one(ranks[0].incidents)
    assert incident.step == BAD_STEP
    assert incident.ranks == ()
    assert not ranks_named(incident)
    assert told(the_one(ranks[1].incidents)) == told(incident)


@pytest.mark.parametrize("name", SHARDED)
def test_all_ranks_skip_the_same_step(name):
    """One shard's NaN keeps everybody from stepping, the weights go on as if the step had never been."""
    place, num, plan = SHARDED[name]
    options: dict[str, Any] = {"num_steps": 5, "watch": {"skip_if_nonfinite": True}}
    ranks = on_ranks(together, place, plan(tamper=nan_on_rank_1, **options), num=num)
    assert [[record.skipped for record in seen.records] for seen in ranks] == [
        [step == BAD_STEP for step in range(5)]
    ] * num
    same_weights(ranks, alone(plan(tamper=no_gradients_at_bad_step, **options)).weights)


@pytest.mark.parametrize("name", [name for name in SHARDED if name != "hsdp"])  # whose copies would disagree for ever
def test_a_nan_norm_clips_nobody(name):
    """Neither the rank that holds the NaN nor the others: the healthy gradients stay as they are."""
    place, num, plan = SHARDED[name]
    ranks = on_ranks(
        together, place, plan(num_steps=BAD_STEP + 1, tamper=nan_on_rank_1, clip=gradwatch.ClipNorm(0.3)), num=num
    )
    for seen in ranks:
        bad = [weight.isfinite().logical_not().sum().item() for weight in seen.weights.values()]
        assert sum(bad) == 1
        torch.testing.assert_close(seen.weights, ranks[0].weights, rtol=0, atol=0, equal_nan=True)


def _until(seen: Any, num_steps: int) -> Any:
    """The first so many records: from the bad step on, everything is NaN everywhere."""
    return replace(seen, records=seen.records[:num_steps])
