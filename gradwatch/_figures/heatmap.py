"""The whole run in one picture: layers in depth order x steps, in log colours, incidents ringed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch._figures.grid import Grid, label, pooled_grid
from gradwatch._figures.series import NAMES, nonfinite, row_of, rows_of
from gradwatch._figures.style import (
    GREY,
    NONFINITE,
    ORANGE,
    RED,
    TIMES,
    ZERO,
    Spec,
    Theme,
    axis,
    colours_of,
    layout,
    numbers,
    text,
    ticks,
    typed,
)
from gradwatch._pool import MAX_COLUMNS, MAX_ROWS
from gradwatch._sources.protocol import Recording
from gradwatch._sources.tables import Table, relative_rows
from gradwatch.records import Incident, Severity

_VIRIDIS = (
    "#440154",
    "#482878",
    "#3e4989",
    "#31688e",
    "#26828e",
    "#1f9e89",
    "#35b779",
    "#6ece58",
    "#b5de2b",
    "#fde725",
)
_COLD, _HOT = "#2b6cb0", "#d9480f"
_MAX_LABELS, _MAX_RINGS = 40, 400
_MAX_DECADES = 6.0  # of the relative scale, on either side
_INCIDENT = {Severity.ERROR: RED, Severity.WARNING: ORANGE}


def heatmap(
    recording: Recording,
    *,
    statistic: str = "grad_norm",
    optimizer: int = 0,
    rows: str = "parameters",
    relative: bool = False,
    theme: Theme = "light",
    max_cells: tuple[int, int] = (MAX_ROWS, MAX_COLUMNS),
) -> Spec:
    """Layers x steps.

    Args:
        recording: The run.
        statistic: One of :data:`gradwatch.recording.STATISTICS`.
        optimizer: Whose layers.
        rows: ``"parameters"`` or ``"modules"``.
        relative: Each value over what is usual for its layer.
        theme: ``"light"`` or ``"dark"``.
        max_cells: At most so many rows and columns; where there is more, a cell shows the highest value in it.

    Returns:
        A plotly figure as a plain dict.

    Raises:
        ArgumentValueError: An argument has a value that is not allowed.
    """
    table = rows_of(recording, statistic, optimizer, rows)
    bad = nonfinite(recording, table, optimizer, rows)
    if relative:
        table = relative_rows(table)
    grid = pooled_grid(table, bad, max_cells, counts=statistic == "num_nonfinite")
    own = [incident for incident in recording.incidents if incident.optimizer == optimizer]
    height = int(min(900, max(340, 130 + 17 * len(grid.level))))
    spec = layout(theme, _finding(own, table, rows), _subtitle(statistic, rows, relative=relative), height=height)
    spec["xaxis"] = axis(theme, "optimizer step", showgrid=False, zeroline=False)
    spec["xaxis"] |= {"range": numbers(grid.step_edges[[0, -1]])} if len(grid.step_edges) > 1 else {}
    spec["yaxis"] = _layers_axis(table.names, grid, theme)
    spec["legend"] |= {"x": 1, "xanchor": "right"}
    if not grid.level.size:
        return {"data": [], "layout": spec}
    data = [_cells(grid, statistic, theme, relative=relative)]
    for cells, colour, words in ((grid.zero, ZERO, "exactly zero"), (grid.bad, NONFINITE, "not finite")):
        if cells.any():
            data.append(_overlay(grid, cells, colour, words))
    data += _rings(own, table, grid)
    return {"data": data, "layout": spec}


def _cells(grid: Grid, statistic: str, theme: Theme, *, relative: bool) -> Spec:
    finite = grid.level[np.isfinite(grid.level)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 0.0)
    if relative:
        high = min(_MAX_DECADES, max(1.0, -low, high))
        low = -high
        middle = colours_of(theme).plot
        scale = [[0, _COLD], [0.5, middle], [1, _HOT]]
    else:
        high = max(high, low + 1)
        scale = [[index / (len(_VIRIDIS) - 1), colour] for index, colour in enumerate(_VIRIDIS)]
    unit = "of its usual" if relative else NAMES[statistic]
    marks = _powers(low, high)
    return {
        "type": "heatmap",
        "z": typed(grid.level),
        "x": numbers(grid.step_edges),
        "y": grid.labels,
        "zmin": low,
        "zmax": high,
        "colorscale": scale,
        "hoverongaps": False,
        "hovertemplate": f"step %{{x:,.0f}}<br>%{{y}}<br>10<sup>%{{z:.2f}}</sup> {unit}<extra></extra>",
        "colorbar": {
            "title": {"text": unit, "side": "right", "font": {"size": 11, "color": GREY}},
            "thickness": 12,
            "outlinewidth": 0,
            "tickvals": marks,
            "ticktext": [_power(mark, TIMES if relative else "") for mark in marks],
            "tickfont": {"size": 11, "color": GREY},
        },
    }


def _overlay(grid: Grid, cells: NDArray[np.bool_], colour: str, words: str) -> Spec:
    """Cells of one colour, as small a grid as holds them."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    shown = np.where(cells[top:bottom, left:right], np.float32(1), np.float32(np.nan))
    return {
        "type": "heatmap",
        "z": typed(shown),
        "x": numbers(grid.step_edges[left : right + 1]),
        "y": grid.labels[top:bottom],
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, colour], [1, colour]],
        "showscale": False,
        "showlegend": True,
        "name": words,
        "hoverongaps": False,
        "hovertemplate": f"step %{{x:,.0f}}<br>%{{y}}<br>{words}<extra></extra>",
    }


def _rings(incidents: Sequence[Incident], table: Table, grid: Grid) -> list[Spec]:
    """A ring round the cell of each incident's worst layer; at the top where no layer is to blame."""
    found: dict[str, list[tuple[float, str, str]]] = {}
    for incident in incidents[-_MAX_RINGS:]:
        if not table.steps[0] <= incident.step <= table.steps[-1]:
            continue
        row = row_of(incident.layers[0], table.names) if incident.layers else None
        place = 0 if row is None else int(np.searchsorted(grid.row_edges, row, side="right")) - 1
        colour = _INCIDENT.get(incident.severity, "#5c8df6")
        column = int(np.searchsorted(grid.step_edges, incident.step, side="right")) - 1
        step = (grid.step_edges[column] + grid.step_edges[min(column + 1, len(grid.step_edges) - 1)]) / 2
        found.setdefault(colour, []).append((step, grid.labels[place], text(wording.headline(incident))))
    every = [ring for rings in found.values() for ring in rings]
    halo = _circles(every, "#ffffff", 19, 6) | {"hoverinfo": "skip", "showlegend": False}  # seen on any cell
    data = [_circles(rings, colour, 18, 3) for colour, rings in found.items()]
    for index, circles in enumerate(data):
        circles["showlegend"] = index == 0
    return [halo, *data] if every else []


def _circles(rings: Sequence[tuple[float, str, str]], colour: str, size: int, width: int) -> Spec:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "incident",
        "x": [step for step, _, _ in rings],
        "y": [row for _, row, _ in rings],
        "text": [words for _, _, words in rings],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"symbol": "circle-open", "size": size, "color": colour, "line": {"width": width}},
        "cliponaxis": False,
    }


def _layers_axis(names: Sequence[str], grid: Grid, theme: Theme) -> Spec:
    places = ticks(len(grid.labels), _MAX_LABELS)
    return axis(
        theme,
        "layers, from input to output",
        type="category",
        tickvals=[grid.labels[place] for place in places],  # a number would be taken for a layer of that name
        ticktext=[label(names, grid.row_edges, place, 32) for place in places],
        range=[len(grid.labels) - 0.5, -0.5],
        showgrid=False,
        ticklabelstandoff=4,
    )


def _powers(low: float, high: float) -> list[int]:
    step = max(1, round((high - low) / 6))
    first = int(np.ceil(low / step) * step)
    return list(range(first, int(np.floor(high)) + 1, step))


def _power(exponent: int, sign: str) -> str:
    if 0 <= exponent <= 3:  # noqa: PLR2004
        return f"{sign}{10**exponent:,}"
    return f"{sign}10<sup>{exponent}</sup>"


def _finding(incidents: Sequence[Incident], table: Table, rows: str) -> str:
    """What the picture says, in one line."""
    if not len(table.steps):
        return "Nothing was recorded"
    if not incidents:
        layers = wording.count(len(table.names), rows.removesuffix("s"))
        return f"No incident: {layers} over {wording.count(len(table.steps), 'step')}"
    first = incidents[0]
    place = wording.where(first.layers, first.num_layers)
    line = f"step {first.step:,}: {wording.title(first)}" + (f" in {place}" if place else "")
    return text(line if len(incidents) == 1 else f"{len(incidents):,} incidents, the first at {line}")


def _subtitle(statistic: str, rows: str, *, relative: bool) -> str:
    what = NAMES[statistic]
    if relative:
        return f"{what} of each {rows.removesuffix('s')}, over what is usual for it"
    return f"{what} of each {rows.removesuffix('s')}, before clipping" if statistic == "grad_norm" else what
