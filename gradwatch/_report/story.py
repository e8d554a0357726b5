"""What a recorded run has to say, whoever asks: verdict, incidents, layers, clipping, depth, cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch._figures.fit import fitted, growth, judged
from gradwatch._figures.series import Scalars, nonfinite, rows_of, scalars, worst_incident
from gradwatch._figures.style import TIMES, digits
from gradwatch._sources.protocol import Recording
from gradwatch._sources.tables import Table, medians
from gradwatch.records import Incident, LayerSummary, ModelInfo, RunSummary


@dataclass(frozen=True)
class Depth:
    """How the gradient changes on its way back at one step.

    Attributes:
        step: Which.
        per_layer: By what it is multiplied from one layer to the one before it.
        decades: From the last layer to the first; positive where it fades.
        kind: ``"vanishing"``, ``"fading"``, ``"healthy"``, ``"growing"`` or ``"exploding"``.
    """

    step: int
    per_layer: float
    decades: float
    kind: str

    def words(self) -> str:
        """One sentence."""
        each = f"{TIMES}{digits(self.per_layer)} per layer"
        if self.kind == "healthy":
            return f"the gradient keeps its size on its way back at step {self.step:,} ({each}: healthy)"
        way = "shrinks" if self.decades > 0 else "grows"
        return f"the gradient {way} {each} on its way back at step {self.step:,} ({self.kind})"


@dataclass(frozen=True, eq=False)
class Story:
    """A recorded run in one object.

    Attributes:
        source: Where it is kept.
        summary: The run; put together from what is there where it was not brought to its end.
        is_complete: Whether it was brought to its end.
        first_step: Its first step.
        last_step: Its last one.
        run: What belongs to whole steps, of the first optimizer.
        depth: At the step of the worst incident, else the last; None where there is no depth to speak of.
        skipped: In words, what could not be read.
    """

    source: str
    summary: RunSummary
    is_complete: bool
    first_step: int
    last_step: int
    run: Scalars
    depth: Depth | None
    skipped: tuple[str, ...]

    @property
    def worst(self) -> Incident | None:
        """The first of the most severe incidents."""
        return worst_incident(self.summary.incidents)

    @property
    def name(self) -> str:
        """The source's last part: what people call the run."""
        return PurePath(self.source).name or self.source

    def verdict(self) -> str:
        """The one line that matters most."""
        if self.is_complete:
            return wording.verdict(self.summary).removeprefix("gradwatch: ")
        steps = wording.count(self.summary.num_steps, "step")
        line = f"{steps} of {wording.watched(self.summary)}: {wording.found(self.summary)}"
        return f"{line}; the run has not come to its end: it still goes on, or was killed"

    def facts(self) -> list[tuple[str, str]]:
        """Label and text of what else is known."""
        rows = [("recorded in", self.source), ("steps", f"{self.first_step:,} to {self.last_step:,}")]
        loss = self.run.loss[np.isfinite(self.run.loss)]
        if loss.size:
            first, best, last = (wording.number(float(value)) for value in (loss[0], loss.min(), loss[-1]))
            rows.append(("loss", f"{first} at first, {best} at best, {last} in the end"))
        total = self.run.total[np.isfinite(self.run.total)]
        if total.size:
            at = int(np.nanargmax(np.where(np.isfinite(self.run.total), self.run.total, np.nan)))
            usual, highest = float(np.median(total)), float(self.run.total[at])
            step = int(self.run.steps[at])
            rows.append(("gradient", f"{wording.number(usual)} usually, {wording.number(highest)} at step {step:,}"))
        if self.depth is not None:
            rows.append(("depth", self.depth.words()))
        for label, text in wording.facts(self.summary):
            if label == "clipping" and not self.is_complete:
                rows.append((label, text.removeprefix("none by gradwatch; ")))  # the rule is told at the end
            elif label != "total norm" and (label != "cost" or self.is_complete):
                rows.append((label, text))
        return rows


def story(recording: Recording, source: str) -> Story | None:
    """What a recorded run has to say.

    Args:
        recording: The run.
        source: What to call it.

    Returns:
        The story; None where not even one step was recorded.
    """
    runs = {optimizer: scalars(recording, optimizer) for optimizer in recording.optimizers}
    steps = np.concatenate([run.steps for run in runs.values()]) if runs else np.empty(0, dtype=np.int64)
    if not len(steps):
        return None
    summary = recording.summary or _put_together(recording, runs)
    return Story(
        source=source,
        summary=summary,
        is_complete=recording.summary is not None,
        first_step=int(steps.min()),
        last_step=int(steps.max()),
        run=runs[min(runs)],
        depth=_depth(recording),
        skipped=recording.skipped,
    )


def _depth(recording: Recording) -> Depth | None:
    worst = worst_incident(recording.incidents)
    optimizer = worst.optimizer if worst is not None else recording.optimizers[0]
    steps = recording.table("scalars", optimizer, last=None if worst is None else worst.step).steps
    if not len(steps):
        return None
    step = int(steps[-1])
    profile = fitted(recording, optimizer, step)
    return None if profile is None else Depth(step, growth(profile), profile.fade, judged(profile))


def _put_together(recording: Recording, runs: dict[int, Scalars]) -> RunSummary:
    """The summary of a run that did not come to write one."""
    layers = [layer for optimizer in runs for layer in recording.layers(optimizer)]
    num_elements = sum(layer.numel for layer in layers) if all(layer.shape for layer in layers) else 0
    model = recording.model or ModelInfo("a model", (), num_elements)
    latest = max(runs.values(), key=lambda run: int(run.steps[-1]) if len(run.steps) else -1)
    return RunSummary(
        model=model,
        num_steps=sum(len(run.steps) for run in runs.values()),
        num_skipped=sum(int(run.skipped.sum()) for run in runs.values()),
        num_clipped=sum(int(run.is_clipped.sum()) for run in runs.values()),
        clip=None,
        last_total_norm=float(latest.total[-1]) if len(latest.total) else math.nan,
        layers=tuple(row for optimizer, run in runs.items() for row in _layers(recording, optimizer, run)),
        incidents=recording.incidents,
        notes=(),
        watch_seconds=0.0,
        run_seconds=0.0,
        num_tensors=len(layers),
    )


def _layers(recording: Recording, optimizer: int, run: Scalars) -> list[LayerSummary]:
    """One row a module, as :class:`gradwatch._aggregates.Aggregates` counts them live."""
    table = rows_of(recording, "grad_norm", optimizer, "modules")
    bad = nonfinite(recording, table, optimizer, "modules")
    moved = ~run.at(table.steps).skipped
    table = Table(table.names, table.steps[moved], table.values[moved])
    return _rows(table, bad[moved], optimizer)


def _rows(table: Table, bad: NDArray[np.bool_], optimizer: int) -> list[LayerSummary]:
    if not len(table.steps):
        return [LayerSummary(name, math.nan, math.nan, math.nan, -1, optimizer) for name in table.names]
    finite = np.isfinite(table.values) & ~bad
    usual = medians(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(np.log10(table.values) - np.log10(usual))
    off[~finite | ~np.isfinite(off)] = -1
    rows = []
    for column, name in enumerate(table.names):
        first = table.values[finite[:, column].argmax(), column] if finite[:, column].any() else math.nan
        at = int(bad[:, column].argmax() if bad[:, column].any() else off[:, column].argmax())
        known = bad[at, column] or off[at, column] >= 0
        worst, step = (float(table.values[at, column]), int(table.steps[at])) if known else (math.nan, -1)
        rows.append(LayerSummary(name, float(first), float(usual[column]), worst, step, optimizer))
    return rows
