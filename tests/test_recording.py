"""One reader for recorded runs: event files, log directories, JSON lines; torn, damaged, foreign, resumed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recordings
import torch
from torch.utils.tensorboard import SummaryWriter

import gradwatch
from gradwatch._cli import main
from gradwatch.errors import RecordError
from gradwatch.recording import STATISTICS, MemoryRecording, Table, module_rows, read, relative_rows
from gradwatch.records import Incident, Layer, Severity, StepRecord
from gradwatch.tensorboard_plugin import metadata


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a spiky, a vanishing and a recurrent run, each as a log and as JSON lines."""
    place = tmp_path_factory.mktemp("runs")
    recordings.spiky(place / "spiky")
    recordings.vanishing(place / "vanishing")
    recordings.recurrent(place / "recurrent")
    return place


def _record(step, names=("a.weight", "a.bias"), norms=(1.0, 2.0), **changes):
    layers = tuple(Layer(name, name.rpartition(".")[0], "Linear", (2, 2)) for name in names)
    counts = np.zeros(len(names), dtype=np.int64)
    return replace(StepRecord(step, 0, layers, np.array(norms), counts, 3.0, 3.0, lr=0.1), **changes)


def _incident(step, kind="exploding", layer="a.weight"):
    return Incident(kind, step, (layer,), Severity.ERROR, 1.0, 0.5, "It explodes.")


@pytest.mark.parametrize("name", ["spiky", "vanishing", "recurrent"])
def test_a_log_and_json_lines_tell_the_same(runs, name):
    """Tables, incidents, layers, model, summary and the signal through time are the same from both kinds of file."""
    log, lines = read(runs / name), read(runs / f"{name}.jsonl")
    assert log.skipped == lines.skipped == ()
    assert log.optimizers == lines.optimizers == (0,)
    assert log.statistics == lines.statistics
    for statistic in (*STATISTICS, "scalars"):
        ours, theirs = log.table(statistic), lines.table(statistic)
        assert ours.names == theirs.names
        assert ours.steps.tolist() == theirs.steps.tolist()
        assert ours.values.tobytes() == theirs.values.tobytes()
    assert [i.to_json() for i in log.incidents] == [i.to_json() for i in lines.incidents]
    assert log.layers() == lines.layers()
    assert log.model == lines.model
    assert log.summary == lines.summary
    assert log.through_time() == lines.through_time()
    assert log.is_running is lines.is_running is False


def test_an_event_file_is_read_like_its_directory(runs):
    """A single event file is a run, too."""
    file = recordings.event_file(runs / "spiky")
    assert read(file).table("grad_norm").values.tobytes() == read(runs / "spiky").table("grad_norm").values.tobytes()


def test_a_live_watch_tells_the_same(tmp_path):
    """What is read back is what the watch had in its history and its summary."""
    model = recordings.mlp()
    with gradwatch.watch(model, logdir=tmp_path / "run", writers=[]) as watch:
        recordings.train(watch, model, torch.optim.Adam(model.parameters()), range(20))
    recording = read(tmp_path / "run")
    table = recording.table("grad_norm")
    written = np.stack([record.grad_norm for record in watch.history])
    assert np.allclose(table.values, written, rtol=1e-6)
    assert table.names == watch.history[0].names
    scalars = recording.table("scalars")
    assert scalars.names == metadata.SCALARS
    assert scalars.values[:, 0] == pytest.approx([record.total_norm for record in watch.history])
    assert recording.summary.num_steps == 20
    assert watch.summary().startswith("gradwatch: 20 steps")


def test_steps_are_cut_inclusively(runs):
    """``first`` and ``last`` are both inclusive; nothing outside the run is an error."""
    for recording in (read(runs / "spiky"), read(runs / "spiky.jsonl")):
        assert recording.table("grad_norm", first=10, last=12).steps.tolist() == [10, 11, 12]
        assert recording.table("grad_norm", last=0).steps.tolist() == [0]
        empty = recording.table("grad_norm", first=10**9)
        assert len(empty.steps) == 0
        assert empty.names == recording.table("grad_norm").names
        assert recording.table("grad_norm", 7).is_empty


def test_through_time_is_the_last_sample_before(runs, tmp_path):
    """The profile is that of the nearest sampled step at or before the one asked for; before the first is none."""
    records = [_record(step, through_time=(recordings_profile(step),) if step % 10 == 3 else ()) for step in range(40)]
    writer = gradwatch.TensorBoardWriter(tmp_path)
    for record in records:
        writer.write(record)
    writer.close()
    for recording in (MemoryRecording(records), read(tmp_path)):
        assert [step for step, _ in recording.through_time(22)] == [13]
        assert [(step, profile.norm[0]) for step, profile in recording.through_time(23)] == [(23, 23.0)]
        assert [step for step, _ in recording.through_time()] == [33]
        assert recording.through_time(2) == ()
    found = read(runs / "recurrent").through_time()
    assert found[0][1].module == "rnn"
    assert len(found[0][1].norm) == 30


def recordings_profile(step):
    """A profile whose numbers tell the step."""
    from gradwatch.records import TimeProfile

    return TimeProfile("rnn", "RNN", (float(step), 1.0))


def test_layers_that_come_later_stand_where_the_model_has_them():
    """A layer that is unfrozen later has a column in the model's order, NaN before."""
    late = [_record(0, ("a.weight", "c.weight")), _record(1, ("a.weight", "b.weight", "c.weight"), (1.0, 2.0, 3.0))]
    table = MemoryRecording(late).table("grad_norm")
    assert table.names == ("a.weight", "b.weight", "c.weight")
    assert table.values[0].tolist()[::2] == [1.0, 2.0]
    assert math.isnan(table.values[0, 1])


def test_extreme_numbers_keep_their_meaning():
    """Only zero becomes 0 and only inf becomes inf, as in the log."""
    table = MemoryRecording([_record(0, norms=(1e-300, 1e300))]).table("grad_norm")
    assert (table.values > 0).all()
    assert np.isfinite(table.values).all()


def test_module_rows_put_norms_together_as_norms():
    """Norms: root of the sum of squares; counts: sum; maxima and ratios: the largest; NaN only where all are."""
    values = np.array([[3.0, 4.0, math.nan], [math.nan, 2.0, math.nan], [math.inf, 1.0, 0.0]], dtype=np.float32)
    table = Table(("a.weight", "a.bias", "b.weight"), np.arange(3), values, "grad_norm")
    grouped = module_rows(table)
    assert grouped.names == ("a", "b")
    assert grouped.values[:2, 0].tolist() == [5.0, 2.0]
    assert math.isinf(grouped.values[2, 0])
    assert np.isnan(grouped.values[:, 1]).tolist() == [True, True, False]
    assert module_rows(replace(table, statistic="num_nonfinite")).values[0, 0] == 7
    assert module_rows(replace(table, statistic="update_ratio")).values[0, 0] == 4
    huge = replace(table, values=np.full((3, 3), 3e38, dtype=np.float32))
    assert np.isfinite(module_rows(huge).values).all()


def test_relative_rows_are_held_against_the_own_median():
    """Each value over its column's median of the finite, positive values."""
    values = np.array([[1.0, 0.0], [2.0, 0.0], [math.nan, 0.0], [20.0, 0.0]], dtype=np.float32)
    relative = relative_rows(Table(("a", "b"), np.arange(4), values))
    assert relative.values[[0, 1, 3], 0].tolist() == [0.5, 1.0, 10.0]
    assert np.isnan(relative.values[:, 1]).all()


# --------------------------------------------------------------------------------------------- killed, resumed, damaged


def test_a_killed_run_keeps_its_incident(tmp_path):
    """A run killed by SIGKILL right after a NaN shows the incident and all steps up to it, and that it has no end."""
    recordings.killed(tmp_path / "run", at=20)
    for place in (tmp_path / "run", tmp_path / "run.jsonl"):
        recording = read(place)
        assert [(i.kind, i.step) for i in recording.incidents] == [("nonfinite", 17)]
        assert recording.table("grad_norm").steps.tolist()[:18] == list(range(18))
        assert recording.summary is None
        assert recording.is_running is None


def test_a_resumed_run_is_one_run(tmp_path):
    """Killed at step 20 with a NaN, resumed from step 10: each step once, of the later session, no NaN left."""
    checkpoint = tmp_path / "checkpoint.pt"
    recordings.killed(tmp_path / "run", at=20, resume=checkpoint)
    recordings.killed(tmp_path / "run", at=60, resume=checkpoint)  # the last steps before a kill are not on disk
    for place in (tmp_path / "run", tmp_path / "run.jsonl"):
        recording = read(place)
        steps = recording.table("grad_norm").steps.tolist()
        assert steps == list(range(len(steps)))
        assert np.isfinite(recording.table("grad_norm").values).all()
        assert recording.incidents == ()
        assert recording.skipped == (
            "1 incident of an earlier session, at steps trained again since: nonfinite at step 17",
        )


def test_incidents_before_the_checkpoint_stay(tmp_path):
    """What an earlier session told of steps that were not repeated is still told, in order of step."""
    for first in (0, 30):
        writer = gradwatch.TensorBoardWriter(tmp_path)
        for step in range(first, first + 40):
            writer.write(_record(step, norms=(float(first + 1), 1.0)))
            if step in (5, 35):
                writer.write_incident(_incident(step))
        writer.close()
    recording = read(tmp_path)
    assert [incident.step for incident in recording.incidents] == [5, 35]
    assert recording.table("grad_norm").values[:, 0].tolist() == [1.0] * 30 + [31.0] * 40
    assert len(list(tmp_path.glob("*tfevents*"))) == 2


def test_every_cut_of_an_event_file_is_readable(runs, tmp_path):
    """Cut anywhere, a file gives the steps before the cut, and says that its end is torn off."""
    whole = recordings.event_file(runs / "vanishing").read_bytes()
    steps = []
    for cut in [0, 1, 11, 12, 40, *np.random.default_rng(0).integers(41, len(whole), 40).tolist()]:
        file = tmp_path / "events.out.tfevents.cut"
        file.write_bytes(whole[:cut])
        recording = read(file)
        table = recording.table("grad_norm")
        assert table.steps.tolist() == list(range(len(table.steps)))
        assert all(word for word in recording.skipped)
        assert len(recording.skipped) <= 1
        steps.append((cut, len(table.steps)))
    counts = [count for _, count in sorted(steps)]
    assert counts == sorted(counts)
    assert counts[-1] > 30
    file.write_bytes(whole[:-7])
    assert "torn off" in read(file).skipped[0]
    file.write_bytes(b"")
    assert "empty" in read(file).skipped[0]


@pytest.mark.parametrize("hit", [b"grad_norm/00000", None])
def test_damage_in_the_middle_costs_what_it_hit(runs, tmp_path, hit):
    """Bytes changed in a record, or in the length before it, cost that record; everything after it is read."""
    whole = bytearray(recordings.event_file(runs / "vanishing").read_bytes())
    at = -1
    for _ in range(20):
        at = whole.index(b"grad_norm/00000", at + 1)
    at = at if hit else whole.rindex(b"brain.Event:2", 0, at) + 20  # the first record's end and the next one's length
    file = tmp_path / "events.out.tfevents.damaged"
    whole[at : at + 15] = b"\xff" * 15
    file.write_bytes(whole)
    recording = read(file)
    steps = recording.table("grad_norm").steps
    assert len(steps) == 39
    assert steps[-1] == 39
    assert (19 in steps) is (hit is None)
    assert "damaged bytes" in recording.skipped[0]
    assert recording.summary is not None


def test_random_damage_never_raises(runs, tmp_path):
    """Bytes flipped at random places in both kinds of file: something is read or said, nothing is raised."""
    generator = np.random.default_rng(1)
    for source in (recordings.event_file(runs / "spiky"), runs / "spiky.jsonl"):
        original = source.read_bytes()
        for _ in range(25):
            damaged = bytearray(original)
            for place in generator.integers(0, len(damaged), generator.choice((1, 30))):
                damaged[place] = int(generator.integers(256))
            file = tmp_path / source.name
            file.write_bytes(damaged)
            recording = read(file)
            for statistic in (*STATISTICS, "scalars"):
                recording.table(statistic)
            assert recording.incidents is not None
            assert recording.skipped is not None


def test_garbage_is_called_garbage(tmp_path):
    """Files of anything else are empty recordings that say so, by name of the file."""
    for name, content in (
        ("events.out.tfevents.x", b"PNG nonsense" * 100),
        ("events.out.tfevents.y", b"\0" * 4096),
        ("notes.txt", b"hello\n"),
        ("binary.jsonl", bytes(range(256)) * 10),
    ):
        (tmp_path / name).write_bytes(content)
        recording = read(tmp_path / name)
        assert recording.optimizers == ()
        assert recording.table("grad_norm").is_empty
        assert recording.skipped


def test_somebody_elses_events_are_no_matter(tmp_path):
    """A user's own scalars in the same file are read past without a word."""
    own = SummaryWriter(str(tmp_path))
    writer = gradwatch.TensorBoardWriter(summary_writer=own)
    for step in range(30):
        own.add_scalar("loss", 1.0 / (step + 1), step)
        own.add_text("note", "gradwatch/v1/ is named here", step)
        writer.write(_record(step))
    writer.close()
    own.close()
    recording = read(tmp_path)
    assert recording.table("grad_norm").steps.tolist() == list(range(30))
    assert recording.skipped == ()


def test_somebody_elses_tags_with_names_like_ours_hide_nothing(tmp_path):
    """A scalar and a text of the user's own under such a tag are not taken for a later session."""
    own = SummaryWriter(str(tmp_path))
    own.add_scalar("gradwatch/v1/zzz/0/grad_norm/00000", 1.0, 0)
    own.add_text("gradwatch/v1/zzz/incidents/00000", "{}", 0)
    own.close()
    writer = gradwatch.TensorBoardWriter(tmp_path)
    for step in range(10):
        writer.write(_record(step))
    writer.close()
    recording = read(tmp_path)
    assert recording.table("grad_norm").steps.tolist() == list(range(10))
    assert recording.skipped == ()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("incident", {"message": {"a": 1}}),
        ("incident", {"kind": 0}),
        ("incident", {"layers": [1]}),
        ("incident", {"step": "4"}),
        ("incident", {"evidence": -1}),
        ("incident", {"causes": [{"name": 0, "confidence": 1.0, "evidence": "", "remedies": []}]}),
        ("incident", {"causes": [{"name": "x", "confidence": "1", "evidence": "", "remedies": []}]}),
        ("incident", {"unavailable": [{"what": [], "because": ""}]}),
        ("model", {"name": [[]]}),
        ("model", {"modules": [{"name": None, "kind": "Linear"}]}),
        ("summary", {"model": {"name": {"a": 1}, "modules": []}}),
    ],
)
def test_a_line_with_values_of_another_sort_is_left_out(runs, tmp_path, capsys, kind, change):
    """It is named, and no command fails by it."""
    lines = [json.loads(line) for line in (runs / "vanishing.jsonl").read_text().splitlines()]
    index = next(index for index, line in enumerate(lines) if line["type"] == kind)
    lines[index] |= change
    path = tmp_path / "run.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert f"a {kind} that does not fit (TypeError" in " ".join(read(path).skipped)
    for command in (["report"], ["report", "--json"], ["replay"]):
        assert main([*command, str(path)]) in (0, 1)
        assert "that does not fit" in " ".join(capsys.readouterr().out.split())


def test_a_later_wire_format_is_named(tmp_path, monkeypatch):
    """Tags of a later version are not guessed at."""
    writer = gradwatch.TensorBoardWriter(tmp_path)
    writer.write(_record(0))
    writer.flush()
    monkeypatch.setattr(metadata, "VERSION", 2)
    writer.write_incident(_incident(0))
    writer.close()
    monkeypatch.undo()
    recording = read(tmp_path)
    assert recording.incidents == ()
    assert recording.skipped == ("1 tags of wire format 2; this gradwatch reads 1",)


def test_a_directory_that_is_no_run_says_where_runs_are(runs, tmp_path):
    """Missing, empty, and several: each is refused in words that help."""
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"holds no event file and no \.jsonl file$"):
        read(tmp_path)
    with pytest.raises(RecordError, match="cannot be read"):
        read("nul\0character")
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes((runs / "spiky.jsonl").read_bytes())
    with pytest.raises(RecordError, match=r"several recorded runs, name one of them: 'a\.jsonl', 'b\.jsonl'"):
        read(tmp_path)
    nested = tmp_path / "logs"
    (nested / "version_0").mkdir(parents=True)
    (nested / "version_0" / "events.out.tfevents.1").write_bytes(b"")
    with pytest.raises(RecordError, match="there are some in 'version_0'") as refused:
        read(nested)
    assert str(refused.value).count(str(nested)) == 1
    with pytest.raises(RecordError, match=r"there are some in 'recurrent', 'spiky', 'vanishing'|several recorded runs"):
        read(runs)


def test_a_log_of_an_early_gradwatch_is_read(tmp_path):
    """Without layers, model, summary and the signal through time, as the first version wrote it."""
    writer = gradwatch.TensorBoardWriter(tmp_path)
    writer._encoder._wire._told[0] = set(_record(0).layers)
    for step in range(5):
        writer.write(_record(step))
    writer.close()
    recording = read(tmp_path)
    assert recording.layers() == (Layer("a.weight", "a"), Layer("a.bias", "a"))
    assert recording.model is None
    assert recording.summary is None
    assert recording.through_time() == ()


def test_the_names_in_the_documentation_need_no_import_of_their_own(runs):
    """``gradwatch.recording.read`` and ``gradwatch.figures`` after ``import gradwatch`` alone, and nothing before."""
    code = f"""
import sys, gradwatch
assert not {{"numpy", "torch", "plotly", "tensorboard"}} & set(sys.modules)
assert gradwatch.figures.heatmap(gradwatch.recording.read({str(runs / "spiky.jsonl")!r}))["data"]
assert not {{"torch", "plotly"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_recording_never_needs_torch(runs):
    """Reading a log imports neither torch nor plotly; reading JSON lines not even TensorBoard."""
    code = (
        "import sys; from gradwatch.recording import read\n"
        f"read({str(runs / 'spiky.jsonl')!r}).table('grad_norm')\n"
        "print([name for name in ('torch', 'plotly', 'tensorboard') if name in sys.modules])\n"
        f"read({str(runs / 'spiky')!r}).table('grad_norm')\n"
        "print([name for name in ('torch', 'plotly', 'tensorflow') if name in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == "[]\n[]\n"


def test_the_summary_line_is_json(runs):
    """The end of a run is one line of JSON without the incidents, which stand above it."""
    line = json.loads((runs / "spiky.jsonl").read_text().splitlines()[-1])
    assert line["type"] == "summary"
    assert line["num_incidents"] == len(read(runs / "spiky.jsonl").incidents)
    assert "incidents" not in line
    assert Path(runs).exists()
