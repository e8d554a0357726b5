"""The plain scalars for loggers other than TensorBoard: when, where, and the very same numbers."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradwatch.records import Incident, Layer, Severity, StepRecord
from gradwatch.writers import Writer
from gradwatch.writers.metrics import MetricsWriter
from gradwatch.writers.tensorboard import TensorBoardWriter

NORM = "gradwatch/log10 gradient norm"
LAYERS = (Layer("a.weight"), Layer("b.weight"))


def record(step: int, norms: tuple[float, float] = (3.0, 4.0), **more: Any) -> StepRecord:
    """One step with these gradient norms."""
    total = math.hypot(*norms)
    plain = {"optimizer": 0, "total_norm": total, "clipped_norm": total, **more}
    num_nonfinite = np.array([int(not math.isfinite(norm)) for norm in norms])
    return StepRecord(step, layers=LAYERS, grad_norm=np.array(norms), num_nonfinite=num_nonfinite, **plain)


def incident(step: int, optimizer: int = 0) -> Incident:
    """Something bad."""
    return Incident("exploding", step, ("a.weight",), Severity.ERROR, 1e6, 1e2, "too large", optimizer=optimizer)


class Logger:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.now = 0

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, dict(metrics)))

    def axis(self) -> int:
        return self.now


RUN = [
    record(0),
    record(1, clipped_norm=1.0),
    record(2, (0.0, 0.0)),
    record(3, (math.nan, 4.0), clipped_norm=math.nan, skipped=True),
    record(4, (math.inf, 4.0)),
    record(5, (1e6, 2.0), optimizer=1),
]


def test_names_and_values_are_those_of_the_tensorboard_log(tmp_path: Path):
    """Somebody who changes loggers finds the same curves: one row a step is one event's plain scalars."""
    logger, board = Logger(), TensorBoardWriter(tmp_path)
    metrics = MetricsWriter(logger.log_metrics, logger.axis)
    for logger.now, step in enumerate(RUN):
        metrics.write(step)
        board.write(step)
    board.close()
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    tags = accumulator.Tags()["scalars"]
    theirs = {(tag, event.step): event.value for tag in tags for event in accumulator.Scalars(tag)}
    ours = {(name, step): value for step, row in logger.rows for name, value in row.items()}
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value == pytest.approx(theirs[key], rel=1e-6, nan_ok=True)


def test_values_are_plain_floats():
    """What every logger can take."""
    logger = Logger()
    writer = MetricsWriter(logger.log_metrics, logger.axis)
    for step in RUN:
        writer.write(step)
    assert {type(value) for _, row in logger.rows for value in row.values()} == {float}


def test_every_counts_the_steps_of_each_optimizer():
    """Two optimizers in turns with ``every=2``: both are seen, each on every second of its own steps."""
    logger = Logger()
    writer = MetricsWriter(logger.log_metrics, logger.axis, every=2)
    for logger.now in range(8):
        writer.write(record(logger.now, optimizer=logger.now % 2))
    assert [step for step, _ in logger.rows] == [0, 1, 4, 5]
    assert NORM in logger.rows[0][1]
    assert "gradwatch/optimizer1/log10 gradient norm" in logger.rows[1][1]


def test_an_incident_is_never_thinned_out():
    """Its step comes along although it was not its turn, and no step comes twice."""
    logger = Logger()
    writer = MetricsWriter(logger.log_metrics, logger.axis, every=10)
    for logger.now in range(4):
        writer.write(record(logger.now, (10.0**logger.now, 0.0)))
    logger.now = 3
    writer.write_incident(incident(3))
    writer.write_incident(incident(3))
    assert [step for step, _ in logger.rows] == [0, 3, 3]
    assert logger.rows[1][1][NORM] == pytest.approx(3)
    assert [row["gradwatch/incidents so far"] for _, row in logger.rows] == [0, 1, 2]
    assert NORM not in logger.rows[2][1]


def test_steps_that_are_left_out_still_count_for_the_highest_norm():
    """The highest so far is over all steps, not over those that were handed over."""
    logger = Logger()
    writer = MetricsWriter(logger.log_metrics, logger.axis, every=2)
    for norm in (1.0, 1e3, 10.0):
        writer.write(record(0, (norm, 0.0)))
    assert logger.rows[-1][1]["gradwatch/log10 highest gradient norm so far"] == pytest.approx(3)


def test_it_is_a_writer_and_leaves_the_logger_alone():
    """Closing it closes nothing of the user's."""
    logger = Logger()
    writer = MetricsWriter(logger.log_metrics, logger.axis)
    assert isinstance(writer, Writer)
    writer.close()
    assert logger.rows == []


def test_it_needs_no_torch():
    """A process that only reads and writes numbers does not load it."""
    code = "import sys, gradwatch.writers.metrics; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
