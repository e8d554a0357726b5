"""The report as one page that needs nothing else: no server, no network, plotly.js from the installed package inside.

Every text from the run is escaped once; only this file's own scripts may run (a Content-Security-Policy names them by
their hashes), so that a hostile name has two walls to climb.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from gradwatch import __version__, figures, wording
from gradwatch._report.answer import first_remedy
from gradwatch._report.embedded import Figures, hashed, own, plotly
from gradwatch._report.story import Story
from gradwatch._sources.protocol import Recording
from gradwatch.errors import ArgumentValueError
from gradwatch.records import Cause, Incident, LayerSummary

MAX_INCIDENTS = 30
MAX_LISTED = 8
MAX_LINES = 6
MAX_OPTIMIZERS = 4
_MAX_ROWS = 30
_MAX_CELLS = (240, 700)
_MANY_PARAMETERS = 160


def page(recording: Recording, story: Story) -> str:
    """The whole page.

    Args:
        recording: The run.
        story: What it has to say.

    Returns:
        HTML in one file of about 5 MB, most of it plotly.js.
    """
    drawn = Figures()
    sections = [
        _header(story),
        _incidents(recording, story, drawn),
        *_pictures(recording, drawn),
        _layers(story),
        _facts(story),
        _skipped(story.skipped),
    ]
    body = "\n".join(section for section in sections if section)
    style, script = own("page.css"), own("page.js")
    library = plotly()
    allowed = " ".join(f"'sha256-{hashed(text)}'" for text in (library, script))
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    name = wording.name(story.name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="gradwatch {__version__}">
<title>{_text(f"{name} - gradwatch report")}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<footer>Written by gradwatch {__version__}. <code>gradwatch explain GW102</code> explains a code; norms are those of the
gradients before clipping; steps are optimizer steps, the first is 0.</footer>
<script type="application/json" id="figures">{drawn.json()}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


# ---------------------------------------------------------------------------------------------------- the page's parts


def _header(story: Story) -> str:
    worst, summary = story.worst, story.summary
    if worst is None:
        tone, eyebrow = ("good", "healthy") if story.is_complete else ("info", "no incident so far")
        title = f"Nothing found in {wording.count(summary.num_steps, 'step')}"
        words = story.depth.words() if story.depth is not None and story.depth.kind == "healthy" else ""
        lead = f"{words[0].upper()}{words[1:]}." if words else ""
        first = ""
    else:
        tone = str(worst.severity)
        num = len(summary.incidents)
        eyebrow = wording.count(num, "incident") + (", the worst one:" if num > 1 else "")
        place = wording.where(worst.layers, worst.num_layers)
        title = f"{wording.title(worst).capitalize()} at step {worst.step:,}" + (f" in {place}" if place else "")
        lead = worst.message
        remedy = first_remedy(worst)
        first = f'<p class="first"><b>Try first</b> {_text(remedy)}.</p>' if remedy else ""
    pills = [
        ("run", wording.name(story.name, 80)),
        ("model", wording.name(summary.model.name)),
        ("steps", f"{summary.num_steps:,}"),
        ("parameters", f"{summary.num_tensors:,}"),
        ("state", "finished" if story.is_complete else "not finished: still running, or killed"),
    ]
    if story.is_complete:
        pills.append(("cost", wording.cost(summary)))
    listed = _timeline(summary.incidents) if len(summary.incidents) > 1 else ""
    shown = "".join(f"<li>{label} <b>{_text(value)}</b></li>" for label, value in pills)
    return (
        f'<header class="{tone}"><div class="eyebrow">{_text(eyebrow)}</div><h1>{_text(title)}</h1>'
        f'<p class="lead">{_text(lead)}</p>{first}{listed}<ul class="pills">{shown}</ul></header>'
    )


def _timeline(incidents: Sequence[Incident]) -> str:
    """All of them in a line each, to jump to."""
    items = "".join(
        f'<li class="{_text(str(incident.severity))}"><a href="#incident-{number}">step {incident.step:,}</a> '
        f"<b>{_text(wording.title(incident))}</b> {_text(wording.where(incident.layers, incident.num_layers))}</li>"
        for number, incident in enumerate(incidents[:MAX_LISTED])
    )
    more = len(incidents) - MAX_LISTED
    return f'<ul class="timeline">{items}{f"<li>and {more:,} more</li>" if more > 0 else ""}</ul>'


def _incidents(recording: Recording, story: Story, drawn: Figures) -> str:
    incidents = story.summary.incidents
    if not incidents:
        return ""
    lines: dict[tuple[int, str], str] = {}
    articles = []
    for number, incident in enumerate(incidents[:MAX_INCIDENTS]):
        figure = ""
        key = (incident.optimizer, incident.layers[0]) if incident.layers else None
        if key is not None and key not in lines and len(lines) < MAX_LINES:
            figure = lines[key] = _line(recording, incident, drawn)
        articles.append(_incident(number, incident, figure))
    more = len(incidents) - MAX_INCIDENTS
    left_out = f'<p class="soft">{wording.count(more, "more incident")}, as <code>--json</code> lists them.</p>'
    return f"<section><h2>What happened</h2>{''.join(articles)}{left_out if more > 0 else ''}</section>"


def _incident(number: int, incident: Incident, figure: str) -> str:
    rows = [("why" if rank == 0 else "or", _text(wording.because(cause))) for rank, cause in enumerate(incident.causes)]
    rows += [("try", _remedies(cause)) for cause in incident.causes[:1] if cause.remedies]
    rows += [("could not see", _text(wording.gap(gap))) for gap in incident.unavailable]
    listed = "".join(f"<dt>{label}</dt><dd>{content}</dd>" for label, content in rows)
    severity = _text(str(incident.severity))
    return (
        f'<article id="incident-{number}" class="{severity}"><h3><span class="tag">{severity}</span>'
        f"{_text(wording.headline(incident))}</h3><p>{_text(incident.message)}</p><dl>{listed}</dl>{figure}</article>"
    )


def _remedies(cause: Cause) -> str:
    items = []
    for remedy in cause.remedies:
        code = "\n".join(wording.code(remedy.snippet)) if remedy.snippet else ""
        block = (
            f'<div class="snippet"><pre>{html.escape(code)}</pre><button type="button">copy</button></div>'
            if code
            else ""
        )
        items.append(f"<li>{_text(wording.advice(remedy))}{block}</li>")
    return f"<ol>{''.join(items)}</ol>"


def _line(recording: Recording, incident: Incident, drawn: Figures) -> str:
    """The curve of the layer that an incident blames most; nothing where it was not measured."""

    def make(theme: str) -> figures.Spec:
        return figures.layer_line(recording, incident.layers[0], optimizer=incident.optimizer, theme=theme)

    try:
        return drawn.place(make)
    except ArgumentValueError:  # a layer without a gradient of its own, such as an activation
        return ""


def _pictures(recording: Recording, drawn: Figures) -> Iterable[str]:
    for optimizer in recording.optimizers[:MAX_OPTIMIZERS]:
        rows = "modules" if len(recording.layers(optimizer)) > _MANY_PARAMETERS else "parameters"
        several = f"<h2>Optimizer {optimizer}</h2>" if len(recording.optimizers) > 1 else ""

        def heat(theme: str, optimizer: int = optimizer, rows: str = rows) -> figures.Spec:
            return figures.heatmap(recording, optimizer=optimizer, rows=rows, theme=theme, max_cells=_MAX_CELLS)

        def depth(theme: str, optimizer: int = optimizer, rows: str = rows) -> figures.Spec:
            return figures.depth_profile(recording, optimizer=optimizer, rows=rows, theme=theme)

        for figure in (drawn.place(heat), drawn.place(depth)):
            if figure:
                yield f'<section class="plot">{several}{figure}</section>'
    time = drawn.place(lambda theme: figures.through_time(recording, theme=theme))
    if time:
        yield f'<section class="plot">{time}</section>'


def _layers(story: Story) -> str:
    shown = wording.interesting(story.summary, _MAX_ROWS)
    named = {layer for incident in story.summary.incidents for layer in incident.layers}
    several = len({layer.optimizer for layer in story.summary.layers}) > 1
    heads = ["first", "median", "farthest", "at step", *(["optimizer"] if several else [])]
    rows = "".join(_layer(layer, named, several=several) for layer in shown)
    more = len(story.summary.layers) - len(shown)
    left_out = f'<p class="soft">{wording.count(more, "more layer")}, less remarkable.</p>' if more > 0 else ""
    return (
        '<section><h2>The layers</h2><div class="table"><table><thead><tr><th>gradient norm before clipping</th>'
        f"{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{rows}</tbody></table></div>{left_out}"
        "</section>"
    )


def _layer(layer: LayerSummary, named: set[str], *, several: bool) -> str:
    cells = [wording.number(value) for value in (layer.first, layer.median, layer.worst)]
    cells.append(f"{layer.worst_step:,}" if layer.worst_step >= 0 else "-")
    cells += [str(layer.optimizer)] if several else []
    is_named = layer.name in named or any(name.startswith(f"{layer.name}.") for name in named)
    mark = ' class="named"' if is_named else ""
    return f"<tr{mark}><td>{_text(wording.name(layer.name))}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _facts(story: Story) -> str:
    rows = "".join(f"<dt>{_text(label)}</dt><dd>{_text(text)}</dd>" for label, text in story.facts())
    return f"<section><h2>The run</h2><dl>{rows}</dl></section>"


def _skipped(skipped: Sequence[str]) -> str:
    if not skipped:
        return ""
    items = "".join(f"<li>{_text(text)}</li>" for text in skipped[:50])
    more = f"<li>and {len(skipped) - 50:,} more</li>" if len(skipped) > 50 else ""  # noqa: PLR2004
    return f'<section class="soft"><h2>What could not be read</h2><ul>{items}{more}</ul></section>'


def _text(value: str) -> str:
    return html.escape(wording.plain(value), quote=True)
