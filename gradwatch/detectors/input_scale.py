"""Input scale: what the model is given is so large, or so uneven, that it cannot learn from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradwatch._baselines import STALLED_STEPS, Episode, Learning, Progress, counts
from gradwatch._decades import number
from gradwatch._sizes import LARGE_INPUT, SMALL_INPUT
from gradwatch.detectors._base import Remembering
from gradwatch.records import Incident, Severity, StepRecord

BEYOND = 1e4
"""Root mean square of what a layer is given straight from the data: no weight as commonly made suits it."""


@dataclass
class _InputState:
    """What is remembered of one optimizer.

    Attributes:
        fresh: Whether the weights looked as commonly initialised when they were first seen.
        seen: Whether they were seen.
        odd: For how many looks in a row the inputs have been far too large or small.
    """

    episode: Episode = field(default_factory=Episode)
    learning: Learning = field(default_factory=Learning)
    progress: Progress = field(default_factory=Progress)
    fresh: bool = False
    seen: bool = False
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
        if not state.seen and record.weight_norm is not None:
            state.seen, state.fresh = True, self._weights.is_fresh(record)
        if (calls := self._forward.of(record)) is None:
            return []
        row, rms = calls.input_size
        odd = row >= 0 and not SMALL_INPUT < rms < LARGE_INPUT
        state.odd = state.odd + 1 if odd else 0
        hardly = state.fresh and state.learning.hardly(STALLED_STEPS)
        alarm = state.odd > 1 and (hardly or (row >= 0 and rms >= BEYOND))
        if not state.episode.begins(symptom=odd, alarm=alarm):
            return []
        slow = f", and the loss has hardly fallen in {state.learning.count} steps" if hardly else ""
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
