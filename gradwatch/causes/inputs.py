"""Causes that lie in what the model is given."""

from __future__ import annotations

import dataclasses
import math

from gradwatch._decades import number
from gradwatch._sizes import LARGE_INPUT, SMALL_INPUT
from gradwatch.causes._remedies import access, clip
from gradwatch.records import Cause, Incident, ModelInfo, Remedy, StepRecord

_VERY_LARGE = 30.0
_UNEVEN = 100.0  # largest over median standard deviation of the features
_HEAT = frozenset(
    {"replaced", "diverged", "restless", "burst", "growth", "jump", "from_the_start", "large", "dead", "sick"}
)
"""Rules of what large inputs can bring about."""

_COLD = frozenset({"small", "fade", "slow", "fresh"})
"""Rules of what small inputs can bring about."""

BURNT_OUT = frozenset({"gap", "zero", "gone", "nothing"})
"""Rules of what is left where inputs so large that no weight suits them have burnt a model out in its first steps."""


_DIVERGED = 10.0  # times the first loss
_FAR_TOO_LARGE = 100.0  # where it is only known from gradients, within a factor of a few


def _guessed(module: str, rms: float) -> Cause:
    return Cause(
        name="unscaled_inputs",
        confidence=0.75,
        evidence=f"the gradients of {module} tell that it is given values of about {number(rms)}, where about 1 is "
        "usual",
        remedies=(_STANDARDISE,),
    )


_STANDARDISE = Remedy(
    action="standardise the inputs: subtract the mean of each feature and divide by its standard deviation",
    reason="weights are initialised, and learning rates chosen, for inputs of about that size",
    snippet="x = (x - x_train.mean(0)) / (x_train.std(0) + 1e-8)   # for pixels: x / 255",
)


def unscaled_targets(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Targets so large that the way there is too long for steps of an ordinary size (LeCun et al., 1998)."""
    if incident.evidence.get("rule") != "far_off":
        return None
    first = incident.evidence["loss_at_first"]
    return Cause(
        name="unscaled_targets",
        confidence=0.75,
        evidence=f"the squared error was {number(first)} at first, so that the outputs are off by about "
        f"{number(math.sqrt(first))}, where the outputs of a fresh model are about 1",
        remedies=(
            Remedy(
                action="standardise the targets: subtract their mean and divide by their standard deviation",
                reason="weights are initialised, and learning rates chosen, for outputs of about 1",
                snippet="y = (y - y_train.mean()) / y_train.std()   # and back: prediction * y_train.std() + "
                "y_train.mean()",
            ),
        ),
    )


def unscaled_inputs(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Inputs far from the size that weights are initialised for (LeCun et al., 1998, Efficient BackProp)."""
    facts = incident.evidence
    rms = facts.get("input_rms", math.nan)
    small = rms < SMALL_INPUT and facts.get("rule") in _COLD
    burnt = rms >= _FAR_TOO_LARGE and facts.get("rule") in BURNT_OUT
    if not small and not burnt and not (rms >= LARGE_INPUT and facts.get("rule") in _HEAT):
        return None
    if incident.kind == "saturation" and not facts.get("given_data"):
        return None
    if "input_module" not in facts:
        return _guessed(facts["input_guessed"], rms) if rms >= _FAR_TOO_LARGE else None
    biggest, spread, module = (
        facts.get("input_max", math.nan),
        facts.get("input_spread", math.nan),
        facts["input_module"],
    )
    uneven = spread >= _UNEVEN
    features = f", and the largest feature varies {number(spread)} times as much as the usual one" if uneven else ""
    return Cause(
        name="unscaled_inputs",
        confidence=0.9 if small or rms >= _VERY_LARGE or uneven else 0.75,
        evidence=f"{module} is given values of {number(rms)} on average and up to {number(biggest)}, where about 1 is "
        f"usual{features}",
        remedies=(
            _STANDARDISE,
            Remedy(
                action=f"a normalisation layer in front of {module}",
                reason="it does the same inside the model, and follows the data",
                snippet=f"{access(module)} = nn.Sequential(nn.BatchNorm1d(num_features), {access(module)})",
            ),
        ),
    )


def overflowing_inputs(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """Large inputs under which the loss grew step by step until it overflowed."""
    facts = incident.evidence
    if not facts.get("loss_growth", 0.0) >= _DIVERGED or facts.get("rule") == "weight":
        return None
    blamed = dataclasses.replace(incident, evidence={**facts, "rule": "diverged"})
    return unscaled_inputs(blamed, record, model)


def bad_batch(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """One batch that is like no other."""
    facts = incident.evidence
    spoilt = Remedy("go back to a checkpoint from before this step", "its update has gone into the weights")
    return Cause(
        name="one_bad_batch",
        confidence=0.8,
        evidence=f"the loss went from {number(facts['usual_loss'])} to {number(facts['loss'])} in one step, at the "
        "same learning rate and after an ordinary update: only the batch is new",
        remedies=(
            Remedy(
                action=f"look at the batch of step {facts.get('since', incident.step)}: its largest input and target",
                reason="a corrupt sample, a missing division, or metres in place of kilometres in one file is enough",
                snippet="print(x.abs().max(), y.abs().max())",
            ),
            clip(incident),
            *(() if record.clipped else (spoilt,)),
        ),
    )
