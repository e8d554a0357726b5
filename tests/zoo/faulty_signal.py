"""Faulty runs whose learning signal fades or blows up on its way through depth or through time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo import data, models, models_seq
from zoo.core import Registry, Run
from zoo.recipes import (
    at_step,
    cross_entropy,
    echoing,
    images,
    on_digits,
    optimizer,
    pretrained,
    rebuild,
    sized,
    stack,
    tabular,
    upto,
)

SCENARIOS = Registry()
V, E = "vanishing", "exploding"
DIVERGES = ("lr_too_high", "nonfinite")


def autoencoder(
    seed: int, depth: int, act: str, init: str, *, gain: float = 1.0, lr: float = 0.1, kind: str = "momentum"
) -> Run:
    """Rebuild digits."""
    model = models.reset(models.AutoEncoder(depth, act), init, gain)
    x, y = data.digits()
    with torch.no_grad():
        model.decoder.linears[-1].weight.mul_(0.1)
        model.decoder.linears[-1].bias.copy_(x.mean(0))
    return Run(model, optimizer(model.parameters(), kind, lr), data.batches(x, y, 64, seed), rebuild)


def cell_loop(
    seed: int,
    radius: float,
    length: int,
    act: str = "tanh",
    *,
    kind: str = "adam",
    lr: float = 3e-3,
    clip: float | None = 1.0,
) -> Run:
    """Echo with ``nn.RNNCell``."""
    return echoing(seed, models_seq.CellLoop(4, 32, 4, radius, act), length, lr, kind, clip=clip)


def rows(seed: int, radius: float) -> Run:
    """Digits row by row with a ReLU ``nn.RNNCell``."""
    run = on_digits(seed, models_seq.CellLoop(8, 48, 10, radius, "relu"), "momentum", 0.02)
    run.batches = ((x.view(-1, 8, 8), y) for x, y in run.batches)
    return run


def own_cell(
    seed: int,
    radius: float,
    length: int,
    act: str = "tanh",
    *,
    kind: str = "adam",
    lr: float = 3e-3,
    clip: float | None = 1.0,
) -> Run:
    """Echo with a hand-written cell."""
    return echoing(seed, models_seq.OwnCell(4, 32, 4, radius, act), length, lr, kind, clip=clip)


def lstm_forgets(seed: int, bias: float, length: int) -> Run:
    """Echo with an LSTM."""
    return echoing(seed, models_seq.Fused("lstm", 4, 32, 4).forget(bias), length, 5e-3)


def own_gates(seed: int, keep: float, length: int) -> Run:
    """Echo with a hand-written gated cell."""
    return echoing(seed, models_seq.OwnGates(4, 24, 4, keep), length, 5e-3)


class WeakSkip(nn.Module):
    """Residual blocks whose shortcut is multiplied: ``skip * x + block(x)``."""

    def __init__(self, depth: int, skip: float) -> None:
        super().__init__()
        self.inlet = nn.Linear(64, 40)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40)) for _ in range(depth)
        )
        for block in self.blocks:
            nn.init.normal_(block[2].weight, std=0.01)
        self.outlet = nn.Linear(40, 10)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for block in self.blocks:
            x = self.skip * x + block(x)
        return self.outlet(x)


class Squares(nn.Module):
    """Layers with ``x ** 2`` for an activation."""

    def __init__(self, depth: int, *, square: bool) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(sized(depth, 32)[:-1], sized(depth, 32)[1:], strict=True)
        )
        models.reset(self, "he", 1.5)
        self.square = square

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for linear in self.linears[:-1]:
            h = linear(x)
            x = h.square() if self.square else torch.relu(h)
        return self.linears[-1](x)


def zero_ends(seed: int, *, zero: int) -> Run:
    """The last ``zero`` layers start at zero."""
    model = models.reset(models.Stack(sized(4, 40)), "he")
    for linear in model.linears[len(model.linears) - zero :]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return on_digits(seed, model, "momentum", 0.05)


def lora(seed: int, *, both: bool) -> Run:
    """Adapters on a pretrained stack that now gets other classes; ``both`` factors at zero."""
    model = pretrained(models.Stack(sized(3, 48)), seed)
    for i, linear in enumerate(model.linears):
        model.linears[i] = models_seq_adapt(linear, both=both)
    run = on_digits(seed, model, "adam", 5e-3)
    run.optimizer = optimizer([p for p in model.parameters() if p.requires_grad], "adam", 5e-3)
    run.batches = ((x, 9 - y) for x, y in run.batches)
    return run


def models_seq_adapt(linear: nn.Linear, *, both: bool) -> models.Adapted:
    """An adapted layer; with ``both`` also its first factor starts at zero."""
    adapted = models.Adapted(linear)
    if both:
        nn.init.zeros_(adapted.lora_a)
    return adapted


def inflating(seed: int, factor: float, at: int) -> Run:
    """A wrong weight decay that multiplies the weights by ``factor`` at every step from ``at`` on."""
    run = stack(seed, 4, 40, "relu", "he", kind="sgd", lr=0.05)

    def inflate(step: int) -> None:
        if step >= at:
            with torch.no_grad():
                for p in run.model.parameters():
                    p.mul_(factor)

    run.before_step = inflate
    return run


def piling(seed: int, *, forget: bool, at: int = 0) -> Run:
    """``zero_grad`` is forgotten from step ``at`` on."""
    run = images(seed, "he", depth=3, lr=0.1, kind="sgd")
    run.zero_grad = not forget
    if forget:
        run.before_step = lambda step: run.optimizer.zero_grad() if step < at else None
    return run


def bare_transformer(seed: int, gain: float, *, norm: bool) -> Run:
    """Six layers on the copying task."""
    model = models_seq.OwnTransformer(7, 24, 6, 2, 12, norm=norm)
    models.reset(model, "xavier", gain)
    return Run(model, optimizer(model.parameters(), "sgd", 0.05), data.copying(32, seed), cross_entropy)


def burst(seed: int, factor: float, at: int) -> Run:
    """At one step a bug multiplies the weights of two layers."""
    run = stack(seed, 5, 40, "gelu", kind="momentum", lr=0.05, init="he")

    def multiply() -> None:
        with torch.no_grad():
            for i in (1, 2):
                run.model.linears[i].weight.mul_(factor)

    return at_step(run, at, multiply)


add = SCENARIOS.pair
add("tanh_functional_small", V, "12 functional tanh layers, weights of deviation 0.02", stack, {"depth": 12,
    "width": 40, "act": "tanh", "init": "normal", "gain": 0.02, "functional": True, "kind": "momentum", "lr": 0.02},
    {"depth": 12, "width": 40, "act": "tanh", "init": "xavier", "functional": True, "kind": "momentum", "lr": 0.02},
    ("small_weights",), steps=150, faulty_layers=upto("linears", 7))  # fmt: skip
add("sigmoid_autoencoder", V, "a 12-layer sigmoid autoencoder", autoencoder,
    {"depth": 6, "act": "sigmoid", "init": "xavier"}, {"depth": 6, "act": "elu", "init": "he"},
    ("saturating_activations",), steps=200, faulty_layers=("encoder",))  # fmt: skip
add("rnncell_fades", V, "an nn.RNNCell loop of radius 0.5 must remember 35 frames", cell_loop,
    {"radius": 0.5, "length": 35}, {"radius": 1.0, "length": 35}, ("long_recurrence", "small_weights"), steps=250,
    faulty_layers=("cell",))  # fmt: skip
add("own_cell_sigmoid_fades", V, "a hand-written sigmoid recurrence must remember 25 frames", own_cell,
    {"radius": 1.0, "length": 25, "act": "sigmoid"}, {"radius": 1.0, "length": 25},
    ("long_recurrence", "saturating_activations"), steps=250, faulty_layers=("again", "inward"))  # fmt: skip
add("lstm_forgets", V, "an LSTM whose forget bias is -6 must remember 30 frames", lstm_forgets,
    {"bias": -6.0, "length": 30}, {"bias": 4.0, "length": 30}, ("long_recurrence", "saturating_activations"),
    steps=250, faulty_layers=("rnn",))  # fmt: skip
add("own_gates_shut", V, "a hand-written gate of bias -5 must keep 20 frames", own_gates,
    {"keep": -5.0, "length": 20}, {"keep": 3.0, "length": 20}, ("long_recurrence", "saturating_activations"),
    steps=150, faulty_layers=("gate", "candidate"))  # fmt: skip
add("linear_product_shrinks", V, "60 linear layers, orthogonal times 0.85", tabular, {"name": "wine", "depth": 60,
    "width": 16, "act": "none", "init": "orthogonal", "gain": 0.85, "kind": "sgd", "lr": 0.01},
    {"name": "wine", "depth": 60, "width": 16, "act": "none", "init": "orthogonal", "kind": "sgd", "lr": 0.01},
    ("small_weights",), steps=150, faulty_layers=upto("linears", 31))  # fmt: skip
add("weak_shortcuts", V, "14 residual blocks whose shortcut is multiplied by 0.2",
    lambda seed, skip: on_digits(seed, WeakSkip(14, skip), "momentum", 0.05), {"skip": 0.2}, {"skip": 1.0},
    ("no_shortcuts", "small_weights"), steps=150, faulty_layers=("inlet", *upto("blocks", 8)))  # fmt: skip
add("sigmoid_convs_functional", V, "7 convolutions with torch.sigmoid in forward", images,
    {"depth": 7, "act": "sigmoid", "functional": True}, {"depth": 7, "norm": True},
    ("saturating_activations", "no_normalisation"), steps=120, faulty_layers=upto("convs", 4))  # fmt: skip
add("relu_default_init_18", V, "18 ReLU layers with torch's default (too small) init, Nesterov", stack,
    {"depth": 18, "width": 64, "kind": "nesterov", "lr": 0.01},
    {"depth": 18, "width": 64, "init": "he", "kind": "nesterov", "lr": 0.01},
    ("small_weights", "no_normalisation", "no_shortcuts"), steps=150, faulty_layers=upto("linears", 10))  # fmt: skip
add("softsign_tower", V, "20 softsign layers of default init on breast_cancer", tabular,
    {"name": "breast_cancer", "depth": 20, "width": 24, "act": "softsign", "kind": "momentum", "lr": 0.01},
    {"name": "breast_cancer", "depth": 20, "width": 24, "act": "softsign", "kind": "momentum", "lr": 0.01,
    "norm": "layer"}, ("small_weights", "no_normalisation", "saturating_activations", "no_shortcuts"), steps=150,
    faulty_layers=upto("linears", 12))  # fmt: skip
add("zero_last_two", V, "the last two layers start at zero: neither ever gets a gradient", zero_ends, {"zero": 2},
    {"zero": 1}, ("zero_weights",), steps=120, accept=("dead_relu", "stalled", "disconnected"),
    faulty_layers=upto("linears", 5))  # fmt: skip
add("lora_both_zero", V, "both factors of every adapter start at zero", lora, {"both": True}, {"both": False},
    ("zero_weights",), steps=150, accept=("stalled", "disconnected"), faulty_layers=("linears",))  # fmt: skip
add("tanh_fp_rnn_tiny", V, "a fused tanh RNN of radius 0.3, two layers, must remember 20 frames",
    lambda seed, radius: echoing(seed, models_seq.Fused("tanh", 4, 32, 4, radius=radius, layers=2), 20),
    {"radius": 0.3}, {"radius": 1.0}, ("long_recurrence", "small_weights"), steps=200,
    faulty_layers=("rnn",))  # fmt: skip

add("linear_product_grows", E, "40 linear layers, orthogonal times 1.35", tabular, {"name": "wine", "depth": 40,
    "width": 16, "act": "none", "init": "orthogonal", "gain": 1.35, "kind": "sgd", "lr": 0.01},
    {"name": "wine", "depth": 40, "width": 16, "act": "none", "init": "orthogonal", "kind": "sgd", "lr": 0.01},
    ("large_weights",), steps=80, accept=DIVERGES)  # fmt: skip
add("own_cell_linear_explodes", E, "a hand-written linear recurrence of radius 1.4 over 40 frames, no clipping",
    own_cell, {"radius": 1.4, "length": 40, "act": "none", "kind": "sgd", "lr": 0.003, "clip": None},
    {"radius": 1.0, "length": 40, "act": "none", "kind": "sgd", "lr": 0.003, "clip": None},
    ("large_weights", "long_recurrence"), steps=120, accept=DIVERGES)  # fmt: skip
add("rnncell_relu_explodes", E, "an nn.RNNCell loop with ReLU and radius 5 over the 8 rows of an image, no clipping",
    rows, {"radius": 5.0}, {"radius": 1.0}, ("large_weights", "long_recurrence"), steps=120,
    accept=(*DIVERGES, "dead_relu"))  # fmt: skip
add("residual_branch_4", E, "16 residual blocks without norm, branches of He init times 4", lambda seed, branch, norm,
    gain: on_digits(seed, models.reset(models.Residual(16, 32, branch, norm), "he", gain), "sgd", 0.02),
    {"branch": 1.0, "norm": "", "gain": 2.0}, {"branch": 0.3, "norm": "layer", "gain": 1.0},
    ("large_weights", "no_normalisation"), steps=80, accept=(*DIVERGES, "dead_relu"))  # fmt: skip
add("convs_gain_3_functional", E, "8 functional-ReLU convolutions of He init times 3", images,
    {"depth": 8, "init": "he", "gain": 3.0, "functional": True, "lr": 0.02},
    {"depth": 8, "init": "he", "functional": True, "lr": 0.02}, ("large_weights", "no_normalisation"), steps=100,
    accept=(*DIVERGES, "dead_relu"))  # fmt: skip
add("weights_grow_by_5_percent", E, "a sign error in weight decay: weights grow by 5 % a step from step 50",
    inflating, {"factor": 1.05, "at": 50}, {"factor": 1.0, "at": 50}, ("growing_weights",), steps=130, onset=50,
    accept=DIVERGES)  # fmt: skip
add("zero_grad_forgotten_convs", E, "zero_grad is forgotten in a convolutional net from step 30 on", piling,
    {"forget": True, "at": 30}, {"forget": False}, ("gradients_pile_up",), steps=160, onset=30,
    accept=("lr_too_high", "nonfinite"))  # fmt: skip
add("bare_transformer_explodes", E, "6 transformer layers without norm, Xavier init times 3", bare_transformer,
    {"gain": 3.0, "norm": False}, {"gain": 1.0, "norm": True}, ("large_weights", "no_normalisation"), steps=70,
    accept=(*DIVERGES, "saturation"))  # fmt: skip
add("autoencoder_uniform_1", E, "a 10-layer ReLU autoencoder with weights drawn from -1..1", autoencoder,
    {"depth": 5, "act": "relu", "init": "uniform", "gain": 1.0, "lr": 0.01, "kind": "sgd"},
    {"depth": 5, "act": "relu", "init": "he", "lr": 0.01, "kind": "momentum"}, ("large_weights", "no_normalisation"),
    steps=100, accept=(*DIVERGES, "dead_relu"))  # fmt: skip
add("squares_for_activations", E, "five layers of x ** 2",
    lambda seed, square: on_digits(seed, Squares(5, square=square), "sgd", 0.01), {"square": True}, {"square": False},
    ("large_weights", "no_normalisation"), steps=100, accept=DIVERGES)  # fmt: skip
add("weights_times_30_at_70", E, "a bug multiplies two layers' weights by 30 at step 70", burst,
    {"factor": 30.0, "at": 70}, {"factor": 1.0, "at": 70}, ("large_weights", "growing_weights"), steps=130, onset=70,
    accept=DIVERGES, faulty_layers=())  # fmt: skip
