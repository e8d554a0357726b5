"""Loops over time written by hand: a module that is called again and again with what it gave before.

Seen are the gradients of its outputs: that is dL/dh_t itself, for autograd has unrolled the loop already. Whether a
module's output feeds back shows in the graph: the next call's input is the last one's output, or follows from it by a
few operations without weights. A head that all time steps share, a siamese network or an activation module that is
used in many places feed nothing back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._probes.node_hook import put_hook

MIN_CALLS = 4
"""In a row, each with what the one before it gave."""

MAX_CALLS = 512
"""Of one module; what comes later in a step is left out."""

_MAX_NODES = 32
"""Operations that are looked at between two calls."""

_TRIES = 3
"""Calls after which a module that has fed nothing back is left alone."""

_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_FUSED = (nn.RNN, nn.LSTM, nn.GRU)


@dataclass(eq=False)
class _Call:
    """One call: what comes back to its output.

    Attributes:
        nodes: The graph's nodes of its outputs, as long as a later call may have come from them.
        shape: Of its first output.
        norm: L2 norm of the gradient, 0-dim on its device; None while there is none.
        segment: Calls with the same number hang together.
    """

    nodes: tuple[Any, ...]
    shape: torch.Size
    norm: Tensor | None = None
    segment: int = 0


@dataclass(eq=False)
class _Loop:
    """One module's calls.

    Attributes:
        nodes: Of the first output of each call, with the output's number: where a hook may be put.
        fed_back: How many calls came from the one before.
        weighty: Whether operations with weights may lie between two calls: between two of a recurrent cell they may.
    """

    module: nn.Module
    weighty: bool
    calls: list[_Call] = field(default_factory=list)
    nodes: list[tuple[Any, int]] = field(default_factory=list)
    fed_back: int = 0
    num_seen: int = 0
    hooked: bool = False


class Loops:
    """The modules of one step that are called again with what they gave."""

    def __init__(self) -> None:
        self._loops: dict[str, _Loop | None] = {}
        self._handles: list[Any] = []

    def saw(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """A module was called; most are called once, so a first call costs next to nothing."""
        loop = self._loops.get(name, _UNSEEN)
        if loop is None:
            return  # it feeds nothing back
        tensor = _first(output, module)
        if tensor is None or tensor.grad_fn is None:
            return
        if loop is _UNSEEN:
            loop = self._loops[name] = _Loop(module, isinstance(module, _CELLS))
        if len(loop.calls) >= MAX_CALLS:
            return
        call = _Call(tuple(_nodes(output)), tensor.shape)
        if loop.calls:
            before = loop.calls[-1]
            connected = call.shape == before.shape and _follows(args, before.nodes, weighty=loop.weighty)
            call.segment = before.segment if connected else before.segment + 1
            before.nodes = ()  # the graph is not to be kept alive longer than needed
            loop.fed_back += connected
            if len(loop.calls) >= _TRIES and not loop.fed_back:
                self._loops[name] = None
                return
        loop.calls.append(call)
        loop.nodes.append((tensor.grad_fn, tensor.output_nr))
        if loop.fed_back:
            if not loop.hooked and next(module.parameters(), None) is None:
                self._loops[name] = None
                return
            loop.hooked = True
            for (node, number), earlier in zip(loop.nodes, loop.calls[-len(loop.nodes) :], strict=True):
                self._handles.append(put_hook(node, partial(_note, earlier), number))
            loop.nodes.clear()

    def close(self) -> None:
        """Take the hooks away, where the graph still lives, and forget everything."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._loops.clear()

    def follow(self) -> Iterator[tuple[str, str, Tensor]]:
        """Name, kind and the norm at each step, ``[1, num_calls]`` float64: of each loop its longest run of calls."""
        found = {name: run for name, loop in self._loops.items() if loop is not None and (run := _longest_run(loop))}
        cells = {(_parent(name), len(run)) for name, run in found.items() if isinstance(self._module(name), _CELLS)}
        for name, run in found.items():
            # What a user's own cell is made of feeds back too: the outermost is the cell.
            if any(name.startswith(f"{other}.") or (not other and name) for other in found):
                continue
            # A normalisation of a cell's state is no second recurrence beside the cell.
            if not isinstance(self._module(name), _CELLS) and (_parent(name), len(run)) in cells:
                continue
            norms = [call.norm for call in run]
            there = next(norm for norm in norms if norm is not None)
            zero = torch.zeros_like(there)
            row = torch.stack([zero if norm is None else norm.to(there.device, non_blocking=True) for norm in norms])
            yield name, type(self._module(name)).__name__, row.unsqueeze(0)

    def _module(self, name: str) -> nn.Module:
        loop = self._loops[name]
        assert loop is not None
        return loop.module


_UNSEEN: Any = object()


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _longest_run(loop: _Loop) -> list[_Call]:
    """The longest run of calls of which each came from the one before, and to which a gradient came; [] for none."""
    runs: dict[int, list[_Call]] = {}
    for call in loop.calls:
        runs.setdefault(call.segment, []).append(call)
    lasting = [run for run in runs.values() if len(run) >= MIN_CALLS and any(call.norm is not None for call in run)]
    return max(lasting, key=len, default=[])


def _note(call: _Call, gradient: Tensor) -> None:
    """A gradient has come to a call's output."""
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    call.norm = norm if call.norm is None else torch.hypot(call.norm, norm)


def _first(output: Any, module: nn.Module) -> Tensor | None:
    """The output that stands for the state; of a fused module that is called step by step, its state."""
    if isinstance(module, _FUSED):
        output = output[1]
    if isinstance(output, (tuple, list)):
        output = output[0] if output else None
    return output if type(output) is Tensor and output.is_floating_point() else None


def _nodes(value: Any) -> Iterable[Any]:
    """The graph's nodes of all tensors in it."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value.grad_fn
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _nodes(item)
    elif isinstance(value, dict):
        yield from _nodes(list(value.values()))


def _follows(args: Any, earlier: tuple[Any, ...], *, weighty: bool) -> bool:
    """Whether what a call is given comes from an earlier one's outputs, by a few operations at most.

    Args:
        args: What it is given.
        earlier: The graph's nodes of the earlier outputs.
        weighty: Whether these operations may have weights.
    """
    targets = set(earlier)
    queue = deque(_nodes(args))
    looked_at: set[Any] = set()
    while queue and len(looked_at) < _MAX_NODES:
        node = queue.popleft()
        if node in targets:
            return True
        if node in looked_at:
            continue
        looked_at.add(node)
        inputs = [source for source, _ in node.next_functions if source is not None]
        if weighty or not any(_is_weight(source) for source in inputs):
            queue.extend(inputs)
    return False


def _is_weight(node: Any) -> bool:
    """Whether it is a parameter, or one transposed."""
    if hasattr(node, "variable"):
        return True
    sources = node.next_functions
    return len(sources) == 1 and hasattr(sources[0][0], "variable")
