"""How TensorBoard may be started and what may go wrong around it: prefix, a run that goes on, a broken gradwatch."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import planted
import pytest
from boards import PLUGIN, board, cell_of, cells

import gradwatch
from gradwatch.records import Severity
from gradwatch.tensorboard_plugin.heatmap import NOT_FINITE
from gradwatch.writers.tensorboard import TensorBoardWriter

LOADERS = pytest.mark.parametrize("loader", ["auto", "false"])


@LOADERS
def test_path_prefix(tmp_path, loader):
    """Under --path_prefix every route and file answers there."""
    planted.spiky(tmp_path / "run", 6, 50, {20: 3})
    with board(tmp_path, "--path_prefix=/a/b", f"--load_fast={loader}") as running:
        assert running.url.endswith("/a/b/")
        running.wait_for({"run": 49})
        assert running.get("incidents", run="run")["total"] == 1
        assert running.get("heatmap", run="run")["cols"] == 50
        for path in ("index.js", "static/style.css", "plotly.min.js"):
            assert running.ask(f"{PLUGIN}/{path}")[0] == 200
        _, body, _ = running.ask("data/plugins_listing")
        assert json.loads(body)["gradwatch"]["enabled"]


@LOADERS
def test_live(tmp_path, loader):
    """While a run goes on, new steps, incidents and layers appear by themselves; at its end it is finished."""
    known = planted.layers(4)
    writer = TensorBoardWriter(tmp_path / "run")
    for step in range(30):
        writer.write(planted.record(step, known, np.full(4, 1.0)))
    writer.write_incident(planted.incident(12, known[0].name))
    with board(tmp_path, "--reload_interval=1", f"--load_fast={loader}") as running:
        running.wait_for({"run": 29})
        first = running.get("heatmap", run="run")
        assert (first["rows"], first["cols"], len(first["rings"])) == (4, 30, 1)
        assert running.get("runs")["runs"][0]["state"] == "running"
        more = planted.layers(6)
        for step in range(30, 60):
            counts = np.zeros(6, dtype=np.int64)
            counts[5] = 2 * (step == 50)
            norms = np.where(counts > 0, np.nan, 3.0)
            writer.write(planted.record(step, more, norms, num_nonfinite=counts))
        writer.write_incident(planted.incident(50, more[5].name))
        running.wait_for({"run": 59})
        second = running.get("heatmap", run="run")
        assert (second["rows"], second["cols"]) == (6, 60)
        assert {(ring["row"], ring["col"]) for ring in second["rings"]} == {(0, 12), (5, 50)}
        codes = cells(second)
        assert (codes[4:, :30] == 0).all()
        assert np.argwhere(codes == NOT_FINITE).tolist() == [[5, 50]]
        assert running.get("incidents", run="run")["total"] == 2
        writer.write_summary(_summary())
        writer.close()
        until = time.monotonic() + 30
        while running.get("runs")["runs"][0]["state"] != "finished":
            assert time.monotonic() < until
            time.sleep(0.2)


@LOADERS
def test_no_spike_is_lost_at_any_size(tmp_path, loader):
    """500 spikes of one step, each in another layer of 500, over 9,000 steps in three segments: 500 in the picture."""
    rng = np.random.default_rng(3)
    steps, layers = rng.choice(9_000, 500, replace=False).tolist(), rng.permutation(500).tolist()
    norms = planted.spiky(tmp_path / "run", 500, 9_000, dict(zip(steps, layers, strict=True)), told=3)
    usual = np.median(norms, axis=0)
    with board(tmp_path, f"--load_fast={loader}") as running:
        running.wait_for({"run": 8_999})
        for relative in (0, 1):
            picture = running.get("heatmap", run="run", relative=relative)
            codes = cells(picture)
            assert codes.shape == (250, 1125)
            seen = 0
            for step, layer in zip(steps, layers, strict=True):
                cell = codes[cell_of(picture, layer, step)]
                height = picture["low"] + (int(cell) - 1) / 249 * (picture["high"] - picture["low"])
                expected = norms[step, layer] / (usual[layer] if relative else 1)
                seen += height >= np.log10(expected) - 0.1
            assert seen == 500
        last = running.get("heatmap", run="run", first=steps[0], last=steps[0], row_first=layers[0], row_last=layers[0])
        assert (last["rows"], last["cols"], last["step_first"]) == (1, 1, [steps[0]])


def test_long_runs_are_made_of_blocks_and_lose_nothing(tmp_path, monkeypatch):
    """What would take too much memory is pooled segment by segment; the picture of the whole run stays the same."""
    from gradwatch.tensorboard_plugin import shortened, stripes

    planted.spiky(tmp_path / "run", 12, 9_000, {17: 3, 4_095: 4, 4_096: 5, 8_999: 6})
    client = in_process(tmp_path)
    exact = client.get(f"/{PLUGIN}/heatmap?run=run").json
    narrow = client.get(f"/{PLUGIN}/heatmap?run=run&first=4090&last=4100").json
    for module in (stripes, shortened):
        monkeypatch.setattr(module, "MAX_EXACT", 500_000)
    client = in_process(tmp_path)
    pooled = client.get(f"/{PLUGIN}/heatmap?run=run").json
    assert (exact["exact"], pooled["exact"]) == (True, False)
    for step, layer in ((17, 3), (4_095, 4), (4_096, 5), (8_999, 6)):
        assert cells(pooled)[cell_of(pooled, layer, step)] == cells(exact)[cell_of(exact, layer, step)]
    assert pooled["last_step"] == 8_999
    assert (pooled["low"], pooled["high"]) == pytest.approx((exact["low"], exact["high"]), abs=0.2)
    zoomed = client.get(f"/{PLUGIN}/heatmap?run=run&first=4090&last=4100").json
    assert zoomed["step_first"] == list(range(4_090, 4_101))
    assert np.abs(cells(zoomed).astype(int) - cells(narrow).astype(int)).max() <= 8
    line = client.get(f"/{PLUGIN}/line?run=run&layer=block1.bias").json
    assert max(value for trace in line["data"] for value in trace["y"] if value is not None) > 1
    profile = json.dumps(client.get(f"/{PLUGIN}/profile?run=run&step=8999").json)
    assert "8,999" in profile


def test_foreign_and_damaged_data_is_left_out_and_named(tmp_path):
    """Rows of another width, texts that are no JSON, another version: the rest is shown, the gaps are named."""
    from gradwatch.tensorboard_plugin import metadata
    from gradwatch.writers import _events
    from gradwatch.writers._sinks import open_logdir

    planted.spiky(tmp_path / "run", 4, 40, {20: 3})
    sink = open_logdir(tmp_path / "run")
    session = "20990101T000000.000000-ffffff"
    for step, width in ((40, 3), (41, 4), (42, 4)):
        tag = metadata.statistic_tag(session, 0, "grad_norm", 0)
        content = metadata.content("grad_norm", [layer.name for layer in planted.layers(4)]) if step == 40 else None
        sink.add(_events.event(step, [_events.packed(tag, np.ones(width), content)]))
    tag = metadata.incidents_tag(session, 0)
    texts = ["no JSON", "{}", "[1]", '{"kind": 1}', "\u2028"]
    for index, text in enumerate(texts):
        sink.add(_events.event(index, [_events.strings(tag, [text], None if index else b"\xff")]))
    sink.add(_events.event(0, [_events.packed("gradwatch/v9/x/0/grad_norm/00000", np.ones(2), b"{")]))
    sink.add(_events.event(0, [_events.packed("gradwatch/nonsense", np.ones(2), b"")]))
    sink.close()
    client = in_process(tmp_path)
    listed = client.get(f"/{PLUGIN}/incidents?run=run").json
    assert listed["total"] == 1
    assert any("wire format 9" in text for text in listed["skipped"])
    assert any("does not fit" in text for text in listed["skipped"])
    assert client.get(f"/{PLUGIN}/heatmap?run=run").json["step_first"] == [*range(40), 41, 42]
    assert client.get(f"/{PLUGIN}/runs").json["runs"][0]["last_step"] == 42


def test_of_too_many_incidents_the_first_and_the_newest_are_listed(tmp_path):
    """The first ones are what the others follow from; the only error is among what is left out otherwise."""
    writer = TensorBoardWriter(tmp_path / "run")
    known = planted.layers(4)
    for step in range(700):
        writer.write(planted.record(step, known, [1.0] * 4))
        severity = Severity.ERROR if step == 150 else Severity.WARNING
        writer.write_incident(planted.incident(step, known[step % 4].name, severity=severity))
    writer.close()
    client = in_process(tmp_path)
    listed = client.get(f"/{PLUGIN}/incidents?run=run").json
    assert listed["total"] == 700
    assert [one["step"] for one in listed["incidents"]] == [*range(100), 150, *range(301, 700)]
    assert listed["incidents"][100]["severity"] == "error"
    picture = client.get(f"/{PLUGIN}/heatmap?run=run").json
    assert {ring["incident"] for ring in picture["rings"]} == set(range(500))
    (ring,) = (ring for ring in picture["rings"] if ring["incident"] == 100)
    assert (ring["row"], ring["col"]) == cell_of(picture, 150 % 4, 150)


def test_a_run_with_incidents_alone(tmp_path):
    """Killed in its first step: its incident is listed, the picture is empty and says why."""
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write_incident(planted.incident(0, "fc"))
    client = in_process(tmp_path)
    assert client.get(f"/{PLUGIN}/incidents?run=run").json["total"] == 1
    assert "no step" in client.get(f"/{PLUGIN}/heatmap?run=run").json["empty"]
    assert client.get(f"/{PLUGIN}/names?run=run").json == {"names": []}
    assert client.get(f"/{PLUGIN}/runs").json["runs"][0]["last_step"] == -1
    assert client.get(f"/{PLUGIN}/profile?run=run").status_code == 200
    writer.close()


@pytest.mark.parametrize("module", ["tensorboard_plugin/plugin.py", "tensorboard_plugin/metadata.py", "records.py"])
def test_a_broken_gradwatch_never_breaks_tensorboard(tmp_path, module):
    """With a gradwatch that cannot be imported, TensorBoard starts, shows everything else and logs why."""
    package = tmp_path / "broken" / "gradwatch"
    shutil.copytree(Path(gradwatch.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / module).write_text("raise RuntimeError('broken on purpose')\n")
    planted.spiky(tmp_path / "logs" / "run", 3, 5, {})
    with board(tmp_path / "logs", path=tmp_path / "broken") as running:
        until = time.monotonic() + 30
        while b"gradient norm" not in (scalars := running.ask("data/plugin/scalars/tags")[1]):
            assert time.monotonic() < until, scalars
            time.sleep(0.2)
        status, body, _ = running.ask(f"{PLUGIN}/runs")
        listed = json.loads(running.ask("data/plugins_listing")[1])
        assert listed["scalars"]["enabled"]
        if "gradwatch" in listed:  # it was loaded, and fails when it is asked: in words
            assert (status, "error" in json.loads(body)) == (200, True)
        else:
            assert status == 404
        assert any("broken on purpose" in line for line in running.log)


def test_import_is_cheap_and_without_torch():
    """TensorBoard pays at most 50 ms at its start for the tab, and torch is never imported."""
    code = """
import sys, time
from tensorboard import default, program
from importlib.metadata import entry_points
started = time.process_time()
(entry,) = [entry for entry in entry_points(group="tensorboard_plugins") if entry.name == "gradwatch"]
plugin = entry.load()().load(type("Context", (), {"data_provider": None}))
plugin.get_plugin_apps()
spent = time.process_time() - started
from gradwatch.tensorboard_plugin import routes
from gradwatch import figures
print(spent, "torch" in sys.modules)
"""
    spent = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
        assert out[1] == "False"
        spent.append(float(out[0]))
    assert statistics.median(spent) <= 0.050


def test_samples_per_plugin_is_the_users_own_where_given(tmp_path):
    """Every step is kept unless the user asked TensorBoard for fewer."""
    from argparse import Namespace

    from gradwatch.tensorboard_plugin.loader import GradwatchLoader

    for given, kept in (({}, {"gradwatch": 0}), ({"gradwatch": 7}, {"gradwatch": 7}), ({"text": 1}, None)):
        flags = Namespace(samples_per_plugin=dict(given))
        GradwatchLoader().fix_flags(flags)
        assert flags.samples_per_plugin == (kept or {"text": 1, "gradwatch": 0})
    GradwatchLoader().fix_flags(None)  # a TensorBoard to come may have other flags


def in_process(logdir):
    """A client of TensorBoard's own application over a directory, without a server."""
    from apps import client

    return client(logdir)


def _summary():
    from gradwatch.records import LayerSummary, ModelInfo, RunSummary

    layers = tuple(LayerSummary(layer.module, 1.0, 1.0, 1.0, 0) for layer in planted.layers(6)[::2])
    return RunSummary(ModelInfo("MLP", (), 16), 60, 0, 0, None, 1.0, layers, (), (), 0.01, 1.0)
