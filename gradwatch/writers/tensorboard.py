"""Everything into a TensorBoard log: packed for the gradwatch tab, and readable without it.

Each step is one event: the packed statistics (see ``tensorboard_plugin/metadata``) and a handful of plain scalars.
Incidents are on disk when ``write_incident`` returns. A report (Text) and a heat map (Images) tell the rest.
"""

from __future__ import annotations

import datetime
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.errors import ArgumentTypeError, ArgumentValueError, LogdirError
from gradwatch.records import Incident, Layer, RunSummary, StepRecord
from gradwatch.tensorboard_plugin import metadata
from gradwatch.writers import _events, _report
from gradwatch.writers._heatmap import Heatmap
from gradwatch.writers._lines import dumps
from gradwatch.writers._picture import draw

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_PICTURES = 60.0

_SAMPLED = ("grad_max", "weight_norm", "update_ratio")


class TensorBoardWriter:
    """Writes a run where TensorBoard finds it.

    Exactly one of ``logdir`` and ``summary_writer``. Where the training has a ``SummaryWriter`` of its own, hand that
    over: with two event files in one directory TensorBoard may stop showing the older one's new data.

    Args:
        logdir: Directory of this run; made where it is missing.
        summary_writer: The training's own writer. It is flushed, never closed.
        axis: The step of the plain scalars, the report and the picture; by default the optimizer step. Lightning's
            loggers count otherwise.
        clock: Seconds, for the time between two pictures.

    Raises:
        ArgumentValueError: Neither or both of ``logdir`` and ``summary_writer`` are given.
        LogdirError: The directory cannot be written.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str] | None = None,
        *,
        summary_writer: SummaryWriter | None = None,
        axis: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if (logdir is None) == (summary_writer is None):
            raise ArgumentValueError("logdir", logdir, "give exactly one of logdir and summary_writer")
        self._owns_writer = logdir is not None
        self._writer = _open(logdir) if logdir is not None else _checked(summary_writer)
        self._axis = axis
        self._clock = clock
        self._drawn_at = clock()
        self._session = new_session()
        self._num_written: dict[tuple[int, str], int] = {}
        self._first_segment: dict[int, int] = {}
        self._layers: dict[int, tuple[Layer, ...]] = {}
        self._heatmaps: dict[int, Heatmap] = {}
        self._incidents: list[Incident] = []
        self._step = 0
