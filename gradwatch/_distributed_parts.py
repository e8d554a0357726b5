"""What this process holds of a parameter that lies on several: its elements here, and which they are of the whole.

torch has three ways of splitting one: DTensor (FSDP2, tensor parallelism), FSDP1's flat parameters, of which the
original ones are views, and none at all. Nothing of ``torch.distributed`` is imported here that the user has not
imported before: what is not there cannot have split anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)


@dataclass(frozen=True)
class Part:
    """One process's part of a parameter.

    Attributes:
        shape: Of the whole.
        num_parts: Into how many parts it is split that are not copies of one another.
        start: Where in the whole the part begins, along each dimension of ``grid``.
        size: How far it reaches, likewise.
        grid: The shape in which it is a box: the whole's own; for FSDP1 that of a vector. None where it is no box.
    """

    shape: tuple[int, ...]
    num_parts: int = 1
    start: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    grid: tuple[int, ...] | None = field(default=())

    def places(self, picks: Tensor | None) -> Tensor | None:
        """Where picked elements of the whole lie in this part.

        Args:
            picks: Indices into the flattened whole, int64 in host memory, ``[num_picks]``; None for all.

        Returns:
            Indices into the flattened part, at most as many; None for all.
        """
        if picks is None or self.num_parts == 1:
            return picks
        if self.grid is None:  # which they are is not known: as many of those that are here
            numel = max(1, torch.Size(self.size).numel())
            return torch.unique(picks % numel) if torch.Size(self.size).numel() else picks[:0]
        inside = torch.ones(len(picks), dtype=torch.bool, device="cpu")
        place = torch.zeros(len(picks), dtype=torch.int64, device="cpu")
        rest = torch.Size(self.grid).numel()
        left = picks
        for whole, start, size in zip(self.grid, self.start, self.size, strict=True):
            rest //= max(1, whole)
            index = torch.div(left, max(1, rest), rounding_mode="floor") - start
            left = left % max(1, rest)
            inside &= (index >= 0) & (index < size)
            place = place * size + index
        return place[inside]


def is_dtensor(tensor: object) -> bool:
    """Whether it is one process's view of a larger tensor, as FSDP2 and tensor parallelism make them."""
    if type(tensor) in _PLAIN:  # nearly all of them are, and there are many
        return False
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def any_dtensor(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them is; by their types, for those are few."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and any(issubclass(one, kind) for one in set(map(type, tensors)))


def local(tensor: Tensor) -> Tensor:
    """The elements that lie here; shares their memory."""
    if not is_dtensor(tensor):
        return tensor
    given: Any = tensor
    held: Any = given._local_tensor  # noqa: SLF001 - what to_local() gives without autograd, under autograd too
    wait = getattr(held, "wait", None)  # still on its way from another process
    return wait() if callable(wait) else held  # type: ignore[no-any-return]


def is_partial(gradient: Tensor) -> bool:
    """Whether every process holds a summand of each element, as after ``SequenceParallel``'s norms."""
    return is_dtensor(gradient) and any(place.is_partial() for place in getattr(gradient, "placements", ()))


def summed(gradient: Tensor) -> Tensor:
    """The gradient with what the others hold of each element added: a collective where :func:`is_partial`."""
    if not is_partial(gradient):
        return gradient
    from torch.distributed.tensor import Replicate

    given: Any = gradient
    places = [Replicate() if place.is_partial() else place for place in given.placements]
    return given.redistribute(placements=places)  # type: ignore[no-any-return]


def local_gradients(gradients: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Of each gradient the elements that lie here, None where absent."""
    return [None if gradient is None else local(summed(gradient)) for gradient in gradients]


def parts_of(model: nn.Module) -> Callable[[Tensor], Part | None]:
    """What tells of a parameter of this model which part of it is here; None for a whole one."""
    flat = dict(_flattened(model))

    def part_of(parameter: Tensor) -> Part | None:
        return _dtensor_part(parameter) if is_dtensor(parameter) else flat.get(id(parameter))

    return part_of


def _dtensor_part(parameter: Tensor) -> Part:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    given: Any = parameter
    shape, mesh, places = tuple(given.shape), given.device_mesh, given.placements
    num_parts = 1
    for dim, place in enumerate(places):
        num_parts *= 1 if place.is_replicate() else int(mesh.size(dim))
    held = tuple(local(parameter).shape)
    size, start = compute_local_shape_and_global_offset(shape, mesh, places)
    if tuple(size) == held:
        return Part(shape, num_parts, tuple(start), held, shape)
    return Part(shape, num_parts, size=held, grid=None)


def fsdp1_modules(model: nn.Module) -> list[Any]:
    """The modules of a model that FSDP1 has wrapped."""
    name = "torch.distributed.fsdp.fully_sharded_data_parallel"
    kind = getattr(sys.modules.get(name), "FullyShardedDataParallel", None)
    return [] if kind is None else [module for module in model.modules() if isinstance(module, kind)]


def _flattened(model: nn.Module) -> Iterable[tuple[int, Part]]:
    """FSDP1's parameters by their id: with ``use_orig_params`` the original ones, else the flat ones themselves."""
    for module in fsdp1_modules(model):
        handle = getattr(module, "_handle", None)
        if handle is None:
            continue
        flat = handle.flat_param
        num_parts = int(handle.world_size) if handle.uses_sharded_strategy else 1
        if flat._params is None:  # noqa: SLF001 - there is no public way to learn what lies in a flat parameter
            yield id(flat), Part((int(flat._unpadded_unsharded_size.numel()),), num_parts, grid=None)  # noqa: SLF001
            continue
        for parameter, shape, info in zip(
            flat._params,  # noqa: SLF001
            flat._shapes,  # noqa: SLF001
            flat._shard_param_infos,  # noqa: SLF001
            strict=True,
        ):
            whole = tuple(shape)
            if num_parts == 1:
                yield id(parameter), Part(whole)
                continue
            start, size = (info.intra_param_start_idx, info.numel_in_shard) if info.in_shard else (0, 0)
            yield id(parameter), Part(whole, num_parts, (start,), (size,), (torch.Size(whole).numel(),))
