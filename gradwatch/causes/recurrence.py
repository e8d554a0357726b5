"""Causes that lie in a recurrence: the same weights are multiplied once for every time step.

Sources: Bengio, Simard & Frasconi (1994) and Pascanu, Mikolov & Bengio (2013) on why the signal fades or grows, and on
clipping; Saxe, McClelland & Ganguli (2014) and Le, Jaitly & Hinton (2015) on orthogonal and identity matrices;
Jozefowicz, Zaremba & Sutskever (2015) on the forget gate's bias, Tallec & Ollivier (2018) on its size.
"""

from __future__ import annotations

import math

from gradwatch._decades import fraction, number
from gradwatch.causes._remedies import access, clip
from gradwatch.records import Cause, Incident, ModelInfo, ModuleInfo, Remedy, StepRecord

_FUSED = ("RNN", "GRU", "LSTM")
_KNOWN = (*_FUSED, *(f"{kind}Cell" for kind in _FUSED))


def measured_recurrence(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """The signal was followed through time: by what it is multiplied at each step is known."""
    facts = incident.evidence
    if facts.get("rule") != "through_time":
        return None
    module, kind, steps, per_step = facts["module"], facts["module_kind"], facts["num_steps"], facts["per_step"]
    what = f"nn.{kind}" if kind in _KNOWN else f"a {kind} in a loop"
    return Cause(
        name="long_recurrence",
        confidence=0.85,
        evidence=f"through {module or 'the model'} ({what}) the learning signal is multiplied by {per_step:.2g} at "
        f"every time step on its way back (measured): {_pace(per_step)}, and of the last of {steps} steps "
        f"{_arrives(facts['ratio'])}",
        remedies=_for_memory(module, kind, steps) if incident.kind == "vanishing" else _for_stability(incident),
    )


def _pace(per_step: float) -> str:
    if per_step <= 0:
        return "it is gone at once"
    if per_step == 1:
        return "it stays as it is"
    steps = f"{abs(math.log(2) / math.log(per_step)):.2g}"
    return f"it {'halves' if per_step < 1 else 'doubles'} every {steps} step{'' if steps == '1' else 's'}"


def _arrives(ratio: float) -> str:
    if ratio == 0:
        return "nothing measurable arrives at the first"
    return f"{fraction(ratio) if ratio < 1 else f'{number(ratio)} times as much'} arrives at the first"


def _for_memory(module: str, kind: str, steps: int) -> tuple[Remedy, ...]:
    place = access(module) if module else "model"
    shorter = Remedy(
        action=f"a shorter way back than {steps} steps: skip or pool frames in front of the recurrent layer, or put "
        "attention on its outputs",
        reason="what happened early is then fewer multiplications away, or one",
    )
    if kind.startswith(("LSTM", "GRU")) and kind in _KNOWN:
        return _open_gate(place, kind, steps), shorter
    if kind in _KNOWN:
        return _orthogonal(place, kind), _gated(place, kind), shorter
    gates = "an nn.LSTMCell or nn.GRUCell, or gates like theirs, in place of your own cell"
    return Remedy(gates, "gates let a signal pass unchanged for many steps"), _ORTHOGONAL_BY_HAND, shorter


def _for_stability(incident: Incident) -> tuple[Remedy, ...]:
    module, kind = incident.evidence["module"], incident.evidence["module_kind"]
    place = access(module) if module else "model"
    return (
        clip(incident),
        _orthogonal(place, kind) if kind in _KNOWN else _ORTHOGONAL_BY_HAND,
        Remedy(
            action="truncated back-propagation through time: cut the way back every 20 to 50 steps",
            reason="over fewer steps the signal grows less, and the state itself is still carried on",
            snippet="h = h.detach()  # between two windows of time steps",
        ),
    )


_ORTHOGONAL_BY_HAND = Remedy(
    action="orthogonal initialisation with a gain of 1 for the matrix that reads the state",
    reason="an orthogonal matrix makes no signal smaller or larger",
)


def _orthogonal(place: str, kind: str) -> Remedy:
    """Each gate's block of the recurrent matrix by itself; with a ReLU the identity does the same (Le et al., 2015)."""
    lines = (
        f"for name, weight in {place}.named_parameters():",
        '    if "weight_hh" in name:',
        f"        for gate in weight.data.chunk({_num_gates(kind)}):",
        "            nn.init.orthogonal_(gate, gain=1.0)",
    )
    return Remedy(
        action=f"orthogonal initialisation of {place}'s recurrent matrix with a gain of 1, and a new start",
        reason="an orthogonal matrix makes no signal smaller or larger, however often it is multiplied",
        snippet="\n".join(lines),
    )


def _num_gates(kind: str) -> int:
    return {"RNN": 1, "GRU": 3, "LSTM": 4}[kind.removesuffix("Cell")]


def _gated(place: str, kind: str) -> Remedy:
    cell = kind.endswith("Cell")
    shape = f"{place}.input_size, {place}.hidden_size"
    if not cell:
        same = ("num_layers", "batch_first", "bidirectional")
        shape = ", ".join((shape, *(f"{key}={place}.{key}" for key in same)))
    suffix = "Cell" if cell else ""
    return Remedy(
        action=f"nn.GRU{suffix} or nn.LSTM{suffix} in place of nn.{kind}",
        reason="their gates let a signal pass unchanged for many steps",
        snippet=f"{place} = nn.GRU{suffix}({shape})  # before the optimizer is made",
    )


def _open_gate(place: str, kind: str, steps: int) -> Remedy:
    """The forget gate of an LSTM and the update gate of a GRU are the second block of the biases."""
    bias = max(1.0, math.log(max(2, steps)))
    gate = "forget" if kind.startswith("LSTM") else "update"
    lines = (
        f"for name, bias in {place}.named_parameters():",
        '    if "bias_ih" in name:',
        f"        bias.data.chunk({_num_gates(kind)})[1].fill_({bias:.2g})",
    )
    return Remedy(
        action=f"a bias of {bias:.2g} for the {gate} gate (1 is the custom; log({steps}) fits {steps} steps), and a "
        "new start",
        reason=f"with a bias of 0 the gate is half open and halves the state at every step; with {bias:.2g} it keeps "
        f"{100 / (1 + math.exp(-bias)):.0f} % of it",
        snippet="\n".join(lines),
    )


def long_recurrence(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """A recurrent layer in the midst of it: measured through time, or known by its kind alone."""
    if (measured := measured_recurrence(incident, record, model)) is not None:
        return measured
    found = [module for module in model.modules if module.kind in _KNOWN and _named(module, incident)]
    if not found:
        return None
    module = found[0]
    if incident.kind == "exploding":
        remedies: tuple[Remedy, ...] = (clip(incident),)
    else:
        gated = Remedy("nn.LSTM or nn.GRU in place of nn.RNN", "their gates let a signal pass unchanged for many steps")
        remedies = (*((gated,) if module.kind.startswith("RNN") else ()), Remedy("shorter sequences"))
    return Cause(
        name="long_recurrence",
        confidence=0.5,
        evidence=f"{module.name} is an nn.{module.kind}: the same weights are multiplied once for every time step",
        remedies=remedies,
    )


def _named(module: ModuleInfo, incident: Incident) -> bool:
    return any(name == module.name or name.startswith(f"{module.name}.") for name in incident.layers)
