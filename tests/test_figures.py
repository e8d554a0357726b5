"""Figures: what they say in words, what they draw, and that plotly takes them as they are."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import recordings
import torch

import gradwatch
from gradwatch import figures
from gradwatch._figures.curve import baseline
from gradwatch._figures.series import MAX_POINTS, thinned
from gradwatch._figures.style import TIMES
from gradwatch.errors import ArgumentValueError
from gradwatch.recording import STATISTICS, MemoryRecording, read
from gradwatch.records import Incident, Layer, Severity, StepRecord, TimeProfile


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with recorded runs of every kind."""
    place = tmp_path_factory.mktemp("runs")
    recordings.spiky(place / "spiky")
    recordings.vanishing(place / "vanishing")
    recordings.recurrent(place / "recurrent")
    recordings.record(place / "nan", recordings.mlp(), 40, nans=(25,))
    recordings.record(place / "healthy", recordings.mlp(), 60)
    recordings.hostile(place / "hostile")
    return place


def _specs(recording, theme="light"):
    """Every figure of a run."""
    yield from (figures.heatmap(recording, statistic=name, theme=theme) for name in STATISTICS)
    yield figures.heatmap(recording, rows="modules", relative=True, theme=theme)
    yield from (figures.depth_profile(recording, statistic=name, rows="modules", theme=theme) for name in STATISTICS)
    yield figures.depth_profile(recording, theme=theme, compare=recording)
    layer = recording.layers()[0]
    yield figures.layer_line(recording, layer.name, theme=theme, compare=recording)
    yield figures.layer_line(recording, layer.module, statistic="weight_norm", theme=theme)
    time = figures.through_time(recording, theme=theme)
    if time is not None:
        yield time


def _title(spec):
    return spec["layout"]["title"]["text"].replace("<br>", " ")


def _trace(spec, name):
    return next(trace for trace in spec["data"] if trace.get("name", "").startswith(name))


def _stack(num_steps=50, num_layers=8, *, ratio=1.0, spike=None):
    """Records of a stack of layers whose norm changes by ``ratio`` from one to the one before it."""
    layers = tuple(Layer(f"fc{index}.weight", f"fc{index}", "Linear", (2, 2)) for index in range(num_layers))
    records = []
    for step in range(num_steps):
        norms = ratio ** np.arange(num_layers - 1, -1, -1.0)
        if spike is not None and step == spike[0]:
            norms[spike[1]] *= 1e4
        total = float(np.linalg.norm(norms))
        counts = np.zeros(num_layers, dtype=np.int64)
        records.append(StepRecord(step, 0, layers, norms, counts, total, min(total, 1.0), loss=2.0, lr=0.1))
    return records


@pytest.mark.parametrize("name", ["spiky", "vanishing", "recurrent", "nan", "healthy", "hostile"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plotly_takes_every_figure_as_it_is(runs, name, theme):
    """Every figure of every run is valid to plotly to the last property, and strict JSON."""
    for place in (runs / name, runs / f"{name}.jsonl"):
        for spec in _specs(read(place), theme):
            go.Figure(spec, skip_invalid=False)
            json.loads(json.dumps(spec, allow_nan=False))


def test_titles_say_the_finding(runs):
    """Each figure's title is the finding in plain words with this run's numbers."""
    sick, healthy, nan = read(runs / "vanishing"), read(runs / "healthy"), read(runs / "nan")
    assert _title(figures.heatmap(sick)).startswith("step 2: vanishing in 0 … ")
    assert _title(figures.heatmap(healthy)) == "No incident: 20 parameters over 60 steps"
    depth = _title(figures.depth_profile(sick))
    assert depth == f"step 2: the gradient shrinks {TIMES}0.15 per layer on its way back (vanishing)"
    assert f"({TIMES}" in _title(figures.depth_profile(healthy, step=30))
    assert "per layer: even)" in _title(figures.depth_profile(healthy, step=30))
    assert _title(figures.depth_profile(nan)) == "step 25: not finite in 20 of 20 parameters"
    assert _title(figures.layer_line(nan, "0")) == "step 25: 0 is not finite any more"
    spike = _title(figures.layer_line(read(runs / "spiky"), "0.weight"))
    assert spike.startswith("step 60: 0.weight jumps to ")
    time = _title(figures.through_time(read(runs / "recurrent")))
    assert f"of the gradient arrives 29 time steps back ({TIMES}0." in time


@pytest.mark.parametrize(
    ("ratio", "kind"), [(0.26, "vanishing"), (0.6, "fading"), (1.0, "even"), (1.6, "growing"), (4.0, "exploding")]
)
def test_the_fitted_growth_is_the_growth(ratio, kind):
    """Of a stack whose gradient changes by a known ratio per layer, the figure says that ratio, and what it means."""
    spec = figures.depth_profile(MemoryRecording(_stack(ratio=ratio)), step=10)
    assert f"{TIMES}{ratio:g} per layer" in _title(spec)
    assert kind in _title(spec)
    fit = _trace(spec, f"{TIMES}{ratio:g} per layer")
    measured = _trace(spec, "step 10")
    assert fit["y"] == pytest.approx(measured["y"], rel=1e-3)
    band = _trace(spec, "healthy")
    assert [min(band["y"]), max(band["y"])] == pytest.approx([0.1, 10.0])


def test_no_spike_is_lost_in_the_heat_map():
    """Of 60 one-cell spikes in 300 layers x 3,000 steps all are in a map of 100 x 500 cells, and each in its place."""
    generator = np.random.default_rng(0)
    layers = tuple(Layer(f"l{index}.weight", f"l{index}", "Linear", (2, 2)) for index in range(300))
    spikes = {(int(place) // 300, int(place) % 300) for place in generator.choice(900_000, 60, replace=False)}
    records = []
    for step in range(3000):
        norms = np.ones(300)
        norms[[row for at, row in spikes if at == step]] = 1e3
        records.append(StepRecord(step, 0, layers, norms, np.zeros(300, np.int64), 1.0, 1.0))
    spec = figures.heatmap(MemoryRecording(records), max_cells=(100, 500))
    trace = spec["data"][0]
    level = recordings.cells(trace["z"])
    assert level.shape == (100, 500)
    edges = np.array(trace["x"])
    wanted = {(row // 3, int(np.searchsorted(edges, step) - 1)) for step, row in spikes}
    assert set(zip(*np.nonzero(level > 2.9), strict=True)) == wanted


def test_zero_absent_and_not_finite_are_told_apart():
    """Absent is a gap, exactly zero is black, not finite is red, also where a thousand steps share a cell."""
    records = _stack(2000, 4)
    norms = records[700].grad_norm.copy()
    counts = records[700].num_nonfinite.copy()
    norms[1], counts[1] = math.nan, 3
    records[700] = replace(records[700], grad_norm=norms, num_nonfinite=counts)
    for step, record in enumerate(records):
        changed = record.grad_norm.copy()
        changed[2], changed[3] = 0.0, math.nan
        records[step] = replace(record, grad_norm=changed)
    spec = figures.heatmap(MemoryRecording(records), max_cells=(10, 20))
    level = recordings.cells(spec["data"][0]["z"])
    assert np.isfinite(level[0]).all()
    assert np.isnan(level[2:]).all()
    zero, bad = _trace(spec, "exactly zero"), _trace(spec, "not finite")
    assert zero["y"] == ["fc2.weight"]
    assert np.isfinite(recordings.cells(zero["z"])).all()
    assert bad["y"] == ["fc1.weight"]
    assert len(bad["x"]) == 2
    assert bad["x"][0] < 700 < bad["x"][1]
    line = figures.layer_line(MemoryRecording(records), "fc1.weight")
    assert _trace(line, "not finite")["x"] == [700]
    assert _trace(figures.layer_line(MemoryRecording(records), "fc2"), "exactly zero")["x"][0] == 0


def test_incidents_are_ringed_in_their_cell(runs):
    """A ring stands at the incident's step and worst layer; one without a layer stands at the top."""
    recording = read(runs / "spiky")
    spec = figures.heatmap(recording)
    ring = [trace for trace in spec["data"] if trace.get("name") == "incident"][-1]
    incident = recording.incidents[0]
    assert ring["x"] == [incident.step]
    assert ring["y"] == [incident.layers[0]]
    assert "step 60" in ring["text"][0]
    placeless = Incident("nonfinite", 7, (), Severity.ERROR, 1.0, 0.0, "The loss is NaN.")
    spec = figures.heatmap(MemoryRecording(_stack(), [placeless]))
    assert [trace for trace in spec["data"] if trace.get("name") == "incident"][-1]["y"] == ["fc0.weight"]


def test_a_module_without_a_gradient_of_its_own_is_ringed_by_its_first_parameter():
    """An incident names modules, the map has parameters."""
    incident = Incident("vanishing", 3, ("fc2",), Severity.WARNING, 1.0, 0.0, "It fades.")
    spec = figures.heatmap(MemoryRecording(_stack(), [incident]))
    assert [trace for trace in spec["data"] if trace.get("name") == "incident"][-1]["y"] == ["fc2.weight"]


def test_after_clipping_is_what_the_optimizer_gets(runs):
    """The clipped curve is the layer's norm times the share that clipping leaves."""
    recording = read(runs / "spiky")
    spec = figures.layer_line(recording, "0.weight")
    before, after = _trace(spec, "before clipping"), _trace(spec, "after clipping")
    scalars = recording.table("scalars").values
    share = scalars[:, 1] / scalars[:, 0]
    assert after["y"] == pytest.approx(np.array(before["y"]) * np.minimum(1, share), rel=1e-4)
    assert "clipped at" in spec["layout"]["title"]["subtitle"]["text"]
    assert _trace(spec, "loss")["yaxis"] == "y2"


def test_the_baseline_knows_no_future():
    """What is usual at a step is what was usual before it: a jump is not in its own baseline."""
    values = np.ones(100)
    values[60:] = 1e3
    usual, limit = baseline(values)
    assert np.isnan(usual[:10]).all()
    assert usual[60] == pytest.approx(1.0)
    assert limit[60] < 1e3
    assert usual[99] > 5


def test_a_long_curve_keeps_its_spikes():
    """Of 100,000 points at most 2,000 or so are drawn, the highest and the lowest of every stretch among them."""
    values = np.ones(100_000)
    places = np.random.default_rng(0).choice(100_000, 50, replace=False)
    values[places[:25]], values[places[25:]] = 1e6, 1e-6
    values[5] = math.nan
    kept = thinned(values)
    assert len(kept) <= MAX_POINTS + 2
    stretch = 100_000 / (MAX_POINTS / 2)
    for place in places:
        near = kept[np.abs(kept - place) <= stretch]
        assert values[place] in values[near]


def test_names_are_never_markup(runs):
    """No hostile name reaches a figure with a tag, an entity of its own or a format that plotly would follow."""
    recording = read(runs / "hostile")
    for spec in _specs(recording):
        text = json.dumps(spec).replace("<br>", "").replace("<b>", "").replace("</b>", "")
        text = text.replace("<extra>", "").replace("</extra>", "").replace("<sup>", "").replace("</sup>", "")
        assert "<" not in text
        assert "%{y}$x$" not in text
        assert "\\u202e" not in text
        assert "\\u001b" not in text
    assert max(len(label) for label in figures.heatmap(recording)["data"][0]["y"]) < 250


def test_names_alike_to_the_limit_stay_apart():
    """Layers whose shortened names are equal are still rows of their own, as are layers called by numbers."""
    long = [f"{'a' * 300}{index}{'b' * 300}.weight" for index in range(3)]
    for names in (long, ["2", "0", "1"]):
        layers = tuple(Layer(name, name, "Linear", (2, 2)) for name in names)
        record = StepRecord(0, 0, layers, np.ones(3), np.zeros(3, np.int64), 1.0, 1.0)
        spec = figures.heatmap(MemoryRecording([record]))
        assert len(set(spec["data"][0]["y"])) == 3
        assert spec["layout"]["yaxis"]["tickvals"] == spec["data"][0]["y"]


def test_wrong_arguments_are_named(runs):
    """Each wrong argument raises with what is allowed."""
    recording = read(runs / "healthy")
    with pytest.raises(ArgumentValueError, match=r"statistic='grad' is not allowed: one of grad_norm"):
        figures.heatmap(recording, statistic="grad")
    with pytest.raises(ArgumentValueError, match="rows='columns' is not allowed: parameters or modules"):
        figures.heatmap(recording, rows="columns")
    with pytest.raises(ArgumentValueError, match="theme='red' is not allowed: light or dark"):
        figures.depth_profile(recording, theme="red")
    with pytest.raises(ArgumentValueError, match="layer='nobody' is not allowed: a parameter or a module"):
        figures.layer_line(recording, "nobody")


def test_nothing_recorded_is_said_not_raised():
    """An empty recording, a step before the first, an optimizer that there is not: empty figures that say so."""
    empty, run = MemoryRecording([]), MemoryRecording(_stack())
    for spec in (
        figures.heatmap(empty),
        figures.depth_profile(empty),
        figures.heatmap(run, optimizer=3),
        figures.depth_profile(run, step=-1),
        figures.depth_profile(run, optimizer=3),
        figures.heatmap(run, statistic="weight_norm"),
    ):
        assert spec["data"] == []
        assert "othing was recorded" in _title(spec)
        go.Figure(spec, skip_invalid=False)
    assert figures.through_time(empty) is None
    assert "not measured" in _title(figures.layer_line(run, "fc0.weight", first=1000))


def test_a_profile_of_one_time_step_has_no_time():
    """A sequence of length one carries nothing back and is not drawn; a dead one is said to carry nothing."""
    single, dead = TimeProfile("a", "RNN", (1.0,)), TimeProfile("b", "RNN", (0.0, 0.0, 1.0))
    record = _stack(1)[0]
    assert figures.through_time(MemoryRecording([replace(record, through_time=(single,))])) is None
    spec = figures.through_time(MemoryRecording([replace(record, through_time=(single, dead))]))
    assert "b carries nothing 2 time steps back" in _title(spec)
    go.Figure(spec, skip_invalid=False)


def test_watch_figures_in_a_notebook(runs):
    """``watch.figures`` gives plotly figures of the history, during the run and after it, at both entrances."""
    model = recordings.mlp(2)
    with gradwatch.watch(model, writers=[], history=15) as watch:
        assert watch.figures.heatmap().data == ()
        recordings.train(watch, model, torch.optim.SGD(model.parameters(), 0.1), range(20))
        during = watch.figures
    assert "15 steps" in repr(during)
    assert isinstance(during.heatmap(relative=True), go.Figure)
    assert during.heatmap().data[0].x[0] == 4.5
    assert isinstance(during.depth_profile(10, theme="dark"), go.Figure)
    assert isinstance(watch.figures.layer_line("0"), go.Figure)
    assert watch.figures.through_time() is None
    pytest.importorskip("lightning")
    assert gradwatch.GradWatch().figures.heatmap().data == ()


def test_figures_need_neither_torch_nor_plotly(runs):
    """Building figures from JSON lines imports neither torch nor plotly nor TensorBoard."""
    code = (
        "import sys; from gradwatch import figures; from gradwatch.recording import read\n"
        f"run = read({str(runs / 'recurrent.jsonl')!r})\n"
        "figures.heatmap(run), figures.depth_profile(run), figures.through_time(run)\n"
        "figures.layer_line(run, run.layers()[0].name)\n"
        "print([name for name in ('torch', 'plotly', 'tensorboard', 'matplotlib') if name in sys.modules])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
