"""The second blind corpus: ordinary nets with the mistakes that ordinary users make; faulty part, and all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import blind_nets as nets
from zoo import blind_second_healthy, data, models, models_seq
from zoo.blind_faulty import Blind
from zoo.blind_nets import before_stepping, fit, following
from zoo.blind_second_healthy import PlainNet, ResNet, Shots, Vision
from zoo.core import Batch, Run, Turn
from zoo.recipes import VOCAB, at_step, cross_entropy, pretrained, scheduled, squared_error, upto

optim = torch.optim
schedulers = torch.optim.lr_scheduler
SCENARIOS = Blind()
add = SCENARIOS.pair

BLOWS = ("exploding", "nonfinite", "dead_relu", "lr_too_high")
LARGE = ("large_weights", "no_normalisation")


def table(name: str, size: int, seed: int, change: Callable[[Tensor, Tensor], Batch] | None = None) -> Iterator[Batch]:
    """Batches of a table in its own units, after ``change``; standardised without one."""
    x, y = data.table(name, standardise=change is None)
    x, y = change(x, y) if change else (x, y)
    return data.batches(x, y, size, seed)


def filled(model: nn.Module, fill: Callable[[Tensor], object] | None) -> nn.Module:
    """The model with its weight matrices drawn by ``fill``, and no biases; as torch made it without one."""
    for module in model.modules():
        if fill is not None and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def he(weight: Tensor) -> None:
    """Draw weights as for ReLU."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


# -------------------------------------------------------------------------------------------------------- exploding
E = "exploding"


def plain(seed: int, std: float | None, kind: Any = optim.SGD, lr: float = 0.02, **rest: Any) -> Run:
    """A plain convolutional net; ``std`` is that of its weights, None for He."""
    model = filled(PlainNet(6, 12), he if std is None else lambda w: nn.init.normal_(w, std=std))
    return fit(seed, model, kind, lr, size=32, **rest)


def resnet_doubled(seed: int, *, twice: bool) -> Run:
    """A residual net of 9 blocks, whose shortcut may be added once more."""
    return fit(seed, ResNet(9, 8, twice=twice), optim.SGD, 0.02, momentum=0.9, size=32)


def vae(seed: int, sign: float) -> Run:
    """A variational autoencoder."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        image, mean, log_var = model(batch[0])
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        return (image - batch[0]).square().sum(1).mean() + sign * kl

    return fit(seed, models.Variational(6, clamp=False), optim.SGD, 1e-3, momentum=0.9, loss=loss)


def prices(seed: int, unit: float) -> Run:
    """Regression; targets are 100 standard units too large and not centred."""
    x, y = data.table("diabetes")
    model = models.Stack([10, 64, 64, 1], "silu")
    stream = data.batches(x, (y + 2.0) * unit, 32, seed)
    return fit(seed, model, optim.SGD, 0.01, momentum=0.9, loss=squared_error, stream=stream)


add(
    "convs_standard_normal",
    E,
    "nn.init.normal_ without a deviation, which is 1, on six convolutions",
    plain,
    {"std": 1.0, "momentum": 0.9},
    {"std": None, "momentum": 0.9},
    LARGE,
    steps=120,
    accept=BLOWS,
)
add(
    "resnet_shortcut_added_twice",
    E,
    "x = x + block(x), though each of nine blocks adds its shortcut already: everything doubles",
    resnet_doubled,
    {"twice": True},
    {"twice": False},
    (*LARGE, "gradients_pile_up"),
    steps=60,
    accept=BLOWS,
)
add(
    "vae_kl_wrong_sign",
    E,
    "the KL term of a variational autoencoder is subtracted",
    vae,
    {"sign": -1.0},
    {"sign": 1.0},
    ("growing_weights", "domain_operation", "unsuited_loss", "large_weights"),
    steps=250,
    accept=BLOWS,
)
add(
    "prices_in_their_own_unit",
    E,
    "regression on targets around 800 under a rate for standardised ones",
    prices,
    {"unit": 400.0},
    {"unit": 1.0},
    ("lr_too_high", "unscaled_inputs", "large_weights"),
    steps=120,
    accept=(*BLOWS, "input_scale"),
    check="own",
)

# -------------------------------------------------------------------------------------------------------- vanishing
V = "vanishing"
SMALL = ("small_weights", "no_shortcuts", "no_normalisation")


def layered(seed: int, layers: int) -> Run:
    """A stack of LSTM layers tells the class of a digit from its rows."""
    model = models_seq.Fused("lstm", 8, 16, 10, layers=layers)
    return fit(seed, model, optim.SGD, 0.3, momentum=0.9, stream=Shots.rows(32, seed))


def sigmoids(seed: int, act: str) -> Run:
    """Seven hidden layers on a table."""
    model = filled(models.Stack([30, *[32] * 7, 2], act), nn.init.xavier_uniform_)
    return fit(seed, model, optim.SGD, 0.05, momentum=0.9, stream=table("breast_cancer", 32, seed))


def decayed(seed: int, decay: float) -> Run:
    """Adam's own weight decay, which is added to the gradient."""
    return fit(seed, PlainNet(4, 12), optim.Adam, 3e-3, size=32, weight_decay=decay)


def recalls(seed: int, radius: float | None) -> Run:
    """An nn.RNN must remember for 30 frames."""
    model = models_seq.Fused("tanh", 4, 32, 4, radius=radius)
    return fit(seed, model, optim.Adam, 2e-3, stream=data.echo(32, 30, seed))


add(
    "convs_alexnet_init",
    V,
    "an init of deviation 0.01, copied from an old paper, on six convolutions",
    plain,
    {"std": 0.01, "momentum": 0.9},
    {"std": None, "momentum": 0.9},
    SMALL,
    steps=120,
    accept=("stalled",),
    faulty_layers=upto("convs", 6),
)
add(
    "lstm_of_five_layers",
    V,
    "five LSTM layers of default init where one would do",
    layered,
    {"layers": 5},
    {"layers": 1},
    (*SMALL, "saturating_activations", "long_recurrence"),
    steps=120,
    accept=("stalled",),
    faulty_layers=("rnn",),
)
add(
    "sigmoid_mlp_of_seven",
    V,
    "seven sigmoid layers on a table",
    sigmoids,
    {"act": "sigmoid"},
    {"act": "relu"},
    (*SMALL, "saturating_activations"),
    steps=150,
    accept=("stalled",),
    faulty_layers=upto("linears", 5),
)
add(
    "adam_weight_decay_1",
    V,
    "Adam with weight_decay=1, which is added to the gradient: the weights shrink to nothing",
    decayed,
    {"decay": 1.0},
    {"decay": 1e-4},
    SMALL,
    steps=150,
    accept=("stalled", "dead_relu"),
    faulty_layers=upto("convs", 4),
)
add(
    "default_rnn_30_frames",
    V,
    "nn.RNN of default init must remember 30 frames",
    recalls,
    {"radius": None},
    {"radius": 1.0},
    ("long_recurrence", "small_weights", "saturating_activations"),
    steps=200,
    accept=("stalled",),
    faulty_layers=("rnn",),
)

# -------------------------------------------------------------------------------------------------------- nonfinite
N, BAD = "nonfinite", "first_bad"


def binary(seed: int, *, by_hand: bool) -> Run:
    """Two classes, cross-entropy by hand or by torch."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logit, y = model(batch[0])[:, 0], batch[1].float()
        if not by_hand:
            return functional.binary_cross_entropy_with_logits(logit, y)
        p = logit.sigmoid()
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    model = models.Stack([30, 64, 64, 1])
    return fit(seed, model, optim.Adam, 1e-2, loss=loss, stream=table("breast_cancer", 32, seed))


def relative(seed: int, at: int | None) -> Run:
    """Mean absolute percentage error; one target of a batch is zero."""
    x, y = data.table("diabetes")

    def empty(batch: Batch) -> Batch:
        target = batch[1].clone()
        target[2] = 0.0
        return batch[0], target

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch[0])[:, 0] - batch[1]) / batch[1]).abs().mean()

    stream = data.batches(x, y + 3.0, 32, seed)
    stream = stream if at is None else data.altered(stream, empty, at)
    return fit(seed, models.Stack([10, 48, 1], "elu"), optim.RMSprop, 1e-3, loss=loss, stream=stream)


def halved(seed: int, eps: float) -> Run:
    """A model in half precision under Adam, whose default eps is zero in that format."""
    run = fit(seed, PlainNet(3, 12).half(), optim.Adam, 2e-3, eps=eps, size=32)
    run.batches = ((x.half(), y) for x, y in run.batches)
    return run


def logged(seed: int, *, plus: float) -> Run:
    """Features as logarithms; some are zero, though rarely in the first batches."""
    x, y = data.table("breast_cancer", standardise=False)
    if not plus:
        y = torch.cat([y[(x > 0).all(1)], y[(x <= 0).any(1)][:6]])
        x = torch.cat([x[(x > 0).all(1)], x[(x <= 0).any(1)][:6]])
    x = (x + plus).log()
    fine = x[x.isfinite().all(1)]
    stream = data.batches((x - fine.mean(0)) / fine.std(0), y, 32, seed)
    return fit(seed, models.Stack([30, 32, 2], "tanh"), optim.AdamW, 3e-3, stream=stream)


add(
    "binary_entropy_by_hand",
    N,
    "binary cross-entropy by hand: 0 * log(0) once the sigmoid is exactly one",
    binary,
    {"by_hand": True},
    {"by_hand": False},
    ("domain_operation", "saturating_activations", "unsuited_loss"),
    steps=250,
    onset=BAD,
    check="nonfinite",
)
add(
    "percentage_error_of_zero",
    N,
    "a relative error whose target is zero at step 45",
    relative,
    {"at": 45},
    {"at": None},
    ("domain_operation", "one_bad_batch", "unsuited_loss", "nonfinite_input"),
    steps=100,
    onset=45,
    check="nonfinite",
    accept=("data_outlier",),
)
add(
    "half_model_under_adam",
    N,
    "model.half() and Adam, whose eps of 1e-8 is zero in half precision",
    halved,
    {"eps": 1e-8},
    {"eps": 1e-3},
    ("half_precision_underflow", "half_precision_overflow", "domain_operation", "nonfinite_weight"),
    steps=60,
    onset=BAD,
    check="nonfinite",
)
add(
    "log_of_empty_columns",
    N,
    "logarithms of features of which some are zero in a few rows",
    logged,
    {"plus": 0.0},
    {"plus": 0.01},
    ("nonfinite_input", "domain_operation", "one_bad_batch"),
    steps=120,
    onset=BAD,
    check="nonfinite",
    accept=("data_outlier", "input_scale"),
)

# -------------------------------------------------------------------------------------------------------- dead ReLU
D, DEAD = "dead_relu", ("dead_by_bias", "dead_by_learning_rate")


class Priced(nn.Module):
    """Two hidden layers; the output may pass one more ReLU."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head, self.last = nn.Linear(32, 1), nn.ReLU() if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The target."""
        return self.last(self.head(self.body(x)))


def below_zero(seed: int, *, last: bool) -> Run:
    """Balances, which are all negative."""
    x, y = data.table("diabetes")
    stream = data.batches(x, y - 4.0, 32, seed)
    return fit(seed, Priced(last=last), optim.Adam, 5e-3, loss=squared_error, stream=stream)


def uncentred(seed: int, lr: float) -> Run:
    """Targets that are scaled but not centred."""
    x, y = data.table("diabetes")
    model = models.Stack([10, 48, 48, 1])
    stream = data.batches(x, y + 10.0, 32, seed)
    return fit(seed, model, optim.Adam, lr, loss=squared_error, stream=stream)


def sparse_code(seed: int, penalty: float) -> Run:
    """An autoencoder with a sparse ReLU code."""
    x, y = data.digits()

    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(64, 48), nn.Linear(48, 64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            code = functional.relu(self.encoder(x))
            return self.decoder(code), code

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        image, code = model(batch[0])
        return (image - batch[0]).square().mean() + penalty * code.abs().mean()

    return fit(seed, Sparse(), optim.Adam, 5e-3, loss=loss, stream=data.batches(x - x.mean(0), y, 64, seed))


def folded(seed: int, times: float) -> Run:
    """A trained net whose BatchNorm is folded into the convolutions before it is tuned further on noisy images."""
    model = PlainNet(3, 12)
    x, y = data.digits()
    pretrained(model, seed, 40)
    with torch.no_grad():
        model.convs[1].bias.sub_(times)
    noisy = x + 0.5 * torch.randn(x.shape, generator=data.rng(seed, 41))
    return fit(seed, model, optim.SGD, 0.02, momentum=0.9, stream=data.batches(noisy, y, 32, seed))


add(
    "relu_on_negative_targets",
    D,
    "the output of a regression passes a ReLU, all targets are negative",
    below_zero,
    {"last": True},
    {"last": False},
    (*DEAD, "unsuited_loss"),
    steps=200,
    faulty_layers=("head",),
    accept=("stalled", "vanishing"),
)
add(
    "adam_0.5_kills_relu",
    D,
    "uncentred targets under Adam with a rate of 0.5: the first steps kill the second layer",
    uncentred,
    {"lr": 0.5},
    {"lr": 5e-3},
    ("dead_by_learning_rate", "lr_too_high"),
    steps=150,
    onset=4,
    check="dead",
    faulty_layers=("linears.1",),
    accept=("exploding", "lr_too_high", "input_scale"),
)
add(
    "sparsity_penalty_x1000",
    D,
    "a sparsity penalty a thousand times too strong shuts the whole ReLU code",
    sparse_code,
    {"penalty": 3.0},
    {"penalty": 1e-3},
    (*DEAD, "unsuited_loss"),
    steps=200,
    faulty_layers=("encoder",),
)
add(
    "folded_with_pixels_of_255",
    D,
    "BatchNorm's means were folded into a trained convolution in units of 0..255, not 0..1",
    folded,
    {"times": 25.0},
    {"times": 0.0},
    DEAD,
    steps=120,
    check="dead",
    faulty_layers=("convs.1",),
)

# ------------------------------------------------------------------------------------------------------- saturation
S, FLAT = "saturation", ("saturating_activations", "large_weights")


def forecast(seed: int, unit: float, normal: float) -> Run:
    """An LSTM forecasts a series in its own unit and around its own mean."""
    model = models_seq.Fused("lstm", 1, 24, 1)
    stream = ((x.transpose(1, 2) * unit + normal, y) for x, y in nets.series(32, seed, 16))
    return fit(seed, model, optim.Adam, 5e-3, loss=squared_error, stream=stream)


def tanh_normal(seed: int, std: float | None) -> Run:
    """A tanh autoencoder."""
    model = filled(
        models.AutoEncoder(5, "tanh", width=192), nn.init.xavier_uniform_ if std is None else nn.init.normal_
    )
    if std is not None:
        with torch.no_grad():
            model.decoder.linears[-1].weight.mul_(1 / 16)
    x, y = data.digits()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[0])

    return fit(seed, model, optim.SGD, 0.2, momentum=0.9, loss=loss, stream=data.batches(x - x.mean(0), y, 64, seed))


def squashed(seed: int, *, bias: float) -> Run:
    """A net whose sigmoid output is judged by the squared error of a rare outcome."""
    x, y = data.table("breast_cancer")
    model = nn.Sequential(nn.Linear(30, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
    nn.init.constant_(model[2].bias, bias)
    return fit(
        seed, model, optim.SGD, 0.3, loss=squared_error, stream=data.batches(x, y.float(), 32, seed), momentum=0.9
    )


def distilled(seed: int, temperature: float) -> Run:
    """Squared error between a teacher's and a student's softmax; the temperature divides the logits."""
    teacher = pretrained(models.Stack([64, 64, 10]), seed, 100).requires_grad_(False)
    student = models.Stack([64, 32, 10], "tanh")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss((model(batch[0]) / temperature).softmax(1), teacher(batch[0]).softmax(1))

    return fit(seed, student, optim.SGD, 1.0, loss=loss, momentum=0.9)


add(
    "lstm_air_pressure_in_pascals",
    S,
    "an LSTM is given the air pressure in pascals, around 101325: its gates are flat",
    forecast,
    {"unit": 500.0, "normal": 101325.0},
    {"unit": 1.0, "normal": 0.0},
    ("saturating_activations", "unscaled_inputs"),
    steps=150,
    faulty_layers=("rnn",),
    accept=("input_scale", "vanishing", "stalled"),
)
add(
    "tanh_autoencoder_standard_normal",
    S,
    "nn.init.normal_ without a deviation, which is 1, on wide tanh layers",
    tanh_normal,
    {"std": 1.0},
    {"std": None},
    FLAT,
    steps=120,
    faulty_layers=("encoder.linears.1", "decoder.linears.1"),
    accept=("vanishing", "exploding"),
)
add(
    "sigmoid_prior_minus_15",
    S,
    "squared error of a sigmoid whose prior bias starts at -15",
    squashed,
    {"bias": -15.0},
    {"bias": 0.0},
    (*FLAT, "unsuited_loss"),
    steps=120,
    faulty_layers=("2",),
    accept=("vanishing", "stalled"),
)
add(
    "temperature_inverted",
    S,
    "a student's logits are divided by a temperature of 1/500",
    distilled,
    {"temperature": 0.002},
    {"temperature": 1.0},
    ("unscaled_logits", *FLAT, "unsuited_loss"),
    steps=150,
    faulty_layers=("linears.1",),
    accept=("vanishing", "exploding", "lr_too_high", "stalled"),
)

# ------------------------------------------------------------------------------------------------------ lr too high
H, HIGH, DIVERGES = "lr_too_high", ("lr_too_high",), ("exploding", "nonfinite", "dead_relu", "saturation")


def tuned(seed: int, lr: float) -> Run:
    """A trained convolutional net is tuned to inverted images."""
    x, y = data.digits()
    model = pretrained(PlainNet(3, 12), seed, 40)
    return fit(seed, model, optim.AdamW, lr, stream=data.batches(1 - x, y, 32, seed))


def speller(seed: int, lr: float) -> Run:
    """A GRU on text."""
    model = models_seq.Fused("gru", 16, 32, VOCAB, vocab=VOCAB, every=True)
    return fit(seed, model, optim.Adam, lr, stream=data.windows(16, 20, seed))


def warmed(seed: int, *, capped: bool) -> Run:
    """A linear warm-up over 20 steps."""
    run = fit(seed, Vision(2, 24), optim.Adam, 3e-3, size=32)
    return scheduled(run, lambda step: min(1.0, (step + 1) / 20) if capped else float(step + 1))


def stepped(seed: int, gamma: float) -> Run:
    """The rate is multiplied every 50 steps."""
    run = fit(seed, models.Stack([64, 64, 64, 10], "gelu"), optim.SGD, 0.1, momentum=0.9)
    return following(run, schedulers.StepLR(run.optimizer, 50, gamma))


def copied_rate(seed: int, lr: float) -> Run:
    """A convolutional autoencoder."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[0])

    return fit(seed, models.Hourglass(8, skips=False), optim.RMSprop, lr, loss=loss, size=32)


add(
    "tuning_adamw_0.3",
    H,
    "a trained net is tuned with AdamW at a rate of 0.3",
    tuned,
    {"lr": 0.3},
    {"lr": 3e-3},
    HIGH,
    steps=80,
    accept=DIVERGES,
)
add(
    "gru_text_adam_0.5",
    H,
    "a GRU on text under Adam with a rate of 0.5, unclipped",
    speller,
    {"lr": 0.5},
    {"lr": 5e-3},
    HIGH,
    steps=120,
    accept=DIVERGES,
)
add(
    "warm_up_without_end",
    H,
    "a warm-up that multiplies the rate by the step's number, for ever",
    warmed,
    {"capped": False},
    {"capped": True},
    (*HIGH, "lr_jumped"),
    steps=110,
    accept=DIVERGES,
)
add(
    "step_schedule_gamma_20",
    H,
    "a step schedule whose factor is 20 in place of 1/20",
    stepped,
    {"gamma": 20.0},
    {"gamma": 0.05},
    (*HIGH, "lr_jumped"),
    steps=140,
    onset=50,
    accept=DIVERGES,
)
add(
    "autoencoder_rmsprop_0.1",
    H,
    "a convolutional autoencoder under RMSprop with a rate of 0.1",
    copied_rate,
    {"lr": 0.1},
    {"lr": 1e-3},
    HIGH,
    steps=120,
    accept=DIVERGES,
)

# ---------------------------------------------------------------------------------------------------------- stalled
L = "stalled"


def wiped(seed: int, *, early: bool) -> Run:
    """The gradients are wiped right before the optimizer steps."""
    run = fit(seed, PlainNet(3, 12), optim.AdamW, 3e-3, size=32, weight_decay=0.0)
    return before_stepping(run, lambda: run.optimizer.zero_grad(set_to_none=False)) if early else run


def recipe(seed: int, lr: float) -> Run:
    """A residual net with BatchNorm under SGD."""
    return fit(seed, ResNet(3, 8), optim.SGD, lr, momentum=0.9, size=32)


def plateau(seed: int, patience: int) -> Run:
    """A plateau schedule is told the loss of every batch."""
    seen: list[float] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        value = cross_entropy(model, batch)
        seen.append(float(value.detach()))
        return value

    run = fit(seed, PlainNet(3, 12), optim.Adam, 3e-3, loss=loss, size=16)
    cut = schedulers.ReduceLROnPlateau(run.optimizer, patience=patience, factor=0.1)
    run.before_step = lambda step: cut.step(seen[-1]) if step else None
    return run


def twice(seed: int, *, softmax: bool) -> Run:
    """A net whose last module is a softmax, or not, under cross-entropy."""
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    if softmax:
        model.append(nn.Softmax(1))
    return fit(seed, model, optim.SGD, 0.05, momentum=0.5)


add(
    "gradients_wiped_before_step",
    L,
    "zero_grad stands between backward and step",
    wiped,
    {"early": True},
    {"early": False},
    ("lr_too_low", "no_optimizer", "cut_graph", "zero_gradient_structural"),
    steps=100,
    accept=("disconnected", "vanishing"),
)
add(
    "resnet_sgd_2e-5",
    L,
    "SGD with a rate of 2e-5 that was copied from a recipe for AdamW",
    recipe,
    {"lr": 2e-5},
    {"lr": 0.05},
    ("lr_too_low",),
    steps=100,
)
add(
    "plateau_without_patience",
    L,
    "a plateau schedule without patience is told the noisy loss of every batch",
    plateau,
    {"patience": 0},
    {"patience": 60},
    ("lr_too_low", "schedule_at_zero"),
    steps=150,
)
add(
    "softmax_twice",
    L,
    "a softmax before cross-entropy, which has its own",
    twice,
    {"softmax": True},
    {"softmax": False},
    ("unsuited_loss", "lr_too_low", "saturating_activations"),
    steps=150,
    accept=("vanishing", "saturation"),
)

# ----------------------------------------------------------------------------------------------------- disconnected
C, CUT = "disconnected", ("cut_graph", "zero_gradient_structural")


class Gan(nn.Module):
    """A generator and a critic with features."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 48), nn.LeakyReLU(0.1), nn.Linear(48, 64))
        self.features = nn.Sequential(nn.Linear(64, 48), nn.LeakyReLU(0.1), nn.Linear(48, 24), nn.LeakyReLU(0.1))
        self.critic = nn.Linear(24, 1)


def gan(seed: int, *, detach: bool) -> Run:
    """Feature matching; the generator's images are detached in the critic's turn, and perhaps in its own."""
    model = Gan()

    def judge(model: nn.Module, batch: Batch) -> Tensor:
        fake = model.generator(torch.randn(len(batch[0]), 8)).detach()
        real, made = (model.critic(model.features(images)) for images in (batch[0], fake))
        return functional.softplus(-real).mean() + functional.softplus(made).mean()

    def forge(model: nn.Module, batch: Batch) -> Tensor:
        fake = model.generator(torch.randn(len(batch[0]), 8))
        real, made = (model.features(images).mean(0) for images in (batch[0], fake.detach() if detach else fake))
        return (real - made).square().mean()

    critic = optim.Adam([*model.features.parameters(), *model.critic.parameters()], 1e-3, betas=(0.5, 0.999))
    generator = optim.Adam(model.generator.parameters(), 1e-3, betas=(0.5, 0.999))
    stream = data.batches(*data.digits(), 64, seed)
    return Run(model, critic, stream, judge, turns=(Turn(critic, judge), Turn(generator, forge)))


class Tasks(nn.Module):
    """One body, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.kind, self.parity = nn.Linear(48, 10), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both tasks."""
        h = self.body(x)
        return self.kind(h), self.parity(h)


def tasks(seed: int, *, forgotten: bool) -> Run:
    """The digit and whether it is odd."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        kind, odd = model(batch[0])
        first, second = functional.cross_entropy(kind, batch[1]), functional.cross_entropy(odd, batch[1] % 2)
        return first if forgotten else first + second

    return fit(seed, Tasks(), optim.Adam, 3e-3, loss=loss)


def dropped(seed: int, p: float) -> Run:
    """Dropout in the middle of a net."""
    model = nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Dropout(p), nn.Linear(48, 48), nn.ReLU()
    )
    return fit(seed, model.append(nn.Linear(48, 10)), optim.SGD, 0.1, momentum=0.9)


class Pointer(nn.Module):
    """Embeds rows of an image, picks one by a score, classifies."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.embed, self.score, self.head = nn.Linear(8, 24), nn.Linear(24, 1), nn.Linear(24, 10)
        self.place = nn.Parameter(0.5 * torch.randn(8, 24))
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = functional.gelu(self.embed(x.view(-1, 8, 8)) + self.place)
        score = self.score(h)[..., 0]
        share = functional.one_hot(score.argmax(1), 8).float() if self.hard else score.softmax(1)
        return self.head((share[..., None] * h).sum(1))


def binarised(seed: int, *, at: int | None) -> Run:
    """A hidden layer's bits by comparison, from a step on."""

    class Bits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = models.Stack([64, 48, 32]), nn.Linear(32, 10)
            self.hard = False

        def forward(self, x: Tensor) -> Tensor:
            h = self.encoder(x)
            return self.head((h > 0).float() if self.hard else h.tanh())

    model = Bits()
    run = fit(seed, model, optim.Adam, 1e-3)
    return at_step(run, at, lambda: setattr(model, "hard", True))


add(
    "generator_detached_in_its_turn",
    C,
    "the generator's images are detached in its own turn as well",
    gan,
    {"detach": True},
    {"detach": False},
    CUT,
    steps=150,
    check="unmoved",
    faulty_layers=("generator",),
)
add(
    "second_loss_not_added",
    C,
    "the loss of the second head is computed and never added",
    tasks,
    {"forgotten": True},
    {"forgotten": False},
    CUT,
    steps=120,
    check="unmoved",
    faulty_layers=("parity",),
)
add(
    "dropout_of_1",
    C,
    "a keep-probability of 1 was given to nn.Dropout: nothing passes",
    dropped,
    {"p": 1.0},
    {"p": 0.1},
    ("zero_gradient_structural", "cut_graph"),
    steps=120,
    check="unmoved",
    faulty_layers=("0", "2"),
    accept=("vanishing", "dead_relu"),
)
add(
    "row_picked_by_argmax",
    C,
    "a row is picked by argmax in place of a softmax: the scores never learn",
    lambda seed, hard: fit(seed, Pointer(hard=hard), optim.Adam, 3e-3),
    {"hard": True},
    {"hard": False},
    CUT,
    steps=120,
    check="unmoved",
    faulty_layers=("score",),
)
add(
    "bits_by_comparison_from_50",
    C,
    "from step 50 on a layer's bits are made by comparing with zero, which has no gradient",
    binarised,
    {"at": 50},
    {"at": None},
    CUT,
    steps=130,
    onset=50,
    check="unmoved",
    faulty_layers=("encoder",),
)

# ------------------------------------------------------------------------------------------------------ input scale
I, RAW = "input_scale", ("unscaled_inputs",)  # noqa: E741 - as the labels' other letters


def by_variance(seed: int, *, variance: bool) -> Run:
    """Features over their variance in place of their deviation."""

    def change(x: Tensor, y: Tensor) -> Batch:
        return (x - x.mean(0)) / (x.var(0) if variance else x.std(0)), y

    model = models.Stack([30, 48, 48, 2], "gelu")
    return fit(seed, model, optim.SGD, 0.03, momentum=0.9, stream=table("breast_cancer", 32, seed, change))


def numbered(seed: int, size: float) -> Run:
    """A table whose first column is the patient's number."""
    x, y = data.table("diabetes")
    number = torch.rand(len(x), 1, generator=data.rng(5, 42)) * size
    model = models.Stack([11, 32, 32, 1], "relu")
    stream = data.batches(torch.cat([number, x], 1), y, 32, seed)
    return fit(seed, model, optim.Adam, 3e-3, loss=squared_error, stream=stream)


def rows_of_pixels(seed: int, unit: float) -> Run:
    """A GRU reads rows of an image."""
    model = models_seq.Fused("gru", 8, 24, 10)
    stream = ((x * unit, y) for x, y in Shots.rows(32, seed))
    return fit(seed, model, optim.SGD, 0.3, momentum=0.9, stream=stream)


def raw_diabetes(seed: int, *, raw: bool) -> Run:
    """Least squares with a small net on a table."""
    x, y = data.table("diabetes", standardise=not raw)
    model = models.Stack([10, 32, 1], "leaky")
    return fit(seed, model, optim.SGD, 0.01, momentum=0.9, loss=squared_error, stream=data.batches(x, y, 32, seed))


add(
    "divided_by_the_variance",
    I,
    "features are divided by their variances, not by their deviations",
    by_variance,
    {"variance": True},
    {"variance": False},
    RAW,
    steps=120,
    accept=BLOWS,
    faulty_layers=("linears.0",),
)
add(
    "patient_number_left_in",
    I,
    "the patient's number, up to 900000, is among the features",
    numbered,
    {"size": 9e5},
    {"size": 1.0},
    RAW,
    steps=150,
    accept=BLOWS,
    faulty_layers=("linears.0",),
)
add(
    "gru_rows_of_bytes",
    I,
    "a GRU reads rows of pixels of 0..255",
    rows_of_pixels,
    {"unit": 255.0},
    {"unit": 1.0},
    (*RAW, "saturating_activations"),
    steps=150,
    accept=("saturation", "vanishing", "exploding"),
    faulty_layers=("rnn",),
)
add(
    "diabetes_raw_sgd",
    I,
    "raw features up to 300 under SGD with momentum",
    raw_diabetes,
    {"raw": True},
    {"raw": False},
    RAW,
    steps=150,
    accept=BLOWS,
    faulty_layers=("linears.0",),
)

# ----------------------------------------------------------------------------------------------------- data outlier
O, ONCE = "data_outlier", ("one_bad_batch",)  # noqa: E741 - as the labels' other letters


def weighted(seed: int, at: int | None) -> Run:
    """Each sample has a weight; at one step one of them is the inverse of almost zero."""
    x, y = data.digits()

    def rare(batch: Batch) -> Batch:
        weight = torch.ones(len(batch[1]))
        weight[0] = 1e5
        return (*batch[:2], weight)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        weight = batch[2] if len(batch) > 2 else 1.0
        return (functional.cross_entropy(model(batch[0]), batch[1], reduction="none") * weight).mean()

    stream = data.batches(x, y, 32, seed)
    stream = stream if at is None else data.altered(stream, rare, at)
    return fit(seed, models.Stack([64, 48, 48, 10], "silu"), optim.SGD, 0.1, momentum=0.9, loss=loss, stream=stream)


def missing(seed: int, at: int | None) -> Run:
    """A GRU forecasts a series; one window has the code for a missing value."""

    def code(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[3, 5:9] = -9999.0
        target = batch[1].clone()
        target[3] = -9999.0
        return x, target

    stream: Iterator[Batch] = ((x.transpose(1, 2), y) for x, y in nets.series(32, seed, 16))
    stream = stream if at is None else data.altered(stream, code, at)
    return fit(seed, models_seq.Fused("gru", 1, 24, 1), optim.Adam, 5e-3, loss=squared_error, stream=stream)


def comma(seed: int, at: int | None) -> Run:
    """A decimal comma is lost in one target."""
    x, y = data.table("diabetes")

    def lost(batch: Batch) -> Batch:
        target = batch[1].clone()
        target[7] = (target[7].abs() + 1) * 1000
        return batch[0], target

    stream = data.batches(x, y, 32, seed)
    stream = stream if at is None else data.altered(stream, lost, at)
    model = models.Stack([10, 48, 48, 1], "gelu", norm="layer")
    return fit(seed, model, optim.AdamW, 2e-3, loss=squared_error, stream=stream)


def deep_image(seed: int, at: int | None) -> Run:
    """An autoencoder of images; one file has 16 bits."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[0])

    def bits(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[5] *= 257.0
        return x, batch[1]

    stream = data.batches(*data.digits(), 32, seed)
    stream = stream if at is None else data.altered(stream, bits, at)
    return fit(seed, models.AutoEncoder(2, "relu"), optim.Adam, 3e-3, loss=loss, stream=stream)


add(
    "sample_weight_1e5_once",
    O,
    "one sample of batch 60 has a weight of 1e5",
    weighted,
    {"at": 60},
    {"at": None},
    ONCE,
    steps=110,
    onset=60,
    check="spike",
    accept=BLOWS,
)
add(
    "series_missing_minus_9999",
    O,
    "one series of batch 70 holds -9999, the code for a missing value",
    missing,
    {"at": 70},
    {"at": None},
    ONCE,
    steps=120,
    onset=70,
    check="spike",
    accept=("exploding", "saturation"),
)
add(
    "decimal_comma_lost_once",
    O,
    "one target of batch 85 lost its decimal comma",
    comma,
    {"at": 85},
    {"at": None},
    ONCE,
    steps=130,
    onset=85,
    check="spike",
    accept=("exploding",),
)
add(
    "one_image_of_16_bits",
    O,
    "one image of batch 50 has 16 bits, the others eight",
    deep_image,
    {"at": 50},
    {"at": None},
    ONCE,
    steps=110,
    onset=50,
    check="spike",
    accept=("exploding",),
)

for scenario in blind_second_healthy.SCENARIOS:
    SCENARIOS.put(scenario)
