"""The third blind corpus, healthy part: runs that look odd and learn well; nets and streams of all three parts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Batch, LossFn, Registry, Run, Turn
from zoo.recipes import VOCAB, cross_entropy, pretrained, rebuild, scheduled, squared_error

optim = torch.optim
SCENARIOS = Registry()
add = SCENARIOS.healthy

# ---------------------------------------------------------------------------------------------------------- streams


def go(
    seed: int,
    model: nn.Module,
    kind: Any,
    lr: float,
    *,
    loss: LossFn = cross_entropy,
    stream: Iterator[Batch] | None = None,
    size: int = 32,
    clip: float | None = None,
    accum: int = 1,
    weights: Iterable[Any] | None = None,
    **options: Any,
) -> Run:
    """A run under one optimizer; on digits if no stream is given, over all parameters if no ``weights`` are."""
    stream = data.batches(*data.digits(), size, seed) if stream is None else stream
    chosen = model.parameters() if weights is None else weights
    return Run(model, kind(chosen, lr=lr, **options), stream, loss, clip, accum)


def shown(name: str, size: int, seed: int, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[Batch]:
    """A table, standardised; or raw and changed."""
    x, y = data.table(name, standardise=change is None)
    return data.batches(x if change is None else change(x), y, size, seed)


def moons(size: int, seed: int, noise: float = 0.15) -> Iterator[Batch]:
    """Two interleaved half circles."""
    generator = data.rng(seed, 61)
    while True:
        y = torch.randint(0, 2, (size,), generator=generator)
        angle = math.pi * torch.rand(size, generator=generator)
        sign = 1.0 - 2.0 * y
        x = torch.stack([sign * angle.cos() + y - 0.5, sign * (angle.sin() - 0.25)], 1)
        yield x + noise * torch.randn(size, 2, generator=generator), y


def friedman(size: int, seed: int, noise: float = 0.1) -> Iterator[Batch]:
    """Friedman's first function of ten uniform features of which five count; features and target standardised."""
    generator = data.rng(seed, 62)
    while True:
        x = torch.rand(size, 10, generator=generator)
        y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
        yield (x - 0.5) * 3.46, (y - 14.4) / 4.9 + noise * torch.randn(size, generator=generator)


def adding(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Numbers, two of them marked; the target is the sum of these two, centred."""
    generator = data.rng(seed, 63)
    half = length // 2
    while True:
        numbers = torch.rand(size, length, generator=generator)
        marks = torch.zeros(size, length)
        rows = torch.arange(size)
        marks[rows, torch.randint(0, half, (size,), generator=generator)] = 1.0
        marks[rows, torch.randint(half, length, (size,), generator=generator)] = 1.0
        yield torch.stack([numbers, marks], 2), (numbers * marks).sum(1) - 1.0


def lookup(size: int, seed: int, keys: int = 6, values: int = 6) -> Iterator[Batch]:
    """Pairs of key and value in any order, one token each, then a key; its value is asked for."""
    generator = data.rng(seed, 64)
    while True:
        order = torch.rand(size, keys, generator=generator).argsort(1)
        value = torch.randint(0, values, (size, keys), generator=generator)
        asked = torch.randint(0, keys, (size,), generator=generator)
        yield (
            torch.cat([order * values + value, keys * values + order.gather(1, asked[:, None])], 1),
            value.gather(1, asked[:, None])[:, 0],
        )


def motion(size: int, seed: int, length: int = 12) -> Iterator[Batch]:
    """A damped wave of one channel, and its next value."""
    generator = data.rng(seed, 65)
    time = torch.arange(length + 1.0)
    while True:
        pitch = 0.3 + 0.5 * torch.rand(size, 1, generator=generator)
        phase = 6.283 * torch.rand(size, 1, generator=generator)
        wave = (pitch * time + phase).sin() + 0.05 * torch.randn(size, length + 1, generator=generator)
        yield wave[:, :-1, None], wave[:, -1]


def families(seed: int, noise: float = 1.0, lies: float = 0.0) -> Iterator[Batch]:
    """Noisy features of the 60 nodes of the graph of ``Graph``, and their families, of which some are wrong."""
    generator = data.rng(seed, 66)
    y = torch.arange(60) % 3
    centre = torch.randn(3, 8, generator=data.rng(7, 67))
    while True:
        lie = (torch.rand(60, generator=generator) < lies).long() if lies else 0
        yield centre[y] + noise * torch.randn(60, 8, generator=generator), (y + lie) % 3


def rows_of(size: int, seed: int) -> Iterator[Batch]:
    """Digits as eight frames of eight pixels."""
    for x, y in data.batches(*data.digits(), size, seed):
        yield x.view(-1, 8, 8), y


# ------------------------------------------------------------------------------------------------------------- nets


def chain(
    *sizes: int, act: Callable[[], nn.Module] = nn.ReLU, norm: Callable[[int], nn.Module] | None = None
) -> nn.Sequential:
    """A plain net."""
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        parts += [nn.Linear(a, b), *([norm(b)] if norm else []), act()]
    return nn.Sequential(*parts, nn.Linear(*sizes[-2:]))


def drawn(model: nn.Module, fill: Callable[[Tensor], object], bias: float = 0.0) -> nn.Module:
    """The model with all its weight matrices drawn anew, and constant biases."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            fill(module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, bias)
    return model


def he(weight: Tensor) -> None:
    """For ReLU."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


class Graph(nn.Module):
    """Messages over a graph of three families; a node takes the mean of its neighbours', or their sum."""

    def __init__(self, layers: int = 3, width: int = 24, *, total: bool = False, shortcut: bool = False) -> None:
        super().__init__()
        y = torch.arange(60) % 3
        near = torch.rand(60, 60, generator=data.rng(7, 68)) < torch.where(y[:, None] == y, 0.7, 0.1)
        links = (near | near.T | torch.eye(60, dtype=torch.bool)).float()
        self.register_buffer("links", links if total else links / links.sum(1, keepdim=True))
        self.layers = nn.ModuleList(nn.Linear(8 if i == 0 else width, width) for i in range(layers))
        self.head = nn.Linear(width, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Logits of all nodes."""
        for i, layer in enumerate(self.layers):
            h = functional.relu(layer(self.links @ x))
            x = x + h if self.shortcut and i else h
        return self.head(x)


class Waves(nn.Module):
    """Dilated convolutions over a sound, each with a tanh times a sigmoid, as in WaveNet; or a ReLU each."""

    def __init__(self, layers: int = 4, width: int = 12, *, gated: bool = True, shortcut: bool = True) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(1, width, 1)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, (1 + gated) * width, 3, padding=2**i, dilation=2**i) for i in range(layers)
        )
        self.head = nn.Linear(width, 2)
        self.gated, self.shortcut = gated, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x[:, None])
        for conv in self.convs:
            h = conv(x)
            h = h.chunk(2, 1)[0].tanh() * h.chunk(2, 1)[1].sigmoid() if self.gated else functional.relu(h)
            x = x + h if self.shortcut else h
        return self.head(x.amax(2))


class Groups(nn.Module):
    """Residual blocks of GroupNorm, SiLU and a convolution; the branches may be weighted, or begin at zero."""

    def __init__(
        self, blocks: int = 3, width: int = 12, *, skip: float = 1.0, zero: bool = False, norm: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, stride=2)
        self.norms = nn.ModuleList(nn.GroupNorm(3, width) if norm else nn.Identity() for _ in range(blocks))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(blocks))
        self.share = nn.Parameter(torch.zeros(blocks)) if zero else None
        self.head = nn.Linear(width, 10)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x.view(-1, 1, 8, 8))
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = conv(functional.silu(norm(x)))
            x = self.skip * x + (h if self.share is None else self.share[i] * h)
        return self.head(functional.silu(x).mean((2, 3)))


class Finder(nn.Module):
    """One query looks up its value among tokens by attention; ``times`` multiplies the logits."""

    def __init__(self, tokens: int = 42, width: int = 24, values: int = 6, times: float | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(-1)
        self.head = nn.Linear(width, values)
        self.times = width**-0.5 if times is None else times

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the value."""
        h = self.embed(x)
        logits = self.times * (self.query(h[:, -1:]) @ self.key(h[:, :-1]).transpose(1, 2))
        return self.head((self.softmax(logits) @ self.value(h[:, :-1]))[:, 0])


class Couplings(nn.Module):
    """Affine couplings over two numbers; their log-scales may be bounded."""

    def __init__(self, layers: int = 6, width: int = 32, *, bounded: bool = True) -> None:
        super().__init__()
        self.nets = nn.ModuleList(chain(1, width, 2, act=nn.Tanh) for _ in range(layers))
        self.bounded = bounded

    def forward(self, x: Tensor) -> Tensor:
        """The negative log-likelihood."""
        a, b = x.chunk(2, 1)
        volume = x.new_zeros(len(x), 1)
        for net in self.nets:
            scale, shift = net(a).chunk(2, 1)
            scale = scale.tanh() if self.bounded else scale
            a, b = b * scale.exp() + shift, a
            volume = volume + scale
        return (0.5 * (a.square() + b.square()) - volume).mean() + 1.8379


class Heads(nn.Module):
    """A body with three heads: class, parity and the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 48), nn.GELU())
        self.kind, self.odd, self.image = nn.Linear(48, 10), nn.Linear(48, 1), nn.Linear(48, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Everything."""
        h = self.body(x)
        return self.kind(h), self.odd(h)[:, 0], self.image(h)


def three_losses(model: nn.Module, batch: Batch) -> Tensor:
    """A mixed loss for ``Heads``."""
    kind, odd, image = model(batch[0])
    second = functional.binary_cross_entropy_with_logits(odd, (batch[1] % 2).float())
    return functional.cross_entropy(kind, batch[1]) + 0.5 * second + 2.0 * functional.mse_loss(image, batch[0])


def speller(seed: int, model: nn.Module, kind: Any, lr: float, **rest: Any) -> Run:
    """A language model of characters."""
    return go(seed, model, kind, lr, stream=data.windows(12, 20, seed), **rest)


# -------------------------------------------------------------------------------------------------- rates, schedules


def post_norm_warm(seed: int) -> Run:
    """A post-norm transformer with a long warm-up."""
    run = speller(seed, models_seq.TorchTransformer(VOCAB, first=False), optim.Adam, 4e-3)
    return scheduled(run, lambda step: min(1.0, (step + 1) / 60))


def rated(seed: int, factor: Callable[[int], float], kind: Any = optim.SGD, lr: float = 0.1, **rest: Any) -> Run:
    """A small residual net of groups under a schedule."""
    return scheduled(go(seed, Groups(2), kind, lr, **rest), factor)


def triangle(step: int) -> float:
    """From a hundredth to one and back every 40 steps."""
    return 0.01 + 0.99 * (1 - abs(step % 40 - 20) / 20)


def one_cycle(step: int) -> float:
    """Up by 25 over 45 steps, down to next to nothing by 150."""
    if step < 45:
        return 0.04 + 0.96 * step / 45
    return max(1e-4, 0.5 * (1 + math.cos(math.pi * min(1.0, (step - 45) / 105))))


def restarts(step: int) -> float:
    """Cosine with warm restarts: 20, 40, 80 steps."""
    for start, length in ((0, 20), (20, 40), (60, 80), (140, 160)):
        if step < start + length:
            return 0.5 * (1 + math.cos(math.pi * (step - start) / length))
    return 1.0


def hot_norm(seed: int) -> Run:
    """Plain gradient descent at a rate of 1 on a net with BatchNorm and label smoothing."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)

    return go(seed, chain(64, 64, 64, 10, norm=nn.BatchNorm1d), optim.SGD, 1.0, loss=loss, size=64)


def heavy_ball(seed: int) -> Run:
    """A momentum of 0.99 and a rate to match."""
    return go(seed, chain(64, 48, 10, act=nn.Tanh), optim.SGD, 4e-3, momentum=0.99, size=64)


def full_batch(seed: int) -> Run:
    """Resilient propagation on the whole of a table."""
    return go(seed, chain(13, 16, 3, act=nn.Tanh), optim.Rprop, 0.01, stream=shown("wine", 178, seed))


def optimized(seed: int, kind: Any, lr: float, **rest: Any) -> Run:
    """Friedman's function under an optimizer."""
    return go(seed, chain(10, 48, 48, 1, act=nn.SiLU), kind, lr, loss=squared_error, stream=friedman(64, seed), **rest)


def ends_at_zero(seed: int) -> Run:
    """A rate that falls linearly to zero, and the run goes on a little."""
    return scheduled(optimized(seed, optim.AdamW, 5e-3), lambda step: max(0.0, 1 - step / 170))


def clipped_gru(seed: int) -> Run:
    """Plain gradient descent at a rate of 4, each gradient clipped to a norm of 0.25."""
    model = models_seq.Fused("gru", 16, 32, VOCAB, vocab=VOCAB, every=True)
    return speller(seed, model, optim.SGD, 4.0, clip=0.25)


def noisy_gradients(seed: int) -> Run:
    """Noise is added to the gradients, less and less."""
    run = go(seed, chain(64, 48, 48, 10), optim.SGD, 0.1, momentum=0.9)
    steps = count()

    def stir(*_: Any) -> None:
        deviation = 0.01 / (1 + next(steps)) ** 0.55
        for p in run.model.parameters():
            p.grad.add_(deviation * torch.randn_like(p))

    run.optimizer.register_step_pre_hook(stir)
    return run


def lookahead(seed: int) -> Run:
    """Every six steps the weights go half the way back to slow ones."""
    run = go(seed, chain(64, 48, 48, 10, act=nn.ELU), optim.Adam, 4e-3)
    slow = [p.detach().clone() for p in run.model.parameters()]

    def pull(step: int) -> None:
        if step and step % 6 == 0:
            with torch.no_grad():
                for old, p in zip(slow, run.model.parameters(), strict=True):
                    p.copy_(old.lerp_(p, 0.5))

    run.before_step = pull
    return run


def layer_rates(seed: int) -> Run:
    """A trained body at a hundredth of the new head's rate, no decay of biases."""
    body = pretrained(chain(64, 64, 48, 10), seed, 60)
    model = nn.Sequential(body[:-1], nn.Linear(48, 2))
    groups = [
        {"params": [p for p in body[:-1].parameters() if p.ndim > 1], "lr": 1e-4, "weight_decay": 0.1},
        {"params": [p for p in body[:-1].parameters() if p.ndim < 2], "lr": 1e-4, "weight_decay": 0.0},
        {"params": list(model[1].parameters()), "lr": 1e-2},
    ]
    stream = ((x, y % 2) for x, y in data.batches(*data.digits(), 32, seed))
    return go(seed, model, optim.AdamW, 1e-3, weights=groups, stream=stream)


add("ok_post_norm_slow_start", "sixty steps of warm-up in which little happens", post_norm_warm, 110)
for name, trap, steps, options in (
    ("ok_triangle_rates", "the rate moves by a hundred, up and down", 160,
     {"factor": triangle, "lr": 0.15, "momentum": 0.9}),
    ("ok_one_cycle", "the rate rises by 25 and ends at a ten-thousandth", 160,
     {"factor": one_cycle, "lr": 0.15, "momentum": 0.85}),
    ("ok_warm_restarts", "the rate jumps from zero to its top", 180,
     {"factor": restarts, "kind": optim.AdamW, "lr": 5e-3}),
    ("ok_rate_cut_by_100", "a hundredth of the rate from step 120 on", 170,
     {"factor": lambda step: 1.0 if step < 120 else 0.01, "kind": optim.Adam, "lr": 5e-3}),
    ("ok_rate_raised_late", "a rate raised by four once it is safe", 150,
     {"factor": lambda step: 0.25 if step < 60 else 1.0, "lr": 0.1, "momentum": 0.9}),
):  # fmt: skip
    add(name, trap, rated, steps, **options)
add("ok_batchnorm_rate_1", "a rate of one, which BatchNorm forgives", hot_norm, 150)
add("ok_momentum_0.99", "weights that swing before they settle", heavy_ball, 280)
add("ok_rprop_whole_table", "the same batch over and over", full_batch, 120)
for name, trap, options in (
    ("ok_adagrad_0.1", "rates that fall as gradients sum up", {"kind": optim.Adagrad, "lr": 0.1}),
    ("ok_rmsprop_momentum", "a momentum of squares and of gradients",
     {"kind": optim.RMSprop, "lr": 1e-3, "momentum": 0.9}),
    ("ok_decay_1", "AdamW pulls each weight back by its full rate",
     {"kind": optim.AdamW, "lr": 5e-3, "weight_decay": 1.0}),
):  # fmt: skip
    add(name, trap, optimized, 160, **options)
add("ok_rate_ends_at_zero", "no step at all in the end", ends_at_zero, 180)
add("ok_gru_clipped_0.25", "every gradient is clipped, the rate is 4", clipped_gru, 140)
add("ok_gradient_noise", "noise on top of each gradient", noisy_gradients, 140)
add("ok_lookahead", "the weights jump back every six steps", lookahead, 140)
add("ok_rates_by_layer", "a body that hardly moves beside a quick head", layer_rates, 120)

# ------------------------------------------------------------------------------------------------- frozen and adapted


class Leaky(nn.Module):
    """A trained body, not to be trained further, and a new head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = pretrained(chain(64, 64, 48, 10), seed, 60)[:-1].requires_grad_(False)
        self.head = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.body(x))


def probe(seed: int) -> Run:
    """Only a head is trained."""
    model = Leaky(seed)
    stream = ((x, y % 2) for x, y in data.batches(*data.digits(), 32, seed))
    return go(seed, model, optim.SGD, 0.02, weights=model.head.parameters(), momentum=0.9, stream=stream)


def thawed(seed: int) -> Run:
    """The body is thawed at step 60 and handed to the optimizer."""
    run = probe(seed)

    def thaw(step: int) -> None:
        if step == 60:
            run.optimizer.add_param_group({"params": list(run.model.body.requires_grad_().parameters()), "lr": 0.01})

    run.before_step = thaw
    return run


def adapters(seed: int) -> Run:
    """Low-rank adapters, whose second factor is zero, on each layer of a trained net; the images are inverted."""
    model = pretrained(models.Stack([64, 64, 64, 10], "gelu"), seed, 60).requires_grad_(False)
    model.linears = nn.ModuleList(models.Adapted(layer) for layer in model.linears)
    x, y = data.digits()
    learnt = [p for p in model.parameters() if p.requires_grad]
    return go(seed, model, optim.AdamW, 1e-2, weights=learnt, stream=data.batches(1 - x, y, 32, seed))


def frozen_embedding(seed: int) -> Run:
    """An embedding that is no longer trained after 40 steps."""
    model = models_seq.Fused("lstm", 16, 32, VOCAB, vocab=VOCAB, every=True)
    run = speller(seed, model, optim.Adam, 8e-3)
    run.before_step = lambda step: model.embed.requires_grad_(False) if step == 40 else None
    return run


def mean_teacher(seed: int) -> Run:
    """A slow copy of the net tells what to say about noisy images; only the quick one is trained."""

    class Couple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pupil = chain(64, 48, 48, 10)
            self.teacher = copy.deepcopy(self.pupil).requires_grad_(False)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        noisy = batch[0] + 0.2 * torch.randn_like(batch[0])
        logits = model.pupil(noisy)
        told = model.teacher(batch[0]).softmax(1)
        return functional.cross_entropy(logits[:8], batch[1][:8]) + (logits.softmax(1) - told).square().sum(1).mean()

    model = Couple()
    run = go(seed, model, optim.Adam, 3e-3, loss=loss, weights=model.pupil.parameters())

    def follow(step: int) -> None:
        with torch.no_grad():
            for slow, p in zip(model.teacher.parameters(), model.pupil.parameters(), strict=True):
                slow.lerp_(p, 0.1)

    run.before_step = follow
    return run


def bootstrap(seed: int) -> Run:
    """BYOL: a predictor on one view must tell the slow copy's embedding of the other, which is detached."""

    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online = chain(64, 64, 24, norm=nn.BatchNorm1d)
            self.predict = chain(24, 32, 24)
            self.target = copy.deepcopy(self.online).requires_grad_(False)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        a, b = (batch[0] + 0.1 * torch.randn_like(batch[0]) for _ in range(2))
        told = functional.normalize(model.target(b), dim=1).detach()
        return 2 - 2 * (functional.normalize(model.predict(model.online(a)), dim=1) * told).sum(1).mean()

    model = Views()
    weights = [*model.online.parameters(), *model.predict.parameters()]
    run = go(seed, model, optim.Adam, 2e-3, loss=loss, weights=weights, size=64)

    def follow(step: int) -> None:
        with torch.no_grad():
            for slow, p in zip(model.target.parameters(), model.online.parameters(), strict=True):
                slow.lerp_(p, 0.05)

    run.before_step = follow
    return run


def distilled(seed: int) -> Run:
    """A frozen teacher inside the model; a temperature of 4."""

    class School(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = pretrained(chain(64, 96, 10), seed, 100).requires_grad_(False)
            self.pupil = chain(64, 16, 10)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        told, said = model.teacher(batch[0]) / 4, model.pupil(batch[0]) / 4
        return 16 * functional.kl_div(said.log_softmax(1), told.softmax(1), reduction="batchmean")

    model = School()
    return go(seed, model, optim.Adam, 5e-3, loss=loss, weights=model.pupil.parameters())


def q_learning(seed: int) -> Run:
    """Values of a walk on ten places; the target net is a copy that is renewed every 20 steps."""

    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = chain(10, 32, 2)
            self.target = copy.deepcopy(self.net).requires_grad_(False)

    def walks() -> Iterator[Batch]:
        generator = data.rng(seed, 70)
        while True:
            place = torch.randint(0, 10, (64,), generator=generator)
            action = torch.randint(0, 2, (64,), generator=generator)
            then = (place + 2 * action - 1).clamp(0, 9)
            one_hot = functional.one_hot(torch.stack([place, then]), 10).float()
            yield one_hot[0], action, (then == 9).float(), one_hot[1]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        place, action, reward, then = batch
        worth = reward + 0.9 * (1 - reward) * model.target(then).amax(1)
        return functional.smooth_l1_loss(model.net(place).gather(1, action[:, None])[:, 0], worth)

    model = Values()
    run = go(seed, model, optim.Adam, 3e-3, loss=loss, stream=walks(), weights=model.net.parameters())
    run.before_step = lambda step: model.target.load_state_dict(model.net.state_dict()) if step % 20 == 0 else None
    return run


for name, trap, make, steps in (
    ("ok_probe_on_frozen_body", "most of the net is frozen", probe, 120),
    ("ok_thawed_at_60", "most of the net is frozen, and then it is not", thawed, 140),
    ("ok_adapters_at_zero", "half of the adapters have no gradient at first", adapters, 140),
    ("ok_embedding_frozen_at_40", "a layer that is frozen on purpose in the middle", frozen_embedding, 120),
    ("ok_mean_teacher", "a copy that no optimizer owns", mean_teacher, 140),
    ("ok_byol", "a detached target and a copy that moves by itself", bootstrap, 150),
    ("ok_distilled_kl", "a frozen teacher inside the model", distilled, 140),
):
    add(name, trap, make, steps)
add("ok_q_learning", "targets that jump every 20 steps, and a loss that begins low", q_learning, 200, "bounded")

# ---------------------------------------------------------------------------------------------------- odd data, noise


def label_noise(seed: int) -> Run:
    """Four labels of ten are random."""
    generator = data.rng(seed, 71)

    def noisy() -> Iterator[Batch]:
        for x, y in data.batches(*data.digits(), 32, seed):
            lie = torch.rand(len(y), generator=generator) < 0.4
            yield x, torch.where(lie, torch.randint(0, 10, y.shape, generator=generator), y)

    return go(seed, chain(64, 48, 10), optim.SGD, 0.1, momentum=0.9, stream=noisy())


def single(seed: int) -> Run:
    """One sample a step."""
    return go(seed, chain(13, 24, 3, act=nn.Tanh), optim.SGD, 0.02, stream=shown("wine", 1, seed))


def thin(seed: int) -> Run:
    """Dropout of 0.8 in a wide net."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.8), nn.Linear(256, 10))
    return go(seed, model, optim.Adam, 3e-3)


def heavy_tails(seed: int) -> Run:
    """Features and noise of Student's distribution with two degrees of freedom; a Huber loss."""

    def tailed() -> Iterator[Batch]:
        generator = data.rng(seed, 72)
        slope = torch.randn(12, generator=data.rng(5, 73))
        while True:
            z = torch.randn(64, 15, generator=generator)
            chi = torch.randn(2, 64, 15, generator=generator).square().mean(0).sqrt().clamp(min=0.05)
            x = z / chi
            yield x[:, :12], x[:, :12] @ slope + x[:, 12]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.huber_loss(model(batch[0])[:, 0], batch[1])

    return go(seed, chain(12, 32, 1), optim.Adam, 5e-3, loss=loss, stream=tailed())


def sixteen(seed: int) -> Run:
    """Pixels of 0..16 and BatchNorm."""
    stream = ((16 * x, y) for x, y in data.batches(*data.digits(), 32, seed))
    return go(seed, chain(64, 64, 64, 10, norm=nn.BatchNorm1d), optim.SGD, 0.05, momentum=0.9, stream=stream)


def raw_wine(seed: int) -> Run:
    """Raw features up to 1680; the first module is a BatchNorm."""
    model = nn.Sequential(nn.BatchNorm1d(13), *chain(13, 24, 24, 3))
    return go(seed, model, optim.Adam, 3e-3, stream=shown("wine", 32, seed, lambda x: x))


def uncentred(seed: int) -> Run:
    """Targets around 50, and the head's bias begins there."""
    model = chain(10, 48, 1)
    nn.init.constant_(model[-1].bias, 50.0)
    stream = ((x, y + 50) for x, y in friedman(32, seed))
    return go(seed, model, optim.Adam, 5e-3, loss=squared_error, stream=stream)


def curriculum(seed: int) -> Run:
    """Noise on the images grows from none to much, in three stages: the loss rises at each."""
    generator = data.rng(seed, 74)
    noisy = (
        (x + (0.0, 0.25, 0.5)[min(2, i // 50)] * torch.randn(x.shape, generator=generator), y)
        for i, (x, y) in enumerate(data.batches(*data.digits(), 32, seed))
    )
    return go(seed, chain(64, 64, 64, 10, act=nn.GELU), optim.Adam, 3e-3, stream=noisy)


def rare(seed: int) -> Run:
    """One sample of 30 is positive; focal loss, the head's prior begins at 1 of 30."""

    def pairs() -> Iterator[Batch]:
        x, y = data.digits()
        odd = (y == 7).nonzero()[:, 0]
        other = (y != 7).nonzero()[:, 0]
        generator = data.rng(seed, 75)
        while True:
            rows = torch.cat([odd[torch.randint(0, len(odd), (3,), generator=generator)],
                              other[torch.randint(0, len(other), (93,), generator=generator)]])  # fmt: skip
            yield x[rows], (y[rows] == 7).float()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logit = model(batch[0])[:, 0]
        entropy = functional.binary_cross_entropy_with_logits(logit, batch[1], reduction="none")
        return ((1 - (-entropy).exp()) ** 2 * entropy).mean()

    model = chain(64, 48, 1)
    nn.init.constant_(model[-1].bias, -3.4)
    return go(seed, model, optim.Adam, 3e-3, loss=loss, stream=pairs())


def cut_mix(seed: int) -> Run:
    """Images and labels are mixed; the loss never gets low."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        share = torch.rand(())
        logits = model(share * x + (1 - share) * x.flip(0))
        return share * functional.cross_entropy(logits, y) + (1 - share) * functional.cross_entropy(logits, y.flip(0))

    return go(seed, chain(64, 96, 10), optim.Adam, 4e-3, loss=loss)


def long_after(seed: int, kind: str) -> Run:
    """Linear models that have long converged: separable classes, an exact line, or hinges without a gradient."""
    generator = data.rng(seed, 76)
    slope = torch.randn(6, generator=data.rng(5, 77))
    x = torch.randn(256, 6, generator=generator)
    side = x @ slope
    if kind == "line":
        return go(seed, nn.Linear(6, 1), optim.SGD, 0.1, loss=squared_error, stream=data.batches(x, side + 1, 32, seed))
    x = x + 0.3 * side.sign()[:, None] * slope
    y = (side > 0).long()

    def hinge(model: nn.Module, batch: Batch) -> Tensor:
        return functional.multi_margin_loss(model(batch[0]), batch[1])

    loss = hinge if kind == "hinge" else cross_entropy
    return go(seed, nn.Linear(6, 2), optim.SGD, 0.5, loss=loss, stream=data.batches(x, y, 32, seed))


for name, trap, make, steps, options in (
    ("ok_label_noise_40", "a loss that stays high", label_noise, 150, {}),
    ("ok_one_sample_a_step", "a loss that jumps between nothing and much", single, 280, {}),
    ("ok_dropout_0.8", "a fifth of a layer at a time", thin, 150, {}),
    ("ok_student_tails", "inputs and targets with tails, every batch", heavy_tails, 160, {}),
    ("ok_digits_0_16_batchnorm", "inputs up to 16, which BatchNorm undoes", sixteen, 120, {}),
    ("ok_raw_wine_batchnorm_first", "inputs up to 1680, which BatchNorm undoes", raw_wine, 120, {}),
    ("ok_targets_at_50", "targets far off, and a bias that begins there", uncentred, 150, {}),
    ("ok_noise_in_stages", "the loss rises twice as the task gets harder", curriculum, 150, {}),
    ("ok_focal_rare_class", "a tiny loss and a head that says no", rare, 150, {}),
    ("ok_mixup", "a loss that never gets low", cut_mix, 150, {}),
    ("ok_separable_for_long", "weights that grow and a loss that falls for ever", long_after, 290, {"kind": "classes"}),
    ("ok_exact_line_for_long", "a loss and gradients of nothing but rounding", long_after, 290, {"kind": "line"}),
    ("ok_hinges_at_rest", "no gradient at all in most of the later steps", long_after, 290, {"kind": "hinge"}),
):
    add(name, trap, make, steps, **options)

# --------------------------------------------------------------------------------------------------- inits and blocks


def deep(seed: int, depth: int, act: Callable[[], nn.Module], fill: Callable[[Tensor], object], lr: float) -> Run:
    """A deep plain net of the right init."""
    return go(seed, drawn(chain(64, *[40] * depth, 10, act=act), fill), optim.SGD, lr, momentum=0.9, size=64)


def lecun(weight: Tensor) -> None:
    """For SELU."""
    nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


def groups(seed: int, blocks: int = 3, *, zero: bool = False) -> Run:
    """Residual blocks whose branches begin at zero."""
    return go(seed, Groups(blocks, zero=zero), optim.Adam, 5e-3)


def last_zero(seed: int) -> Run:
    """The last layer begins at zero: at first nothing behind it has a gradient."""
    model = chain(64, 64, 64, 10, act=nn.GELU)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return go(seed, model, optim.SGD, 0.1, momentum=0.9)


def biased(seed: int) -> Run:
    """Convolutions with biases, which BatchNorm takes away again."""
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for i in range(3):
        parts += [nn.Conv2d(12 if i else 1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True)]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))
    return go(seed, model, optim.SGD, 0.05, momentum=0.9)


class Highway(nn.Module):
    """Gates that are shut at first."""

    def __init__(self, layers: int = 6, width: int = 32) -> None:
        super().__init__()
        self.inlet, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        for gate in self.gates:
            nn.init.constant_(gate.bias, -3.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            open_ = gate(x).sigmoid()
            x = open_ * functional.relu(layer(x)) + (1 - open_) * x
        return self.head(x)


def highway(seed: int) -> Run:
    """A highway net."""
    return go(seed, Highway(), optim.SGD, 0.1, momentum=0.9)


def waves(seed: int) -> Run:
    """Gated dilated convolutions over sounds."""
    return go(seed, Waves(4), optim.Adam, 5e-3, stream=data.waves(32, seed))


def finder(seed: int) -> Run:
    """Attention that gets sharp, as it should."""
    return go(seed, Finder(), optim.Adam, 2e-2, stream=lookup(64, seed))


def copier(seed: int) -> Run:
    """A transformer repeats symbols."""
    model = models_seq.OwnTransformer(8, 32, 2, length=12, causal=False)
    return go(seed, model, optim.AdamW, 3e-3, stream=data.copying(32, seed))


def overcomplete(seed: int) -> Run:
    """A wide ReLU layer with a bias of -0.4: many units answer seldom, some never."""
    model = chain(64, 256, 10)
    nn.init.constant_(model[0].bias, -0.4)
    return go(seed, model, optim.Adam, 3e-3)


def skipping(seed: int) -> Run:
    """Stochastic depth: each block is left out of every third step, and has no gradient then."""

    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inlet, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
            self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU()) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.inlet(x)
            for block in self.blocks:
                x = x + block(x) if torch.rand(()) > 0.35 else x
            return self.head(x)

    return go(seed, Sometimes(), optim.Adam, 3e-3)


def neural_ode(seed: int) -> Run:
    """One field, twelve Euler steps."""

    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.head = chain(6, 32, 6, act=nn.Tanh), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.pad(x, (0, 4))
            for _ in range(12):
                x = x + self.field(x) / 12
            return self.head(x)

    return go(seed, Flow(), optim.Adam, 1e-2, stream=moons(64, seed))


def graph(seed: int) -> Run:
    """Means over neighbours, shortcuts."""
    return go(seed, Graph(3, shortcut=True), optim.Adam, 5e-3, stream=families(seed, 1.0, 0.15))


def idle_experts(seed: int) -> Run:
    """Twelve experts of which each batch of sixteen leaves some alone."""
    return go(seed, models.Experts(12, 24), optim.Adam, 5e-3, size=16)


for name, trap, make, options in (
    ("ok_relu_14_he", "fourteen plain layers", deep, {"depth": 14, "act": nn.ReLU, "fill": he, "lr": 0.01}),
    ("ok_tanh_12_orthogonal", "twelve plain tanh layers", deep,
     {"depth": 12, "act": nn.Tanh, "fill": nn.init.orthogonal_, "lr": 0.02}),
    ("ok_selu_10", "ten layers that norm themselves", deep, {"depth": 10, "act": nn.SELU, "fill": lecun, "lr": 0.01}),
    ("ok_branches_at_zero", "all convolutions but the first without a gradient at step one", groups, {"zero": True}),
    ("ok_eight_group_blocks", "eight residual blocks", groups, {"blocks": 8}),
    ("ok_last_layer_zero", "no gradient in front of a head of zeros at step one", last_zero, {}),
    ("ok_bias_before_batchnorm", "biases whose gradient is rounding", biased, {}),
    ("ok_highway", "gates near zero", highway, {}),
    ("ok_wavenet_gates", "sigmoid and tanh at each layer", waves, {}),
    ("ok_sharp_attention", "softmax rows that become one-hot and are right", finder, {}),
    ("ok_copying", "half of the targets are a blank, soon a plateau", copier, {}),
    ("ok_seldom_units", "many ReLU units that seldom answer", overcomplete, {}),
    ("ok_stochastic_depth", "blocks without a gradient in many steps", skipping, {}),
    ("ok_neural_ode", "one layer twelve times", neural_ode, {}),
    ("ok_graph_means", "sixty nodes, one batch", graph, {}),
    ("ok_twelve_experts", "experts that nobody asks", idle_experts, {}),
):  # fmt: skip
    add(name, trap, make, 140, **options)

# ---------------------------------------------------------------------------------- sequences, likelihoods, machinery


def remembers(seed: int, kind: str, length: int, lag: int, forget: float | None = None) -> Run:
    """A gated net over many frames of which only a late one counts."""
    model = models_seq.Fused(kind, 4, 24, 4)
    model = model if forget is None else model.forget(forget)
    return go(seed, model, optim.Adam, 8e-3, stream=data.echo(32, length, seed, lag), clip=1.0)


def sums(seed: int) -> Run:
    """An LSTM adds two marked numbers: a plateau, then success."""
    model = models_seq.Fused("lstm", 2, 32, 1).forget(1.0)
    return go(seed, model, optim.Adam, 1e-2, loss=squared_error, stream=adding(64, 10, seed), clip=1.0)


def sparse_rows(seed: int) -> Run:
    """Sparse gradients of an embedding under SparseAdam, the rest under Adam, in turns."""
    model = nn.ModuleDict({"embed": nn.EmbeddingBag(500, 12, sparse=True), "head": nn.Linear(12, 2)})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model["head"](model["embed"](batch[0])), batch[1])

    def bags() -> Iterator[Batch]:
        generator = data.rng(seed, 78)
        while True:
            y = torch.randint(0, 2, (32,), generator=generator)
            yield torch.randint(0, 60, (32, 8), generator=generator) + 30 * y[:, None], y

    rows, head = optim.SparseAdam(model["embed"].parameters(), 2e-2), optim.Adam(model["head"].parameters(), 2e-2)
    return Run(model, rows, bags(), loss, turns=(Turn(rows, loss), Turn(head, loss)))


def vector_quantised(seed: int) -> Run:
    """A code book with a straight-through gradient; some codes are never used."""

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = chain(64, 48, 16), chain(16, 48, 64)
            self.book = nn.Embedding(32, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.encoder(x).view(-1, 2, 8)
            near = self.book(torch.cdist(h.detach().flatten(0, 1), self.book.weight).argmin(1)).view_as(h)
            extra = (near - h.detach()).square().mean() + 0.25 * (near.detach() - h).square().mean()
            return self.decoder((h + (near - h).detach()).flatten(1)), extra

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        image, extra = model(batch[0])
        return functional.mse_loss(image, batch[0]) + extra

    return go(seed, Quantised(), optim.Adam, 3e-3, loss=loss)


def likelihood(model: nn.Module, batch: Batch) -> Tensor:
    """For flows."""
    return model(batch[0])


def couplings(seed: int) -> Run:
    """A flow over two moons."""
    return go(seed, Couplings(4), optim.Adam, 5e-3, loss=likelihood, stream=moons(128, seed, 0.1))


def denoiser(seed: int) -> Run:
    """A diffusion model of digits: the loss at each step is that of random levels of noise."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        level = torch.rand(len(batch[0]), 1)
        noise = torch.randn_like(batch[0])
        signal = (0.5 * math.pi * level).cos()
        mixed = signal * (2 * batch[0] - 1) + (1 - signal.square()).clamp(min=0).sqrt() * noise
        return (model(torch.cat([mixed, level], 1)) - noise).square().mean()

    return go(seed, chain(65, 128, 128, 64, act=nn.SiLU), optim.AdamW, 3e-3, loss=loss, size=64)


def physics(seed: int) -> Run:
    """u'' = -u on 0..3 with u(0) = 0 and u'(0) = 1: gradients of gradients."""

    def points() -> Iterator[Batch]:
        generator = data.rng(seed, 79)
        while True:
            yield (3 * torch.rand(48, 1, generator=generator),)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        t = torch.cat([torch.zeros(1, 1), batch[0]]).requires_grad_()
        u = model(t)
        first = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), t, create_graph=True)[0]
        return (second + u).square().mean() + u[0, 0].square() + (first[0, 0] - 1).square()

    return go(seed, chain(1, 32, 32, 1, act=nn.Tanh), optim.Adam, 5e-3, loss=loss, stream=points())


def mixture(seed: int) -> Run:
    """A density of three normals with learnt deviations."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        share, mean, log = model(batch[0]).chunk(3, 1)
        log = log.clamp(-4, 4)
        fit = -0.5 * ((batch[1][:, None] - mean) / log.exp()).square() - log - 0.919
        return -(share.log_softmax(1) + fit).logsumexp(1).mean()

    return go(seed, chain(10, 48, 9, act=nn.Tanh), optim.Adam, 5e-3, loss=loss, stream=friedman(64, seed))


def connectionist(seed: int) -> Run:
    """CTC over frames of five symbols."""

    def spoken() -> Iterator[Batch]:
        generator = data.rng(seed, 80)
        while True:
            y = torch.randint(1, 6, (16, 3), generator=generator)
            frames = functional.one_hot(y.repeat_interleave(4, 1), 6).float()
            yield frames + 0.2 * torch.randn(frames.shape, generator=generator), y

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logs = model(batch[0]).log_softmax(2).transpose(0, 1)
        n = len(batch[0])
        return functional.ctc_loss(logs, batch[1], torch.full((n,), 12), torch.full((n,), 3), zero_infinity=True)

    model = models_seq.Fused("gru", 6, 24, 6, every=True)
    return go(seed, model, optim.Adam, 1e-2, loss=loss, stream=spoken())


def bandit(seed: int) -> Run:
    """Policy gradients with a learnt baseline: a loss that means little."""

    class Player(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = chain(64, 32, 10), chain(64, 32, 1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        chance = torch.distributions.Categorical(logits=model.actor(batch[0]))
        action = chance.sample()
        reward, worth = (action == batch[1]).float(), model.critic(batch[0])[:, 0]
        policy = -(chance.log_prob(action) * (reward - worth.detach())).mean()
        return policy + 0.5 * (reward - worth).square().mean() - 0.01 * chance.entropy().mean()

    return go(seed, Player(), optim.Adam, 5e-3, loss=loss, size=128)


def triplets(seed: int) -> Run:
    """Triplets with a margin: many batches end without any loss."""

    def threes() -> Iterator[Batch]:
        x, y = data.digits()
        places = [(y == k).nonzero()[:, 0] for k in range(10)]
        generator = data.rng(seed, 81)
        while True:
            kinds = torch.randperm(10, generator=generator)
            picks = [
                [int(torch.randint(0, len(places[int(k)]), (), generator=generator)) for k in kinds] for _ in range(2)
            ]
            a, b = (x[[int(places[int(k)][i]) for k, i in zip(kinds, row, strict=True)]] for row in picks)
            yield a, b, b.roll(1, 0)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.triplet_margin_loss(*(model(part) for part in batch), margin=0.5)

    return go(seed, chain(64, 64, 8), optim.Adam, 3e-3, loss=loss, stream=threes())


def adversarial(seed: int) -> Run:
    """Trained on images that were attacked."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x = batch[0].clone().requires_grad_()
        slope = torch.autograd.grad(functional.cross_entropy(model(x), batch[1]), x)[0]
        return functional.cross_entropy(model(batch[0] + 0.1 * slope.sign()), batch[1])

    return go(seed, chain(64, 64, 10), optim.Adam, 3e-3, loss=loss)


def half_trunk(seed: int) -> Run:
    """A trunk of bfloat16 between layers of float32."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inlet, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
            self.trunk = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()).bfloat16()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.trunk(functional.relu(self.inlet(x)).bfloat16()).float())

    return go(seed, Mixed(), optim.SGD, 0.1, momentum=0.9)


def gathered(seed: int) -> Run:
    """Eight batches of four a step, mixed losses."""
    return go(seed, Heads(), optim.AdamW, 3e-3, loss=three_losses, size=4, accum=8)


def tied(seed: int) -> Run:
    """A decoder that is the encoder's transpose."""

    class Mirror(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 40), nn.Linear(40, 12)
            self.bias = nn.Parameter(torch.zeros(64))

        def forward(self, x: Tensor) -> Tensor:
            code = self.second(functional.elu(self.first(x)))
            return functional.elu(code @ self.second.weight) @ self.first.weight + self.bias

    return go(seed, Mirror(), optim.Adam, 5e-3, loss=rebuild)


for name, trap, make, steps, options in (
    ("ok_gru_of_60_frames", "sixty frames of which most have no gradient to speak of", remembers, 110,
     {"kind": "gru", "length": 60, "lag": 5}),
    ("ok_lstm_forget_3", "gates that begin nearly open", remembers, 200,
     {"kind": "lstm", "length": 40, "lag": 12, "forget": 3.0}),
    ("ok_lstm_adds", "a plateau and then success", sums, 200, {}),
    ("ok_sparse_rows", "sparse gradients, rows that never occur", sparse_rows, 160, {}),
    ("ok_code_book", "a straight-through gradient, codes that nobody uses", vector_quantised, 150, {}),
    ("ok_flow_of_moons", "exponentials, a loss that may fall below zero", couplings, 150, {}),
    ("ok_denoiser", "a loss of random difficulty", denoiser, 150, {}),
    ("ok_physics", "second derivatives", physics, 200, {}),
    ("ok_mixture_density", "exponentials and logarithms in the loss", mixture, 150, {}),
    ("ok_ctc", "minus infinity inside the loss", connectionist, 120, {}),
    ("ok_triplets", "many batches without any loss", triplets, 150, {}),
    ("ok_attacked", "gradients of the input in between", adversarial, 120, {}),
    ("ok_bfloat16_trunk", "steps smaller than what bfloat16 resolves", half_trunk, 120, {}),
    ("ok_accumulated_multi_task", "eight backward passes, three losses", gathered, 60, {}),
    ("ok_tied_autoencoder", "each weight is used twice", tied, 150, {}),
):  # fmt: skip
    add(name, trap, make, steps, **options)
add("ok_bandit", "a loss that means little and changes sign", bandit, 200, "bounded")
