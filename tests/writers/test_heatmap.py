"""The heat map: flat memory, and nothing that stands out is lost."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest

from gradwatch.records import Incident, Layer, Severity, StepRecord
from gradwatch.writers._heatmap import MAX_COLUMNS, MAX_ROWS, Heatmap
from gradwatch.writers._picture import draw


def _layers(num, name="fc{}.weight"):
    return tuple(Layer(name.format(index)) for index in range(num))


def _record(step, norms, layers, num_nonfinite=None):
    norms = np.asarray(norms, dtype=np.float64)
    counts = np.zeros(len(norms), dtype=np.int64) if num_nonfinite is None else np.asarray(num_nonfinite)
    return StepRecord(step, 0, layers, norms, counts, 1.0, 1.0)


def _filled(num_steps, num_layers, change=None):
    heatmap, layers = Heatmap(), _layers(num_layers)
    for step in range(num_steps):
        norms = np.ones(num_layers)
        if change is not None:
            change(step, norms)
        heatmap.add(_record(step, norms, layers))
    return heatmap


@pytest.mark.parametrize(("num_steps", "num_layers"), [(300, 13), (3000, 13), (700, 1000)])
@pytest.mark.parametrize("factor", [1e4, 1e-4])
def test_single_spike_or_dip_survives(num_steps, num_layers, factor):
    """One spike, or one dip, of one layer at one step is one cell of the picture, however long or deep the run."""
    step, layer = num_steps * 2 // 3, num_layers // 2

    def change(now, norms):
        if now == step:
            norms[layer] *= factor

    heatmap = _filled(num_steps, num_layers, change)
    cells, _ = heatmap.cells()
    assert cells.shape[0] <= MAX_ROWS
    assert cells.shape[1] <= MAX_COLUMNS
    hits = np.argwhere(np.abs(cells) > 3)
    assert hits.tolist() == [[heatmap.rows_of((f"fc{layer}.weight",))[0], heatmap.column_of(step)]]


def test_states_are_kept_apart():
    """Absent, exactly zero, not finite and tiny are four things."""
    heatmap, layers = Heatmap(), _layers(5)
    heatmap.add(_record(0, [math.nan, 0.0, math.nan, math.inf, 1e-30], layers, [0, 0, 2, 1, 0]))
    cells, nonfinite = heatmap.cells()
    assert nonfinite[:, 0].tolist() == [False, False, True, True, False]
    assert np.isnan(cells[0, 0])
    assert np.isneginf(cells[1, 0])
    assert cells[4, 0] == pytest.approx(-30)


def test_nonfinite_survives_pooling():
    """One non-finite cell stays visible through every merging of columns and rows."""
    heatmap, layers = Heatmap(), _layers(1000)
    for step in range(2000):
        counts = np.zeros(1000, dtype=np.int64)
        counts[777] = step == 1234
        heatmap.add(_record(step, np.ones(1000), layers, counts))
    _, nonfinite = heatmap.cells()
    assert np.argwhere(nonfinite).tolist() == [[heatmap.rows_of(("fc777.weight",))[0], heatmap.column_of(1234)]]


def test_late_layers_and_gaps_in_steps():
    """Layers that join late get rows of their own, and steps of another optimizer leave no gaps."""
    heatmap = Heatmap()
    heatmap.add(_record(0, [1.0], _layers(1)))
    heatmap.add(_record(500, [1.0, 10.0], _layers(2)))
    cells, _ = heatmap.cells()
    assert cells.shape == (2, 2)
    assert np.isnan(cells[1, 0])
    assert cells[1, 1] == 1.0
    assert heatmap.steps == [0, 500]
    assert heatmap.column_of(499) == 0


@pytest.mark.parametrize("name", ["$x_{{{}}}$ $", "<b>{}", "层{}", "x" * 5000 + "{}"])
def test_any_name_can_be_drawn(name):
    """No layer's name keeps the picture from being drawn."""
    heatmap = Heatmap()
    heatmap.add(_record(0, [1.0, math.nan], _layers(2, name)))
    incident = Incident("nonfinite", 0, (name.format(0),), Severity.ERROR, 0.0, 0.0, "")
    assert draw(heatmap, [incident]).png.startswith(b"\x89PNG")


def test_all_absent_can_be_drawn():
    """A run without a single number has a picture too."""
    heatmap = Heatmap()
    heatmap.add(_record(0, [math.nan], _layers(1)))
    assert draw(heatmap, []).width > 0


def test_drawing_disturbs_nothing():
    """Drawing leaves the random generators, the user's style and the backend alone, and imports no pyplot."""
    code = (
        "import matplotlib, sys\n"
        "matplotlib.rcParams['font.size'] = 3\n"
        "import numpy as np\n"
        "from gradwatch.records import Layer, StepRecord\n"
        "from gradwatch.writers._heatmap import Heatmap\n"
        "from gradwatch.writers._picture import draw\n"
        "backend = matplotlib.rcParams._get('backend')\n"
        "heatmap = Heatmap()\n"
        "heatmap.add(StepRecord(0, 0, (Layer('a'),), np.ones(1), np.zeros(1, dtype=int), 1.0, 1.0))\n"
        "draw(heatmap, [])\n"
        "assert matplotlib.rcParams['font.size'] == 3\n"
        "assert matplotlib.rcParams._get('backend') is backend\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    random_state, numpy_state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    draw(_filled(3, 2), [])
    assert random.getstate() == random_state
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
