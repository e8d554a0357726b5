"""Disconnected: a trainable parameter that no optimizer owns, or that gets no gradient although its module runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradwatch._activation_kinds import ACTIVATIONS
from gradwatch._baselines import WARM_STEPS
from gradwatch._scene import Calls
from gradwatch._weights import looks_untrained
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

PROBES = 3
"""Looks that have shown a module at work without a gradient."""

LOST_STEPS = 30
"""Steps for which a parameter that had a gradient must have been without: a phase of training may leave one out."""

OWNERLESS_STEPS = 30
"""Steps after which an optimizer that takes its turn (a GAN's) should have stepped."""


@dataclass
class _DisconnectedState:
    """What is remembered of one optimizer.

    Attributes:
        reached: Parameters that have ever had a gradient.
        without: For how many steps in a row each parameter has had none, or one of exactly zero.
        cut: How often in a row each of these was seen at work without one.
        weight: Weight norm of these when first seen without: somebody else may move them.
        told: What has been told: it is so for the whole run.
        ownerless: Since which step each parameter with a gradient has had no owner.
        count: Steps seen.
    """

    reached: dict[str, bool] = field(default_factory=dict)
    without: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)
    told: dict[str, bool] = field(default_factory=dict)
    ownerless: dict[str, int] = field(default_factory=dict)
    count: int = 0


class DisconnectedDetector(Remembering[_DisconnectedState]):
    """Something meant to be trained is not: the way back from the loss is cut behind it, or nobody owns it."""

    kind = "disconnected"
    new_state = _DisconnectedState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        state = self._memory.of(record.optimizer)
        state.count += 1
        if not state.without and len(state.reached) == len(record.layers) and record.extremes[0] > 0:
            return _ownerless(record, state)  # as at nearly every step of nearly every run
        nothing = ~(record.grad_norm > 0) & (record.num_nonfinite == 0)
        found: list[Incident] = []
        if nothing.any() and (not nothing.all() or record.absent.all()):
            _follow(record, nothing, state)
            if (calls := self._forward.of(record)) is not None:
                found = _cut(record, calls, state)
        elif state.without:
            state.without, state.cut, state.weight = {}, {}, {}
        if len(state.reached) < len(record.layers):
            _note_reached(record, nothing, state)
        return found + _ownerless(record, state)


def _follow(record: StepRecord, nothing: NDArray[np.bool_], state: _DisconnectedState) -> None:
    """Count the steps of those without a gradient, and forget those that somebody else moves."""
    indices = np.flatnonzero(nothing).tolist()
    state.without = {name: state.without.get(name, 0) + 1 for name in (record.layers[i].name for i in indices)}
    if record.weight_norm is None:
        return
    for index in np.flatnonzero(record.absent).tolist():  # those with a gradient of zero may decay
        name, norm = record.layers[index].name, float(record.weight_norm[index])
        if norm != state.weight.setdefault(name, norm):
            state.told[name] = True  # by hand, such as a moving average of other weights


def _cut(record: StepRecord, calls: Calls, state: _DisconnectedState) -> list[Incident]:
    """Parameters without a gradient whose module has just worked, and whose output has not got one either."""
    at_work = _at_work(calls)
    modules = {layer.name: layer.module for layer in record.layers}
    names = [name for name in state.without if modules.get(name) in at_work and name not in state.told]
    chosen = _one_of_several(record, {modules[name] for name in names if at_work[modules[name]] == "zeroed"})
    names = [name for name in names if modules[name] not in chosen]
    state.cut = {name: state.cut.get(name, 0) + 1 for name in names}
    ripe = [
        name
        for name, looks in state.cut.items()
        if looks >= PROBES and state.without[name] >= _patience(name, at_work[modules[name]], state)
    ]
    if not ripe:
        return []
    state.told.update(dict.fromkeys(ripe, True))
    return [_cut_off(record, tuple(ripe), modules, calls, at_work, state)]


def _one_of_several(record: StepRecord, modules: set[str]) -> set[str]:
    """Those that have equals beside them (``experts.3``, ``experts.5``) that get a gradient: not chosen, for now."""
    if not modules:
        return set()
    shapes = {layer.module: layer.shape for layer in record.layers if len(layer.shape) > 1}
    alive = {layer.module for layer, norm in zip(record.layers, record.grad_norm, strict=True) if norm > 0}
    families = {(_family(module), shapes.get(module)) for module in alive}
    return {module for module in modules if _family(module) and (_family(module), shapes.get(module)) in families}


def _family(module: str) -> str:
    """What a numbered module has in common with its siblings: its name with the last number left out."""
    parts = module.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join((*parts[: numbers[-1]], "*", *parts[numbers[-1] + 1 :])) if numbers else ""


def _patience(name: str, how: str, state: _DisconnectedState) -> int:
    """A gradient that was there before, or is exactly zero, may only be waiting."""
    return LOST_STEPS if name in state.reached or how == "zeroed" else WARM_STEPS


def _at_work(calls: Calls) -> dict[str, str]:
    """Modules that were called and whose output got no gradient, and how that is."""
    seen = calls.seen
    rows = list(zip(seen.modules, seen.kinds, seen.joined.tolist(), seen.out_grad.tolist(), strict=True))
    # A function's row bears the name of the layer before it, and what comes back to it need not come to the layer.
    rows = [
        row for row, is_layer in zip(rows, calls.plan.is_layer, strict=True) if is_layer or row[1] not in ACTIVATIONS
    ]
    got = {name for name, _, _, grad in rows if grad > 0}
    how: dict[str, str] = {}
    for name, _, joined, grad in rows:
        if name not in got:
            how[name] = "no_grad" if not joined else "cut" if math.isnan(grad) else "zeroed"
    return how


def _note_reached(record: StepRecord, nothing: NDArray[np.bool_], state: _DisconnectedState) -> None:
    for layer, is_without in zip(record.layers, nothing.tolist(), strict=True):
        if not is_without:
            state.reached[layer.name] = True


_HOW = {
    "cut": "its output is not connected to the loss",
    "no_grad": "it runs with gradients switched off (torch.no_grad)",
    "zeroed": "what comes back to its output is exactly zero",
}


_HOW_ALL = {
    "cut": "their output is not connected to the loss",
    "no_grad": "they run with gradients switched off (torch.no_grad)",
    "zeroed": "what comes back to their output is exactly zero",
}


def _cut_off(  # noqa: PLR0917 - all of it is one scene
    record: StepRecord,
    names: tuple[str, ...],
    modules: dict[str, str],
    calls: Calls,
    at_work: dict[str, str],
    state: _DisconnectedState,
) -> Incident:
    # The last one is nearest to where the way back is cut.
    ordered = tuple(dict.fromkeys(modules[name] for name in reversed(names)))
    order = list(dict.fromkeys(calls.seen.modules))
    nearest = max(ordered, key=order.index)
    follows = [name for name in order[order.index(nearest) + 1 :] if name not in at_work]
    rest = "" if len(ordered) == 1 else f" and {len(ordered) - 1} more"
    how = at_work[nearest]
    lost = any(name in state.reached for name in names)
    one = len(ordered) == 1
    have = "has" if one else "have"
    for_long = f" for {state.without[names[0]]} steps"
    since = f"{have} received no gradient{for_long}" if lost else f"{have} never received a gradient"
    stay = ("stays as it" if one else "stay as they") + (
        (" is" if one else " are") if lost else (" was" if one else " were")
    )
    as_it_was = f"{stay}{'' if lost else ' initialised'}"
    return Incident(
        kind="disconnected",
        step=record.step,
        layers=(nearest, *(module for module in ordered if module != nearest)),
        severity=Severity.ERROR,
        value=float(len(names)),
        threshold=0.0,
        message=f"{nearest}{rest} {'is trainable and runs' if one else 'are trainable and run'} in every step, but "
        f"{since}: {_HOW[how] if one else _HOW_ALL[how]}, so {'it' if one else 'they'} {as_it_was}.",
        optimizer=record.optimizer,
        num_layers=len(set(modules.values())),
        evidence={
            "rule": how,
            "last": nearest,
            "next": follows[0] if follows else "",
            "num_parameters": len(names),
            "since": record.step - max(state.without[name] for name in names) + 1,
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
            message=f"{modules[0]} is trainable and receives gradients, but no optimizer owns it: nothing ever moves "
            f"it, and it looks as it was initialised{f' (and {len(modules) - 1} more like it)' if rest else ''}.",
            optimizer=record.optimizer,
            num_layers=len({layer.module for layer in (*record.layers, *found.layers)}),
            evidence={"rule": "ownerless", "num_parameters": len(ripe), "last": modules[0]},
        )
    ]
