"""Names the causes of an incident, ranked, each with its evidence and remedies.

A table of small pure rules: each looks at the incident, the step's record and the model, and gives one cause or none.
A rule never says more than these hold; where none applies, that is said too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gradwatch.records import Cause, Incident, ModelInfo, ModuleInfo, Remedy, StepRecord

Rule: TypeAlias = Callable[[Incident, StepRecord, ModelInfo], Cause | None]

_SATURATING = frozenset({"Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "Softsign", "LogSigmoid"})
_DYING = frozenset({"ReLU", "ReLU6"})
_RECURRENT = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})
_NORMALISING = ("BatchNorm", "SyncBatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm")
_SMALL, _LARGE = 0.5, 2.0  # weight scale; torch's own default of 0.4 is small for a deep net without normalisation
_LR_CAN_HELP = 10.0  # update over weight; beyond, the gradients themselves are the trouble
_BOLD = 0.01  # update over weight; a hundredth is still a bold step
_CLIPPED_AWAY = 0.01  # norm after clipping over norm before: what is left is a hundredth
_LARGE_EPS = 10.0  # an optimizer that divides by more than that is not dividing by a gradient
_HALF_STEP = {"bfloat16": 2.0**-9, "float16": 2.0**-12}  # a change of less than this share of a weight rounds to none
_MIN_DEPTH = 4  # layers; fewer need no normalisation to pass a signal on


def diagnose(incident: Incident, record: StepRecord, model: ModelInfo) -> Incident:
    """The incident with its causes, most likely first.

    Args:
        incident: What a detector found.
        record: The step at which it found it.
        model: The watched model, as far as it is known.

    Returns:
        The same incident; ``causes`` is never empty.
    """
    causes = [cause for rule in RULES.get(incident.kind, ()) if (cause := rule(incident, record, model)) is not None]
    ranked = sorted(causes, key=lambda cause: -cause.confidence)
    return dataclasses.replace(incident, causes=tuple(ranked) or (_unknown(incident),))


def _unknown(incident: Incident) -> Cause:
    return Cause(
        name="unknown",
        confidence=0.1,
        evidence=f"nothing that was measured at step {incident.step} tells what brought this about",
        remedies=(
            Remedy(
                action="compare with the last version of the code, the data or the settings that trained well",
                reason="what has changed since is the first suspect",
            ),
        ),
    )


# ---------------------------------------------------------------------------------------------------------- vanishing


def _saturating_activations(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    if incident.evidence.get("rule") not in ("fade", "slow", "gap"):
        return None
    found = [module for module in _way_back(incident, model) if module.kind in _SATURATING]
    if not found:
        return None
    kinds = sorted({module.kind for module in found})
    word = " and ".join(kinds)
    sigmoid = any("igmoid" in kind for kind in kinds)
    # A sigmoid weakens the signal always, a tanh only where its inputs are large.
    most = "a sigmoid passes on at most 25 %" if sigmoid else "they pass on little where their input is large"
    return Cause(
        name="saturating_activations",
        confidence=0.85 if sigmoid else 0.5,
        evidence=f"{_count(len(found), f'{word} activation')} on the way back to {incident.layers[0]}; {most}",
        remedies=(
            Remedy(
                action=f"nn.ReLU or nn.GELU in place of nn.{kinds[0]}, with Kaiming initialisation",
                reason="they pass the signal on undiminished where a unit is active",
                snippet="; ".join(filter(None, (_set(found[0].name, "nn.ReLU()"), _kaiming(incident, record)))),
            ),
            _NORMALISE,
            Remedy(action="a shortcut past every two layers", reason="the signal has a way back that nothing weakens"),
        ),
    )


def _zero_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    if incident.evidence.get("rule") != "zero" or incident.evidence.get("weight_scale") != 0:
        return None
    return Cause(
        name="zero_weights",
        confidence=0.9,
        evidence=f"{incident.evidence['smallest_weight']} and most other weights are exactly zero, so that nothing "
        "passes through them",
        remedies=(
            Remedy(
                action="initialise the weights with random numbers",
                reason="with equal weights all units of a layer stay equal for ever",
                snippet=_initialise_all(record, model),
            ),
        ),
    )


def _small_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Half of the common size in every layer is a factor of 10^-3 over ten layers."""
    scale = incident.evidence.get("weight_scale", math.nan)
    if incident.evidence.get("rule") not in ("fade", "slow") or not 0 < scale < _SMALL:
        return None
    return Cause(
        name="small_weights",
        confidence=0.9 if scale < _SMALL / 2 else 0.6,
        evidence=f"the weights have {scale:.2g} of the size that keeps a signal as strong as it is (median of the "
        f"layers; {incident.evidence['smallest_weight']} is the smallest)",
        remedies=(
            Remedy(
                action=f"{_initialisation(model)[0]} initialisation",
                reason="it gives each layer the size at which a signal neither fades nor grows",
                snippet=_initialise_all(record, model),
            ),
            _NORMALISE,
        ),
    )


def _dead_relu(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """A gradient of exactly zero behind weights that are not zero: every unit in between is switched off."""
    if incident.evidence.get("rule") not in ("zero", "silent"):
        return None
    scale = incident.evidence.get("weight_scale")
    dying = [module for module in _way_back(incident, model) if module.kind in _DYING]
    if not dying or scale == 0:
        return None
    return Cause(
        name="dead_relu",
        confidence=0.75 if scale is not None else 0.5,
        evidence=f"a gradient of exactly zero, and {_count(len(dying), f'{dying[-1].kind} activation')} on the way: "
        "a ReLU whose input is negative for every sample passes nothing on",
        remedies=(
            Remedy(
                action="nn.LeakyReLU or nn.GELU in place of nn.ReLU",
                reason="they pass something on for negative inputs too, so that a unit can recover",
                snippet=_set(dying[-1].name, "nn.LeakyReLU(0.01)"),
            ),
            Remedy(
                action="look for a large negative bias, or a step with a far too high learning rate before this one",
                reason="both push all units of a layer below zero at once",
            ),
        ),
    )


def _deep_without_norm(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    if incident.evidence.get("rule") not in ("fade", "slow", "growth", "replaced") or not model.modules:
        return None
    if any(module.kind.startswith(_NORMALISING) for module in model.modules):
        return None
    depth = sum(module.num_parameters > 0 for module in model.modules)
    if depth < _MIN_DEPTH:
        return None
    return Cause(
        name="no_normalisation",
        confidence=0.4,
        evidence=f"{depth} layers with weights and not one normalisation layer: small deviations multiply with depth",
        remedies=(_NORMALISE,),
    )


def _long_recurrence(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    found = [module for module in model.modules if module.kind in _RECURRENT and _named(module, incident)]
    if not found:
        return None
    module = found[0]
    if incident.kind == "exploding":
        remedies: tuple[Remedy, ...] = (_clip(incident),)
    else:
        gated = Remedy("nn.LSTM or nn.GRU in place of nn.RNN", "their gates let a signal pass unchanged for many steps")
        remedies = (*((gated,) if module.kind.startswith("RNN") else ()), Remedy("shorter sequences"))
    return Cause(
        name="long_recurrence",
        confidence=0.5,
        evidence=f"{module.name} is an nn.{module.kind}: the same weights are multiplied once for every time step",
        remedies=remedies,
    )


# ---------------------------------------------------------------------------------------------------------- exploding


def _large_weights(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    scale = incident.evidence.get("weight_scale", math.nan)
    if incident.evidence.get("rule") not in ("replaced", "growth") or not scale > _LARGE:
        return None
    return Cause(
        name="large_weights",
        confidence=0.8,
        evidence=f"the weights have {scale:.2g} times the size that keeps a signal as strong as it is (median of the "
        f"layers; {incident.evidence['largest_weight']} is the largest)",
        remedies=(
            Remedy(
                action=f"{_initialisation(model)[0]} initialisation",
                reason="it gives each layer the size at which a signal neither fades nor grows",
                snippet=_initialise_all(record, model),
            ),
            _NORMALISE,
        ),
    )


def _lr_too_high(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    ratio = incident.evidence.get("update_ratio")
    if ratio is None or not ratio > _BOLD:
        return None
    blamed = incident.kind == "lr_too_high" or ratio <= _LR_CAN_HELP
    known = math.isfinite(record.lr) and math.isfinite(ratio) and blamed
    lower = Remedy("a far lower learning rate", "an update should be a small part of the weights")
    if known:
        # A power of ten, since the ratio is an estimate; the first updates are the largest, so begin with little.
        factor = 10.0 ** min(max(1, math.floor(math.log10(ratio / _BOLD) / 2)), 3)
        lr = record.lr / factor
        lower = Remedy(
            action=f"a learning rate lower by a factor of {factor:,.0f}: {lr:.2g} in place of {record.lr:.3g}, and "
            "lower still if the alarm comes again",
            reason=lower.reason,
            snippet=f'for group in optimizer.param_groups: group["lr"] /= {factor:.0f}',
        )
    return Cause(
        name="lr_too_high",
        confidence=0.7 if blamed else 0.3,
        evidence=f"one update is {ratio:.2g} times as large as the weights (usual is about a thousandth of them)"
        + (f", at a learning rate of {record.lr:.3g}" if math.isfinite(record.lr) else ""),
        remedies=(
            *((lower,) if blamed else ()),
            _clip(incident),
            Remedy(
                action="a warm-up: let the learning rate rise over the first few hundred steps",
                reason="the first gradients are often the largest",
            ),
        ),
    )


def _without_clipping(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    usual = incident.evidence.get("usual_norm")
    if usual is None or record.clipped:
        return None
    return Cause(
        name="no_clipping",
        confidence=0.3,
        evidence=f"a norm of {record.total_norm:.3g}, usually {usual:.3g}, went into the step unclipped",
        remedies=(_clip(incident),),
    )


# ---------------------------------------------------------------------------------------------------------- nonfinite


def _nonfinite_weight(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    if incident.evidence.get("rule") != "weight":
        return None
    name = incident.layers[0]
    return Cause(
        name="nonfinite_weight",
        confidence=0.9,
        evidence=f"{incident.evidence['num_nonfinite_weight']:,} elements of the weights were NaN or inf before this "
        f"step, in {name} first: they do not recover",
        remedies=(
            Remedy(
                action="go back to a checkpoint from before this step",
                reason="no further step can repair such a weight",
            ),
            Remedy(
                action="stop before the bad step next time",
                reason="the weights stay good",
                snippet="gradwatch.ClipNorm(max_norm=1.0, error_if_nonfinite=True)",
            ),
        ),
    )


def _half_overflow(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    if incident.evidence.get("dtype") != "float16" or incident.evidence.get("rule") == "weight":
        return None
    return Cause(
        name="half_precision_overflow",
        confidence=0.8,
        evidence=f"{incident.layers[0]} is float16, which ends at 65,504",
        remedies=(
            Remedy(
                action="bfloat16 in place of float16",
                reason="it has the range of float32",
                snippet='with torch.autocast("cuda", dtype=torch.bfloat16): ...',
            ),
            Remedy(
                action="float32 weights with autocast and a GradScaler",
                reason="it finds a loss scale that does not overflow, and skips a step that does",
                snippet="scaler = torch.amp.GradScaler()",
            ),
        ),
    )


def _nonfinite_forward(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    if incident.evidence.get("rule") == "weight" or record.loss is None or math.isfinite(record.loss):
        return None
    near = f", nearest to {incident.layers[0]}" if incident.layers else ""
    return Cause(
        name="nonfinite_loss",
        confidence=0.6,
        evidence=f"the loss itself is {record.loss}: it arose before the backward pass{near}",
        remedies=(
            Remedy(
                action="check the batch for NaN and inf",
                reason="one bad number in the data is enough",
                snippet="assert torch.isfinite(x).all()",
            ),
            Remedy(
                action="guard log, exp, sqrt and divisions in the model and the loss",
                reason="log(0), 0/0 and exp of a large number are not finite",
                snippet="torch.log(p.clamp_min(1e-12))",
            ),
        ),
    )


def _nonfinite_backward(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    loss_is_bad = record.loss is not None and not math.isfinite(record.loss)
    if incident.evidence.get("rule") != "gradient" or loss_is_bad:
        return None
    known = "the loss is finite" if record.loss is not None else "the loss is not known"
    return Cause(
        name="nonfinite_gradient",
        confidence=0.6 if record.loss is not None else 0.4,
        evidence=f"{known}, the gradient of {incident.layers[0]} is not: it arose on the way back",
        remedies=(
            Remedy(
                action="look for sqrt, norm or a power at 0, and for torch.where round a division",
                reason="their value is finite there, their slope is not",
                snippet="torch.sqrt(x + 1e-12)",
            ),
            Remedy(
                action="let torch name the operation, for one run",
                reason="it checks every backward operation, slowly",
                snippet="torch.autograd.set_detect_anomaly(True)",
            ),
        ),
    )


def _loss_scale(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    if incident.evidence.get("rule") != "loss_scale":
        return None
    scale = incident.evidence.get("loss_scale")
    now = "" if scale is None else f", and {scale:g} still overflows"
    loss = incident.evidence.get("loss")
    bad = loss is not None and not math.isfinite(loss)
    return Cause(
        name="loss_scale",
        confidence=0.5 if bad else 0.8,
        evidence=f"{incident.evidence['skipped']} steps in a row were skipped{now}"
        + (f"; the loss itself is {loss}, which no scale repairs" if bad else ""),
        remedies=(
            Remedy(
                action="bfloat16 in place of float16",
                reason="it has the range of float32 and needs no loss scale",
                snippet='with torch.autocast("cuda", dtype=torch.bfloat16): ...',
            ),
            Remedy(
                action="check that the loss and the gradients are finite in float32",
                reason="if not, no loss scale helps",
            ),
        ),
    )


# -------------------------------------------------------------------------------------------------------- lr_too_high


def _lr_jumped(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    before = incident.evidence.get("lr_before")
    if before is None:
        return None
    return Cause(
        name="lr_jumped",
        confidence=0.9,
        evidence=f"the learning rate went from {before:.3g} to {record.lr:.3g} within a few steps, and nothing was "
        "amiss before",
        remedies=(
            Remedy(
                action=f"look at the learning-rate schedule: stay near {before:.3g}",
                reason="training went well with it; a wrong unit (epochs for steps) or a missing factor is usual",
                snippet=f'for group in optimizer.param_groups: group["lr"] = {before:.3g}',
            ),
            Remedy(
                action="go back to a checkpoint from before the leap",
                reason="the steps since then have undone what was learnt",
            ),
        ),
    )


# -------------------------------------------------------------------------------------------------------- data_outlier


def _bad_batch(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    facts = incident.evidence
    spoilt = Remedy("go back to a checkpoint from before this step", "its update has gone into the weights")
    return Cause(
        name="one_bad_batch",
        confidence=0.8,
        evidence=f"the loss went from {facts['usual_loss']:.3g} to {facts['loss']:.3g} in one step, at the same "
        "learning rate and after an ordinary update: only the batch is new",
        remedies=(
            Remedy(
                action=f"look at the batch of step {incident.step}: its largest input and target",
                reason="a corrupt sample, a missing division or a wrong unit in one file is enough",
                snippet="assert x.abs().max() < 1e3, x.abs().amax(dim=-1)",
            ),
            _clip(incident),
            *(() if record.clipped else (spoilt,)),
        ),
    )


# ------------------------------------------------------------------------------------------------------------- stalled


def _clipped_away(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    left = incident.evidence.get("clip", 1.0)
    if not left < _CLIPPED_AWAY:
        return None
    limit = f"{2 * record.total_norm:.2g}"
    return Cause(
        name="clipping_too_small",
        confidence=0.9,
        evidence=f"clipping leaves {left:.2g} of the gradients: a norm of {record.total_norm:.3g} is cut down to "
        f"{record.clipped_norm:.3g}",
        remedies=(
            Remedy(
                action=f"clip at a norm of {limit} instead",
                reason=f"twice the present norm of {record.total_norm:.3g}: clipping is for outliers, not for all",
                snippet=f"gradwatch.watch(model, clip=gradwatch.ClipNorm(max_norm={limit}))",
            ),
        ),
    )


def _eps_too_large(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    divisor = incident.evidence.get("divisor")
    if divisor is None or not divisor > _LARGE_EPS:
        return None
    return Cause(
        name="eps_too_large",
        confidence=0.8,
        evidence=f"the optimizer divides the gradient of every layer by about {divisor:.2g}, whatever its size: an eps "
        "of about that size drowns them",
        remedies=(
            Remedy(
                action="Adam's default eps of 1e-8",
                reason="it is there to avoid a division by zero, and must be far smaller than any gradient",
                snippet='for group in optimizer.param_groups: group["eps"] = 1e-8',
            ),
        ),
    )


def _lr_too_low(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    if _clipped_away(incident, record, model) or _eps_too_large(incident, record, model):
        return None
    ratio = incident.evidence.get("update_ratio", math.nan)
    if record.lr == 0:
        return Cause(
            name="lr_too_low",
            confidence=0.9,
            evidence="the learning rate is exactly zero",
            remedies=(Remedy("look at the learning-rate schedule", "a rate of zero stops training"),),
        )
    higher = Remedy("a higher learning rate", "an update of about a thousandth of the weights is usual")
    if ratio > 0 and math.isfinite(record.lr):
        factor = 10.0 ** math.floor(math.log10(0.001 / ratio))
        higher = Remedy(
            action=f"a learning rate higher by a factor of about {factor:,.0f}: {record.lr * factor:.2g} in place of "
            f"{record.lr:.3g}",
            reason=higher.reason,
            snippet=f'for group in optimizer.param_groups: group["lr"] *= {factor:.0f}',
        )
    return Cause(
        name="lr_too_low",
        confidence=0.7,
        evidence=f"at a learning rate of {record.lr:.3g} one update is {ratio:.2g} of the size of the weights (usual "
        "is about a thousandth), and clipping takes nothing of it away",
        remedies=(higher,),
    )


def _rounded_away(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    dtype = incident.evidence.get("dtype", "")
    if dtype not in _HALF_STEP or record.lr == 0:
        return None
    return Cause(
        name="rounded_away",
        confidence=0.75,
        evidence=f"the weights are {dtype}: a change of less than {_HALF_STEP[dtype]:.1g} of a weight rounds to none",
        remedies=(
            Remedy(
                action=f"float32 weights, and {dtype} for the computation only",
                reason="small updates add up instead of being rounded away",
                snippet=f'model.float(); torch.autocast("cuda", dtype=torch.{dtype})',
            ),
        ),
    )


RULES: Mapping[str, tuple[Rule, ...]] = {
    "vanishing": (
        _saturating_activations,
        _zero_weights,
        _small_weights,
        _dead_relu,
        _deep_without_norm,
        _long_recurrence,
    ),
    "exploding": (_large_weights, _lr_too_high, _long_recurrence, _deep_without_norm, _without_clipping),
    "lr_too_high": (_lr_jumped, _lr_too_high),
    "data_outlier": (_bad_batch,),
    "stalled": (_clipped_away, _eps_too_large, _rounded_away, _lr_too_low),
    "nonfinite": (_nonfinite_weight, _loss_scale, _half_overflow, _nonfinite_forward, _nonfinite_backward),
}
"""Which rules are asked for which kind of incident."""


# --------------------------------------------------------------------------------------------- what the rules share

_NORMALISE = Remedy(
    action="a normalisation layer after each layer with weights",
    reason="it brings the signal back to size, whatever came before",
    snippet="nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.ReLU())",
)


def _clip(incident: Incident) -> Remedy:
    """Clipping at twice the usual norm leaves ordinary steps alone; 1 is the custom where no usual norm is known."""
    usual = incident.evidence.get("usual_norm")
    limit = "1.0" if usual is None else f"{2 * usual:.2g}"
    why = (
        "with SGD no step is then larger than the learning rate times that; Adam needs a lower rate"
        if usual is None
        else f"twice the usual norm of {usual:.3g}: it stops outliers only"
    )
    return Remedy(
        action=f"clip the gradients at a norm of {limit}",
        reason=why,
        snippet=f"gradwatch.watch(model, clip=gradwatch.ClipNorm(max_norm={limit}))",
    )


def _way_back(incident: Incident, model: ModelInfo) -> tuple[ModuleInfo, ...]:
    """The modules behind the first weak layer, up to the one that is well."""
    names = [module.name for module in model.modules]
    weak = [names.index(name) for name in incident.layers if name in names]
    if not weak:
        return ()
    last = incident.evidence.get("last")
    end = names.index(last) if last in names else len(names)
    return model.modules[min(weak) : end]


def _named(module: ModuleInfo, incident: Incident) -> bool:
    return any(name == module.name or name.startswith(f"{module.name}.") for name in incident.layers)


def _kaiming(incident: Incident, record: StepRecord) -> str:
    """The initialisation of the incident's first layer, as code."""
    names = set(incident.layers)
    for layer in record.layers:
        if len(layer.shape) > 1 and (layer.module in names or layer.name in names):
            return f'nn.init.kaiming_normal_({_access(layer.name)}, nonlinearity="relu")'
    return ""


def _initialisation(model: ModelInfo) -> tuple[str, str]:
    """The law that suits the model's activations, and its code (Glorot & Bengio, 2010; He et al., 2015)."""
    kinds = {module.kind for module in model.modules}
    if "Tanh" in kinds:
        return "Xavier", 'nn.init.xavier_normal_(m.weight, gain=nn.init.calculate_gain("tanh"))'
    if "Sigmoid" in kinds:
        return "Xavier", "nn.init.xavier_normal_(m.weight)"
    return "Kaiming", 'nn.init.kaiming_normal_(m.weight, nonlinearity="relu")'


def _initialise_all(record: StepRecord, model: ModelInfo) -> str:
    """The initialisation of all linear and convolutional layers, as code; a single layer would not be enough."""
    known = ("Linear", "Conv1d", "Conv2d", "Conv3d")
    found = [f"nn.{kind}" for kind in known if any(layer.module_type == kind for layer in record.layers)]
    if not found:
        return ""
    classes = found[0] if len(found) == 1 else f"({', '.join(found)})"
    return f"for m in model.modules():\n    if isinstance(m, {classes}):\n        {_initialisation(model)[1]}"


def _set(name: str, value: str) -> str:
    """An assignment to a submodule as code: an attribute is called by its name, a list's member by its number."""
    return f"{_access(name)} = {value}"


def _access(name: str) -> str:
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
