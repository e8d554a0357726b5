"""The only way from device to host.

Two ways lead there. :func:`look` reads a tensor that already lies in host memory, which is free and may steer what is
measured next. :class:`Transfer` takes everything else: on CUDA one packed vector a step goes to pinned memory without
blocking and is read when it has arrived; elsewhere it is there at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Context = TypeVar("Context")
Arrays = dict[str, NDArray[np.float64]]


def on_host(tensor: Tensor) -> bool:
    """Whether :func:`look` may read this tensor: it lies in host memory, so that no device is waited for."""
    return tensor.device.type == "cpu"


def look(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The values of a tensor in host memory, without a copy; of a tensor elsewhere it is an error to ask."""
    if not on_host(tensor):
        raise RuntimeError(f"gradwatch looked at a tensor on {tensor.device}: that would wait for the device")
    array: np.ndarray[Any, Any] = tensor.detach().numpy()
    return array


def wait_for(tensor: Tensor) -> float:
    """The value of a 0-dim tensor wherever it lies, waiting for its device: for decisions the user asked for."""
    return float(tensor)


def as_arrays(tensors: Mapping[str, Tensor]) -> Arrays | None:
    """Copies in float64 of what lies in host memory; None where any lies elsewhere."""
    if not all(map(on_host, tensors.values())):
        return None
    return {name: np.array(look(tensor), dtype=np.float64) for name, tensor in tensors.items()}


class Later:
    """A 0-dim tensor on its way to the host, to be read a step later: by then nobody has to wait for it."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived = None
        self._value = tensor
        if tensor.is_cuda:
            self._value = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            self._value.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> float:
        """Its value."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._value)


@dataclass
class _Parcel(Generic[Context]):
    context: Context
    shapes: dict[str, torch.Size]
    packed: Tensor
    arrived: torch.cuda.Event | None

    def has_arrived(self) -> bool:
        return self.arrived is None or self.arrived.query()

    def unpack(self) -> Arrays:
        if self.arrived is not None:
            self.arrived.synchronize()
        values, arrays, start = self.packed.numpy(), {}, 0
        for name, shape in self.shapes.items():
            stop = start + shape.numel()
            arrays[name] = values[start:stop].reshape(shape).copy()
            start = stop
        return arrays


@dataclass
class _Delivered(Generic[Context]):
    """What has always lain on the host: copied, because the next step changes it."""

    context: Context
    arrays: Arrays

    def has_arrived(self) -> bool:
        return True

    def unpack(self) -> Arrays:
        return self.arrays


class Transfer(Generic[Context]):
    """Parcels of named tensors on their way to the host, first in, first out."""

    def __init__(self) -> None:
        self._under_way: deque[_Parcel[Context] | _Delivered[Context]] = deque()

    def send(self, tensors: Mapping[str, Tensor], context: Context) -> None:
        """Start to move ``tensors`` (any shapes, one device) as float64; ``context`` travels along."""
        if (arrays := as_arrays(tensors)) is not None:
            self._under_way.append(_Delivered(context, arrays))
            return
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        packed = torch.cat([tensor.detach().reshape(-1).to(torch.float64) for tensor in tensors.values()])
        arrived = None
        if packed.is_cuda:
            pinned = torch.empty(packed.shape, dtype=packed.dtype, device="cpu", pin_memory=True)
            pinned.copy_(packed, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(packed.device))
            packed = pinned
        else:
            packed = packed.cpu()
        self._under_way.append(_Parcel(context, shapes, packed, arrived))

    def receive(self, *, wait: bool = False) -> Iterator[tuple[Context, Arrays]]:
        """Yield what has arrived, in order; with ``wait`` everything."""
        while self._under_way and (wait or self._under_way[0].has_arrived()):
            parcel = self._under_way.popleft()
            yield parcel.context, parcel.unpack()
