"""Causes that lie in the learning rate and in what else decides on the size of a step.

Sources: Goyal et al. (2017) on warm-up; Smith (2017) on finding a rate; Kingma & Ba (2015) on Adam and its eps;
Pascanu, Mikolov & Bengio (2013) on clipping; Micikevicius et al. (2018) on updates that half precision rounds away.
"""

from __future__ import annotations

import math

from gradwatch._decades import fraction, number
from gradwatch.causes._remedies import clip
from gradwatch.records import Cause, Incident, ModelInfo, Remedy, StepRecord

_LR_CAN_HELP = 10.0  # update over weight; beyond, the gradients themselves are the trouble
_TIMID = 3e-4  # update over weight; about a thousandth is usual
_COLLAPSED = 1e-4  # of the highest learning rate
_DIVERGED = 10.0  # times the first loss
_FIRST_STEPS = 20  # of a run
_GROWTH = ("growth", "jump", "burst")
_BOLD = 0.01  # update over weight; a hundredth is still a bold step
_ORDINARY = 3e-4  # update over weight that is not small in itself, but over the steps that there were
_VERY_BOLD = 0.1  # ten such steps forget what was there before
_FAINT = 0.2  # size of the weights / size that keeps a signal as strong as it is
_CLIPPED_AWAY = 0.01  # norm after clipping over norm before: what is left is a hundredth
_LARGE_EPS = 10.0  # an optimizer that divides by more than that is not dividing by a gradient
_HALF_STEP = {"bfloat16": 2.0**-9, "float16": 2.0**-12}  # a change of less than this share of a weight rounds to none


def lr_too_high(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Updates that are large against the weights (Goyal et al., 2017, on warm-up)."""
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
        confidence=0.7 if blamed else 0.35,
        evidence=f"one update is {number(ratio)} times as large as the weights (usual is about a thousandth of them)"
        + (f", at a learning rate of {record.lr:.3g}" if math.isfinite(record.lr) else ""),
        remedies=(
            *((lower,) if blamed else ()),
            clip(incident),
            *(() if blamed else (lower,)),
            Remedy(
                action="a warm-up: let the learning rate rise over the first few hundred steps",
                reason="the first gradients are often the largest",
            ),
        ),
    )


def lr_jumped(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """The learning rate leapt up."""
    before = incident.evidence.get("lr_before")
    if before is None:
        return None
    leapt = incident.evidence.get("lr_leapt") or record.lr  # it may have come down since
    return Cause(
        name="lr_jumped",
        confidence=0.9,
        evidence=f"the learning rate went from {before:.3g} to {leapt:.3g} within a few steps, and nothing was "
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


def no_clipping(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Nothing held the gradients back (Pascanu et al., 2013)."""
    usual = incident.evidence.get("usual_norm")
    if usual is None or record.clipped:
        return None
    return Cause(
        name="no_clipping",
        confidence=0.3,
        evidence=f"a norm of {record.total_norm:.3g}, usually {usual:.3g}, went into the step unclipped",
        remedies=(clip(incident),),
    )


def clipped_away(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Clipping leaves next to nothing."""
    left = incident.evidence.get("clip", 1.0)
    if not left < _CLIPPED_AWAY:
        return None
    limit = f"{2 * record.total_norm:.2g}"
    return Cause(
        name="clipping_too_small",
        confidence=0.9,
        evidence=f"clipping leaves {fraction(left)} of the gradients: a norm of {record.total_norm:.3g} is cut down to "
        f"{record.clipped_norm:.3g}",
        remedies=(
            Remedy(
                action=f"clip at a norm of {limit} instead",
                reason=f"twice the present norm of {record.total_norm:.3g}: clipping is for outliers, not for all",
                snippet=f"gradwatch.watch(model, clip=gradwatch.ClipNorm(max_norm={limit}))",
            ),
        ),
    )


def eps_too_large(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """An eps that drowns the gradients (Kingma & Ba, 2015)."""
    divisor = incident.evidence.get("divisor")
    if divisor is None or not divisor > _LARGE_EPS:
        return None
    if incident.evidence.get("rule") == "far_off":  # gradients so large, and all of one size: Adam divides by them
        return None
    return Cause(
        name="eps_too_large",
        confidence=0.8,
        evidence=f"the optimizer divides the gradient of every layer by about {number(divisor)}, whatever its "
        "size: so does an eps of about that size, or Adagrad's initial accumulator",
        remedies=(
            Remedy(
                action="the optimizer's own defaults: eps=1e-8 for Adam, initial_accumulator_value=0 for Adagrad",
                reason="eps is there to avoid a division by zero, and must be far smaller than any gradient",
                snippet="print(optimizer.defaults)",
            ),
        ),
    )


def schedule_at_zero(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A rate of zero, or next to nothing of what it was."""
    top = incident.evidence.get("lr_top", 0.0)
    if record.lr != 0 and not record.lr <= _COLLAPSED * top:
        return None
    what = "exactly zero" if record.lr == 0 else f"{record.lr:.2g}, down from {top:.2g}"
    return Cause(
        name="schedule_at_zero",
        confidence=0.9,
        evidence=f"the learning rate is {what}",
        remedies=(
            Remedy(
                action="look at the learning-rate schedule: its number of steps, and whether it counts steps or epochs",
                reason="a rate of zero stops training",
                snippet='print([group["lr"] for group in optimizer.param_groups])',
            ),
        ),
    )


def lr_too_low(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """A learning rate that moves nothing."""
    if clipped_away(incident, record, model) or eps_too_large(incident, record, model):
        return None
    ratio = incident.evidence.get("update_ratio", math.nan)
    if record.lr == 0 or (incident.evidence.get("rule") in ("idle", "wasting") and not ratio < _TIMID):
        return None
    higher = Remedy("a higher learning rate", "an update of about a thousandth of the weights is usual")
    if 0 < ratio < math.inf and math.isfinite(record.lr):
        factor = 10.0 ** max(1, math.floor(math.log10(0.001 / ratio)))
        higher = Remedy(
            action=f"a learning rate higher by a factor of about {factor:,.0f}: {record.lr * factor:.2g} in place of "
            f"{record.lr:.3g}",
            reason=higher.reason,
            snippet=f'for group in optimizer.param_groups: group["lr"] *= {factor:.0f}',
        )
    moved = f"one update is {ratio:.2g} of the size of the weights (usual is about a thousandth)"
    if ratio >= _ORDINARY:
        moved = (
            f"the layer that moves most has come {incident.evidence.get('path', math.nan):.2g} of its size in "
            f"{incident.evidence.get('num_steps', 0)} steps"
        )
    return Cause(
        name="lr_too_low",
        confidence=0.7,
        evidence=f"at a learning rate of {record.lr:.3g} {moved}, and clipping takes nothing of it away",
        remedies=(higher,),
    )


def rounded_away(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Half-precision weights that round small updates away (Micikevicius et al., 2018)."""
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
                snippet="model.float()   # before the optimizer is made\n"
                f"with torch.autocast(x.device.type, dtype=torch.{dtype}):\n    loss = loss_fn(model(x), y)",
            ),
        ),
    )


def underflow(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Half-precision gradients that are too small for it (Micikevicius et al., 2018)."""
    if incident.evidence.get("rule") not in ("nothing", "gone", "zero"):
        return None
    if not any(layer.dtype == "float16" for layer in record.layers):
        return None
    return Cause(
        name="half_precision_underflow",
        confidence=0.8,
        evidence="the weights are float16, which has no number between 0 and 6e-8: smaller gradients become zero",
        remedies=(
            Remedy(
                action="a GradScaler, with float32 weights and autocast",
                reason="it multiplies the loss so that no gradient is too small, and takes the factor out again",
                snippet="scaler = torch.amp.GradScaler()",
            ),
            Remedy(
                action="bfloat16 in place of float16",
                reason="it has the range of float32",
                snippet='with torch.autocast("cuda", dtype=torch.bfloat16): ...',
            ),
        ),
    )


def diverged_at_once(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """The very first steps made the model far worse, from a start that was sound."""
    growth = incident.evidence.get("loss_growth", 0.0)
    if not growth >= _DIVERGED or record.step > _FIRST_STEPS or incident.evidence.get("rule") not in _GROWTH:
        return None
    return _too_bold(incident, record, "is", growth, confidence=0.5)


def bold_start(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A signal that was there when training began, and was lost after steps that changed all weights at once."""
    update = incident.evidence.get("largest_update", 0.0)
    if not update >= _VERY_BOLD or record.step < _FIRST_STEPS:
        return None
    if incident.evidence.get("weight_scale", 1.0) < _FAINT:  # of what has been decayed away any update is a large part
        return None
    rate = f", at a learning rate of {record.lr:.3g}" if math.isfinite(record.lr) else ""
    return Cause(
        name="lr_too_high",
        confidence=0.35,
        evidence=f"the signal was there when training began; since then one update was {number(update)} of the size of "
        f"the weights (usual is about a thousandth of them){rate}",
        remedies=(
            Remedy(
                action="a lower learning rate, by a factor of 10 to begin with",
                reason="a few steps so large throw away what the initial weights were made for",
                snippet='for group in optimizer.param_groups: group["lr"] /= 10',
            ),
        ),
    )


def diverged(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A loss that had grown step by step before it overflowed."""
    growth = incident.evidence.get("loss_growth", 0.0)
    if not growth >= _DIVERGED or incident.evidence.get("rule") == "weight":
        return None
    return _too_bold(incident, record, "had grown to", growth, confidence=0.75)


def _too_bold(incident: Incident, record: StepRecord, be: str, growth: float, *, confidence: float) -> Cause:
    rate = f", at a learning rate of {record.lr:.3g}" if math.isfinite(record.lr) else ""
    when = " before it overflowed" if incident.kind == "nonfinite" else f" after {record.step} steps"
    return Cause(
        name="lr_too_high",
        confidence=confidence,
        evidence=f"the loss {be} {number(growth)} times its first value{when}{rate}",
        remedies=(
            Remedy(
                action="a lower learning rate, by a factor of 10 to begin with",
                reason="each step made the model worse than before",
                snippet='for group in optimizer.param_groups: group["lr"] /= 10',
            ),
            clip(incident),
        ),
    )
