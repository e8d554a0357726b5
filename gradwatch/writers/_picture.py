"""The heat map as a PNG. Matplotlib's own objects and its Agg canvas: no pyplot, so no backend is ever chosen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradwatch import wording
from gradwatch.records import Float64Array, Incident
from gradwatch.writers._heatmap import Heatmap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

MAX_LABELS = 48
MAX_RINGS = 400
MAX_FLAGS = 6

_NONFINITE, _ZERO, _ABSENT = "#ff1744", "#000000", "#d4d4d4"
_INCHES_WIDE, _INCHES_HIGH = 10.0, (3.6, 12.0)
_INCHES_A_ROW, _INCHES_AROUND = 0.2, 1.7
_DPI = 110


@dataclass(frozen=True)
class Picture:
    """An encoded picture, its size in pixels."""

    png: bytes
    width: int
    height: int


def draw(heatmap: Heatmap, incidents: Sequence[Incident]) -> Picture:
    """Draw layers x steps in log colours, with the incidents ringed.

    Args:
        heatmap: With at least one step.
        incidents: Those of the same optimizer.
    """
    import warnings

    import matplotlib.style

    # The user's own style must not get in, and is back afterwards; the backend is no part of a style.
    with matplotlib.style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the font lacks
        return _draw(heatmap, incidents)


def _draw(heatmap: Heatmap, incidents: Sequence[Incident]) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cells, nonfinite = heatmap.cells()
    low, high = _INCHES_HIGH
    height = min(high, max(low, _INCHES_AROUND + _INCHES_A_ROW * len(cells)))
    figure = Figure(figsize=(_INCHES_WIDE, height), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scale = _scale(cells)
    axes.imshow(_colours(cells, nonfinite, scale), aspect="auto", interpolation="nearest")
    bar = figure.colorbar(scale, ax=axes, pad=0.01)
    bar.set_label("log10 gradient norm")
    _label(axes, heatmap)
    _ring(axes, heatmap, incidents)
    states = ((_NONFINITE, "not finite"), (_ZERO, "exactly zero"), (_ABSENT, "no gradient"))
    figure.legend(
        handles=[Patch(facecolor=colour, label=text) for colour, text in states],
        loc="outside lower right",
        ncols=len(states),
        frameon=False,
        fontsize=8,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    width, pixels_high = canvas.get_width_height()
    return Picture(buffer.getvalue(), width, pixels_high)


def _scale(cells: Float64Array) -> ScalarMappable:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    finite = cells[np.isfinite(cells)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 0.0)
    return ScalarMappable(Normalize(low, max(high, low + 1.0)), cmap="viridis")


def _colours(cells: Float64Array, nonfinite: NDArray[np.bool_], scale: ScalarMappable) -> NDArray[np.uint8]:
    from matplotlib.colors import to_rgba

    colours = np.asarray(scale.to_rgba(np.where(np.isfinite(cells), cells, 0.0), bytes=True)).copy()
    for where, colour in ((np.isnan(cells), _ABSENT), (np.isneginf(cells), _ZERO), (nonfinite, _NONFINITE)):
        colours[where] = np.round(255 * np.array(to_rgba(colour)))
    return colours


def _label(axes: Axes, heatmap: Heatmap) -> None:
    """Layers on the left, steps below; names are shown as they are, not read as formulas."""
    from matplotlib.ticker import MaxNLocator

    labels, steps = heatmap.labels(), heatmap.steps
    every = -(-len(labels) // MAX_LABELS)
    axes.set_yticks(range(0, len(labels), every), labels[::every], fontsize=8)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    ticks = MaxNLocator(9, integer=True).tick_values(steps[0], steps[-1])
    shown = [int(tick) for tick in ticks if steps[0] <= tick <= steps[-1]]
    axes.set_xticks([heatmap.column_of(step) for step in shown], [f"{step:,}" for step in shown], fontsize=8)
    axes.set_xlabel("optimizer step")


def _ring(axes: Axes, heatmap: Heatmap, incidents: Sequence[Incident]) -> None:
    """A ring at each layer of an incident, and the first few incidents' names above."""
    rings: list[tuple[int, int]] = []
    for incident in incidents:
        column = heatmap.column_of(incident.step)
        rings += [(column, row) for row in heatmap.rows_of(incident.layers)]
    if rings:
        columns, rows = zip(*rings[:MAX_RINGS], strict=True)
        axes.scatter(columns, rows, s=70, facecolors="none", edgecolors="black", linewidths=2.6)
        axes.scatter(columns, rows, s=70, facecolors="none", edgecolors="white", linewidths=1.3)
    for index, incident in enumerate(incidents[:MAX_FLAGS]):
        column = heatmap.column_of(incident.step)
        late = 2 * column > len(heatmap.steps)
        axes.annotate(
            f"{wording.title(incident)} · step {incident.step:,}",
            xy=(column, -0.5),
            xytext=(0, 6 + 13 * index),
            textcoords="offset points",
            fontsize=8,
            horizontalalignment="right" if late else "left",
            arrowprops={"arrowstyle": "-", "lw": 0.8, "relpos": (float(late), 0), "shrinkB": 0},
        )
