"""Records what the published rules of peers look at: losses, gradients, weights, activations, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo import loop

RELUS = (nn.ReLU, nn.LeakyReLU)
SATURABLE = (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Softsign)


@dataclass
class Param:
    """One weight at one step; gradient figures are None where there is no gradient, ``moved`` is the update's norm."""

    name: str
    grad_norm: float | None = None
    grad_mean: float | None = None
    bad: bool = False
    weight_norm: float = 0.0
    variance: float = 0.0
    grad_zero: float = 0.0
    moved: float = 0.0


@dataclass
class Unit:
    """One activation module at one step: shares of zero outputs, closed units, flat units, inputs beyond 5."""

    name: str
    kind: str
    zero: float = 0.0
    closed: float = 0.0
    flat: float = 0.0
    beyond5: float = 0.0
    bad: bool = False


@dataclass
class Row:
    """One step."""

    loss: float = math.nan
    params: list[Param] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    bad_output: str = ""

    @property
    def norm(self) -> float:
        """The total norm of the gradients."""
        return math.sqrt(sum(p.grad_norm**2 for p in self.params if p.grad_norm is not None))

    @property
    def matrices(self) -> list[Param]:
        """The weights that are matrices and have a gradient, from first to last."""
        return [p for p in self.params if p.grad_mean is not None and p.name.rsplit(".", 1)[-1].startswith("weight")]


class Recorder(loop.Silent):
    """An observer that keeps a row for every step; hooks sit on leaf modules while it is open."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.rows: list[Row] = []
        self.row = Row()
        self.micro: list[float] = []
        leaves = [(name, module) for name, module in model.named_modules() if not any(True for _ in module.children())]
        self.handles = [module.register_forward_hook(self._hook(name)) for name, module in leaves]

    def loss(self, loss: Tensor) -> None:
        """Keep the loss."""
        self.micro.append(float(loss.detach()))

    def before_step(self) -> None:
        """Keep gradients and weights."""
        self.row.loss = sum(self.micro) / max(1, len(self.micro))
        self.before = [p.detach().clone() for p in self.model.parameters()]
        for name, parameter in self.model.named_parameters():
            self.row.params.append(_param(name, parameter))

    def after_step(self) -> None:
        """Keep the updates; close the row."""
        for kept, old, new in zip(self.row.params, self.before, self.model.parameters(), strict=True):
            kept.moved = float((new.detach() - old).float().norm())
        self.rows.append(self.row)
        self.row, self.micro = Row(), []

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            out = output.detach().float()
            if not self.row.bad_output and not bool(out.isfinite().all()):
                self.row.bad_output = name
            if isinstance(module, (*RELUS, *SATURABLE)):
                self.row.units.append(_unit(name, module, args[0].detach().float(), out))

        return hook


def _param(name: str, parameter: Tensor) -> Param:
    """The figures of one weight."""
    weight = parameter.detach().float()
    kept = Param(name, weight_norm=float(weight.norm()), variance=float(weight.var()) if weight.numel() > 1 else 0.0)
    kept.bad = not bool(weight.isfinite().all())
    if parameter.grad is not None:
        grad = parameter.grad.detach().to_dense().double()
        kept.grad_norm, kept.grad_mean, kept.grad_zero = (
            float(grad.norm()),
            float(grad.abs().mean()),
            float((grad == 0).double().mean()),
        )
        kept.bad = kept.bad or not bool(grad.isfinite().all())
    return kept


def _unit(name: str, module: nn.Module, inputs: Tensor, out: Tensor) -> Unit:
    """The figures of one activation module; flat ends as in SageMaker Debugger: where float32 gives 0 or 1 exactly."""
    by_unit = (out == 0).transpose(1, -1).flatten(0, -2).float()
    low, high = (-23.0, 16.99999) if isinstance(module, nn.Sigmoid) else (-9.4999, 9.4999)
    flat = ((inputs < low) | (inputs > high)).transpose(1, -1).flatten(0, -2).float()
    return Unit(
        name,
        "relu" if isinstance(module, RELUS) else "saturable",
        zero=float((out == 0).float().mean()),
        closed=float((by_unit.mean(0) == 1).float().mean()),
        flat=float((flat.mean(0) == 1).float().mean()),
        beyond5=float((inputs.abs() >= 5).float().mean()),
        bad=not bool(out.isfinite().all()),
    )


def record(run: Any, steps: int) -> list[Row]:
    """Train a run and record it."""
    recorder = Recorder(run.model)
    try:
        with torch.random.fork_rng():
            loop.train(run, steps, recorder)
    finally:
        recorder.close()
    return recorder.rows
