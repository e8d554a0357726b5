"""The third blind corpus: what a year of bug reports is made of; faulty part, and all of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import blind_third_healthy, data, models, models_seq
from zoo.blind_third_healthy import (
    Finder,
    Graph,
    Groups,
    Waves,
    chain,
    drawn,
    families,
    friedman,
    go,
    he,
    lookup,
    motion,
    one_cycle,
    shown,
    speller,
)
from zoo.core import Batch, Registry, Run
from zoo.recipes import VOCAB, cross_entropy, pretrained, rebuild, scheduled, squared_error, upto

optim = torch.optim
SCENARIOS = Registry()
add = SCENARIOS.pair

BLOWS = ("exploding", "nonfinite", "dead_relu", "lr_too_high")


def once(stream: Iterator[Batch], at: int | None, change: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """The stream with one batch changed, or none."""
    return stream if at is None else data.altered(stream, change, at)


# -------------------------------------------------------------------------------------------------------- exploding
E = "exploding"


def unclipped(seed: int, clip: float | None) -> Run:
    """A ReLU recurrence tells what it saw four frames ago, after 26 others."""
    model = models_seq.OwnCell(4, 32, 4, 1.1, "relu")
    return go(seed, model, optim.SGD, 0.1, stream=data.echo(32, 30, seed, 4), clip=clip)


def neighbours(seed: int, *, total: bool) -> Run:
    """Five rounds of messages over a graph of 60 nodes."""
    return go(seed, Graph(5, total=total, shortcut=True), optim.SGD, 0.01, momentum=0.9, stream=families(seed, 1.0))


def bare(seed: int, std: float | None, *, norm: bool) -> Run:
    """A transformer on text, with or without its norms."""
    model = models_seq.OwnTransformer(VOCAB, 32, 3, norm=norm)
    model = model if std is None else drawn(model, lambda w: nn.init.normal_(w, std=std))
    return speller(seed, model, optim.AdamW, 2e-3)


def piling(seed: int, *, empty: bool) -> Run:
    """An autoencoder whose gradients may never be emptied."""
    run = go(seed, models.AutoEncoder(3, "elu"), optim.SGD, 0.3, momentum=0.9, loss=rebuild)
    run.zero_grad = empty
    return run


add(
    "relu_recurrence_unclipped",
    E,
    "a ReLU recurrence of radius 1.1 over 30 frames, and nobody clips",
    unclipped,
    {"clip": None},
    {"clip": 0.5},
    ("long_recurrence", "large_weights", "lr_too_high"),
    steps=200,
    accept=BLOWS,
)
add(
    "messages_summed",
    E,
    "a graph net sums over 25 neighbours where a mean was meant, five times",
    neighbours,
    {"total": True},
    {"total": False},
    ("large_weights", "no_normalisation", "unscaled_inputs"),
    steps=120,
    accept=BLOWS,
)
add(
    "transformer_without_norms_std_half",
    E,
    "a transformer that lost its norms, and weights of deviation 0.5",
    bare,
    {"std": 0.5, "norm": False},
    {"std": None, "norm": True},
    ("large_weights", "no_normalisation"),
    steps=100,
    accept=BLOWS,
)
add(
    "autoencoder_never_zero_grad",
    E,
    "zero_grad is never called in the training of an autoencoder",
    piling,
    {"empty": False},
    {"empty": True},
    ("gradients_pile_up",),
    steps=150,
    accept=BLOWS,
)

# -------------------------------------------------------------------------------------------------------- vanishing
V = "vanishing"


def by_fan_in(seed: int, *, root: bool) -> Run:
    """Nine GELU layers; the deviation of a weight is one over the fan-in, or over its root."""

    def fill(weight: Tensor) -> None:
        fan = weight.shape[1]
        nn.init.normal_(weight, std=1.4 / fan**0.5 if root else 1 / fan)

    model = drawn(chain(13, *[32] * 9, 3, act=nn.GELU), fill)
    return go(seed, model, optim.SGD, 0.01, momentum=0.9, stream=shown("wine", 32, seed))


def gated(seed: int, *, shortcut: bool) -> Run:
    """Seven gated convolutions over noisy sounds."""
    model = Waves(7, 12, shortcut=shortcut)
    generator = data.rng(seed, 88)
    stream = ((x + 0.7 * torch.randn(x.shape, generator=generator), y) for x, y in data.waves(32, seed))
    return go(seed, model, optim.SGD, 0.05, momentum=0.9, stream=stream)


def flat_cell(seed: int, act: str) -> Run:
    """A recurrence must remember for 20 frames."""
    return go(
        seed, models_seq.OwnCell(4, 32, 4, 1.0, act), optim.RMSprop, 1e-3, stream=data.echo(32, 20, seed), clip=1.0
    )


add(
    "deviation_one_over_fan_in",
    V,
    "an init by hand forgot the square root: deviation 1 / fan-in on nine layers",
    by_fan_in,
    {"root": False},
    {"root": True},
    ("small_weights", "no_shortcuts", "no_normalisation"),
    steps=150,
    accept=("stalled",),
    check="own",
    faulty_layers=tuple(str(2 * i) for i in range(9)),
)
add(
    "wavenet_without_shortcuts",
    V,
    "seven gated convolutions, the shortcuts around them forgotten",
    gated,
    {"shortcut": False},
    {"shortcut": True},
    ("no_shortcuts", "small_weights", "no_normalisation", "saturating_activations"),
    steps=120,
    accept=("stalled",),
    faulty_layers=("inlet", *upto("convs", 6)),
)
add(
    "sigmoid_in_a_recurrence",
    V,
    "a hand-written recurrence with a sigmoid must remember 20 frames",
    flat_cell,
    {"act": "sigmoid"},
    {"act": "tanh"},
    ("long_recurrence", "saturating_activations", "small_weights"),
    steps=250,
    accept=("stalled",),
    faulty_layers=("inward", "again"),
)

# -------------------------------------------------------------------------------------------------------- nonfinite
N, BAD = "nonfinite", "first_bad"


class Spread(nn.Module):
    """Convolutions over a sound, then mean and deviation over time."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 16, 5, stride=2), nn.Linear(32, 2)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = functional.leaky_relu(self.conv(x[:, None]))
        mean = h.mean(2)
        spread = ((h - mean[..., None]).square().mean(2) + self.eps).sqrt()
        return self.head(torch.cat([mean, spread], 1))


def silent(seed: int, eps: float) -> Run:
    """One sound of batch 45 is silence."""

    def mute(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[4] = 0.0
        return x, batch[1]

    return go(seed, Spread(eps), optim.Adam, 5e-3, stream=once(data.waves(32, seed), 45, mute))


class Reader(nn.Module):
    """One masked attention over padded texts."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(21, 16)
        self.attend = nn.ModuleDict({"score": nn.Linear(16, 1), "softmax": nn.Softmax(1), "value": nn.Linear(16, 16)})
        self.head = nn.Linear(16, 2)
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(x)
        logits = self.attend["score"](h.tanh())[..., 0].masked_fill(x == 0, self.floor)
        return self.head((self.attend["softmax"](logits)[..., None] * self.attend["value"](h)).sum(1))


def texts(size: int, seed: int) -> Iterator[Batch]:
    """Which of two symbols is in a padded text; one label of ten is wrong."""
    generator = data.rng(seed, 85)
    while True:
        y = torch.randint(0, 2, (size,), generator=generator)
        x = torch.randint(3, 21, (size, 12), generator=generator)
        x[torch.arange(size), torch.randint(0, 4, (size,), generator=generator)] = y + 1
        lie = (torch.rand(size, generator=generator) < 0.1).long()
        yield torch.where(torch.arange(12) < torch.randint(4, 13, (size, 1), generator=generator), x, 0), (y + lie) % 2


def empty_text(seed: int, floor: float) -> Run:
    """One text of batch 60 is empty."""

    def clear(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[0] = 0
        return x, batch[1]

    return go(seed, Reader(floor), optim.AdamW, 1e-2, stream=once(texts(32, seed), 60, clear))


def gaps(seed: int, *, filled: bool) -> Run:
    """Three rows of a table have a gap in them."""
    x, y = (part.clone() for part in data.table("breast_cancer"))
    x[[101, 333, 404], [2, 20, 7]] = 0.0 if filled else math.nan
    return go(
        seed, chain(30, 24, 2, act=nn.LeakyReLU), optim.SGD, 0.05, momentum=0.9, stream=data.batches(x, y, 16, seed)
    )


add(
    "deviation_of_silence",
    N,
    "the square root of a variance of zero: one sound of batch 45 is silent",
    silent,
    {"eps": 0.0},
    {"eps": 1e-5},
    ("domain_operation", "one_bad_batch"),
    steps=100,
    onset=45,
    check="nonfinite",
)
add(
    "attention_over_an_empty_text",
    N,
    "a text of padding only: a softmax over nothing but minus infinity, at step 60",
    empty_text,
    {"floor": -math.inf},
    {"floor": -1e4},
    ("domain_operation", "one_bad_batch"),
    steps=110,
    onset=60,
    check="nonfinite",
    faulty_layers=("attend",),
)
add(
    "gaps_in_a_table",
    N,
    "three of 569 rows hold NaN for a missing value",
    gaps,
    {"filled": False},
    {"filled": True},
    ("nonfinite_input", "one_bad_batch"),
    steps=100,
    onset=BAD,
    check="nonfinite",
    accept=("data_outlier",),
)

# -------------------------------------------------------------------------------------------------------- dead ReLU
D = "dead_relu"


def quick_biases(seed: int, times: float) -> Run:
    """Biases are a group of their own, at a rate of their own; the targets are not centred."""
    model = chain(10, 48, 48, 1)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "lr": 5e-3 * times},
    ]
    stream = ((x, y + 0.5) for x, y in friedman(32, seed))
    return go(seed, model, optim.Adam, 5e-3, loss=squared_error, stream=stream, weights=groups)


class Small(nn.Module):
    """Two strided convolutions with GroupNorm-free ReLUs and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            nn.Conv2d(1, width, 3, padding=1, stride=2),
            nn.Conv2d(width, width, 3, padding=1, stride=2),
        )
        self.relu1, self.relu2, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.relu2(self.conv2(self.relu1(self.conv1(x.view(-1, 1, 8, 8)))))
        return self.head(x.flatten(1))


def prior_everywhere(seed: int, *, everywhere: bool) -> Run:
    """A prior of one in a hundred: logit -4.6, for the head, or for all biases."""
    model = Small()
    for name, p in model.named_parameters():
        if name.endswith("bias") and (everywhere or name.startswith("head")):
            nn.init.constant_(p, -4.6)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy_with_logits(model(batch[0]), functional.one_hot(batch[1], 10).float())

    return go(seed, model, optim.SGD, 0.3, momentum=0.9, loss=loss)


def burst(seed: int, factor: float) -> Run:
    """For six steps from step 60 on the rate is another."""
    run = go(seed, drawn(Small(), he), optim.SGD, 0.03, momentum=0.9)
    return scheduled(run, lambda step: factor if 60 <= step < 66 else 1.0)


add(
    "biases_at_3000_times_the_rate",
    D,
    "the group of the biases has 3000 times the rate of the weights",
    quick_biases,
    {"times": 3000.0},
    {"times": 1.0},
    ("dead_by_learning_rate", "lr_too_high", "dead_by_bias"),
    steps=150,
    accept=("lr_too_high", "exploding"),
)
add(
    "prior_bias_in_all_layers",
    D,
    "the bias of -4.6 that was meant for the head is given to the convolutions too",
    prior_everywhere,
    {"everywhere": True},
    {"everywhere": False},
    ("dead_by_bias",),
    steps=150,
    check="dead",
    faulty_layers=("conv1", "conv2"),
    accept=("stalled", "vanishing"),
)
add(
    "burst_of_rate_kills",
    D,
    "for six steps from step 60 on the rate is a hundred times too high, and the units never recover",
    burst,
    {"factor": 100.0},
    {"factor": 1.0},
    ("dead_by_learning_rate", "lr_jumped", "lr_too_high"),
    steps=150,
    onset=60,
    accept=("lr_too_high", "exploding"),
)

# ------------------------------------------------------------------------------------------------------- saturation
S = "saturation"


def positive(seed: int, *, rand: bool) -> Run:
    """Three sigmoid layers; weights by torch.rand, or Xavier's."""
    model = chain(64, 48, 48, 48, 10, act=nn.Sigmoid)
    fill = nn.init.uniform_ if rand else lambda w: nn.init.xavier_uniform_(w, 4.0)
    return go(seed, drawn(model, fill), optim.SGD, 0.1, momentum=0.9)


def wild_lstm(seed: int, std: float | None) -> Run:
    """An LSTM forecasts."""
    model = models_seq.Fused("lstm", 1, 32, 1)
    for p in model.rnn.parameters():
        if std is not None and p.ndim > 1:
            nn.init.normal_(p, std=std)
    return go(seed, model, optim.SGD, 0.1, momentum=0.9, loss=squared_error, stream=motion(32, seed), clip=1.0)


def sharp(seed: int, times: float | None) -> Run:
    """Attention that looks up a value."""
    return go(seed, Finder(times=times), optim.Adam, 1e-2, stream=lookup(64, seed))


def bounded(seed: int, gain: float) -> Run:
    """The output is a tanh, targets lie within -0.8..0.8."""
    model = chain(10, 48, 48, 1, act=nn.SiLU).append(nn.Tanh())
    with torch.no_grad():
        model[-2].weight.mul_(gain)
    stream = ((x, (0.6 * y).clamp(-0.8, 0.8)) for x, y in friedman(32, seed))
    return go(seed, model, optim.SGD, 0.05, momentum=0.9, loss=squared_error, stream=stream)


add(
    "sigmoids_by_torch_rand",
    S,
    "weights by torch.rand, which is never negative, in three sigmoid layers",
    positive,
    {"rand": True},
    {"rand": False},
    ("saturating_activations", "large_weights"),
    steps=150,
    check="saturated",
    faulty_layers=("0", "2", "4"),
    accept=("vanishing", "stalled"),
)
add(
    "lstm_weights_of_deviation_10",
    S,
    "an LSTM's weights are drawn with a deviation of 10, not 0.1",
    wild_lstm,
    {"std": 10.0},
    {"std": 0.1},
    ("saturating_activations", "large_weights"),
    steps=150,
    faulty_layers=("rnn",),
    accept=("vanishing", "stalled", "exploding"),
)
add(
    "logits_times_width",
    S,
    "the logits of an attention are multiplied by its width, not divided by the root of it",
    sharp,
    {"times": 24.0},
    {"times": None},
    ("unscaled_logits", "saturating_activations", "large_weights"),
    steps=200,
    faulty_layers=("softmax", "query", "key"),
    accept=("vanishing", "exploding", "lr_too_high", "stalled"),
)
add(
    "tanh_output_gain_400",
    S,
    "the layer in front of a tanh output begins 400 times too large",
    bounded,
    {"gain": 400.0},
    {"gain": 1.0},
    ("large_weights", "saturating_activations", "unsuited_loss"),
    steps=150,
    faulty_layers=("5", "4"),
    accept=("vanishing", "exploding", "stalled"),
)

# ------------------------------------------------------------------------------------------------------ lr too high
H, DIVERGES = "lr_too_high", ("exploding", "nonfinite", "dead_relu", "saturation")


class Bag(nn.Module):
    """A mean of embeddings and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(VOCAB, 24)
        self.wide, self.head = nn.Linear(24, 48), nn.Linear(48, VOCAB)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(functional.gelu(self.wide(self.embed(x))))


def bag(seed: int, lr: float) -> Run:
    """Which character follows, whatever the order of the six before."""
    stream = ((x, y[:, -1]) for x, y in data.windows(64, 6, seed))
    return go(seed, Bag(), optim.Adagrad, lr, stream=stream)


def typed(seed: int, lr: float) -> Run:
    """A transformer whose blocks are a group with their own rate."""
    model = models_seq.TorchTransformer(VOCAB, 32, 2)
    groups = [
        {"params": [*model.embed.parameters(), model.place, *model.head.parameters()]},
        {"params": list(model.encoder.parameters()), "lr": lr},
    ]
    return speller(seed, model, optim.Adam, 3e-3, weights=groups)


def peak(seed: int, lr: float) -> Run:
    """One cycle."""
    return scheduled(go(seed, Groups(3), optim.SGD, lr, momentum=0.9), one_cycle)


def least_squares(seed: int, lr: float) -> Run:
    """A linear model of correlated features."""
    stream = shown("diabetes", 64, seed)
    return go(seed, nn.Linear(10, 1), optim.SGD, lr, loss=squared_error, stream=((x, y + 1) for x, y in stream))


def undivided(seed: int, *, divide: bool) -> Run:
    """Sixteen small batches a step whose losses are summed, or averaged."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model, batch) * (1 if divide else 16)

    return go(seed, drawn(Small(), he), optim.SGD, 0.2, momentum=0.9, size=4, accum=16, loss=loss)


add(
    "adagrad_rate_20",
    H,
    "Adagrad with a rate of 20 on a bag of characters",
    bag,
    {"lr": 20.0},
    {"lr": 0.05},
    ("lr_too_high",),
    steps=150,
    accept=DIVERGES,
)
add(
    "one_group_typed_wrong",
    H,
    "the blocks of a transformer are a group whose rate is 1, not 1e-3",
    typed,
    {"lr": 1.0},
    {"lr": 2e-3},
    ("lr_too_high",),
    steps=90,
    accept=DIVERGES,
)
add(
    "one_cycle_to_60",
    H,
    "a one-cycle schedule up to 60, not 0.1",
    peak,
    {"lr": 60.0},
    {"lr": 0.1},
    ("lr_too_high", "lr_jumped"),
    steps=150,
    accept=DIVERGES,
)
add(
    "least_squares_rate_1",
    H,
    "gradient descent on a linear model, at a rate beyond what its curvature allows",
    least_squares,
    {"lr": 1.0},
    {"lr": 0.02},
    ("lr_too_high",),
    steps=120,
    accept=DIVERGES,
)
add(
    "accumulated_not_divided",
    H,
    "the losses of sixteen small batches are summed under a rate for their mean",
    undivided,
    {"divide": False},
    {"divide": True},
    ("lr_too_high", "gradients_pile_up"),
    steps=60,
    accept=DIVERGES,
    check="own",
)

# ---------------------------------------------------------------------------------------------------------- stalled
L = "stalled"


def slow_sum(seed: int, lr: float) -> Run:
    """An LSTM forecasts."""
    return go(
        seed,
        models_seq.Fused("lstm", 1, 24, 1),
        optim.SGD,
        lr,
        momentum=0.9,
        loss=squared_error,
        stream=motion(32, seed),
    )


def decays(seed: int, total: float) -> Run:
    """A linear decay over so many steps."""
    run = go(seed, Groups(2), optim.AdamW, 4e-3)
    return scheduled(run, lambda step: max(0.0, 1 - step / total))


def strangled(seed: int, clip: float) -> Run:
    """A residual net of groups."""
    return go(seed, Groups(2), optim.SGD, 0.1, momentum=0.9, clip=clip)


def two_rates(seed: int, lr: float) -> Run:
    """An autoencoder; its halves have rates of their own."""
    model = models.AutoEncoder(2, "relu")
    groups = [
        {"params": list(model.encoder.parameters()), "lr": lr},
        {"params": list(model.decoder.parameters()), "lr": lr},
    ]
    x, y = data.digits()
    return go(
        seed, model, optim.RMSprop, 1e-3, weights=groups, loss=rebuild, stream=data.batches(x - x.mean(0), y, 64, seed)
    )


def big_eps(seed: int, eps: float) -> Run:
    """A flow of small gradients: the loss is a mean over pixels."""
    return go(seed, chain(64, 48, 48, 64, act=nn.ELU), optim.Adam, 2e-3, eps=eps, loss=rebuild)


add(
    "lstm_forecast_sgd_1e-6",
    L,
    "an LSTM under SGD with a rate of 1e-6",
    slow_sum,
    {"lr": 1e-6},
    {"lr": 0.1},
    ("lr_too_low",),
    steps=150,
)
add(
    "decay_over_10_epochs_not_steps",
    L,
    "a linear decay over 10, which were meant as epochs, is stepped each batch: the rate is zero from step 10 on",
    decays,
    {"total": 10.0},
    {"total": 1500.0},
    ("schedule_at_zero", "lr_too_low"),
    steps=150,
    onset=10,
)
add(
    "clipped_to_1e-4",
    L,
    "gradients are clipped to a norm of 1e-4 under SGD",
    strangled,
    {"clip": 1e-4},
    {"clip": 5.0},
    ("clipping_too_small",),
    steps=150,
)
add(
    "rmsprop_1e-8_in_both_groups",
    L,
    "two groups, both with the rate 1e-8 that was meant as eps",
    two_rates,
    {"lr": 1e-8},
    {"lr": 1e-3},
    ("lr_too_low",),
    steps=150,
)
add(
    "adam_eps_10",
    L,
    "eps=10 in Adam for a loss whose gradients are about 1e-3",
    big_eps,
    {"eps": 10.0},
    {"eps": 1e-8},
    ("eps_too_large", "lr_too_low"),
    steps=150,
)

# ----------------------------------------------------------------------------------------------------- disconnected
C = "disconnected"


class Probe(nn.Module):
    """A trained, frozen body under a new head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = pretrained(chain(64, 64, 32, 10), seed, 60)[:-1].requires_grad_(False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.body(x))


def replaced(seed: int, *, late: bool) -> Run:
    """The head is replaced, before or after the optimizer was made."""
    model = Probe(seed)
    old = list(model.head.parameters())
    model.head = nn.Linear(32, 2)
    weights = old if late else model.head.parameters()
    stream = ((x, y % 2) for x, y in data.batches(*data.digits(), 32, seed))
    return go(seed, model, optim.Adam, 1e-2, weights=weights, stream=stream)


class Towers(nn.Module):
    """Two towers of three numbers each; the second may run under no_grad."""

    def __init__(self, *, blind: bool) -> None:
        super().__init__()
        self.left, self.right = chain(2, 32, 3, act=nn.Tanh), chain(8, 32, 2, act=nn.Tanh)
        self.join = chain(5, 32, 1, act=nn.Tanh)
        self.blind = blind

    def forward(self, x: Tensor) -> Tensor:
        """The target."""
        with torch.set_grad_enabled(not self.blind):
            right = self.right(x[:, 2:])
        return self.join(torch.cat([self.left(x[:, :2]), right], 1))


def towers(seed: int, *, blind: bool) -> Run:
    """Friedman's function; most of what counts goes through the second tower."""
    return go(seed, Towers(blind=blind), optim.Adam, 1e-2, loss=squared_error, stream=friedman(64, seed))


class Growing(nn.Module):
    """A frozen body and two heads of which the second is used later."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = pretrained(chain(64, 64, 32, 10), seed, 60)[:-1].requires_grad_(False)
        self.heads = nn.ModuleList([nn.Linear(32, 10), nn.Linear(32, 4)])
        self.task = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the present task."""
        return self.heads[self.task](self.body(x))


def second_task(seed: int, *, forgotten: bool) -> Run:
    """From step 60 on another question about the digits is asked, of a second head."""
    model = Growing(seed)
    x, y = data.digits()

    def tasks() -> Iterator[Batch]:
        rows = data.batches(x, torch.stack([y, y % 4], 1), 32, seed)
        for images, both in rows:
            yield images, both[:, model.task]

    run = go(seed, model, optim.Adam, 1e-2, stream=tasks(), weights=model.heads[0].parameters())

    def switch(step: int) -> None:
        if step == 60:
            model.task = 1
            if not forgotten:
                run.optimizer.add_param_group({"params": list(model.heads[1].parameters())})

    run.before_step = switch
    return run


class Rounded(nn.Module):
    """An autoencoder whose code is rounded to whole numbers; straight through, or not."""

    def __init__(self, *, through: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = chain(64, 48, 6), chain(6, 48, 64)
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        """The image."""
        code = 4 * self.encoder(x)
        whole = code.round()
        return self.decoder(code + (whole - code).detach() if self.through else whole)


def rounded(seed: int, *, through: bool) -> Run:
    """Images through six whole numbers."""
    x, y = data.digits()
    stream = data.batches(x - x.mean(0), y, 64, seed)
    return go(seed, Rounded(through=through), optim.Adam, 4e-3, loss=rebuild, stream=stream)


def copied(seed: int, *, right: bool) -> Run:
    """The optimizer has the parameters of the copy that is trained, or those of what was copied."""
    model = models_seq.Fused("gru", 1, 24, 1)
    other = copy.deepcopy(model)
    weights = other.parameters() if right else model.parameters()
    return go(seed, other, optim.Adam, 1e-2, loss=squared_error, stream=motion(32, seed), weights=weights)


add(
    "head_replaced_after_optimizer",
    C,
    "the new head came after the optimizer, which still holds the old one",
    replaced,
    {"late": True},
    {"late": False},
    ("no_optimizer",),
    steps=120,
    check="unmoved",
    faulty_layers=("head",),
    accept=("stalled",),
)
add(
    "tower_under_no_grad",
    C,
    "one of two towers runs under a no_grad that was left from an experiment",
    towers,
    {"blind": True},
    {"blind": False},
    ("cut_graph", "zero_gradient_structural"),
    steps=200,
    check="unmoved",
    faulty_layers=("right",),
)
add(
    "second_head_never_added",
    C,
    "add_param_group was forgotten for the head that is used from step 60 on",
    second_task,
    {"forgotten": True},
    {"forgotten": False},
    ("no_optimizer",),
    steps=160,
    onset=60,
    check="unmoved",
    faulty_layers=("heads.1",),
    accept=("stalled",),
)
add(
    "code_rounded",
    C,
    "a code is rounded, whose gradient is zero, without a straight-through estimate",
    rounded,
    {"through": False},
    {"through": True},
    ("zero_gradient_structural", "cut_graph"),
    steps=200,
    check="unmoved",
    faulty_layers=("encoder",),
    accept=("vanishing",),
)
add(
    "copy_of_what_is_optimized",
    C,
    "the model that is trained is a copy of the one whose parameters the optimizer has",
    copied,
    {"right": False},
    {"right": True},
    ("no_optimizer",),
    steps=150,
    check="unmoved",
    faulty_layers=("rnn", "out"),
    accept=("stalled",),
)

# ------------------------------------------------------------------------------------------------------ input scale
I, RAW = "input_scale", ("unscaled_inputs",)  # noqa: E741 - as the labels' other letters


def stamped(seed: int, *, raw: bool) -> Run:
    """One more feature is the time, in seconds since 1970 or scaled."""
    generator = data.rng(seed, 86)

    def timed() -> Iterator[Batch]:
        for x, y in friedman(32, seed):
            time = torch.rand(len(x), 1, generator=generator)
            yield torch.cat([x, 1.7e9 + 3e7 * time if raw else 2 * time - 1], 1), y

    return go(seed, chain(11, 48, 48, 1, act=nn.GELU), optim.AdamW, 3e-3, loss=squared_error, stream=timed())


def samples(seed: int, unit: float) -> Run:
    """Convolutions over sounds, in -1..1 or as whole numbers of 16 bits."""
    stream = ((x * unit, y) for x, y in data.waves(32, seed))
    return go(seed, Waves(3, 12, gated=False), optim.SGD, 0.02, momentum=0.9, stream=stream)


def faint(seed: int, unit: float) -> Run:
    """Features in a unit that makes them tiny."""
    stream = ((x * unit, y) for x, y in shown("breast_cancer", 32, seed))
    return go(seed, chain(30, 32, 2, act=nn.Tanh), optim.SGD, 0.1, momentum=0.9, stream=stream)


def bytes_in(seed: int, unit: float) -> Run:
    """Patches of images go into a transformer without a norm in front."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.head = nn.Linear(8, 24), nn.Linear(24, 10)
            self.layer = models_seq.Layer(24, 2, 1.0, norm=False, causal=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.patch(x.view(-1, 8, 8))).mean(1))

    stream = ((x * unit, y) for x, y in data.batches(*data.digits(), 32, seed))
    return go(seed, Patches(), optim.SGD, 0.05, momentum=0.9, stream=stream)


add(
    "seconds_since_1970",
    I,
    "the time in seconds since 1970 is one of the features",
    stamped,
    {"raw": True},
    {"raw": False},
    RAW,
    steps=150,
    accept=BLOWS,
    faulty_layers=("0",),
)
add(
    "sounds_of_16_bits",
    I,
    "sounds as whole numbers up to 32767",
    samples,
    {"unit": 32767.0},
    {"unit": 1.0},
    RAW,
    steps=120,
    accept=BLOWS,
    faulty_layers=("inlet",),
)
add(
    "features_of_1e-5",
    I,
    "features in a unit that makes them 1e-5",
    faint,
    {"unit": 1e-5},
    {"unit": 1.0},
    (*RAW, "lr_too_low"),
    steps=150,
    accept=("vanishing", "stalled"),
    faulty_layers=("0",),
)
add(
    "patches_of_bytes",
    I,
    "bytes of 0..255 go into a transformer layer without a norm",
    bytes_in,
    {"unit": 255.0},
    {"unit": 1.0},
    (*RAW, "unscaled_logits"),
    steps=120,
    accept=(*BLOWS, "saturation"),
    faulty_layers=("patch",),
)

# ----------------------------------------------------------------------------------------------------- data outlier
O, ONCE = "data_outlier", ("one_bad_batch",)  # noqa: E741 - as the labels' other letters


def other_currency(seed: int, at: int | None) -> Run:
    """The targets of one batch are in another unit."""
    stream = once(friedman(32, seed), at, lambda batch: (batch[0], batch[1] * 2e4))
    return go(seed, chain(10, 48, 48, 1), optim.SGD, 0.02, loss=squared_error, stream=stream)


def raw_batch(seed: int, at: int | None) -> Run:
    """One batch was not scaled: bytes."""
    stream = once(data.batches(*data.digits(), 32, seed), at, lambda batch: (batch[0] * 255.0, batch[1]))
    return go(seed, drawn(Small(), he), optim.SGD, 0.05, momentum=0.9, stream=stream)


def one_rating(seed: int, at: int | None) -> Run:
    """Factors of ratings; one rating lost its point."""

    class Ratings(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(40, 5), nn.Embedding(30, 5)
            self.mean = nn.Parameter(torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return ((self.users(x[:, 0]) * self.items(x[:, 1])).sum(1) + self.mean)[:, None]

    def pairs() -> Iterator[Batch]:
        generator = data.rng(seed, 87)
        user, item = torch.randn(40, generator=generator), torch.randn(30, generator=generator)
        while True:
            x = torch.stack([torch.randint(0, n, (64,), generator=generator) for n in (40, 30)], 1)
            yield x, 3 + user[x[:, 0]] * item[x[:, 1]]

    def lost(batch: Batch) -> Batch:
        y = batch[1].clone()
        y[9] = 45000.0
        return batch[0], y

    return go(seed, Ratings(), optim.SGD, 0.5, loss=squared_error, stream=once(pairs(), at, lost))


def sensor(seed: int, at: int | None) -> Run:
    """A GRU forecasts; a sensor reports its error code as a target."""

    def code(batch: Batch) -> Batch:
        x, y = (part.clone() for part in batch)
        x[3, -2:] = 65535.0
        y[3] = 65535.0
        return x, y

    model = models_seq.Fused("gru", 1, 24, 1)
    return go(seed, model, optim.SGD, 0.1, momentum=0.9, loss=squared_error, stream=once(motion(32, seed), at, code))


add(
    "one_batch_in_another_currency",
    O,
    "the targets of batch 70 are in another unit",
    other_currency,
    {"at": 70},
    {"at": None},
    ONCE,
    steps=130,
    onset=70,
    check="spike",
    accept=BLOWS,
)
add(
    "one_batch_of_bytes",
    O,
    "batch 80 was not scaled",
    raw_batch,
    {"at": 80},
    {"at": None},
    ONCE,
    steps=140,
    onset=80,
    check="spike",
    accept=(*BLOWS, "input_scale"),
)
add(
    "rating_without_its_point",
    O,
    "one rating of batch 90 lost its point",
    one_rating,
    {"at": 90},
    {"at": None},
    ONCE,
    steps=150,
    onset=90,
    check="spike",
    accept=BLOWS,
)
add(
    "error_code_of_a_sensor",
    O,
    "one series of batch 75 ends in a sensor's error code",
    sensor,
    {"at": 75},
    {"at": None},
    ONCE,
    steps=130,
    onset=75,
    check="spike",
    accept=(*BLOWS, "saturation"),
)

for scenario in blind_third_healthy.SCENARIOS:
    SCENARIOS.put(scenario)
