"""``gradwatch report`` and ``gradwatch diff``: what they say, to whom, and with which exit code."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import recordings
import torch

import gradwatch
from gradwatch._cli import main
from gradwatch._report.story import story
from gradwatch._report.terminal import sparkline
from gradwatch._summary_json import summary_from_json, summary_to_json
from gradwatch.recording import read


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with recorded runs: healthy twice, sick, hostile."""
    place = tmp_path_factory.mktemp("runs")
    for name in ("healthy", "again"):
        recordings.record(place / name, recordings.mlp(), 40)
    recordings.record(place / "spiky", recordings.mlp(), 40, spikes=(25,))
    recordings.vanishing(place / "vanishing")
    recordings.hostile(place / "hostile")
    return place


def _json(capsys, *arguments):
    """The exit code and the answer, which must be one line of strict JSON."""

    def refuse(name):
        raise AssertionError(name)

    code = main([*map(str, arguments), "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out, parse_constant=refuse)


@pytest.mark.parametrize("suffix", ["", ".jsonl"])
def test_the_story_of_a_sick_run(runs, capsys, suffix):
    """Verdict first, then the incident with its cause and its first remedy, the layers, the depth, the cost."""
    assert main(["report", f"{runs / 'vanishing'}{suffix}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("● vanishing · step 2 · 0 … ")
    for words in (
        "40 steps of Sequential",
        "why   saturating activations (confident)",
        "try   1. nn.ReLU or nn.GELU in place of nn.Sigmoid",
        "model.set_submodule(name, nn.ReLU())",
        "gradient norm before clipping",
        "the gradient shrinks \u00d70.15 per layer on its way back at step 2 (vanishing)",
        "0 of 40 steps clipped",
        "watching took",
    ):
        assert words in out
    places = [out.index(words) for words in ("why ", "gradient norm before", "  steps ", "  cost ")]
    assert places == sorted(places)
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_the_story_of_a_healthy_run(runs, capsys):
    """A healthy run says that it is, what was watched and what it cost."""
    assert main(["report", str(runs / "healthy")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "● healthy · healthy\n40 steps of Sequential (20 parameter tensors, 5,156 elements): nothing found;"
    )
    assert "why" not in out


def test_the_story_of_a_killed_run(tmp_path, capsys):
    """A run that was killed is told as far as it went: its incident, its layers, and that it has no end."""
    recordings.killed(tmp_path / "run", at=20)
    for place in (tmp_path / "run", tmp_path / "run.jsonl"):
        assert main(["report", str(place)]) == 0
        out = capsys.readouterr().out
        assert out.startswith("● nonfinite · step 17")
        assert "the run has not come to its end: it still goes on, or was killed" in out.replace("\n", " ")
        assert "NaN        17" in out
        assert "cost " not in out
        _, answer = _json(capsys, "report", place)
        assert answer["state"].startswith("not finished")
        assert answer["cost"] is None
        assert answer["model"] == {"name": "Sequential", "num_elements": 5156, "num_parameters": 20}


def test_a_run_without_an_end_is_summed_up_as_one_with(runs):
    """The layers' first, median and farthest norms are the same, put together from the tables or counted live."""
    for name in ("spiky", "vanishing"):
        recording = read(runs / name)
        live = recording.summary
        recording.__dict__["summary"] = None
        told = story(recording, name).summary
        assert told.layers == tuple(
            type(row)(row.name, *map(pytest.approx, (row.first, row.median, row.worst)), row.worst_step, row.optimizer)
            for row in live.layers
        )
        for key in ("num_steps", "num_skipped", "num_clipped", "num_tensors", "model", "incidents"):
            assert getattr(told, key) == getattr(live, key)


def test_the_answer_for_programs(runs, capsys):
    """One bounded JSON object that explains itself."""
    code, answer = _json(capsys, "report", runs / "vanishing")
    assert code == 0
    assert answer["schema"] == "gradwatch-report/1"
    assert "exit code" in answer["about"]
    assert answer["gradwatch"] == gradwatch.__version__
    assert answer["healthy"] is False
    assert answer["worst_incident"].startswith("vanishing · step 2")
    assert answer["first_remedy"].startswith("nn.ReLU or nn.GELU")
    assert answer["depth"]["kind"] == "vanishing"
    assert answer["depth"]["per_layer"] == pytest.approx(0.15, abs=0.01)
    assert answer["num_layers"] == len(answer["layers"]) == 14
    (incident,) = answer["incidents"]
    assert incident["code"] == "GW102"
    assert incident["causes"][0]["remedies"][0]["snippet"]
    assert "evidence" not in incident
    _, hostile = _json(capsys, "report", runs / "hostile")
    assert len(json.dumps(hostile)) < 300_000
    assert hostile["num_incidents"] == 2


def test_what_cannot_be_read_ends_with_2(tmp_path, capsys):
    """Missing, empty and foreign files: exit code 2, the reason on stderr, or in the JSON."""
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "foreign.txt").write_text("hello\n" * 3)
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    for name, reason in (
        ("missing", "cannot be read: No such file"),
        ("empty.jsonl", "holds no step of a recorded run"),
        ("foreign.txt", "holds no step of a recorded run: line 1: not a line of gradwatch"),
        ("events.out.tfevents.1", "holds no step of a recorded run: events.out.tfevents.1: empty"),
    ):
        place = str(tmp_path / name)
        assert main(["report", place]) == 2
        captured = capsys.readouterr()
        assert reason in captured.err
        assert captured.out == ""
        code, answer = _json(capsys, "report", place)
        assert code == 2
        assert reason in answer["error"]
        assert main(["diff", place, place]) == 2
        assert reason in capsys.readouterr().err
        code, answer = _json(capsys, "diff", place, place)
        assert (code, answer["schema"]) == (2, "gradwatch-diff/1")


def test_help_tells_the_exit_codes(capsys):
    """``--help`` of both says what their exit codes mean."""
    for command, words in (("report", "exit code is 0 where the run can be read"), ("diff", "1 where they differ")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert words in " ".join(capsys.readouterr().out.split())


def test_what_was_not_read_is_said(runs, tmp_path, capsys):
    """A damaged file is reported on as far as it goes, and what is missing is named."""
    shutil.copytree(runs / "spiky", tmp_path / "run")
    file = recordings.event_file(tmp_path / "run")
    file.write_bytes(file.read_bytes()[:-5])
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "not read" in capsys.readouterr().out
    _, answer = _json(capsys, "report", tmp_path / "run")
    assert "torn off" in answer["unreadable"][0]


def test_hostile_names_do_not_steer_the_terminal(runs, capsys):
    """No control character of a layer's name, message or remedy reaches the terminal."""
    for arguments in (["report", str(runs / "hostile")], ["diff", str(runs / "hostile"), str(runs / "healthy")]):
        main(arguments)
        out = capsys.readouterr().out
        assert not any(not char.isprintable() for char in out.replace("\n", ""))
        assert all(len(line) < 400 for line in out.splitlines())


def test_a_sparkline_keeps_a_single_spike():
    """One step of a thousand is seen, as is one that is not finite; a constant and nothing are no error."""
    values = np.ones(1000)
    values[500], values[900] = 1e4, math.nan
    line = sparkline(values)
    assert line.count("█") == 1
    assert line.count("!") == 1
    assert line.endswith("1 … 10,000, log scale")
    assert sparkline(np.ones(3)).startswith("▁▁▁ ")
    assert sparkline(np.array([math.nan, math.inf])) == ""


# ------------------------------------------------------------------------------------------------------------- diff


def test_the_same_training_twice_is_alike(runs, capsys):
    """Two runs of the same training are alike to the last bit, whatever they were recorded into: exit code 0."""
    code, answer = _json(capsys, "diff", runs / "healthy", f"{runs / 'again'}.jsonl", "--tolerance", "0")
    assert code == 0
    assert answer["alike"] is True
    assert answer["first_different_step"] is None
    assert answer["num_steps"] == {"a": 40, "b": 40, "common": 40}
    assert main(["diff", str(runs / "healthy"), str(runs / "again")]) == 0
    assert capsys.readouterr().out.startswith("● alike: 40 steps, 20 layers, 0 incidents in both")


def test_a_difference_is_found_where_it_begins(runs, capsys):
    """Of two trainings that are the same up to step 25, that step is named, with layers, numbers and the incident."""
    code, answer = _json(capsys, "diff", runs / "healthy", runs / "spiky")
    assert code == 1
    assert answer["first_different_step"] == 25
    assert answer["num_different_layers"] == 20
    first = answer["layers"][0]
    assert first["step"] == 25
    assert first["b"] / first["a"] == pytest.approx(1e5, rel=1e-3)
    assert {one["name"] for one in answer["scalars"]} == {"loss", "total_norm", "clipped_norm"}
    assert [incident["step"] for incident in answer["incidents_only_in_b"]] == [25]
    assert answer["incidents_only_in_a"] == []
    assert main(["diff", str(runs / "healthy"), str(runs / "spiky")]) == 1
    out = capsys.readouterr().out
    assert out.startswith(
        "● different from step 25 on: 20 of 20 layers; loss, norm after clipping, total norm; 1 incident"
    )
    assert "only in B" in out


def test_diff_can_be_narrowed(runs, capsys):
    """Up to step 24 the two are alike; with a tolerance of nearly everything the norms are, the incident is not."""
    assert main(["diff", str(runs / "healthy"), str(runs / "spiky"), "--last", "24"]) == 0
    assert main(["diff", str(runs / "healthy"), str(runs / "spiky"), "--first", "25"]) == 1
    capsys.readouterr()
    code, answer = _json(capsys, "diff", runs / "healthy", runs / "spiky", "--tolerance", "0.99999999")
    assert code == 1
    assert answer["layers"] == []
    assert len(answer["incidents_only_in_b"]) == 1
    for wrong in ("-1", "2", "much", "nan"):
        with pytest.raises(SystemExit) as stopped:
            main(["diff", "a", "b", "--tolerance", wrong])
        assert stopped.value.code == 2
        assert "is not a number from 0 to less than 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["diff", "a", "b", "--first", "-3"])
    assert "is not a step" in capsys.readouterr().err


def test_other_lengths_and_other_models_differ(runs, tmp_path, capsys):
    """A shorter run differs in its length, and from another model in its layers."""
    recordings.record(tmp_path / "short", recordings.mlp(), 30)
    code, answer = _json(capsys, "diff", runs / "healthy", tmp_path / "short")
    assert code == 1
    assert answer["layers"] == []
    assert "length (40 and 30 steps)" in answer["verdict"]
    code, answer = _json(capsys, "diff", runs / "healthy", runs / "vanishing")
    assert code == 1
    assert answer["num_layers_only_in"]["b"] > 0


def test_a_moved_incident_is_no_other(tmp_path, capsys):
    """The same incident three steps later is told as moved."""
    for name, step in (("a", 25), ("b", 28)):
        recordings.record(tmp_path / name, recordings.mlp(), 40, nans=(step,))
    code, answer = _json(capsys, "diff", tmp_path / "a", tmp_path / "b")
    assert code == 1
    assert [(one["step"], one["step_in_b"]) for one in answer["incidents_moved"]] == [(25, 28)]
    assert answer["incidents_only_in_a"] == answer["incidents_only_in_b"] == []


def test_absent_and_not_finite_are_different(tmp_path, capsys):
    """A NaN that stands for no gradient differs from one that stands for a NaN in it."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    for name in ("absent", "nan"):
        with gradwatch.watch(model, writers=[], logdir=tmp_path / name) as watch:
            optimizer = torch.optim.SGD(model.parameters(), 0.0)
            model[1](model[0](torch.ones(1, 2))).sum().backward()
            model[0].weight.grad = None if name == "absent" else torch.full((2, 2), math.nan)
            optimizer.step()
            optimizer.zero_grad()
        assert watch.step == 1
    _, answer = _json(capsys, "diff", tmp_path / "absent", tmp_path / "nan")
    (found,) = [layer for layer in answer["layers"] if layer["name"] == "0.weight"]
    assert (found["a"], found["b"], found["largest"]) == ("nan", "nan", "inf")


# ------------------------------------------------------------------------------------------------------------ the rest


def test_the_summary_comes_back_whole(runs):
    """A summary survives JSON, numbers that are not finite included; its incidents are handed in beside it."""
    summary = read(runs / "vanishing").summary
    again = summary_from_json(json.loads(json.dumps(summary_to_json(summary))), summary.incidents)
    assert again == summary
    with pytest.raises(KeyError):
        summary_from_json({})


def test_replay_reads_a_log(runs, capsys):
    """``replay`` judges a log as far as it goes, finds the same incident, and says what a log cannot tell."""
    assert main(["replay", str(runs / "vanishing")]) == 1
    out = capsys.readouterr().out
    assert "vanishing" in out
    assert "note: a TensorBoard log does not keep what the probes saw of activations" in out
    assert main(["replay", str(runs / "healthy")]) == 0
    capsys.readouterr()
    code, answer = _json(capsys, "replay", runs / "spiky")
    assert code == 1
    assert answer["incidents"][0]["step"] == 25
    assert "does not keep" in answer["notes"][0]
    assert answer["model"] == "Sequential"
    assert main(["replay", f"{runs / 'vanishing'}.jsonl"]) == 1
    assert "does not keep" not in capsys.readouterr().out


def test_commands_stay_light(runs):
    """``report --json`` of JSON lines imports no torch, no plotly and no TensorBoard."""
    code = (
        "import sys; from gradwatch._cli import main\n"
        f"main(['report', {str(runs / 'spiky') + '.jsonl'!r}, '--json'])\n"
        "print([name for name in ('torch', 'plotly', 'tensorboard', 'lightning') if name in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
