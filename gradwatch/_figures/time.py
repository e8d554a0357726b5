"""The learning signal through time: how much of it a recurrent layer carries back to its earlier time steps."""

from __future__ import annotations

import math

import numpy as np

from gradwatch import wording
from gradwatch._decades import fraction
from gradwatch._figures.style import BAND, SERIES, TIMES, Spec, Theme, axis, digits, layout, log_axis, numbers, text
from gradwatch._sources.protocol import Recording
from gradwatch.records import TimeProfile

_MAX_PROFILES = 6


def through_time(recording: Recording, *, step: int | None = None, theme: Theme = "light") -> Spec | None:
    """The gradient with respect to each hidden state, in the order of time.

    Args:
        recording: The run.
        step: The last sampled one up to this; None for the run's last.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        A plotly figure as a plain dict; None where no recurrent layer was sampled up to this step.
    """
    sampled = [(at, profile) for at, profile in recording.through_time(step) if len(profile.norm) > 1]
    if not sampled:
        return None
    shown = sampled[:_MAX_PROFILES]
    data: list[Spec] = []
    heights = []
    for colour, (_, profile) in zip(SERIES, shown, strict=False):
        name = _name(profile)
        curves = [("gradient", list(profile.norm), "solid")]
        if profile.response:
            curves.append(("of the last step's gradient", _scaled(profile), "dot"))
        for words, values, dash in curves:
            usable = np.array([value if value > 0 and math.isfinite(value) else math.nan for value in values])
            heights.append(usable)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{name}: {words}",
                    "x": list(range(len(values))),
                    "y": numbers(usable),
                    "line": {"color": colour, "width": 2, "dash": dash},
                    "hovertemplate": f"time step %{{x:,}}<br><b>%{{y:.3~g}}</b><extra>{name}, {words}</extra>",
                }
            )
    yaxis, _, _ = log_axis(theme, "gradient norm of the hidden state", heights)
    spec = layout(theme, _finding(*shown[0]), _subtitle(len(sampled)), height=380)
    spec["xaxis"] = axis(theme, "time step of the sequence", zeroline=False)
    spec["yaxis"] = yaxis
    return {"data": [_band(shown[0][1]), *data], "layout": spec}


def _scaled(profile: TimeProfile) -> list[float]:
    """The response in the unit of the norm: what is left of the last direct gradient at each time step."""
    last = next((value for value in reversed(profile.direct) if value > 0), profile.norm[-1])
    return [value * last for value in profile.response]


def _band(profile: TimeProfile) -> Spec:
    last = len(profile.norm) - 1
    top = max((value for value in profile.norm[-1:] if value > 0 and math.isfinite(value)), default=1.0)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "remembers: within a factor of 10 of the last step",
        "x": [0, last, last, 0],
        "y": numbers([top / 10, top / 10, top * 10, top * 10]),
        "fill": "toself",
        "fillcolor": BAND,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _name(profile: TimeProfile) -> str:
    layer = "" if profile.layer == "0" else f" layer {profile.layer}"
    return text(wording.name(profile.module or profile.kind) + layer, 80)


def _finding(step: int, profile: TimeProfile) -> str:
    """What arrives at the sequence's beginning, by the response where it is known: it has one source only."""
    values = [value for value in profile.response if not math.isnan(value)] or list(profile.norm)
    name, back = _name(profile), len(values) - 1
    if not all(map(math.isfinite, values)) or values[-1] <= 0:
        return f"step {step:,}: {name}, the gradient through time"
    share = values[0] / values[-1]
    if share == 0:
        return f"step {step:,}: {name} carries nothing {wording.count(back, 'time step')} back"
    each = f"{TIMES}{digits(share ** (1 / max(1, back)))} per time step"
    decades = math.log10(share)
    if abs(decades) < 1:
        return f"step {step:,}: {name} carries its gradient {wording.count(back, 'time step')} back ({each})"
    if decades < 0:
        left = f"{fraction(share)} of the gradient arrives {wording.count(back, 'time step')} back"
    else:
        left = f"the gradient has grown {digits(share)} times {wording.count(back, 'time step')} back"
    return f"step {step:,}: {name}, {left} ({each})"


def _subtitle(num_sampled: int) -> str:
    more = f"; {num_sampled - _MAX_PROFILES} more layers" if num_sampled > _MAX_PROFILES else ""
    return f"the loss's gradient with respect to each hidden state, log axis{more}"
