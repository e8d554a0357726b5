"""``watch.figures``: the figures of a run that is in memory, as plotly draws them in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch import figures
from gradwatch._sources.memory import MemoryRecording

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class RunFigures:
    """Figures of the kept history, as it was when this was made; see :mod:`gradwatch.figures`.

    Args:
        recording: The run.
    """

    def __init__(self, recording: MemoryRecording) -> None:
        self._recording = recording

    def __repr__(self) -> str:
        steps = len(self._recording.records)
        return f"<gradwatch figures of {steps:,} steps: heatmap(), depth_profile(), layer_line(layer), through_time()>"

    def heatmap(
        self,
        *,
        statistic: str = "grad_norm",
        optimizer: int = 0,
        rows: str = "parameters",
        relative: bool = False,
        theme: str = "light",
    ) -> Figure:
        """Layers x steps in log colours, incidents ringed; see :func:`gradwatch.figures.heatmap`."""
        return _drawn(
            figures.heatmap(
                self._recording,
                statistic=statistic,
                optimizer=optimizer,
                rows=rows,
                relative=relative,
                theme=theme,
            )
        )

    def depth_profile(
        self,
        step: int | None = None,
        *,
        statistic: str = "grad_norm",
        optimizer: int = 0,
        rows: str = "parameters",
        theme: str = "light",
    ) -> Figure:
        """The gradient against depth at one step; see :func:`gradwatch.figures.depth_profile`."""
        return _drawn(
            figures.depth_profile(
                self._recording, step=step, statistic=statistic, optimizer=optimizer, rows=rows, theme=theme
            )
        )

    def layer_line(
        self,
        layer: str,
        *,
        statistic: str = "grad_norm",
        optimizer: int = 0,
        first: int | None = None,
        last: int | None = None,
        theme: str = "light",
    ) -> Figure:
        """One layer over the steps; see :func:`gradwatch.figures.layer_line`."""
        return _drawn(
            figures.layer_line(
                self._recording,
                layer,
                statistic=statistic,
                optimizer=optimizer,
                first=first,
                last=last,
                theme=theme,
            )
        )

    def through_time(self, step: int | None = None, *, theme: str = "light") -> Figure | None:
        """A recurrent layer's gradient through time, None without one; see :func:`gradwatch.figures.through_time`."""
        spec = figures.through_time(self._recording, step=step, theme=theme)
        return None if spec is None else _drawn(spec)


def _drawn(spec: figures.Spec) -> Figure:
    from plotly.graph_objects import Figure

    return Figure(spec)
