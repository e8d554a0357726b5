"""Figures of a run, as plain plotly dicts: the same in a notebook, in a report and in the TensorBoard tab.

::

    recording = gradwatch.recording.read("runs/a")
    plotly.graph_objects.Figure(gradwatch.figures.heatmap(recording))

In a notebook next to the training it is shorter: ``watch.figures.heatmap()``.
"""

from __future__ import annotations

from gradwatch._figures.depth import depth_profile
from gradwatch._figures.heatmap import heatmap
from gradwatch._figures.line import layer_line
from gradwatch._figures.style import Spec, Theme
from gradwatch._figures.time import through_time

__all__ = ["Spec", "Theme", "depth_profile", "heatmap", "layer_line", "through_time"]
