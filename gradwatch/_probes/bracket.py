"""Between which layers something happened: from places in the graph to the names of modules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torch import nn

from gradwatch._probes.graph import Graph
from gradwatch.records import Birthplace, ModuleInfo

_MOST = 5


class Bracket:
    """Names places in a graph.

    Args:
        graph: Of the loss.
        modules: The leaf modules in forward order.
        region: The operations that the non-finite value may have come through on its way to the loss.
    """

    def __init__(self, graph: Graph, modules: Sequence[ModuleInfo], region: Collection[int]) -> None:
        self._graph = graph
        self._modules = modules
        self._kinds = {module.name: module.kind for module in modules}
        self._leads_on = dict(enumerate(graph.consumers()))
        self._region = region

    def of_leaf(self, leaf: int) -> Birthplace:
        """A parameter or another leaf that the graph begins with is non-finite."""
        users = [number for number in self._leads_on[leaf] if number in self._region]
        while users and all(number in self._graph.weights for number in users):
            users = [other for number in users for other in self._leads_on[number] if other in self._region]
        before, after = self._around(set(users) or {leaf})
        if (owners := self._graph.weights.get(leaf)) is None:  # no parameter of the model: given from outside
            modules = self._graph.modules_of(users) or self._between(before, after, "")
            return _birthplace("input", "", modules, before, after)
        return _birthplace("weight", "", owners, before, after)

    def of_input(self, number: int, operation: str) -> Birthplace:
        """An operation was given something non-finite that no graph leads to."""
        before, after = self._around({number})
        modules = self._graph.layers.get(number) or self._between(before, after, self._graph.names[number])
        return _birthplace("input", operation, modules, before, after)

    def of_operation(self, culprit: int, likely: set[int], seen: int, operation: str) -> Birthplace:
        """Finite values became non-finite.

        Args:
            culprit: The operation that did it most likely.
            likely: All that may have.
            seen: The operation whose result was the first to be seen bad.
            operation: The culprit in plain words.
        """
        before, after = self._around(likely, {seen})
        own = self._graph.modules_of(likely)
        only_layers = all(number in self._graph.layers for number in likely)
        between = () if only_layers else self._between(before, after, self._graph.names[culprit])
        modules = tuple(dict.fromkeys((*between, *own)))
        if not modules and before and after:
            modules = _common_parent((*before[:1], *after[:1]))
        if after and set(after) <= set(modules):  # a module whose own weights come behind what it does first
            _, after = self._around({n for n, names in self._graph.layers.items() if set(names) <= set(after)})
        return _birthplace("operation", operation, modules, before, after)

    def _around(self, places: set[int], seen: set[int] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The nearest layers on both sides."""
        inside = self._graph.modules_of(places)
        towards_loss = {
            number: [other for other in consumers if other in self._region]
            for number, consumers in self._leads_on.items()
            if number in self._region
        }
        before = self._graph.modules_of(self._graph.nearest_layers(places))
        after = self._graph.modules_of(self._graph.nearest_layers(seen or places, towards_loss))
        return _without(before[::-1], inside), _without(after, (*inside, *before))

    def _between(self, before: Sequence[str], after: Sequence[str], operation: str) -> tuple[str, ...]:
        """The modules without parameters strictly between, and those of the user's own that begin or end there.

        Torch's own modules make nothing non-finite of finite values, so that of these only one counts that does just
        the operation in question (a softmax of a row that is masked throughout).
        """
        places = {module.name: place for place, module in enumerate(self._modules)}
        first = max((self._place(places, name) for name in before), default=-1)
        last = min((self._place(places, name) for name in after), default=len(self._modules))
        found = [
            module.name
            for module in self._modules[first + 1 : max(last, first + 1)]
            if module.num_parameters == 0 and (_is_custom(module.kind) or module.kind.lower() == operation.lower())
        ]
        edges = (*after[:1], *(before[:1] if after else ()))
        return (*found, *(name for name in edges if name in self._kinds and _is_custom(self._kinds[name])))

    @staticmethod
    def _place(places: dict[str, int], name: str) -> int:
        """Where a module stands; one that holds others stands before the first of them."""
        inner = (place for other, place in places.items() if other.startswith(f"{name}."))
        return places[name] if name in places else min(inner, default=0) - 1


def _is_custom(kind: str) -> bool:
    return not hasattr(nn, kind)


def _birthplace(
    source: str, operation: str, modules: Iterable[str], before: Iterable[str], after: Iterable[str]
) -> Birthplace:
    suspected = _without(dict.fromkeys(modules), ())
    return Birthplace("forward", source, operation, suspected, _without(before, suspected), _without(after, suspected))


def _without(names: Iterable[str], others: Collection[str]) -> tuple[str, ...]:
    """The names that tell something: a layer that is the whole model has none."""
    return tuple(name for name in names if name and name not in others)[:_MOST]


def _common_parent(names: Sequence[str]) -> tuple[str, ...]:
    """The innermost module that holds all of them or is one of them; none where that is the whole model."""
    parts = [name.split(".") for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return (".".join(shared),) if shared and shared != [""] else ()
