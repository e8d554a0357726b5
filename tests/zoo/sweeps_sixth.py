"""The sixth part of the severity sweeps: ordinary faults on ordinary nets; judged as those of ``sweeps``.

    python tests/zoo/sweeps.py --sweeps sixth --seeds 0 1      # what each level does, unwatched

Written without a look at any detector. Whether a level does harm is measured: ``sweeps.assess``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fourth_nets import he, plain, refill, squares, teach
from zoo.core import Batch, Run
from zoo.recipes import scheduled
from zoo.sweeps import DIVERGES, Sweep
from zoo.sweeps_sixth_nets import Cbow, Colours, Recurrent, ResidualMlp, Shrunk, Sorter, Tones
from zoo.sweeps_sixth_streams import (
    arm,
    brackets,
    colours,
    contexts,
    first_number,
    noisy,
    swings,
    taught_classes,
    tones,
    totals,
    unsorted,
)

optim = torch.optim


def painter(seed: int, rate: float) -> Run:
    """Three convolutions with GroupNorm on coloured stripes under SGD with momentum."""
    return teach(Colours(norm=True), colours(32, seed), optim.SGD, rate, momentum=0.9)


def counter(seed: int, rate: float) -> Run:
    """A GRU counts open brackets under RMSprop."""
    model = Recurrent(nn.GRU(8, 24, batch_first=True), 4, symbols=6, every=True)
    return teach(model, brackets(24, 14, seed), optim.RMSprop, rate)


def cycle(seed: int, peak: float) -> Run:
    """An encoder sorts under AdamW: the rate climbs to the level over 20 steps and falls in half a cosine to zero."""
    run = teach(Sorter(), unsorted(32, seed), optim.AdamW, peak)
    return scheduled(run, lambda t: (t + 1) / 20 if t < 20 else 0.5 + 0.5 * math.cos(math.pi * (t - 20) / 130))


def words(seed: int, rate: float) -> Run:
    """Word embeddings from contexts under Adagrad."""
    return teach(Cbow(), contexts(64, seed), optim.Adagrad, rate)


def faint_denoiser(seed: int, gain: float) -> Run:
    """Six tanh layers remove noise from digits; Xavier's init times the level, under Nesterov's momentum."""
    model = plain(64, 40, 20, 10, 20, 40, 64, act=nn.Tanh)
    refill(model, lambda w: nn.init.xavier_normal_(w, gain))
    return teach(model, noisy(48, seed), optim.SGD, 0.2, squares, momentum=0.9, nesterov=True)


def loud_branches(seed: int, gain: float) -> Run:
    """Six residual branches without norm, He's init times the level, under plain SGD."""
    model = refill(ResidualMlp(8, 4, 6), lambda w: he(w).data.mul_(gain))
    return teach(model, taught_classes(48, seed), optim.SGD, 0.02)


def deep_sigmoids(seed: int, depth: float) -> Run:
    """Sigmoid layers of torch's own init find a hand under Adam."""
    return teach(plain(3, *[24] * int(depth), 2, act=nn.Sigmoid), arm(48, seed), optim.Adam, 0.01, squares)


def deep_convs(seed: int, depth: float) -> Run:
    """Convolutions of torch's own init and without norm under SGD with momentum."""
    return teach(Colours(int(depth)), colours(32, seed), optim.SGD, 0.05, momentum=0.9)


def far_number(seed: int, length: float) -> Run:
    """A tanh RNN must keep the first number; Adam, clipped."""
    model = Recurrent(nn.RNN(1, 32, batch_first=True), 1)
    return teach(model, first_number(48, int(length), seed), optim.Adam, 3e-3, squares, clip=1.0)


def growing_memory(seed: int, radius: float) -> Run:
    """A ReLU RNN over 25 frames; its recurrent weights are orthogonal times the level; Adam without clipping."""
    model = Recurrent(nn.RNN(2, 24, nonlinearity="relu", batch_first=True), 1)
    nn.init.orthogonal_(model.rnn.weight_hh_l0, radius)
    return teach(model, totals(48, 25, seed), optim.Adam, 3e-3, squares)


def shut_tones(seed: int, bias: float) -> Run:
    """Convolutions over sounds under Adam; the biases of both begin at the level."""
    model = refill(Tones(), he)
    for conv in (model.conv1, model.conv2):
        nn.init.constant_(conv.bias, bias)
    return teach(model, tones(48, seed), optim.Adam, 3e-3)


def column_unit(seed: int, factor: float) -> Run:
    """Three of eight features are in another unit; tanh layers under SGD with momentum."""
    unit = torch.ones(8)
    unit[:3] = factor
    model = plain(8, 40, 40, 4, act=nn.Tanh)
    stream = ((x * unit, y) for x, y in taught_classes(48, seed))
    return teach(model, stream, optim.SGD, 0.05, momentum=0.9)


def dim_colours(seed: int, factor: float) -> Run:
    """Images in another unit, too small a one; plain convolutions under SGD with momentum."""
    stream = ((x * factor, y) for x, y in colours(32, seed))
    return teach(refill(Colours(3), he), stream, optim.SGD, 0.03, momentum=0.9)


def wide_targets(seed: int, variance: float) -> Run:
    """Targets whose variance is the level; two SiLU layers under SGD."""
    stream = ((x, y * variance**0.5) for x, y in arm(48, seed))
    return teach(plain(3, 48, 48, 2, act=nn.SiLU), stream, optim.SGD, 0.1, squares)


def loud_batch(seed: int, factor: float) -> Run:
    """All angles of batch 80 are multiplied; residual branches of GELU under SGD with momentum."""
    stream = data.altered(arm(32, seed), data.times(factor), 80)
    return teach(ResidualMlp(3, 2, 3, act=nn.GELU), stream, optim.SGD, 0.01, squares, momentum=0.9)


def wild_targets(seed: int, factor: float) -> Run:
    """All targets of batch 8 are multiplied; an LSTM forecasts under Adam."""
    stream = data.altered(swings(32, seed), lambda batch: (batch[0], batch[1] * factor), 8)
    return teach(Recurrent(nn.LSTM(1, 24, batch_first=True), 1), stream, optim.Adam, 5e-3, squares)


def scaled_loss(seed: int, scale: float) -> Run:
    """Half precision by autocast under Adam; the loss is multiplied by the level, and nothing looks for overflows."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            logits = net(batch[0])
        return scale * functional.cross_entropy(logits.float(), batch[1])

    model = ResidualMlp(8, 4, 3, act=nn.SiLU, norm=True)
    return teach(model, taught_classes(48, seed), optim.Adam, 3e-3, loss)


def decayed(seed: int, decay: float) -> Run:
    """An encoder sorts under AdamW; the level is its decay."""
    return teach(Sorter(), unsorted(32, seed), optim.AdamW, 3e-3, weight_decay=decay)


def cautious(seed: int, eps: float) -> Run:
    """A GRU counts open brackets under Adam; the level is its epsilon."""
    model = Recurrent(nn.GRU(8, 24, batch_first=True), 4, symbols=6, every=True)
    return teach(model, brackets(24, 14, seed), optim.Adam, 5e-3, eps=eps)


def shrunk(seed: int, cut: float) -> Run:
    """The gradient of a body with a waist of two units is shrunk by the level; SGD with momentum."""
    body = ResidualMlp(8, 2, 2, act=nn.GELU, norm=True)
    model = Shrunk(body, plain(2, 32, 4, act=nn.GELU), cut)
    return teach(model, taught_classes(48, seed), optim.SGD, 0.05, momentum=0.9)


SWEEPS = (
    Sweep("momentum_rate_up_colours", DIVERGES, (0.03, 0.05, 0.1, 0.2, 0.5, 2.0, 30.0), painter),
    Sweep("rmsprop_rate_up_brackets", (*DIVERGES, "saturation"), (3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0), counter),
    Sweep("peak_rate_up_sorter", (*DIVERGES, "saturation"), (3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0), cycle),
    Sweep("adagrad_rate_down_words", ("stalled",), (0.5, 0.2, 0.1, 0.03, 5e-3, 1e-3, 1e-5), words, 250),
    Sweep("denoiser_init_down", ("vanishing", "stalled"), (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.01), faint_denoiser),
    Sweep("residual_init_up", DIVERGES, (0.3, 0.5, 0.7, 0.8, 1.0, 1.4, 4.0), loud_branches),
    Sweep("sigmoid_depth_up_arm", ("vanishing", "stalled"), (1, 2, 3, 5, 8, 10, 14), deep_sigmoids, 200),
    Sweep("conv_depth_up_colours", ("vanishing", "stalled"), (2, 3, 4, 5, 6, 8, 12), deep_convs, 200),
    Sweep("rnn_first_number_length_up", ("vanishing", "stalled"), (3, 5, 8, 12, 18, 30, 60), far_number, 200),
    Sweep("relu_rnn_radius_up", DIVERGES, (0.8, 1.0, 1.2, 1.4, 1.7, 2.5, 4.0), growing_memory),
    Sweep("tones_bias_down", ("dead_relu", "vanishing"), (0.0, -0.2, -0.5, -1.0, -2.0, -4.0, -16.0), shut_tones),
    Sweep("column_unit_up", ("input_scale", "saturation", "vanishing", *DIVERGES),
          (1.0, 2.0, 5.0, 20.0, 100.0, 1e3, 1e5), column_unit),
    Sweep("image_unit_down", ("input_scale", "vanishing", "stalled"),
          (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1 / 65025), dim_colours),
    Sweep("target_variance_up", (*DIVERGES, "input_scale"), (1.0, 4.0, 10.0, 25.0, 50.0, 100.0, 1e4), wide_targets,
          scales_loss=True),
    Sweep("one_batch_of_angles_up", ("data_outlier", "input_scale", *DIVERGES),
          (1.0, 2.0, 3.0, 5.0, 10.0, 100.0, 1e5), loud_batch),
    Sweep("one_batch_of_targets_up", ("data_outlier", "input_scale", "stalled", *DIVERGES),
          (1.0, 3.0, 10.0, 100.0, 1e3, 1e4, 1e6), wild_targets),
    Sweep("autocast_loss_scale_up", ("nonfinite", "exploding"), tuple(2.0**k for k in (0, 8, 12, 16, 20, 24, 30)),
          scaled_loss, scales_loss=True),
    Sweep("weight_decay_up_sorter", ("stalled", "vanishing"), (0.0, 0.01, 0.1, 1.0, 10.0, 30.0, 100.0), decayed),
    Sweep("adam_eps_up_brackets", ("stalled",), (1e-8, 1e-6, 1e-4, 1e-3, 0.1, 1.0, 100.0), cautious),
    Sweep("shrunk_gradient_down", ("disconnected", "vanishing", "stalled"),
          (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0), shrunk),
)  # fmt: skip

# Of the causes that there are names for, those that are right for a sweep's harmful levels.
RIGHT_CAUSES: dict[str, tuple[str, ...]] = {
    "momentum_rate_up_colours": ("lr_too_high",),
    "rmsprop_rate_up_brackets": ("lr_too_high",),
    "peak_rate_up_sorter": ("lr_too_high", "lr_jumped"),
    "adagrad_rate_down_words": ("lr_too_low",),
    "denoiser_init_down": ("small_weights", "no_normalisation", "no_shortcuts"),
    "residual_init_up": ("large_weights", "no_normalisation"),
    "sigmoid_depth_up_arm": ("saturating_activations", "no_normalisation", "no_shortcuts", "small_weights"),
    "conv_depth_up_colours": ("small_weights", "no_normalisation", "no_shortcuts"),
    "rnn_first_number_length_up": ("long_recurrence",),
    "relu_rnn_radius_up": ("long_recurrence", "large_weights"),
    "tones_bias_down": ("dead_by_bias",),
    "column_unit_up": ("unscaled_inputs",),
    "image_unit_down": ("unscaled_inputs",),
    "target_variance_up": ("lr_too_high", "unscaled_inputs"),
    "one_batch_of_angles_up": ("one_bad_batch",),
    "one_batch_of_targets_up": ("one_bad_batch",),
    "autocast_loss_scale_up": ("loss_scale", "half_precision_overflow"),
    "weight_decay_up_sorter": ("small_weights",),
    "adam_eps_up_brackets": ("eps_too_large",),
    "shrunk_gradient_down": ("cut_graph",),
}
