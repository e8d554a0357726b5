"""Runs put together from models, data and optimizers: what scenarios are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Batch, Run

VOCAB = data.text()[1]


def optimizer(parameters: Iterable[Any], kind: str, lr: float, **options: Any) -> torch.optim.Optimizer:
    """``sgd``, ``momentum``, ``nesterov``, ``adam``, ``adamw``, ``rmsprop``, ``adagrad``, ``adamax`` or ``nadam``."""
    if kind in ("momentum", "nesterov"):
        options = {"momentum": 0.9, "nesterov": kind == "nesterov", **options}
        return torch.optim.SGD(parameters, lr=lr, **options)
    kinds: dict[str, Any] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
        "adagrad": torch.optim.Adagrad,
        "adamax": torch.optim.Adamax,
        "nadam": torch.optim.NAdam,
    }
    return kinds[kind](parameters, lr=lr, **options)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """For classes, of a batch or of every position."""
    logits = model(batch[0])
    return functional.cross_entropy(logits.flatten(0, -2).float(), batch[1].flatten())


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """For one target."""
    return functional.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def rebuild(model: nn.Module, batch: Batch) -> Tensor:
    """For autoencoders: the input is the target."""
    return functional.mse_loss(model(batch[0]), batch[0])


def scheduled(run: Run, factor: Callable[[int], float]) -> Run:
    """The run with its learning rates multiplied by ``factor(step)``."""
    base = [group["lr"] for group in run.optimizer.param_groups]

    def set_rate(step: int) -> None:
        for group, rate in zip(run.optimizer.param_groups, base, strict=False):
            group["lr"] = rate * factor(step)

    run.before_step = set_rate
    return run


def at_step(run: Run, step: int | None, action: Callable[[], object]) -> Run:
    """The run with something done once, right before that step; never, for None."""

    def act(now: int) -> None:
        if now == step:
            action()

    run.before_step = act
    return run


def sized(depth: int, width: int, d_in: int = 64, d_out: int = 10) -> list[int]:
    """Sizes of a stack with ``depth`` hidden layers."""
    return [d_in] + [width] * depth + [d_out]


def upto(prefix: str, stop: int, start: int = 0) -> tuple[str, ...]:
    """Names of numbered layers."""
    return tuple(f"{prefix}.{i}" for i in range(start, stop))


def on_digits(
    seed: int,
    model: nn.Module,
    kind: str = "sgd",
    lr: float = 0.1,
    size: int = 64,
    *,
    times: float = 1.0,
    clip: float | None = None,
    **options: Any,
) -> Run:
    """Classify digits."""
    x, y = data.digits()
    return Run(
        model,
        optimizer(model.parameters(), kind, lr, **options),
        data.batches(x * times, y, size, seed),
        cross_entropy,
        clip,
    )


def stack(
    seed: int,
    depth: int = 3,
    width: int = 48,
    act: str = "relu",
    init: str = "torch",
    *,
    gain: float = 1.0,
    functional: bool = False,
    norm: str = "",
    drop: float = 0.0,
    **rest: Any,
) -> Run:
    """A stack on digits."""
    model = models.Stack(sized(depth, width), act, functional=functional, norm=norm, drop=drop)
    return on_digits(seed, models.reset(model, init, gain), **rest)


def images(
    seed: int,
    init: str = "torch",
    gain: float = 1.0,
    *,
    kind: str = "momentum",
    lr: float = 0.05,
    size: int = 32,
    **rest: Any,
) -> Run:
    """Convolutions on digits; options of the model and of the optimizer may be mixed."""
    names = ("depth", "width", "act", "functional", "norm", "shortcut", "branch")
    model = models.Images(**{key: rest.pop(key) for key in names if key in rest})
    return on_digits(seed, models.reset(model, init, gain), kind, lr, size, **rest)


def tabular(
    seed: int,
    name: str,
    depth: int = 2,
    width: int = 32,
    act: str = "relu",
    *,
    init: str = "torch",
    gain: float = 1.0,
    kind: str = "adam",
    lr: float = 3e-3,
    size: int = 32,
    standardise: bool = True,
    functional: bool = False,
    norm: str = "",
    **options: Any,
) -> Run:
    """A stack on wine, breast_cancer or diabetes."""
    x, y = data.table(name, standardise=standardise)
    regression = name == "diabetes"
    d_out = 1 if regression else int(y.max()) + 1
    model = models.Stack(sized(depth, width, x.shape[1], d_out), act, functional=functional, norm=norm)
    models.reset(model, init, gain)
    loss = squared_error if regression else cross_entropy
    return Run(model, optimizer(model.parameters(), kind, lr, **options), data.batches(x, y, size, seed), loss)


def echoing(
    seed: int,
    model: nn.Module,
    length: int,
    lr: float = 3e-3,
    kind: str = "adam",
    *,
    lag: int | None = None,
    clip: float | None = 1.0,
) -> Run:
    """Remember a class over noisy frames."""
    return Run(model, optimizer(model.parameters(), kind, lr), data.echo(32, length, seed, lag), cross_entropy, clip)


def writing(
    seed: int, model: nn.Module, kind: str = "adam", lr: float = 3e-3, size: int = 16, *, length: int = 24, **rest: Any
) -> Run:
    """Predict the next character of a text."""
    clip = rest.pop("clip", None)
    return Run(
        model, optimizer(model.parameters(), kind, lr, **rest), data.windows(size, length, seed), cross_entropy, clip
    )


def transformer(seed: int, kind: str = "adamw", lr: float = 3e-3, **rest: Any) -> Run:
    """A hand-written transformer on text."""
    names = ("width", "layers", "heads", "sharp", "norm", "tied")
    model = models_seq.OwnTransformer(VOCAB, **{key: rest.pop(key) for key in names if key in rest})
    return writing(seed, model, kind, lr, size=12, **rest)


def pretrained(model: nn.Module, seed: int, steps: int = 60, lr: float = 3e-3) -> nn.Module:
    """The model after some steps of Adam on digits."""
    run = on_digits(seed + 50, model, "adam", lr)
    for _ in range(steps):
        run.optimizer.zero_grad()
        run.loss_fn(model, next(run.batches)).backward()
        run.optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


def odd_batch(
    run: Run,
    at: int | None,
    *,
    inputs: float = 1.0,
    targets: float = 1.0,
    rows: int | None = None,
    until: int | None = None,
) -> Run:
    """The run with one batch's inputs or targets multiplied, all rows or the first few."""

    def change(batch: Batch) -> Batch:
        x, y = batch[0].clone(), batch[1].clone()
        x[:rows] *= inputs
        if not math.isclose(targets, 1.0):
            y[:rows] *= targets
        return x, y

    if at is not None:
        run.batches = data.altered(run.batches, change, at, until)
    return run
