"""Further severity sweeps, over other faults and other nets than those of ``sweeps``; judged in the same way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models_seq
from zoo.blind_third import Small, bag, decays, once, quick_biases, sharp, unclipped
from zoo.blind_third_healthy import Groups, chain, drawn, friedman, go, he, motion, shown
from zoo.core import Batch, Run
from zoo.recipes import squared_error
from zoo.sweeps import DIVERGES, Sweep, powers

optim = torch.optim


def wild_lstm(seed: int, std: float) -> Run:
    """An LSTM forecasts; the deviation of its weights."""
    model = models_seq.Fused("lstm", 1, 32, 1)
    for p in model.rnn.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=std)
    return go(seed, model, optim.SGD, 0.1, momentum=0.9, loss=squared_error, stream=motion(32, seed), clip=1.0)


def decay(seed: int, share: float) -> Run:
    """Adam's own weight decay on convolutions."""
    return go(seed, Small(), optim.Adam, 3e-3, weight_decay=share)


def momentum(seed: int, rest: float) -> Run:
    """SGD with a momentum of one minus the level."""
    return go(seed, Groups(2), optim.SGD, 0.05, momentum=1 - rest)


def sample_weight(seed: int, weight: float) -> Run:
    """One sample of batch 60 has another weight."""

    def rare(batch: Batch) -> Batch:
        weights = torch.ones(len(batch[1]))
        weights[0] = weight
        return (*batch[:2], weights)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        each = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return (each * (batch[2] if len(batch) > 2 else 1.0)).mean()

    stream = once(data.batches(*data.digits(), 32, seed), 60, rare)
    return go(seed, drawn(Small(), he), optim.SGD, 0.05, momentum=0.9, loss=loss, stream=stream)


def offset(seed: int, shift: float) -> Run:
    """A constant that was never taken off the features."""
    stream = ((x + shift, y) for x, y in friedman(32, seed))
    return go(seed, chain(10, 48, 1, act=nn.SiLU), optim.SGD, 0.02, momentum=0.9, loss=squared_error, stream=stream)


def faint(seed: int, unit: float) -> Run:
    """Features in a unit that makes them tiny."""
    stream = ((x * unit, y) for x, y in shown("breast_cancer", 32, seed))
    return go(seed, chain(30, 32, 2, act=nn.Tanh), optim.SGD, 0.1, momentum=0.9, stream=stream)


def fan_power(seed: int, power: float) -> Run:
    """Seven GELU layers; the deviation of a weight is 1.4 times the fan-in to the power of minus the level."""

    def fill(weight: Tensor) -> Any:
        return nn.init.normal_(weight, std=1.4 * weight.shape[1] ** -power)

    model = drawn(chain(13, *[32] * 7, 3, act=nn.GELU), fill)
    return go(seed, model, optim.SGD, 0.012, momentum=0.9, stream=shown("wine", 32, seed))


SWEEPS = (
    Sweep("attention_logits_up", ("saturation", "vanishing", "stalled", *DIVERGES),
          (0.2, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0), sharp, 200),
    Sweep("lstm_weights_up", ("saturation", "vanishing", "stalled", "exploding"),
          (0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 30.0), wild_lstm),
    Sweep("adam_decay_up", ("vanishing", "stalled", "dead_relu"), (1e-4, 1e-3, 0.01, 0.03, 0.1, 1.0, 10.0), decay),
    Sweep("momentum_up", DIVERGES, (0.1, 0.05, 0.02, 3e-3, -0.01, -0.03, -0.1, -0.3), momentum),
    Sweep("bias_rate_up", DIVERGES, (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0), quick_biases),
    Sweep("decay_steps_down", ("stalled",), (1000.0, 300.0, 100.0, 50.0, 20.0, 10.0, 3.0), decays),
    Sweep("sample_weight_up", ("data_outlier", "input_scale", *DIVERGES), powers(0, 7), sample_weight, 130),
    Sweep("feature_offset_up", ("input_scale", "saturation", *DIVERGES),
          (0.0, 0.3, 1.0, 3.0, 10.0, 100.0, 1e4), offset),
    Sweep("features_down", ("input_scale", "vanishing", "stalled"), (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5), faint),
    Sweep("clip_up_relu_recurrence", DIVERGES, (0.5, 1.0, 2.0, 30.0, 100.0, 1e3, 1e6), unclipped, 200),
    Sweep("adagrad_rate_up_bag", (*DIVERGES, "saturation"), (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), bag),
    Sweep("fan_in_power_up", ("vanishing", "stalled"), (0.5, 0.55, 0.6, 0.65, 0.7, 0.85, 1.0), fan_power),
)  # fmt: skip
