"""Non-finite: NaN or inf in gradients, weights or the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwatch._backward_order import WHAT, backward_birthplace, born_in_words
from gradwatch._baselines import Episode
from gradwatch.detectors._base import Remembering
from gradwatch.records import Birthplace, Incident, Int64Array, Ranks, Severity, StepRecord, Unavailable
from gradwatch.wording import number

SKIPPED_STEPS = 20
"""A GradScaler halves its scale at each skip: 20 in a row are a factor of 10^6, so the scale is not the trouble."""


_SHOWN = 8
"""Ranks that are told by their number."""


@dataclass
class _NonfiniteState:
    bad: Episode = field(default_factory=Episode)
    overflow: Episode = field(default_factory=Episode)
    skipped: int = 0


class NonfiniteDetector(Remembering[_NonfiniteState]):
    """NaN or inf in gradients, weights or the loss; a GradScaler that skips step after step."""

    kind = "nonfinite"
    new_state = _NonfiniteState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        state = self._memory.of(record.optimizer)
        state.skipped = state.skipped + 1 if record.skipped else 0
        weights = record.num_nonfinite_weight
        # A skipped step's gradients are the scaler's business; no scaler repairs a weight.
        bad = bool(weights is not None and weights.any()) or (not record.skipped and _went_bad(record))
        found = []
        if (bad or not record.skipped) and state.bad.begins(symptom=bad, alarm=bad):
            found.append(_nonfinite(record))
        if state.overflow.begins(symptom=record.skipped, alarm=state.skipped >= SKIPPED_STEPS and not bad):
            found.append(_overflowing(record, state.skipped))
        return found


def _went_bad(record: StepRecord) -> bool:
    """Whether a gradient or the loss is non-finite; a total that has overflowed is a matter of size."""
    gradient = not record.finite and bool(record.num_nonfinite.any())
    return gradient or not (record.loss is None or math.isfinite(record.loss))


def _nonfinite(record: StepRecord) -> Incident:
    """Weights first, then the birthplace, then gradients in the order in which they probably went bad."""
    grads = record.num_nonfinite
    weights = np.zeros_like(grads) if record.num_nonfinite_weight is None else record.num_nonfinite_weight
    loss_is_bad = record.loss is not None and not math.isfinite(record.loss)
    order = _worst_first(record, weights, loss_is_bad=loss_is_bad)
    names = tuple(record.layers[index].name for index in order)
    bad_grads = int((grads > 0).sum())
    birth = record.birthplace if loss_is_bad else backward_birthplace(record)
    modules = _birth_modules(birth) if birth is not None and not weights.any() else ()
    evidence: dict[str, Any] = {
        "rule": "weight" if weights.any() else "gradient" if bad_grads else "loss",
        "loss": record.loss,
        "num_nonfinite": int(grads.sum()),
        "num_nonfinite_weight": int(weights.sum()),
        "num_layers_nonfinite": bad_grads,
        "dtype": record.layers[order[0]].dtype if order else "",
        "loss_scale": record.loss_scale,
        "birthplace": None if birth is None else birth.to_json(),
    }
    return Incident(
        kind="nonfinite",
        step=record.step,
        layers=(*modules, *names),
        severity=Severity.ERROR,
        value=float(weights.sum() + grads.sum()) if names else 1.0,
        threshold=0.0,
        message=_nonfinite_message(record, order, weights, birth if loss_is_bad else None) + _on_ranks(record.ranks),
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence=evidence,
        unavailable=() if weights.any() else _gaps(record, birth, loss_is_bad=loss_is_bad),
        ranks=() if record.ranks is None else record.ranks.to_blame,
    )


def _on_ranks(ranks: Ranks | None) -> str:
    """Whether one process is at fault, or all are affected."""
    if ranks is None or not ranks.bad:
        return ""
    if not ranks.to_blame:
        return f" All {len(ranks.numbers):,} ranks are affected."
    which, verb = _listed(ranks.to_blame), "is" if len(ranks.to_blame) == 1 else "are"
    if ranks.with_bad_loss:
        return f" Of {len(ranks.numbers):,} ranks only {which} {verb} at fault, with a loss that is not finite."
    return f" Of {len(ranks.numbers):,} ranks only {which} {verb} affected."


def _listed(ranks: tuple[int, ...]) -> str:
    """``rank 1``, ``ranks 0 and 3``; of many the first few."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = [str(rank) for rank in ranks[:_SHOWN]]
    if len(ranks) > _SHOWN:
        return f"ranks {', '.join(shown)} and {len(ranks) - _SHOWN:,} more"
    return f"ranks {', '.join(shown[:-1])} and {shown[-1]}"


def _birth_modules(birth: Birthplace) -> tuple[str, ...]:
    """The modules of a birth on the way forward; the layers around it where it lies between them."""
    if birth.direction != "forward":
        return ()  # the parameters tell it, in this order
    return birth.modules or ((birth.before[0], birth.after[0]) if birth.before and birth.after else ())


def _gaps(record: StepRecord, birth: Birthplace | None, *, loss_is_bad: bool) -> tuple[Unavailable, ...]:
    """What could not be seen of the birthplace, and why."""
    if record.loss is None:
        return (Unavailable(WHAT, "no loss was told: call watch.loss(loss) before loss.backward()"),)
    if birth is not None or not loss_is_bad:
        return ()
    known = tuple(gap for gap in record.unavailable if gap.what == WHAT)
    return known or (Unavailable(WHAT, "looking for it would have made the training wait for the device"),)


def _worst_first(record: StepRecord, weights: Int64Array, *, loss_is_bad: bool) -> list[int]:
    """Indices of the non-finite layers, the likely birthplace first.

    The backward pass runs from the last layer to the first, so with a good loss the last bad layer was bad first. With
    a bad loss the forward pass is to blame: behind the birthplace every input is non-finite and so is every element of
    the weight's gradient, while before it ReLUs hold some back; so the first of the worst layers is the nearest.
    """
    grads = record.num_nonfinite
    numel = np.maximum(np.array([layer.numel for layer in record.layers], dtype=np.float64), 1)
    depth = np.arange(len(grads))
    keys = (depth, -grads / numel) if loss_is_bad else (-depth,)
    by_gradient = np.lexsort(keys)
    by_weight = np.lexsort((depth, -weights / numel))
    first = [int(index) for index in by_weight if weights[index]]
    return first + [int(index) for index in by_gradient if grads[index] and not weights[index]]


def _nonfinite_message(record: StepRecord, order: list[int], weights: Int64Array, birth: Birthplace | None) -> str:
    loss_is_bad = record.loss is not None and not math.isfinite(record.loss)
    loss = f"The loss is {number(record.loss)}" if record.loss is not None else ""
    if not order:
        born = f"; {born_in_words(birth)}" if birth is not None else ""
        return f"{loss}, although every gradient of this step is finite{born}."
    layer = record.layers[order[0]]
    if weights[order[0]]:
        count = f"{weights[order[0]]:,} of its {layer.numel:,} elements"
        return f"The weight {layer.name} holds NaN or inf ({count}): from here on everything it touches is non-finite."
    bad = int((record.num_nonfinite > 0).sum())
    many = f"{bad:,} of {len(record.layers):,} parameters"
    count = f"{record.num_nonfinite[order[0]]:,} of {layer.numel:,} elements"
    if birth is not None:
        return f"{loss}, and the gradients of {many} hold NaN or inf: {born_in_words(birth)}."
    if loss_is_bad:
        return (
            f"{loss}, and the gradients of {many} hold NaN or inf: the forward pass produced it, "
            f"nearest to {layer.name} ({count})."
        )
    if bad == len(record.layers):
        return (
            f"The gradients of all {bad:,} parameters hold NaN or inf: it arose in the loss or behind the last layer, "
            f"{layer.name} ({count})."
        )
    return f"The gradient of {layer.name} holds NaN or inf ({count}); it was the first of {many} on the way back."


def _overflowing(record: StepRecord, skipped: int) -> Incident:
    scale = "" if record.loss_scale is None else f", now with a loss scale of {record.loss_scale:g}"
    return Incident(
        kind="nonfinite",
        step=record.step,
        layers=tuple(layer.name for layer, bad in zip(record.layers, record.num_nonfinite, strict=True) if bad),
        severity=Severity.ERROR,
        value=float(skipped),
        threshold=float(SKIPPED_STEPS),
        message=f"The GradScaler has skipped {skipped} steps in a row{scale}: nothing is being learnt.",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={"rule": "loss_scale", "loss_scale": record.loss_scale, "skipped": skipped, "loss": record.loss},
    )
