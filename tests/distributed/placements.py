"""The ways a model lies on many ranks, and the nets that some of them need."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from plans import Placed, plain_name
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel


def ddp(model: nn.Module, **options: Any) -> Placed:
    """Each rank reads its share of the rows; only the last micro-batch of a step is averaged."""
    wrapped = DistributedDataParallel(model, **options)

    def micro(*, is_last: bool) -> None:
        wrapped.require_backward_grad_sync = is_last  # what no_sync() does

    return Placed(wrapped, dist.get_rank(), dist.get_world_size(), micro=micro)


def ddp_unused(model: nn.Module) -> Placed:
    """With parameters that take no part."""
    return ddp(model, find_unused_parameters=True)


def fsdp2(model: nn.Module, mesh: DeviceMesh | None = None, **options: Any) -> Placed:
    """Layer by layer, and the rest at the root; only the last micro-batch of a step is reduced."""
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    for module in list(model.modules())[1:]:
        if any(True for _ in module.parameters(recurse=False)):
            fully_shard(module, mesh=mesh, **options)
    root: Any = fully_shard(model, mesh=mesh, **options)

    def micro(*, is_last: bool) -> None:
        root.set_requires_gradient_sync(is_last)

    return Placed(model, dist.get_rank(), dist.get_world_size(), micro=micro)


def fsdp2_half(model: nn.Module) -> Placed:
    """Computes in bfloat16, reduces in float32."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, output_dtype=torch.float32)
    return fsdp2(model.float(), mp_policy=policy)


def fsdp2_ignoring(model: nn.Module) -> Placed:
    """The gain is left out of the sharding: a plain tensor on every rank."""
    return fsdp2(model, ignored_params={model.gain.weight})


def hsdp(model: nn.Module) -> Placed:
    """Sharded over two ranks, and that twice."""
    return fsdp2(model, init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copy", "shard")))


def fsdp1(model: nn.Module) -> Placed:
    """Flat parameters, each rank with its stretch of them: whole parameters lie on one rank alone, or across a seam."""
    wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))

    def weights() -> dict[str, Tensor]:
        with FullyShardedDataParallel.summon_full_params(wrapped):
            return {plain_name(name): p.detach().clone() for name, p in wrapped.named_parameters()}

    def gradients() -> dict[str, Tensor]:
        with FullyShardedDataParallel.summon_full_params(wrapped, with_grads=True):
            found = [(name, p.grad) for name, p in wrapped.named_parameters()]
            return {plain_name(name): grad.clone() for name, grad in found if grad is not None}

    return Placed(wrapped, dist.get_rank(), dist.get_world_size(), weights=weights, gradients=gradients)


def column_row_net() -> nn.Sequential:
    """What tensor parallelism splits: 64 -> 6 by columns, 6 -> 9 by rows; 9 does not divide evenly."""
    torch.manual_seed(1)
    layers: dict[str, nn.Module] = {
        "first": nn.Linear(64, 6),
        "act": nn.Tanh(),
        "second": nn.Linear(6, 9),
        "norm": nn.LayerNorm(9),
        "last": nn.Linear(9, 10),
    }
    return nn.Sequential(OrderedDict(layers)).double()


def tensor_parallel(model: nn.Module, mesh: DeviceMesh | None = None) -> Placed:
    """Two layers are split; the others are plain tensors, the same on every rank. All ranks read the same rows."""
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(model, mesh, {"first": ColwiseParallel(), "second": RowwiseParallel()})
    return Placed(model)


def sequence_parallel(model: nn.Module, mesh: DeviceMesh | None = None) -> Placed:
    """The norm works on each rank's rows: its weight is the same everywhere, its gradient a part of the sum."""
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {
        "first": ColwiseParallel(),
        "second": RowwiseParallel(output_layouts=Shard(0)),
        "norm": SequenceParallel(sequence_dim=0),
        "last": ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
    }
    parallelize_module(model, mesh, plan)
    return Placed(model)


def fsdp_and_tensor_parallel(model: nn.Module) -> Placed:
    """A mesh of two dimensions: split by columns and rows over one, sharded over the other."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    tensor_parallel(model, mesh["tensor"])
    placed = fsdp2(model, mesh["data"])
    return Placed(model, mesh["data"].get_local_rank(), mesh["data"].size(), micro=placed.micro)


def fsdp_and_sequence_parallel(model: nn.Module) -> Placed:
    """The same, with the norm on each rank's own rows."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    sequence_parallel(model, mesh["tensor"])
    placed = fsdp2(model, mesh["data"])
    return Placed(model, mesh["data"].get_local_rank(), mesh["data"].size(), micro=placed.micro)
