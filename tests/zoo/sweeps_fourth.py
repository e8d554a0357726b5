"""The fourth part of the severity sweeps: further faults, nets, data and optimizers; judged as those of ``sweeps``.

    python tests/zoo/sweeps.py --sweeps fourth --seeds 0 1 2      # what each level does, unwatched

Written without a look at any detector. Whether a level does harm is measured: ``sweeps.assess``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fourth_nets import (
    CodeConv,
    Gated,
    Memory,
    Spotter,
    Tower,
    code_lines,
    he,
    latch,
    marked,
    patches,
    phases,
    pictures,
    plain,
    refill,
    roll,
    shells,
    squares,
    teach,
)
from zoo.core import Batch, Run
from zoo.sweeps import DIVERGES, Sweep

optim = torch.optim


def radam(seed: int, rate: float) -> Run:
    """Gated blocks under RAdam."""
    return teach(Gated(10, 2), shells(64, seed), optim.RAdam, rate)


def adamax(seed: int, rate: float) -> Run:
    """Convolutions over source code under Adamax."""
    return teach(CodeConv(), code_lines(32, seed), optim.Adamax, rate)


def sigmoid_gain(seed: int, gain: float) -> Run:
    """Three hidden sigmoid layers whose weights are Xavier's, four times, times the level."""
    model = plain(4, 24, 24, 24, 1, act=nn.Sigmoid)
    refill(model, lambda w: nn.init.xavier_normal_(w, 4 * gain), head=False)
    return teach(model, phases(64, seed), optim.SGD, 0.05, squares, momentum=0.8)


def faint_convs(seed: int, gain: float) -> Run:
    """Six plain convolutions over photographs under Nesterov; the level scales what He gives."""
    model = refill(Tower(6), lambda w: he(w).data.mul_(gain))
    return teach(model, patches(32, seed), optim.SGD, 0.01, momentum=0.9, nesterov=True)


def deep_plain(seed: int, depth: float) -> Run:
    """ReLU layers of torch's own init tell a place on a Swiss roll."""
    model = plain(3, *[40] * int(depth), 1)
    return teach(model, roll(64, seed), optim.SGD, 0.05, squares, momentum=0.9)


def long_gru(seed: int, length: float) -> Run:
    """A GRU must remember its first frame."""
    return teach(Memory("gru", 2, 24, 3), latch(32, int(length), seed), optim.NAdam, 4e-3, clip=1.0)


def forgetful(seed: int, bias: float) -> Run:
    """An LSTM with a given bias of its forget gate remembers the first of twelve frames."""
    model = Memory("lstm", 2, 24, 3)
    with torch.no_grad():
        model.body.bias_ih_l0[24:48] = bias
        model.body.bias_hh_l0[24:48] = 0.0
    return teach(model, latch(32, 12, seed), optim.RMSprop, 2e-3, clip=1.0)


def photo_unit(seed: int, factor: float) -> Run:
    """Photographs in another unit; the level of 127 is that of bytes."""
    stream = ((x * factor, y) for x, y in patches(32, seed))
    return teach(refill(Tower(2, act=nn.LeakyReLU), he), stream, optim.SGD, 0.01, momentum=0.9)


def shut_convs(seed: int, bias: float) -> Run:
    """Plain convolutions over digits under Adagrad; all their biases begin at the level."""
    model = refill(Tower(3, 12, 1, 10), he)
    for conv in model.convs:
        nn.init.constant_(conv.bias, bias)
    return teach(model, pictures(32, seed), optim.Adagrad, 0.02)


def growing(seed: int, share: float) -> Run:
    """A bug multiplies all weight matrices before each step: a decay with the wrong sign."""
    run = teach(refill(plain(64, 48, 48, 10), he), pictures(32, seed), optim.SGD, 0.02, momentum=0.9)

    def grow(_: int) -> None:
        with torch.no_grad():
            for p in run.model.parameters():
                if p.ndim > 1:
                    p.mul_(1 + share)

    run.before_step = grow
    return run


def one_cell(seed: int, factor: float) -> Run:
    """One cell of one row of batch 70 is multiplied."""

    def slip(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[9, 2] = 1.5 * factor
        return x, batch[1]

    stream = data.altered(phases(32, seed), slip, 70)
    return teach(plain(4, 40, 40, 1, act=nn.SiLU), stream, optim.SGD, 0.03, squares, momentum=0.9)


def faint_halves(seed: int, unit: float) -> Run:
    """Half precision by autocast; the loss is multiplied by the level, and the rate divided by it."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            logits = model(batch[0])
        return unit * functional.cross_entropy(logits.float(), batch[1])

    model = refill(plain(64, 48, 48, 10, act=nn.GELU), he)
    return teach(model, pictures(32, seed), optim.SGD, 0.1 / unit, loss)


def sharp_question(seed: int, sharp: float) -> Run:
    """Multi-head attention looks for a mark; queries and keys are the level times torch's init."""
    return teach(Spotter(sharp), marked(48, seed), optim.AdamW, 5e-3, weight_decay=0.01)


def sure_sigmoid(seed: int, bias: float) -> Run:
    """Squared error on a sigmoid whose bias begins at the level."""
    model = plain(10, 48, 1, act=nn.Tanh)
    nn.init.constant_(model[-1].bias, bias)
    model.append(nn.Sigmoid())
    stream = ((x, y.float()) for x, y in shells(64, seed))
    return teach(model, stream, optim.SGD, 1.0, squares, momentum=0.9)


def resting_body(seed: int, share: float) -> Run:
    """Digits through a waist of three units; all layers but the last have the level's share of the rate."""
    model = plain(64, 32, 3, 32, 10, act=nn.ELU)
    groups = [{"params": model[:-1].parameters(), "lr": 0.01 * share}, {"params": model[-1].parameters()}]
    return teach(model, pictures(48, seed), optim.Adam, 0.01, weights=groups)


def coarse(seed: int, rate: float) -> Run:
    """Weights of bfloat16 under AdamW: a step below a 256th of a weight is rounded away."""
    model = plain(64, 64, 64, 10, act=nn.SiLU).bfloat16()
    stream = ((x.bfloat16(), y) for x, y in pictures(32, seed))
    return teach(model, stream, optim.AdamW, rate, weight_decay=0.01)


SWEEPS = (
    Sweep("radam_rate_up_gated", (*DIVERGES, "saturation"), (3e-3, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 100.0),
          radam, 200),
    Sweep("adamax_rate_down_code", ("stalled",), (0.02, 0.01, 3e-3, 1e-3, 1e-4, 1e-5, 1e-7), adamax, 200),
    Sweep("sigmoid_init_up", ("saturation", "vanishing", "stalled"), (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0),
          sigmoid_gain),
    Sweep("conv_init_down", ("vanishing", "stalled"), (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.05), faint_convs),
    Sweep("relu_depth_up", ("vanishing", "stalled"), (1, 2, 3, 5, 6, 8, 12, 25), deep_plain),
    Sweep("gru_length_up", ("vanishing", "stalled"), (4, 8, 12, 14, 16, 20, 30, 60), long_gru, 200),
    Sweep("lstm_forget_bias_down", ("vanishing", "stalled"), (3.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -4.0),
          forgetful, 250),
    Sweep("photo_unit_up", ("input_scale", *DIVERGES), (1.0, 4.0, 10.0, 15.0, 20.0, 30.0, 127.0, 1e4), photo_unit),
    Sweep("conv_bias_down", ("dead_relu", "vanishing"), (0.0, -0.3, -0.6, -0.9, -1.2, -1.6, -3.0, -10.0), shut_convs),
    Sweep("weights_grow", (*DIVERGES, "saturation"), (0.0, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3), growing),
    Sweep("one_cell_up", ("data_outlier", "input_scale", *DIVERGES), (1.0, 10.0, 20.0, 40.0, 100.0, 1e3, 1e5, 1e7),
          one_cell, 140),
    Sweep("half_loss_down", ("vanishing", "stalled"), tuple(2.0**-k for k in (0, 8, 14, 17, 19, 20, 22, 26)),
          faint_halves, scales_loss=True),
    Sweep("question_sharpness_up", ("saturation", "vanishing", "stalled", *DIVERGES),
          (1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 1024.0, 8192.0), sharp_question, 200),
    Sweep("sigmoid_bias_squares_down", ("saturation", "vanishing", "stalled"),
          (0.0, -1.0, -2.0, -4.0, -6.0, -10.0, -20.0), sure_sigmoid),
    Sweep("body_rate_down", ("stalled", "disconnected"), (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5), resting_body, 200),
    Sweep("bfloat16_rate_down", ("stalled",), (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6), coarse, 200),
)  # fmt: skip

# Of the causes that there are names for, those that are right for a sweep's harmful levels.
RIGHT_CAUSES: dict[str, tuple[str, ...]] = {
    "radam_rate_up_gated": ("lr_too_high",),
    "adamax_rate_down_code": ("lr_too_low",),
    "sigmoid_init_up": ("large_weights", "saturating_activations"),
    "conv_init_down": ("small_weights", "no_normalisation", "no_shortcuts"),
    "relu_depth_up": ("small_weights", "no_normalisation", "no_shortcuts"),
    "gru_length_up": ("long_recurrence",),
    "lstm_forget_bias_down": ("long_recurrence", "saturating_activations"),
    "photo_unit_up": ("unscaled_inputs",),
    "conv_bias_down": ("dead_by_bias",),
    "weights_grow": ("growing_weights", "large_weights"),
    "one_cell_up": ("one_bad_batch",),
    "half_loss_down": ("half_precision_underflow", "loss_scale"),
    "question_sharpness_up": ("unscaled_logits", "large_weights"),
    "sigmoid_bias_squares_down": ("unsuited_loss", "saturating_activations"),
    "body_rate_down": ("lr_too_low",),
    "bfloat16_rate_down": ("rounded_away", "lr_too_low"),
}
