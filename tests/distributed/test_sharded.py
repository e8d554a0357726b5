"""Sharded modes: every rank holds a part of each gradient, and says what one process with the whole would have said."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from dataclasses import replace as changed
from typing import Any

import placements
import pytest
from agreement import agree, local_misleads, misleads, same_weights
from placements import column_row_net
from plans import Placed, Plan, alone, each, together
from ranks import on_ranks
from torch import distributed as dist
from torch import nn

import gradwatch


def average_the_gain(model: nn.Module, step: int) -> None:
    """What the user has to do by hand for a parameter that FSDP leaves alone."""
    if dist.is_initialized():
        dist.all_reduce(model.gain.weight.grad)
        model.gain.weight.grad /= dist.get_world_size()


@dataclass(frozen=True)
class Mode:
    """How the model is placed on how many ranks.

    Attributes:
        place: Places it.
        num: Number of ranks.
        plan: What is trained.
        sum_misleads: Whether a plain sum of squares over all ranks is wrong, too.
    """

    place: Any
    num: int = 2
    plan: Plan = field(default_factory=Plan)
    sum_misleads: bool = False


MODES = {
    "fsdp2": Mode(placements.fsdp2),
    "fsdp2 on 4": Mode(placements.fsdp2, 4),
    "fsdp2 accumulating": Mode(placements.fsdp2, plan=Plan(num_micro=2)),
    "fsdp2 ignoring": Mode(placements.fsdp2_ignoring, plan=Plan(tamper=average_the_gain), sum_misleads=True),
    "fsdp1": Mode(placements.fsdp1),
    "hsdp": Mode(placements.hsdp, 4, sum_misleads=True),
    "tensor parallel": Mode(placements.tensor_parallel, plan=Plan(net=column_row_net), sum_misleads=True),
    "sequence parallel": Mode(placements.sequence_parallel, plan=Plan(net=column_row_net), sum_misleads=True),
    "fsdp and tensor parallel": Mode(
        placements.fsdp_and_tensor_parallel, 4, Plan(net=column_row_net), sum_misleads=True
    ),
    "fsdp and sequence parallel": Mode(
        placements.fsdp_and_sequence_parallel, 4, Plan(net=column_row_net), sum_misleads=True
    ),
}

CLIPS = [
    gradwatch.ClipNorm(0.3),
    gradwatch.ClipNorm(0.05, math.inf),
    gradwatch.ClipNorm(0.5, 1.5),
    gradwatch.ClipValue(0.02),
]


@pytest.mark.parametrize("name", MODES)
def test_the_figures_are_those_of_one_process(name):
    """Norms, total norm, maxima and counts to 1e-6, where local norms and plain sums are far off."""
    mode = MODES[name]
    reference = alone(mode.plan)
    ranks = on_ranks(together, mode.place, mode.plan, num=mode.num)
    assert local_misleads(ranks, reference.whole)
    assert misleads(ranks[0].summed, reference.whole) is mode.sum_misleads
    agree(ranks, reference.whole)
    same_weights(ranks, reference.weights)


@pytest.mark.parametrize("name", MODES)
def test_clipping_is_that_of_one_process(name):
    """The weights after steps that were all clipped are those that torch's own functions come to on one process."""
    mode = MODES[name]
    plans = [changed(mode.plan, clip=clip) for clip in CLIPS]
    by_rank = on_ranks(each, mode.place, plans, num=mode.num)
    for plan, *ranks in zip(plans, *by_rank, strict=True):
        reference = alone(plan)
        agree(ranks, reference.whole)
        same_weights(ranks, reference.weights)
        clipped = [(record.clipped_norm, record.total_norm) for seen in ranks for record in seen.records]
        assert all(after < 0.9 * before for after, before in clipped), plan.clip


def test_mixed_precision_is_measured_as_it_is_reduced():
    """bfloat16 has its own gradients: the figures are those of the shards put together."""
    ranks = on_ranks(together, placements.fsdp2_half, Plan())
    assert local_misleads(ranks, ranks[0].whole)
    agree(ranks, ranks[0].whole)


@pytest.mark.parametrize("name", MODES)
def test_layers_are_described_as_on_one_process(name):
    """Names, modules, their classes, whole shapes: nothing of it tells how the model lies on the ranks."""
    mode = MODES[name]
    plan = changed(mode.plan, num_steps=1, tamper=None)
    (ours,) = together(Placed, plan).records
    for (record,) in (seen.records for seen in on_ranks(together, mode.place, plan, num=mode.num)):
        assert record.layers == ours.layers
