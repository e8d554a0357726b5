"""Disconnected: a trainable parameter that no optimizer owns, or that gets no gradient although its module runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gradwatch._baselines import WARM_STEPS
from gradwatch._scene import Calls, Forward
from gradwatch._weights import looks_untrained
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

PROBES = 3
"""Looks that have shown a module at work without a gradient."""

OWNERLESS_STEPS = 30
"""Steps after which an optimizer that takes its turn (a GAN's) should have stepped."""


@dataclass
class _DisconnectedState:
    """What is remembered of one optimizer.

    Attributes:
        reached: Parameters that have ever had a gradient.
        cut: How often each parameter without one was seen at work without one.
        told: What has been told: it is so for the whole run.
        ownerless: For how many steps each parameter with a gradient has had no owner.
        count: Steps seen.
    """

    reached: dict[str, bool] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    told: dict[str, bool] = field(default_factory=dict)
    ownerless: dict[str, int] = field(default_factory=dict)
    count: int = 0


class DisconnectedDetector(Remembering[_DisconnectedState]):
    """Something meant to be trained is not: the graph is cut behind it, or nobody owns it."""

    kind = "disconnected"

    def __init__(self, forward: Forward | None = None) -> None:
        super().__init__(_DisconnectedState)
        self._forward = forward or Forward()

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        state = self._memory.of(record.optimizer)
        state.count += 1
        found = []
        if record.absent.any() and (calls := self._forward.of(record)) is not None:
            found = self._cut(record, calls, state)
        elif not record.absent.any():
            state.cut = {}
        _note_reached(record, state)
        return found + _ownerless(record, state)

    def _cut(self, record: StepRecord, calls: Calls, state: _DisconnectedState) -> list[Incident]:
        """Parameters without a gradient whose module has just worked, and whose output has not got one either."""
        at_work = _at_work(calls)
        names = [
            layer.name
            for layer, absent in zip(record.layers, record.absent.tolist(), strict=True)
            if absent and layer.module in at_work and layer.name not in state.reached and layer.name not in state.told
        ]
        state.cut = {name: state.cut.get(name, 0) + 1 for name in names}
        ripe = [name for name, looks in state.cut.items() if looks >= PROBES and state.count >= WARM_STEPS]
        if not ripe:
            return []
        state.told.update(dict.fromkeys(ripe, True))
        modules = {layer.name: layer.module for layer in record.layers}
        return [_cut_off(record, tuple(ripe), modules, calls, at_work)]


def _at_work(calls: Calls) -> dict[str, bool]:
    """Modules that were called and whose output got no gradient, and whether they were called with a graph."""
    seen = calls.seen
    silent: dict[str, bool] = {}
    for row, name in enumerate(seen.modules):
        silent[name] = silent.get(name, True) and bool(np.isnan(seen.out_grad[row]))
    graph = dict(zip(seen.modules, (seen.joined == 1).tolist(), strict=True))
    return {name: graph[name] for name, is_silent in silent.items() if is_silent}


def _note_reached(record: StepRecord, state: _DisconnectedState) -> None:
    if len(state.reached) < len(record.layers):
        for layer, absent in zip(record.layers, record.absent.tolist(), strict=True):
            if not absent:
                state.reached[layer.name] = True


def _cut_off(
    record: StepRecord, names: tuple[str, ...], modules: dict[str, str], calls: Calls, at_work: dict[str, bool]
) -> Incident:
    # The last one is nearest to where the graph is cut.
    ordered = tuple(dict.fromkeys(modules[name] for name in reversed(names)))
    order = list(dict.fromkeys(calls.seen.modules))
    nearest = max(ordered, key=lambda module: order.index(module) if module in order else -1)
    follows = [name for name in order[order.index(nearest) + 1 :] if name not in at_work] if nearest in order else []
    rest = "" if len(ordered) == 1 else f" and {len(ordered) - 1} more"
    how = (
        "its output is not connected to the loss"
        if at_work[nearest]
        else "it runs with gradients switched off (torch.no_grad)"
    )
    return Incident(
        kind="disconnected",
        step=record.step,
        layers=(nearest, *(module for module in ordered if module != nearest)),
        severity=Severity.ERROR,
        value=float(len(names)),
        threshold=0.0,
        message=f"{nearest}{rest} is trainable and runs in every step, but has never received a gradient: {how}, so it "
        "stays as it was initialised.",
        optimizer=record.optimizer,
        num_layers=len(set(modules.values())),
        evidence={
            "rule": "cut" if at_work[nearest] else "no_grad",
            "last": nearest,
            "next": follows[0] if follows else "",
            "num_parameters": len(names),
        },
    )


def _ownerless(record: StepRecord, state: _DisconnectedState) -> list[Incident]:
    """Parameters that have a gradient and no owner. Trained ones are left alone: only the head may be fine-tuned."""
    if record.ownerless is None:
        return []
    found = record.ownerless
    fresh = looks_untrained(found.layers, found.weight_norm)
    names = [layer.name for layer in found.layers] if fresh else []
    since = {name: state.ownerless.get(name, state.count) for name in names}
    state.ownerless = since
    ripe = [n for n in names if state.count - since[n] >= OWNERLESS_STEPS and n not in state.told]
    if not ripe:
        return []
    state.told.update(dict.fromkeys(ripe, True))
    modules = tuple(dict.fromkeys(layer.module or layer.name for layer in found.layers if layer.name in ripe))
    rest = "" if len(modules) == 1 else f" and {len(modules) - 1} more"
    return [
        Incident(
            kind="disconnected",
            step=record.step,
            layers=modules,
            severity=Severity.ERROR,
            value=float(len(ripe)),
            threshold=0.0,
            message=f"{modules[0]}{rest} is trainable and receives gradients, but no optimizer owns it: nothing ever "
            "moves it, and it looks as it was initialised.",
            optimizer=record.optimizer,
            num_layers=len(record.layers) + len(found.layers),
            evidence={"rule": "ownerless", "num_parameters": len(ripe), "last": modules[0]},
        )
    ]
