"""Causes of units that pass nothing on: dead ReLUs and saturated activations."""

from __future__ import annotations

import math

from gradwatch._activation_kinds import ACTIVATIONS
from gradwatch._decades import number
from gradwatch.causes._remedies import LEAKY, access, assign, count, initialisation, initialise_all, normalise
from gradwatch.records import Cause, Incident, ModelInfo, Remedy, StepRecord
from gradwatch.wording import percent

_FAR_BELOW = 1.0  # standard deviations of what a ReLU is given by which its mean is below zero
_DROWNING = 4.0  # bias over what the weights add to it: nobody's initialisation, and no ReLU survives it
_LARGE = 2.0  # weight scale
_BOLD = 0.1  # update over weight, the usual one of a step
_GROWN = 1.5  # times the weights' norm when they were first seen
_WILD = 0.5  # the same of a single layer
_GATED = frozenset({"LSTM", "GRU", "LSTMCell", "GRUCell"})


def dead_by_bias(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """What the ReLU is given is negative as a whole: a constant has been added to it (Lu et al., 2020)."""
    facts = incident.evidence
    layer, activation = facts["layer"], facts["activation"]
    mean, std = facts.get("given_mean", math.nan), facts.get("given_std", math.nan)
    its = "its ReLU" if activation == layer else activation
    evidence = (
        f"{layer} gives {its} values of {number(mean)} on average, varying by only {number(std)}: its bias has pushed "
        "all of them below zero"
    )
    sure = mean < 0 and -mean > 3 * _FAR_BELOW * std
    if math.isnan(mean):  # a function is called that nobody sees
        bias = facts.get("bias_size", math.nan)
        sure = bias >= _DROWNING
        evidence = (
            f"the bias of {layer} is {number(bias)} times as large as all that its weights make of inputs of about 1, "
            "so that it alone decides"
        )
    if not sure and not (mean < 0 and -mean > _FAR_BELOW * std):
        return None
    return Cause(
        name="dead_by_bias",
        confidence=0.8 if sure else 0.6,
        evidence=evidence,
        remedies=(
            Remedy(
                action=f"set the bias of {layer} to zero",
                reason="then about half of its units are active again",
                snippet=f"nn.init.zeros_({access(layer)}.bias)",
            ),
            _leaky(activation, model),
            Remedy(
                action="find what made the bias so negative: an initialisation, or a step before this one",
                reason="it will happen again otherwise",
            ),
        ),
    )


def dead_by_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Weights far above the common size: values and steps are too large, and throw whole layers below zero."""
    facts = incident.evidence
    scale = facts.get("weight_scale", math.nan)
    grown = facts.get("last_weight", math.nan) > _GROWN * facts.get("first_weight", math.nan)
    if not scale > _LARGE or grown:  # weights that became so in this run are a matter of its steps
        return None
    return Cause(
        name="large_weights",
        confidence=0.82,
        evidence=f"the weights have {number(scale)} times the size that keeps a signal as strong as it is: values and "
        "steps grow with them, and one large step moves all units of a layer below zero",
        remedies=(
            Remedy(
                action=f"{initialisation(model)[0]} initialisation",
                reason="it gives each layer the size at which a signal neither fades nor grows",
                snippet=initialise_all(record, model),
            ),
            normalise(model),
        ),
    )


def dead_by_learning_rate(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """A step of a wild size has moved all units below zero at once."""
    typical, wildest = (incident.evidence.get(f"{which}_update", math.nan) for which in ("largest", "wildest"))
    if not typical >= _BOLD and not wildest >= _WILD:
        return None
    ratio = wildest if wildest >= _WILD else typical
    where = " of one layer" if wildest >= _WILD else ""
    return Cause(
        name="dead_by_learning_rate",
        confidence=0.85 if typical >= 1 else 0.65,
        evidence=f"an earlier update was {number(ratio)} times as large as the weights{where} (about 0.001 is usual): "
        "a step of that size moves all units of a layer below zero at once",
        remedies=(
            Remedy(
                action="a far lower learning rate, or a warm-up over the first few hundred steps",
                reason="no step then throws a whole layer out",
                snippet='for group in optimizer.param_groups: group["lr"] /= 10',
            ),
            Remedy(action="initialise the model again", reason="dead units do not come back by themselves"),
            _leaky(incident.evidence["activation"], model),
        ),
    )


def dead_units(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """Nothing more is known than that they are dead."""
    facts = incident.evidence
    units = "all" if facts["share"] == 1 else f"{percent(facts['share'])} of the"
    return Cause(
        name="dead_relu",
        confidence=0.4,
        evidence=f"behind {facts['layer']} {units} units give exactly zero for all samples that were looked at",
        remedies=(_leaky(facts["activation"], model), normalise(model)),
    )


def _leaky(activation: str, model: ModelInfo) -> Remedy:
    replaced = _replace(activation, "nn.LeakyReLU(0.01)", model)
    return Remedy(
        action="nn.LeakyReLU or nn.GELU in place of nn.ReLU"
        if replaced
        else "F.leaky_relu or F.gelu in place of F.relu",
        reason=LEAKY,
        snippet=replaced,
    )


def _replace(activation: str, by: str, model: ModelInfo) -> str:
    """The replacement as code; "" where a function is called, for then the name is that of the layer before it."""
    is_module = any(module.name == activation and module.kind in ACTIVATIONS for module in model.modules)
    return assign(activation, by) if is_module else ""


def saturated_by_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Weights far above the common size (Glorot & Bengio, 2010)."""
    facts = incident.evidence
    scale = facts.get("weight_scale", math.nan)
    if incident.kind != "saturation" or facts.get("activation_kind") == "Softmax" or not scale > _LARGE:
        return None
    given = facts["given_std"]
    result = (
        f", so that {facts['activation']} is given values of about {number(given)}, where about 1 is usual"
        if math.isfinite(given)
        else ""
    )
    return Cause(
        name="large_weights",
        confidence=0.85,
        evidence=f"the weights have {number(scale)} times the size that keeps a signal as strong as it is{result}",
        remedies=(
            Remedy(
                action=f"{initialisation(model)[0]} initialisation",
                reason="it gives each layer the size at which activations stay on their steep part",
                snippet=initialise_all(record, model),
            ),
            normalise(model),
        ),
    )


def saturated_by_rate(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Steps of a wild size have pushed the values out to the flat ends."""
    facts = incident.evidence
    ratio = facts.get("largest_update", math.nan)
    if facts.get("rule") not in ("learned", "leapt") or not ratio >= _BOLD:
        return None
    rate = f", at a learning rate of {record.lr:.3g}" if math.isfinite(record.lr) else ""
    return Cause(
        name="lr_too_high",
        confidence=0.7,
        evidence=f"{facts['activation']} was well at the start; one update has been {number(ratio)} times as large as "
        f"the weights (about 0.001 is usual){rate}",
        remedies=(
            Remedy(
                action="a lower learning rate, or a warm-up over the first few hundred steps",
                reason="no step then pushes whole layers to their flat ends",
                snippet='for group in optimizer.param_groups: group["lr"] /= 10',
            ),
            normalise(model),
        ),
    )


def unscaled_logits(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A softmax that is sure before anything was learnt: its inputs are too large (Vaswani et al., 2017)."""
    facts = incident.evidence
    if facts.get("activation_kind") != "Softmax":
        return None
    return Cause(
        name="unscaled_logits",
        confidence=0.8 if facts["rule"] == "from_the_start" else 0.45,
        evidence=f"{facts['activation']} gives one choice more than 99 % in {percent(facts['share'])} of its rows, "
        + ("before anything was learnt" if facts["rule"] == "from_the_start" else "and the loss is far from low"),
        remedies=_OPEN_OUTPUT if facts["rule"] == "output" else _OPEN_ATTENTION,
    )


_OPEN_ATTENTION = (
    Remedy(
        action="divide the attention scores by the square root of the head's width",
        reason="then they are of about size 1, and every choice gets a share of the learning signal",
        snippet="scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])",
    ),
    Remedy(
        action="a normalisation of queries and keys",
        reason="scores then stay in range while the weights grow",
        snippet="q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)",
    ),
)

_OPEN_OUTPUT = (
    Remedy(
        action="nn.CrossEntropyLoss on the values before the softmax",
        reason="its slope is the error itself, however sure the model is",
        snippet="loss = nn.CrossEntropyLoss()(logits, target)",
    ),
    Remedy(
        action="smaller weights in the last layer, or inputs of about size 1",
        reason="then no choice is sure before anything was learnt",
    ),
)


def bounded_activations(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """The activation's own doing, where nothing else is known."""
    facts = incident.evidence
    if facts.get("activation_kind") in (None, "Softmax"):
        return None
    passed = facts.get("passed_on", math.nan)
    through = f"; {percent(passed)} of the learning signal comes through it" if 0 <= passed < 1 else ""
    kind = facts["activation_kind"]
    return Cause(
        name="saturating_activations",
        confidence=0.5,
        evidence=f"{count(facts['num_saturated'], f'{kind} activation')} with "
        f"{percent(facts['share'])} of the values on the flat ends{through}",
        remedies=_instead_of(facts["activation"], kind, facts["rule"], model),
    )


def _instead_of(activation: str, kind: str, rule: str, model: ModelInfo) -> tuple[Remedy, ...]:
    if rule == "output":
        action = f"no {kind.lower()} at the end, or targets that it can reach"
        why = "it can give nothing beyond its flat ends, and learns nothing there"
        return (Remedy(action, why, _replace(activation, "nn.Identity()", model)),)
    if any(module.name == activation and module.kind in _GATED for module in model.modules):
        smaller = Remedy("smaller weights and biases in it", "its gates then start half open, and pass a signal on")
        return smaller, normalise(model)
    if kind == "RNN":
        gates = Remedy("nn.LSTM or nn.GRU in place of nn.RNN", "their gates let a signal pass past the flat ends")
        return gates, Remedy("smaller weights in it", "its units then stay on their steep part")
    relu = Remedy(
        action=f"nn.ReLU or nn.GELU in place of nn.{kind}, with Kaiming initialisation",
        reason="they pass the signal on undiminished where a unit is active",
        snippet=_replace(activation, "nn.ReLU()", model),
    )
    return relu, normalise(model)
