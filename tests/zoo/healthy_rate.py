"""Healthy runs whose learning rate, batches, loss or precision are unusual on purpose."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Batch, Registry, Run
from zoo.recipes import (
    VOCAB,
    cross_entropy,
    images,
    on_digits,
    optimizer,
    pretrained,
    scheduled,
    squared_error,
    stack,
    tabular,
    transformer,
    writing,
)

SCENARIOS = Registry()
RATES = {
    "warmup_cosine": lambda t: min((t + 1) / 40, 0.5 + 0.5 * math.cos(math.pi * t / 200)),
    "cosine_to_zero": lambda t: 0.5 + 0.5 * math.cos(math.pi * min(t, 160) / 160),
    "restarts": lambda t: 0.02 + 0.49 * (1 + math.cos(math.pi * (t % 50) / 50)),
    "triangle": lambda t: 1 + 7 * (1 - abs((t % 60) - 30) / 30),
    "steps": lambda t: 0.1 ** ((t >= 80) + (t >= 130)),
    "one_cycle": lambda t: (0.04 + t / 50 if t < 50 else 1.04 * (1 - (t - 50) / 110)) if t < 160 else 0.001,
    "slow_start": lambda t: min(1.0, (t + 1) / 150),
    "inverse_root": lambda t: min((t + 1) / 30, (30 / (t + 1)) ** 0.5),
}


def rated(seed: int, what: str, rate: str) -> Run:
    """A run under one of these schedules."""
    run = {
        "stack": lambda: stack(seed, 3, 64, "gelu", kind="adamw", lr=3e-3),
        "convs": lambda: images(seed, depth=4, norm=True),
        "sgd": lambda: stack(seed, 3, 64, "tanh", kind="momentum", lr=0.05, size=32),
        "transformer": lambda: transformer(seed, "adam", 4e-3),
        "cyclic": lambda: stack(seed, 2, 64, kind="nesterov", lr=0.01),
    }[what]()
    return scheduled(run, RATES[rate])


def multiplied(seed: int, factor: float, kind: str, lr: float, **options: float) -> Run:
    """The loss is multiplied and the rate fits."""
    run = stack(seed, 3, 48, kind=kind, lr=lr, **options)
    run.loss_fn = lambda model, batch: factor * cross_entropy(model, batch)
    return run


def autocast(seed: int, *, convs: bool) -> Run:
    """Forward pass in bfloat16 autocast."""
    run = images(seed, depth=4, norm=True) if convs else stack(seed, 3, 64, "gelu", kind="adam", lr=2e-3)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(model, batch)

    run.loss_fn = loss
    return run


def scaled_half(seed: int, start: float) -> Run:
    """Float16 autocast with a GradScaler that first has to come down from where it starts."""
    run = stack(seed, 3, 64, kind="sgd", lr=0.2)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return cross_entropy(model, batch)

    run.loss_fn = loss
    run.scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=40)
    return run


def double(seed: int) -> Run:
    """Everything in float64."""
    run = stack(seed, 4, 48, "silu", kind="adam", lr=2e-3)
    run.model.double()
    run.batches = ((x.double(), y) for x, y in run.batches)
    return run


def smoothed(seed: int, smoothing: float) -> Run:
    """Label smoothing: the loss has a high floor."""
    run = stack(seed, 2, 96, kind="adam", lr=3e-3)
    run.loss_fn = lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=smoothing)
    return run


def noisy_labels(seed: int, share: float) -> Run:
    """Some labels are wrong for good."""
    x, y = data.digits()
    generator = data.rng(seed, 9)
    wrong = torch.rand(len(y), generator=generator) < share
    run = stack(seed, 2, 64, kind="momentum", lr=0.03, size=16)
    run.batches = data.batches(x, torch.where(wrong, torch.randint(0, 10, y.shape, generator=generator), y), 16, seed)
    return run


def heavy_tails(seed: int) -> Run:
    """Student-t noise of two degrees of freedom on the targets, Huber loss."""
    x, y = data.table("diabetes")
    noise = torch.distributions.StudentT(torch.tensor(2.0)).sample((len(y),))
    run = tabular(seed, "diabetes", kind="adam", lr=5e-3, size=8)
    run.batches = data.batches(x, y + 0.3 * noise, 8, seed)
    run.loss_fn = lambda model, batch: functional.huber_loss(model(batch[0])[:, 0], batch[1])
    return run


def raw_targets(seed: int) -> Run:
    """Targets of 25 to 346 as they come."""
    run = tabular(seed, "diabetes", kind="adam", lr=0.03)
    run.batches = ((x, y * 77 + 152) for x, y in run.batches)
    return run


def fine_tuned(seed: int, kind: str, lr: float, steps: int) -> Run:
    """A trained net goes on with a small rate."""
    return on_digits(seed, pretrained(models.Stack([64, 96, 64, 10]), seed, steps), kind, lr)


def resized(seed: int, at: int) -> Run:
    """Batches of 8, from step ``at`` on of 128."""
    run = stack(seed, 3, 64, kind="momentum", lr=0.03)
    small, large = (data.batches(*data.digits(), size, seed) for size in (8, 128))
    run.batches = (next(small if step < at else large) for step in range(data.FOREVER))
    return run


def switching(seed: int, at: int) -> Run:
    """Squared error of one-hot targets first, cross-entropy from step ``at`` on."""
    run = stack(seed, 3, 64, "gelu", kind="adam", lr=2e-3)
    now = [0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        now[0] += 1
        if now[0] > at:
            return cross_entropy(model, batch)
        return functional.mse_loss(model(batch[0]), functional.one_hot(batch[1], 10).float())

    run.loss_fn = loss
    return run


def changing_data(seed: int, how: str, at: int) -> Run:
    """From step ``at`` on the data are harder, inverted, or of classes that were not shown."""
    run = images(seed, depth=3, norm=True, lr=0.02)
    x, y = data.digits()
    later = {"inverted": 1 - x, "noisy": x + 0.35 * torch.randn(x.shape, generator=data.rng(seed, 8)), "classes": x}[
        how
    ]
    few = y < (5 if how == "classes" else 10)
    before, after = data.batches(x[few], y[few], 32, seed), data.batches(later, y, 32, seed + 1)
    run.batches = (next(before if step < at else after) for step in range(data.FOREVER))
    return run


def accumulated(seed: int, parts: int) -> Run:
    """Gradient accumulation."""
    run = images(seed, depth=3, size=8, norm=True, lr=0.03)
    run.accum = parts
    return run


def noise_floor(seed: int) -> Run:
    """A linear model at the noise floor soon, with a rate that keeps it rattling."""
    model = nn.Linear(10, 1)
    x, y = data.table("diabetes")
    return Run(model, optimizer(model.parameters(), "sgd", 0.05), data.batches(x, y, 4, seed), squared_error)


def forgetful_optimizer(seed: int, every: int) -> Run:
    """The optimizer's state is thrown away now and then, as by a restart without it."""
    run = stack(seed, 3, 64, kind="adam", lr=2e-3)

    def forget(step: int) -> None:
        if step and step % every == 0:
            run.optimizer.state.clear()

    run.before_step = forget
    return run


add = SCENARIOS.healthy
add("ok_warmup_cosine", "tiny updates at both ends of the schedule", rated, 200, what="stack", rate="warmup_cosine")
add("ok_cosine_to_zero", "the rate ends at zero, when all is learnt", rated, 160, what="convs", rate="cosine_to_zero")
add("ok_warm_restarts", "the rate jumps by 50 every 50 steps", rated, 200, what="sgd", rate="restarts")
add("ok_cyclic_rate", "the rate swings by a factor of 8", rated, 200, what="cyclic", rate="triangle")
add("ok_rate_drops", "the rate drops by ten, twice", rated, 180, what="convs", rate="steps")
add("ok_one_cycle", "up, down, and nearly nothing at the end", rated, 180, what="sgd", rate="one_cycle")
add("ok_slow_warmup_transformer", "half of the run is warm-up", rated, 220, what="transformer", rate="slow_start")
add("ok_inverse_root_transformer", "the classic transformer schedule", rated, 180, what="transformer",
    rate="inverse_root")  # fmt: skip
add("ok_loss_x1e6_adam", "gradients a million times larger", multiplied, factor=1e6, kind="adam", lr=2e-3)
add("ok_loss_x1e6_sgd", "gradients a million times larger, rate to match", multiplied, factor=1e6, kind="sgd",
    lr=2e-7)  # fmt: skip
add("ok_loss_x1e-6_adam", "gradients a million times smaller, eps to match", multiplied, factor=1e-6, kind="adam",
    lr=2e-3, eps=1e-16)  # fmt: skip
add("ok_loss_x1e-6_sgd", "gradients a million times smaller, rate to match", multiplied, factor=1e-6, kind="sgd",
    lr=2e5)  # fmt: skip
add("ok_bf16_autocast_convs", "coarse gradients with exact ties", autocast, convs=True)
add("ok_bf16_autocast_gelu", "coarse gradients with exact ties", autocast, convs=False)
add("ok_half_grad_scaler", "the first steps overflow and are skipped, as they should be", scaled_half, start=2.0**24)
add("ok_float64_silu", "another dtype", double)
add("ok_label_smoothing", "the loss has a high floor", smoothed, 200, smoothing=0.3)
add("ok_noisy_labels", "a third of the labels are wrong: loss and gradients stay large", noisy_labels, 250, share=0.3)
add("ok_student_t_targets", "rare huge residuals in batches of 8", heavy_tails, 250)
add("ok_raw_targets", "the loss starts at 29,000", raw_targets, 250)
add("ok_fine_tune_adam_1e-5", "a trained net, a deliberately tiny rate", fine_tuned, 150, "floor", kind="adam",
    lr=1e-5, steps=250)  # fmt: skip
add("ok_fine_tune_sgd_1e-4", "a trained net, a deliberately tiny rate", fine_tuned, 150, "floor", kind="sgd", lr=1e-4,
    steps=250)  # fmt: skip
add("ok_resumed_adam", "resumed at a loss of 0.05 with the rate as it was", fine_tuned, 200, "floor", kind="adam",
    lr=1e-3, steps=120)  # fmt: skip
add("ok_batch_size_change", "gradient noise falls by four at once", resized, 160, at=80)
add("ok_loss_switch", "the loss changes its meaning and jumps", switching, 160, "bounded", at=80)
add("ok_domain_inverted", "all pixels are inverted at step 80", changing_data, 180, how="inverted", at=80)
add("ok_curriculum_noise", "the data become much harder at step 70", changing_data, 180, how="noisy", at=70)
add("ok_curriculum_classes", "five new classes appear at step 70", changing_data, 180, how="classes", at=70)
add("ok_accumulation_6", "six backward passes a step", accumulated, 120, parts=6)
add("ok_noise_floor", "a plateau because nothing more can be learnt, batches of 4", noise_floor, 300, "floor")
add("ok_adam_state_lost", "the optimizer's state is thrown away every 60 steps", forgetful_optimizer, 200, every=60)
add("ok_batch_of_1", "gradient norms over orders of magnitude", stack, 300, depth=1, width=64, kind="sgd", lr=0.05,
    size=1)  # fmt: skip
add("ok_batch_of_3_adam", "very noisy gradients under Adam", stack, 250, depth=2, width=64, act="tanh", kind="adam",
    lr=1e-3, size=3)  # fmt: skip
add("ok_clip_always", "the norm is above the limit at every step", stack, 200, depth=3, kind="sgd", lr=2.0, clip=0.05)
add("ok_clip_always_lstm", "the norm is above the limit at every step",
    lambda seed: writing(seed, models_seq.Fused("lstm", 16, 32, VOCAB, vocab=VOCAB, every=True), lr=1e-2, clip=0.1),
    180)  # fmt: skip
add("ok_weight_decay_2", "weight decay of 2: weights shrink, the loss does not care", stack, 200, depth=3,
    kind="adamw", lr=3e-3, weight_decay=2.0)  # fmt: skip
add("ok_adagrad", "rates that fall by themselves", stack, 200, depth=3, kind="adagrad", lr=0.03)
add("ok_nadam_convs", "another optimizer", images, 120, depth=4, kind="nadam", lr=3e-3)
add("ok_rmsprop", "another optimizer", tabular, 150, name="wine", kind="rmsprop", lr=2e-3)
add("ok_sgd_noise_large_rate", "a rate near the limit: a noisy but good plateau", stack, 250, depth=2, width=48,
    kind="sgd", lr=0.7, size=16)  # fmt: skip
