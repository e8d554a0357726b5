"""Faulty runs whose steps are too long (learning rate too high) or too short (stalled)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Batch, Registry, Run
from zoo.recipes import (
    VOCAB,
    cross_entropy,
    images,
    on_digits,
    optimizer,
    scheduled,
    stack,
    tabular,
    transformer,
    writing,
)

SCENARIOS = Registry()
H, L = "lr_too_high", "stalled"
DIVERGES = ("exploding", "nonfinite")


def jumping(seed: int, what: str, factor: float, at: int) -> Run:
    """The learning rate is multiplied by ``factor`` from step ``at`` on."""
    run = {
        "convs": lambda: images(seed, depth=4, kind="sgd", lr=0.1, norm=True),
        "lstm": lambda: writing(seed, models_seq.Fused("lstm", 16, 32, VOCAB, vocab=VOCAB, every=True), "adam", 5e-3),
        "tabular": lambda: tabular(seed, "breast_cancer", kind="rmsprop", lr=1e-3),
    }[what]()
    return scheduled(run, lambda step: factor if step >= at else 1.0)


def torch_transformer(seed: int, lr: float, clip: float | None = 1.0) -> Run:
    """``nn.TransformerEncoder`` on text with Adam and clipping."""
    return writing(seed, models_seq.TorchTransformer(VOCAB), "adam", lr, clip=clip)


def summed(seed: int, lr: float) -> Run:
    """A loss that sums over the batch."""
    run = stack(seed, 3, 48, "gelu", kind="sgd", lr=lr, size=128)
    run.loss_fn = lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
    return run


def triangle(seed: int, peak: float, period: int = 80) -> Run:
    """A cyclic rate between 1 and ``peak`` times the base, which rises from step 40 on."""
    run = stack(seed, 3, 48, "tanh", kind="momentum", lr=0.02)
    return scheduled(run, lambda step: 1 + (peak - 1) * max(0.0, 1 - abs((step % period) - 40) / 8))


def tiny_clip(seed: int, clip: float) -> Run:
    """A GRU under clipping, plain SGD."""
    return writing(seed, models_seq.Fused("gru", 16, 32, VOCAB, vocab=VOCAB, every=True), "sgd", 2.0, clip=clip)


def decaying(seed: int, at: int) -> Run:
    """The schedule reaches zero at step ``at``."""
    return scheduled(images(seed, depth=4, norm=True, lr=0.002), lambda step: max(0.0, 1 - step / at))


def stuck_warmup(seed: int, *, stuck: bool) -> Run:
    """A warm-up from 1e-6 of the rate; stuck if nobody advances the scheduler."""
    return scheduled(transformer(seed), lambda step: 1e-6 if stuck else min(1.0, (step + 1) / 30))


def brain_weights(seed: int, lr: float, *, brain: bool) -> Run:
    """Weights in bfloat16: an update below 1/256 of a weight is rounded away."""
    model = models.reset(models.Stack([64, 64, 64, 10]), "torch")
    run = on_digits(seed, model.bfloat16() if brain else model, "sgd", lr)
    if brain:
        run.batches = ((x.bfloat16(), y) for x, y in run.batches)
    return run


def faint_loss(seed: int, factor: float, *, half: bool = False, compensate: bool = False) -> Run:
    """The loss is multiplied by a small factor; in half precision its gradients become exact zeros."""
    model = models.Stack([64, 64, 64, 10], "tanh")
    run = on_digits(seed, model.half() if half else model, "sgd", 0.3 / factor if compensate else 0.3)
    if half:
        run.batches = ((x.half(), y) for x, y in run.batches)
    run.loss_fn = lambda model, batch: cross_entropy(model, batch) * factor
    return run


def per_group(seed: int, lr: float) -> Run:
    """The body of a convolutional net has a learning rate of its own, and a far too small one."""
    run = images(seed, "he", depth=4)
    head = run.model.head
    groups = [{"params": run.model.convs.parameters(), "lr": lr}, {"params": head.parameters(), "lr": lr}]
    run.optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    return run


def diverging_regression(seed: int, lr: float) -> Run:
    """Least squares on diabetes by plain gradient descent."""
    model = nn.Linear(10, 1)
    x, y = data.table("diabetes")

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.mse_loss(model(batch[0])[:, 0], batch[1])

    return Run(model, optimizer(model.parameters(), "sgd", lr), data.batches(x, y, 64, seed), loss)


add = SCENARIOS.pair
HIGH = ("lr_too_high", "dead_by_learning_rate")  # both say that the rate is too high
JUMP, LOW = ("lr_jumped",), ("lr_too_low",)
add("adam_half_convs", H, "convolutions under Adam with lr 0.5", images, {"depth": 4, "kind": "adam", "lr": 0.5},
    {"depth": 4, "kind": "adam", "lr": 3e-3}, HIGH, accept=(*DIVERGES, "dead_relu"), steps=120)  # fmt: skip
add("sgd_jump_200_convs", H, "SGD's rate is multiplied by 400 at step 60, BatchNorm convolutions", jumping,
    {"what": "convs", "factor": 400.0, "at": 60}, {"what": "convs", "factor": 1.0, "at": 60}, JUMP, onset=60,
    accept=DIVERGES, steps=120)  # fmt: skip
add("adam_jump_300_lstm", H, "Adam's rate is multiplied by 300 at step 60, LSTM on text", jumping,
    {"what": "lstm", "factor": 300.0, "at": 60}, {"what": "lstm", "factor": 1.0, "at": 60}, JUMP, onset=60,
    accept=(*DIVERGES, "saturation"), steps=120)  # fmt: skip
add("rmsprop_jump_1000", H, "RMSprop's rate is multiplied by 1000 at step 50, tabular net", jumping,
    {"what": "tabular", "factor": 1000.0, "at": 50}, {"what": "tabular", "factor": 1.0, "at": 50}, JUMP, onset=50,
    accept=(*DIVERGES, "dead_relu"), steps=120)  # fmt: skip
add("momentum_0.999", H, "momentum 0.999 with a rate tuned for 0.9", stack,
    {"kind": "momentum", "lr": 0.05, "momentum": 0.999}, {"kind": "momentum", "lr": 0.05}, HIGH,
    accept=(*DIVERGES, "dead_relu"), steps=200)  # fmt: skip
add("rmsprop_1_wide", H, "RMSprop with lr 1", stack,
    {"width": 96, "act": "elu", "kind": "rmsprop", "lr": 1.0},
    {"width": 96, "act": "elu", "kind": "rmsprop", "lr": 1e-3}, HIGH, accept=(*DIVERGES, "saturation"),
    steps=120)  # fmt: skip
add("adagrad_30", H, "Adagrad with lr 30", tabular, {"name": "diabetes", "kind": "adagrad", "lr": 30.0},
    {"name": "diabetes", "kind": "adagrad", "lr": 0.03}, HIGH, accept=(*DIVERGES, "dead_relu"), steps=150)  # fmt: skip
add("nesterov_5_convs", H, "Nesterov with lr 5", images,
    {"depth": 3, "init": "he", "kind": "nesterov", "lr": 5.0},
    {"depth": 3, "init": "he", "kind": "nesterov", "lr": 0.03}, HIGH, accept=(*DIVERGES, "dead_relu"),
    steps=100)  # fmt: skip
add("torch_transformer_adam_0.2", H, "nn.TransformerEncoder under Adam with lr 0.2, clipped", torch_transformer,
    {"lr": 0.2}, {"lr": 3e-3}, HIGH, accept=("exploding",), steps=120)  # fmt: skip
add("summed_loss_mean_rate", H, "the loss sums over 128 samples, the rate was tuned for their mean", summed,
    {"lr": 0.5}, {"lr": 0.5 / 128}, HIGH, accept=(*DIVERGES, "saturation"), steps=120)  # fmt: skip
add("sgd_2_regression", H, "least squares by gradient descent beyond its limit of stability", diverging_regression,
    {"lr": 0.7}, {"lr": 0.05}, HIGH, accept=DIVERGES, steps=120)  # fmt: skip

add("sgd_1e-7_residual", L, "SGD with lr 1e-7, residual net",
    lambda seed, lr: on_digits(seed, models.Residual(4, 32), "momentum", lr), {"lr": 1e-7}, {"lr": 0.03}, LOW,
    steps=120)  # fmt: skip
add("adamw_1e-8_transformer", L, "AdamW with lr 1e-8, transformer", transformer, {"lr": 1e-8}, {"lr": 3e-3}, LOW,
    steps=120)  # fmt: skip
add("adamax_1e-6_tabular", L, "Adamax with lr 1e-6, tabular net", tabular,
    {"name": "breast_cancer", "kind": "adamax", "lr": 1e-6}, {"name": "breast_cancer", "kind": "adamax", "lr": 5e-3},
    LOW, steps=150)  # fmt: skip
add("clip_1e-5_gru", L, "gradients clipped at 1e-5, GRU under SGD", tiny_clip, {"clip": 1e-5}, {"clip": 1.0},
    ("clipping_too_small",), steps=150)  # fmt: skip
add("adam_eps_10_convs", L, "Adam with eps 10, convolutions", images,
    {"depth": 3, "kind": "adam", "lr": 1e-3, "eps": 10.0}, {"depth": 3, "kind": "adam", "lr": 3e-3},
    ("eps_too_large",), steps=120)  # fmt: skip
add("rmsprop_eps_1e4", L, "RMSprop with eps 1e4", stack, {"kind": "rmsprop", "lr": 1e-2, "eps": 1e4},
    {"kind": "rmsprop", "lr": 1e-3}, ("eps_too_large",), steps=120)  # fmt: skip
add("schedule_zero_at_30", L, "the schedule decays to zero at step 30, long before the end", decaying, {"at": 30},
    {"at": 400}, ("schedule_at_zero",), onset=30, steps=250)  # fmt: skip
add("warmup_never_advances", L, "the warm-up's scheduler is never advanced: 1e-6 of the rate", stuck_warmup,
    {"stuck": True}, {"stuck": False}, LOW, steps=120)  # fmt: skip
add("bf16_weights_round", L, "bfloat16 weights round small updates away", brain_weights, {"lr": 2e-3, "brain": True},
    {"lr": 0.3, "brain": False}, ("rounded_away", "lr_too_low"), steps=150)  # fmt: skip
add("loss_divided_by_1e6", L, "the loss is divided by 1e6 under SGD", faint_loss, {"factor": 1e-6},
    {"factor": 1e-6, "compensate": True}, ("lr_too_low", "loss_scale"), accept=("vanishing",), steps=150)  # fmt: skip
add("half_underflow", L, "half-precision gradients underflow to zero under a faint loss", faint_loss,
    {"factor": 1e-7, "half": True}, {"factor": 1.0, "half": True}, ("half_precision_underflow", "loss_scale"),
    accept=("vanishing",), steps=100, check="own")  # fmt: skip
add("adagrad_accumulator_1e10", L, "Adagrad whose accumulators start at 1e10", tabular,
    {"name": "wine", "kind": "adagrad", "lr": 0.03, "initial_accumulator_value": 1e10},
    {"name": "wine", "kind": "adagrad", "lr": 0.03}, ("lr_too_low", "eps_too_large"), steps=120)  # fmt: skip
add("both_groups_1e-6", L, "both parameter groups got a rate of 1e-6", per_group, {"lr": 1e-6}, {"lr": 0.03}, LOW,
    steps=120)  # fmt: skip
