"""Tiny real fits for both packages, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytorch_lightning
import torch
from helpers import grad_norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradwatch.lightning import GradWatch
from gradwatch.records import Incident, StepRecord

PACKAGES = [lightning.pytorch, pytorch_lightning]
NORM = "gradwatch/log10 gradient norm"


class Body:
    """What our LightningModules do, whichever package they come from: SGD with lr 1, so that weights tell gradients.

    ``norms`` are by the book, taken in the module's own ``on_before_optimizer_step``, which comes after the callbacks'.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.norms: list[float] = []
        self.losses: list[float] = []
        self.moves: list[float] = []
        self._before: list[Tensor] = []

    def batch_loss(self, batch: Tensor) -> Tensor:
        target = batch.abs().amax().clamp(min=1)  # an outlier in the input is one in the loss
        loss: Tensor = (self.net(batch) - target).square().mean()
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.batch_loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.net(batch)

    test_step = predict_step = validation_step

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.norms.append(grad_norm(self))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        self._before = [parameter.detach().clone() for parameter in self.parameters()]

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """By how much the weights moved in this batch."""
        moves = [(p.detach() - b).double() for p, b in zip(self.parameters(), self._before, strict=True)]
        self.moves.append(float(torch.sqrt(sum(move.square().sum() for move in moves))))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class LineWriter:
    """A user's own writer: one line a record. It can be pickled, and used again after ``close``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: StepRecord) -> None:
        with self.path.open("a") as file:
            print(record.step, *record.names, file=file)

    def write_incident(self, incident: Incident) -> None:
        """Not here."""

    def close(self) -> None:
        """Always closed."""


class Net(Body, lightning.pytorch.LightningModule):
    """At the top of a module, so that it can be pickled."""


class OtherNet(Body, pytorch_lightning.LightningModule):
    """The same for the other package."""


NETS = {lightning.pytorch: Net, pytorch_lightning: OtherNet}


def module(pl: Any, **methods: Any) -> Any:
    """A LightningModule of this package with other methods."""
    return type("Net", (Body, pl.LightningModule), methods)()


def inputs(num_batches: int = 4, *, batch_size: int = 2) -> DataLoader[Tensor]:
    """Always the same data, in the same order."""
    data = torch.randn(num_batches * batch_size, 4, generator=torch.Generator().manual_seed(1))
    return DataLoader(data, batch_size=batch_size)  # type: ignore[arg-type]


def spiky(num_batches: int, *spikes: int) -> DataLoader[Tensor]:
    """The same with batches that blow the gradient up."""
    data = torch.cat(list(inputs(num_batches)))
    for spike in spikes:
        data[2 * spike : 2 * spike + 2] *= 1e5
    return DataLoader(data, batch_size=2)  # type: ignore[arg-type]


def trainer(pl: Any, *callbacks: Any, **options: Any) -> Any:
    """A quiet Trainer on the CPU."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": any(hasattr(callback, "best_model_path") for callback in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**{**quiet, **options, "callbacks": list(callbacks)})


def amp(pl: Any, init_scale: float = 4.0) -> Any:
    """float16 with a real GradScaler: ``precision="16-mixed"`` alone is bfloat16 without one on a CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    return pl.plugins.precision.MixedPrecision("16-mixed", "cpu", scaler=scaler)


def fit(pl: Any, module: Any, watch: GradWatch, loader: Any = None, **options: Any) -> list[StepRecord]:
    """Fit, and read the records."""
    trainer(pl, watch, **options).fit(module, inputs() if loader is None else loader)
    return watch.history


def quiet_watch(**options: Any) -> GradWatch:
    """A callback that keeps the terminal quiet."""
    return GradWatch(**{"writers": [], **options})


def total_norms(records: list[StepRecord]) -> list[float]:
    """Before clipping."""
    return [record.total_norm for record in records]


def clipped_norms(records: list[StepRecord]) -> list[float]:
    """As the optimizer saw them."""
    return [record.clipped_norm for record in records]


def event_files(directory: Path) -> list[Path]:
    """All of them, at any depth."""
    return sorted(directory.rglob("events.out.tfevents.*"))


def points(directory: Path, tag: str) -> dict[int, float]:
    """A scalar's values by step, from the one event file."""
    (file,) = event_files(directory)
    accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0})
    return {event.step: event.value for event in accumulator.Reload().Scalars(tag)}


def plain_tags(directory: Path) -> list[str]:
    """Names of all scalars in the one event file."""
    (file,) = event_files(directory)
    return list(EventAccumulator(str(file)).Reload().Tags()["scalars"])


def packed_rows(directory: Path) -> int:
    """How many gradient norms for the gradwatch tab are on disk."""
    (file,) = event_files(directory)
    accumulator = EventAccumulator(str(file), size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in accumulator.Tags()["tensors"] if tag.startswith("gradwatch/v1/") and "grad_norm" in tag]
    return sum(len(accumulator.Tensors(tag)) for tag in tags)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have the same weights to the last bit."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(np.array_equal(a.detach().numpy().view(np.uint32), b.detach().numpy().view(np.uint32)) for a, b in pairs)
