"""Expert parallelism as far as DTensor expresses it: each rank holds some experts, and all share router and head."""

from __future__ import annotations

import math

import pytest
import torch
from agreement import agree, local_misleads, same_weights
from plans import Placed, Plan, alone, together
from ranks import on_ranks
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed._functional_collectives import all_gather_single_autograd, reduce_scatter_single_autograd
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import gradwatch

NUM_EXPERTS = 5


class Experts(nn.Module):
    """Every row goes to its best expert, weighted by the router's trust in it."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(64, NUM_EXPERTS)
        self.experts = nn.Parameter(torch.randn(NUM_EXPERTS, 64, 6) / 8)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 64]`` to ``[batch, 10]``."""
        trust = self.router(x).softmax(dim=1)
        chosen = trust * (trust == trust.amax(dim=1, keepdim=True))
        return self.head(torch.tanh(self._mixture(x, chosen)))

    def _mixture(self, x: Tensor, chosen: Tensor) -> Tensor:
        if not isinstance(self.experts, DTensor):
            return torch.einsum("bi,eio,be->bo", x, self.experts, chosen)
        group, first = dist.group.WORLD, self._first_expert()
        mine = self.experts.to_local(grad_placements=[Shard(0)])
        rows = all_gather_single_autograd(x, 0, group)
        trusted = all_gather_single_autograd(chosen, 0, group)[:, first : first + len(mine)]
        mixture = torch.einsum("bi,eio,be->bo", rows, mine, trusted)
        return reduce_scatter_single_autograd(mixture, "sum", 0, group)

    def _first_expert(self) -> int:
        return dist.get_rank() * math.ceil(NUM_EXPERTS / dist.get_world_size())


def net() -> Experts:
    """In float64."""
    torch.manual_seed(1)
    return Experts().double()


def mean_over_ranks(model: nn.Module, step: int) -> None:
    """Each rank's loss is a mean over its own rows: the experts' gradients, summed over all rows, have to follow."""
    if dist.is_initialized():
        model.experts.grad /= dist.get_world_size()


def expert_parallel(model: Experts) -> Placed:
    """Experts over one mesh; router and head sharded over another one of the same ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("expert",))
    model.experts = nn.Parameter(distribute_tensor(model.experts.detach(), mesh, [Shard(0)]))
    data = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data",))
    for module in (model.router, model.head):
        fully_shard(module, mesh=data)
    return Placed(model, dist.get_rank(), dist.get_world_size())


@pytest.mark.parametrize("clip", [None, gradwatch.ClipNorm(0.3)], ids=str)
@pytest.mark.parametrize("num", [2, 4])
def test_experts_on_different_ranks_are_one_layer(num, clip):
    """Its norm is over all experts, whoever holds them; five do not divide evenly."""
    plan = Plan(net=net, clip=clip, tamper=mean_over_ranks)
    reference = alone(plan)
    ranks = on_ranks(together, expert_parallel, plan, num=num)
    assert local_misleads(ranks, reference.whole)
    agree(ranks, reference.whole)
    same_weights(ranks, reference.weights)
