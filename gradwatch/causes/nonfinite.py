"""Causes of NaN and infinity."""

from __future__ import annotations

import math

from gradwatch._backward_order import backward_birthplace, birth_place, with_article
from gradwatch.causes._guards import GUARDS
from gradwatch.records import Birthplace, Cause, Incident, ModelInfo, Remedy, StepRecord
from gradwatch.wording import number

_IN_HALF = " in float16"

_FORWARD = {"multiplication": 0.5, "power": 0.7}
_BACKWARD = {"logarithm": 0.5, "division": 0.5, "exponential": 0.5, "power": 0.4}
_GROWING = frozenset({"multiplication", "power", "exponential"})
"""They have a value for everything finite, but one that may be too large for float16."""
_CLAMPED = frozenset({"logarithm", "division", "square root"})


def domain_operation(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """An operation was given what it has no finite value, or no finite slope, for."""
    birth = _birthplace(incident, record, model)
    if birth is None or birth.source != "operation" or incident.evidence.get("rule") == "weight":
        return None
    operation = birth.operation.removesuffix(_IN_HALF)
    if operation not in GUARDS:
        return None
    if operation == "negative log-likelihood" and record.loss is not None and math.isinf(record.loss):
        return None  # a mean over nothing is NaN
    why, guard = GUARDS[operation]
    if birth.direction == "forward":
        return Cause(
            name="domain_operation",
            confidence=_FORWARD.get(operation, 0.9),
            evidence=f"{with_article(birth.operation)} {_place(birth)} made it of finite values: {why}",
            remedies=(guard, _ANOMALY),
        )
    return Cause(
        name="domain_operation",
        confidence=_BACKWARD.get(operation, 0.7),
        evidence=f"the loss is finite, its gradient is not, and there is {with_article(operation)} {_place(birth)}: "
        f"{why}",
        remedies=(guard, _ANOMALY),
    )


def nonfinite_input(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """What came from outside held it already."""
    birth = record.birthplace
    if birth is None or birth.source != "input" or incident.evidence.get("rule") == "weight":
        return None
    reader = birth.modules[0] if birth.modules else f"the {birth.operation}" if birth.operation else "the model"
    return Cause(
        name="nonfinite_input",
        confidence=0.95,
        evidence=f"what {reader} was given holds NaN or inf already, and no operation of the model has made it: it is "
        "in the batch (its inputs, targets or weights), or was computed without gradients",
        remedies=(
            Remedy(
                action=f"look at the batch of step {incident.step}, and check all batches on their way in",
                reason="one bad number in the data is enough",
                snippet="assert torch.isfinite(x).all()",
            ),
            Remedy(
                action="leave such samples out, or fill what is missing",
                reason="they say nothing that could be learnt",
                snippet="x = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)",
            ),
        ),
    )


def nonfinite_weight(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Weights that hold it do not recover."""
    counted = incident.evidence.get("rule") == "weight"
    seen = record.birthplace is not None and record.birthplace.source == "weight"
    if not counted and not seen:
        return None
    num = incident.evidence["num_nonfinite_weight"] if counted else 0
    many = f"{num:,} element{'' if num == 1 else 's'} of the weights" if counted else "weights"
    be = "was" if num == 1 else "were"
    where = f", in {incident.layers[0]} first" if incident.layers else ""
    return Cause(
        name="nonfinite_weight",
        confidence=0.9,
        evidence=f"{many} {be} NaN or inf before this step{where}: no step repairs that",
        remedies=(
            Remedy(
                action="go back to a checkpoint from before this step",
                reason="no further step can repair such a weight",
            ),
            Remedy(
                action="stop before the bad step next time",
                reason="the weights stay good",
                snippet="gradwatch.watch(model, clip=gradwatch.ClipNorm(max_norm=1.0, error_if_nonfinite=True))",
            ),
        ),
    )


def half_precision_overflow(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A number beyond float16."""
    birth = record.birthplace
    if incident.evidence.get("rule") in ("weight", "loss_scale") or (birth is not None and birth.source != "operation"):
        return None
    if birth is not None and birth.operation.endswith(_IN_HALF):
        operation = birth.operation.removesuffix(_IN_HALF)
        guarded = operation in GUARDS and operation not in _GROWING
        evidence = f"{with_article(birth.operation)} {_place(birth)} went beyond 65,504, where float16 ends"
        confidence = 0.5 if guarded else 0.9
    elif birth is None and incident.evidence.get("dtype") == "float16":
        evidence, confidence = f"{incident.layers[0]} is float16, which ends at 65,504", 0.8
    else:
        return None
    return Cause(
        name="half_precision_overflow",
        confidence=confidence,
        evidence=evidence,
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


def half_precision_underflow(_incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A number so small that float16 takes it for 0, where 0 is not allowed."""
    birth = record.birthplace
    if birth is None or birth.source != "operation" or not birth.operation.endswith(_IN_HALF):
        return None
    if birth.operation.removesuffix(_IN_HALF) not in _CLAMPED:
        return None
    return Cause(
        name="half_precision_underflow",
        confidence=0.6,
        evidence=f"{with_article(birth.operation)} {_place(birth)} is at a loss at 0, and float16 rounds all below "
        "3e-8 to 0: a small number such as 1e-12 that is added for safety is 0, too",
        remedies=(
            Remedy(
                action="compute this part in float32",
                reason="its smallest number is 1e-38",
                snippet='with torch.autocast("cuda", enabled=False): x = x.float()',
            ),
        ),
    )


def nonfinite_loss(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """The forward pass made it, and more is not known."""
    if incident.evidence.get("rule") == "weight" or record.loss is None or math.isfinite(record.loss):
        return None
    birth = record.birthplace
    if birth is not None and birth.source != "operation":
        return None
    made = ""
    if birth is not None and birth.operation:
        made = f", most likely by {with_article(birth.operation)} {_place(birth)}"
    near = f", nearest to {incident.layers[0]}" if incident.layers and not made else ""
    return Cause(
        name="nonfinite_loss",
        confidence=0.3,
        evidence=f"the loss itself is {number(record.loss)}: it arose before the backward pass{made}{near}",
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
            Remedy(
                action="a lower learning rate, and clipping",
                reason="where the numbers have grown over many steps, every product of them overflows at last",
            ),
        ),
    )


def nonfinite_gradient(incident: Incident, record: StepRecord, _model: ModelInfo) -> Cause | None:
    """The backward pass made it, and more is not known."""
    loss_is_bad = record.loss is not None and not math.isfinite(record.loss)
    if incident.evidence.get("rule") != "gradient" or loss_is_bad:
        return None
    known = "the loss is finite" if record.loss is not None else "the loss is not known"
    return Cause(
        name="nonfinite_gradient",
        confidence=0.3 if record.loss is not None else 0.25,
        evidence=f"{known}, the gradient of {incident.layers[0]} is not: it arose on the way back",
        remedies=(
            Remedy(
                action="look for sqrt, norm or a power at 0, and for torch.where round a division",
                reason="their value is finite there, their slope is not",
                snippet="torch.sqrt(x + 1e-12)",
            ),
            _ANOMALY,
        ),
    )


def loss_scale(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A GradScaler does not find a scale that does not overflow."""
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


_ANOMALY = Remedy(
    action="let torch name the operation, for one run",
    reason="it checks every backward operation, slowly, and shows the line of code",
    snippet="torch.autograd.set_detect_anomaly(True)",
)

RULES = (
    nonfinite_weight,
    nonfinite_input,
    domain_operation,
    half_precision_overflow,
    half_precision_underflow,
    loss_scale,
    nonfinite_loss,
    nonfinite_gradient,
)
"""All rules of this kind of incident."""


def _birthplace(incident: Incident, record: StepRecord, model: ModelInfo) -> Birthplace | None:
    if record.loss is not None and not math.isfinite(record.loss):
        return record.birthplace
    return backward_birthplace(record, model.operations) if incident.evidence.get("rule") == "gradient" else None


def _place(birth: Birthplace) -> str:
    """Where to look, in a few words."""
    if birth.direction == "forward":
        return birth_place(birth)
    return f"behind {birth.modules[0]}" if birth.modules else "in the loss or behind the last layer"
