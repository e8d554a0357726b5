"""The fifth part of the severity sweeps: ordinary faults on ordinary nets; judged as those of ``sweeps``.

    python tests/zoo/sweeps.py --sweeps fifth --seeds 0 1      # what each level does, unwatched

Written without a look at any detector. Whether a level does harm is measured: ``sweeps.assess``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fifth_nets import (
    AutoEncoder,
    ConvNet,
    Forecaster,
    Tagger,
    blobs,
    first_word,
    friedman,
    hours,
    itself,
    shapes,
)
from zoo.blind_fourth_nets import he, plain, refill, squares, teach
from zoo.core import Batch, Run
from zoo.sweeps import DIVERGES, Sweep

optim = torch.optim


def characters(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy at every place of a text."""
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def regression(seed: int, rate: float) -> Run:
    """Two ReLU layers on Friedman's function under plain SGD."""
    return teach(plain(10, 64, 64, 1), friedman(32, seed), optim.SGD, rate, squares)


def writer(seed: int, rate: float) -> Run:
    """An LSTM on the manual's characters under Adam."""
    vocab = data.text()[1]
    model = Tagger("lstm", vocab, vocab, 48, every=True)
    return teach(model, data.windows(16, 20, seed), optim.Adam, rate, characters)


def slow_convs(seed: int, rate: float) -> Run:
    """Two convolutions with BatchNorm on shapes under SGD with momentum."""
    return teach(ConvNet(), shapes(32, seed), optim.SGD, rate, momentum=0.9)


def sigmoids(seed: int, depth: float) -> Run:
    """Sigmoid layers of Xavier's init on blobs under SGD with momentum."""
    model = refill(plain(20, *[32] * int(depth), 5, act=nn.Sigmoid), nn.init.xavier_uniform_)
    return teach(model, blobs(32, seed), optim.SGD, 0.1, momentum=0.9)


def wild_tanh(seed: int, std: float) -> Run:
    """Five tanh layers whose weights are normal of a given deviation, under SGD with momentum."""
    sizes = (20, *[50] * 5, 5)
    model = refill(plain(*sizes, act=nn.Tanh), lambda w: nn.init.normal_(w, std=std), head=False)
    return teach(model, blobs(32, seed), optim.SGD, 0.02, momentum=0.9)


def faint_relu(seed: int, gain: float) -> Run:
    """Five ReLU layers, He's init times the level, under Adam."""
    model = refill(plain(20, 40, 40, 40, 40, 40, 5), lambda w: he(w).data.mul_(gain))
    return teach(model, blobs(32, seed), optim.Adam, 1e-3)


def far_word(seed: int, length: float) -> Run:
    """A tanh RNN must tell the first of several symbols."""
    return teach(Tagger("rnn", 12, 4), first_word(32, int(length), seed), optim.Adam, 3e-3, clip=1.0)


def raw_wine(seed: int, factor: float) -> Run:
    """Wine in another unit."""
    x, y = data.table("wine")
    model = plain(13, 32, 32, 3, act=nn.GELU)
    return teach(model, data.batches(x * factor, y, 32, seed), optim.SGD, 0.05, momentum=0.9)


def spike(seed: int, factor: float) -> Run:
    """All images of batch 90 are multiplied; nothing is normalised."""
    stream = data.altered(shapes(32, seed), data.times(factor), 90)
    return teach(refill(ConvNet(norm=False), he), stream, optim.SGD, 0.01, momentum=0.9)


def shut_code(seed: int, bias: float) -> Run:
    """An autoencoder of digits under AdamW; the biases of both hidden layers begin at the level."""
    model = refill(AutoEncoder(), he)
    for part in (model.encoder, model.decoder):
        nn.init.constant_(part[0].bias, bias)
    return teach(model, itself(48, seed), optim.AdamW, 2e-3, squares)


def decayed(seed: int, decay: float) -> Run:
    """A GRU forecasts a load curve under SGD with momentum and decay."""
    return teach(Forecaster("gru"), hours(32, seed), optim.SGD, 0.05, squares, momentum=0.9, weight_decay=decay)


def half_adam(seed: int, eps: float) -> Run:
    """Weights, gradients and moments are all float16; an ``eps`` below 6e-8 is zero there."""
    model = plain(20, 48, 48, 5).half()
    stream = ((x.half(), y) for x, y in blobs(32, seed))

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(net(batch[0]).float(), batch[1])

    return teach(model, stream, optim.Adam, 1e-3, loss, eps=eps)


SWEEPS = (
    Sweep("sgd_rate_up_friedman", DIVERGES, (0.03, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0), regression),
    Sweep("adam_rate_up_lstm", (*DIVERGES, "saturation"), (3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0), writer, 120),
    Sweep("sgd_rate_down_convs", ("stalled",), (0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5, 1e-7), slow_convs),
    Sweep("sigmoid_depth_up_blobs", ("vanishing", "stalled"), (1, 2, 3, 4, 5, 7, 10), sigmoids, 200),
    Sweep("tanh_std_up", ("saturation", "vanishing", *DIVERGES), (0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 100.0), wild_tanh),
    Sweep("relu_init_down_adam", ("vanishing", "stalled"), (1.0, 0.7, 0.4, 0.2, 0.1, 0.03, 1e-3), faint_relu),
    Sweep("rnn_first_word_length_up", ("vanishing", "stalled"), (3, 6, 9, 12, 15, 25, 50), far_word, 200),
    Sweep("wine_unit_up", ("input_scale", "saturation", *DIVERGES), (1.0, 3.0, 10.0, 20.0, 50.0, 300.0, 1e5), raw_wine),
    Sweep("one_batch_of_images_up", ("data_outlier", "input_scale", *DIVERGES),
          (1.0, 2.0, 4.0, 6.0, 10.0, 100.0, 1e5), spike, 150),
    Sweep("autoencoder_bias_down", ("dead_relu", "vanishing"), (0.0, -0.2, -0.5, -1.0, -2.0, -4.0, -16.0), shut_code),
    Sweep("weight_decay_up_gru", ("stalled", "vanishing"), (0.0, 1e-4, 0.01, 0.1, 0.3, 1.0, 5.0), decayed),
    Sweep("half_adam_eps_down", ("nonfinite", *DIVERGES), (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10), half_adam),
)  # fmt: skip

# Of the causes that there are names for, those that are right for a sweep's harmful levels.
RIGHT_CAUSES: dict[str, tuple[str, ...]] = {
    "sgd_rate_up_friedman": ("lr_too_high",),
    "adam_rate_up_lstm": ("lr_too_high",),
    "sgd_rate_down_convs": ("lr_too_low",),
    "sigmoid_depth_up_blobs": ("saturating_activations", "no_normalisation", "no_shortcuts", "small_weights"),
    "tanh_std_up": ("large_weights", "saturating_activations"),
    "relu_init_down_adam": ("small_weights", "no_normalisation", "no_shortcuts"),
    "rnn_first_word_length_up": ("long_recurrence",),
    "wine_unit_up": ("unscaled_inputs",),
    "one_batch_of_images_up": ("one_bad_batch",),
    "autoencoder_bias_down": ("dead_by_bias",),
    "weight_decay_up_gru": ("small_weights",),
    "half_adam_eps_down": ("half_precision_underflow",),
}
