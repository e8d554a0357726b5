"""A TensorBoard log, read back by TensorBoard itself: its loader, its server, its pages."""

from __future__ import annotations

import html
import json
import math
import os
import pathlib
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from gradwatch.errors import ArgumentTypeError, ArgumentValueError, LogdirError
from gradwatch.records import Incident, Layer, LayerSummary, ModelInfo, RunSummary, Severity, StepRecord
from gradwatch.tensorboard_plugin import metadata
from gradwatch.writers import SummaryTaker, Writer, _events
from gradwatch.writers._wire import new_session
from gradwatch.writers.tensorboard import SECONDS_BETWEEN_PICTURES, TensorBoardWriter

CHROMIUM = pathlib.Path("/usr/bin/chromium")
LAYERS = tuple(Layer(f"fc{index}.weight", f"fc{index}", "Linear", (2, 2)) for index in range(4))


def _record(step, layers=LAYERS, **changes):
    norms = 10.0 ** np.random.default_rng(step).normal(-3, 2, len(layers))
    counts = np.zeros(len(layers), dtype=np.int64)
    total = float(np.sqrt((norms**2).sum()))
    return replace(StepRecord(step, 0, layers, norms, counts, total, total, loss=0.5, lr=0.1), **changes)


def _incident(step=2, **changes):
    return replace(Incident("vanishing", step, ("fc0",), Severity.WARNING, 1.0, 2.0, "It <b>fades</b>."), **changes)


def _summary(incidents=()):
    layers = tuple(LayerSummary(layer.name, 1.0, 1.0, 1.0, 0) for layer in LAYERS)
    return RunSummary(ModelInfo("MLP", (), 16), 5, 0, 0, None, 1.0, layers, tuple(incidents), (), 0.01, 1.0)


def _read(logdir):
    events = EventAccumulator(str(logdir), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    return events.Reload()


def _packed(events, statistic, optimizer=0):
    """Step to row over all segments, and the layer names of each segment."""
    tags = sorted(tag for tag in events.Tags()["tensors"] if f"/{optimizer}/{statistic}/" in tag)
    rows = [(event.step, make_ndarray(event.tensor_proto)) for tag in tags for event in events.Tensors(tag)]
    contents = [metadata.parse_content(events.SummaryMetadata(tag).plugin_data.content) for tag in tags]
    return rows, [content["layers"] for content in contents]


def _incidents(events):
    tags = sorted(tag for tag in events.Tags()["tensors"] if "/incidents/" in tag)
    texts = [text for tag in tags for event in events.Tensors(tag) for text in event.tensor_proto.string_val]
    return [Incident.from_json(json.loads(text)) for text in texts]


def _event_files(logdir):
    return sorted(pathlib.Path(logdir).glob("events.out.*"))


def test_every_step_is_read_back_bit_equal(tmp_path):
    """Every step of every packed statistic comes back, bit-equal in float32, over the segments' borders."""
    writer = TensorBoardWriter(tmp_path)
    assert isinstance(writer, Writer)
    assert isinstance(writer, SummaryTaker)
    num_steps = metadata.SEGMENT_WRITES + 3
    records = [_record(step) for step in range(num_steps)]
    records[7] = replace(records[7], weight_norm=np.ones(4), update_ratio=np.full(4, 1e-3))
    records[9] = replace(
        records[9],
        grad_norm=np.array([math.nan, math.inf, 0.0, 1.0]),
        num_nonfinite=np.array([4, 1, 0, 0]),
        total_norm=math.nan,
        clipped_norm=math.nan,
    )
    for record in records:
        writer.write(record)
    writer.close()
    events = _read(tmp_path)
    rows, names = _packed(events, "grad_norm")
    assert [step for step, _ in rows] == list(range(num_steps))
    written = np.stack([record.grad_norm for record in records]).astype(np.float32)
    assert np.stack([row for _, row in rows]).tobytes() == written.tobytes()
    assert names == [[layer.name for layer in LAYERS]] * 2
    assert [step for step, _ in _packed(events, "weight_norm")[0]] == [7]
    assert [(step, row.tolist()) for step, row in _packed(events, "num_nonfinite")[0]] == [(9, [4, 1, 0, 0])]
    scalars, columns = _packed(events, "scalars")
    assert columns[0] == list(metadata.SCALARS)
    assert scalars[3][1].tolist() == pytest.approx([records[3].total_norm] * 2 + [0.5, 0.1, 0.0])
    assert [event.step for event in events.Scalars("gradwatch/log10 gradient norm")] == list(range(num_steps))
    found = {event.step: event.value for event in events.Scalars("gradwatch/non-finite gradient elements")}
    assert found[9] == 5
    assert math.isnan(events.Scalars("gradwatch/log10 gradient norm")[9].value)


def test_few_plain_tags(tmp_path):
    """The Scalars page gets a handful of tags, however many layers there are; a second optimizer has its own."""
    writer = TensorBoardWriter(tmp_path)
    layers = tuple(Layer(f"fc{index}") for index in range(300))
    writer.write(_record(0, layers, clipped_norm=1e-9))
    writer.write(_record(1, layers, optimizer=1))
    writer.close()
    tags = _read(tmp_path).Tags()["scalars"]
    assert len([tag for tag in tags if "optimizer1" not in tag]) == 7
    assert all(tag.startswith("gradwatch/") for tag in tags)
    assert "gradwatch/log10 gradient norm after clipping" in tags
    assert "gradwatch/optimizer1/log10 gradient norm after clipping" not in tags


def test_a_single_spike_stays_in_the_running_maximum(tmp_path):
    """The page cuts a lone spike off its axis, so that one curve keeps it."""
    writer = TensorBoardWriter(tmp_path)
    for step, norm in enumerate((1.0, 1e4, 1.0, math.inf, 10.0)):
        writer.write(_record(step, total_norm=norm))
    writer.close()
    curve = _read(tmp_path).Scalars("gradwatch/log10 highest gradient norm so far")
    assert [(event.step, event.value) for event in curve] == [(0, 0), (1, 4), (2, 4), (4, 4)]


def test_new_layers_begin_a_new_segment(tmp_path):
    """When an optimizer's layers change, each row can still be read with the names that it was written with."""
    writer = TensorBoardWriter(tmp_path)
    for step, layers in enumerate((LAYERS, (*LAYERS,), LAYERS[:2])):
        writer.write(_record(step, layers))
    writer.close()
    rows, names = _packed(_read(tmp_path), "grad_norm")
    assert [len(row) for _, row in rows] == [4, 4, 2]
    assert [len(each) for each in names] == [4, 2]


def test_sessions_are_told_apart():
    """Two writers made in the same second have different sessions, and sessions sort by time."""
    sessions = [new_session() for _ in range(50)]
    assert len(set(sessions)) == 50
    assert sorted(sessions, key=lambda session: session.split("-")[0]) == sessions


def test_resume_in_the_same_directory(tmp_path):
    """A run resumed at an earlier step in the same directory loses nothing."""
    for first in (0, 3):
        writer = TensorBoardWriter(tmp_path)
        for step in range(first, first + 5):
            writer.write(_record(step))
        writer.close()
    rows, names = _packed(_read(tmp_path), "grad_norm")
    assert sorted(step for step, _ in rows) == sorted([*range(5), *range(3, 8)])
    assert len(names) == 2


def test_to_float32_keeps_the_meaning():
    """Only zero becomes zero, and only infinity becomes infinite, when float64 is narrowed."""
    narrow = _events.to_float32([0.0, 1e-300, -1e-300, 1e300, math.inf, math.nan, 0.1])
    assert narrow.dtype == np.dtype("<f4")
    assert narrow[0] == 0
    assert narrow[1] > 0 > narrow[2]
    assert np.isfinite(narrow[3])
    assert np.isinf(narrow[4])
    assert np.isnan(narrow[5])
    assert narrow[6] == np.float32(0.1)


def test_incident_survives_sigkill(tmp_path):
    """An incident, and every step before it, is on disk as soon as ``write_incident`` returns."""
    code = (
        "import os, signal, sys, numpy as np\n"
        "from gradwatch.records import Incident, Layer, Severity, StepRecord\n"
        "from gradwatch.writers.tensorboard import TensorBoardWriter\n"
        "writer = TensorBoardWriter(sys.argv[1])\n"
        "for step in range(500):\n"
        "    writer.write(StepRecord(step, 0, (Layer('a'),), np.ones(1), np.zeros(1, dtype=int), 1.0, 1.0))\n"
        "writer.write_incident(Incident('nonfinite', 499, ('a',), Severity.ERROR, 1.0, 0.0, 'x'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert result.returncode == -signal.SIGKILL
    events = _read(tmp_path)
    assert [incident.step for incident in _incidents(events)] == [499]
    assert len(_packed(events, "grad_norm")[0]) == 500
    assert "nonfinite · step 499" in _report(events)


def test_incident_comes_back_whole(tmp_path):
    """An incident is stored with everything that it knows."""
    writer = TensorBoardWriter(tmp_path)
    incident = _incident(value=math.nan, evidence={"deep": {"x": math.inf}})
    writer.write_incident(incident)
    writer.close()
    (found,) = _incidents(_read(tmp_path))
    assert (found.kind, found.layers, math.isnan(found.value)) == ("vanishing", ("fc0",), True)
    assert found.evidence == {"deep": {"x": "inf"}}


def _report(events):
    return events.Tensors("gradwatch/report")[-1].tensor_proto.string_val[0].decode()


def test_report(tmp_path):
    """The report ends with the verdict, the incidents and the table of layers, and runs no HTML."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(_record(0))
    writer.write_incident(_incident())
    writer.write_summary(_summary([_incident()]))
    writer.close()
    page = _report(_read(tmp_path))
    for part in ("5 steps of MLP", "1 incident, vanishing at step 2", "## vanishing", "| fc3.weight | 1 | 1 | 1 | 0 |"):
        assert part in page
    assert "<b>" not in page


def test_pictures_come_at_most_once_a_minute(tmp_path):
    """The heat map is drawn once a minute while training, and at the end."""
    now = [0.0]
    writer = TensorBoardWriter(tmp_path, clock=lambda: now[0])
    for step in range(8):
        now[0] += SECONDS_BETWEEN_PICTURES / 4
        writer.write(_record(step))
    writer.close()
    images = _read(tmp_path).Images("gradwatch/heatmap")
    assert [image.step for image in images] == [3, 7, 7]
    assert images[0].encoded_image_string.startswith(b"\x89PNG")


def test_users_own_writer(tmp_path):
    """A writer of the user's gets everything into its one event file, and stays open."""
    with SummaryWriter(str(tmp_path)) as own:
        writer = TensorBoardWriter(summary_writer=own)
        writer.write(_record(0))
        own.add_scalar("loss", 1.0, 0)
        writer.close()
        own.add_scalar("loss", 2.0, 1)
    assert len(_event_files(tmp_path)) == 1
    events = _read(tmp_path)
    assert [event.value for event in events.Scalars("loss")] == [1.0, 2.0]
    assert len(_packed(events, "grad_norm")[0]) == 1


def test_users_writer_closed_too_early(tmp_path):
    """A writer that the user closed before us is not opened again: that would be a second event file."""
    own = SummaryWriter(str(tmp_path))
    writer = TensorBoardWriter(summary_writer=own)
    writer.write(_record(0))
    own.close()
    for call in (lambda: writer.write(_record(1)), writer.close):
        with pytest.raises(LogdirError, match="closed before the watch"):
            call()
    assert len(_event_files(tmp_path)) == 1


def test_axis(tmp_path):
    """Plain scalars can follow another count of steps; packed rows keep the optimizer's."""
    writer = TensorBoardWriter(tmp_path, axis=lambda: 1000)
    writer.write(_record(3))
    writer.close()
    events = _read(tmp_path)
    assert events.Scalars("gradwatch/log10 gradient norm")[0].step == 1000
    assert _packed(events, "grad_norm")[0][0][0] == 3


def test_wrong_arguments(tmp_path):
    """A wrong argument is refused at once; the message names it, what was given and what to do."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", pathlib.Path("/proc/gradwatch")):
        with pytest.raises(LogdirError, match=rf"logdir='{path}' cannot be written .*: give a directory"):
            TensorBoardWriter(path)
    with pytest.raises(ArgumentValueError, match="exactly one of logdir and summary_writer"):
        TensorBoardWriter()
    with pytest.raises(ArgumentTypeError, match=r"logdir=.* is of type int"):
        TensorBoardWriter(3)
    with pytest.raises(ArgumentTypeError, match=r"summary_writer=.* is of type str"):
        TensorBoardWriter(summary_writer="runs")


def test_training_is_not_disturbed(tmp_path):
    """No random generator of the training notices that something is written."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    writer = TensorBoardWriter(tmp_path)
    writer.write(_record(0))
    writer.write_incident(_incident())
    writer.write_summary(_summary())
    writer.close()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a real TensorBoard over a run with an incident."""
    logdir = tmp_path_factory.mktemp("runs")
    writer = TensorBoardWriter(logdir / "run")
    for step in range(5):
        writer.write(_record(step))
    writer.write_incident(_incident())
    writer.write_summary(_summary([_incident()]))
    writer.close()
    command = ["tensorboard.main", "--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.PIPE, text=True)
    try:
        lines = (re.search(r"http://\S+?/(?=\s)", line + " ") for line in process.stderr)
        url = next(match[0] for match in lines if match)
        _eventually(lambda: "run" in _get(url, "data/plugin/text/tags"))
        yield url
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _get(url, route, **query):
    with urllib.request.urlopen(f"{url}{route}?{urllib.parse.urlencode(query)}", timeout=10) as response:  # noqa: S310
        return json.load(response)


def _eventually(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "TensorBoard did not load the run in time"
        time.sleep(0.2)


def test_server_shows_scalars_text_and_images(server):
    """A plain TensorBoard, without our tab, serves the scalars, the report and the picture."""
    tag = "gradwatch/log10 gradient norm"
    rows = _get(server, "data/plugin/scalars/scalars", run="run", tag=tag)
    assert [row[1] for row in rows] == [0, 1, 2, 3, 4]
    pages = _get(server, "data/plugin/text/text", run="run", tag="gradwatch/report")
    assert "<h2>vanishing" in pages[-1]["text"]
    assert "<table>" in pages[-1]["text"]
    assert "<b>" not in pages[-1]["text"]
    assert "It <b>fades</b>." in html.unescape(pages[-1]["text"])
    (picture,) = _get(server, "data/plugin/images/images", run="run", tag="gradwatch/heatmap", sample=0)
    url = f"{server}data/plugin/images/individualImage?{picture['query']}"
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        assert response.read().startswith(b"\x89PNG")


@pytest.fixture
def browser():
    """A headless Chromium; it must be there in CI."""
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is not installed, and CI must not skip this")
        pytest.skip(f"{CHROMIUM} is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        running = driver.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield running
        running.close()


def test_browser_shows_the_card_group(server, browser, tmp_path):
    """The Scalars page of a real browser shows the gradwatch group, and no error comes from us."""
    errors = []
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{server}#scalars")
    page.get_by_text("log10 gradient norm", exact=False).first.wait_for(timeout=20_000)
    page.get_by_text("incidents so far", exact=False).first.wait_for(timeout=20_000)
    page.screenshot(path=str(tmp_path / "scalars.png"))
    assert (tmp_path / "scalars.png").stat().st_size > 10_000
    assert [error for error in errors if "gradwatch" in error.lower()] == []


def test_a_closed_writer_opens_a_new_file(tmp_path):
    """A second run (a second ``fit``), or a copy in another process, is written, too."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(_record(0))
    writer.close()
    copied = pickle.loads(pickle.dumps(writer))
    copied.write(_record(1))
    copied.close()
    assert len(list(tmp_path.glob("events*"))) == 2
