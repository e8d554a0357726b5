"""How the gradient's size changes with depth at one step: the line through it says vanishing or exploding."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch._depth import Profile
from gradwatch._figures.fit import HEALTHY, MIN_FITTED, fitted, growth, judged, row_at
from gradwatch._figures.series import NAMES, nonfinite, row_of, worst_incident
from gradwatch._figures.style import (
    BAND,
    BLUE,
    GREY,
    NONFINITE,
    ORANGE,
    TIMES,
    VIOLET,
    Spec,
    Theme,
    axis,
    digits,
    layout,
    log_axis,
    numbers,
    short,
    text,
    ticks,
)
from gradwatch._sources.protocol import Recording
from gradwatch._sources.tables import Table

_MAX_LABELS = 28


def depth_profile(
    recording: Recording,
    *,
    step: int | None = None,
    statistic: str = "grad_norm",
    optimizer: int = 0,
    rows: str = "parameters",
    theme: Theme = "light",
    compare: Recording | None = None,
) -> Spec:
    """A statistic against depth at one step; of the gradient norm with its growth per layer and a healthy band.

    Args:
        recording: The run.
        step: The last one recorded up to this; None for that of the worst incident, else the run's last.
        statistic: One of :data:`gradwatch.recording.STATISTICS`.
        optimizer: Whose layers.
        rows: ``"parameters"`` or ``"modules"``.
        theme: ``"light"`` or ``"dark"``.
        compare: Another run, drawn behind at the same step.

    Returns:
        A plotly figure as a plain dict.

    Raises:
        ArgumentValueError: An argument has a value that is not allowed.
    """
    if step is None and (worst := worst_incident(i for i in recording.incidents if i.optimizer == optimizer)):
        step = worst.step
    table = row_at(recording, statistic, optimizer, rows, step)
    if table is None:
        spec = layout(theme, "Nothing was recorded up to this step" if step is not None else "Nothing was recorded")
        return {"data": [], "layout": spec | {"xaxis": axis(theme), "yaxis": axis(theme)}}
    values = table.values[0].astype(np.float64)
    bad = nonfinite(recording, table, optimizer, rows)[0]
    profile = fitted(recording, optimizer, int(table.steps[0])) if statistic == "grad_norm" else None
    other = None if compare is None else row_at(compare, statistic, optimizer, rows, step)
    before = row_at(recording, statistic, optimizer, rows, int(table.steps[0]) - 1) if bad.any() else None
    heights = [values, *(row.values[0].astype(np.float64) for row in (other, before) if row is not None)]
    yaxis, floor, ceiling = log_axis(theme, NAMES[statistic], heights)
    data = _healthy(table, profile, bad) if profile is not None else []
    if other is not None:
        data.append(_behind(table, other, f"the other run, step {int(other.steps[0]):,}", VIOLET))
    if before is not None:
        data.append(_behind(table, before, f"step {int(before.steps[0]):,}, before", GREY))
    data += _points(table, values, bad, floor, ceiling)
    if profile is not None and (fit := _fit(table, profile)) is not None:
        data.append(fit)
    spec = layout(theme, _finding(table, bad, profile, statistic, rows), _subtitle(table, statistic, rows), height=400)
    places = ticks(len(table.names), _MAX_LABELS)
    spec["xaxis"] = axis(
        theme,
        "from input to output",
        tickvals=places,
        ticktext=[short(table.names[place], 24) for place in places],
        tickangle=40 if len(places) > 6 else 0,  # noqa: PLR2004
        range=[-0.6, len(table.names) - 0.4],
        showgrid=False,
        zeroline=False,
    )
    spec["yaxis"] = yaxis
    return {"data": data, "layout": spec}


def _points(
    table: Table, values: NDArray[np.float64], bad: NDArray[np.bool_], floor: float, ceiling: float
) -> list[Spec]:
    names = [text(name) for name in table.names]
    usable = np.isfinite(values) & (values > 0) & ~bad
    data: list[Spec] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"step {int(table.steps[0]):,}",
            "x": list(range(len(names))),
            "y": numbers(np.where(usable, values, np.nan)),
            "text": names,
            "hovertemplate": "%{text}<br><b>%{y:.3~g}</b><extra></extra>",
            "line": {"color": BLUE, "width": 1.5},
            "marker": {"size": 7 if len(names) <= 200 else 4, "color": BLUE},  # noqa: PLR2004
            "connectgaps": False,
        }
    ]
    for where, height, words, symbol, colour in (
        ((values == 0) & ~bad, floor, "exactly zero", "triangle-down-open", GREY),
        (bad, ceiling, "not finite", "x", NONFINITE),
    ):
        places = np.flatnonzero(where)
        if len(places):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": words,
                    "x": places.tolist(),
                    "y": [height] * len(places),
                    "text": [names[place] for place in places],
                    "hovertemplate": f"%{{text}}<br><b>{words}</b><extra></extra>",
                    "marker": {"size": 10, "symbol": symbol, "color": colour},
                }
            )
    return data


def _healthy(table: Table, profile: Profile, bad: NDArray[np.bool_]) -> list[Spec]:
    """The band that a healthy network stays in, seen from its last layer."""
    if bad.any():
        return []
    level = float(profile.level[profile.last])
    ends = [-0.6, len(table.names) - 0.4]
    low, high = 10 ** (level - HEALTHY), 10 ** (level + HEALTHY)
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "healthy: within a factor of 10 of the last layer",
            "x": [*ends, *ends[::-1]],
            "y": numbers([low, low, high, high]),
            "fill": "toself",
            "fillcolor": BAND,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
    ]


def _fit(table: Table, profile: Profile) -> Spec | None:
    """The least-squares line through the modules, from the first of them to the last."""
    places = [row_of(module, table.names) for module in profile.modules]
    alive = [i for i in range(len(places)) if profile.level[i] > -math.inf and places[i] is not None]
    if len(alive) < MIN_FITTED:
        return None
    mean = float(profile.level[alive].mean())
    rise = np.linspace(-0.5, 0.5, len(alive)) * profile.fade
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{TIMES}{digits(growth(profile))} per layer, towards the input",
        "x": [places[i] for i in alive],
        "y": numbers(10 ** (mean + rise)),
        "line": {"color": ORANGE, "width": 2.5, "dash": "dash"},
        "hoverinfo": "skip",
    }


def _behind(table: Table, other: Table, name: str, colour: str) -> Spec:
    """The same layers of another run or step."""
    columns = {name: index for index, name in enumerate(other.names)}
    row = other.values[0]
    values = np.array([row[columns[name]] if name in columns else np.nan for name in table.names], dtype=np.float64)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(range(len(table.names))),
        "y": numbers(np.where(values > 0, values, np.nan)),
        "text": [text(layer) for layer in table.names],
        "hovertemplate": f"%{{text}}<br><b>%{{y:.3~g}}</b><extra>{name}</extra>",
        "line": {"color": colour, "width": 1.5, "dash": "dot"},
        "marker": {"size": 5, "color": colour},
    }


def _finding(table: Table, bad: NDArray[np.bool_], profile: Profile | None, statistic: str, rows: str) -> str:
    at = f"step {int(table.steps[0]):,}"
    if bad.any():
        return f"{at}: not finite in {int(bad.sum()):,} of {wording.count(len(bad), rows.removesuffix('s'))}"
    if profile is None:
        return f"{at}: {NAMES[statistic]} from input to output"
    each = f"{TIMES}{digits(growth(profile))} per layer"
    kind = judged(profile)
    if kind == "healthy":
        return f"{at}: the gradient keeps its size on its way back ({each}: even)"
    if profile.fade > 0:
        return f"{at}: the gradient shrinks {each} on its way back ({kind})"
    return f"{at}: the gradient grows {each} on its way back ({kind})"


def _subtitle(table: Table, statistic: str, rows: str) -> str:
    clipping = ", before clipping" if statistic == "grad_norm" else ""
    return f"{NAMES[statistic]} of {wording.count(len(table.names), rows.removesuffix('s'))}{clipping}, log axis"
