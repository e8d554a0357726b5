"""The autograd graph of a loss, in the order in which the forward pass ran: structure only.

No value is read and nothing waits for a device. What is here is alive only as long as the :class:`Graph` is.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Value = tuple[int, int]
"""A value: the number of the operation that made it, and which of its outputs it is."""

_SHAPING = (
    "Alias AsStrided Clone Contiguous Detach Diagonal Expand Movedim Permute Reshape ReshapeAlias Select Slice Split "
    "SplitWithSizes Squeeze Swapaxes Swapdims T ToCopy Transpose Unbind Unfold UnsafeSplit UnsafeView Unsqueeze "
    "View ViewAsComplex ViewAsReal Unflatten Chunk Flip Roll"
)
SHAPING = frozenset(_SHAPING.split())
"""Operations that only arrange values anew."""

LEAF = "AccumulateGrad"
"""The name of what stands for a parameter, or for another tensor that the user wants a gradient of."""

_COMPILED = "CompiledFunction"
_CHECK_CLOCK = 512  # operations between two looks at the clock


class GraphTooLargeError(Exception):
    """The graph has more operations than may be walked, or walking it takes too long."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Operations in forward order; each one's number is its place.

    Attributes:
        nodes: Autograd's nodes, the loss's own last; they must not outlive the caller.
        names: What they do, without the ``Backward0`` (``"Addmm"``); ``"AccumulateGrad"`` for a leaf.
        inputs: For each, the values that it takes; None where no graph leads on.
        layers: Of the operations at which parameters meet data, the modules that hold the parameters.
        weights: Operations on parameters alone (a transpose, a weight norm), leaves included, and their modules.
    """

    nodes: list[Any]
    names: list[str]
    inputs: list[tuple[Value | None, ...]]
    layers: dict[int, tuple[str, ...]] = field(default_factory=dict)
    weights: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def compiled(self) -> bool:
        """Whether part of it was compiled, so that its operations are hidden."""
        return any(name.startswith(_COMPILED) for name in self.names)

    def before(self, number: int) -> Iterator[int]:
        """The operations that it takes data from."""
        return (value[0] for value in self.inputs[number] if value is not None and value[0] not in self.weights)

    def consumers(self) -> list[list[int]]:
        """For each operation those that take its values."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, values in enumerate(self.inputs):
            for value in values:
                if value is not None:
                    found[value[0]].append(number)
        return found

    def nearest_layers(self, starts: Iterable[int], steps: Mapping[int, Iterable[int]] | None = None) -> set[int]:
        """The first operations with parameters on every way on from ``starts``, which do not count themselves.

        Args:
            starts: Where to begin.
            steps: Where each operation leads on to; by default towards the input.
        """
        found: set[int] = set()
        seen = set(starts)
        waiting = list(seen)
        while waiting:
            number = waiting.pop()
            for other in self.before(number) if steps is None else steps.get(number, ()):
                if other in seen:
                    continue
                seen.add(other)
                if other in self.layers:
                    found.add(other)
                else:
                    waiting.append(other)
        return found

    def modules_of(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """The modules of these operations, in forward order, each once."""
        return tuple(dict.fromkeys(name for number in sorted(numbers) for name in self.layers.get(number, ())))


def read_graph(loss: Tensor, names: Mapping[int, str], *, limit: int = 20_000, seconds: float = 1.0) -> Graph | None:
    """Walk the graph of a loss.

    Args:
        loss: With a graph; nothing is changed, no saved tensor touched.
        names: From the id of a parameter to the name of the module that holds it.
        limit: More operations than that are not walked.
        seconds: Nor for longer than that.

    Returns:
        The graph, or None where the loss has none.

    Raises:
        GraphTooLargeError: A limit was reached.
    """
    if loss.grad_fn is None:
        return None
    nodes, edges = _collect(loss.grad_fn, limit, time.perf_counter() + seconds)
    words = [_name(node) for node in nodes]
    ran = [-1 if word == LEAF else _number(node) for node, word in zip(nodes, words, strict=True)]
    order = _forward_order(ran, edges)
    place = {old: new for new, old in enumerate(order)}
    graph = Graph(
        nodes=[nodes[old] for old in order],
        names=[words[old] for old in order],
        inputs=[tuple(None if edge is None else (place[edge[0]], edge[1]) for edge in edges[old]) for old in order],
    )
    _find_layers(graph, names)
    return graph


def _collect(root: Any, limit: int, deadline: float) -> tuple[list[Any], list[list[Value | None]]]:
    """Every node once, and the values that each takes."""
    nodes, numbers = [root], {root: 0}
    edges: list[list[Value | None]] = []
    while len(edges) < len(nodes):
        if len(nodes) > limit or (len(edges) % _CHECK_CLOCK == 0 and time.perf_counter() > deadline):
            raise GraphTooLargeError(f"its graph has more than {min(limit, len(nodes)):,} operations")
        taken: list[Value | None] = []
        for node, output in nodes[len(edges)].next_functions:
            if node is None:
                taken.append(None)
                continue
            number = numbers.get(node)
            if number is None:
                number = numbers[node] = len(nodes)
                nodes.append(node)
            taken.append((number, output))
        edges.append(taken)
    return nodes, edges


def _forward_order(ran: list[int], edges: list[list[Value | None]]) -> list[int]:
    """Inputs before outputs, and otherwise as autograd has numbered the operations when they ran."""
    consumers: list[list[int]] = [[] for _ in ran]
    missing = [0] * len(ran)
    for number, values in enumerate(edges):
        sources = {value[0] for value in values if value is not None}
        missing[number] = len(sources)
        for source in sources:
            consumers[source].append(number)
    ready = [(ran[number], number) for number, count in enumerate(missing) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, number = heapq.heappop(ready)
        order.append(number)
        for consumer in consumers[number]:
            missing[consumer] -= 1
            if missing[consumer] == 0:
                heapq.heappush(ready, (ran[consumer], consumer))
    return order


def _number(node: Any) -> int:
    return int(node._sequence_nr())  # noqa: SLF001 - there is no public way to see what autograd sorts by


def _name(node: Any) -> str:
    name = node.name().rpartition("::")[2]
    return LEAF if name == LEAF else re.sub(r"Backward\d*(_copy)?$", "", name)


def _find_layers(graph: Graph, names: Mapping[int, str]) -> None:
    """Tell operations on parameters alone from those at which parameters meet data."""
    for number, values in enumerate(graph.inputs):
        if graph.names[number] == LEAF:
            if (name := names.get(id(graph.nodes[number].variable))) is not None:
                graph.weights[number] = (name,)
            continue
        held = [graph.weights.get(value[0]) if value is not None else None for value in values]
        modules = tuple(dict.fromkeys(name for module in held for name in module or ()))
        if not modules:
            continue
        # What an embedding looks up are numbers, which have no place in the graph.
        if all(held) and not graph.names[number].startswith("Embedding"):
            graph.weights[number] = modules
        else:
            graph.layers[number] = modules
