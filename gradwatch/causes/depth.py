"""Causes that lie in the depth of a network and in the size of its weights.

Sources: Hochreiter (1991) and Bengio, Simard & Frasconi (1994) on why signals fade; Glorot & Bengio (2010) and He et
al. (2015) on initialisation; Ioffe & Szegedy (2015) and Ba, Kiros & Hinton (2016) on normalisation; He et al. (2016)
on shortcuts.
"""

from __future__ import annotations

import math

from gradwatch._decades import number
from gradwatch.causes._remedies import (
    HALVING,
    access,
    activations,
    assign,
    count,
    initialisation,
    initialise_all,
    normalise,
    replace_all,
)
from gradwatch.records import Cause, Incident, ModelInfo, ModuleInfo, Remedy, StepRecord
from gradwatch.wording import percent

_SATURATING = frozenset({"Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "Softsign", "LogSigmoid"})
_DYING = frozenset({"ReLU", "ReLU6"})
_NORMALISING = ("BatchNorm", "SyncBatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm")
_SMALL, _LARGE = 0.5, 2.0  # weight scale; torch's own default of 0.4 is small for a deep net without normalisation
_MIN_DEPTH = 4  # layers; fewer need no normalisation to pass a signal on
_DEEP = 10  # layers; from here on shortcuts are the custom
_SHRUNKEN = 3.0  # the same the other way
_GROWN = 3.0  # times the weights' norm when they were first seen
_TORCH, _NEAR = 6**-0.5, 0.05  # the scale that torch's own initialisation gives
_SWOLLEN = 100.0  # gradient norm over the square root of the loss; about 1 is usual
_DECADES = 3.0  # over all layers: enough to explain a signal that fades or grows
_SOME = 0.1  # share of values on the flat ends that is worth a word
_OVER_DEPTH = ("fade", "slow", "growth", "replaced")


def saturating_activations(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Activations that weaken the signal on its way back (Hochreiter, 1991)."""
    if incident.evidence.get("rule") not in ("fade", "slow", "gap"):
        return None
    names = [module.name for module in way_back(incident, model) if module.kind in _SATURATING]
    kinds = {module.kind for module in model.modules if module.name in names}
    if not names and model.operations is not None:  # activations that no module stands for
        chain = [(name, set(operations) & _SATURATING) for name, operations in model.operations.after]
        kinds = set().union(*(found for _, found in chain))
        names = [name for name, found in chain for _ in found]
    if not names:
        return None
    first, word = min(kinds), " and ".join(sorted(kinds))
    sigmoid = any("igmoid" in kind for kind in kinds)
    # A sigmoid weakens the signal always, a tanh only where its inputs are large.
    most = "a sigmoid passes on at most 25 %" if sigmoid else "they pass on little where their input is large"
    share = incident.evidence.get("saturated_share", math.nan)
    flat = f", and {percent(share)} of their values sit on the flat ends" if share >= _SOME else ""
    modules = [module.name for module in model.modules if module.name in names and module.kind == first]
    replacement = replace_all(first, "nn.ReLU()", modules) if modules else ""
    return Cause(
        name="saturating_activations",
        confidence=0.85 if sigmoid else 0.5,
        evidence=f"{count(len(names), f'{word} activation')} on the way back to {incident.layers[0]}; {most}{flat}",
        remedies=(
            Remedy(
                action=f"nn.ReLU or nn.GELU in place of nn.{first}, with Kaiming initialisation",
                reason="they pass the signal on undiminished where a unit is active",
                snippet="\n".join(filter(None, (replacement, _kaiming(incident, record, len(modules))))),
            ),
            normalise(model),
            Remedy(action="a shortcut past every two layers", reason="the signal has a way back that nothing weakens"),
        ),
    )


def zero_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Weights of exactly zero, which no gradient passes."""
    if incident.evidence.get("rule") not in ("zero", "nothing") or incident.evidence.get("least_scale") != 0:
        return None
    most = " and most other weights are" if incident.evidence.get("weight_scale") == 0 else " is"
    return Cause(
        name="zero_weights",
        confidence=0.9,
        evidence=f"{incident.evidence['smallest_weight']}{most} exactly zero, so that nothing passes through",
        remedies=(
            Remedy(
                action="initialise the weights with random numbers",
                reason="with equal weights all units of a layer stay equal for ever",
                snippet=initialise_all(record, model),
            ),
        ),
    )


def small_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Weights below the common size: half of it in every layer is a factor of 10^-3 over ten layers."""
    scale = incident.evidence.get("weight_scale", math.nan)
    if incident.evidence.get("rule") not in ("fade", "slow") or not scale > 0 or _have_shrunk(incident):
        return None  # what has made them small would make them small again
    if not (scale < _SMALL or _over_depth(scale, incident, model) <= -_DECADES):
        return None
    gain = _gain(scale, model)
    return Cause(
        name="small_weights",
        confidence=0.9 if scale < _SMALL / 2 else 0.6,
        evidence=f"the weights have {gain:.2g} of the size that keeps a signal as strong as it is{_default(scale)} "
        f"(median of the layers; {incident.evidence['smallest_weight']} is the smallest){_compounded(incident)}",
        remedies=_initialise(record, model),
    )


def shrunken_weights(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Weights that have been pulled to zero: a decay that is too strong (Krogh & Hertz, 1992)."""
    if not _have_shrunk(incident):
        return None
    first, last = incident.evidence["first_weight"], incident.evidence["last_weight"]
    return Cause(
        name="small_weights",
        confidence=0.8,
        evidence=f"the weights have shrunk from a norm of {first:.3g} to {last:.3g} in this run, so that less and less "
        "passes through",
        remedies=(
            Remedy(
                action="less weight decay, by a factor of 10 to begin with",
                reason="it takes more away at each step than the gradients put in",
                snippet='for group in optimizer.param_groups: group["weight_decay"] /= 10',
            ),
        ),
    )


def _have_shrunk(incident: Incident) -> bool:
    first, last = incident.evidence.get("first_weight", math.nan), incident.evidence.get("last_weight", math.nan)
    return bool(last <= first / _SHRUNKEN) or incident.evidence.get("rule") == "wasting"


def large_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Weights far above the common size."""
    scale = incident.evidence.get("weight_scale", math.nan)
    if incident.evidence.get("rule") not in ("replaced", "growth"):
        return None
    if not (scale > _LARGE or _over_depth(scale, incident, model) >= _DECADES):
        return _too_loud(incident, record, model) if _swells(incident) and not _lacks_normalisation(model) else None
    return Cause(
        name="large_weights",
        confidence=0.4 if _have_grown(incident) else 0.8,
        evidence=f"the weights have {_gain(scale, model):.2g} times the size that keeps a signal as strong as it is "
        f"(median of the layers; {incident.evidence['largest_weight']} is the largest){_compounded(incident)}",
        remedies=_initialise(record, model),
    )


def _swells(incident: Incident) -> bool:
    """Whether the signal swells up inside the model before anything was learnt.

    Where only a target is large, the gradients grow with the error, the square root of the loss; here by far more.
    """
    loss, norm = incident.evidence.get("loss"), incident.evidence.get("total_norm", 0.0)
    if (
        incident.evidence.get("rule") != "replaced"
        or loss is None
        or incident.evidence.get("loss_growth", 1.0) > _GROWN
    ):
        return False
    return bool(norm >= _SWOLLEN * max(1.0, math.sqrt(abs(loss))))


def _too_loud(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause:
    return Cause(
        name="large_weights",
        confidence=0.4,
        evidence=f"before anything was learnt the loss is {number(incident.evidence['loss'])} and the gradient norm "
        f"{number(incident.evidence['total_norm'])}: the signal grows inside the model, and its weights are too large "
        "for the way they are used, however usual their size",
        remedies=_initialise(record, model),
    )


def _over_depth(scale: float, incident: Incident, model: ModelInfo) -> float:
    """Decades by which a signal grows or shrinks over all layers, for weights of this scale."""
    gain = _gain(scale, model)
    return incident.num_layers * math.log10(gain) if gain > 0 else -math.inf


def _gain(scale: float, model: ModelInfo) -> float:
    """What such a layer makes of a signal. The scale is 1 for a variance of 2 / fan_in, which makes up for a ReLU."""
    return scale if model.operations is None or activations(model) & HALVING else scale * math.sqrt(2)


def _compounded(incident: Incident) -> str:
    return f", and {incident.num_layers} layers multiply that" if incident.num_layers >= _DEEP else ""


def _default(scale: float) -> str:
    return ", as torch's own initialisation makes them" if abs(scale / _TORCH - 1) < _NEAR else ""


def _initialise(record: StepRecord, model: ModelInfo) -> tuple[Remedy, ...]:
    return (
        Remedy(
            action=f"{initialisation(model)[0]} initialisation",
            reason="it gives each layer the size at which a signal neither fades nor grows",
            snippet=initialise_all(record, model),
        ),
        normalise(model),
    )


def dead_relu(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """A gradient of exactly zero behind weights that are not zero: every unit in between is switched off."""
    if incident.evidence.get("rule") not in ("zero", "silent", "nothing"):
        return None
    scale = incident.evidence.get("weight_scale")
    dying = [module for module in way_back(incident, model) if module.kind in _DYING]
    if not dying or scale == 0:
        return None
    return Cause(
        name="dead_relu",
        confidence=0.75 if scale is not None else 0.5,
        evidence=f"a gradient of exactly zero, and {count(len(dying), f'{dying[-1].kind} activation')} on the way: "
        "a ReLU whose input is negative for every sample passes nothing on",
        remedies=(
            Remedy(
                action="nn.LeakyReLU or nn.GELU in place of nn.ReLU",
                reason="they pass something on for negative inputs too, so that a unit can recover",
                snippet=assign(dying[-1].name, "nn.LeakyReLU(0.01)"),
            ),
            Remedy(
                action="look for a large negative bias, or a step with a far too high learning rate before this one",
                reason="both push all units of a layer below zero at once",
            ),
        ),
    )


def no_normalisation(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """Many layers and nothing that brings the signal back to size (Ioffe & Szegedy, 2015)."""
    if incident.evidence.get("rule") not in _OVER_DEPTH or not model.modules:
        return None
    if not _lacks_normalisation(model):
        return None
    swells = _swells(incident)
    loss = f", and the loss is {number(incident.evidence['loss'])} before anything was learnt" if swells else ""
    return Cause(
        name="no_normalisation",
        confidence=0.25 if incident.evidence["rule"] == "replaced" and not swells else 0.4,
        evidence=f"{_depth(model)} layers with weights and not one normalisation layer: small deviations multiply with "
        f"depth{loss}",
        remedies=(normalise(model),),
    )


def _lacks_normalisation(model: ModelInfo) -> bool:
    has = any(module.kind.startswith(_NORMALISING) for module in model.modules)
    return not has and _depth(model) >= _MIN_DEPTH


def _depth(model: ModelInfo) -> int:
    return sum(module.num_parameters > 0 for module in model.modules)


def no_shortcuts(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """A long chain without a way round (He et al., 2016); only told where the graph was seen."""
    operations = model.operations
    if operations is None or operations.has_shortcuts or incident.evidence.get("rule") not in _OVER_DEPTH:
        return None
    depth = len(operations.after)
    if depth < _DEEP:
        return None
    return Cause(
        name="no_shortcuts",
        confidence=0.35,
        evidence=f"{depth} layers in a row, and no shortcut past any of them: the signal must pass every one",
        remedies=(
            Remedy(
                action="a shortcut past every two layers",
                reason="the signal has a way back that nothing weakens",
                snippet="h = h + block(h)",
            ),
            normalise(model),
        ),
    )


def growing_weights(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """Weights that have grown far since they were first seen (Krogh & Hertz, 1992, on weight decay)."""
    if not _have_grown(incident):
        return None
    first, last = incident.evidence["first_weight"], incident.evidence["last_weight"]
    return Cause(
        name="growing_weights",
        confidence=0.75,
        evidence=f"the weights have grown from a norm of {first:.3g} to {last:.3g} in this run",
        remedies=(
            Remedy(
                action="weight decay",
                reason="it makes every weight a little smaller at each step, so that none grows for ever",
                snippet='for group in optimizer.param_groups: group["weight_decay"] = 0.01',
            ),
            Remedy(action="a lower learning rate", reason="then weight decay can keep up with the steps"),
            normalise(model),
        ),
    )


def _have_grown(incident: Incident) -> bool:
    first, last = incident.evidence.get("first_weight", math.nan), incident.evidence.get("last_weight", math.nan)
    return bool(first > 0 and last >= _GROWN * first)


def way_back(incident: Incident, model: ModelInfo) -> tuple[ModuleInfo, ...]:
    """The modules behind the first weak layer, up to the one that is well."""
    names = [module.name for module in model.modules]
    weak = [names.index(name) for name in incident.layers if name in names]
    if not weak:
        return ()
    last = incident.evidence.get("last")
    end = names.index(last) if last in names else len(names)
    return model.modules[min(weak) : end]


def _kaiming(incident: Incident, record: StepRecord, num_replaced: int) -> str:
    """The initialisation of the layers whose activation is replaced, as code: of all, or of the incident's first."""
    if num_replaced > 1:
        kinds = sorted({layer.module_type for layer in record.layers} & {"Linear", "Conv1d", "Conv2d", "Conv3d"})
        classes = [f"nn.{kind}" for kind in kinds]
        which = classes[0] if len(classes) == 1 else f"({', '.join(classes)})"
        lines = f'    elif isinstance(m, {which}):\n        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")'
        return lines if kinds else ""
    names = set(incident.layers)
    for layer in record.layers:
        if len(layer.shape) > 1 and (layer.module in names or layer.name in names):
            return f'nn.init.kaiming_normal_({access(layer.name)}, nonlinearity="relu")'
    return ""
