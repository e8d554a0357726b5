"""The seventh part of the severity sweeps: ordinary faults on ordinary nets; judged as those of ``sweeps``.

    python tests/zoo/sweeps.py --sweeps seventh --seeds 0 1      # what each level does, unwatched

Written without a look at any detector. Whether a level does harm is measured: ``sweeps.assess``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fourth_nets import he, pictures, plain, refill, squares, teach
from zoo.core import Batch, Run
from zoo.recipes import scheduled
from zoo.sweeps import DIVERGES, Sweep
from zoo.sweeps_seventh_nets import Frames, Heart, Letters, Masked, Mixer, Panel, PostNorm, Segmenter, Shop
from zoo.sweeps_seventh_streams import (
    ALPHABET,
    backwards,
    beats,
    counts,
    discs,
    displays,
    labels,
    lately,
    names,
    pendulum,
    sales,
    scripts,
    surface,
)

optim = torch.optim


def yes_or_no(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross-entropy of every label or pixel."""
    return functional.binary_cross_entropy_with_logits(model(batch[0]).float(), batch[1])


def poisson(model: nn.Module, batch: Batch) -> Tensor:
    """The likelihood of counts whose logarithm of the mean the model gives."""
    return functional.poisson_nll_loss(model(batch[0])[:, 0], batch[1])


def swinging(seed: int, rate: float) -> Run:
    """Two tanh layers foresee a pendulum under Nesterov's momentum."""
    return teach(
        plain(4, 56, 56, 3, act=nn.Tanh), pendulum(40, seed), optim.SGD, rate, squares, momentum=0.9, nesterov=True
    )


def reverser(seed: int, rate: float) -> Run:
    """A post-norm encoder turns sequences round under AdamW with clipping."""
    return teach(PostNorm(), backwards(32, seed), optim.AdamW, rate, clip=1.0)


def slow_names(seed: int, rate: float) -> Run:
    """A GRU spells names of characters under AdamW."""
    model = Letters(nn.GRU(16, 40, batch_first=True), len(ALPHABET), len(ALPHABET), every=True)
    return teach(model, names(16, 20, seed), optim.AdamW, rate)


def faint_surface(seed: int, gain: float) -> Run:
    """Five SiLU layers whose weights are orthogonal times the level, under SGD with momentum."""
    model = refill(plain(2, *[36] * 5, 1, act=nn.SiLU), lambda w: nn.init.orthogonal_(w, 1.6 * gain))
    return teach(model, surface(48, seed), optim.SGD, 0.02, squares, momentum=0.9)


def loud_panel(seed: int, gain: float) -> Run:
    """Six plain convolutions, He's init times the level, under plain SGD."""
    model = refill(Panel(6), lambda w: he(w).data.mul_(gain))
    return teach(model, displays(32, seed), optim.SGD, 0.02)


def sigmoid_labels(seed: int, depth: float) -> Run:
    """Sigmoid layers of Xavier's init give labels under Nesterov's momentum."""
    model = refill(plain(16, *[40] * int(depth), 8, act=nn.Sigmoid), nn.init.xavier_normal_)
    return teach(model, labels(48, seed), optim.SGD, 0.5, yes_or_no, momentum=0.9, nesterov=True)


def deep_counts(seed: int, depth: float) -> Run:
    """GELU layers of torch's own init foresee counts under SGD with momentum."""
    return teach(plain(6, *[28] * int(depth), 1, act=nn.GELU), counts(48, seed), optim.SGD, 0.03, poisson, momentum=0.9)


def far_script(seed: int, length: float) -> Run:
    """A tanh RNN must tell which script was named first; RMSprop, clipped."""
    model = Letters(nn.RNN(12, 32, batch_first=True), 4, len(ALPHABET))
    return teach(model, scripts(32, int(length), seed), optim.RMSprop, 1e-3, clip=1.0)


def long_growth(seed: int, length: float) -> Run:
    """A ReLU RNN whose recurrent weights are 1.1 times the identity, over as many frames as the level says."""
    model = Frames(nn.RNN(1, 28, nonlinearity="relu", batch_first=True))
    model.rnn.weight_hh_l0.data.copy_(1.1 * torch.eye(28))
    return teach(model, lately(40, int(length), seed), optim.SGD, 0.01, squares)


def sunk_digits(seed: int, mean: float) -> Run:
    """Digits in 0..1 under Adagrad in bfloat16 by autocast; the level is added to all weights of the hidden layers."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(batch[0])
        return functional.cross_entropy(logits.float(), batch[1])

    model = refill(plain(64, 40, 40, 10), lambda w: he(w).data.add_(mean), head=False)
    return teach(model, data.batches(*data.digits(), 48, seed), optim.Adagrad, 0.02, loss)


def metres(seed: int, factor: float) -> Run:
    """Coordinates between zero and twice the level; tanh layers of Xavier's init under SGD with momentum."""
    stream = ((factor * (1 + x / 1.73), y) for x, y in surface(48, seed))
    model = refill(plain(2, 48, 48, 1, act=nn.Tanh), nn.init.xavier_normal_)
    return teach(model, stream, optim.SGD, 0.05, squares, momentum=0.9)


def faint_beats(seed: int, factor: float) -> Run:
    """A signal in another unit, too small a one; convolutions with tanh under SGD with momentum."""
    stream = ((x * factor, y) for x, y in beats(32, seed))
    return teach(Heart(), stream, optim.SGD, 0.05, momentum=0.9)


def wide_sales(seed: int, variance: float) -> Run:
    """Targets whose variance is the level, under Adam."""
    stream = ((x, y * variance**0.5) for x, y in sales(48, seed))
    return teach(Shop(), stream, optim.Adam, 1e-3, squares)


def bright_batch(seed: int, factor: float) -> Run:
    """All images of batch 75 are multiplied; plain convolutions under SGD with momentum."""
    stream = data.altered(displays(32, seed), data.times(factor), 75)
    return teach(refill(Panel(3), he), stream, optim.SGD, 0.01, momentum=0.9)


def wrong_prices(seed: int, factor: float) -> Run:
    """All targets of batch 60 are multiplied; SGD with momentum."""
    stream = data.altered(sales(48, seed), lambda batch: (batch[0], batch[1] * factor), 60)
    return teach(Shop(), stream, optim.SGD, 0.03, squares, momentum=0.9)


def static_scale(seed: int, scale: float) -> Run:
    """Half precision by autocast under SGD with momentum; the level multiplies the loss and divides the rate."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            out = net(batch[0])
        return scale * functional.mse_loss(out.float(), batch[1])

    return teach(plain(4, 48, 48, 3, act=nn.SiLU), pendulum(40, seed), optim.SGD, 0.1 / scale, loss, momentum=0.9)


def held_names(seed: int, clip: float) -> Run:
    """An LSTM spells names of characters under SGD with momentum; the level is the largest norm of its gradient."""
    model = Letters(nn.LSTM(16, 32, batch_first=True), len(ALPHABET), len(ALPHABET), every=True)
    return teach(model, names(16, 16, seed), optim.SGD, 0.5, clip=clip, momentum=0.9)


def decayed_discs(seed: int, decay: float) -> Run:
    """A U-Net with BatchNorm under RMSprop; the level is its decay, which is added to the gradient."""
    return teach(Segmenter(), discs(24, seed), optim.RMSprop, 3e-3, yes_or_no, weight_decay=decay)


def long_warmup(seed: int, steps: float) -> Run:
    """An MLP-Mixer under AdamW whose rate climbs for as many steps as the level says."""
    run = teach(Mixer(), pictures(32, seed), optim.AdamW, 5e-3)
    return scheduled(run, lambda t: min(1.0, (t + 1) / steps))


def masked(seed: int, cut: float) -> Run:
    """A body with a waist of three units learns from a part of each batch; Adam."""
    model = Masked(plain(16, 40, 3, act=nn.GELU), plain(3, 40, 8, act=nn.GELU), cut)
    return teach(model, labels(48, seed), optim.Adam, 5e-3, yes_or_no)


SWEEPS = (
    Sweep("nesterov_rate_up_pendulum", (*DIVERGES, "saturation"), (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 10.0), swinging),
    Sweep("adamw_rate_up_reverser", (*DIVERGES, "saturation"), (5e-3, 0.01, 0.03, 0.05, 0.1, 1.0, 10.0), reverser),
    Sweep("adamw_rate_down_names", ("stalled",), (0.02, 0.01, 7e-3, 5e-4, 1e-4, 1e-5, 1e-7), slow_names),
    Sweep("surface_init_down", ("vanishing", "stalled"), (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.01), faint_surface),
    Sweep("conv_init_up_displays", DIVERGES, (1.0, 1.2, 1.4, 1.6, 2.5, 4.0, 10.0), loud_panel),
    Sweep("sigmoid_depth_up_labels", ("vanishing", "stalled"), (1, 2, 3, 4, 5, 7, 10), sigmoid_labels, 200),
    Sweep("gelu_depth_up_counts", ("vanishing", "stalled"), (1, 2, 3, 5, 7, 10, 16), deep_counts),
    Sweep("rnn_script_length_up", ("vanishing", "stalled"), (1, 2, 4, 6, 10, 16, 40), far_script, 200),
    Sweep("relu_rnn_length_up", DIVERGES, (5, 7, 10, 15, 20, 35, 70), long_growth),
    Sweep("weight_mean_down", ("dead_relu", "vanishing"), (0.0, -0.01, -0.02, -0.03, -0.1, -0.3, -2.0), sunk_digits),
    Sweep("coordinate_unit_up", ("input_scale", "saturation", "vanishing", *DIVERGES),
          (1.0, 2.0, 4.0, 8.0, 20.0, 300.0, 1e5), metres, 200),
    Sweep("beats_unit_down", ("input_scale", "vanishing", "stalled"),
          (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5), faint_beats),
    Sweep("target_variance_up_adam", ("input_scale", "stalled", "exploding"),
          (1.0, 4.0, 25.0, 64.0, 2.5e3, 1e4, 1e6), wide_sales, scales_loss=True),
    Sweep("one_batch_of_displays_up", ("data_outlier", "input_scale", *DIVERGES),
          (1.0, 2.0, 4.0, 10.0, 30.0, 100.0, 1e5), bright_batch),
    Sweep("one_batch_of_prices_up", ("data_outlier", "input_scale", *DIVERGES),
          (1.0, 2.0, 5.0, 10.0, 30.0, 1e3, 1e6), wrong_prices, 120),
    Sweep("static_loss_scale_up", ("nonfinite", "exploding"), tuple(2.0**k for k in (0, 7, 10, 14, 18, 22, 28)),
          static_scale, scales_loss=True),
    Sweep("clip_down_names", ("stalled",), (5.0, 1.0, 0.3, 0.1, 0.02, 1e-3, 1e-5), held_names),
    Sweep("weight_decay_up_discs", ("stalled", "vanishing"), (0.0, 1e-4, 0.01, 0.1, 1.0, 5.0, 100.0), decayed_discs),
    Sweep("warmup_steps_up_mixer", ("stalled",), (1.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6), long_warmup),
    Sweep("detached_share_up", ("disconnected", "vanishing", "stalled"),
          (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0), masked),
)  # fmt: skip

# Of the causes that there are names for, those that are right for a sweep's harmful levels.
RIGHT_CAUSES: dict[str, tuple[str, ...]] = {
    "nesterov_rate_up_pendulum": ("lr_too_high",),
    "adamw_rate_up_reverser": ("lr_too_high",),
    "adamw_rate_down_names": ("lr_too_low",),
    "surface_init_down": ("small_weights", "no_normalisation", "no_shortcuts"),
    "conv_init_up_displays": ("large_weights", "no_normalisation"),
    "sigmoid_depth_up_labels": ("saturating_activations", "no_normalisation", "no_shortcuts", "small_weights"),
    "gelu_depth_up_counts": ("small_weights", "no_normalisation", "no_shortcuts"),
    "rnn_script_length_up": ("long_recurrence",),
    "relu_rnn_length_up": ("long_recurrence", "large_weights"),
    "weight_mean_down": ("dead_by_bias", "large_weights"),
    "coordinate_unit_up": ("unscaled_inputs",),
    "beats_unit_down": ("unscaled_inputs",),
    "target_variance_up_adam": ("unscaled_inputs", "lr_too_low"),
    "one_batch_of_displays_up": ("one_bad_batch",),
    "one_batch_of_prices_up": ("one_bad_batch",),
    "static_loss_scale_up": ("loss_scale", "half_precision_overflow"),
    "clip_down_names": ("clipping_too_small",),
    "weight_decay_up_discs": ("small_weights",),
    "warmup_steps_up_mixer": ("lr_too_low", "schedule_at_zero"),
    "detached_share_up": ("cut_graph",),
}
