"""The processes that hold parts of one model, and how they talk.

A model that lies whole on every process (DDP, one process) has no :class:`World`: nothing is exchanged for it.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._distributed_parts import fsdp1_modules, is_dtensor


@dataclass(frozen=True)
class World:
    """The processes of one model.

    Attributes:
        groups: Process groups; a value reduced over each of them in turn is reduced over all the processes.
        stages: Pipeline stages that lie here, by the ids of their parameters.
    """

    groups: tuple[Any, ...]
    stages: dict[int, int]

    @property
    def size(self) -> int:
        """Number of processes."""
        size = 1
        for group in self.groups:
            size *= int(_dist().get_world_size(group))
        return size

    @property
    def rank(self) -> int:
        """This process's place in what :meth:`gather` gives."""
        rank, stride = 0, 1
        for group in self.groups:
            rank += stride * int(_dist().get_rank(group))
            stride *= int(_dist().get_world_size(group))
        return rank

    def gather(self, own: Any) -> list[Any]:
        """What every process has given, ``[num_ranks]``, the same list on each; pickles, and waits for all."""
        given = [own]
        for group in self.groups:
            lists: list[Any] = [None] * int(_dist().get_world_size(group))
            _dist().all_gather_object(lists, given, group=group)
            given = [one for some in lists for one in some]
        return given

    def add(self, values: Tensor) -> Tensor:
        """The sum over all processes; ``values`` is used up."""
        return self._reduced(values, _dist().ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        """The maximum over all processes, of which none may be NaN; ``values`` is used up."""
        return self._reduced(values, _dist().ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        for group in self.groups:
            here = _talks(group, values.device)
            sent = values if here else values.to(torch.device("cuda", torch.cuda.current_device()))
            _dist().all_reduce(sent, op=operation, group=group)
            values = sent if here else sent.to(values.device)
        return values


def rank_and_size() -> tuple[int, int]:
    """This process's rank and how many there are; 0 and 1 without ``torch.distributed``."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return int(dist.get_rank()), int(dist.get_world_size())


def default_store() -> Any:
    """The key-value store of the default process group, None without one; there is no public way to it."""
    module = sys.modules.get("torch.distributed.distributed_c10d")
    find = getattr(module, "_get_default_store", None)
    return None if find is None or rank_and_size()[1] == 1 else find()


def world_of(model: nn.Module) -> World | None:
    """Who holds parts of this model; None where it lies whole here, and where there is only one process.

    Parts are: DTensors, FSDP1's flat parameters, and the stages of a pipeline made with
    ``torch.distributed.pipelining``. Who is outside of a mesh that does not cover all processes is not asked.
    """
    if rank_and_size()[1] == 1:
        return None
    stages = _stages(model)
    groups: list[Any] = [stage.group for stage in stages]
    meshes = {parameter.device_mesh for parameter in model.parameters() if is_dtensor(parameter)}  # type: ignore[attr-defined]
    roots = sorted({mesh._get_root_mesh() for mesh in meshes}, key=lambda mesh: -mesh.size())  # noqa: SLF001
    if roots:
        whole = roots[0].size() == rank_and_size()[1]
        groups += [None] if whole else roots[0].get_all_groups()
    for module in fsdp1_modules(model):
        groups += [module.process_group, getattr(module, "_inter_node_pg", None) or module.process_group]
    if not groups:
        return None
    everybody = _dist().group.WORLD
    if any(group is None or group is everybody for group in groups):
        chosen: tuple[Any, ...] = (everybody,)
    elif any(_dist().get_world_size(group) == rank_and_size()[1] for group in groups):
        chosen = (everybody,)
    else:
        chosen = tuple(dict.fromkeys(groups))
    numbers = {id(parameter): int(stage.stage_index) for stage in stages for parameter in stage.submod.parameters()}
    return World(chosen, numbers)


def _stages(model: nn.Module) -> list[Any]:
    """The pipeline stages that are this model, or parts of it: nothing of a stage shows on its module."""
    kind = getattr(sys.modules.get("torch.distributed.pipelining.stage"), "_PipelineStageBase", None)
    if kind is None:
        return []
    mine = {id(module) for module in model.modules()}
    found = [one for one in gc.get_objects() if issubclass(type(one), kind) and id(one.submod) in mine]
    return sorted(found, key=lambda stage: int(stage.stage_index))


def _talks(group: Any, device: torch.device) -> bool:
    """Whether this group's backend can handle tensors of this device."""
    try:
        group._get_backend(device)  # noqa: SLF001 - there is no public way to ask
    except RuntimeError:
        return False
    return True


def _dist() -> Any:
    return sys.modules["torch.distributed"]
