"""A recorded run is judged again, by other detectors or thresholds, without the model and without training again.

The same path as live: detectors, diagnosis, precedence, suppressions.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from gradwatch._aggregates import Aggregates
from gradwatch._judges import Judges
from gradwatch._sources.opened import open_records
from gradwatch.detectors import default_detectors
from gradwatch.errors import RecordError
from gradwatch.records import Incident, ModelInfo, RunSummary, StepRecord
from gradwatch.suppression import Suppression
from gradwatch.writers.jsonl import RecordedRun

MAX_SKIPPED = 20
"""What is named of what could not be read or judged."""


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        runs: One for each training that the file holds; a resumed one goes on, and is no other.
        recorded: The incidents that were told when it was recorded.
        skipped: In words, the first of what could not be read or judged.
        num_skipped: How many these are altogether.
        has_model: Whether the file tells the model's structure, which some causes need.
        gaps: In words, what such a file does not tell although it was seen at the time.
    """

    runs: tuple[RunSummary, ...]
    recorded: tuple[Incident, ...]
    skipped: tuple[str, ...]
    num_skipped: int
    has_model: bool
    gaps: tuple[str, ...] = ()

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Those of all runs."""
        return tuple(incident for run in self.runs for incident in run.incidents)

    @property
    def num_steps(self) -> int:
        """Those of all runs."""
        return sum(run.num_steps for run in self.runs)


def replay(
    path: str | os.PathLike[str],
    *,
    kinds: Collection[str] | None = None,
    suppress: Sequence[Suppression] = (),
    tell: Callable[[int, Incident], object] = lambda _run, _incident: None,
) -> Replay:
    """Judge a recorded run again.

    Args:
        path: What a ``JSONLWriter`` wrote, an event file, or a log directory.
        kinds: The kinds of incidents to look for, as in ``default_detectors()``; None for all.
        suppress: What is not told.
        tell: Called with the number of the run and each incident, in the order in which they are found.

    Returns:
        What came of it.

    Raises:
        RecordError: The file cannot be read, or holds no step.
    """
    recorded, gaps = open_records(path)
    if not recorded.records:
        why = f": {recorded.skipped[0]}" if recorded.skipped else ""
        raise RecordError(f"gradwatch: {os.fspath(path)!r} holds no step of a recorded run{why}")
    skipped, summaries = list(recorded.skipped), []
    for number, run in enumerate(trainings(recorded)):
        detectors = [detector for detector in default_detectors() if kinds is None or detector.kind in kinds]
        summary, failed = _judge(run, Judges(detectors, suppress), functools.partial(tell, number))
        summaries.append(summary)
        skipped += failed
    return Replay(
        runs=tuple(summaries),
        recorded=recorded.incidents,
        skipped=tuple(skipped[:MAX_SKIPPED]),
        num_skipped=len(skipped),
        has_model=all(model is not None for model in recorded.models),
        gaps=gaps,
    )


_Run = list[tuple[StepRecord, "ModelInfo | None"]]


def trainings(recorded: RecordedRun) -> Iterator[_Run]:
    """The trainings that the file holds: what was resumed is joined, as the last of its watches has seen it.

    A session that begins at step 0 is a new training. One that begins where a checkpoint was made continues the one
    before; the steps since that checkpoint were in vain, and the resumed watch knows nothing of them.
    """
    steps = list(zip(recorded.records, recorded.models, strict=True))
    bounds = [*recorded.sessions, len(steps)] if recorded.sessions else [0, len(steps)]
    run: _Run = steps[: bounds[0]]
    for start, end in itertools.pairwise(bounds):
        session = steps[start:end]
        first = session[0][0].step
        if first == 0 and run:
            yield run
            run = []
        run = [(record, model) for record, model in run if record.step < first] + session
    yield run


def _judge(run: _Run, judges: Judges, tell: Callable[[Incident], object]) -> tuple[RunSummary, list[str]]:
    """Judge one training; what a damaged record makes impossible is left out and named."""
    counted, incidents, failed = Aggregates(), [], []
    known: ModelInfo | None = None
    for record, recorded_model in run:
        known = recorded_model or _model_of(record)
        try:
            counted.observe(record)
            found = judges.observe(record, known)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            failed.append(f"step {record.step}: cannot be judged ({type(error).__name__}: {error})")
            continue
        for incident in found:
            incidents.append(incident)
            tell(incident)
    assert known is not None
    summary = RunSummary(
        model=known,
        num_steps=len(run),
        num_skipped=counted.num_skipped,
        num_held_back=counted.num_held_back,
        num_clipped=counted.num_clipped,
        clip=None,
        last_total_norm=counted.last_total_norm,
        layers=(),
        incidents=tuple(incidents),
        notes=(),
        watch_seconds=0.0,
        run_seconds=0.0,
        num_tensors=counted.num_tensors,
        suppressed=judges.suppressed,
    )
    return summary, failed


def _model_of(record: StepRecord) -> ModelInfo:
    """As much as is known of a model whose structure was not recorded."""
    return ModelInfo("an unknown model", (), sum(layer.numel for layer in record.layers))
