"""What several tests need: small real models, one backward pass, norms by the book, and torch as it was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.nn.utils import clip_grad
from torch.optim import optimizer as torch_optimizer

import gradwatch
from gradwatch import _listeners


def quiet_watch(model: nn.Module, optimizer: Any = None, **options: Any) -> gradwatch.Watch:
    """A watch that keeps the terminal quiet."""
    return gradwatch.watch(model, optimizer, **{"writers": [], **options})


def small_model() -> nn.Sequential:
    """Two linear layers, 6 -> 16 -> 4."""
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


def batch_loss(model: nn.Module, num: int = 8) -> Tensor:
    """The loss on a fresh random batch."""
    return functional.mse_loss(model(torch.randn(num, 6)), torch.randn(num, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int = 5, *, set_to_none: bool = True) -> None:
    """A plain loop."""
    for _ in range(num_steps):
        optimizer.zero_grad(set_to_none=set_to_none)
        batch_loss(model).backward()
        optimizer.step()


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What they hold now."""
    return [tensor.detach().clone() for tensor in tensors]


def norm_of(tensors: Iterable[Tensor | None]) -> float:
    """The L2 norm over all of them, in float64, by the book."""
    values = [t.detach().to_dense().to(torch.complex128).abs() for t in tensors if t is not None]
    return math.sqrt(sum(float(value.square().sum()) for value in values))


def grad_norm(model: nn.Module) -> float:
    """The total norm of the gradients that the model holds now."""
    return norm_of(parameter.grad for parameter in model.parameters())


def clip_like_accelerate(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """By hand, past every function of torch that could be listened to."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters]))
    for parameter in parameters:
        parameter.grad.mul_(torch.clamp(max_norm / (total + 1e-6), max=1.0))


def torch_as_it_is() -> list[Any]:
    """Everything in torch that a watch taps, to compare before and after."""
    return [
        dict(torch_optimizer._global_optimizer_pre_hooks),
        dict(torch_optimizer._global_optimizer_post_hooks),
        torch.amp.GradScaler.step,
        torch.amp.GradScaler.unscale_,
        dict(torch_module._global_forward_hooks),
        dict(torch_module._global_forward_hooks_with_kwargs),
        dict(torch_module._global_forward_pre_hooks),
        clip_grad._group_tensors_by_device_and_dtype,
        clip_grad.clip_grad_norm_,
        clip_grad.clip_grad_value_,
        list(_listeners._subscriptions),
    ]
