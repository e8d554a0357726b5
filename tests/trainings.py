"""Short real trainings, healthy and sick, for tests that compare what was said live with what a recording says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models import batch, loss_of, lstm, mlp
from torch import nn

import gradwatch
from gradwatch.records import Incident


def healthy(watch: Any, model: nn.Module, optimizer: Any, steps: range) -> None:
    """As it should be; batches are the same for the same step."""
    for step in steps:
        loss = loss_of(model, batch(model, torch.Generator().manual_seed(step)))
        watch.loss(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _healthy(path: Path) -> list[Incident]:
    model = mlp()
    with _watch(model, path) as watch:
        healthy(watch, model, torch.optim.Adam(model.parameters(), 1e-3), range(40))
    return watch.incidents


def _sigmoids(path: Path) -> list[Incident]:
    """Vanishing, with a cause that needs the model's structure."""
    model = mlp(8, nn.Sigmoid)
    with _watch(model, path) as watch:
        healthy(watch, model, torch.optim.SGD(model.parameters(), 0.05), range(30))
    return watch.incidents


def _blown_up(path: Path) -> list[Incident]:
    """Far too large weights: exploding, then NaN."""
    model = mlp(6)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=3.0)
    with _watch(model, path) as watch:
        healthy(watch, model, torch.optim.SGD(model.parameters(), 1.0), range(30))
    return watch.incidents


def _nan(path: Path) -> list[Incident]:
    """One bad number in the data of one step."""
    model = mlp(3, nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with _watch(model, path) as watch:
        healthy(watch, model, optimizer, range(20))
        x, y = batch(model, torch.Generator().manual_seed(20))
        x[0, 0] = math.nan
        loss = loss_of(model, (x, y))
        watch.loss(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        healthy(watch, model, optimizer, range(21, 30))
    return watch.incidents


def _two_optimizers(path: Path) -> list[Incident]:
    """A healthy text model, its head with a learning rate far too high, by an optimizer of its own."""
    model = lstm()
    body = torch.optim.Adam([*model.embed.parameters(), *model.body.parameters()], 1e-3)
    head = torch.optim.Adam(model.head.parameters(), 5.0)
    with _watch(model, path, every=2) as watch:
        for step in range(40):
            loss = loss_of(model, batch(model, torch.Generator().manual_seed(step), 4))
            watch.loss(loss)
            loss.backward()
            for optimizer in (body, head):
                optimizer.step()
                optimizer.zero_grad()
    return watch.incidents


def _resumed(path: Path) -> list[Incident]:
    """Killed at step 25, resumed from the checkpoint of step 18: the file holds steps 18 to 24 twice."""
    model = mlp(8, nn.Sigmoid)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    first = _watch(model, path)
    healthy(first, model, optimizer, range(18))
    saved = first.state_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    healthy(first, model, optimizer, range(18, 25))
    first.close()
    model.load_state_dict(saved[1])
    with _watch(model, path) as second:
        second.load_state_dict(saved[0])
        healthy(second, model, torch.optim.SGD(model.parameters(), 0.05), range(18, 45))
    return second.incidents


def _outlier(path: Path) -> list[Incident]:
    """One batch with targets that are far off."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with _watch(model, path, clip=gradwatch.ClipNorm(1.0)) as watch:
        for step in range(40):
            generator = torch.Generator().manual_seed(step)
            x, y = torch.randn(32, 6, generator=generator), torch.randn(32, 1, generator=generator)
            loss = nn.functional.mse_loss(model(x), y * (1e4 if step == 30 else 1.0))
            watch.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return watch.incidents


def _stalled(path: Path) -> list[Incident]:
    """A learning rate of next to nothing."""
    model = mlp()
    with _watch(model, path) as watch:
        healthy(watch, model, torch.optim.SGD(model.parameters(), 1e-9), range(140))
    return watch.incidents


def _mislabelled(path: Path) -> list[Incident]:
    """Labels that have nothing to do with the images; that nothing is learnt shows by what guessing would give."""
    model = mlp()
    for parameter in model.parameters():
        parameter.data *= 1.5  # as trained ones, which may rest where they have learnt something
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with _watch(model, path) as watch:
        for step in range(220):
            generator = torch.Generator().manual_seed(step)
            images, _ = batch(model, generator, 256)
            loss = nn.functional.cross_entropy(model(images), torch.randint(10, (256,), generator=generator))
            watch.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return watch.incidents


class _Reader(nn.Module):
    """Reads an image line by line; the update gate of its memory is shut."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)
        self.rnn.bias_ih_l0.data[32:64] += 12.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.head(self.rnn(images.reshape(-1, 8, 8))[0][:, -1])


def _shut_gate(path: Path) -> list[Incident]:
    """A gate through which nothing new comes."""
    model = _Reader()
    with _watch(model, path) as watch:
        healthy(watch, model, torch.optim.SGD(model.parameters(), 0.05), range(40))
    return watch.incidents


def _watch(model: nn.Module, path: Path, **options: Any) -> Any:
    return gradwatch.watch(model, writers=[gradwatch.JSONLWriter(path)], **options)


TRAININGS: dict[str, Callable[[Path], list[Incident]]] = {
    "healthy": _healthy,
    "sigmoids": _sigmoids,
    "blown up": _blown_up,
    "nan": _nan,
    "two optimizers": _two_optimizers,
    "resumed": _resumed,
    "outlier": _outlier,
    "stalled": _stalled,
    "mislabelled": _mislabelled,
    "shut gate": _shut_gate,
}
"""Each trains, records into the file, and gives the incidents that were told live."""
