"""Faulty runs: a graph is cut, an optimizer misses a part, or data are in the wrong units, always or once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Registry, Run
from zoo.recipes import cross_entropy, images, odd_batch, on_digits, optimizer, rebuild, stack, tabular, upto

SCENARIOS = Registry()
C, I, O = "disconnected", "input_scale", "data_outlier"  # noqa: E741


class Parts(nn.Module):
    """Two stacks with something between them that may cut the graph."""

    def __init__(self, between: str, since: int = 0) -> None:
        super().__init__()
        self.lower, self.upper = models.Stack([64, 48, 32], "tanh"), models.Stack([32, 32, 10])
        self.between, self.since, self.calls = between, since, 0

    def cut(self, h: Tensor) -> Tensor:
        """What is wrong."""
        if self.between == "detach":
            return h.detach()
        if self.between == "data":
            return h.data * 1.0
        if self.between == "numpy":
            return torch.from_numpy(h.detach().numpy().copy())
        if self.between == "list":
            return torch.tensor(h.tolist())
        if self.between == "round":
            return (4 * h).round() / 4
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.calls += 1
        h = self.lower(x)
        return self.upper(self.cut(h) if self.calls > self.since else h)


def parts(seed: int, between: str, since: int = 0, kind: str = "momentum", lr: float = 0.05) -> Run:
    """Digits through two parts."""
    return on_digits(seed, Parts(between, since), kind, lr)


class NoGrad(nn.Module):
    """An encoder that may run under ``no_grad``, before a decoder."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = models.Stack([64, 48, 10], "elu"), models.Stack([10, 48, 64], "elu")
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        with torch.set_grad_enabled(not self.cut):
            h = self.encoder(x)
        return self.decoder(h)


def no_grad(seed: int, *, cut: bool) -> Run:
    """An autoencoder."""
    model = NoGrad(cut=cut)
    return Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(*data.digits(), 64, seed), rebuild)


class Branches(nn.Module):
    """Two branches; the second one's output may be ignored or multiplied by zero."""

    def __init__(self, second: str) -> None:
        super().__init__()
        self.wide, self.deep = models.Stack([30, 24]), models.Stack([30, 24, 24, 24])
        self.head = nn.Linear(48, 2)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        a, b = self.wide(x), self.deep(x)
        b = {"used": b, "ignored": a, "times_zero": b * 0.0}[self.second]
        return self.head(torch.relu(torch.cat([a, b], 1)))


def branches(seed: int, second: str) -> Run:
    """Breast cancer through two branches."""
    model = Branches(second)
    return Run(
        model,
        optimizer(model.parameters(), "adamw", 3e-3),
        data.batches(*data.table("breast_cancer"), 32, seed),
        cross_entropy,
    )


def left_out(seed: int, *, out: bool) -> Run:
    """A freshly initialised body that the optimizer may not have been given."""
    model = models.Images(3, 12)
    run = on_digits(seed, model, "momentum", 0.05, 32)
    if out:
        run.optimizer = optimizer([*model.convs[2].parameters(), *model.head.parameters()], "momentum", 0.05)
    return run


def new_head(seed: int, *, after: bool) -> Run:
    """A head that is replaced after, or before, the optimizer is made."""
    model = models.Stack([64, 48, 48, 10], "gelu")
    run = on_digits(seed, model, "adam", 2e-3)
    model.linears[2] = nn.Linear(48, 10)
    if not after:
        run.optimizer = optimizer(model.parameters(), "adam", 2e-3)
    return run


def zero_gains(seed: int, act: str, gain: float) -> Run:
    """Residual convolutions whose branches begin with this gain before their activation."""
    run = images(seed, depth=6, act=act, norm=True, shortcut=True)
    for norm in run.model.norms[1:]:
        nn.init.constant_(norm.weight, gain)
    return run


def looked_up(seed: int, *, cut: bool) -> Run:
    """Symbols looked up in an embedding's ``.data``."""
    model = models_seq.OwnTransformer(7, 24, 1, 2, 12)
    if cut:
        model.embed.forward = lambda x: model.embed.weight.data[x]
    return Run(model, optimizer(model.parameters(), "adam", 4e-3), data.copying(32, seed), cross_entropy)


def sounds(seed: int, times: float, at: int | None = None, kind: str = "sgd", lr: float = 0.05) -> Run:
    """Sounds, all of them (or one batch) in the range of 16-bit integers."""
    model = models_seq.Sounds()
    stream = data.waves(32, seed)
    stream = map(data.times(times), stream) if at is None else data.altered(stream, data.times(times), at)
    return Run(model, optimizer(model.parameters(), kind, lr), stream, cross_entropy)


def one_column(seed: int, factor: float) -> Run:
    """One feature of the diabetes data is in other units."""
    run = tabular(seed, "diabetes", kind="sgd", lr=0.02)
    units = torch.ones(10)
    units[2] = factor
    run.batches = ((x * units, y) for x, y in run.batches)
    return run


def rebuilding(seed: int, times: float, at: int | None = None, lr: float = 0.05) -> Run:
    """An hourglass rebuilds images whose pixels, inputs and targets alike, are multiplied."""
    model = models.Hourglass()
    stream = data.batches(*data.digits(), 32, seed)
    stream = map(data.times(times), stream) if at is None else data.altered(stream, data.times(times), at)
    return Run(model, optimizer(model.parameters(), "momentum", lr), stream, rebuild)


def echo_units(seed: int, times: float) -> Run:
    """Frames in other units before a tanh recurrence."""
    model = models_seq.CellLoop(4, 32, 4, 1.0)
    stream = map(data.times(times), data.echo(32, 15, seed))
    return Run(model, optimizer(model.parameters(), "adam", 3e-3), stream, cross_entropy, 1.0)


def odd_convs(seed: int, at: int | None, **change: float) -> Run:
    """Convolutions with an odd batch."""
    return odd_batch(images(seed, "he", depth=3, kind="sgd", lr=0.1), at, **change)


def odd_table(
    seed: int, at: int | None, name: str = "breast_cancer", kind: str = "adam", lr: float = 3e-3, **change: float
) -> Run:
    """A tabular net with an odd batch."""
    return odd_batch(tabular(seed, name, kind=kind, lr=lr), at, **change)


def odd_stack(seed: int, at: int | None, **change: float) -> Run:
    """A GELU stack with momentum and an odd batch."""
    return odd_batch(stack(seed, 3, 48, "gelu", "he", kind="momentum", lr=0.03), at, **change)


def huber(seed: int, at: int | None, factor: float) -> Run:
    """Squared error of log-counts by Nesterov, where one batch of targets comes as counts."""
    run = odd_batch(tabular(seed, "diabetes", 1, 48, "tanh", kind="nesterov", lr=5e-3), at, targets=factor)
    run.loss_fn = lambda model, batch: functional.mse_loss(model(batch[0])[:, 0], batch[1])
    return run


add = SCENARIOS.pair
CUT = ("cut_graph",)
LOWER, BRANCHES = ("lower",), upto("convs", 6, 1)
add("detach_between", C, "a stray detach between two parts", parts, {"between": "detach"}, {"between": ""}, CUT,
    check="unmoved", faulty_layers=LOWER, steps=120)  # fmt: skip
add("numpy_round_trip", C, "a round trip through numpy cuts the graph", parts,
    {"between": "numpy", "kind": "adam", "lr": 3e-3}, {"between": "", "kind": "adam", "lr": 3e-3}, CUT,
    check="unmoved", faulty_layers=LOWER, steps=120)  # fmt: skip
add("tensor_of_list", C, "torch.tensor(h.tolist()) cuts the graph", parts,
    {"between": "list", "kind": "rmsprop", "lr": 1e-3}, {"between": "", "kind": "rmsprop", "lr": 1e-3}, CUT,
    check="unmoved", faulty_layers=LOWER, steps=100)  # fmt: skip
add("data_attribute", C, ".data between two parts", parts, {"between": "data", "kind": "nesterov"},
    {"between": "", "kind": "nesterov"}, CUT, check="unmoved", faulty_layers=LOWER, steps=120)  # fmt: skip
add("rounded_code", C, "rounding has slope zero: the lower part gets zeros", parts, {"between": "round"},
    {"between": ""}, ("zero_gradient_structural", "cut_graph"), check="unmoved", faulty_layers=LOWER,
    accept=("vanishing",), steps=120)  # fmt: skip
add("detached_from_60", C, "a staged-training flag detaches the lower part from step 60 on", parts,
    {"between": "detach", "since": 60}, {"between": ""}, CUT, check="unmoved", onset=60, faulty_layers=LOWER,
    steps=150)  # fmt: skip
add("encoder_under_no_grad", C, "an autoencoder's encoder runs under no_grad", no_grad, {"cut": True}, {"cut": False},
    CUT, check="unmoved", faulty_layers=("encoder",), steps=120)  # fmt: skip
add("branch_ignored", C, "one branch is computed and never used", branches, {"second": "ignored"}, {"second": "used"},
    CUT, check="unmoved", faulty_layers=("deep",), steps=120)  # fmt: skip
add("branch_times_zero", C, "one branch is multiplied by zero", branches, {"second": "times_zero"},
    {"second": "used"}, ("zero_gradient_structural", "cut_graph"), check="unmoved", faulty_layers=("deep",),
    accept=("vanishing",), steps=120)  # fmt: skip
add("body_not_in_optimizer", C, "freshly initialised convolutions that the optimizer was not given", left_out,
    {"out": True}, {"out": False}, ("no_optimizer",), check="unmoved", faulty_layers=("convs.0", "convs.1"),
    steps=120)  # fmt: skip
add("head_replaced_too_late", C, "the head was replaced after the optimizer was made", new_head, {"after": True},
    {"after": False}, ("no_optimizer",), check="unmoved", faulty_layers=("linears.2",), steps=120)  # fmt: skip
add("zero_gain_before_relu", C, "gains of zero before ReLU: no branch of a residual net ever gets a gradient",
    zero_gains, {"act": "relu", "gain": 0.0}, {"act": "relu", "gain": 1.0},
    ("zero_gradient_structural", "zero_weights"), check="unmoved", faulty_layers=(*BRANCHES, *upto("norms", 6, 1)),
    accept=("vanishing", "dead_relu"), steps=100)  # fmt: skip
add("embedding_data_lookup", C, "an embedding is looked up through its .data", looked_up, {"cut": True},
    {"cut": False}, CUT, check="unmoved", faulty_layers=("embed",), steps=150)  # fmt: skip

UNITS = ("unscaled_inputs",)
BLOWS = ("exploding", "lr_too_high", "nonfinite", "dead_relu")
add("pixels_255_convs", I, "pixels of 0..255 in a convolutional net", images,
    {"depth": 3, "times": 255.0, "init": "he", "lr": 0.02}, {"depth": 3, "init": "he", "lr": 0.02}, UNITS,
    accept=BLOWS, faulty_layers=("convs.0",), steps=100)  # fmt: skip
add("breast_cancer_raw_sgd", I, "raw breast_cancer features under SGD", tabular,
    {"name": "breast_cancer", "standardise": False, "kind": "sgd", "lr": 0.02},
    {"name": "breast_cancer", "kind": "sgd", "lr": 0.02}, UNITS, accept=BLOWS, faulty_layers=("linears.0",),
    steps=150)  # fmt: skip
add("wine_raw_tanh_momentum", I, "raw wine features before tanh", tabular,
    {"name": "wine", "standardise": False, "act": "tanh", "kind": "momentum", "lr": 0.01},
    {"name": "wine", "act": "tanh", "kind": "momentum", "lr": 0.01}, UNITS, accept=("saturation", "vanishing"),
    faulty_layers=("linears.0", "acts.0"), steps=150)  # fmt: skip
add("one_feature_1e4", I, "one diabetes feature is in units 1e4 times smaller", one_column, {"factor": 1e4},
    {"factor": 1.0}, UNITS, accept=BLOWS, faulty_layers=("linears.0",), steps=150)  # fmt: skip
add("int16_sounds", I, "sounds in the range of 16-bit integers", sounds, {"times": 32768.0}, {"times": 1.0}, UNITS,
    accept=BLOWS, faulty_layers=("conv1",), steps=150)  # fmt: skip
add("pixels_255_hourglass", I, "an hourglass rebuilds pixels of 0..255", rebuilding, {"times": 255.0}, {"times": 1.0},
    UNITS, accept=BLOWS, faulty_layers=("down1",), steps=120)  # fmt: skip
add("echo_frames_x3000", I, "frames 3000 times too large before an RNNCell", echo_units, {"times": 3000.0},
    {"times": 1.0}, UNITS, accept=("saturation", "vanishing"), faulty_layers=("cell",), steps=200)  # fmt: skip
add("pixels_divided_twice", I, "pixels are divided by 255 twice", stack,
    {"times": 1 / 65025, "kind": "sgd", "lr": 0.1, "act": "tanh"}, {"kind": "sgd", "lr": 0.1, "act": "tanh"}, UNITS,
    accept=("vanishing", "stalled"), faulty_layers=("linears.0",), steps=150)  # fmt: skip

ONCE = ("one_bad_batch",)
ODD = ("exploding", "lr_too_high", "input_scale", "nonfinite")
add("convs_batch_x1e4", O, "one batch of pixels times 1e4 at step 60", odd_convs, {"at": 60, "inputs": 1e4},
    {"at": None}, ONCE, check="spike", onset=60, accept=ODD, steps=110)  # fmt: skip
add("table_batch_x1e6", O, "one batch of features times 1e6 at step 50, Adam", odd_table, {"at": 50, "inputs": 1e6},
    {"at": None}, ONCE, check="spike", onset=50, accept=ODD, steps=110)  # fmt: skip
add("targets_wrong_unit", O, "one batch of targets in a unit 3000 times smaller at step 80", huber,
    {"at": 80, "factor": 3000.0}, {"at": None, "factor": 1.0}, ONCE, check="spike", onset=80, accept=ODD,
    steps=130)  # fmt: skip
add("one_target_1e6", O, "a single target of a batch times 1e6 at step 70", odd_table,
    {"at": 70, "name": "diabetes", "targets": 1e6, "rows": 1, "kind": "sgd", "lr": 0.02},
    {"at": None, "name": "diabetes", "kind": "sgd", "lr": 0.02}, ONCE, check="spike", onset=70,
    accept=ODD, steps=120)  # fmt: skip
add("hourglass_batch_x1000", O, "one batch of images times 1000 at step 60, inputs and targets alike", rebuilding,
    {"times": 1e3, "at": 60}, {"times": 1.0}, ONCE, check="spike", onset=60, accept=ODD, steps=110)  # fmt: skip
add("sounds_batch_int16", O, "one batch of sounds as 16-bit integers at step 25, Nesterov", sounds,
    {"times": 32768.0, "at": 25, "kind": "nesterov", "lr": 5e-3}, {"times": 1.0, "kind": "nesterov", "lr": 5e-3},
    ONCE, check="spike", onset=25, accept=ODD, steps=100)  # fmt: skip
add("stack_batch_x1e8", O, "three rows of a batch times -1e8 at step 90, GELU", odd_stack,
    {"at": 90, "inputs": -1e8, "rows": 3}, {"at": None}, ONCE, check="spike", onset=90, accept=ODD,
    steps=140)  # fmt: skip
