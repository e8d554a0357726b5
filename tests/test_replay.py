"""A recorded run judged again says the same, whatever the file has been through; other thresholds say other things."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import TRAININGS

from gradwatch import thresholds
from gradwatch._cli import main
from gradwatch._replay import replay
from gradwatch.errors import RecordError
from gradwatch.records import (
    ACTIVATION_COLUMNS,
    Activations,
    Birthplace,
    Layer,
    ModelInfo,
    ModuleInfo,
    Operations,
    Ownerless,
    StepRecord,
    TimeProfile,
    Unavailable,
)
from gradwatch.writers.jsonl import JSONLWriter, read_jsonl

SICK = {
    "sigmoids": {"vanishing"},
    "blown up": {"exploding", "nonfinite"},
    "nan": {"nonfinite"},
    "two optimizers": {"lr_too_high"},
    "resumed": {"vanishing"},
    "outlier": {"data_outlier"},
    "stalled": {"stalled"},
    "mislabelled": {"stalled"},
    "shut gate": {"saturation"},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Every training once: its file, and what was told live."""
    torch.set_num_threads(1)
    folder, runs = tmp_path_factory.mktemp("runs"), {}
    for name, train in TRAININGS.items():
        torch.manual_seed(0)
        path = folder / f"{name}.jsonl"
        runs[name] = path, [incident.to_json() for incident in train(path)]
    return runs


def plain(incidents):
    """As JSON, for a comparison that knows NaN."""
    return json.dumps([incident.to_json() for incident in incidents])


@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_is_said_again(name, recorded):
    """What was told live and what a replay says are identical, to the last digit of the evidence."""
    path, live = recorded[name]
    result = replay(path)
    assert plain(result.incidents) == json.dumps(live)
    assert {incident.kind for incident in result.incidents} >= SICK.get(name, set())
    assert (result.skipped, result.has_model, len(result.runs)) == ((), True, 1)


def test_the_trainings_are_healthy_and_sick(recorded):
    """The comparison above compares something."""
    assert recorded["healthy"][1] == []
    assert all(recorded[name][1] for name in SICK)


def test_a_resumed_run_is_one_run(recorded):
    """The steps after the checkpoint count once: those of the second session, which the resumed watch has seen."""
    path, _ = recorded["resumed"]
    run = read_jsonl(path)
    assert len(run.records) == 25 + 27
    assert run.sessions == (0, 25)
    result = replay(path)
    assert [summary.num_steps for summary in result.runs] == [45]
    assert len(result.recorded) == 1  # told in the first session; the second one knew it from its state


def test_two_runs_in_one_file(recorded, tmp_path):
    """A file that was written to by two trainings holds two runs, each judged afresh."""
    path = tmp_path / "both.jsonl"
    path.write_bytes(recorded["sigmoids"][0].read_bytes() + recorded["healthy"][0].read_bytes())
    result = replay(path)
    assert [len(run.incidents) for run in result.runs] == [len(recorded["sigmoids"][1]), 0]
    assert [run.num_steps for run in result.runs] == [30, 40]


def test_a_file_without_the_model_still_replays(recorded, tmp_path):
    """A file of an early gradwatch has no model line: the alarms are the same, and what is missing is said."""
    lines = recorded["sigmoids"][0].read_text().splitlines()
    path = tmp_path / "old.jsonl"
    path.write_text("\n".join(line for line in lines if '"type": "model"' not in line))
    result = replay(path)
    assert not result.has_model
    assert [(i.kind, i.step) for i in result.incidents] == [(i["kind"], i["step"]) for i in recorded["sigmoids"][1]]
    assert "saturating_activations" not in {cause.name for i in result.incidents for cause in i.causes}


def test_the_model_comes_again_when_more_is_known(tmp_path):
    """What the graph tells is known later: from there on, diagnosis has it, and a resumed session begins with it."""
    bare = ModelInfo("M", (ModuleInfo("fc", "Linear", 3),), 3)
    known = dataclasses.replace(bare, operations=Operations(("MseLoss",), (("fc", ("Relu",)),), has_shortcuts=True))
    path = tmp_path / "run.jsonl"
    writer = JSONLWriter(path)
    for step, model in enumerate((bare, bare, known, known)):
        writer.write_model(model)
        writer.write(_record(step))
    writer.close()
    writer.write(_record(4))
    writer.close()
    assert read_jsonl(path).models == (bare, bare, known, known, known)
    assert path.read_text().count('"type": "model"') == 3


def _record(step, **changes):
    layers = (Layer("fc.weight", "fc", "Linear", (1, 3)),)
    return StepRecord(step, 0, layers, np.ones(1), np.zeros(1, np.int64), 1.0, 1.0, lr=0.1, **changes)


def test_what_probes_saw_comes_back(tmp_path):
    """Activations, the signal through time, parameters without owner, a birthplace and gaps survive the file."""
    columns = {name: np.array([index / 7, np.nan]) for index, name in enumerate(ACTIVATION_COLUMNS)}
    record = _record(
        0,
        activations=Activations(("act", "out"), ("ReLU", "Linear"), **columns),
        through_time=(TimeProfile("rnn", "RNN", (1e-9, 0.1, np.inf), "0", (0.1, 0.2, 0.3)),),
        ownerless=Ownerless((Layer("head.weight", "head", "Linear", (2, 3)),), np.array([1.5])),
        birthplace=Birthplace("forward", "operation", "division", ("norm",), ("fc",), ("head",)),
        unavailable=(Unavailable("activations", "the model is compiled"),),
    )
    writer = JSONLWriter(tmp_path / "run.jsonl")
    writer.write(record)
    writer.close()
    run = read_jsonl(tmp_path / "run.jsonl")
    assert run.skipped == ()
    (again,) = run.records
    assert json.dumps(again.to_json()) == json.dumps(record.to_json())
    assert (again.through_time, again.birthplace, again.unavailable) == (
        record.through_time,
        record.birthplace,
        record.unavailable,
    )
    assert again.ownerless.layers == record.ownerless.layers
    np.testing.assert_array_equal(again.activations.out_grad, record.activations.out_grad)


def test_only_these_detectors(recorded):
    """Others keep quiet; and with them what they would have explained."""
    path, _ = recorded["blown up"]
    assert {i.kind for i in replay(path, kinds=("nonfinite",)).incidents} == {"nonfinite"}
    assert replay(path, kinds=("stalled",)).incidents == ()


# ------------------------------------------------------------------------------------------------------- the command


def run_main(capsys, *arguments):
    """Exit code and what it printed."""
    code = main(["replay", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_for_people(recorded, capsys):
    """The same blocks as live, then the verdict; the exit code says healthy or not."""
    path, live = recorded["sigmoids"]
    code, out, err = run_main(capsys, path)
    assert (code, err) == (1, "")
    assert out.startswith(f"vanishing · step {live[0]['step']} · ")
    assert "why   saturating activations (confident)" in out
    assert "gradwatch: 30 steps of Sequential (18 parameter tensors, 9,802 elements): 1 incident, vanishing" in out
    assert out.endswith(f"judged again from {path}, where 1 incident had been recorded\n")
    code, out, _ = run_main(capsys, recorded["healthy"][0])
    assert code == 0
    assert "nothing found" in out


def test_for_programs(recorded, capsys):
    """One JSON object that explains itself."""
    path, live = recorded["blown up"]
    code, out, err = run_main(capsys, path, "--json", "--set", "exploding.BURST=4")
    data = json.loads(out)
    assert (code, err) == (1, "")
    assert data["schema"] == "gradwatch-replay/1"
    assert "exit code" in data["about"]
    assert (data["file"], data["healthy"], data["num_steps"], data["model"]) == (str(path), False, 30, "Sequential")
    assert data["thresholds_changed"] == {"exploding.BURST": {"default": 3.0, "value": 4.0}}
    assert [incident["kind"] for incident in data["incidents"]] == [incident["kind"] for incident in live]
    assert data["incidents"][0]["code"] == "GW101"
    assert data["incidents"][0]["causes"][0]["code"].startswith("GW2")
    assert data["num_incidents"] == len(live)
    assert out.count("\n") == 1


def test_the_json_is_bounded(tmp_path, capsys):
    """However many incidents and layers there are, the answer stays short and says what was left out."""
    layers = tuple(Layer(f"layer{number}.weight", f"layer{number}", "Linear", (2, 2)) for number in range(60))
    writer = JSONLWriter(tmp_path / "run.jsonl")
    for step in range(120 * 31):
        bad = step % 31 == 0
        norms, counts = np.full(60, np.nan if bad else 1.0), np.full(60, int(bad), np.int64)
        writer.write(StepRecord(step, 0, layers, norms, counts, 1.0, 1.0))
    writer.close()
    _, out, _ = run_main(capsys, tmp_path / "run.jsonl", "--json")
    data = json.loads(out)
    assert (data["num_incidents"], len(data["incidents"])) == (120, 100)
    assert (data["incidents"][0]["num_layers_named"], len(data["incidents"][0]["layers"])) == (60, 20)
    assert len(out) < 300_000


def test_other_thresholds(recorded, capsys):
    """What is no fade with another threshold is not told; the next run judges as before."""
    path, _ = recorded["sigmoids"]
    quiet = ("--set", "depth.FADE=50", "--set", "vanishing.FADE_WEAK=50")
    code, out, _ = run_main(capsys, path, *quiet, "--detectors", "vanishing")
    assert (code, "nothing found" in out) == (0, True)
    assert run_main(capsys, path, "--detectors", "vanishing")[0] == 1


@pytest.mark.parametrize(
    "changed", ["stalled.IDLE=2", "stalled.IDLE_STEPS=1000", "stalled.STEADY=1e-9", "stalled.GUESSING=2"]
)
def test_the_new_rules_can_be_tried_out(changed, recorded, capsys):
    """A model that learns nothing is told from the recording, what guessing gives included; not by these numbers."""
    path, live = recorded["mislabelled"]
    assert [incident["evidence"]["rule"] for incident in live] == ["idle"]
    code, out, _ = run_main(capsys, path, "--set", changed)
    assert (code, "nothing found" in out) == (0, True)


def test_suppressions(recorded, capsys):
    """What is suppressed is healthy, and is counted."""
    path, _ = recorded["sigmoids"]
    code, out, _ = run_main(capsys, path, "--suppress", "GW102:*:shown: in a lecture")
    assert code == 0
    assert "suppressed: 1 incident (GW102: shown: in a lecture)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "exploding.BRUST=4"], "did you mean 'exploding.BURST'"),
        (["--set", "exploding.BURST"], "'exploding.BURST' is not NAME=VALUE with a number"),
        (["--set", "exploding.BURST=many"], "is not NAME=VALUE"),
        (["--set", "exploding.BURST=0"], "must be finite and greater than 0"),
        (["--set", "exploding.BURST=inf"], "must be finite"),
        (["--set", "exploding.BURST=nan"], "must be finite"),
        (["--set", "baselines.CLEAN_STEPS=2.5"], "must be a whole number: it counts steps"),
        (["--detectors", "explodng"], "did you mean 'exploding'?"),
        (["--suppress", "GW102"], "is not WHAT:LAYERS:REASON"),
        (["--suppress", "GW1O2:*:x"], "did you mean 'GW102'"),
        (["--suppress", "GW102:*: "], "reason=' ' is not allowed"),
        ([], "give the file of a recorded run"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    """They end with 2 and say what is wrong."""
    file = ["run.jsonl"] if arguments else []
    with pytest.raises(SystemExit) as stopped:
        main(["replay", *file, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_thresholds_are_listed(capsys):
    """Every one with its value and what it decides."""
    code, out, _ = run_main(capsys, "--list-thresholds")
    assert code == 0
    assert all(name in out for name in thresholds.THRESHOLDS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"not json\n",
        b"\x00\xff\xfe" * 1000,
        b'{"type": "run", "version": 1}\n',
        b'{"type": "run", "version": 99}\n{"type": "step"}\n',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[1, 2]\n",
        b'{"type": ["step"]}\n',
        b'{"type": "step", "step": 1e999, "optimizer": {}}\n',
        b'{"type": "layers", "optimizer": 0, "layers": 3}\n',
        b'{"type": "incident"}\n',
        b'{"type": "model", "name": 3}\n',
        b"9" * 10_000,
    ],
)
def test_what_holds_no_step_is_unreadable(content, tmp_path, capsys):
    """Empty, foreign, binary or damaged: 2 and a message, for people and for programs; never a traceback."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    code, out, err = run_main(capsys, path)
    assert (code, out) == (2, "")
    assert "holds no step of a recorded run" in err
    assert len(err) < 1_000
    code, out, err = run_main(capsys, path, "--json")
    assert (code, err) == (2, "")
    assert "holds no step" in json.loads(out)["error"]


def test_what_cannot_be_opened(tmp_path, capsys):
    """A missing file, a directory, a forbidden name: 2."""
    empty = "holds no event file and no .jsonl file"
    for path, words in ((tmp_path / "missing.jsonl", "cannot be read"), (tmp_path, empty), ("a\0b", "cannot be read")):
        code, _, err = run_main(capsys, path)
        assert code == 2
        assert words in err
    with pytest.raises(RecordError):
        replay(tmp_path / "missing.jsonl")


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, capsys, monkeypatch):
    """A line that is too long is skipped and named; the others count."""
    monkeypatch.setattr("gradwatch.writers.jsonl.MAX_LINE", 2_000)
    path = tmp_path / "run.jsonl"
    writer = JSONLWriter(path)
    writer.write(_record(0))
    writer.close()
    with path.open("a") as file:
        file.write("x" * 9_000 + "\n")
    writer.write(_record(1))
    writer.close()
    result = replay(path)
    assert result.num_steps == 2
    assert result.skipped == ("line 4: longer than 2,000 characters",)
    with path.open("a") as file:
        file.write("x" * 6_000)
    assert replay(path).num_skipped == 2


def test_damaged_lines_are_left_out(recorded, tmp_path, capsys):
    """Files that were cut, or whose bytes were changed, are judged as far as they go."""
    source = recorded["blown up"][0].read_bytes()
    chance = random.Random(0)  # noqa: S311
    path = tmp_path / "damaged.jsonl"
    for _ in range(40):
        data = bytearray(source[: chance.randrange(len(source) // 2, len(source))])
        for _ in range(chance.randrange(30)):
            data[chance.randrange(len(data))] = chance.choice(b'0919eE-+.,:"[]{}\n nNx\x00\xff')
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code, _, err = run_main(capsys, path, "--json")
        assert code in (0, 1, 2)
        assert err == ""


def test_values_of_other_types_are_left_out(recorded, tmp_path, capsys):
    """A line that is JSON but holds something else in one place costs at most itself."""
    lines = [json.loads(line) for line in recorded["two optimizers"][0].read_text().splitlines()]
    chance = random.Random(1)  # noqa: S311
    path = tmp_path / "foreign.jsonl"
    strange = (None, "x", -1, 1e308, 10**30, [], {}, [[1]], True, "nan", ["nan"])
    for _ in range(40):
        changed = json.loads(json.dumps(lines))
        for _ in range(5):
            line = chance.choice(changed)
            place = line["layers"][0] if chance.random() < 0.3 and "layers" in line and line["layers"] else line
            if isinstance(place, dict):
                place[chance.choice(list(place))] = chance.choice(strange)
        path.write_text("\n".join(map(json.dumps, changed)))
        for options in (["--json"], []):
            code, _, err = run_main(capsys, path, *options)
            assert code in (0, 1, 2), err


def test_many_foreign_lines_are_counted(recorded, tmp_path, capsys):
    """A million lines of something else are named a few times and counted, not listed."""
    path = tmp_path / "log.jsonl"
    path.write_text("epoch 1\n" * 5_000 + recorded["healthy"][0].read_text())
    code, out, _ = run_main(capsys, path)
    assert code == 0
    assert len(out) < 5_000
    assert "could not be used" in out


def test_the_replay_needs_no_torch(recorded):
    """A recorded run is judged without the framework it was trained with."""
    code = (
        "import sys; from gradwatch._cli import main; main(['replay', sys.argv[1]]); "
        "print([name for name in ('torch', 'lightning', 'tensorboard') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    out = subprocess.run(
        [sys.executable, "-c", code, str(recorded["healthy"][0])],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout
    assert out.endswith("[]\n")
