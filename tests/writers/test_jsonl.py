"""JSON lines, there and back."""

from __future__ import annotations

import json
import math
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from gradwatch.errors import ArgumentTypeError, LogdirError, RecordError
from gradwatch.records import Incident, Layer, Severity, StepRecord
from gradwatch.writers import Writer
from gradwatch.writers.jsonl import JSONLWriter, read_jsonl

LAYERS = (Layer("a.weight", "a", "Linear", (2, 3)), Layer("b\u2028.weight", "b\u2028", "Linear", (2,)))


def _record(step, layers=LAYERS, optimizer=0, **changes):
    norms = np.array([math.nan, math.inf, 1e-300][: len(layers)])
    counts = np.array([0, 3, 0][: len(layers)])
    return StepRecord(step, optimizer, layers, norms, counts, math.inf, math.nan, **changes)


def _incident(step, **changes):
    values = {"severity": Severity.ERROR, "value": math.nan, "threshold": 0.0, "message": "NaN", **changes}
    return Incident("nonfinite", step, ("a.weight",), **values)


def _strict(line):
    def refuse(name):
        raise AssertionError(name)

    return json.loads(line, parse_constant=refuse)


def test_round_trip(tmp_path):
    """What was written comes back, non-finite numbers included."""
    path = tmp_path / "deep" / "run.jsonl"
    writer = JSONLWriter(path)
    assert isinstance(writer, Writer)
    writer.write(_record(0, weight_norm=np.array([1.0, 2.0]), loss=math.nan))
    writer.write_incident(_incident(0))
    writer.write(_record(1, LAYERS[:1], optimizer=1))
    writer.close()
    run = read_jsonl(path)
    assert [record.to_json() for record in run.records] == [
        _record(0, weight_norm=np.array([1.0, 2.0]), loss=math.nan).to_json(),
        _record(1, LAYERS[:1], optimizer=1).to_json(),
    ]
    assert [record.layers for record in run.records] == [LAYERS, LAYERS[:1]]
    assert [incident.to_json() for incident in run.incidents] == [_incident(0).to_json()]
    assert run.skipped == ()


def test_lines_are_strict_json(tmp_path):
    """Every line is strict JSON, also with non-finite numbers and arrays deep in the evidence."""
    writer = JSONLWriter(tmp_path / "run.jsonl")
    writer.write(_record(0))
    writer.write_incident(_incident(0, evidence={"deep": [math.nan, {"x": -math.inf}], "array": np.array([1.5])}))
    writer.close()
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert [_strict(line)["type"] for line in lines] == ["run", "layers", "step", "incident"]
    assert _strict(lines[-1])["evidence"] == {"deep": ["nan", {"x": "-inf"}], "array": [1.5]}


def test_layers_are_written_when_they_change(tmp_path):
    """Layers are written once, and again only when an optimizer's layers changed."""
    writer = JSONLWriter(tmp_path / "run.jsonl")
    for step, layers in enumerate((LAYERS, tuple(LAYERS), (*LAYERS,), LAYERS[:1], LAYERS)):
        writer.write(_record(step, layers))
    writer.close()
    types = [json.loads(line)["type"] for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert types.count("layers") == 3
    assert [len(record.layers) for record in read_jsonl(tmp_path / "run.jsonl").records] == [2, 2, 2, 1, 2]


def test_resume_after_a_torn_line(tmp_path):
    """A resumed run goes on in the same file, and a line torn by the kill costs only itself."""
    path = tmp_path / "run.jsonl"
    for step in range(2):
        writer = JSONLWriter(path)
        writer.write(_record(step))
        writer.close()
        with path.open("a") as file:
            file.write('{"type": "step", "step": 9, "opt')
    run = read_jsonl(path)
    assert [record.step for record in run.records] == [0, 1]
    assert len(run.skipped) == 2
    assert "torn off" in run.skipped[-1]


def test_foreign_lines_are_named(tmp_path):
    """Lines of others are left out and named, never guessed at."""
    path = tmp_path / "run.jsonl"
    foreign = ["[1]", "nonsense", '{"type": "metric"}', '{"type": "step", "step": 0, "optimizer": 7}', ""]
    path.write_text('{"type": "run", "version": 1}\n' + "\n".join(foreign) + "\n" + '{"type": "run", "version": 99}\n')
    run = read_jsonl(path)
    assert run.records == ()
    assert [line.split(":")[0] for line in run.skipped] == ["line 2", "line 3", "line 4", "line 5", "line 7"]
    assert "version 99" in run.skipped[-1]


def test_incident_survives_sigkill(tmp_path):
    """An incident is on disk as soon as ``write_incident`` returns."""
    code = (
        "import os, signal, sys\n"
        "from gradwatch.records import Incident, Severity\n"
        "from gradwatch.writers.jsonl import JSONLWriter\n"
        "writer = JSONLWriter(sys.argv[1])\n"
        "writer.write_incident(Incident('nonfinite', 3, ('a',), Severity.ERROR, 1.0, 0.0, 'x'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.jsonl")], check=False)
    assert result.returncode == -signal.SIGKILL
    assert [incident.step for incident in read_jsonl(tmp_path / "run.jsonl").incidents] == [3]


def test_errors(tmp_path):
    """What cannot be written or read is refused at once, by name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LogdirError, match=r"path='.*file/run\.jsonl' cannot be written"):
        JSONLWriter(tmp_path / "file" / "run.jsonl")
    with pytest.raises(LogdirError, match="cannot be written"):
        JSONLWriter(tmp_path)
    with pytest.raises(ArgumentTypeError, match=r"path=.* is of type int"):
        JSONLWriter(3)
    with pytest.raises(RecordError, match=r"absent\.jsonl' cannot be read"):
        read_jsonl(tmp_path / "absent.jsonl")


def test_a_closed_writer_continues_its_file(tmp_path):
    """A second run (a second ``fit``), or a copy in another process, appends a new session with its layers."""
    writer = JSONLWriter(tmp_path / "run.jsonl")
    writer.write(_record(0))
    writer.close()
    writer.close()
    copied = pickle.loads(pickle.dumps(writer))
    copied.write(_record(1))
    copied.close()
    run = read_jsonl(tmp_path / "run.jsonl")
    assert [r.step for r in run.records] == [0, 1]
    assert run.skipped == ()
