"""DistributedDataParallel: the gradients at the step are the whole ones already, and nobody has to talk."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from agreement import agree, same_weights
from placements import ddp, ddp_unused
from plans import Plan, alone, digits_net, each
from ranks import on_ranks
from torch import Tensor, nn, optim

import gradwatch


class WithSpareHead(nn.Module):
    """A net with a second head that nobody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = digits_net()
        self.spare = nn.Linear(7, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 10]``."""
        return self.body(x)


def zero(parameters: Any) -> Any:
    """Each rank holds the state of, and updates, its share of the parameters."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(parameters, optim.SGD, lr=0.1, momentum=0.9)


CASES = {
    "plain": (ddp, Plan()),
    "no_sync": (ddp, Plan(num_micro=3)),
    "unused": (ddp_unused, Plan(net=WithSpareHead)),
    "zero": (ddp, Plan(optimizer=zero, num_micro=2)),
}


CLIPS = [None, gradwatch.ClipNorm(0.3), gradwatch.ClipNorm(0.05, math.inf)]


@pytest.mark.parametrize("case", CASES)
def test_the_figures_are_those_of_one_process(case):
    """Norms, maxima and the weights that come of clipping by them."""
    place, plan = CASES[case]
    plans = [replace(plan, clip=clip) for clip in CLIPS]
    by_rank = on_ranks(each, place, plans)
    for plan, *ranks in zip(plans, *by_rank, strict=True):
        reference = alone(replace(plan, optimizer=None))
        agree(ranks, reference.whole)
        same_weights(ranks, reference.weights)
