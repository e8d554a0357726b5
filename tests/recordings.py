"""Runs trained and recorded by gradwatch itself, and what may befall their files."""

from __future__ import annotations

import base64
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import gradwatch
from gradwatch.records import Incident, Layer, Severity, StepRecord

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "a\"b'c`d",
    "line\u2028break\u2029",
    "%{y}$x$&amp;",
    "x" * 10_000,
    "\u202egnp.exe",
    "\x1b[31mred\x07",
)
"""What a layer may be called by somebody who means no good."""

torch.set_num_threads(1)  # fixtures of a whole module run before any test has set it

TARGETS = torch.randn(16, 4, generator=torch.Generator().manual_seed(5))


def mlp(depth: int = 4, act: type[nn.Module] = nn.ReLU, *, norm: bool = True) -> nn.Sequential:
    """A classifier of 16 numbers, deep where it is asked to be."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(16, 32), act()]
    for _ in range(depth):
        layers += [nn.Linear(32, 32), *([nn.LayerNorm(32)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def train(
    watch: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Sequence[int],
    *,
    spikes: Sequence[int] = (),
    nans: Sequence[int] = (),
) -> None:
    """A plain loop; the batch of a step is always the same."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(64, 16, generator=generator)
        y = (x @ TARGETS).argmax(1)
        if step in nans:
            x[0, 0] = math.nan
        loss = nn.functional.cross_entropy(model(x), y) * (1e5 if step in spikes else 1.0)
        watch.loss(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def record(
    place: Path, model: nn.Module, num_steps: int, optimizer: torch.optim.Optimizer | None = None, **faults: Any
) -> list[Incident]:
    """Train and record into ``place`` (a log directory) and ``place.jsonl``; the incidents that were told live."""
    clip = faults.pop("clip", None)
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-3)
    writers = [gradwatch.JSONLWriter(f"{place}.jsonl")]
    with gradwatch.watch(model, logdir=place, writers=writers, clip=clip) as watch:
        train(watch, model, optimizer, range(num_steps), **faults)
    return watch.incidents


def vanishing(place: Path, num_steps: int = 40) -> list[Incident]:
    """Fourteen layers of sigmoids."""
    model = mlp(12, nn.Sigmoid, norm=False)
    return record(place, model, num_steps, torch.optim.SGD(model.parameters(), 0.1))


def spiky(place: Path, num_steps: int = 120, spikes: Sequence[int] = (60,)) -> list[Incident]:
    """A healthy run with batches that are far off, clipped."""
    return record(place, mlp(), num_steps, spikes=spikes, clip=gradwatch.ClipNorm(1.0))


def recurrent(place: Path, num_steps: int = 3) -> None:
    """A recurrent layer with its loss at the last time step."""
    torch.manual_seed(0)
    rnn, head = nn.RNN(8, 32, batch_first=True), nn.Linear(32, 4)
    model = nn.ModuleDict({"rnn": rnn, "head": head})
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradwatch.watch(model, logdir=place, writers=[gradwatch.JSONLWriter(f"{place}.jsonl")]) as watch:
        for step in range(num_steps):
            x = torch.randn(16, 30, 8, generator=torch.Generator().manual_seed(step))
            loss = nn.functional.cross_entropy(head(rnn(x)[0][:, -1]), x[:, 0, :4].argmax(1))
            watch.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def killed(place: Path, *, at: int, resume: Path | None = None) -> None:
    """Train in a process of its own that is killed by SIGKILL at a step, with a NaN three steps before.

    Args:
        place: The log directory, and with ``.jsonl`` the file of JSON lines.
        at: The step.
        resume: Where a checkpoint is written at step 10; where it exists, the run goes on from it, without a NaN.
    """
    code = _KILLED.format(tests=str(Path(__file__).parent), place=str(place), at=at, checkpoint=str(resume or ""))
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch, gradwatch
from recordings import mlp, train
torch.set_num_threads(1)
model = mlp()
optimizer = torch.optim.SGD(model.parameters(), 1e-2)
watch = gradwatch.watch(model, logdir={place!r}, writers=[gradwatch.JSONLWriter({place!r} + ".jsonl")])
start, nans, checkpoint = 0, ({at} - 3,), {checkpoint!r}
if checkpoint and os.path.exists(checkpoint):
    saved = torch.load(checkpoint)
    model.load_state_dict(saved["model"])
    watch.load_state_dict(saved["watch"])
    start, nans = 10, ()
for step in range(start, {at}):
    train(watch, model, optimizer, [step], nans=nans)
    if checkpoint and step == 9:
        torch.save(dict(model=model.state_dict(), watch=watch.state_dict()), checkpoint)
os.kill(os.getpid(), signal.SIGKILL)
"""


def hostile(place: Path, num_steps: int = 12) -> tuple[str, ...]:
    """A run whose layers, messages and remedies are all hostile, written by the real writers; its layers' names."""
    names = tuple(f"{name}.weight" for name in HOSTILE)
    layers = tuple(Layer(name, name.removesuffix(".weight"), "Linear", (2, 2)) for name in names)
    writers = [gradwatch.JSONLWriter(f"{place}.jsonl"), gradwatch.TensorBoardWriter(place)]
    for step in range(num_steps):
        norms = np.logspace(-3, 0, len(layers)) * (1 + step % 3)
        total = float(np.linalg.norm(norms))
        for writer in writers:
            writer.write(StepRecord(step, 0, layers, norms, np.zeros(len(layers), np.int64), total, total, loss=1.0))
    text = "".join(HOSTILE)
    remedy = gradwatch.Remedy(text, text, text)
    for kind, name in zip(("exploding", text[:500]), names, strict=False):
        incident = Incident(
            kind, 5, (name,), Severity.ERROR, 1.0, 0.5, text, (gradwatch.Cause(text, 1.0, text, (remedy,)),)
        )
        for writer in writers:
            writer.write_incident(incident)
    for writer in writers:
        writer.close()
    return names


def event_file(place: Path) -> Path:
    """The only event file of a log directory."""
    (file,) = place.glob("*tfevents*")
    return file


def cells(z: dict[str, str]) -> np.ndarray:
    """A heat map's cells out of plotly's base64 form."""
    shape = [int(size) for size in z["shape"].split(",")]
    return np.frombuffer(base64.b64decode(z["bdata"]), dtype="<f4").reshape(shape)
