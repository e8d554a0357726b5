"""Steps are written together and by a thread of their own: nobody waits, and little can be lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch
from gradwatch import recording
from gradwatch.records import Layer, StepRecord
from gradwatch.writers._courier import SECONDS_ON_THE_WAY, STEPS_A_BATCH, STEPS_ON_THE_WAY
from gradwatch.writers.tensorboard import TensorBoardWriter

LAYERS = tuple(Layer(f"fc{index}.weight", f"fc{index}", "Linear", (2, 2)) for index in range(4))

SCRIPT = """
import os, signal, sys, time
import numpy as np
from gradwatch.records import Layer, StepRecord
from gradwatch.writers.tensorboard import TensorBoardWriter

layers = (Layer("a"), Layer("b"))
writer = TensorBoardWriter(sys.argv[1])

def write(first, last):
    for step in range(first, last):
        writer.write(StepRecord(step, 0, layers, np.ones(2), np.zeros(2, dtype=int), 1.0, 1.0))

"""


def _record(step):
    return StepRecord(step, 0, LAYERS, np.full(4, step + 1.0), np.zeros(4, dtype=np.int64), 1.0, 1.0)


def _run(code, *arguments):
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT + code, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def _steps(path):
    return recording.read(path).table("grad_norm").steps.tolist()


def _eventually(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_kill_takes_a_known_number_of_steps_at_most(tmp_path):
    """Killed among fast steps, a run lacks fewer than 64 of them, and nothing before these."""
    result = _run("write(0, 500)\ntime.sleep(0.3)\nos.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    found = _steps(tmp_path)
    assert found == list(range(len(found)))
    assert 500 - STEPS_ON_THE_WAY < len(found) <= 500


def test_no_step_waits_for_another(tmp_path):
    """A few steps reach the log within seconds, although none follows: a run that hangs shows where it does."""
    code = "write(0, 3)\nprint('written', flush=True)\ntime.sleep(60)"
    command = [sys.executable, "-c", SCRIPT + code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            _eventually(lambda: _steps(tmp_path) == [0, 1, 2], 2.5 * SECONDS_ON_THE_WAY)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_slow_steps_are_written_one_by_one(tmp_path, monkeypatch):
    """What has waited long enough goes with the step that finds it waiting, not with the sixteenth."""
    writer = TensorBoardWriter(tmp_path)
    now = [time.monotonic()]
    monkeypatch.setattr("gradwatch.writers._courier.time.monotonic", lambda: now[0])
    writer.write(_record(0))
    now[0] += SECONDS_ON_THE_WAY
    writer.write(_record(1))
    monkeypatch.undo()
    _eventually(lambda: _steps(tmp_path) == [0, 1], 10)
    writer.close()


def test_nothing_waits_for_a_disk(tmp_path):
    """A file that takes nothing (a full pipe) holds no step up, and gets everything in order when it does."""
    writer = TensorBoardWriter(tmp_path)
    out, into = os.pipe()
    file = writer._sink._file
    writer._sink._file = os.fdopen(into, "wb")
    started = time.perf_counter()
    for step in range(4_000):
        writer.write(_record(step))
    seconds = time.perf_counter() - started
    header = Path(file.name).read_bytes()
    file.close()
    arrived = []

    def read():
        with os.fdopen(out, "rb") as file:
            arrived.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    writer.close()
    reader.join()
    Path(file.name).write_bytes(header + arrived[0])
    assert len(arrived[0]) > 4_000 * 100, "it must exceed what a pipe takes by itself"
    assert seconds < 20
    assert _steps(tmp_path) == list(range(4_000))


def test_a_full_disk_ends_the_log_and_not_the_training(tmp_path):
    """What the thread could not write is told as one warning; the training and the watch go on."""
    code = """
import resource, warnings, torch, gradwatch
model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(20)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    with gradwatch.watch(model, logdir=sys.argv[1] + "/log", writers=[], probes=False) as watch:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for step in range(600):
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            time.sleep(0.001)
print(watch.step, [str(w.message) for w in told if issubclass(w.category, gradwatch.GradwatchWarning)])
"""
    result = _run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("600 ['gradwatch: TensorBoardWriter failed and gets nothing more in this run")
    assert "File too large" in result.stdout
    assert result.stdout.count("gradwatch: ") == 1


@pytest.mark.parametrize("end", ["", "del writer\n", "sys.exit(3)\n", "raise RuntimeError\n"])
def test_a_writer_that_nobody_closes_loses_nothing(tmp_path, end):
    """However the process comes to its end, short of a kill, every step has been written."""
    result = _run(f"write(0, 21)\n{end}", tmp_path)
    assert result.returncode == {"sys.exit(3)\n": 3, "raise RuntimeError\n": 1}.get(end, 0), result.stderr
    assert _steps(tmp_path) == list(range(21))


def test_a_fork_writes_nothing_twice(tmp_path):
    """A child that ends while steps wait leaves them to its parent."""
    code = """
write(0, 5)
if (child := os.fork()) == 0:
    sys.exit(0)
os.waitpid(child, 0)
write(5, 8)
writer.close()
"""
    result = _run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert _steps(tmp_path) == list(range(8))


def test_no_thread_is_left_behind(tmp_path):
    """A watch starts one thread at most, and it ends with it."""
    before = set(threading.enumerate())
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, logdir=tmp_path, writers=[]):
        for _ in range(40):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) == before


def test_steps_written_together_are_those_written_one_by_one(tmp_path):
    """A batch with absent layers, other layers, other optimizers and bad values in it holds what its steps hold."""
    records = []
    for step in range(2 * STEPS_A_BATCH):
        layers = LAYERS if step % 5 else LAYERS[:3]
        norms = np.full(len(layers), 10.0**-step)
        norms[0] = (np.nan, np.inf, 0.0, 1e-300, 1e300)[step % 5]
        counts = np.zeros(len(layers), dtype=np.int64)
        records.append(StepRecord(step, step % 2, layers, norms, counts, float(norms.max()), 1.0))
    for way, each in (("together", False), ("alone", True)):
        writer = TensorBoardWriter(tmp_path / way)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for record in records:
                writer.write(record)
                if each:
                    writer.flush()
        writer.close()
    together, alone = (recording.read(tmp_path / way) for way in ("together", "alone"))
    for optimizer in (0, 1):
        for statistic in ("grad_norm", "scalars"):
            tables = [one.table(statistic, optimizer) for one in (together, alone)]
            assert tables[0].names == tables[1].names
            assert tables[0].steps.tolist() == tables[1].steps.tolist() == list(range(optimizer, len(records), 2))
            assert np.array_equal(tables[0].values, tables[1].values, equal_nan=True)
