"""The run as one Markdown page, for TensorBoard's Text page and any other place that shows Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch import wording
from gradwatch.records import Cause, Incident, LayerSummary, RunSummary
from gradwatch.wording import markdown

MAX_INCIDENTS = 50
MAX_ROWS = 60


def interim(incidents: Sequence[Incident]) -> str:
    """The report while the run goes on."""
    line = f"The run goes on: {wording.count(len(incidents), 'incident')} so far."
    return "\n\n".join(["# gradwatch", line, *_incidents(incidents)])


def final(summary: RunSummary) -> str:
    """The report of the whole run: verdict, incidents, clipping and cost, table of layers."""
    parts = ["# gradwatch", markdown(wording.verdict(summary).removeprefix("gradwatch: ")) + "."]
    parts += _incidents(summary.incidents)
    if summary.num_steps:
        facts = [f"- {label}: {markdown(text)}" for label, text in wording.facts(summary)]
        parts += ["## The run", "\n".join(facts), "## Gradient norms before clipping", _table(summary)]
    return "\n\n".join(parts)


def _incidents(incidents: Sequence[Incident]) -> list[str]:
    parts = [part for incident in incidents[:MAX_INCIDENTS] for part in _incident(incident)]
    if len(incidents) > MAX_INCIDENTS:
        parts.append(f"{wording.count(len(incidents) - MAX_INCIDENTS, 'more incident')}: see the gradwatch tab.")
    return parts


def _incident(incident: Incident) -> list[str]:
    parts = [f"## {markdown(wording.headline(incident))}", markdown(wording.plain(incident.message))]
    for rank, cause in enumerate(incident.causes):
        parts += _cause("Or" if rank else "Why", cause)
    parts += [f"**Could not see** {markdown(wording.gap(gap))}." for gap in incident.unavailable]
    return [part for part in parts if part]


def _cause(label: str, cause: Cause) -> list[str]:
    parts = [f"**{label}** {markdown(wording.because(cause))}"]
    remedies = [f"{rank}. {markdown(wording.advice(remedy))}" for rank, remedy in enumerate(cause.remedies, start=1)]
    if remedies:
        parts += ["**Try**", "\n".join(remedies)]
    for rank, remedy in enumerate(cause.remedies, start=1):
        if remedy.snippet:
            # Indented and not fenced: there is nothing that a snippet could contain to end it.
            parts += [f"Code for {rank}:", "\n".join(f"    {line}" for line in wording.code(remedy.snippet))]
    return parts


def _table(summary: RunSummary) -> str:
    shown = wording.interesting(summary, MAX_ROWS)
    lines = ["| layer | first | median | worst | at step |", "|---|--:|--:|--:|--:|", *map(_row, shown)]
    left_out = len(summary.layers) - len(shown)
    if left_out:
        lines += ["", f"{wording.count(left_out, 'more layer')}, less remarkable."]
    return "\n".join(lines)


def _row(layer: LayerSummary) -> str:
    norms = " | ".join(wording.number(norm) for norm in (layer.first, layer.median, layer.worst))
    step = f"{layer.worst_step:,}" if layer.worst_step >= 0 else "-"
    return f"| {markdown(wording.name(layer.name))} | {norms} | {step} |"
