"""How figures look and what they share: light and dark, log axes, names that no renderer takes for markup."""

from __future__ import annotations

import base64
import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch.errors import ArgumentValueError

Spec: TypeAlias = dict[str, Any]
Theme: TypeAlias = str  # "light" or "dark", checked where it is used

# Middle tones, so that a trace reads on white and on near-black: a page can change its theme by the layout alone.
BLUE, GREY, ORANGE, RED, GREEN, VIOLET, TEAL = (
    "#3b82f6",
    "#8a94a6",
    "#e8890c",
    "#ef4444",
    "#22a35a",
    "#a06cf0",
    "#14a3a8",
)
SERIES = (BLUE, ORANGE, TEAL, VIOLET, GREEN, RED)
BAND = "rgba(34,163,90,0.13)"
TIMES = "\u00d7"
ZERO, NONFINITE = "#000000", "#ff1744"

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_TITLE_WIDTH = 92  # characters; plotly breaks no line by itself
_NAME_LIMIT = 200


@dataclass(frozen=True)
class Colours:
    """What a theme gives to the layout."""

    paper: str
    plot: str
    ink: str
    soft: str
    grid: str


THEMES: dict[str, Colours] = {
    "light": Colours("#ffffff", "#f5f6f8", "#1c2430", "#5c6675", "#e1e4ea"),
    "dark": Colours("#1a1e25", "#222831", "#e8ebf0", "#9aa4b2", "#343b47"),
}


def colours_of(theme: Theme) -> Colours:
    """A theme's colours.

    Raises:
        ArgumentValueError: There is no such theme.
    """
    try:
        return THEMES[theme]
    except (KeyError, TypeError):
        raise ArgumentValueError("theme", theme, "light or dark") from None


def text(name: str, limit: int = _NAME_LIMIT) -> str:
    """A text from outside: on one line, and nothing in it is markup to plotly, which renders HTML and formats."""
    return html.escape(wording.plain(name, limit), quote=False).replace("%{", "%&#123;").replace("$", "&#36;")


def short(name: str, limit: int) -> str:
    """A layer's name with its ends, as :func:`text`."""
    return text(wording.name(name, limit), limit)


def layout(theme: Theme, title: str, subtitle: str = "", *, height: int = 420, has_legend: bool = True) -> Spec:
    """What all figures have in common.

    Args:
        theme: Which colours.
        title: The finding in plain words, already through :func:`text` where it comes from outside.
        subtitle: What is shown.
        height: Pixels.
        has_legend: Whether room is kept for a legend between the heading and the plot.
    """
    colours = colours_of(theme)
    lines = wrapped(title)
    top = 26 + 20 * len(lines) + (20 if subtitle else 0) + (26 if has_legend else 0)
    heading: Spec = {
        "text": "<br>".join(lines),
        "x": 0.01,
        "xanchor": "left",
        "yref": "container",
        "y": 1 - 14 / height,
        "yanchor": "top",
        "font": {"size": 15, "color": colours.ink, "weight": 600},
    }
    if subtitle:
        heading["subtitle"] = {"text": subtitle, "font": {"size": 12, "color": colours.soft}}
    return {
        "title": heading,
        "height": height,
        "margin": {"l": 64, "r": 24, "t": top, "b": 52},
        "paper_bgcolor": colours.paper,
        "plot_bgcolor": colours.plot,
        "font": {"family": FONT, "size": 12, "color": colours.ink},
        "hoverlabel": {
            "bgcolor": colours.paper,
            "bordercolor": colours.soft,
            "font": {"family": FONT, "size": 12, "color": colours.ink},
            "align": "left",
            "namelength": -1,
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": 11, "color": colours.soft},
            "bgcolor": "rgba(0,0,0,0)",
        },
        "hovermode": "closest",
        "dragmode": "zoom",
    }


def axis(theme: Theme, title: str = "", **more: Any) -> Spec:
    """An axis in the theme's colours."""
    colours = colours_of(theme)
    font = {"size": 12, "color": colours.soft}
    label: Spec = {"title": {"text": title, "standoff": 10, "font": font}} if title else {}
    return {
        **label,
        "gridcolor": colours.grid,
        "linecolor": colours.grid,
        "zerolinecolor": colours.grid,
        "tickfont": {"size": 11, "color": colours.soft},
        "automargin": True,
        **more,
    }


def log_axis(
    theme: Theme, title: str, values: Sequence[NDArray[np.floating]], *, most: int = 9, **more: Any
) -> tuple[Spec, float, float]:
    """A log axis round all finite, positive values, with at most ``most`` powers of ten named.

    Returns:
        The axis; a height at its lower end for what is exactly zero, and one at its upper end for what is not finite.
    """
    flat = np.concatenate([np.asarray(value, dtype=np.float64).ravel() for value in values] or [np.empty(0)])
    usable = flat[np.isfinite(flat) & (flat > 0)]
    low, high = (math.log10(usable.min()), math.log10(usable.max())) if usable.size else (-1.0, 0.0)
    if high - low < 1:
        low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5
    pad = 0.09 * (high - low)
    low, high = low - pad, high + pad
    decades = high - low
    step = next((size for size in (1, 2, 3, 5, 10, 20, 50) if decades / size <= most), 100)
    spec = axis(
        theme,
        title,
        type="log",
        range=[low, high],
        dtick=step if decades > 1.5 else "D2",  # noqa: PLR2004
        exponentformat="power",
        showexponent="all",
        **more,
    )
    inset = 0.35 * pad
    return spec, 10 ** (low + inset), 10 ** (high - inset)


def wrapped(title: str) -> list[str]:
    """A title on two lines at most; entities are not broken, because they hold no space."""
    lines = textwrap.wrap(title, _TITLE_WIDTH, break_long_words=False, break_on_hyphens=False)
    if len(lines) > 2:  # noqa: PLR2004
        lines = [lines[0], f"{lines[1]} …"]
    return lines or [""]


def numbers(values: NDArray[np.floating] | Sequence[float]) -> list[float | None]:
    """Numbers for JSON, three digits that count: what is not finite is None, which plotly leaves out."""
    wide = np.asarray(values, dtype=np.float64).ravel()
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in wide.tolist()]


def digits(value: float) -> str:
    """Two digits that count: ``0.26``, ``1.3``, ``40,000``."""
    return wording.number(float(f"{value:.2g}")) if math.isfinite(value) else wording.number(value)


def typed(values: NDArray[np.floating]) -> Spec:
    """An array as plotly's base64 form: a tenth of the time and a third of the size of nested lists."""
    array = np.ascontiguousarray(values, dtype="<f4")
    return {
        "dtype": "f4",
        "bdata": base64.b64encode(array.tobytes()).decode("ascii"),
        "shape": ", ".join(map(str, array.shape)),
    }


def ticks(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` places, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, most).tolist()})
