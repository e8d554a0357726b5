"""Watching never changes training: with ``clip=None`` weights and random numbers are those of an unwatched run."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import batch_loss, copies, quiet_watch, small_model, train
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import swa_utils

Opener = Callable[..., contextlib.AbstractContextManager[Any]]
Scenario = Callable[[Opener], nn.Module]

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "foreach": ("Adam", {"foreach": True}),
    "not foreach": ("Adam", {"foreach": False}),
    "fused": ("AdamW", {"fused": True}),
    "maximize": ("SGD", {"lr": 0.01, "maximize": True, "fused": True}),
    "tensor lr": ("Adam", {"lr": torch.tensor(0.01)}),
    "NAdam": ("NAdam", {"decoupled_weight_decay": True}),
    "Rprop": ("Rprop", {}),
    "Adafactor": ("Adafactor", {}),
    "Adagrad": ("Adagrad", {"fused": True}),
}


def _with_optimizer(kind: str, options: dict[str, Any]) -> Scenario:
    def scenario(opened: Opener) -> nn.Module:
        model = small_model()
        with opened(model):
            train(model, getattr(torch.optim, kind)(model.parameters(), **options), 12)
        return model

    return scenario


def micro_batches_each_clipped(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model):
        for _ in range(5):
            optimizer.zero_grad(set_to_none=False)
            for _ in range(3):
                batch_loss(model).backward()
                clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    return model


def optimizer_made_again(opened: Opener) -> nn.Module:
    model = small_model()
    with opened(model):
        for _ in range(4):
            train(model, torch.optim.AdamW(model.parameters()), 3)
    return model


def opened_in_mid_step(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 3)
    batch_loss(model).backward()
    with opened(model):
        optimizer.step()
        train(model, optimizer, 3)
        batch_loss(model).backward()
    optimizer.step()
    train(model, optimizer, 3)
    return model


def half_precision(opened: Opener) -> nn.Module:
    model = small_model().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    with opened(model):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(8, 6, dtype=torch.bfloat16)).square().mean().backward()
            optimizer.step()
    return model


def gradients_by_hand(opened: Opener) -> nn.Module:
    """Expanded, transposed and double-backward gradients, set by the user."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model):
        for _ in range(4):
            gradients = torch.autograd.grad(batch_loss(model), list(model.parameters()), create_graph=True)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            for parameter in model.parameters():
                flipped = torch.randn(parameter.shape[::-1]).t() if parameter.dim() > 1 else torch.randn(1)
                parameter.grad = flipped.expand(parameter.shape)
            optimizer.step()
    return model


def gradient_penalty(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    with opened(model):
        for _ in range(4):
            optimizer.zero_grad()
            loss = batch_loss(model)
            gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            (loss + sum(gradient.square().sum() for gradient in gradients)).backward()
            optimizer.step()
    return model


def float64_by_default(opened: Opener) -> nn.Module:
    torch.set_default_dtype(torch.float64)
    try:
        return optimizer_made_again(opened)
    finally:
        torch.set_default_dtype(torch.float32)


def another_default_device(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    batches = [torch.randn(8, 6) for _ in range(5)]
    torch.set_default_device("meta")
    try:
        with opened(model):
            for batch in batches:
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
    finally:
        torch.set_default_device(None)
    return model


def deterministic_algorithms(opened: Opener) -> nn.Module:
    torch.use_deterministic_algorithms(True)
    try:
        return optimizer_made_again(opened)
    finally:
        torch.use_deterministic_algorithms(False)


def evaluation_in_between(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    with opened(model) as watch:
        for _ in range(3):
            train(model, optimizer, 2)
            with torch.inference_mode():
                loss = batch_loss(model.eval())
                if watch is not None:
                    watch.loss(loss)
            model.train()
    return model


def step_in_inference_mode(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model):
        for _ in range(4):
            optimizer.zero_grad()
            batch_loss(model).backward()
            with torch.inference_mode():
                optimizer.step()
    return model


def step_in_another_thread(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    with opened(model):
        for _ in range(3):
            optimizer.zero_grad()
            batch_loss(model).backward()
            thread = threading.Thread(target=optimizer.step)
            thread.start()
            thread.join()
    return model


def one_scaler_for_two_optimizers(opened: Opener) -> nn.Module:
    model = small_model()
    first, second = torch.optim.Adam(model[0].parameters()), torch.optim.SGD(model[2].parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with opened(model) as watch:
        for num in range(6):
            model.zero_grad()
            scaler.scale(batch_loss(model) * (math.inf if num == 3 else 1.0)).backward()
            scaler.unscale_(first)
            clip_grad_norm_(model[0].parameters(), 0.1)
            scaler.step(first)
            scaler.step(second)
            scaler.update()
    if watch is not None:
        assert [record.skipped for record in watch.history] == [False] * 6 + [True] * 2 + [False] * 4
    return model


class _IgnoresClosure(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        super().step()


class _ClosureAfterwards(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        super().step()
        with torch.enable_grad():
            return closure()


def odd_closures(opened: Opener) -> nn.Module:
    """Optimizers that never evaluate the closure, or only after the update."""
    model = small_model()

    def closure() -> Tensor:
        model.zero_grad()
        loss = batch_loss(model)
        loss.backward()
        return loss

    with opened(model) as watch:
        for optimizer in (_IgnoresClosure(model.parameters(), lr=0.1), _ClosureAfterwards(model.parameters(), lr=0.1)):
            for _ in range(3):
                closure()
                optimizer.step(closure)
    if watch is not None:
        assert watch.step == 6
    return model


def averaged_models(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model):
        averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
        for _ in range(5):
            train(model, optimizer, 1)
            averaged.update_parameters(model)
            scheduler.step()
    return averaged


class _Odd(nn.Module):
    """0-dim, empty and tied parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.empty = nn.Parameter(torch.ones(())), nn.Parameter(torch.empty(0, 3))
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(self.first(x)))) * self.gain + self.empty.sum()


def odd_parameters(opened: Opener) -> nn.Module:
    model = _Odd()
    with opened(model, every=1):
        train(model, torch.optim.Adam(model.parameters()), 4)
    return model


def channels_last(opened: Opener) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 64, 3), nn.Flatten()]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, every=1):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)).square().mean().backward()
            optimizer.step()
    return model


def frozen_and_thawed(opened: Opener) -> nn.Module:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    with opened(model):
        for trained in (False, True, False):
            model[0].requires_grad_(trained)
            train(model, optimizer, 3)
    return model


def dropout(opened: Opener) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5000), nn.Dropout(0.5), nn.Linear(5000, 4))
    with opened(model, every=1):
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), 4)
    return model


def many_small_tensors(opened: Opener) -> nn.Module:
    model = nn.ParameterList([torch.randn(3) for _ in range(5000)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model):
        for _ in range(2):
            optimizer.zero_grad()
            functional.softplus(torch.cat(list(model))).sum().backward()
            optimizer.step()
    return model


SCENARIOS: list[Scenario] = [
    micro_batches_each_clipped,
    optimizer_made_again,
    opened_in_mid_step,
    half_precision,
    gradients_by_hand,
    gradient_penalty,
    float64_by_default,
    another_default_device,
    deterministic_algorithms,
    evaluation_in_between,
    step_in_inference_mode,
    step_in_another_thread,
    one_scaler_for_two_optimizers,
    odd_closures,
    averaged_models,
    odd_parameters,
    channels_last,
    frozen_and_thawed,
    dropout,
    many_small_tensors,
]


@pytest.mark.parametrize(
    "scenario",
    [*SCENARIOS, *(_with_optimizer(*choice) for choice in OPTIMIZERS.values())],
    ids=[*(scenario.__name__ for scenario in SCENARIOS), *OPTIMIZERS],
)
def test_watching_never_changes_training(scenario: Scenario) -> None:
    """The weights are bit-equal to those of an unwatched run, and so is the state of the random numbers."""
    results = []
    for opened in (lambda *_, **__: contextlib.nullcontext(), quiet_watch):
        torch.manual_seed(0)
        model = scenario(opened)
        results.append([*copies(model.state_dict().values()), torch.get_rng_state()])
    assert len(results[0]) == len(results[1])
    for unwatched, watched in zip(*results, strict=True):
        assert torch.equal(unwatched, watched)
        assert unwatched.isfinite().all()
