"""The eighth part of the severity sweeps: ordinary faults on ordinary nets; judged as those of ``sweeps``.

    python tests/zoo/sweeps.py --sweeps eighth --seeds 0 1      # what each level does, unwatched

Written without a look at any detector. Whether a level does harm is measured: ``sweeps.assess``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fourth_nets import cross_entropy, he, plain, refill, squares, teach
from zoo.core import Batch, Run
from zoo.recipes import scheduled
from zoo.sweeps import DIVERGES, Sweep
from zoo.sweeps_eighth_nets import Causal, CutFront, Dilated, Final, LinearMemory, Signs, Turner, shortcuts
from zoo.sweeps_eighth_streams import (
    addends,
    chirps,
    descriptions,
    fading,
    heights,
    ishigami,
    sentences,
    spirals,
    tissue,
    turned,
    turned_rows,
)

optim = torch.optim


def quick_turner(seed: int, rate: float) -> Run:
    """Three plain convolutions with ELU tell by how much a digit was turned, under Adam."""
    return teach(Turner(), turned(32, seed), optim.Adam, rate)


def clipped_author(seed: int, rate: float) -> Run:
    """A GRU on descriptions under SGD with momentum and clipping."""
    model = Signs(nn.GRU(16, 36, batch_first=True), descriptions()[1])
    return teach(model, sentences(12, 16, seed), optim.SGD, rate, clip=1.0, momentum=0.9)


def slow_heights(seed: int, rate: float) -> Run:
    """A pre-norm decoder tells the highest symbol so far under Adam."""
    return teach(Causal(), heights(16, seed), optim.Adam, rate)


def faint_chirps(seed: int, gain: float) -> Run:
    """Five dilated convolutions, He's init times the level, under SGD with momentum."""
    model = refill(Dilated(5), lambda w: he(w).data.mul_(gain))
    return teach(model, chirps(32, seed), optim.SGD, 0.05, momentum=0.9)


def loud_rows(seed: int, gain: float) -> Run:
    """Five layers with LeakyReLU, He's init times the level, tell by how much a digit was turned, under SGD."""
    model = refill(plain(64, *[56] * 5, 4, act=nn.LeakyReLU), lambda w: he(w).data.mul_(gain))
    return teach(model, turned_rows(32, seed), optim.SGD, 0.02)


def deep_tanh(seed: int, depth: float) -> Run:
    """Tanh layers of torch's own init on spirals under Nesterov's momentum."""
    model = plain(2, *[32] * int(depth), 3, act=nn.Tanh)
    return teach(model, spirals(48, seed), optim.SGD, 0.05, momentum=0.9, nesterov=True)


def tall_tissue(seed: int, blocks: float) -> Run:
    """Residual ReLU layers of He's init without norm on breast cancer under plain SGD."""
    model = refill(shortcuts(30, 2, int(blocks), 32, nn.ReLU), he)
    return teach(model, tissue(32, seed), optim.SGD, 0.01)


def far_addend(seed: int, length: float) -> Run:
    """The adding problem: a tanh RNN; Adam, clipped."""
    return teach(
        Final(nn.RNN(2, 32, batch_first=True)), addends(32, int(length), seed), optim.Adam, 3e-3, squares, clip=1.0
    )


def loud_memory(seed: int, radius: float) -> Run:
    """A linear recurrence over 40 frames under Adagrad."""
    return teach(LinearMemory(radius), fading(32, seed), optim.Adagrad, 0.02, squares)


def shut_angles(seed: int, bias: float) -> Run:
    """Three ReLU layers on Ishigami's function under RMSprop; all hidden biases begin at the level."""
    model = refill(plain(3, 48, 48, 48, 1), he)
    for layer in list(model)[:-1:2]:
        nn.init.constant_(layer.bias, bias)
    return teach(model, ishigami(48, seed), optim.RMSprop, 2e-3, squares)


def raw_tissue(seed: int, power: float) -> Run:
    """Columns of unequal units: their own to the power of the level; two GELU layers under SGD with momentum."""
    return teach(plain(30, 32, 32, 2, act=nn.GELU), tissue(32, seed, power), optim.SGD, 0.02, momentum=0.9)


def quiet_chirps(seed: int, factor: float) -> Run:
    """A sound in another unit, too small a one; dilated convolutions of He's init under SGD with momentum."""
    stream = ((x * factor, y) for x, y in chirps(32, seed))
    return teach(refill(Dilated(), he), stream, optim.SGD, 0.05, momentum=0.9)


def summed_tissue(seed: int, factor: float) -> Run:
    """The loss is multiplied: 32 is the sum over a batch instead of its mean; SELU layers, SGD with momentum."""
    return teach(
        plain(30, 40, 40, 2, act=nn.SELU),
        tissue(32, seed),
        optim.SGD,
        0.03,
        lambda net, batch: factor * cross_entropy(net, batch),
        momentum=0.9,
    )


def bright_digits(seed: int, factor: float) -> Run:
    """All images of batch 80 are multiplied; plain convolutions with ReLU under SGD with momentum."""
    stream = data.altered(turned(32, seed), data.times(factor), 80)
    return teach(refill(Turner(4, act=nn.ReLU), he), stream, optim.SGD, 0.02, momentum=0.9)


def shifted_targets(seed: int, shift: float) -> Run:
    """To all targets of batch 70 the level is added; SiLU layers under SGD with momentum."""
    stream = data.altered(ishigami(48, seed), lambda batch: (batch[0], batch[1] + shift), 70)
    return teach(plain(3, 64, 64, 1, act=nn.SiLU), stream, optim.SGD, 0.03, squares, momentum=0.9)


def half_chirps(seed: int, scale: float) -> Run:
    """Half precision by autocast under Adam, which does not mind the level that multiplies the loss."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            logits = net(batch[0])
        return scale * functional.cross_entropy(logits.float(), batch[1])

    return teach(refill(Dilated(3), he), chirps(32, seed), optim.Adam, 5e-3, loss)


def held_heights(seed: int, clip: float) -> Run:
    """A pre-norm decoder under SGD with momentum; the level is the largest norm of its gradient."""
    return teach(Causal(), heights(16, seed), optim.SGD, 0.3, clip=clip, momentum=0.9)


def decayed_author(seed: int, decay: float) -> Run:
    """An LSTM on descriptions under AdamW; the level is its decay."""
    model = Signs(nn.LSTM(16, 32, batch_first=True), descriptions()[1])
    return teach(model, sentences(12, 16, seed), optim.AdamW, 5e-3, weight_decay=decay)


def hasty_decay(seed: int, gamma: float) -> Run:
    """Convolutions under Nesterov's momentum; each step multiplies the rate by the level."""
    run = teach(Turner(2, act=nn.SiLU), turned(32, seed), optim.SGD, 0.05, momentum=0.9, nesterov=True)
    return scheduled(run, lambda t: gamma**t)


def cut_front(seed: int, layers: float) -> Run:
    """Six tanh layers of 16 units on turned digits under Adam; the first ones are cut off."""
    return teach(CutFront(64, 4, 6, 16, int(layers)), turned_rows(48, seed), optim.Adam, 5e-3)


SWEEPS = (
    Sweep("adam_rate_up_turned", (*DIVERGES, "saturation"), (1e-3, 3e-3, 0.01, 0.02, 0.1, 1.0, 10.0), quick_turner),
    Sweep("momentum_rate_up_descriptions", (*DIVERGES, "saturation"),
          (0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 300.0), clipped_author),
    Sweep("adam_rate_down_heights", ("stalled",), (0.01, 5e-3, 3e-3, 1e-3, 1e-4, 1e-5, 1e-7), slow_heights),
    Sweep("dilated_init_down", ("vanishing", "stalled"), (1.2, 1.0, 0.8, 0.6, 0.4, 0.2, 0.03), faint_chirps, 220),
    Sweep("leaky_init_up", DIVERGES, (0.8, 1.0, 1.4, 1.8, 2.5, 4.0, 10.0), loud_rows),
    Sweep("tanh_depth_up_spirals", ("vanishing", "stalled"), (2, 3, 4, 6, 10, 14, 20), deep_tanh),
    Sweep("residual_depth_up_tissue", DIVERGES, (1, 2, 4, 7, 10, 14, 24), tall_tissue),
    Sweep("rnn_adding_length_up", ("vanishing", "stalled"), (3, 5, 8, 11, 15, 25, 60), far_addend, 200),
    Sweep("linear_radius_up", DIVERGES, (0.7, 0.9, 1.0, 1.05, 1.1, 1.2, 1.5), loud_memory),
    Sweep("relu_bias_down_ishigami", ("dead_relu", "vanishing"),
          (0.0, -0.2, -0.5, -1.0, -1.5, -3.0, -10.0), shut_angles),
    Sweep("tissue_unit_up", ("input_scale", "saturation", "vanishing", *DIVERGES),
          (0.0, 0.2, 0.4, 0.6, 1.0, 1.3, 1.6), raw_tissue),
    Sweep("chirp_unit_down", ("input_scale", "vanishing", "stalled"),
          (1.0, 0.5, 0.3, 0.2, 0.02, 1e-3, 1e-5), quiet_chirps, 200),
    Sweep("loss_factor_up", DIVERGES, (1.0, 2.0, 4.0, 8.0, 32.0, 512.0, 1e5), summed_tissue, scales_loss=True),
    Sweep("one_batch_of_digits_up", ("data_outlier", "input_scale", *DIVERGES),
          (1.0, 2.0, 4.0, 10.0, 50.0, 255.0, 1e5), bright_digits, 140),
    Sweep("one_batch_of_shifted_targets_up", ("data_outlier", "input_scale", *DIVERGES),
          (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4), shifted_targets, 120),
    Sweep("adam_loss_scale_up", ("nonfinite", "exploding"), tuple(2.0**k for k in (0, 4, 8, 12, 16, 20, 24)),
          half_chirps, scales_loss=True),
    Sweep("clip_down_heights", ("stalled",), (1.0, 0.3, 0.1, 0.01, 3e-3, 3e-4, 1e-5), held_heights),
    Sweep("weight_decay_up_descriptions", ("stalled", "vanishing"),
          (0.0, 0.01, 0.1, 1.0, 10.0, 30.0, 100.0), decayed_author),
    Sweep("decay_gamma_down", ("stalled",), (1.0, 0.995, 0.99, 0.97, 0.9, 0.7, 0.3), hasty_decay),
    Sweep("detached_layers_up", ("disconnected", "vanishing", "stalled"), (0, 1, 2, 3, 4, 5, 6), cut_front),
)  # fmt: skip

# Of the causes that there are names for, those that are right for a sweep's harmful levels.
RIGHT_CAUSES: dict[str, tuple[str, ...]] = {
    "adam_rate_up_turned": ("lr_too_high",),
    "momentum_rate_up_descriptions": ("lr_too_high",),
    "adam_rate_down_heights": ("lr_too_low",),
    "dilated_init_down": ("small_weights", "no_normalisation", "no_shortcuts"),
    "leaky_init_up": ("large_weights", "no_normalisation"),
    "tanh_depth_up_spirals": ("small_weights", "no_normalisation", "no_shortcuts", "saturating_activations"),
    "residual_depth_up_tissue": ("no_normalisation", "large_weights"),
    "rnn_adding_length_up": ("long_recurrence",),
    "linear_radius_up": ("long_recurrence", "large_weights"),
    "relu_bias_down_ishigami": ("dead_by_bias",),
    "tissue_unit_up": ("unscaled_inputs",),
    "chirp_unit_down": ("unscaled_inputs",),
    "loss_factor_up": ("lr_too_high", "loss_scale"),
    "one_batch_of_digits_up": ("one_bad_batch",),
    "one_batch_of_shifted_targets_up": ("one_bad_batch",),
    "adam_loss_scale_up": ("loss_scale", "half_precision_overflow"),
    "clip_down_heights": ("clipping_too_small",),
    "weight_decay_up_descriptions": ("small_weights",),
    "decay_gamma_down": ("schedule_at_zero", "lr_too_low"),
    "detached_layers_up": ("cut_graph",),
}
