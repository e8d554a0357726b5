"""Pipeline parallelism: each rank holds some of the layers, and the record has all of them, once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from agreement import agree, local_misleads, same_weights
from plans import BATCH, Placed, Plan, alone, digits_net, together, whole_of
from ranks import on_ranks
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn import functional

import gradwatch

CUT = 3
"""The first so many modules of the net are the first stage."""


def piped(model: nn.Module) -> Placed:
    """Two stages, each with the names that its layers have in the whole model."""
    mesh = init_device_mesh("cpu", (2,))
    return _placed(_half(model, mesh.get_local_rank()), mesh)


def piped_with_own_names(model: nn.Module) -> Placed:
    """Two stages, each of which calls its first module ``0``."""
    mesh = init_device_mesh("cpu", (2,))
    return _placed(nn.Sequential(*_half(model, mesh.get_local_rank())), mesh)


def piped_and_sharded(model: nn.Module) -> Placed:
    """Two stages, each sharded over two ranks that read different rows."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("stage", "data"))
    stage, data = mesh["stage"], mesh["data"]
    half = _half(model, stage.get_local_rank())
    for module in half:
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=data)
    fully_shard(half, mesh=data)
    return _placed(half, stage, data.get_local_rank(), data.size())


def _half(model: nn.Module, index: int) -> nn.Sequential:
    layers = list(model.named_children())
    return nn.Sequential(OrderedDict(layers[CUT:] if index else layers[:CUT]))


def _placed(half: nn.Sequential, mesh: DeviceMesh, part: int = 0, num_parts: int = 1) -> Placed:
    index = mesh.get_local_rank()
    stage = PipelineStage(half, index, 2, torch.device("cpu"), group=mesh.get_group())
    schedule = Schedule1F1B(stage, n_microbatches=2, loss_fn=functional.cross_entropy)

    def backward(x: Tensor, y: Tensor) -> Tensor | None:
        if index == 0:
            schedule.step(x)
            return None
        losses: list[Tensor] = []
        schedule.step(target=y, losses=losses)
        return torch.stack(losses).mean().detach()

    def from_both(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
        stages: list[Any] = [None, None]
        dist.all_gather_object(stages, whole_of(tensors), group=mesh.get_group())
        return stages[0] | stages[1]

    return Placed(
        half,
        part,
        num_parts,
        weights=lambda: from_both({name: p.detach() for name, p in half.named_parameters()}),
        gradients=lambda: from_both({name: p.grad for name, p in half.named_parameters()}),
        backward=backward,
    )


@pytest.mark.parametrize("clip", [None, gradwatch.ClipNorm(0.3), gradwatch.ClipValue(0.02)], ids=str)
@pytest.mark.parametrize(("place", "num"), [(piped, 2), (piped_and_sharded, 4)])
def test_the_record_has_all_layers_once(place, num, clip):
    """Every rank has the whole model's figures, in the model's order, and clips by its total norm."""
    plan = Plan(clip=clip)
    reference = alone(plan)
    ranks = on_ranks(together, place, plan, num=num)
    assert local_misleads(ranks, reference.whole)
    agree(ranks, reference.whole)
    same_weights(ranks, reference.weights)
    names = tuple(name for name, _ in digits_net().named_parameters())
    assert all(record.names == names for seen in ranks for record in seen.records)


def test_stages_that_use_the_same_names_are_told_apart():
    """Both first modules are called ``0``: the record has both, under names of their own."""
    plan = Plan(clip=gradwatch.ClipNorm(0.3))
    reference = alone(plan)
    ranks = on_ranks(together, piped_with_own_names, plan)
    for record, step in zip(ranks[0].records, reference.whole, strict=True):
        assert len(set(record.names)) == len(record.names)
        assert sorted(record.grad_norm) == pytest.approx(sorted(step.norm.values()), rel=1e-6)
        assert record.total_norm == pytest.approx(step.total_norm, rel=1e-6)
    assert [r.names for r in ranks[1].records] == [r.names for r in ranks[0].records]


def test_the_batch_divides_evenly():
    """Or else micro-batches of different sizes would weigh alike, and one process would see another loss."""
    assert BATCH % (2 * 2 * 2) == 0
