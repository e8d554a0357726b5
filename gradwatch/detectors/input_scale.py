"""Input scale: what the model is given is so large, or so uneven, that it cannot learn from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gradwatch._baselines import STALLED_STEPS, Episode, Learning, Progress, counts
from gradwatch._decades import number
from gradwatch._scene import Calls
from gradwatch._sizes import LARGE_INPUT, SMALL_INPUT
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

BEYOND = 1e4
"""Root mean square of what a layer is given straight from the data: no weight as commonly made suits it."""

FLAT = 0.9
"""Share of the first activation's values at its flat ends: it tells the model little more than signs."""


@dataclass
class _InputState:
    """What is remembered of one optimizer.

    Attributes:
        fresh: Whether the weights looked as commonly initialised when they were first seen.
        seen: Whether they were seen.
        initial: The loss before the first step; 0 where it was not told or tells nothing.
        odd: For how many looks in a row the inputs have been far too large or small.
    """

    episode: Episode = field(default_factory=Episode)
    learning: Learning = field(default_factory=Learning)
    progress: Progress = field(default_factory=Progress)
    fresh: bool = False
    seen: bool = False
    initial: float = 0.0
    odd: int = 0


class InputScaleDetector(Remembering[_InputState]):
    """Inputs far from the size that weights are initialised for, in a model that hardly learns.

    Large inputs alone are no fault: a normalisation layer or a small learning rate may be made for them. Where they
    make training blow up, that incident is told as one of this kind (:mod:`gradwatch._judges`).
    """

    kind = "input_scale"
    new_state = _InputState

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if not counts(record):
            return []
        state = self._memory.of(record.optimizer)
        state.learning, state.progress = self._course.follow(record, state.learning, state.progress)
        if state.learning.count == 1 and record.loss is not None and 0 < record.loss < math.inf:
            state.initial = record.loss
        if not state.seen and record.weight_norm is not None:
            state.seen, state.fresh = True, self._weights.is_fresh(record)
        if (calls := self._forward.of(record)) is None:
            return []
        row, rms = calls.input_size
        odd = row >= 0 and not SMALL_INPUT < rms < LARGE_INPUT
        state.odd = state.odd + 1 if odd else 0
        hardly = state.fresh and state.learning.hardly(STALLED_STEPS)
        # Wild first steps are no first loss to be held against.
        poor = state.learning.count >= STALLED_STEPS and state.learning.best > 0.5 * state.initial > 0
        flat = odd and poor and _flattens(calls, row)
        alarm = state.odd > 1 and (hardly or flat or (row >= 0 and rms >= BEYOND))
        if not state.episode.begins(symptom=odd, alarm=alarm):
            return []
        slow = f", and the loss has hardly fallen in {state.learning.count} steps" if hardly else ""
        if flat:
            slow = f", so that the activation behind it sits at its flat ends{slow}"
        size = "large" if rms >= LARGE_INPUT else "small"
        module, biggest = calls.seen.modules[row], float(calls.seen.in_max[row])
        return [
            Incident(
                kind="input_scale",
                step=record.step,
                layers=(module,),
                severity=Severity.WARNING,
                value=rms,
                threshold=LARGE_INPUT if size == "large" else SMALL_INPUT,
                message=f"What {module} is given is far too {size}: {number(rms)} on average and up to "
                f"{number(biggest)}, where about 1 is usual{slow}.",
                optimizer=record.optimizer,
                num_layers=len(calls.seen.modules),
                evidence={"rule": size, "lr": record.lr, "loss": record.loss},
            )
        ]


def _flattens(calls: Calls, row: int) -> bool:
    """Whether the activations that the layer in this row feeds are nearly all at their flat ends."""
    fed = [other for other in calls.plan.bounded.tolist() if calls.before(other) == row]
    return bool(fed) and bool((calls.seen.saturated_share[fed] >= FLAT).all())
