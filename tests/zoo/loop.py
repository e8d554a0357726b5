"""The one training loop, which everything here uses: with a watch, with a recorder, or with neither."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Observer(Protocol):
    """What the loop tells, at these moments and in this order."""

    def loss(self, loss: Tensor) -> object:
        """The loss of a micro-batch, before its backward pass."""

    def before_step(self) -> object:
        """All gradients are there; nothing was clipped."""

    def after_step(self) -> object:
        """The optimizer has stepped."""


class Silent:
    """An observer that looks away."""

    def loss(self, loss: Tensor) -> None:
        """Look away."""

    def before_step(self) -> None:
        """Look away."""

    def after_step(self) -> None:
        """Look away."""


class Watching(Silent):
    """An observer that hands the loss to a watch; the watch sees the steps by itself."""

    def __init__(self, watch: Any) -> None:
        self.watch = watch

    def loss(self, loss: Tensor) -> None:
        """Tell the watch."""
        self.watch.loss(loss)


def train(run: Any, steps: int, observer: Observer | None = None) -> list[float]:
    """Train and return the loss of every step, the mean over its micro-batches.

    The run is one of ours, or of another zoo with the same attributes (there the loss may come with an accuracy).
    """
    observer = observer or Silent()
    turns = getattr(run, "turns", ()) or (run,)
    run.model.train()
    losses: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(steps):
            turn = turns[step % len(turns)]
            if run.before_step:
                run.before_step(step)
            if run.zero_grad:
                turn.optimizer.zero_grad(set_to_none=True)
            losses.append(_backward(run, turn.loss_fn, observer))
            observer.before_step()
            _step(run, turn.optimizer)
            observer.after_step()
    return losses


def _backward(run: Any, loss_fn: Callable[..., Any], observer: Observer) -> float:
    """All micro-batches of one step; their mean loss."""
    total = 0.0
    scaler = getattr(run, "scaler", None)
    for _ in range(run.accum):
        out = loss_fn(run.model, next(run.batches))
        loss = out[0] if isinstance(out, tuple) else out
        observer.loss(loss)
        share = loss / run.accum
        (share if scaler is None else scaler.scale(share)).backward()
        total += float(loss.detach()) / run.accum
    return total


def _step(run: Any, optimizer: torch.optim.Optimizer) -> None:
    """Clip and step, by way of the scaler where there is one."""
    scaler = getattr(run, "scaler", None)
    if run.clip is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


class FirstBad(Silent):
    """Finds the first step at which the loss, an activation, a gradient or a weight is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.step = 0
        self.found: int | None = None
        leaves = [module for module in model.modules() if not any(True for _ in module.children())]
        self.handles = [module.register_forward_hook(self._look_at_output) for module in leaves]

    def loss(self, loss: Tensor) -> None:
        """Look at the loss."""
        self._look([loss])

    def before_step(self) -> None:
        """Look at the gradients."""
        self._look([p.grad for p in self.model.parameters() if p.grad is not None])

    def after_step(self) -> None:
        """Look at the weights."""
        self._look(list(self.model.parameters()))
        self.step += 1

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def _look_at_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            self._look([output])

    def _look(self, tensors: list[Tensor]) -> None:
        if self.found is None and not all(math.isfinite(float(t.detach().double().sum())) for t in tensors):
            self.found = self.step


def first_bad(run: Any, steps: int) -> int | None:
    """The first step at which anything is non-finite; trains the run."""
    watcher = FirstBad(run.model)
    try:
        train(run, steps, watcher)
    finally:
        watcher.close()
    return watcher.found
