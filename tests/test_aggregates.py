"""A run in a few numbers a module."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradwatch._aggregates import Aggregates
from gradwatch.records import Layer, StepRecord

LAYERS = (
    Layer("fc.weight", "fc", "Linear", (2, 2)),
    Layer("fc.bias", "fc", "Linear", (2,)),
    Layer("out.weight", "out", "Linear", (1, 2)),
    Layer("scale", "", "Net", ()),
)


def record(step, norms, bad=(0, 0, 0, 0), layers=LAYERS):
    return StepRecord(step, 0, layers, np.array(norms, dtype=float), np.array(bad), 1.0, 1.0)


def test_parameters_are_grouped_by_module_for_display():
    """A row is the root of the sum of squares over a module's present gradients; the record keeps each parameter."""
    records = [record(0, [3, 4, 1, 7]), record(1, [30, 40, math.nan, 7]), record(2, [math.nan, 6, 1, 0])]
    aggregates = Aggregates()
    for one in records:
        aggregates.observe(one)
    rows = {row.name: row for row in aggregates.layers(records)}
    assert list(rows) == ["fc", "out", "scale"]
    assert (rows["fc"].first, rows["fc"].median, rows["fc"].worst, rows["fc"].worst_step) == (5, 6, 50, 1)
    assert (rows["out"].first, rows["out"].median) == (1, 1)
    assert aggregates.num_tensors == 4


def test_a_bad_parameter_marks_its_module():
    """The first non-finite norm is the one to show, with its step."""
    records = [record(0, [3, 4, 1, 7]), record(1, [3, math.nan, 1, 7], bad=(0, 2, 0, 0)), record(2, [3, 4, 1, 7])]
    aggregates = Aggregates()
    for one in records:
        aggregates.observe(one)
    fc, out, _ = aggregates.layers(records)
    assert math.isnan(fc.worst)
    assert fc.worst_step == 1
    assert out.worst == pytest.approx(1)
