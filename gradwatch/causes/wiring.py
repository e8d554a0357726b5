"""Causes that lie in how the model, the loss and the optimizer are put together."""

from __future__ import annotations

from gradwatch._decades import number
from gradwatch.causes._remedies import access
from gradwatch.records import Cause, Incident, ModelInfo, Remedy, StepRecord


def cut_graph(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """The way back from the loss is cut."""
    facts = incident.evidence
    if facts.get("rule") not in ("cut", "no_grad", "zeroed"):
        return None
    last, following = facts["last"], facts["next"]
    place = f"between {last} and {following}" if following else f"behind {last}"
    if facts["rule"] == "no_grad":
        what = f"{last} was called with gradients switched off"
        first = Remedy(
            action=f"call {last} outside of torch.no_grad()",
            reason="inside of it nothing is recorded that a gradient could go back through",
        )
    elif facts["rule"] == "zeroed":
        what = f"what comes back to {last} is exactly zero"
        first = Remedy(
            action=f"look {place} for a multiplication by zero, a mask that hides all of it, or a rounding",
            reason="each of these takes the whole learning signal away",
        )
    else:
        what = f"the output of {last} could carry a gradient, and none has come back to it"
        first = Remedy(
            action=f"look {place} for .detach(), .data, .item(), .numpy(), torch.tensor(...) or an unused output",
            reason="each of these cuts the way back from the loss",
        )
    return Cause(
        name="cut_graph",
        confidence=0.85,
        evidence=f"{what}, while the layers behind receive gradients",
        remedies=(
            first,
            Remedy(
                action="freeze it explicitly, if it is not meant to learn",
                reason="then nobody takes it for a mistake, and the optimizer need not hold it",
                snippet=f"{access(last)}.requires_grad_(False)",
            ),
        ),
    )


def _behind(model: ModelInfo, module: str) -> tuple[str, ...]:
    """The operations right behind a module, as far as the graph was seen."""
    known = model.operations
    return () if known is None else next((names for name, names in known.after if name == module), ())


def sure_choice(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """A softmax behind it that has no doubt left passes on exactly zero."""
    last = incident.evidence.get("last", "")
    if incident.evidence.get("rule") != "zeroed" or "Softmax" not in _behind(model, last):
        return None
    return Cause(
        name="unscaled_logits",
        confidence=0.9,
        evidence=f"behind {last} there is a softmax, and what comes back through it is exactly zero: it gives one "
        "choice all there is",
        remedies=(
            Remedy(
                action="divide the attention scores by the square root of the head's width",
                reason="then they are of about size 1, and every choice gets a share of the learning signal",
                snippet="scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])",
            ),
        ),
    )


def dead_behind(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """A ReLU behind it that gives zero for every sample passes on exactly zero."""
    facts = incident.evidence
    module = facts.get("last", "") if facts.get("rule") == "zeroed" else (incident.layers or ("",))[0]
    if facts.get("rule") not in ("zeroed", "silent", "zero") or "Relu" not in _behind(model, module):
        return None
    if _is_seen_alive(record, module):
        return None
    return Cause(
        name="dead_relu",
        confidence=0.88,
        evidence=f"behind {module} there is a ReLU, and what comes back through it is exactly zero: it gives zero for "
        "every sample",
        remedies=(
            Remedy(
                action=f"look for a large negative bias in {module}, or a step with a far too high learning rate",
                reason="both push all units of a layer below zero at once",
                snippet=f"nn.init.zeros_({access(module)}.bias)",
            ),
            Remedy(
                action="F.leaky_relu or F.gelu in place of F.relu",
                reason="they pass something on for negative inputs too, so that a unit can recover",
            ),
        ),
    )


def _is_seen_alive(record: StepRecord, module: str) -> bool:
    """Whether the probe has just seen that ReLU pass something on."""
    seen = record.activations
    if seen is None:
        return False
    rows = zip(seen.modules, seen.kinds, seen.dead_share.tolist(), strict=True)
    return any(name == module and kind == "ReLU" and share < _DEAD for name, kind, share in rows)


_DEAD = 0.95  # share of its units
_BOUNDED = frozenset({"Tanh", "Sigmoid", "Softmax", "Hardtanh", "Hardsigmoid"})


def saturated_output(incident: Incident, record: StepRecord, model: ModelInfo) -> Cause | None:
    """The last activation has flat ends, and no signal comes through it any more."""
    operations = model.operations
    if incident.evidence.get("rule") not in ("gone", "nothing") or operations is None:
        return None
    last, behind = operations.after[-1] if operations.after else ("", ())
    found = next((name for name in (*behind, *operations.in_loss) if name in _BOUNDED), None)
    if found is None:
        return None
    weights = any(layer.module == last and len(layer.shape) > 1 for layer in record.layers)
    return Cause(
        name="saturating_activations",
        confidence=0.85,
        evidence=f"the way to the loss leads through a {found.lower()}, which is flat where its input is large: no "
        "learning signal comes through it any more",
        remedies=(
            Remedy(
                action=f"smaller weights in front of the {found.lower()}",
                reason="it then starts on its steep part",
                snippet=f"nn.init.xavier_normal_({access(last)}.weight)" if weights else "",
            ),
            Remedy(
                action="a loss on what goes into it (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss), where there is one",
                reason="its slope is the error itself",
            ),
        ),
    )


_STEPS = frozenset({"Round", "Floor", "Ceil", "Sign", "Trunc", "Heaviside"})


def no_slope(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """An operation whose slope is zero everywhere (Bengio, Leonard & Courville, 2013, on passing gradients past it)."""
    if incident.evidence.get("rule") not in ("zero", "nothing") or model.operations is None:
        return None
    found = [(module, name) for module, names in model.operations.after for name in names if name in _STEPS]
    if not found:
        return None
    module, name = found[0]
    word = name.lower()
    return Cause(
        name="cut_graph",
        confidence=0.8,
        evidence=f"behind {module} torch.{word} is applied, whose slope is zero everywhere: no learning signal comes "
        "through",
        remedies=(
            Remedy(
                action="a straight-through estimator: round on the way forward, and pass the gradient on as it is",
                reason="the layers before it then learn as if it were not there",
                snippet=f"y = x + (torch.{word}(x) - x).detach()",
            ),
        ),
    )


def no_optimizer(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Nobody moves it."""
    if incident.evidence.get("rule") != "ownerless":
        return None
    last = incident.evidence["last"]
    return Cause(
        name="no_optimizer",
        confidence=0.9,
        evidence=f"no optimizer that has stepped so far holds {last}, and its weights look as they were initialised",
        remedies=(
            Remedy(
                action="hand all parameters to the optimizer, and make it after the last layer has been put in place",
                reason="an optimizer moves the tensors that it was given when it was made, and no others",
                snippet=f'optimizer.add_param_group({{"params": {access(last)}.parameters()}})',
            ),
            Remedy(
                action="freeze it explicitly, if it is not to be trained",
                reason="its gradients are then not computed at all",
                snippet=f"{access(last)}.requires_grad_(False)",
            ),
        ),
    )


def gradients_pile_up(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """Nobody has zeroed them: each step moves by the sum of all gradients so far."""
    carried = incident.evidence.get("carried_grad", 0.0)
    if not carried > 0:
        return None
    return Cause(
        name="gradients_pile_up",
        confidence=0.9,
        evidence=f"when the backward pass began, the gradients of the step before were still there (norm "
        f"{carried:.3g}): they add up from step to step",
        remedies=(
            Remedy(
                action="zero the gradients once a step, after optimizer.step() or before loss.backward()",
                reason="backward() adds to what is there",
                snippet="optimizer.zero_grad()",
            ),
        ),
    )


def _taken_twice(tail: tuple[str, ...]) -> Cause | None:
    """A loss that takes the softmax (or the sigmoid) itself is given what has passed through one already."""
    for probability, inside, loss, name in (
        ("Softmax", "LogSoftmax", "nn.CrossEntropyLoss", "softmax"),
        ("Sigmoid", "BinaryCrossEntropyWithLogits", "nn.BCEWithLogitsLoss", "sigmoid"),
    ):
        if probability in tail and inside in tail[tail.index(probability) :]:
            return Cause(
                name="unsuited_loss",
                confidence=0.9,
                evidence=f"the loss takes a {name} of what has passed through a {name} already: values between 0 and "
                "1 are nearly alike to it, so that even the best answer is punished and mistakes teach little",
                remedies=(
                    Remedy(
                        action=f"{loss} on the values before the {name}: leave the {name} out of the model",
                        reason=f"{loss} takes it itself",
                        snippet=f"loss = {loss}()(logits, target)",
                    ),
                ),
            )
    return None


def bottomless(incident: Incident, _record: StepRecord, _model: ModelInfo) -> Cause | None:
    """A loss that can sink without end: its minimum lies at infinitely large weights."""
    if incident.evidence.get("rule") != "runaway":
        return None
    first, loss = incident.evidence["loss_at_start"], incident.evidence["loss"]
    return Cause(
        name="unsuited_loss",
        confidence=0.7,
        evidence=f"the loss has sunk from {number(first)} to {number(loss)}, and sinks the faster the larger the "
        "weights are: nothing holds it from below",
        remedies=(
            Remedy(
                action="check the sign of each term of the loss",
                reason="a log-likelihood or a distance that is to grow has to be taken with a minus",
            ),
            Remedy(
                action="a loss with a lowest value, such as a margin or a logarithm of a probability",
                reason="training then comes to an end where the model is good",
            ),
        ),
    )


_SQUARED = frozenset({"MseLoss", "SmoothL1Loss", "HuberLoss", "L1Loss"})
_PROBABILITY = frozenset({"Sigmoid", "Softmax"})


def unsuited_loss(incident: Incident, _record: StepRecord, model: ModelInfo) -> Cause | None:
    """A squared error of a probability: where the model is sure and wrong, it has no slope (Golik et al., 2013)."""
    operations = model.operations
    if operations is None or not operations.after:
        return None
    tail = (*operations.after[-1][1], *operations.in_loss) if operations.after else operations.in_loss
    if (twice := _taken_twice(tail)) is not None:
        return twice
    by_hand = "Sub" in tail and "Pow" in tail[tail.index("Sub") :]  # (p - y) ** 2
    error = by_hand or any(name in _SQUARED for name in tail)
    probability = next((name for name in tail if name in _PROBABILITY), None)
    if not error or probability is None:
        return None
    sigmoid = probability == "Sigmoid"
    better = "nn.BCEWithLogitsLoss()" if sigmoid else "nn.CrossEntropyLoss()"
    return Cause(
        name="unsuited_loss",
        confidence=0.9 if incident.evidence.get("rule") in ("gone", "output") else 0.55,
        evidence=f"a squared error is taken of what a {probability.lower()} gives: where the model is sure and wrong, "
        "its slope is next to zero, so that the worst mistakes teach the least",
        remedies=(
            Remedy(
                action=f"{better[:-2]} on the values before the {probability.lower()}",
                reason="its slope is the error itself, however sure the model is",
                snippet=f"loss = {better}(logits, target)",
            ),
        ),
    )
