"""Each incident on the terminal as it happens, one line at the end, and the text of ``summary()``."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradwatch import wording
from gradwatch.records import Cause, Incident, RunSummary, Severity, StepRecord

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

WIDTH = 110
"""Columns where there is no terminal to ask."""

_COLOURS = {Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.ERROR: "red"}
_MAX_CAUSES = 3
_MAX_REMEDIES = 3


class ConsoleWriter:
    """Prints each incident as a short block, and the closing line.

    Args:
        file: A text stream or a rich ``Console``; by default the process's stderr, whatever it is at that time.
    """

    def __init__(self, file: TextIO | Console | None = None) -> None:
        self._given = file

    def write(self, record: StepRecord) -> None:
        """Nothing: a step that went well is no news."""

    def write_incident(self, incident: Incident) -> None:
        """Print one incident."""
        self._print(incident_block(incident))

    def write_summary(self, summary: RunSummary) -> None:
        """Print the closing line."""
        self._print(Text(wording.verdict(summary)), soft_wrap=True)

    def close(self) -> None:
        """Nothing to release: the stream belongs to the user."""

    def _print(self, renderable: RenderableType, *, soft_wrap: bool = False) -> None:
        if isinstance(self._given, Console):
            self._given.print(renderable, soft_wrap=soft_wrap)
            return
        file = self._given or sys.stderr
        if file is None:  # a windowed Windows program has no stderr
            return
        text = _render(renderable, _console_like(file), soft_wrap=soft_wrap)
        encoding = getattr(file, "encoding", None) or "utf-8"
        with _progress_bars_aside(file):
            # Through the stream and not through rich, so that a live display which replaced sys.stderr sees it.
            file.write(text.encode(encoding, "replace").decode(encoding))
            file.flush()


def summary_table(summary: RunSummary) -> str:
    """The whole run as plain text, :data:`WIDTH` columns wide: verdict, layers, clipping, cost, incidents."""
    parts: list[RenderableType] = [Text(wording.verdict(summary))]
    if summary.num_steps:
        parts += [Text(), layer_table(summary), Text(), label_grid(wording.facts(summary))]
    for incident in summary.incidents:
        parts += [Text(), incident_block(incident)]
    console = Console(
        file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False, no_color=True
    )
    return _render(Group(*parts), console).rstrip("\n")


def incident_block(incident: Incident) -> RenderableType:
    """One incident: headline, message, causes, what to do."""
    colour = _COLOURS.get(incident.severity, "yellow")
    rows = [
        ("why" if rank == 0 else "or", wording.because(cause))
        for rank, cause in enumerate(incident.causes[:_MAX_CAUSES])
    ]
    parts: list[RenderableType] = [Text(wording.headline(incident), style=f"bold {colour}")]
    if incident.message:
        parts.append(Padding(Text(wording.plain(incident.message)), (0, 0, 0, 2)))
    parts.append(label_grid([*rows, *_remedies(incident.causes)]))
    if incident.unavailable:
        parts.append(label_grid([("could not see", wording.gap(gap)) for gap in incident.unavailable]))
    return Group(*parts)


def _remedies(causes: tuple[Cause, ...]) -> list[tuple[str, str]]:
    """The best cause's remedies, and the code of the first one that has some."""
    remedies = causes[0].remedies[:_MAX_REMEDIES] if causes else ()
    best = next((remedy for remedy in remedies if remedy.snippet), None)
    rows = []
    for rank, remedy in enumerate(remedies):
        rows.append(("" if rank else "try", f"{rank + 1}. {wording.advice(remedy)}"))
        rows += [("", f"   {line}") for line in wording.code(remedy.snippet)] if remedy is best else []
    return rows


def layer_table(summary: RunSummary) -> Table:
    """One row a layer, the numbers to the right, and what was left out."""
    shown = wording.interesting(summary)
    several = len({layer.optimizer for layer in summary.layers}) > 1
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="")
    table.add_column("gradient norm before clipping", footer="", min_width=30)
    for header in ("first", "median", "farthest", "at step", *(("optimizer",) if several else ())):
        table.add_column(header, justify="right")
    for layer in shown:
        step = f"{layer.worst_step:,}" if layer.worst_step >= 0 else "-"
        norms = [wording.number(norm) for norm in (layer.first, layer.median, layer.worst)]
        table.add_row(Text(wording.name(layer.name)), *norms, step, *((str(layer.optimizer),) if several else ()))
    if len(shown) < len(summary.layers):
        table.add_row(f"… {wording.count(len(summary.layers) - len(shown), 'more layer')}, less remarkable")
    return table


def label_grid(rows: list[tuple[str, str]]) -> RenderableType:
    """Labels and texts side by side, so that a long text wraps under itself."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(Text(label), Text(text))
    return Padding(grid, (0, 0, 0, 2)) if rows else Group()


def _render(renderable: RenderableType, console: Console, *, soft_wrap: bool = False) -> str:
    with console.capture() as capture:
        console.print(renderable, soft_wrap=soft_wrap)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _console_like(file: TextIO) -> Console:
    """A console with the stream's colours, and its width where it is a terminal."""
    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=WIDTH)


def _progress_bars_aside(file: TextIO) -> AbstractContextManager[object]:
    """Clear tqdm's bars while something is printed, where the process uses tqdm."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return contextlib.nullcontext() if bars is None else bars.external_write_mode(file=file)
