"""Names the causes of an incident, ranked, each with its evidence and remedies.

A table of small pure rules (:mod:`gradwatch.causes`): each looks at the incident, the step's record and the model, and
gives one cause or none. Where none applies, that is said too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gradwatch.causes import Rule, depth, inputs, nonfinite, rate, recurrence, units, wiring
from gradwatch.records import Cause, Incident, ModelInfo, Remedy, StepRecord


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


RULES: Mapping[str, tuple[Rule, ...]] = {
    "exploding": (
        inputs.unscaled_inputs,
        wiring.gradients_pile_up,
        wiring.bottomless,
        depth.large_weights,
        depth.growing_weights,
        rate.lr_too_high,
        rate.diverged_at_once,
        recurrence.long_recurrence,
        depth.no_normalisation,
        depth.no_shortcuts,
        rate.no_clipping,
    ),
    "vanishing": (
        depth.saturating_activations,
        rate.underflow,
        inputs.unscaled_inputs,
        depth.zero_weights,
        wiring.no_slope,
        depth.small_weights,
        depth.shrunken_weights,
        depth.dead_relu,
        wiring.unsuited_loss,
        wiring.saturated_output,
        wiring.dead_behind,
        recurrence.long_recurrence,
        depth.no_normalisation,
        depth.no_shortcuts,
        rate.bold_start,
    ),
    "nonfinite": (*nonfinite.RULES, inputs.overflowing_inputs, rate.diverged),
    "dead_relu": (
        inputs.unscaled_inputs,
        units.dead_by_weights,
        units.dead_by_bias,
        units.dead_by_learning_rate,
        units.dead_units,
    ),
    "saturation": (
        inputs.unscaled_inputs,
        units.saturated_by_weights,
        depth.growing_weights,
        units.unscaled_logits,
        units.saturated_by_rate,
        wiring.unsuited_loss,
        units.bounded_activations,
    ),
    "lr_too_high": (rate.lr_jumped, inputs.unscaled_inputs, wiring.gradients_pile_up, rate.lr_too_high),
    "stalled": (
        inputs.unscaled_targets,
        rate.clipped_away,
        rate.eps_too_large,
        rate.rounded_away,
        rate.schedule_at_zero,
        depth.shrunken_weights,
        wiring.unsuited_loss,
        rate.lr_too_low,
    ),
    "disconnected": (wiring.cut_graph, wiring.sure_choice, wiring.dead_behind, wiring.no_optimizer),
    "input_scale": (inputs.unscaled_inputs,),
    "data_outlier": (inputs.bad_batch,),
}
"""Which rules are asked for which kind of incident."""
