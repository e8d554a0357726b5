"""The lines of the table that take a real training: other tools in their own loops, and the share of a step.

    python tests/benchmarks/overhead.py --only trainer   (or wandb, share, price)

All figures are CPU time of the whole process, background threads included, at each training step. A tool's cost is the
step with it less the step without it, in alternating blocks. What wandb does in its second process is not counted.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradwatch
from gradwatch import _price

PERIOD = 20
"""Steps after which everything that is sampled has had its turn."""


class Part(nn.Module):
    """One layer with a shortcut, so that 200 of them train."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(128, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add a little to what comes in."""
        return x + 0.05 * torch.relu(self.fc(x))


def mlp() -> nn.Sequential:
    """400 small tensors, 13 MB."""
    return nn.Sequential(*(Part() for _ in range(200)))


@contextlib.contextmanager
def cpu_clock() -> Iterator[None]:
    """Watches made within keep their own account in CPU time, as everything else here is measured."""
    usual, _price.CLOCK = _price.CLOCK, time.thread_time
    try:
        yield
    finally:
        _price.CLOCK = usual


@contextlib.contextmanager
def watching(model: nn.Module, clip: float = 1e9) -> Iterator[gradwatch.Watch]:
    """What a user runs, terminal left out."""
    with tempfile.TemporaryDirectory() as logdir:
        watch = gradwatch.watch(model, clip=gradwatch.ClipNorm(clip), logdir=logdir, writers=[])
        yield watch
        watch.close()


class Loop:
    """The plain loop round the MLP."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.x = mlp(), torch.randn(32, 128)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.run(5)

    def run(self, steps: int, after: Callable[[torch.Tensor], object] | None = None) -> float:
        """CPU seconds a step."""
        start = time.process_time()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.model(self.x).square().mean()
            loss.backward()
            self.optimizer.step()
            if after is not None:
                after(loss)
        return (time.process_time() - start) / steps

    def watched(self, steps: int) -> tuple[float, float]:
        """CPU seconds a step with a watch, and what the watch itself says of it."""
        with cpu_clock(), watching(self.model) as watch:
            self.run(PERIOD, watch.loss)
            account = watch._monitor.price
            before = account.watch_seconds
            seconds = self.run(steps, watch.loss)
            return seconds, (account.watch_seconds - before) / steps


def price(*, blocks: int) -> None:
    """Print whether a watch tells the truth about its cost.

    Two equal models train in turns: what the second takes more than the first, less what it took more before it was
    watched. One model alone, now with a watch and now without, drifts by more than a watch costs.
    """
    first, second = Loop(), Loop()

    def lead(after: Callable[[torch.Tensor], object] | None = None) -> float:
        """CPU seconds a step that the second takes more, from many short turns."""
        turns = []
        for turn in range(2 * blocks):
            order = (first, None), (second, after)
            taken = {loop: loop.run(2 * PERIOD, told) for loop, told in (order if turn % 2 else order[::-1])}
            turns.append(taken[second] - taken[first])
        return statistics.median(turns)

    before = lead()
    with cpu_clock(), watching(second.model) as watch:
        second.run(15 * PERIOD, watch.loss)  # after 300 steps the probes are on the schedule that they keep
        account = watch._monitor.price
        counted = account.watch_seconds
        cost = lead(watch.loss) - before
        own = (account.watch_seconds - counted) / (4 * blocks * PERIOD)
    print(
        f"the watch's own account (watch.summary()): {own * 1e3:.2f} ms a step; by the difference between an MLP that "
        f"is watched and one that is not {cost * 1e3:.2f} ms: {own / cost:.2f} of it",
        flush=True,
    )


def wandb(*, blocks: int) -> None:
    """Print how many times cheaper than ``wandb.watch(log_freq=1)``, offline, in the same loop."""
    if find_spec("wandb") is None:
        print("wandb.watch: wandb is not installed (pip install -r tests/benchmarks/requirements.txt)", flush=True)
        return
    import wandb as weights_and_biases

    loop, bare, theirs, ours = Loop(), [], [], []
    with tempfile.TemporaryDirectory() as room:
        settings = weights_and_biases.Settings(silent=True, console="off", x_disable_stats=True)
        run = weights_and_biases.init(mode="offline", dir=room, project="benchmark", settings=settings)
        for _ in range(blocks):
            gc.collect()
            bare.append(loop.run(PERIOD))
            run.watch(loop.model, log="gradients", log_freq=1)
            loop.run(2, lambda loss: run.log({"loss": float(loss.detach())}))
            theirs.append(loop.run(PERIOD, lambda loss: run.log({"loss": float(loss.detach())})))
            run.unwatch(loop.model)
            ours.append(loop.watched(3 * PERIOD)[0])
        run.finish()
    _print_costs(f"wandb.watch(log_freq=1) {weights_and_biases.__version__}, offline", bare, theirs, ours, 40)


def trainer(*, blocks: int) -> None:
    """Print how many times cheaper than ``self.log_dict(grad_norm(self, 2))`` in a real Trainer with TensorBoard."""
    from gradwatch.lightning import GradWatch

    bare, theirs, ours = [], [], []
    for _ in range(blocks):
        gc.collect()
        bare.append(_fit(norms=False, callback=None, steps=3 * PERIOD))
        theirs.append(_fit(norms=True, callback=None, steps=PERIOD))
        watch = GradWatch(clip=gradwatch.ClipNorm(1e9), writers=[])
        ours.append(_fit(norms=False, callback=watch, steps=3 * PERIOD))
    _print_costs("Lightning's log_dict(grad_norm) in a Trainer, TensorBoardLogger", bare, theirs, ours, 25)


def _print_costs(what: str, bare: list[float], theirs: list[float], ours: list[float], limit: int) -> None:
    costs = [statistics.median(x - b for x, b in zip(side, bare, strict=True)) for side in (theirs, ours)]
    print(
        f"{what}: {costs[0] * 1e3:.1f} ms more for a step of {statistics.median(bare) * 1e3:.1f} ms of the MLP, the "
        f"watch {costs[1] * 1e3:.2f} ms: {costs[0] / costs[1]:.0f} times cheaper, must be >= {limit}",
        flush=True,
    )


def _fit(*, norms: bool, callback: Any, steps: int) -> float:
    """CPU seconds a step of a ``fit``, after its first 20 steps."""
    import warnings

    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.utilities import grad_norm

    times: list[float] = []

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.body(batch).square().mean()

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            if norms:
                self.log_dict(grad_norm(self, norm_type=2))

        def on_train_batch_start(self, batch: torch.Tensor, batch_idx: int) -> None:
            if batch_idx in (PERIOD, PERIOD + steps):
                times.append(time.process_time())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    torch.manual_seed(0)
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as room, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = pl.Trainer(
            max_steps=PERIOD + steps + 1,
            accelerator="cpu",
            logger=TensorBoardLogger(room),
            log_every_n_steps=1,
            callbacks=[] if callback is None else [callback],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        fit.fit(Net(), torch.utils.data.DataLoader([torch.randn(32, 128)] * (PERIOD + steps + 1), batch_size=None))
    return (times[1] - times[0]) / steps


def share(*, blocks: int) -> None:
    """Print what part of a training step of GPT-2 small (one sequence of 128 tokens, AdamW) watching is."""
    if find_spec("transformers") is None:
        print("share of a GPT-2 step: transformers is not installed (pip install 'gradwatch[dev]')", flush=True)
        return
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    tokens = torch.randint(0, 50257, (1, 128))
    shares, seconds = [], []
    with cpu_clock(), watching(model) as watch:

        def train() -> float:
            start = time.process_time()
            for _ in range(PERIOD):
                optimizer.zero_grad()
                loss = model(tokens, labels=tokens).loss
                watch.loss(loss)
                loss.backward()
                optimizer.step()
            return time.process_time() - start

        train()
        for _ in range(blocks):
            before = watch._monitor.price.watch_seconds
            total = train()
            own = watch._monitor.price.watch_seconds - before
            shares.append(own / (total - own))
            seconds.append((own / PERIOD, (total - own) / PERIOD))
    own, step = (statistics.median(column) * 1e3 for column in zip(*seconds, strict=True))
    print(
        f"share of a training step of GPT-2 small (1 x 128 tokens, AdamW): {statistics.median(shares):.2%} "
        f"({min(shares):.2%} to {max(shares):.2%}; {own:.1f} ms of {step:.0f} ms, by the watch's own account), "
        "must be <= 1.50%",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(f"{Path(__file__).name} holds lines of the table that overhead.py prints")
