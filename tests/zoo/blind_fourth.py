"""The fourth blind corpus: faulty part, and all of it.

    python tests/zoo/verify_blind.py --blind fourth --seeds 0 1 2      # are the labels true? without any watch

Written without a look at any detector. Each fault comes with its repaired twin; harm is measured by ``verify``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import blind_fourth_healthy, data
from zoo.blind_fourth_healthy import Bumps, timed
from zoo.blind_fourth_nets import (
    CodeConv,
    Decaying,
    Gated,
    Lowrank,
    Memory,
    Rezero,
    Squeezer,
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
    series,
    shells,
    squares,
    taught,
    teach,
)
from zoo.core import Batch, Registry, Run

optim = torch.optim
SCENARIOS = Registry()
add = SCENARIOS.pair

BLOWS = ("exploding", "nonfinite", "dead_relu", "lr_too_high")

# -------------------------------------------------------------------------------------------------------- exploding
E = "exploding"


def slow_numbers(seed: int, slowest: float) -> Run:
    """Linear recurrences forecast a series from 32 frames; the largest factor a frame is given."""
    stream = series(32, seed, length=32)
    return teach(Decaying(1, 24, 1, slowest), stream, optim.SGD, 5e-3, squares, momentum=0.9)


def begun_at(seed: int, start: float) -> Run:
    """Sixteen residual blocks whose weights begin somewhere."""
    return teach(Rezero(4, 1, start=start), phases(64, seed), optim.SGD, 0.02, squares, momentum=0.9)


class Products(nn.Module):
    """A polynomial of degree seven: each layer multiplies by a linear function of the input."""

    def __init__(self, times: float, width: int = 32) -> None:
        super().__init__()
        self.factors = nn.ModuleList(nn.Linear(10, width) for _ in range(7))
        self.head = nn.Linear(width, 2)
        for factor in self.factors:
            nn.init.normal_(factor.weight, std=times)
            nn.init.ones_(factor.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = torch.ones(())
        for factor in self.factors:
            h = h * factor(x)
        return self.head(h)


def polynomial(seed: int, times: float) -> Run:
    """A polynomial net on shells."""
    return teach(Products(times), shells(64, seed), optim.SGD, 0.02, momentum=0.9)


add(
    "recurrent_factor_of_1.2",
    E,
    "linear recurrences whose largest factor a frame is 1.2, over 32 frames",
    slow_numbers,
    {"slowest": 1.2},
    {"slowest": 0.9},
    ("long_recurrence", "large_weights"),
    steps=150,
    accept=(*BLOWS, "saturation"),
)
add(
    "rezero_begins_at_3",
    E,
    "the weights of sixteen residual blocks, which were meant to begin at zero, begin at three",
    begun_at,
    {"start": 3.0},
    {"start": 0.0},
    ("large_weights", "no_normalisation"),
    steps=150,
    accept=BLOWS,
)
add(
    "polynomial_of_unit_weights",
    E,
    "a product of seven linear functions, their weights of deviation one",
    polynomial,
    {"times": 1.0},
    {"times": 0.15},
    ("large_weights", "no_normalisation"),
    steps=150,
    accept=BLOWS,
)

# -------------------------------------------------------------------------------------------------------- vanishing
V = "vanishing"


class Gates(nn.Module):
    """Gated linear units one upon the other, with or without a shortcut around each."""

    def __init__(self, *, shortcut: bool, depth: int = 8, width: int = 32) -> None:
        super().__init__()
        self.inlet = nn.Linear(10, width)
        self.gates = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.head = nn.Linear(width, 2)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for gate in self.gates:
            h = functional.glu(gate(x))
            x = x + h if self.shortcut else h
        return self.head(x)


def gates(seed: int, *, shortcut: bool) -> Run:
    """Eight gated units on shells."""
    return teach(Gates(shortcut=shortcut), shells(64, seed), optim.SGD, 0.05, momentum=0.9)


def update_gate(seed: int, bias: float) -> Run:
    """A GRU remembers the first of twelve frames; the bias of its update gate."""
    model = Memory("gru", 2, 24, 3)
    with torch.no_grad():
        model.body.bias_ih_l0[24:48] = bias
    return teach(model, latch(32, 12, seed), optim.AdamW, 3e-3, clip=1.0)


def adapters(seed: int, down: float) -> Run:
    """Low-rank adapters on a frozen, trained net whose features have been rotated."""
    body = taught(Gated(10, 2), shells(64, seed + 50), 250, 5e-3)
    body.requires_grad_(requires_grad=False)
    for i, up in enumerate(body.ups):
        body.ups[i] = Lowrank(up, down=down)
    body.inlet = Lowrank(body.inlet, down=down)
    scale = torch.linspace(0.1, 1.9, 10)
    stream = ((x * scale, y) for x, y in shells(64, seed))
    return teach(body, stream, optim.AdamW, 0.01)


def tied_depth(seed: int, gain: float) -> Run:
    """One layer sixteen times, as an unrolled equilibrium; the gain of its init."""

    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inlet, self.again, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
            nn.init.orthogonal_(self.again.weight, gain)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inlet(x)
            for _ in range(16):
                h = self.again(h).tanh()
            return self.head(h)

    return teach(Unrolled(), pictures(32, seed), optim.SGD, 0.01, momentum=0.9)


add(
    "gated_units_without_shortcuts",
    V,
    "eight gated linear units one upon the other: each halves what it passes on",
    gates,
    {"shortcut": False},
    {"shortcut": True},
    ("no_shortcuts", "small_weights", "no_normalisation", "saturating_activations"),
    steps=200,
    accept=("stalled",),
    faulty_layers=("inlet", "gates.0", "gates.1", "gates.2", "gates.3", "gates.4", "gates.5"),
)
add(
    "update_gate_forgets",
    V,
    "the bias of a GRU's update gate has the wrong sign: each frame replaces what was there",
    update_gate,
    {"bias": -6.0},
    {"bias": 2.0},
    ("long_recurrence", "saturating_activations"),
    steps=200,
    accept=("stalled", "saturation"),
    faulty_layers=("body",),
)
add(
    "adapters_of_two_zeros",
    V,
    "both factors of each low-rank adapter begin at zero: neither ever gets a gradient",
    adapters,
    {"down": 0.0},
    {"down": 0.1},
    ("zero_weights", "zero_gradient_structural"),
    steps=150,
    accept=("stalled", "disconnected"),
)
add(
    "one_layer_16_times_of_gain_0.4",
    V,
    "one layer is applied sixteen times, and its weights shrink what they pass on",
    tied_depth,
    {"gain": 0.4},
    {"gain": 1.0},
    ("small_weights", "long_recurrence", "no_normalisation", "no_shortcuts"),
    steps=200,
    accept=("stalled",),
    faulty_layers=("inlet", "again"),
)

# -------------------------------------------------------------------------------------------------------- nonfinite
N, BAD = "nonfinite", "first_bad"


def angles(seed: int, edge: float) -> Run:
    """Angles between pairs of embeddings; in batch 45 a pair holds the same sample twice."""

    def pairs() -> Iterator[Batch]:
        for step, ((x, y), (u, v)) in enumerate(zip(shells(64, seed), shells(64, seed + 50), strict=True)):
            if step == 45:
                u[:8], v[:8] = x[:8], y[:8]
            yield x, u, (y != v).float()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        cosine = functional.cosine_similarity(model(batch[0]), model(batch[1]))
        return functional.mse_loss(cosine.clamp(-edge, edge).acos(), 1.5 * batch[2])

    return teach(plain(10, 48, 8, act=nn.Tanh), pairs(), optim.Adam, 5e-3, loss)


class Own(nn.Module):
    """A hand-written norm over the batch and a small net."""

    def __init__(self, *, unbiased: bool) -> None:
        super().__init__()
        self.inlet, self.head = nn.Linear(10, 32), nn.Linear(32, 2)
        self.unbiased = unbiased

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.inlet(x)
        h = (h - h.mean(0)) / (h.std(0, unbiased=self.unbiased) + 1e-5)
        return self.head(functional.silu(h))


def lone_row(seed: int, *, unbiased: bool) -> Run:
    """An epoch's last batch, the 51st, has one row."""
    stream = ((x[:1], y[:1]) if step == 50 else (x, y) for step, (x, y) in enumerate(shells(64, seed)))
    return teach(Own(unbiased=unbiased), stream, optim.NAdam, 0.01)


def squashed(seed: int, *, stable: bool) -> Run:
    """A policy squashed by tanh learns to answer with the extremes; its density is part of the loss."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        u = model(batch[0])[:, 0] + 0.3 * torch.randn(len(batch[0]))
        fold = 2 * (math.log(2) - u - functional.softplus(-2 * u)) if stable else (1 - u.tanh().square()).log()
        wanted = 2.0 * batch[1] - 1
        return (1 - wanted * u.tanh()).mean() + 1e-3 * fold.clamp(min=-1e6 if stable else -math.inf).mean()

    return teach(plain(10, 64, 1), shells(64, seed), optim.Adam, 0.02, loss)


def products_in_half(seed: int, times: float) -> Run:
    """Similarities of digits in half precision; the embeddings have a given length."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            h = model(batch[0])
            near = h @ h.T / times**2
        same = (batch[1][:, None] == batch[1]).float()
        return functional.binary_cross_entropy_with_logits(near.float() - 1, same)

    model = plain(64, 64, 32, act=nn.GELU)
    with torch.no_grad():
        model[-1].weight.mul_(times)
        model[-1].bias.mul_(times)
    groups = [{"params": model[0].parameters()}, {"params": model[-1].parameters(), "lr": 3e-3 * times}]
    return teach(model, pictures(32, seed), optim.Adam, 3e-3, loss, weights=groups)


add(
    "angle_of_a_sample_with_itself",
    N,
    "the angle between two equal vectors: the arc cosine of one, at step 45",
    angles,
    {"edge": 1.0},
    {"edge": 1 - 1e-5},
    ("domain_operation", "one_bad_batch"),
    steps=100,
    onset=45,
    check="nonfinite",
)
add(
    "deviation_of_one_row",
    N,
    "the last batch of an epoch has one row, whose unbiased deviation is 0 / 0, at step 50",
    lone_row,
    {"unbiased": True},
    {"unbiased": False},
    ("domain_operation", "one_bad_batch"),
    steps=100,
    onset=50,
    check="nonfinite",
)
add(
    "density_of_a_squashed_policy",
    N,
    "log(1 - tanh(u)^2) of an action that rounds to one",
    squashed,
    {"stable": False},
    {"stable": True},
    ("domain_operation",),
    steps=200,
    onset=BAD,
    check="nonfinite",
)
add(
    "similarities_in_half",
    N,
    "products of long vectors in float16 are beyond 65504 before they are divided",
    products_in_half,
    {"times": 400.0},
    {"times": 1.0},
    ("half_precision_overflow",),
    steps=100,
    onset=BAD,
    check="nonfinite",
)

# -------------------------------------------------------------------------------------------------------- dead ReLU
D = "dead_relu"


class Shifted(nn.Module):
    """Blocks of a convolution, BatchNorm and ReLU."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1 if i == 0 else 12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
            for i in range(3)
        )
        self.head = nn.Linear(12 * 16, 10)
        for block in self.blocks:
            nn.init.constant_(block[1].bias, shift)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.view(-1, 1, 8, 8)
        for block in self.blocks:
            x = block(x)
        return self.head(functional.avg_pool2d(x, 2).flatten(1))


def shifted(seed: int, shift: float) -> Run:
    """The biases of three BatchNorms begin somewhere."""
    return teach(Shifted(shift), pictures(32, seed), optim.RMSprop, 1e-3)


def upside_down(seed: int, times: float) -> Run:
    """The rate begins a given number of times higher and comes down over eight steps."""
    run = teach(refill(Tower(3), he), patches(32, seed), optim.SGD, 0.02, momentum=0.9)
    return timed(run, lambda step: max(1.0, times ** (1 - step / 8)))


def minimum_of_parts(seed: int, bias: float) -> Run:
    """Two ReLU layers forecast; a config error gives the bias of the head, 6, to the first layer with its sign off."""
    model = refill(plain(16, 48, 48, 1), he)
    nn.init.constant_(model[0].bias, bias)
    stream = ((x[..., 0], y) for x, y in series(32, seed))
    return teach(model, stream, optim.Adamax, 3e-3, squares)


add(
    "batchnorm_shift_of_minus_6",
    D,
    "the shifts of three BatchNorms begin at -6: hardly anything passes the ReLUs behind them",
    shifted,
    {"shift": -6.0},
    {"shift": 0.0},
    ("dead_by_bias",),
    steps=80,
    accept=("vanishing", "stalled"),
    faulty_layers=("blocks.0", "blocks.1", "blocks.2"),
)
add(
    "warm_up_upside_down",
    D,
    "a warm-up the wrong way round: it begins at fifty times the rate, and the units never recover",
    upside_down,
    {"times": 50.0},
    {"times": 1.0},
    ("dead_by_learning_rate", "lr_too_high"),
    steps=150,
    accept=("lr_too_high", "exploding"),
)
add(
    "first_layer_bias_minus_12",
    D,
    "all units of the first layer begin with a bias of -12",
    minimum_of_parts,
    {"bias": -12.0},
    {"bias": 0.0},
    ("dead_by_bias",),
    steps=150,
    check="dead",
    faulty_layers=("0",),
    accept=("vanishing",),
)

# ------------------------------------------------------------------------------------------------------- saturation
S = "saturation"


def sharp_steps(seed: int, times: float) -> Run:
    """Three hidden layers, each a tanh of a multiple."""

    class Sharp(nn.Tanh):
        def forward(self, x: Tensor) -> Tensor:
            return (times * x).tanh()

    return teach(plain(4, 16, 16, 16, 1, act=Sharp), phases(64, seed), optim.SGD, 0.05, squares, momentum=0.9)


def loud_table(seed: int, std: float) -> Run:
    """A GRU reads symbols from a table of a given deviation and must keep the one that bears a mark."""
    table = nn.Embedding(16, 16)
    nn.init.normal_(table.weight, std=std)
    return teach(nn.Sequential(table, Memory("gru", 16, 32, 8)), marked(48, seed), optim.Adam, 0.01)


def wide_sigmoids(seed: int, std: float) -> Run:
    """Two sigmoid layers, weights of a given deviation, on a Swiss roll."""
    model = refill(plain(3, 40, 40, 40, 1, act=nn.Sigmoid), lambda w: nn.init.normal_(w, std=std), head=False)
    return teach(model, roll(64, seed), optim.Adagrad, 0.05, squares)


add(
    "steps_of_tanh_times_300",
    S,
    "each tanh gets 300 times its argument: a gain that was meant for the end of training",
    sharp_steps,
    {"times": 300.0},
    {"times": 1.0},
    ("saturating_activations", "unscaled_logits", "large_weights"),
    steps=200,
    accept=("vanishing", "stalled", "exploding"),
)
add(
    "table_of_deviation_300",
    S,
    "a table of deviation 300 feeds a GRU: all of its gates are at their ends",
    loud_table,
    {"std": 300.0},
    {"std": 1.0},
    ("large_weights", "saturating_activations", "unscaled_inputs"),
    steps=120,
    accept=("vanishing", "stalled", "input_scale"),
)
add(
    "sigmoids_of_deviation_30",
    S,
    "three sigmoid layers whose weights have a deviation of 30",
    wide_sigmoids,
    {"std": 30.0},
    {"std": 1.0},
    ("large_weights", "saturating_activations"),
    steps=200,
    accept=("vanishing", "stalled"),
)

# ------------------------------------------------------------------------------------------------------ lr_too_high
L = "lr_too_high"


def quick(seed: int, rate: float) -> Run:
    """Convolutions over source code under NAdam."""
    return teach(CodeConv(), code_lines(32, seed), optim.NAdam, rate)


def restart(seed: int, rate: float) -> Run:
    """A schedule starts again at step 80, at a rate of its own."""
    run = teach(Squeezer(), ((x, x) for x, _ in patches(48, seed)), optim.SGD, 0.1, squares, momentum=0.9)
    return timed(run, lambda step: (1 - step / 80) if step < 80 else rate / 0.1 * max(0.0, 1 - (step - 80) / 80))


def heavy(seed: int, momentum: float) -> Run:
    """A momentum, at a rate that was found for 0.9."""
    model = plain(4, 48, 48, 1, act=nn.SiLU)
    return teach(model, phases(32, seed), optim.SGD, 0.05, squares, momentum=momentum)


def tuned(seed: int, rate: float) -> Run:
    """A trained net is tuned to a further task under Adamax."""
    model = taught(plain(64, 64, 48, 10, act=nn.GELU), pictures(64, seed + 50), 100)
    return teach(model, ((1 - x, y) for x, y in pictures(32, seed)), optim.Adamax, rate)


add(
    "nadam_2_on_code",
    L,
    "NAdam at a rate of 2",
    quick,
    {"rate": 2.0},
    {"rate": 5e-3},
    ("lr_too_high",),
    steps=150,
    accept=(*BLOWS, "saturation"),
)
add(
    "restart_at_another_rate",
    L,
    "a schedule starts again at step 80, at 30 instead of 0.1",
    restart,
    {"rate": 30.0},
    {"rate": 0.1},
    ("lr_jumped", "lr_too_high"),
    steps=150,
    onset=80,
    accept=(*BLOWS, "saturation"),
)
add(
    "momentum_of_0.9999",
    L,
    "a momentum of 0.9999 at the rate that was found for 0.9",
    heavy,
    {"momentum": 0.9999},
    {"momentum": 0.9},
    ("lr_too_high",),
    steps=200,
    accept=(*BLOWS, "saturation"),
)
add(
    "tuning_adamax_1",
    L,
    "a trained net is tuned at a rate of one",
    tuned,
    {"rate": 1.0},
    {"rate": 3e-3},
    ("lr_too_high",),
    steps=120,
    accept=(*BLOWS, "saturation"),
)

# ---------------------------------------------------------------------------------------------------------- stalled
T = "stalled"


def warm(seed: int, length: float) -> Run:
    """A linear warm-up of a given number of steps."""
    run = teach(Gated(10, 2), shells(64, seed), optim.RAdam, 0.01)
    return timed(run, lambda step: min(1.0, (step + 1) / length))


def halved_twice(seed: int, *, twice: bool) -> Run:
    """A mean over pixels and samples, which is then divided by their number once more."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        total = squares(model, batch)
        return total / batch[1].numel() if twice else total

    return teach(Squeezer(), ((x, x) for x, _ in patches(48, seed)), optim.SGD, 0.1, loss, momentum=0.9)


def late(seed: int, offset: int) -> Run:
    """A cosine over 200 steps whose counter does not begin at zero."""
    run = teach(CodeConv(), code_lines(32, seed), optim.AdamW, 5e-3)
    return timed(run, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, (step + offset) / 200))))


def coarse(seed: int, *, half: bool) -> Run:
    """Adam at a modest rate; weights, states and all in bfloat16, or not."""
    model = plain(64, 96, 96, 10, act=nn.Tanh)
    stream = pictures(64, seed)
    if half:
        model, stream = model.bfloat16(), ((x.bfloat16(), y) for x, y in stream)
    return teach(model, stream, optim.Adam, 1e-4)


add(
    "warm_up_of_a_million",
    T,
    "a warm-up counted in samples: a million steps",
    warm,
    {"length": 1e6},
    {"length": 20.0},
    ("lr_too_low", "schedule_at_zero"),
    steps=150,
)
add(
    "mean_of_a_mean",
    T,
    "a mean over pixels is divided by their number once more, under plain SGD",
    halved_twice,
    {"twice": True},
    {"twice": False},
    ("lr_too_low",),
    steps=150,
    check="own",
)
add(
    "cosine_resumed_at_its_end",
    T,
    "a schedule is resumed with the counter of the last run: the rate is zero",
    late,
    {"offset": 200},
    {"offset": 0},
    ("schedule_at_zero", "lr_too_low"),
    steps=150,
)
add(
    "steps_rounded_away",
    T,
    "weights in bfloat16 at a rate of 1e-4: most steps are less than half of what a weight resolves",
    coarse,
    {"half": True},
    {"half": False},
    ("rounded_away", "lr_too_low"),
    steps=250,
)

# ----------------------------------------------------------------------------------------------------- disconnected
C = "disconnected"


class Through(CodeConv):
    """Convolutions over characters whose table is read as data."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        table = self.embed.weight
        h = functional.embedding(x, table.data if self.cut else table).transpose(1, 2)
        return self.head(torch.cat([self.act(conv(h)).amax(2) for conv in (self.narrow, self.broad)], 1))


def table_as_data(seed: int, *, cut: bool) -> Run:
    """The table is read by way of ``.data``, or not."""
    return teach(Through(cut=cut), code_lines(32, seed), optim.Adam, 5e-3)


def lone_optimizer(seed: int, *, both: bool) -> Run:
    """Encoder and decoder each have an optimizer; one of them may be forgotten."""
    model = nn.ModuleDict({"encoder": plain(64, 32, 4, act=nn.ELU), "decoder": plain(4, 32, 64, act=nn.ELU)})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model["decoder"](model["encoder"](batch[0])), batch[0])

    chosen = [*model["decoder"].parameters(), *(model["encoder"].parameters() if both else ())]
    return teach(model, pictures(48, seed), optim.Adam, 5e-3, loss, weights=chosen)


class Listed(nn.Module):
    """A recurrent body whose state may pass through a list of numbers on its way to the head."""

    def __init__(self, *, listed: bool) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)
        self.listed = listed

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        h = self.body(x)[1][0]
        return self.head(torch.tensor(h.tolist()) if self.listed else h)


def by_list(seed: int, *, listed: bool) -> Run:
    """A forecaster whose state passes through a list, or not."""
    return teach(Listed(listed=listed), series(32, seed), optim.AdamW, 5e-3, squares)


add(
    "table_read_as_data",
    C,
    "the table of characters is read by way of .data and never learns",
    table_as_data,
    {"cut": True},
    {"cut": False},
    ("cut_graph",),
    steps=120,
    check="unmoved",
    faulty_layers=("embed",),
    accept=("vanishing",),
)
add(
    "encoder_without_optimizer",
    C,
    "the encoder's optimizer is never made: nothing steps it, though its gradients are fine",
    lone_optimizer,
    {"both": False},
    {"both": True},
    ("no_optimizer",),
    steps=150,
    check="unmoved",
    faulty_layers=("encoder",),
    accept=("stalled",),
)
add(
    "state_through_a_list",
    C,
    "a state passes through a list of numbers, where its history ends",
    by_list,
    {"listed": True},
    {"listed": False},
    ("cut_graph",),
    steps=150,
    check="unmoved",
    faulty_layers=("body",),
    accept=("vanishing",),
)

# ------------------------------------------------------------------------------------------------------ input scale
I = "input_scale"  # noqa: E741


def circuit(seed: int, *, raw: bool) -> Run:
    """Friedman's third function with its four parts in their own units, or standardised."""
    centre, spread = torch.tensor([50.0, 942.0, 0.5, 6.0]), torch.tensor([28.9, 471.6, 0.289, 2.89])
    stream = ((x * spread + centre if raw else x, y) for x, y in phases(64, seed))
    return teach(plain(4, 32, 32, 1, act=nn.Tanh), stream, optim.RMSprop, 3e-3, squares)


def radial(seed: int, unit: float) -> Run:
    """Radial units whose centres lie within two of the origin, on points in a given unit."""
    return teach(Bumps(), ((x * unit, y) for x, y in roll(64, seed)), optim.Adam, 0.05, squares)


def offset(seed: int, shift: float) -> Run:
    """Digits on a pedestal, as a camera's black level, under Nesterov."""
    stream = ((x + shift, y) for x, y in pictures(32, seed))
    return teach(Tower(2, 12, 1, 10, nn.Softplus), stream, optim.SGD, 0.02, momentum=0.9, nesterov=True)


add(
    "circuit_in_its_own_units",
    I,
    "four parts of a circuit in ohms, radians a second, henries and microfarads, before a tanh",
    circuit,
    {"raw": True},
    {"raw": False},
    ("unscaled_inputs",),
    steps=200,
    accept=("saturation", "vanishing", "stalled"),
)
add(
    "radial_units_on_millimetres",
    I,
    "points in another unit than the centres of radial units: none of them answers",
    radial,
    {"unit": 100.0},
    {"unit": 1.0},
    ("unscaled_inputs",),
    steps=200,
    accept=("saturation", "vanishing", "stalled"),
)
add(
    "pedestal_of_300",
    I,
    "a black level of 300 was never taken off the images",
    offset,
    {"shift": 300.0},
    {"shift": 0.0},
    ("unscaled_inputs",),
    steps=120,
    accept=("saturation", *BLOWS),
)

# ----------------------------------------------------------------------------------------------------- data outlier
O = "data_outlier"  # noqa: E741


def full_scale(seed: int, value: float | None) -> Run:
    """Five frames of one series of batch 70 are a sensor's full scale."""

    def glitch(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[3, 5:10] = value
        return x, batch[1]

    stream = series(32, seed)
    stream = stream if value is None else data.altered(stream, glitch, 70)
    return teach(Decaying(1, 24, 1, 0.9), stream, optim.SGD, 5e-3, squares, momentum=0.9)


def importance(seed: int, chance: float) -> Run:
    """Samples are weighted by one over the chance of drawing them; in batch 85 one of these is rounded."""
    step = iter(range(10**9))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        chances = torch.ones(len(batch[1]))
        if next(step) == 85:
            chances[7] = chance
        return (functional.cross_entropy(model(batch[0]), batch[1], reduction="none") / chances).mean()

    return teach(refill(Tower(2, 12, 1, 10), he), pictures(32, seed), optim.SGD, 0.03, loss, momentum=0.9)


def wrong_column(seed: int, value: float | None) -> Run:
    """In batch 60 the column of targets is another one: numbers of articles."""

    def other(batch: Batch) -> Batch:
        return batch[0], batch[1] * 0 + value

    stream = roll(64, seed)
    stream = stream if value is None else data.altered(stream, other, 60)
    return teach(plain(3, 40, 40, 1, act=nn.GELU), stream, optim.Adam, 5e-3, squares)


add(
    "sensor_at_full_scale",
    O,
    "five frames of one series of batch 70 are 1e4",
    full_scale,
    {"value": 1e4},
    {"value": None},
    ("one_bad_batch",),
    steps=130,
    onset=70,
    check="spike",
    accept=("input_scale", "exploding"),
)
add(
    "chance_of_a_millionth",
    O,
    "an importance weight is one over a chance of 1e-7, at step 85",
    importance,
    {"chance": 1e-7},
    {"chance": 1.0},
    ("one_bad_batch",),
    steps=140,
    onset=85,
    check="spike",
    accept=("exploding",),
)
add(
    "column_of_article_numbers",
    O,
    "the targets of batch 60 are numbers of articles",
    wrong_column,
    {"value": 48211.0},
    {"value": None},
    ("one_bad_batch",),
    steps=130,
    onset=60,
    check="spike",
    accept=("exploding",),
)

for scenario in blind_fourth_healthy.SCENARIOS:
    SCENARIOS.put(scenario)
