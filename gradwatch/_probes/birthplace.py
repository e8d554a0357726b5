"""Where a non-finite loss was born: the search through the values that its graph has saved.

From the loss towards the input, along values that are non-finite or that nobody has saved. A value seen to be finite
ends the way, so that infinities which a softmax has used up (attention masks) are never met.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from gradwatch._backward_order import WHAT
from gradwatch._probes.bracket import Bracket
from gradwatch._probes.graph import LEAF, SHAPING, Graph, GraphTooLargeError, read_graph
from gradwatch._probes.saved import Finding, Saved, finding_of, read_saved
from gradwatch._probes.suspects import CLEANING, MASKING, Risk, born_by, in_words, risk_of
from gradwatch._transfer import on_host
from gradwatch.records import Birthplace, ModuleInfo, Unavailable

_LIMIT = 50_000


def find_birthplace(
    loss: Tensor, names: Mapping[int, str], modules: Sequence[ModuleInfo] = ()
) -> Birthplace | Unavailable:
    """Where the non-finite value of a told loss was born. Call it before the backward pass; it never raises.

    Nothing of the training is changed or kept: saved tensors are looked at where they lie, and only those that no hook
    would have to bring back.

    Args:
        loss: Non-finite, with its graph, in host memory.
        names: From the id of a parameter to the name of the module that holds it.
        modules: The leaf modules in forward order (registration order where nothing better is known).

    Returns:
        What was found, or why nothing could be.
    """
    try:
        return _find(loss, names, modules)
    except GraphTooLargeError as error:
        return Unavailable(WHAT, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
        return Unavailable(WHAT, f"looking for it failed ({type(error).__name__}: {error})")


def _find(loss: Tensor, names: Mapping[int, str], modules: Sequence[ModuleInfo]) -> Birthplace | Unavailable:
    if not on_host(loss):
        return Unavailable(WHAT, f"the loss lies on {loss.device}, and looking at it would wait for the device")
    graph = read_graph(loss, names, limit=_LIMIT)
    if graph is None:
        return Unavailable(WHAT, "the loss that was told has no graph: tell it before .detach() or .item()")
    if graph.compiled:
        return Unavailable(WHAT, "the model is compiled, and torch.compile hides the single operations")
    saved = read_saved(graph)
    if saved.freed:
        return Unavailable(WHAT, "the backward pass had run already: tell the loss before loss.backward()")
    root = len(graph.nodes) - 1
    saved.values[root, loss.output_nr] = finding_of(loss) or Finding.NAN
    return _Search(graph, saved, root, modules).birthplace()


class _Search:
    """One search through one graph."""

    def __init__(self, graph: Graph, saved: Saved, root: int, modules: Sequence[ModuleInfo]) -> None:
        self._graph, self._saved, self._root, self._modules = graph, saved, root, modules
        self._outputs: dict[int, Finding] = {}
        for (number, _), finding in saved.values.items():
            self._outputs[number] = max(finding, self._outputs.get(number, finding))
        self._worst = self._outputs[root]

    def birthplace(self) -> Birthplace | Unavailable:
        """What was found."""
        # First without passing what may have removed a non-finite value; only where that leads nowhere also past it.
        region = self._way_from({self._root}, self._bad_kinds(), CLEANING)
        if not any(number != self._root and self._born(number) for number in region):
            region = self._way_from({self._root}, self._bad_kinds())
        birth = self._first(region)
        unseen = self._unseen_before(birth)
        if birth == self._root and any(number in self._saved.hidden for number in unseen | {birth}):
            return Unavailable(
                WHAT, "its operations keep their values behind hooks (activation checkpointing, offloading)"
            )
        return self._describe(birth, unseen, region)

    def _bad_kinds(self) -> frozenset[Finding]:
        """What leads to a loss like this: infinity may turn into NaN, NaN never into infinity."""
        infinite = {Finding.BELOW, Finding.INF}
        return frozenset(infinite | {Finding.NAN} if self._worst is Finding.NAN else infinite)

    def _way_from(
        self, starts: set[int], kinds: Collection[Finding], barriers: Collection[str] = ()
    ) -> dict[int, Finding]:
        """The operations on the way towards the input, each with the worst that is known of what it passes on.

        Args:
            starts: Where to begin.
            kinds: What a value may hold for the way to lead along it; one that nobody has saved may, too.
            barriers: Operations that the way does not lead past, unless what comes out of them is seen to be bad.
        """
        values = self._saved.values
        found = {number: self._output(number) for number in starts}
        waiting = list(starts)
        while waiting:
            number = waiting.pop()
            if not found[number] and self._graph.names[number] in barriers:
                continue
            for value in self._graph.inputs[number]:
                finding = None if value is None else values.get(value)
                if value is None or (finding is not None and finding not in kinds):
                    continue
                known = finding or Finding.FINITE
                if value[0] not in found:
                    found[value[0]] = known
                    waiting.append(value[0])
                elif known > found[value[0]]:
                    found[value[0]] = known
        return found

    def _output(self, number: int) -> Finding:
        return self._outputs.get(number, Finding.FINITE)

    def _born(self, number: int, output: Finding = Finding.FINITE) -> Finding:
        """The worst that is known to come from an operation, out of its outputs, arguments or its leaf."""
        saved, node = self._saved, self._graph.nodes[number]
        given = max(saved.outside.get(number, Finding.FINITE), saved.weights.get(number, Finding.FINITE))
        output = max(output, self._output(number))
        return max(output, given) or born_by(self._graph.names[number], node)

    def _first(self, region: dict[int, Finding]) -> int:
        """The first operation in forward order that is known to be bad, of those that the loss comes from."""
        place = self._places(region)
        known = {number: self._born(number, finding) for number, finding in region.items()}
        if self._worst is Finding.NAN:
            first = min((n for n in region if known[n] is Finding.NAN), key=place.__getitem__)
            # A NaN is often made of infinities (inf - inf, 0 * inf): then it began where the first of them arose.
            origin = self._way_from({first}, {Finding.BELOW, Finding.INF})
            infinite = [n for n in origin if n in region and known[n] in (Finding.BELOW, Finding.INF)]
            given = self._saved.outside.get(first, self._saved.weights.get(first))
            if not infinite or given is Finding.NAN:
                return first
            return min((n for n in infinite if not self._on_purpose(n, known[n])), key=place.__getitem__, default=first)
        infinite = [n for n in region if known[n]]
        real = [n for n in infinite if not self._on_purpose(n, known[n])]
        return min(real or infinite, key=place.__getitem__)

    def _on_purpose(self, number: int, finding: Finding) -> bool:
        """Whether an infinity is one of a mask: minus infinity, where masks are applied or only passed on."""
        name, is_given = self._graph.names[number], number in self._saved.outside
        return finding is Finding.BELOW and name in (MASKING | SHAPING) and not is_given

    def _places(self, region: Mapping[int, Finding]) -> dict[int, float]:
        """Where each operation stands in forward order; a leaf right before the first that takes it."""
        place = {number: float(number) for number in region}
        for number in sorted(region, reverse=True):
            for value in self._graph.inputs[number]:
                if value is not None and value[0] in region and self._graph.names[value[0]] == LEAF:
                    place[value[0]] = number - 0.5
        return place

    def _unseen_before(self, birth: int) -> set[int]:
        """The operations before it whose results nobody has saved: it may have happened in one of them, too."""
        if self._saved.outside.get(birth) or self._saved.weights.get(birth):
            return set()
        if born_by(self._graph.names[birth], self._graph.nodes[birth]):
            return set()
        return {n for n in self._way_from({birth}, ()) if n != birth and self._graph.names[n] != LEAF}

    def _describe(self, birth: int, unseen: set[int], region: Collection[int]) -> Birthplace:
        graph, saved = self._graph, self._saved
        bracket = Bracket(graph, self._modules, region)
        if birth in saved.weights:
            return bracket.of_leaf(birth)
        if birth in saved.outside:
            return bracket.of_input(birth, self._words(birth))
        masked = any(graph.names[n] in MASKING for n in unseen)
        risks = {n: risk_of(graph.names[n], graph.nodes[n], masked=masked) for n in unseen | {birth}}
        if born_by(graph.names[birth], graph.nodes[birth]):
            risks[birth] = Risk.HIGH
        top = max(risks.values())
        suspects = {n for n, risk in risks.items() if risk == top}
        culprit = birth if birth in suspects else max(suspects)
        # One that stands out is the one; among equals it may be any of them.
        likely = {culprit} if top is Risk.HIGH and len(suspects) == 1 else {n for n in risks if risks[n]} or {birth}
        return bracket.of_operation(culprit, likely, birth, self._words(culprit))

    def _words(self, number: int) -> str:
        words = in_words(self._graph.names[number])
        return f"{words} in float16" if number in self._saved.half else words
