"""The blind corpus, faulty part: other nets, tasks, optimizers and mistakes than the ones the rules were made with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import blind_nets as nets
from zoo import data, models
from zoo.blind_nets import before_stepping, fit, following
from zoo.core import Batch, Registry, Run
from zoo.recipes import at_step, cross_entropy, upto

optim = torch.optim
schedulers = torch.optim.lr_scheduler


Blind = Registry  # the name by which other parts of the blind corpus know it

SCENARIOS = Blind()
add = SCENARIOS.pair

# -------------------------------------------------------------------------------------------------------- exploding
DIVERGES = ("lr_too_high", "nonfinite", "dead_relu")
E = "exploding"
LARGE = ("large_weights", "no_normalisation")


def ode(seed: int, step: float) -> Run:
    """A neural ODE of 16 Euler steps."""
    return fit(seed, nets.Field(16, step), optim.SGD, 0.02, momentum=0.9, nesterov=True)


def dense(seed: int, std: float | None) -> Run:
    """A dense net under ASGD."""
    return fit(seed, nets.Dense(8, 12, std), optim.ASGD, 0.05)


def hyper(seed: int, scale: float, how: str = "used") -> Run:
    """A hypernetwork."""
    return fit(seed, nets.Hyper(scale, how), optim.SGD, 0.05, momentum=0.9)


def flow(seed: int, std: float, *, bound: bool) -> Run:
    """RealNVP on two moons."""
    return fit(
        seed,
        nets.Flow(bound=bound, std=std),
        optim.SGD,
        2e-2,
        momentum=0.9,
        loss=nets.flow_loss,
        stream=nets.moons(128, seed),
    )


def causal(seed: int, gain: float | None) -> Run:
    """A weight-normalised temporal convolutional net forecasts a series."""
    model = nets.Causal(6, 16, gain)
    return fit(seed, model, optim.SGD, 0.01, momentum=0.9, loss=nets.next_value, stream=nets.series(32, seed))


def ema_runs_away(seed: int, keep: float, at: int) -> Run:
    """Each step the weights are blended with a moving average, by the formula with a wrong sign: it extrapolates."""
    model = nets.Excited(2, 10)
    run = fit(seed, model, optim.SGD, 0.05, momentum=0.9, size=32)
    slow = [p.detach().clone() for p in model.parameters()]

    def blend(step: int) -> None:
        with torch.no_grad():
            for p, s in zip(model.parameters(), slow, strict=True):
                s.lerp_(p, 0.05)
                if step >= at:
                    p.add_(p - s, alpha=keep)

    run.before_step = blend
    return run


add(
    "ode_euler_step_of_1",
    E,
    "a neural ODE is integrated with steps of 1 in place of 1/16",
    ode,
    {"step": 1.0},
    {"step": 1 / 16},
    (*LARGE, "long_recurrence"),
    steps=100,
    accept=DIVERGES,
)
add(
    "dense_concat_std_1",
    E,
    "a dense net whose weights have deviation 1 whatever their fan-in",
    dense,
    {"std": 1.0},
    {"std": None},
    LARGE,
    steps=120,
    accept=DIVERGES,
)
add(
    "hypernet_weights_loud",
    E,
    "a hypernetwork initialised for its own fan-in makes weights six times too large",
    hyper,
    {"scale": 1.5},
    {"scale": 0.25},
    LARGE,
    steps=120,
    accept=DIVERGES,
)
add(
    "flow_scales_unbounded",
    E,
    "a normalising flow's log-scales are unbounded, conditioners of deviation 1",
    flow,
    {"std": 1.0, "bound": False},
    {"std": 0.0, "bound": True},
    (*LARGE, "domain_operation"),
    steps=120,
    accept=DIVERGES,
)
add(
    "tcn_weight_norm_g_5",
    E,
    "weight normalisation whose lengths start at 5 in a residual temporal net",
    causal,
    {"gain": 5.0},
    {"gain": None},
    LARGE,
    steps=120,
    accept=DIVERGES,
)
add(
    "average_extrapolates_from_50",
    E,
    "a moving average is blended in with the wrong sign from step 50 on",
    ema_runs_away,
    {"keep": 0.6, "at": 50},
    {"keep": 0.0, "at": 50},
    ("growing_weights", "large_weights"),
    steps=130,
    onset=50,
    accept=DIVERGES,
)

# -------------------------------------------------------------------------------------------------------- vanishing
V = "vanishing"
SHRINKS = ("small_weights", "no_shortcuts", "no_normalisation")


def highway(seed: int, bias: float) -> Run:
    """A highway net of 15 layers."""
    return fit(seed, nets.Highway(15, bias), optim.SGD, 0.1, momentum=0.9)


def siren(seed: int, omega: float) -> Run:
    """A SIREN learns a picture under Adam."""
    return fit(seed, nets.Sine(omega, 6, 40, 1), optim.Adam, 3e-4, loss=nets.value_error, stream=nets.picture(seed))


class Forger(nn.Module):
    """A generator against a fixed critic that is sure of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = models.Stack([8, 48, 48, 64], "leaky")
        self.critic = models.Stack([64, 48, 1], "leaky")


def forger(seed: int, *, saturating: bool) -> Run:
    """The critic is trained first, then the generator alone."""
    model = Forger()
    stream = data.batches(*data.digits(), 64, seed)
    teach = torch.optim.Adam(model.critic.parameters(), 5e-3)
    for _ in range(120):
        real = model.critic(next(stream)[0])
        fake = model.critic(model.generator(torch.randn(64, 8)).detach() + 0.2 * torch.randn(64, 64))
        teach.zero_grad()
        (functional.softplus(-real) + functional.softplus(fake)).mean().backward()
        teach.step()
    model.critic.requires_grad_(False)
    with torch.no_grad():
        model.critic.linears[-1].weight.mul_(2.0)
        model.critic.linears[-1].bias.mul_(2.0)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        verdict = model.critic(model.generator(torch.randn(len(batch[0]), 8)))
        return torch.log(1 - verdict.sigmoid() + 1e-9).mean() if saturating else functional.softplus(-verdict).mean()

    return fit(seed, model, optim.SGD, 0.0005, momentum=0.9, loss=loss, stream=stream)


def mixer(seed: int, depth: int, *, skips: bool) -> Run:
    """An MLP-Mixer."""
    return fit(seed, nets.Mixer(depth, 20, skips=skips, norms=False), optim.SGD, 0.05, momentum=0.9, size=32)


def bounded(seed: int, *, spectral: bool) -> Run:
    """16 tanh layers."""
    return fit(seed, nets.Bounded(16, spectral=spectral), optim.SGD, 0.03, momentum=0.9)


class Tagger(nn.Module):
    """Hand-written recurrences in both directions; ``keep`` is the bias of their update gates."""

    def __init__(self, keep: float, hidden: int = 20) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(4 + hidden, hidden) for _ in range(2))
        self.news = nn.ModuleList(nn.Linear(4, hidden) for _ in range(2))
        self.head = nn.Linear(2 * hidden, 4)
        for gate in self.gates:
            nn.init.constant_(gate.bias, keep)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, from both last states."""
        states = []
        for gate, new, film in zip(self.gates, self.news, (x, x.flip(1)), strict=True):
            h = x.new_zeros(len(x), self.news[0].out_features)
            for frame, fresh in zip(film.unbind(1), new(film).tanh().unbind(1), strict=True):
                z = gate(torch.cat([frame, h], 1)).sigmoid()
                h = z * h + (1 - z) * fresh
            states.append(h)
        return self.head(torch.cat(states, 1))


def tagger(seed: int, keep: float) -> Run:
    """The class was shown in the middle of 20 frames: far from both ends."""
    return fit(seed, Tagger(keep), optim.NAdam, 5e-3, stream=data.echo(32, 20, seed, lag=10))


add(
    "highway_gates_never_carry",
    V,
    "15 highway layers whose transform gates start open: a bias of +4 for -3",
    highway,
    {"bias": 4.0},
    {"bias": -3.0},
    ("no_shortcuts", "small_weights", "saturating_activations"),
    steps=110,
    faulty_layers=("inlet", *upto("change", 9), *upto("gate", 9)),
)
add(
    "siren_frequency_missing",
    V,
    "a SIREN's weights are made for a frequency of 30, its sines have 1",
    siren,
    {"omega": 1.0},
    {"omega": 30.0},
    SHRINKS,
    steps=150,
    accept=("stalled",),
    faulty_layers=upto("layers", 5),
)
add(
    "gan_generator_log_one_minus",
    V,
    "a generator minimises log(1 - D) against a critic that is sure",
    forger,
    {"saturating": True},
    {"saturating": False},
    ("unsuited_loss", "saturating_activations", "domain_operation"),
    steps=150,
    accept=("saturation", "stalled"),
    faulty_layers=("generator",),
    check="own",
)
add(
    "mixer_without_skips",
    V,
    "a Mixer of eight blocks whose shortcuts were forgotten",
    mixer,
    {"depth": 8, "skips": False},
    {"depth": 8, "skips": True},
    SHRINKS,
    steps=80,
    faulty_layers=("patches", *upto("tokens", 5), *upto("channels", 5)),
)
add(
    "spectral_norm_everywhere",
    V,
    "spectral normalisation on each of 16 tanh layers",
    bounded,
    {"spectral": True},
    {"spectral": False},
    (*SHRINKS, "saturating_activations"),
    steps=120,
    faulty_layers=upto("layers", 9),
)
add(
    "tagger_forgets_both_ways",
    V,
    "two hand-written recurrences whose update gates overwrite: 10 frames fade",
    tagger,
    {"keep": -4.0},
    {"keep": 3.0},
    ("long_recurrence", "saturating_activations", "small_weights"),
    steps=120,
    faulty_layers=("gates", "news"),
)

# -------------------------------------------------------------------------------------------------------- nonfinite
N, BAD, OP = "nonfinite", "first_bad", ("domain_operation",)


def mixture(seed: int, *, naive: bool) -> Run:
    """A mixture density network of targets in their own unit."""
    x, y = data.table("diabetes")
    model = models.Stack([10, 32, 9], "tanh")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        share, mean, scale = model(batch[0]).chunk(3, 1)
        scale = functional.softplus(scale) + 0.3
        log = share.log_softmax(1) - scale.log() - 0.5 * ((batch[1][:, None] - 5 * mean) / scale).square()
        return -log.exp().sum(1).log().mean() if naive else -log.logsumexp(1).mean()

    return fit(seed, model, optim.RAdam, 1e-2, loss=loss, stream=data.batches(x, 10 * y, 32, seed))


def radial(seed: int, centre: int | None) -> Run:
    """A differential equation in the disc."""
    stream = nets.disc(48, seed, centre)
    return fit(seed, nets.Harmonic(radial=True), optim.Adam, 5e-3, loss=nets.poisson_equation, stream=stream)


def transcripts(seed: int, *, forgiving: bool) -> Run:
    """Speech-like frames; at step 50 one transcript is longer than its recording."""

    def lengthen(batch: Batch) -> Batch:
        y = torch.zeros(len(batch[0]), 20, dtype=torch.long)
        y[:, :2] = batch[1]
        y[3] = batch[1][3].repeat(10)
        return batch[0], y

    stream = data.altered(nets.spoken(16, seed), lengthen, 50)
    return fit(seed, nets.Listener(8, 11), optim.Adam, 1e-2, loss=nets.ctc(forgiving=forgiving), stream=stream)


class Cosines(nn.Module):
    """Cosines to one direction per class, times 120."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = models.Stack([64, 64, 32], "elu"), nn.Linear(32, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return 120 * functional.normalize(self.body(x)) @ functional.normalize(self.classes.weight).T


def focal(seed: int, gamma: float) -> Run:
    """Focal loss."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        log = model(batch[0]).log_softmax(1)[torch.arange(len(batch[1])), batch[1]]
        return -((1 - log.exp()).pow(gamma) * log).mean()

    return fit(seed, Cosines(), optim.Adamax, 5e-3, loss=loss)


class Gains(nn.Module):
    """One factor per pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        """The weighted pixels."""
        return x * self.weight


class Logs(nn.Module):
    """Logarithms of weighted pixels, zero for blank ones, by ``torch.where``."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.first, self.body, self.head = Gains(), nn.Linear(64, 48), nn.Linear(48, 10)
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.first(x)
        inner = torch.where(h > 0, h, torch.ones_like(h)) if self.safe else h
        return self.head(functional.gelu(self.body(torch.where(h > 0, inner.log(), torch.zeros_like(h)))))


def half_graph(seed: int, how: str) -> Run:
    """Five graph convolutions in half precision."""
    model = models.reset(nets.Graph(how, 5, 24), "he").half()
    run = fit(seed, model, optim.SGD, 0.1, stream=nets.whole_graph())
    run.batches = ((x.half(), y) for x, y in run.batches)
    return run


def averaged_divides(seed: int, *, bug: bool) -> Run:
    """Weight averaging by hand, loaded back at step 60, divided by a count that was never increased."""
    model = nets.Mixer(2, 16)
    run = fit(seed, model, optim.Adam, 3e-3, size=32)
    total = [torch.zeros_like(p) for p in model.parameters()]
    count = torch.zeros(())

    def average(step: int) -> None:
        with torch.no_grad():
            if 40 <= step < 60:
                for t, p in zip(total, model.parameters(), strict=True):
                    t.add_(p)
                count.add_(0.0 if bug else 1.0)
            if step == 60:
                for t, p in zip(total, model.parameters(), strict=True):
                    p.copy_(t / count)

    run.before_step = average
    return run


add(
    "mixture_underflows",
    N,
    "a mixture density network sums densities before the logarithm: log(0)",
    mixture,
    {"naive": True},
    {"naive": False},
    OP,
    steps=120,
    onset=BAD,
    check=N,
)
add(
    "radius_at_the_centre",
    N,
    "second derivatives of a norm at the exact centre, a collocation point from step 45",
    radial,
    {"centre": 45},
    {"centre": None},
    OP,
    steps=90,
    onset=45,
    check=N,
)
add(
    "ctc_transcript_too_long",
    N,
    "at step 50 one transcript is longer than its recording: CTC is infinite",
    transcripts,
    {"forgiving": False},
    {"forgiving": True},
    (*OP, "one_bad_batch", "unsuited_loss"),
    steps=90,
    onset=50,
    check=N,
    accept=("data_outlier",),
)
add(
    "focal_gamma_half",
    N,
    "focal loss with an exponent below one: its slope is infinite where the net is sure",
    focal,
    {"gamma": 0.5},
    {"gamma": 2.0},
    OP,
    steps=150,
    onset=BAD,
    check=N,
)
add(
    "where_hides_log_of_zero",
    N,
    "torch.where around log(0): the forward pass is fine, the gradient 0 * inf",
    lambda seed, safe: fit(seed, Logs(safe=safe), optim.NAdam, 2e-3),
    {"safe": False},
    {"safe": True},
    OP,
    steps=80,
    onset=0,
    check=N,
    faulty_layers=("first",),
)
add(
    "half_graph_sums",
    N,
    "sums over neighbours in half precision pass 65504 after five layers",
    half_graph,
    {"how": "sum"},
    {"how": "mean"},
    ("half_precision_overflow", *LARGE),
    steps=60,
    onset=BAD,
    check=N,
    accept=("exploding", "lr_too_high"),
)
add(
    "average_divided_by_no_count",
    N,
    "weights are replaced by an average over a count of zero at step 60",
    averaged_divides,
    {"bug": True},
    {"bug": False},
    ("nonfinite_weight", *OP),
    steps=100,
    onset=60,
    check=N,
)

# -------------------------------------------------------------------------------------------------------- dead ReLU
D, BIAS = "dead_relu", ("dead_by_bias",)


def prior(seed: int, hidden: float) -> Run:
    """Segmentation whose hidden convolutions may have got the last layer's prior bias."""
    model = nets.Segmenter(8, -1.0, hidden, norm=False)
    return fit(seed, model, optim.NAdam, 3e-3, loss=nets.ink_entropy, size=32)


def two_rates(seed: int, factor: float) -> Run:
    """Functional ReLU; for three steps the body's parameter group has a rate in the wrong unit."""
    model = models.reset(models.Stack([64, 48, 48, 48, 10], functional=True), "he")
    run = fit(seed, model, optim.RMSprop, 1e-3)
    body = [p for layer in model.linears[:3] for p in layer.parameters()]
    run.optimizer = optim.RMSprop([{"params": body}, {"params": model.linears[3].parameters()}], lr=1e-3)

    def rate(step: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 1e-3 * (factor if step < 3 else 1.0)

    run.before_step = rate
    return run


def shifted(seed: int, at: int, bias: float) -> Run:
    """A temporal net one of whose biases a callback overwrites."""
    model = nets.Causal(4, 16, normed=False)
    run = fit(seed, model, optim.Adam, 3e-3, loss=nets.next_value, stream=nets.series(32, seed))
    return at_step(run, at, lambda: nn.init.constant_(model.convs[1].bias, bias) if bias else None)


class Monotone(nn.Module):
    """Weights are softplus of parameters, so never negative; two ReLU layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(30, 24), nn.Linear(24, 24), nn.Linear(24, 2)
        for layer in (self.first, self.second):
            layer.weight.data.abs_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


def monotone(seed: int, shift: float) -> Run:
    """Positive weights; the features were shifted to be negative, as by subtracting the largest and not the mean."""
    x, y = data.table("breast_cancer")
    model = Monotone()
    run = fit(seed, model, optim.Adam, 2e-3, stream=data.batches(x - shift, y, 32, seed))

    def positive(step: int) -> None:
        for layer in (model.first, model.second):
            layer.weight.data.clamp_min_(0.0)

    run.before_step = positive
    return run


add(
    "prior_bias_on_hidden_convs",
    D,
    "a detector's prior bias, -9.2, was set on its hidden convolutions too",
    prior,
    {"hidden": -9.2},
    {"hidden": 0.0},
    BIAS,
    check="dead",
    steps=100,
    faulty_layers=("enter", "down"),
)
add(
    "squeeze_dead",
    D,
    "the squeeze of one squeeze-and-excite block starts at bias -12; its gate is then constant",
    lambda seed, squeeze: fit(seed, nets.Excited(3, 12, squeeze), optim.RAdam, 1e-2, size=32),
    {"squeeze": -12.0},
    {"squeeze": 0.0},
    BIAS,
    check="dead",
    steps=100,
    faulty_layers=("squeeze.1",),
)
add(
    "body_group_dies_early",
    D,
    "the body's parameter group has a rate 100 times too high for three steps",
    two_rates,
    {"factor": 100.0},
    {"factor": 1.0},
    ("dead_by_learning_rate", "lr_too_high", "lr_jumped"),
    accept=("lr_too_high", "exploding"),
    steps=120,
    faulty_layers=upto("linears", 4),
)
add(
    "callback_shuts_tcn_at_60",
    D,
    "a callback overwrites one convolution's biases with -40 at step 60, functional ReLU",
    shifted,
    {"at": 60, "bias": -40.0},
    {"at": 60, "bias": 0.0},
    BIAS,
    check="dead",
    onset=60,
    steps=120,
    faulty_layers=("convs.1",),
)
add(
    "monotone_net_of_negatives",
    D,
    "weights are kept positive and all features are negative",
    monotone,
    {"shift": 15.0},
    {"shift": 0.0},
    (*BIAS, "unscaled_inputs"),
    check="dead",
    steps=150,
    accept=("input_scale",),
    faulty_layers=("first", "second"),
)

# ------------------------------------------------------------------------------------------------------- saturation
S, FLAT = "saturation", ("saturating_activations", "large_weights")


def policy(seed: int, gain: float) -> Run:
    """The exact policy gradient: minus the probability of the right action."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    with torch.no_grad():
        model[2].weight.mul_(gain)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return -model(batch[0]).softmax(1)[torch.arange(len(batch[1])), batch[1]].mean()

    return fit(seed, model, optim.SGD, 0.3, momentum=0.9, loss=loss)


def film(seed: int, std: float | None) -> Run:
    """A convolutional LSTM tells directions."""
    return fit(seed, nets.Film(8, std), optim.Adam, 1e-2, stream=nets.dots(24, seed))


def ink(seed: int, bias: float) -> Run:
    """Segmentation by overlap."""
    return fit(seed, nets.Segmenter(8, bias), optim.SGD, 0.5, momentum=0.9, loss=nets.dice, size=32)


def translator(seed: int, sharp: float | None) -> Run:
    """Reversing symbols by attention."""
    model = nets.Translator(sharp=sharp)
    if sharp is not None:
        with torch.no_grad():
            model.place.mul_(10.0)
    return fit(seed, model, optim.Adam, 5e-3, loss=nets.translate, stream=nets.reversal(48, seed))


class Steered(nn.Module):
    """An actor with a tanh at the end."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.body, self.steer = nn.Sequential(nn.Linear(10, 32), nn.Mish()), nn.Linear(32, 1)
        with torch.no_grad():
            self.steer.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """The action, -1..1."""
        return torch.tanh(self.steer(self.body(x)))[:, 0]


def steered(seed: int, gain: float) -> Run:
    """A deterministic policy gradient through a known critic: the best action is half the target's tanh."""
    x, y = data.table("diabetes")
    stream = data.batches(x, 0.5 * torch.tanh(y), 32, seed)
    return fit(seed, Steered(gain), optim.SGD, 0.05, momentum=0.9, loss=nets.next_value, stream=stream)


add(
    "policy_sure_from_start",
    S,
    "a policy whose last layer is 500 times too large never explores",
    policy,
    {"gain": 500.0},
    {"gain": 1.0},
    (*FLAT, "unsuited_loss"),
    accept=("vanishing", "stalled", "exploding"),
    steps=200,
    faulty_layers=("2",),
)
add(
    "conv_lstm_gates_loud",
    S,
    "a hand-written convolutional LSTM whose weights have deviation 12",
    film,
    {"std": 12.0},
    {"std": None},
    FLAT,
    accept=("vanishing", "exploding"),
    steps=150,
    faulty_layers=("gates",),
)
add(
    "dice_prior_minus_30",
    S,
    "an overlap loss on sigmoids that start at bias -30",
    ink,
    {"bias": -30.0},
    {"bias": 0.0},
    ("unsuited_loss", *FLAT),
    accept=("vanishing", "stalled"),
    steps=120,
    faulty_layers=("last",),
)
add(
    "translator_logits_unscaled",
    S,
    "attention logits are not divided by the root of the width but multiplied by it",
    translator,
    {"sharp": 32.0**1.5},
    {"sharp": None},
    ("unscaled_logits", *FLAT),
    accept=("vanishing", "exploding"),
    steps=200,
    faulty_layers=("query", "key"),
)
add(
    "actor_tanh_pinned",
    S,
    "a deterministic actor whose last layer is 300 times too large sits at its bounds",
    steered,
    {"gain": 300.0},
    {"gain": 1.0},
    FLAT,
    accept=("vanishing", "exploding", "stalled"),
    steps=200,
    faulty_layers=("steer",),
)

# ------------------------------------------------------------------------------------------------------ lr too high
H, HIGH, BLOWS = "lr_too_high", ("lr_too_high",), ("exploding", "nonfinite", "dead_relu")


def one_cycle(seed: int, peak: float) -> Run:
    """A ConvNeXt under torch's one-cycle schedule."""
    run = fit(seed, nets.ConvNext(2, 16, 0.1), optim.AdamW, 0.01, size=32)
    return following(run, schedulers.OneCycleLR(run.optimizer, peak, total_steps=130))


def whole_graph(seed: int, lr: float) -> Run:
    """Graph convolutions on the whole graph under NAdam."""
    return fit(seed, nets.Graph("mean", 3), optim.NAdam, lr, stream=nets.whole_graph())


def equation(seed: int, lr: float) -> Run:
    """A physics-informed net under Adam."""
    stream = nets.disc(48, seed)
    return fit(seed, nets.Harmonic(radial=False), optim.Adam, lr, loss=nets.poisson_equation, stream=stream)


def head_group(seed: int, lr: float) -> Run:
    """The experts' common head has a rate of its own."""
    model = nets.Switch(weighted=True)
    run = fit(seed, model, optim.SGD, 0.1)
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    run.optimizer = optim.SGD([{"params": rest}, {"params": model.head.parameters(), "lr": lr}], lr=0.1, momentum=0.9)
    return run


def meta(seed: int, rate: float) -> Run:
    """MAML with two inner steps."""
    return fit(seed, nets.Learner(rate), optim.Adam, 5e-3, loss=nets.maml, stream=nets.sines(4, seed))


def parts_not_averaged(seed: int, factor: float) -> Run:
    """Six micro-batches a step whose losses are summed; the rate was multiplied for the larger batch as well."""
    run = fit(seed, nets.Excited(2, 10), optim.SGD, 0.1 * factor, momentum=0.9, size=12)
    run.accum = 6
    run.loss_fn = lambda model, batch: factor * cross_entropy(model, batch)
    return run


def lookahead(seed: int, lr: float, pull: float) -> Run:
    """Lookahead by hand around RMSprop: every five steps the weights go part of the way from the slow ones."""
    model = models.Stack([64, 48, 48, 10], "softsign")
    run = fit(seed, model, optim.RMSprop, lr)
    slow = [p.detach().clone() for p in model.parameters()]

    def look(step: int) -> None:
        if step and step % 5 == 0:
            with torch.no_grad():
                for p, s in zip(model.parameters(), slow, strict=True):
                    p.copy_(s.lerp_(p, pull))

    run.before_step = look
    return run


add(
    "one_cycle_peak_of_3",
    H,
    "a one-cycle schedule of AdamW whose peak is 3 in place of 0.02",
    one_cycle,
    {"peak": 3.0},
    {"peak": 0.02},
    (*HIGH, "lr_jumped"),
    steps=120,
    accept=BLOWS,
)
add(
    "nadam_3_graph",
    H,
    "NAdam with a rate of 3 on a graph",
    whole_graph,
    {"lr": 3.0},
    {"lr": 1e-2},
    HIGH,
    steps=120,
    accept=BLOWS,
)
add(
    "equation_adam_1",
    H,
    "a physics-informed net under Adam with a rate of 1",
    equation,
    {"lr": 1.0},
    {"lr": 5e-3},
    HIGH,
    steps=120,
    accept=(*BLOWS, "saturation", "vanishing"),
)
add(
    "head_group_at_100",
    H,
    "the head's parameter group has a rate 1000 times too high",
    head_group,
    {"lr": 100.0},
    {"lr": 0.1},
    HIGH,
    steps=120,
    accept=BLOWS,
    faulty_layers=("head",),
)
add(
    "maml_inner_rate_5",
    H,
    "MAML's inner rate is 5",
    meta,
    {"rate": 5.0},
    {"rate": 0.05},
    (*HIGH, "large_weights"),
    steps=100,
    accept=(*BLOWS, "saturation"),
)
add(
    "micro_batches_summed",
    H,
    "losses of six micro-batches are summed and the rate is multiplied by six, twice",
    parts_not_averaged,
    {"factor": 12.0},
    {"factor": 1.0},
    HIGH,
    steps=60,
    accept=BLOWS,
)
add(
    "lookahead_rmsprop_1",
    H,
    "lookahead around RMSprop with a rate of 1",
    lookahead,
    {"lr": 1.0, "pull": 0.5},
    {"lr": 2e-3, "pull": 0.5},
    HIGH,
    steps=120,
    accept=(*BLOWS, "saturation"),
)

# ---------------------------------------------------------------------------------------------------------- stalled
L, LOW = "stalled", ("lr_too_low",)


def adadelta(seed: int, lr: float) -> Run:
    """Set-like clouds under Adadelta."""
    return fit(seed, nets.Points(act=nn.PReLU), optim.Adadelta, lr, stream=nets.clouds(32, seed))


def decaying(seed: int, gamma: float) -> Run:
    """An exponential schedule, advanced at every step."""
    run = fit(seed, nets.Dense(4, 16), optim.SGD, 0.01, momentum=0.9)
    return following(run, schedulers.ExponentialLR(run.optimizer, gamma))


def plateau(seed: int, mode: str) -> Run:
    """A rate that is reduced when the loss does not fall, or, by mistake, when it does not rise."""
    model = models.Stack([30, 32, 32, 2], "silu")
    run = fit(seed, model, optim.SGD, 2e-2, stream=data.batches(*data.table("breast_cancer"), 32, seed))
    with torch.no_grad():
        model.linears[-1].weight.mul_(8.0)
    scheduler = schedulers.ReduceLROnPlateau(run.optimizer, mode, patience=1 if mode == "max" else 40, eps=0.0)
    seen: list[float] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        out = cross_entropy(model, batch)
        seen.append(float(out.detach()))
        return out

    run.loss_fn = loss
    run.before_step = lambda step: scheduler.step(seen[-1]) if step else None
    return run


def hand_scaled(seed: int, times: int) -> Run:
    """Loss scaling by hand; the gradients are divided by the scale once, or twice by mistake."""
    model = nets.Mixer(2, 20)
    run = fit(seed, model, optim.SGD, 0.1, momentum=0.9, size=32)
    run.loss_fn = lambda model, batch: 1024.0 * cross_entropy(model, batch)

    def unscale() -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.div_(1024.0**times)

    return before_stepping(run, unscale)


def average_back(seed: int, *, back: bool) -> Run:
    """A moving average of the weights for evaluation, which is never swapped out again."""
    model = nets.ConvNext(2, 16, 1.0)
    run = fit(seed, model, optim.AdamW, 3e-3, size=32)
    slow = [p.detach().clone() for p in model.parameters()]

    def swap(step: int) -> None:
        with torch.no_grad():
            for p, s in zip(model.parameters(), slow, strict=True):
                s.lerp_(p, 5e-5)
                if back:
                    p.copy_(s)

    run.before_step = swap
    return run


def clipped_values(seed: int, limit: float) -> Run:
    """Clipping by value under SGD."""
    model = nets.Listener(8, 11)
    run = fit(seed, model, optim.SGD, 0.5, momentum=0.9, loss=nets.ctc(forgiving=True), stream=nets.spoken(16, seed))
    return before_stepping(run, lambda: nn.utils.clip_grad_value_(model.parameters(), limit))


add(
    "adadelta_1e-4",
    L,
    "Adadelta, which wants a rate of 1, with one of 1e-4",
    adadelta,
    {"lr": 1e-4},
    {"lr": 1.0},
    LOW,
    steps=150,
)
add(
    "exponential_decay_per_step",
    L,
    "a decay of 0.6 an epoch is applied at every step",
    decaying,
    {"gamma": 0.6},
    {"gamma": 0.995},
    ("schedule_at_zero", *LOW),
    steps=150,
    onset=12,
)
add(
    "plateau_mode_max",
    L,
    "a plateau schedule watches the loss for a maximum and cuts the rate as it falls",
    plateau,
    {"mode": "max"},
    {"mode": "min"},
    ("schedule_at_zero", *LOW),
    steps=150,
    onset=6,
)
add(
    "unscaled_twice",
    L,
    "gradients are divided by the loss scale twice",
    hand_scaled,
    {"times": 2},
    {"times": 1},
    (*LOW, "loss_scale"),
    steps=100,
    accept=("vanishing",),
)
add(
    "average_never_swapped_out",
    L,
    "a moving average of 0.99995 is loaded into the net at every step",
    average_back,
    {"back": True},
    {"back": False},
    LOW,
    steps=100,
)
add(
    "clip_value_1e-7",
    L,
    "gradients are clipped by value at 1e-7",
    clipped_values,
    {"limit": 1e-7},
    {"limit": 0.5},
    ("clipping_too_small",),
    steps=120,
    accept=("vanishing",),
)

# ----------------------------------------------------------------------------------------------------- disconnected
C, CUT = "disconnected", ("cut_graph",)


def coded(seed: int, *, through: bool) -> Run:
    """A vector-quantised autoencoder."""
    return fit(seed, nets.Coded(through=through), optim.Adam, 3e-3, loss=nets.coded_loss)


def switch(seed: int, *, weighted: bool) -> Run:
    """Experts with top-1 routing."""
    return fit(seed, nets.Switch(weighted=weighted), optim.Adamax, 5e-3)


class Values(nn.Module):
    """A value net and its slow copy."""

    def __init__(self) -> None:
        super().__init__()
        self.online = models.Stack([64, 48, 3], "elu")
        self.target = copy.deepcopy(self.online)


def values(seed: int, *, wrong: bool) -> Run:
    """Values of actions; the optimizer may have been given the copy."""
    model = Values()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        action = torch.randint(0, 3, (len(batch[0]),))
        with torch.no_grad():
            goal = 3.0 * (batch[1] % 3 == action) + 0.5 * model.target(batch[0].roll(1, 0)).amax(1)
        return functional.smooth_l1_loss(model.online(batch[0])[torch.arange(len(action)), action], goal)

    run = fit(seed, model, optim.Adam, 2e-3, loss=loss)
    run.optimizer = optim.Adam((model.target if wrong else model.online).parameters(), 2e-3)
    return run


def player(seed: int, *, cut: bool) -> Run:
    """Actor and critic; the actor's probabilities may be computed without a graph."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, value = model(batch[0])
        log = (logits.detach() if cut else logits).log_softmax(1)
        action = torch.multinomial(log.detach().exp(), 1)[:, 0]
        reward = 2.0 * (action == batch[1]).float()
        taken = log[torch.arange(len(action)), action]
        return (value - 2.0).square().mean() - ((reward - value.detach()) * taken).mean() * 0.1

    return fit(seed, nets.Player(), optim.RAdam, 3e-3, loss=loss)


class Distilled(nn.Module):
    """A student of hidden features with a projection, and a fixed teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = models.Stack([64, 48, 32], "tanh").requires_grad_(False)
        self.student, self.head = models.Stack([64, 24, 16], "silu"), nn.Linear(16, 10)
        self.project = nn.Linear(16, 32)


def distilled(seed: int, *, at: int) -> Run:
    """Classes and features of a teacher; from some step on the features' loss is taken of a copy without a graph."""
    calls = [0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        calls[0] += 1
        h = model.student(batch[0])
        gap = model.project(h) - model.teacher(batch[0])
        match = gap.square().mean()
        match = match if calls[0] <= at else torch.tensor(match.item())
        return functional.cross_entropy(model.head(h), batch[1]) + match

    return fit(seed, Distilled(), optim.AdamW, 3e-3, loss=loss)


add(
    "codes_without_straight_through",
    C,
    "a vector-quantised autoencoder without the straight-through path",
    coded,
    {"through": False},
    {"through": True},
    (*CUT, "zero_gradient_structural"),
    check="unmoved",
    steps=120,
    faulty_layers=("encoder",),
)
add(
    "router_by_argmax",
    C,
    "top-1 routing by argmax alone: the router never learns",
    switch,
    {"weighted": False},
    {"weighted": True},
    (*CUT, "zero_gradient_structural"),
    check="unmoved",
    steps=120,
    faulty_layers=("router",),
)
add(
    "optimizer_owns_target_net",
    C,
    "the optimizer was given the target network's parameters",
    values,
    {"wrong": True},
    {"wrong": False},
    ("no_optimizer",),
    check="unmoved",
    steps=120,
    accept=("stalled",),
    faulty_layers=("online", "target"),
)
add(
    "hypernet_made_parameters",
    C,
    "generated weights are wrapped into nn.Parameter: the hypernetwork is cut off",
    hyper,
    {"scale": 0.25, "how": "new"},
    {"scale": 0.25},
    CUT,
    check="unmoved",
    steps=120,
    faulty_layers=("maker",),
)
add(
    "actor_detached",
    C,
    "an actor's probabilities are detached, the critic learns",
    player,
    {"cut": True},
    {"cut": False},
    CUT,
    check="unmoved",
    steps=120,
    faulty_layers=("actor",),
)
add(
    "distillation_by_item",
    C,
    "from step 50 on a distillation loss is re-wrapped from its .item()",
    distilled,
    {"at": 50},
    {"at": data.FOREVER},
    CUT,
    check="unmoved",
    steps=120,
    onset=50,
    faulty_layers=("project",),
)

# ------------------------------------------------------------------------------------------------------ input scale
I, UNITS = "input_scale", ("unscaled_inputs",)  # noqa: E741
EXPLODES = ("exploding", "lr_too_high", "nonfinite", "dead_relu")


def margins(seed: int, factor: float) -> Run:
    """Wines told apart by a multi-class hinge loss; one feature more is the time of measurement."""
    x, y = data.table("wine")
    when = factor * (1 + 0.01 * torch.rand(len(x), 1, generator=data.rng(seed, 31)))
    model = models.Stack([14, 32, 32, 3], "gelu")
    stream = data.batches(torch.cat([x, when], 1), y, 32, seed)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.multi_margin_loss(model(batch[0]), batch[1])

    return fit(seed, model, optim.SGD, 0.03, momentum=0.9, nesterov=True, loss=loss, stream=stream)


def millimetres(seed: int, factor: float) -> Run:
    """Clouds of points in another unit."""
    stream: Iterator[Batch] = map(data.times(factor), nets.clouds(32, seed))
    return fit(seed, nets.Points(), optim.SGD, 0.05, momentum=0.9, stream=stream)


def photographs(seed: int, factor: float) -> Run:
    """A Segmenter-like net of images standardised with statistics for 0..1."""
    x, y = data.digits()
    stream = data.batches((x * factor - 0.3) / 0.37, y, 32, seed)
    return fit(seed, nets.Excited(3, 12), optim.SGD, 0.03, momentum=0.9, stream=stream)


def faint(seed: int, factor: float) -> Run:
    """Films of a sensor, in volts and not in microvolts, before a convolutional LSTM."""
    return fit(seed, nets.Film(), optim.Adam, 1e-2, stream=map(data.times(factor), nets.dots(24, seed)))


add(
    "unix_time_feature",
    I,
    "one feature is a time in seconds since 1970",
    margins,
    {"factor": 1.7e9},
    {"factor": 1.0},
    UNITS,
    steps=150,
    accept=EXPLODES,
    faulty_layers=("linears.0",),
)
add(
    "clouds_in_millimetres",
    I,
    "clouds of points in millimetres, not in metres",
    millimetres,
    {"factor": 1000.0},
    {"factor": 1.0},
    UNITS,
    steps=150,
    accept=EXPLODES,
    faulty_layers=("phi.0",),
)
add(
    "bytes_standardised_as_0_1",
    I,
    "bytes are standardised with the mean and deviation of 0..1",
    photographs,
    {"factor": 255.0},
    {"factor": 1.0},
    UNITS,
    steps=100,
    accept=EXPLODES,
    faulty_layers=("stem",),
)
add(
    "films_in_volts",
    I,
    "films of some microvolts are given in volts",
    faint,
    {"factor": 1e-6},
    {"factor": 1.0},
    UNITS,
    steps=110,
    accept=("vanishing", "stalled"),
    faulty_layers=("gates",),
)

# ----------------------------------------------------------------------------------------------------- data outlier
O, ONCE = "data_outlier", ("one_bad_batch",)  # noqa: E741
ODD = ("exploding", "lr_too_high", "input_scale", "nonfinite")


def once(run: Run, at: int | None, change: Callable[[Tensor, Tensor], object]) -> Run:
    """The run with one batch's copies of inputs and targets changed in place."""

    def apply(batch: Batch) -> Batch:
        x, y = batch[0].clone(), batch[1].clone()
        change(x, y)
        return x, y

    if at is not None:
        run.batches = data.altered(run.batches, apply, at)
    return run


def triplets(seed: int, at: int | None) -> Run:
    """Triplets of digits; one batch holds raw 16-bit pixels."""
    model = models.Stack([64, 48, 16], "silu")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        z = model(batch[0])
        gaps = (z[:, None] - z[None]).square().sum(2)
        same = batch[1][:, None] == batch[1][None]
        valid = same[:, :, None] & ~same[:, None]
        return functional.relu(gaps[:, :, None] - gaps[:, None] + 1.0)[valid].mean()

    run = fit(seed, model, optim.SGD, 0.02, momentum=0.9, loss=loss, size=32)
    return once(run, at, lambda x, y: x.mul_(65535.0))


def counts(seed: int, at: int | None) -> Run:
    """Poisson regression of counts; a missing count is coded as 999999."""
    x, y = data.table("diabetes")
    model = models.Stack([10, 32, 1], "tanh")
    stream = data.batches(x, (y.clamp_min(-1.5) * 2 + 4).round(), 32, seed)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.poisson_nll_loss(model(batch[0])[:, 0], batch[1])

    def code(x: Tensor, y: Tensor) -> None:
        y[7] = 999999.0

    return once(fit(seed, model, optim.Adam, 5e-3, loss=loss, stream=stream), at, code)


def forecast(seed: int, at: int | None) -> Run:
    """A temporal net; one sensor reading is a full-scale glitch."""
    model = nets.Causal(4, 16)
    run = fit(seed, model, optim.Adam, 3e-3, loss=nets.next_value, stream=nets.series(32, seed))

    def glitch(x: Tensor, y: Tensor) -> None:
        x[4, 0, -6:] = 3.4e6

    return once(run, at, glitch)


def rewards(seed: int, at: int | None) -> Run:
    """A critic of rewards; once a reward is a million, as from a counter that overflowed."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, value = model(batch[0])
        right = logits.log_softmax(1)[torch.arange(len(value)), batch[1].long() % 10]
        return (value - batch[1] / 5).square().mean() - 0.2 * right.mean()

    x, y = data.digits()
    run = fit(seed, nets.Player(), optim.RMSprop, 1e-3, loss=loss, stream=data.batches(x, y.float(), 32, seed))

    def overflow(x: Tensor, y: Tensor) -> None:
        y[11] = 1e6

    return once(run, at, overflow)


def edges(seed: int, at: int | None) -> Run:
    """A graph whose edge weights are once in another unit."""
    model = nets.Graph("mean", 3)
    run = fit(seed, model, optim.RAdam, 1e-2, stream=nets.whole_graph())

    def load(step: int) -> None:
        model.edges = 1e3 if step == at else 1.0

    run.before_step = load
    return run


add(
    "triplets_raw_batch",
    O,
    "one batch of triplets has 16-bit pixels at step 70",
    triplets,
    {"at": 70},
    {"at": None},
    ONCE,
    check="spike",
    steps=120,
    onset=70,
    accept=ODD,
)
add(
    "count_999999",
    O,
    "a missing count is coded 999999 in one row of batch 55",
    counts,
    {"at": 55},
    {"at": None},
    ONCE,
    check="spike",
    steps=110,
    onset=55,
    accept=ODD,
)
add(
    "sensor_glitch",
    O,
    "six frames of one series are a sensor's glitch at step 80",
    forecast,
    {"at": 80},
    {"at": None},
    ONCE,
    check="spike",
    steps=130,
    onset=80,
    accept=ODD,
)
add(
    "reward_overflows_once",
    O,
    "one reward of batch 60 is a million",
    rewards,
    {"at": 60},
    {"at": None},
    ONCE,
    check="spike",
    steps=110,
    onset=60,
    accept=ODD,
)
add(
    "edge_weights_x1000_once",
    O,
    "edge weights of one step are 1000 times too large at step 65",
    edges,
    {"at": 65},
    {"at": None},
    (*ONCE, "large_weights"),
    check="spike",
    steps=110,
    onset=65,
    accept=ODD,
)


# --------------------------------------------------------------------------------- milder mistakes, of several kinds


def made(seed: int, lr: float) -> Run:
    """A masked autoregressive model of binarised digits."""
    model = nets.autoregressive()
    return fit(seed, model, optim.Adam, lr, loss=nets.next_pixels)


def translating(seed: int, lr: float) -> Run:
    """Reversing symbols, clipped."""
    run = fit(seed, nets.Translator(), optim.Adam, lr, loss=nets.translate, stream=nets.reversal(32, seed))
    run.clip = 1.0
    return run


def node_features(seed: int, factor: float) -> Run:
    """Graph convolutions on features in a small unit."""
    model = nets.Graph("mean", 2)
    return fit(seed, model, optim.SGD, 0.5, momentum=0.9, stream=nets.whole_graph(factor))


add("made_adam_2e-6", L, "Adam with a rate 1500 times too low", made, {"lr": 2e-6}, {"lr": 3e-3}, LOW, steps=120)
add("made_adam_3e-5", L, "Adam with a rate 100 times too low", made, {"lr": 3e-5}, {"lr": 3e-3}, LOW, steps=120)
add(
    "translator_adam_0.5",
    H,
    "Adam with a rate 100 times too high, clipped",
    translating,
    {"lr": 0.5},
    {"lr": 5e-3},
    HIGH,
    steps=150,
    accept=(*BLOWS, "saturation"),
)
add(
    "node_features_in_cents",
    I,
    "features of a graph's nodes are 100 times too large",
    node_features,
    {"factor": 100.0},
    {"factor": 1.0},
    UNITS,
    steps=120,
    accept=EXPLODES,
    faulty_layers=("layers.0",),
)
