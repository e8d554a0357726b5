"""Faulty runs whose units are dead (ReLU that never opens) or saturated (flat ends of sigmoid, tanh, softmax)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Batch, Registry, Run
from zoo.recipes import (
    at_step,
    echoing,
    images,
    on_digits,
    optimizer,
    scheduled,
    sized,
    squared_error,
    stack,
    tabular,
    upto,
)

SCENARIOS = Registry()
D, S = "dead_relu", "saturation"


def biased(run: Run, layer: str, bias: float) -> Run:
    """The run with one layer's bias set."""
    nn.init.constant_(run.model.get_submodule(layer).bias, bias)
    return run


def dead_stack(
    seed: int, layer: int, bias: float, *, functional: bool = False, kind: str = "momentum", lr: float = 0.05
) -> Run:
    """A stack with one biased layer."""
    return biased(stack(seed, 4, 48, init="he", functional=functional, kind=kind, lr=lr), f"linears.{layer}", bias)


def dead_images(seed: int, layer: int, bias: float, *, functional: bool = False) -> Run:
    """Convolutions with one biased layer."""
    return biased(images(seed, depth=4, init="he", functional=functional, lr=0.02), f"convs.{layer}", bias)


def dead_branch(seed: int, bias: float) -> Run:
    """A residual net whose branch is shut; the shortcut hides it from the loss."""
    return biased(on_digits(seed, models.Residual(4, 32), "adam", 2e-3), "blocks.1.1", bias)


def dead_code(seed: int, bias: float) -> Run:
    """An autoencoder whose narrow code passes a ReLU."""
    model = models.AutoEncoder(3, "relu")
    model.decoder = nn.Sequential(nn.ReLU(), model.decoder)
    nn.init.constant_(model.encoder.linears[2].bias, bias)
    x, y = data.digits()
    return Run(
        model,
        optimizer(model.parameters(), "adam", 3e-3),
        data.batches(x, y, 64, seed),
        lambda m, b: functional.mse_loss(m(b[0]), b[0]),
    )


def dead_wine(seed: int, bias: float) -> Run:
    """The only hidden layer of a small regression net."""
    return biased(tabular(seed, "diabetes", 1, 24, kind="sgd", lr=0.05), "linears.0", bias)


def hit(seed: int, at: int, bias: float, *, functional: bool) -> Run:
    """A bug moves one layer's bias at step ``at``."""
    run = stack(seed, 4, 48, functional=functional, kind="adam", lr=2e-3)

    def move() -> None:
        with torch.no_grad():
            run.model.linears[1].bias.add_(bias)

    return at_step(run, at, move)


def peaks(seed: int, factor: float, start: int, length: int, *, convs: bool, kind: str, lr: float) -> Run:
    """The learning rate is ``factor`` times too high for some steps."""
    run = images(seed, depth=4, lr=lr, kind=kind) if convs else stack(seed, 4, 48, "relu", "he", kind=kind, lr=lr)
    return scheduled(run, lambda step: factor if start <= step < start + length else 1.0)


class Squashed(nn.Module):
    """A stack whose single output passes a sigmoid or a tanh (or nothing), as a function."""

    def __init__(self, d_in: int, squash: str, act: str = "tanh") -> None:
        super().__init__()
        self.body = models.Stack(sized(2, 24, d_in, 1), act)
        self.squash = squash

    def forward(self, x: Tensor) -> Tensor:
        """The output, a column."""
        return models.FUNCTIONS[self.squash](self.body(x))


def sigmoid_error(seed: int, gain: float, bias: float) -> Run:
    """Squared error of a sigmoid's output: flat where the output is confidently wrong."""
    model = Squashed(30, "sigmoid")
    head = model.body.linears[2]
    nn.init.constant_(head.bias, bias)
    with torch.no_grad():
        head.weight.mul_(gain)
    x, y = data.table("breast_cancer")
    return Run(
        model, optimizer(model.parameters(), "momentum", 0.1), data.batches(x, y.float(), 32, seed), squared_error
    )


def bounded_output(seed: int, squash: str) -> Run:
    """Targets around 10 are asked of an output that ends at 1."""
    model = Squashed(10, squash)
    x, y = data.table("diabetes")
    return Run(
        model, optimizer(model.parameters(), "adam", 0.01), data.batches(x, (3 * y + 20) / 2, 32, seed), squared_error
    )


def shut_gates(seed: int, bias: float) -> Run:
    """An LSTM whose input gates start shut."""
    model = models_seq.Fused("lstm", 4, 32, 4)
    with torch.no_grad():
        model.rnn.bias_ih_l0[:32] += bias
    return echoing(seed, model, 10, 5e-3, lag=2)


def second_half(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy where there is something to copy."""
    return functional.cross_entropy(model(batch[0])[:, 6:].flatten(0, 1), batch[1][:, 6:].flatten())


def sharp_attention(seed: int, sharp: float) -> Run:
    """Copying needs attention; its logits are multiplied, so that each softmax is one-hot from the start."""
    model = models_seq.OwnTransformer(7, 32, 1, 2, 12, sharp=sharp)
    return Run(model, optimizer(model.parameters(), "adam", 4e-3), data.copying(32, seed), second_half)


def pinned_cell(seed: int, bias: float) -> Run:
    """A hand-written tanh cell whose bias pins its state to the upper end."""
    model = models_seq.OwnCell(4, 32, 4, 1.0, "tanh")
    nn.init.constant_(model.inward.bias, bias)
    return echoing(seed, model, 15, 3e-3)


def loud_late(seed: int, at: int, factor: float) -> Run:
    """A bug multiplies the weights of a tanh stack at step ``at``."""
    run = stack(seed, 3, 40, "tanh", "xavier", kind="sgd", lr=0.1)

    def multiply() -> None:
        with torch.no_grad():
            for linear in run.model.linears[:3]:
                linear.weight.mul_(factor)

    return at_step(run, at, multiply)


class SoftGate(nn.Module):
    """A gate in the interval 0..1 on each feature, from the same input; ``bias`` shuts it."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.gate, self.value, self.head = nn.Linear(64, 48), nn.Linear(64, 48), nn.Linear(48, 10)
        self.sigmoid = nn.Sigmoid()
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.sigmoid(self.gate(x)) * torch.tanh(self.value(x)))


def bce_shift(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error between a softmax and one-hot targets: flat where the softmax is confidently wrong."""
    return functional.mse_loss(model(batch[0]).softmax(1), functional.one_hot(batch[1], 10).float())


def softmax_error(seed: int, gain: float) -> Run:
    """Squared error on a softmax of large logits."""
    run = stack(seed, 2, 48, kind="momentum", lr=0.5)
    with torch.no_grad():
        run.model.linears[2].weight.mul_(gain)
    run.loss_fn = bce_shift
    return run


add = SCENARIOS.pair
BIAS, RATE = ("dead_by_bias",), ("dead_by_learning_rate", "lr_jumped", "lr_too_high")
add("dead_first_layer", D, "the first of four ReLU layers starts with bias -20", dead_stack,
    {"layer": 0, "bias": -20.0}, {"layer": 0, "bias": 0.0}, BIAS, check="dead", faulty_layers=("linears.0", "acts.0"),
    steps=120)  # fmt: skip
add("dead_third_functional", D, "the third layer, with functional ReLU, starts with bias -15", dead_stack,
    {"layer": 2, "bias": -15.0, "functional": True}, {"layer": 2, "bias": 0.0, "functional": True}, BIAS,
    check="dead", faulty_layers=("linears.2",), steps=120)  # fmt: skip
add("dead_last_hidden_adam", D, "the last hidden layer starts with bias -8, Adam", dead_stack,
    {"layer": 3, "bias": -8.0, "kind": "adam", "lr": 1e-3}, {"layer": 3, "bias": 0.0, "kind": "adam", "lr": 1e-3},
    BIAS, check="dead", faulty_layers=("linears.3", "acts.3"), steps=120)  # fmt: skip
add("dead_conv_1", D, "the second convolution starts with bias -20", dead_images, {"layer": 1, "bias": -20.0},
    {"layer": 1, "bias": 0.0}, BIAS, check="dead", faulty_layers=("convs.1", "acts.1"), steps=100)  # fmt: skip
add("dead_conv_3_functional", D, "the last convolution, with functional ReLU, starts with bias -20", dead_images,
    {"layer": 3, "bias": -20.0, "functional": True}, {"layer": 3, "bias": 0.0, "functional": True}, BIAS,
    check="dead", faulty_layers=("convs.3",), steps=100)  # fmt: skip
add("dead_residual_branch", D,
    "one branch of a residual net starts with bias -30; the shortcut hides it", dead_branch,
    {"bias": -30.0}, {"bias": 0.0}, BIAS, check="dead", faulty_layers=("blocks.1",), steps=120)  # fmt: skip
add("dead_code", D, "an autoencoder's ReLU code starts with bias -10", dead_code, {"bias": -10.0}, {"bias": 0.0},
    BIAS, check="dead", faulty_layers=("encoder.linears.2", "decoder.0"), steps=120)  # fmt: skip
add("dead_only_hidden", D, "the only hidden layer of a regression net starts with bias -9", dead_wine, {"bias": -9.0},
    {"bias": 0.0}, BIAS, check="dead", faulty_layers=("linears.0", "acts.0"), steps=150)  # fmt: skip
add("dead_from_70_functional", D, "a bug pushes one layer's bias to -40 at step 70, functional ReLU", hit,
    {"at": 70, "bias": -40.0, "functional": True}, {"at": 70, "bias": 0.0, "functional": True}, BIAS, check="dead",
    onset=70, faulty_layers=("linears.1",), steps=130)  # fmt: skip
add("dead_by_sgd_peak", D, "two SGD steps at 300 times the rate at step 60 kill ReLU layers", peaks,
    {"factor": 300.0, "start": 60, "length": 2, "convs": False, "kind": "sgd", "lr": 0.05},
    {"factor": 1.0, "start": 60, "length": 2, "convs": False, "kind": "sgd", "lr": 0.05}, RATE, onset=60,
    accept=("lr_too_high", "exploding"), steps=130)  # fmt: skip
add("dead_by_adam_start", D, "three Adam steps at lr 3 kill ReLU convolutions", peaks,
    {"factor": 1000.0, "start": 0, "length": 3, "convs": True, "kind": "adam", "lr": 3e-3},
    {"factor": 1.0, "start": 0, "length": 3, "convs": True, "kind": "adam", "lr": 3e-3}, RATE,
    accept=("lr_too_high", "exploding"), steps=120)  # fmt: skip

LOUD = ("large_weights", "saturating_activations")
add("tanh_gain_25", S, "a tanh stack of Xavier init times 25", stack,
    {"depth": 4, "act": "tanh", "init": "xavier", "gain": 25.0, "kind": "sgd", "lr": 0.02},
    {"depth": 4, "act": "tanh", "init": "xavier", "kind": "sgd", "lr": 0.05}, LOUD,
    accept=("exploding", "lr_too_high"), faulty_layers=(*upto("linears", 4), *upto("acts", 4)), steps=150)  # fmt: skip
add("sigmoid_functional_raw", S, "functional sigmoids on raw breast_cancer features (up to 4254)", tabular,
    {"name": "breast_cancer", "act": "sigmoid", "functional": True, "standardise": False, "kind": "sgd", "lr": 0.1},
    {"name": "breast_cancer", "act": "sigmoid", "functional": True, "init": "xavier", "kind": "sgd", "lr": 0.1},
    ("unscaled_inputs",), accept=("input_scale", "vanishing"), faulty_layers=("linears.0",), steps=200,
    check="saturated")  # fmt: skip
add("hardtanh_gain_20", S, "a hardtanh stack of default init times 20: exactly flat ends", stack,
    {"depth": 3, "act": "hardtanh", "gain": 20.0, "kind": "momentum", "lr": 0.01},
    {"depth": 3, "act": "hardtanh", "kind": "momentum", "lr": 0.05}, LOUD, accept=("vanishing", "exploding"),
    faulty_layers=(*upto("linears", 3), *upto("acts", 3)), steps=150)  # fmt: skip
add("lstm_input_gate_shut", S, "an LSTM whose input gates start at bias -18", shut_gates, {"bias": -18.0},
    {"bias": 0.0}, ("saturating_activations", "large_weights"), accept=("vanishing", "stalled"),
    faulty_layers=("rnn",), steps=150)  # fmt: skip
add("own_cell_pinned", S, "a hand-written tanh cell whose bias of 25 pins its state to 1", pinned_cell,
    {"bias": 25.0}, {"bias": 0.0}, ("large_weights", "saturating_activations"), accept=("vanishing", "stalled"),
    faulty_layers=("again", "inward"), steps=200)  # fmt: skip
add("squared_error_of_sigmoid", S, "squared error on a sigmoid that starts confidently wrong", sigmoid_error,
    {"gain": 1.0, "bias": -25.0}, {"gain": 1.0, "bias": 0.0},
    ("unsuited_loss", "saturating_activations", "large_weights"), accept=("vanishing", "stalled"),
    faulty_layers=("body.linears.2",), steps=120)  # fmt: skip
add("squared_error_of_softmax", S, "squared error on a softmax whose logits start 300 times too large", softmax_error,
    {"gain": 300.0}, {"gain": 1.0}, ("unsuited_loss", *LOUD), accept=("vanishing", "stalled", "exploding"),
    faulty_layers=("linears.2",), steps=150)  # fmt: skip
add("tanh_output_out_of_range", S, "targets around 10 are asked of a tanh output", bounded_output, {"squash": "tanh"},
    {"squash": "none"}, ("unsuited_loss", "saturating_activations"), accept=("stalled", "vanishing"),
    faulty_layers=("body.linears.2",), steps=200)  # fmt: skip
add("attention_one_hot", S, "attention logits multiplied by 1000: one-hot softmax from the start",
    sharp_attention, {"sharp": 1000.0}, {"sharp": 1.0}, ("unscaled_logits", *LOUD), accept=("vanishing",),
    faulty_layers=("layers.0.attend",), steps=250)  # fmt: skip
add("tanh_weights_x200_at_60", S, "a bug multiplies a tanh stack's weights by 200 at step 60", loud_late,
    {"at": 60, "factor": 200.0}, {"at": 60, "factor": 1.0},
    ("large_weights", "saturating_activations", "growing_weights"), onset=60,
    accept=("exploding", "vanishing", "lr_too_high"), faulty_layers=(*upto("linears", 3), *upto("acts", 3)),
    steps=140, check="saturated")  # fmt: skip
add("gate_shut", S, "a sigmoid gate that starts at bias -20 lets nothing through",
    lambda seed, bias: on_digits(seed, SoftGate(bias), "momentum", 0.1), {"bias": -20.0}, {"bias": 0.0},
    ("saturating_activations", "large_weights"), accept=("vanishing", "stalled"),
    faulty_layers=("gate", "sigmoid", "value"), steps=120)  # fmt: skip
