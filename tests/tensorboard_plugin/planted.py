"""Runs for the tab's tests, written by gradwatch: real trainings, and long ones of which every spike is known."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from models import lstm, mlp
from torch import nn
from trainings import healthy

import gradwatch
from gradwatch.records import Cause, Incident, Layer, Remedy, Severity, StepRecord
from gradwatch.writers.tensorboard import TensorBoardWriter

HOSTILE = (
    "<img src=x onerror=alert(1)>.weight",
    "</script><script>alert(1)</script>.bias",
    "a\"b'c`d.weight",
    "line\u2028break\u2029.weight",
    "../../../etc/passwd",
    "x" * 10_000,
    "nul\0tab\tend",
    "emoji \U0001f525 \u202e rtl",
    "",
)
SPIKES = {700: 21, 1500: 4}
"""Step and layer of the two in the run ``spikes``."""

HOSTILE_RUN = "<img src=x onerror=alert(1)>&a=b#c"


def layers(count: int) -> tuple[Layer, ...]:
    """So many parameters, two a module."""
    return tuple(
        Layer(f"block{i // 2}.{'weight' if i % 2 == 0 else 'bias'}", f"block{i // 2}", "Linear", (8, 8))
        for i in range(count)
    )


def record(step: int, known: tuple[Layer, ...], norms: Any, **changes: Any) -> StepRecord:
    """One step."""
    counts = np.zeros(len(known), dtype=np.int64)
    total = float(np.sqrt(np.nansum(np.square(norms))))
    filled = StepRecord(step, 0, known, np.asarray(norms, float), counts, total, min(total, 1.0), loss=1.0, lr=0.1)
    return replace(filled, **changes)


def incident(step: int, layer: str, **changes: Any) -> Incident:
    """One spike."""
    remedy = Remedy("clip the norm", "one batch then cannot undo the training", "clip=gradwatch.ClipNorm(1.0)")
    cause = Cause("no_clipping", 0.6, "no clipping rule is set", (remedy,))
    spike = Incident("exploding", step, (layer,), Severity.ERROR, 1e4, 1e2, f"{layer} burst.", (cause,), num_layers=9)
    return replace(spike, **changes)


def spiky(logdir: Path, num_layers: int, num_steps: int, spikes: dict[int, int], told: int = 500) -> np.ndarray:
    """A long run in which one layer is 10,000 times larger at single steps; which, by step.

    Returns:
        Every norm, float32 ``[num_steps, num_layers]``.
    """
    known, rng = layers(num_layers), np.random.default_rng(0)
    norms = np.exp(rng.normal(0, 0.3, (num_steps, num_layers))) * 10.0 ** np.linspace(-4, -1, num_layers)
    for step, layer in spikes.items():
        norms[step, layer] = 10.0 ** np.linspace(-4, -1, num_layers)[layer] * 1e4
    writer = TensorBoardWriter(logdir, clock=lambda: 0.0)
    for step, row in enumerate(norms):
        sampled = {} if step % 10 else {"weight_norm": np.ones(num_layers), "update_ratio": row / 100}
        writer.write(record(step, known, row, **sampled))
        if step in spikes and told > 0:
            told -= 1
            writer.write_incident(incident(step, known[spikes[step]].name))
    writer.close()
    return norms.astype(np.float32)


def train(logdir: Path, model: nn.Module, optimizer: Any, num_steps: int, **options: Any) -> list[Incident]:
    """A real training under a watch."""
    with gradwatch.watch(model, writers=[TensorBoardWriter(logdir)], **options) as watch:
        healthy(watch, model, optimizer, range(num_steps))
    return watch.incidents


def sick(logdir: Path) -> list[Incident]:
    """Nine sigmoids: vanishing."""
    torch.manual_seed(0)
    model = mlp(9, nn.Sigmoid)
    return train(logdir, model, torch.optim.SGD(model.parameters(), 0.05), 40)


def blown_up(logdir: Path) -> list[Incident]:
    """Far too large weights: exploding, then NaN."""
    torch.manual_seed(0)
    model = mlp(6)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=3.0)
    return train(logdir, model, torch.optim.SGD(model.parameters(), 1.0), 40)


def recurrent(logdir: Path) -> list[Incident]:
    """A text model, with the signal through time of its LSTM."""
    torch.manual_seed(0)
    model = lstm()
    return train(logdir, model, torch.optim.Adam(model.parameters(), 1e-3), 30)


def two_optimizers(logdir: Path) -> list[Incident]:
    """Body and head have an optimizer each."""
    torch.manual_seed(0)
    model = lstm()
    body = torch.optim.Adam([*model.embed.parameters(), *model.body.parameters()], 1e-3)
    head = torch.optim.Adam(model.head.parameters(), 1e-3)
    with gradwatch.watch(model, writers=[TensorBoardWriter(logdir)]) as watch:
        for _ in range(10):
            text = torch.randint(0, 128, (4, 12))
            loss = nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
            loss.backward()
            for optimizer in (body, head):
                optimizer.step()
                optimizer.zero_grad()
    return watch.incidents


def resumed(logdir: Path) -> None:
    """Steps 0 to 49, then from the checkpoint of step 30 on again up to 69: an incident before, in and after both."""
    known = layers(6)
    for first, last, scale, at in ((0, 50, 1.0, (10, 40)), (30, 70, 2.0, (35, 60))):
        writer = TensorBoardWriter(logdir)
        for step in range(first, last):
            writer.write(record(step, known, np.full(6, scale)))
            if step in at:
                writer.write_incident(incident(step, known[2].name, message=f"session from {first}"))
        writer.close()


def killed(logdir: Path) -> None:
    """A process that is killed by SIGKILL at step 25, right after its incidents."""
    code = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
from pathlib import Path
from gradwatch.writers.tensorboard import TensorBoardWriter
from planted import incident, layers, record
known = layers(4)
writer = TensorBoardWriter(Path({str(logdir)!r}))
for step in range(100):
    writer.write(record(step, known, [1.0] * 4))
    if step in (5, 25):  # two of one step, and one that began before: a log must not take them for the same
        for index in range(2):
            writer.write_incident(incident(step, known[index].name))
        writer.write_incident(incident(step - 2, known[3].name))
    if step == 25:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9


def hostile(logdir: Path) -> None:
    """Names that attack a page, and a value of every sort."""
    known = tuple(Layer(name, name.rpartition(".")[0]) for name in HOSTILE)
    writer = TensorBoardWriter(logdir)
    for step in range(12):
        norms = np.ones(len(known))
        norms[:3] = np.nan, 0.0, 1e-40
        counts = np.zeros(len(known), dtype=np.int64)
        if step == 5:
            norms[4], counts[4] = np.nan, 3
            norms[5], counts[5] = np.inf, 1
        writer.write(record(step, known, norms, num_nonfinite=counts))
    writer.write_incident(incident(5, HOSTILE[0], message="</script><script>alert(2)</script>\u2028", layers=HOSTILE))
    writer.close()
