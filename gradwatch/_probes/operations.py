"""What the graph of a loss tells of the architecture: also the functions that no module stands for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from gradwatch._probes.graph import SHAPING, Graph, GraphTooLargeError, read_graph
from gradwatch.records import Operations

_SECONDS = 0.05
_MAX_ADDITIONS = 200


def operations(loss: Tensor, names: Mapping[int, str], *, seconds: float = _SECONDS) -> Operations | None:
    """The operations behind each module with weights, and behind the last one.

    Structure only: no value is read, so that it costs the same on every device.

    Args:
        loss: With a graph.
        names: From the id of a parameter to the name of the module that holds it.
        seconds: A larger graph than can be walked in that time is left alone.

    Returns:
        None where there is no graph, where it hides what runs inside (``torch.compile``), and where it is too large.
    """
    try:
        graph = read_graph(loss, names, seconds=seconds)
    except GraphTooLargeError:
        return None
    if graph is None or graph.compiled:
        return None
    in_loss = _behind_the_last_layer(graph)
    return Operations(
        in_loss=_words(graph, in_loss),
        after=_after_each_module(graph),
        has_shortcuts=_has_shortcuts(graph, in_loss),
        chance=_chance(graph),
    )


def _words(graph: Graph, numbers: Iterable[int]) -> tuple[str, ...]:
    """Their names in forward order, each once, without those that only arrange values anew."""
    return tuple(dict.fromkeys(graph.names[n] for n in sorted(numbers) if graph.names[n] not in SHAPING))


def _behind_the_last_layer(graph: Graph) -> set[int]:
    """The operations that lead to the loss past no layer."""
    root = len(graph.nodes) - 1
    if root in graph.layers:
        return set()
    found, waiting = {root}, [root]
    while waiting:
        for number in graph.before(waiting.pop()):
            if number not in found and number not in graph.layers and graph.inputs[number]:
                found.add(number)
                waiting.append(number)
    return found


def _after_each_module(graph: Graph) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """For each module the operations whose latest layer it is, as far as they lead to a further layer."""
    leads_on: set[int] = set()
    for number in range(len(graph.nodes) - 1, -1, -1):
        if number in graph.layers or number in leads_on:
            leads_on.update(graph.before(number))
    latest: dict[int, int] = {}
    found: dict[str, list[int]] = {}
    for number in range(len(graph.nodes)):
        if number in graph.weights:
            continue
        if number in graph.layers:
            latest[number] = number
            for module in graph.layers[number]:
                found.setdefault(module, [])
            continue
        layers = [latest[other] for other in graph.before(number) if other in latest]
        if layers:
            latest[number] = max(layers)
            if number in leads_on:
                for module in graph.layers[latest[number]]:
                    found[module].append(number)
    return tuple((module, _words(graph, numbers)) for module, numbers in found.items())


_MEAN = 1  # torch.nn._reduction


def _chance(graph: Graph) -> float | None:
    """The cross entropy of equal chances, where the loss is a mean cross entropy and nothing else."""
    node, number = graph.nodes[-1], len(graph.nodes) - 1
    if graph.names[-1] not in ("NllLoss", "NllLoss2D") or getattr(node, "_saved_reduction", None) != _MEAN:
        return None
    given = [before for before in graph.before(number) if graph.names[before] == "LogSoftmax"]
    metadata = getattr(graph.nodes[given[0]], "_input_metadata", ()) if given else ()  # private: there may be none
    sizes = list(metadata[0].shape) if metadata else []
    classes = int(sizes[1]) if len(sizes) > 1 else 1
    return math.log(classes) if classes > 1 else None


def _has_shortcuts(graph: Graph, in_loss: set[int]) -> bool:
    """Whether some addition within the network joins a signal with what layers have made of it.

    One behind the last layer does not count: the terms of a loss (a reconstruction and a divergence) have just that
    shape. The latest ones are looked at: networks repeat themselves.
    """
    additions = [
        number
        for number, name in enumerate(graph.names)
        if name == "Add" and number not in in_loss and number not in graph.layers and len(set(graph.before(number))) > 1
    ]
    return any(_is_shortcut(graph, number) for number in additions[-_MAX_ADDITIONS:])


def _is_shortcut(graph: Graph, addition: int) -> bool:
    left, right = [value[0] for value in graph.inputs[addition] if value is not None][:2]
    return _passes_by(graph, left, right) or _passes_by(graph, right, left)


def _passes_by(graph: Graph, short: int, long: int) -> bool:
    """Whether ``short`` and ``long`` come from one value, from which only ``long`` has passed through layers."""
    direct, waiting = {short}, [short]
    while waiting:
        number = waiting.pop()
        if number not in graph.layers:
            new = [other for other in graph.before(number) if other not in direct]
            direct.update(new)
            waiting += new
    # Their common value ran before both, so that nothing older than all of ``direct`` is worth a look.
    oldest = min(direct)
    seen, ways = {(long, long in graph.layers)}, [(long, long in graph.layers)]
    while ways:
        number, passed = ways.pop()
        for other in graph.before(number):
            if passed and other in direct:
                return True
            step = (other, passed or other in graph.layers)
            if other >= oldest and step not in seen:
                seen.add(step)
                ways.append(step)
    return False
