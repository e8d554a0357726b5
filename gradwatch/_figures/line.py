"""One layer over the run: before and after clipping, what is usual for it and what is not, and the loss beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch._figures.curve import Curve, after_clipping, curve_of
from gradwatch._figures.finding import finding
from gradwatch._figures.series import NAMES, row_of, thinned
from gradwatch._figures.style import (
    BLUE,
    GREY,
    NONFINITE,
    ORANGE,
    RED,
    TEAL,
    VIOLET,
    Spec,
    Theme,
    axis,
    colours_of,
    layout,
    log_axis,
    numbers,
    text,
)
from gradwatch._sources.protocol import Recording
from gradwatch.errors import ArgumentValueError
from gradwatch.records import Incident, Severity

_MAX_MARKED = 40
_COLOURS = {Severity.ERROR: RED, Severity.WARNING: ORANGE, Severity.INFO: BLUE}


def layer_line(
    recording: Recording,
    layer: str,
    *,
    statistic: str = "grad_norm",
    optimizer: int = 0,
    first: int | None = None,
    last: int | None = None,
    theme: Theme = "light",
    compare: Recording | None = None,
) -> Spec:
    """A layer's curve over the steps, with the loss below.

    Args:
        recording: The run.
        layer: A parameter or a module.
        statistic: One of :data:`gradwatch.recording.STATISTICS`.
        optimizer: Whose layer.
        first: First step, inclusive; None for the run's first.
        last: Last step, inclusive; None for the run's last.
        theme: ``"light"`` or ``"dark"``.
        compare: Another run, drawn behind.

    Returns:
        A plotly figure as a plain dict.

    Raises:
        ArgumentValueError: There is no such layer, or an argument has a value that is not allowed.
    """
    curve = curve_of(recording, layer, statistic, optimizer, first=first, last=last)
    if curve is None:
        raise ArgumentValueError("layer", layer, "a parameter or a module that this run has measured")
    own = [i for i in recording.incidents if i.optimizer == optimizer and _is_shown(i, curve)]
    other = None if compare is None else curve_of(compare, layer, statistic, optimizer, first=first, last=last)
    clips = statistic == "grad_norm" and bool(curve.run.is_clipped.any())
    yaxis, floor, ceiling = log_axis(
        theme,
        NAMES[statistic],
        [curve.values, after_clipping(curve) if clips else curve.values, *([other.values] if other else [])],
    )
    has_loss = bool(np.isfinite(curve.run.loss).any())
    told = next((incident for incident in own if _names(incident, curve.name)), None)
    spec = layout(theme, finding(curve, told), _subtitle(curve, statistic), height=440 if has_loss else 340)
    yaxis["domain"] = [0.32, 1] if has_loss else [0, 1]
    spec["yaxis"] = yaxis
    steps = [float(curve.steps[0]), float(curve.steps[-1])] if len(curve.steps) else [0.0, 1.0]
    pad = 0.01 * max(1.0, steps[1] - steps[0])
    spec["xaxis"] = axis(theme, "optimizer step", range=[steps[0] - pad, steps[1] + pad], zeroline=False)
    spec["xaxis"] |= {"anchor": "y2"} if has_loss else {}
    data = _curves(curve, statistic, clips=clips)
    if other is not None:
        data.insert(0, _line("the other run", other.steps, other.values, VIOLET, dash="dot"))
    data += _marks(curve, floor, ceiling)
    if has_loss:
        spec["yaxis2"] = _loss_axis(curve.run.loss, theme)
        data.append(_line("loss", curve.run.steps, curve.run.loss.astype(np.float64), TEAL, yaxis="y2"))
        if other is not None:
            theirs = _line("loss of the other run", other.run.steps, other.run.loss, VIOLET, yaxis="y2", dash="dot")
            data.append(theirs | {"showlegend": False})
    spec["shapes"], spec["annotations"] = _flags(own, curve, theme)
    return {"data": data, "layout": spec}


def _curves(curve: Curve, statistic: str, *, clips: bool) -> list[Spec]:
    data = [
        _line("usual for it", curve.steps, curve.usual, GREY) | {"line": {"color": GREY, "width": 1.2}},
        _line("unusual above", curve.steps, curve.limit, ORANGE, dash="dash"),
    ]
    if statistic != "grad_norm":
        data = data[:1]
    if clips:
        data.append(_line("after clipping", curve.steps, after_clipping(curve), TEAL, dash="dot"))
    return [*data, _line("before clipping" if clips else NAMES[statistic], curve.steps, curve.values, BLUE)]


def _line(
    name: str,
    steps: NDArray[np.int64],
    values: NDArray[np.floating],
    colour: str,
    *,
    dash: str = "solid",
    yaxis: str = "y",
) -> Spec:
    kept = thinned(values)
    shown = np.where(values > 0, values, np.nan) if yaxis == "y" else values  # a log axis has no zero
    return {
        "type": "scatter",
        "mode": "lines" if len(kept) > 1 else "markers",
        "name": name,
        "x": steps[kept].tolist(),
        "y": numbers(shown[kept]),
        "yaxis": yaxis,
        "line": {"color": colour, "width": 1.6, "dash": dash},
        "hovertemplate": f"step %{{x:,}}<br><b>%{{y:.3~g}}</b><extra>{name}</extra>",
        "connectgaps": False,
    }


def _marks(curve: Curve, floor: float, ceiling: float) -> list[Spec]:
    """Steps without a height on the axis: not finite, exactly zero, skipped."""
    data = []
    for where, height, words, symbol, colour in (
        (curve.bad, ceiling, "not finite", "x", NONFINITE),
        (curve.values == 0, floor, "exactly zero", "triangle-down-open", GREY),
        (curve.run.skipped, floor, "skipped: the loss scale overflowed", "line-ns-open", ORANGE),
    ):
        places = np.flatnonzero(where)
        if len(places) > _MAX_MARKED * 10:  # a stretch of them is seen by its ends and some between
            places = places[np.linspace(0, len(places) - 1, _MAX_MARKED * 10).astype(np.int64)]
        if len(places):
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": words,
                    "x": curve.steps[places].tolist(),
                    "y": [height] * len(places),
                    "marker": {"symbol": symbol, "size": 9, "color": colour},
                    "hovertemplate": f"step %{{x:,}}<br><b>{words}</b><extra></extra>",
                }
            )
    return data


def _flags(incidents: Sequence[Incident], curve: Curve, theme: Theme) -> tuple[list[Spec], list[Spec]]:
    """A line through both axes at each incident that names the layer, a thin one at the others."""
    shapes, labels = [], []
    for incident in incidents[:_MAX_MARKED]:
        colour, is_own = _COLOURS.get(incident.severity, ORANGE), _names(incident, curve.name)
        shapes.append(
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": incident.step,
                "x1": incident.step,
                "y0": 0,
                "y1": 1,
                "line": {"color": colour, "width": 1.6 if is_own else 0.8, "dash": "solid" if is_own else "dot"},
                "layer": "below",
            }
        )
        labels.append(
            {
                "xref": "x",
                "yref": "paper",
                "x": incident.step,
                "y": 0.995,
                "xanchor": "left",
                "yanchor": "top",
                "xshift": 3,
                "yshift": -12,
                "showarrow": False,
                "text": text(wording.title(incident), 30),
                "hovertext": text(wording.headline(incident)),
                "font": {"size": 11, "color": colour if is_own else colours_of(theme).soft},
            }
        )
    return shapes, labels


def _loss_axis(loss: NDArray[np.float32], theme: Theme) -> Spec:
    finite = loss[np.isfinite(loss)]
    spans = finite.size > 0 and finite.min() > 0 and finite.max() > 100 * finite.min()
    if spans:
        spec, _, _ = log_axis(theme, "loss", [finite], most=3, domain=[0, 0.22])
        return spec
    return axis(theme, "loss", domain=[0, 0.22], zeroline=False, nticks=4)


def _is_shown(incident: Incident, curve: Curve) -> bool:
    return len(curve.steps) > 0 and bool(curve.steps[0] <= incident.step <= curve.steps[-1])


def _names(incident: Incident, layer: str) -> bool:
    return any(row_of(named, (layer,)) is not None for named in incident.layers)


def _subtitle(curve: Curve, statistic: str) -> str:
    parts = [NAMES[statistic]]
    if statistic == "grad_norm" and len(curve.steps):
        share = float(curve.run.is_clipped.mean())
        parts.append(f"clipped at {wording.percent(share)} of the steps" if share else "never clipped")
        if curve.run.skipped.any():
            parts.append(wording.count(int(curve.run.skipped.sum()), "skipped step"))
    return ", ".join(parts)
