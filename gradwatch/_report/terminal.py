"""The report for people in a terminal: verdict first, then the incidents, the layers and the run."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from gradwatch import wording
from gradwatch._report.story import Story
from gradwatch.writers.console import incident_block, label_grid, layer_table

MAX_INCIDENTS = 10
_MAX_SKIPPED = 5
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 64


def rendered(story: Story) -> RenderableType:
    """The story as rich shows it."""
    summary = story.summary
    parts: list[RenderableType] = [_headline(story), Text(wording.plain(story.verdict())), Text()]
    if (curve := _curves(story)) is not None:
        parts += [curve, Text()]
    for incident in summary.incidents[:MAX_INCIDENTS]:
        parts += [incident_block(incident), Text()]
    if len(summary.incidents) > MAX_INCIDENTS:
        more = wording.count(len(summary.incidents) - MAX_INCIDENTS, "more incident")
        parts += [Text(f"{more}: --json or -o report.html shows them"), Text()]
    parts += [layer_table(summary), Text(), label_grid(story.facts())]
    if story.skipped:
        shown = [("not read", wording.plain(text, 300)) for text in story.skipped[:_MAX_SKIPPED]]
        if len(story.skipped) > _MAX_SKIPPED:
            shown.append(("", f"and {len(story.skipped) - _MAX_SKIPPED:,} more"))
        parts.append(label_grid(shown))
    return Group(*parts)


def _headline(story: Story) -> Text:
    worst = story.worst
    if worst is None:
        style, words = ("bold green", "healthy") if story.is_complete else ("bold cyan", "no incident so far")
        return Text(f"● {words} · {wording.plain(story.name, 80)}", style=style)
    style = "bold red" if worst.severity == "error" else "bold yellow"
    return Text(f"● {wording.headline(worst)} · {wording.plain(story.name, 80)}", style=style)


def _curves(story: Story) -> RenderableType | None:
    """Gradient and loss over the run in one line each: a spike of a single step is seen."""
    rows = []
    for label, values in (("gradient", story.run.total), ("loss", story.run.loss)):
        line = sparkline(values.astype(np.float64))
        if line:
            rows.append((label, line))
    return label_grid(rows) if rows and len(story.run.steps) > 1 else None


def sparkline(values: NDArray[np.float64], columns: int = _COLUMNS) -> str:
    """The highest value of each stretch of steps, on a log scale where it spans decades; ``!`` is not finite.

    Args:
        values: ``[num_steps]``.
        columns: At most so many characters.
    """
    if not np.isfinite(values).any():
        return ""
    stretches = np.array_split(values, min(columns, len(values)))
    finite = values[np.isfinite(values)]
    is_log = finite.min() > 0 and finite.max() > 30 * finite.min()
    low, high = (math.log10(v) if is_log else float(v) for v in (finite.min(), finite.max()))
    marks = []
    for stretch in stretches:
        if not np.isfinite(stretch).all():
            marks.append("!")
            continue
        top = float(stretch.max())
        level = (math.log10(top) if is_log else top) - low
        marks.append(_BARS[min(7, int(8 * level / (high - low)))] if high > low else _BARS[0])
    scale = ", log scale" if is_log else ""
    ends = f"{wording.number(float(finite.min()))} … {wording.number(float(finite.max()))}"
    return f"{''.join(marks)}  {ends}{scale}"
