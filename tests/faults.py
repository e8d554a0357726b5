"""Digits, and a plain loop over them, for the tests of what detectors say of real small trainings."""

from __future__ import annotations

from typing import Any

import torch
from helpers import quiet_watch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images ``[num, 64]`` of about size 1, and their labels."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(data.target)


def train(
    model: nn.Module,
    num_steps: int = 120,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scale: float = 1.0,
    size: int = 32,
    tell: bool = True,
    loss_fn: Any = functional.cross_entropy,
    watch: Any = None,
    start: int = 0,
    before: Any = None,
) -> Any:
    """Train on digits under a quiet watch; the batches of a step are always the same.

    Args:
        model: From ``[batch, 64]`` to what the loss takes.
        num_steps: The last one.
        optimizer: By default SGD at 0.05.
        scale: Of the inputs.
        size: Of a batch.
        tell: Whether the watch is told the loss.
        loss_fn: Of output and labels.
        watch: Goes on, and is not closed.
        start: The first step.
        before: Called with the step's number before each.
    """
    x, y = digits()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05)
    running = watch or quiet_watch(model)
    for step in range(start, num_steps):
        if before is not None:
            before(step)
        picked = torch.randint(len(x), (size,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = loss_fn(model(x[picked] * scale), y[picked])
        if tell:
            running.loss(loss)
        loss.backward()
        optimizer.step()
    if watch is None:
        running.close()
    return running


def kinds(watch: Any) -> list[str]:
    """What was told."""
    return [incident.kind for incident in watch.incidents]


JARGON = ("dead_share", "out_grad", "episode", "progress", " row ", "NaN NaN", "nan %", "inf times", "rms", " the the ")


def reads_well(incident: Any) -> None:
    """What happened, where, why and what to do, in sentences a newcomer can read."""
    assert incident.message.endswith(".")
    assert 40 < len(incident.message) < 400
    texts = [incident.message, *(cause.evidence for cause in incident.causes)]
    assert not [word for word in JARGON for text in texts if word in text], texts
    assert incident.layers
    assert incident.causes
    assert incident.causes[0].remedies
    assert all(remedy.action for remedy in incident.causes[0].remedies)
