"""Models and data of the blind scenarios: kinds of nets and tasks that the rest of the corpus does not have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from zoo import data
from zoo.core import Batch, LossFn, Run
from zoo.recipes import cross_entropy


def fit(
    seed: int,
    model: nn.Module,
    kind: type[torch.optim.Optimizer],
    lr: float,
    *,
    loss: LossFn = cross_entropy,
    stream: Iterator[Batch] | None = None,
    size: int = 64,
    **options: Any,
) -> Run:
    """The model under a torch optimizer, on digits unless there is a stream; further options are the optimizer's."""
    stream = data.batches(*data.digits(), size, seed) if stream is None else stream
    return Run(model, kind([p for p in model.parameters() if p.requires_grad], lr=lr, **options), stream, loss)


def following(run: Run, scheduler: Any) -> Run:
    """The run with one of torch's schedulers advanced after each optimizer step."""
    run.before_step = lambda step: scheduler.step() if step else None
    return run


def before_stepping(run: Run, action: Callable[[], object]) -> Run:
    """The run with something done to the gradients right before each optimizer step."""
    run.optimizer.register_step_pre_hook(lambda *_: action())
    return run


# ------------------------------------------------------------------------------------------------------------- data


def moons(size: int, seed: int) -> Iterator[Batch]:
    """Points of two half-moons, standardised, and which moon."""
    generator = data.rng(seed, 21)
    while True:
        y = torch.randint(0, 2, (size,), generator=generator)
        angle = math.pi * torch.rand(size, generator=generator)
        side = 1.0 - 2.0 * y
        points = torch.stack([angle.cos() * side + 0.5 * y - 0.25, angle.sin() * side - 0.25 * (1 - 2 * y)], 1)
        yield points * 1.3 + 0.08 * torch.randn(size, 2, generator=generator), y


def clouds(size: int, seed: int, points: int = 20) -> Iterator[Batch]:
    """Sets of points in the plane: on a circle, on a square's edge or on a cross; and which."""
    generator = data.rng(seed, 22)
    while True:
        y = torch.randint(0, 3, (size, 1), generator=generator)
        t = 2 * torch.rand(size, points, generator=generator) - 1
        side = torch.randint(0, 4, (size, points), generator=generator)
        circle = torch.stack([(math.pi * t).cos(), (math.pi * t).sin()], 2)
        sign = (side // 2 * 2 - 1).float()
        flat = (side % 2 == 0)[..., None]
        square = 0.9 * torch.where(flat, torch.stack([t, sign], 2), torch.stack([sign, t], 2))
        zero = torch.zeros_like(t)
        cross = 1.2 * torch.where(flat, torch.stack([t, zero], 2), torch.stack([zero, t], 2))
        chosen = torch.stack([circle, square, cross])[y[:, 0], torch.arange(size)]
        yield chosen + 0.05 * torch.randn(size, points, 2, generator=generator), y[:, 0]


def dots(size: int, seed: int, frames: int = 5, width: int = 6) -> Iterator[Batch]:
    """Films of a dot that moves in one of four directions on a torus, and the direction."""
    generator = data.rng(seed, 23)
    moves = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
    while True:
        y = torch.randint(0, 4, (size,), generator=generator)
        start = torch.randint(0, width, (size, 2), generator=generator)
        film = 0.05 * torch.randn(size, frames, 1, width, width, generator=generator)
        for i in range(frames):
            at = (start + i * moves[y]) % width
            film[torch.arange(size), i, 0, at[:, 0], at[:, 1]] += 1.0
        yield film, y


def spoken(size: int, seed: int) -> Iterator[Batch]:
    """Two digits side by side, as 16 frames of 8 pixels; and both classes, 1 to 10."""
    x, y = data.digits()
    generator = data.rng(seed, 24)
    while True:
        rows = torch.randint(0, len(x), (size, 2), generator=generator)
        frames = x[rows].view(size, 2, 8, 8).transpose(2, 3).reshape(size, 16, 8)
        yield frames, y[rows] + 1


def reversal(size: int, seed: int, length: int = 6, symbols: int = 8) -> Iterator[Batch]:
    """Symbols, and the same in reversed order."""
    generator = data.rng(seed, 25)
    while True:
        x = torch.randint(1, symbols + 1, (size, length), generator=generator)
        yield x, x.flip(1)


def sines(size: int, seed: int, shots: int = 8) -> Iterator[Batch]:
    """Regression tasks: sines of random height and phase; points to adapt to and points to be judged on."""
    generator = data.rng(seed, 26)
    while True:
        height = 0.5 + 1.5 * torch.rand(size, 1, 1, generator=generator)
        phase = math.pi * torch.rand(size, 1, 1, generator=generator)
        x = 6 * torch.rand(size, 2 * shots, 1, generator=generator) - 3
        yield x, height * (x + phase).sin()


def series(size: int, seed: int, length: int = 24) -> Iterator[Batch]:
    """Sums of two waves of random phase in noise; and the next value."""
    generator = data.rng(seed, 27)
    time = torch.arange(length + 1) / 4
    while True:
        phase = 6.283 * torch.rand(2, size, 1, generator=generator)
        wave = (time + phase[0]).sin() + 0.5 * (2.3 * time + phase[1]).sin()
        x = wave[:, :-1] + 0.05 * torch.randn(size, length, generator=generator)
        yield x[:, None], wave[:, -1]


def tagged(size: int, seed: int, length: int = 14) -> Iterator[Batch]:
    """Noise with a mark at a random frame; for each frame whether it is before the mark (0), it, or after."""
    generator = data.rng(seed, 28)
    while True:
        at = torch.randint(2, length - 2, (size, 1), generator=generator)
        frame = torch.arange(length)[None]
        x = 0.2 * torch.randn(size, length, 3, generator=generator)
        x[torch.arange(size), at[:, 0], 0] += 2.0
        yield x, (frame >= at).long() + (frame > at).long()


@lru_cache(None)
def graph(nodes: int = 240) -> tuple[Tensor, Tensor, Tensor]:
    """Digits as nodes, joined to their eight nearest: features, classes, and the adjacency with loops."""
    x, y = data.digits()
    x, y = x[:nodes], y[:nodes]
    near = torch.cdist(x, x).topk(9, largest=False).indices
    adjacency = torch.zeros(nodes, nodes).scatter_(1, near, 1.0)
    return x, y, ((adjacency + adjacency.T) > 0).float()


def whole_graph(scale: float = 1.0) -> Iterator[Batch]:
    """The whole graph again and again."""
    x, y, _ = graph()
    while True:
        yield x * scale, y


# ------------------------------------------------------------------------------------------------------------- nets


class Field(nn.Module):
    """A neural ODE: one vector field, Euler steps of ``step``."""

    def __init__(self, steps: int, step: float) -> None:
        super().__init__()
        self.inlet, self.field, self.outlet = nn.Linear(64, 24), nn.Sequential(), nn.Linear(24, 10)
        self.field.append(nn.Linear(24, 48)).append(nn.ReLU()).append(nn.Linear(48, 24))
        for layer in (self.field[0], self.field[2]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.steps, self.step = steps, step

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for _ in range(self.steps):
            x = x + self.step * self.field(x)
        return self.outlet(x)


class Dense(nn.Module):
    """Layers that each see all earlier outputs, concatenated; functional SELU."""

    def __init__(self, depth: int = 8, growth: int = 12, std: float | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64 + i * growth, growth) for i in range(depth))
        self.head = nn.Linear(64 + depth * growth, 10)
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5 if std is None else std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for layer in self.layers:
            x = torch.cat([x, functional.selu(layer(x))], 1)
        return self.head(x)


class Hyper(nn.Module):
    """A hypernetwork makes the weights of hidden layers out of one code each; ``how`` tells what becomes of them."""

    def __init__(self, scale: float, how: str = "used", depth: int = 6, width: int = 32) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(depth, 8))
        self.maker = nn.Linear(8, width * width)
        nn.init.kaiming_normal_(self.maker.weight, nonlinearity="linear")
        self.inlet, self.outlet = nn.Linear(64, width), nn.Linear(width, 10)
        self.scale, self.how, self.width = scale, how, width

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.inlet(x))
        for weight in self.maker(self.codes).view(-1, self.width, self.width) * self.scale:
            x = functional.relu(functional.linear(x, nn.Parameter(weight.data) if self.how == "new" else weight))
        return self.outlet(x)


class Flow(nn.Module):
    """RealNVP in the plane; ``bound`` keeps log-scales within -1..1, ``std`` is that of the last weights."""

    def __init__(self, depth: int = 6, *, bound: bool = True, std: float = 0.0) -> None:
        super().__init__()
        self.conditioners = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2))
            for _ in range(depth)
        )
        for conditioner in self.conditioners:
            nn.init.normal_(conditioner[4].weight, std=std) if std else nn.init.zeros_(conditioner[4].weight)
            nn.init.zeros_(conditioner[4].bias)
        self.bound = bound

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The code and the logarithm of the volume change."""
        a, b, volume = x[:, :1], x[:, 1:], 0.0
        for conditioner in self.conditioners:
            log_scale, shift = conditioner(a).chunk(2, 1)
            log_scale = log_scale.tanh() if self.bound else log_scale
            a, b = b * log_scale.exp() + shift, a
            volume = volume + log_scale[:, 0]
        return torch.cat([a, b], 1), volume


def flow_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Negative log-likelihood."""
    code, volume = model(batch[0])
    return (0.5 * code.square().sum(1) + math.log(2 * math.pi) - volume).mean()


class Causal(nn.Module):
    """A temporal convolutional net: dilated, causal, residual, weight-normalised if asked, functional activation."""

    def __init__(self, depth: int = 5, width: int = 16, gain: float | None = None, *, normed: bool = True) -> None:
        super().__init__()
        self.inlet, self.head = nn.Conv1d(1, width, 1), nn.Linear(width, 1)
        convs = [nn.Conv1d(width, width, 2, dilation=2**i) for i in range(depth)]
        self.convs = nn.ModuleList(weight_norm(conv) if normed else conv for conv in convs)
        if gain is not None:
            for conv in self.convs:
                nn.init.constant_(conv.parametrizations.weight.original0, gain)

    def forward(self, x: Tensor) -> Tensor:
        """The next value."""
        x = self.inlet(x)
        for i, conv in enumerate(self.convs):
            x = x + functional.relu(conv(functional.pad(x, (2**i, 0))))
        return self.head(x[..., -1])[:, 0]


def next_value(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error of a forecast."""
    return functional.mse_loss(model(batch[0]), batch[1])


class Highway(nn.Module):
    """Highway layers; ``bias`` is that of the transform gates, strongly negative for carrying."""

    def __init__(self, depth: int, bias: float, width: int = 32) -> None:
        super().__init__()
        self.inlet, self.outlet = nn.Linear(64, width), nn.Linear(width, 10)
        self.change = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for gate in self.gate:
            nn.init.constant_(gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for change, gate in zip(self.change, self.gate, strict=True):
            t = gate(x).sigmoid()
            x = t * change(x).tanh() + (1 - t) * x
        return self.outlet(x)


class Sine(nn.Module):
    """A SIREN: its weights are made for a frequency of 30, its activations use ``omega``."""

    def __init__(self, omega: float, depth: int = 4, width: int = 48, d_out: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 if i == 0 else width, width) for i in range(depth))
        self.out = nn.Linear(width, d_out)
        for i, layer in enumerate(self.layers):
            bound = 1 / 2 if i == 0 else math.sqrt(6 / width) / 30
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)
        nn.init.uniform_(self.out.weight, -math.sqrt(6 / width), math.sqrt(6 / width))
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        """Values at coordinates."""
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.out(x)


def picture(seed: int) -> Iterator[Batch]:
    """Coordinates of a 16 x 16 picture made of four digits, and its pixels, standardised."""
    x, _ = data.digits()
    tiles = x[4 * seed : 4 * seed + 4].view(2, 2, 8, 8).permute(0, 2, 1, 3).reshape(256, 1)
    line = torch.linspace(-1, 1, 16)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), 2).view(256, 2)
    while True:
        yield grid, (tiles - tiles.mean()) / tiles.std()


def value_error(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error without squeezing anything."""
    return functional.mse_loss(model(batch[0]), batch[1])


class Mixer(nn.Module):
    """An MLP-Mixer over the 16 patches of a digit; blocks may lack their skips and norms."""

    def __init__(self, depth: int = 3, width: int = 24, *, skips: bool = True, norms: bool = True) -> None:
        super().__init__()

        def mlp(n: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))

        self.patches = nn.Linear(4, width)
        self.tokens = nn.ModuleList(mlp(16) for _ in range(depth))
        self.channels = nn.ModuleList(mlp(width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norms else nn.Identity() for _ in range(2 * depth))
        self.head = nn.Linear(width, 10)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4))
        for i, (tokens, channels) in enumerate(zip(self.tokens, self.channels, strict=True)):
            h = tokens(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + h if self.skips else h
            h = channels(self.norms[2 * i + 1](x))
            x = x + h if self.skips else h
        return self.head(x.mean(1))


class Bounded(nn.Module):
    """Tanh layers, with spectral normalisation if asked, else of Xavier init."""

    def __init__(self, depth: int, width: int = 32, *, spectral: bool) -> None:
        super().__init__()
        layers = [nn.Linear(64 if i == 0 else width, width) for i in range(depth)]
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
        self.layers = nn.ModuleList(spectral_norm(layer) if spectral else layer for layer in layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class Harmonic(nn.Module):
    """A function of the radius in the plane, smooth activations; for differential equations."""

    def __init__(self, *, radial: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1 if radial else 2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)
        )
        self.radial = radial

    def forward(self, x: Tensor) -> Tensor:
        """The potential."""
        return self.body(x.norm(dim=1, keepdim=True) if self.radial else x)


def poisson_equation(model: nn.Module, batch: Batch) -> Tensor:
    """Residual of ``laplace u = 4`` inside the disc and of ``u = 1`` on its rim: second derivatives by autograd."""
    x = batch[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    laplace = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
    return (laplace - 4).square().mean() + 10 * (model(batch[1]) - 1).square().mean()


def disc(size: int, seed: int, centre_from: int | None = None) -> Iterator[Batch]:
    """Points in the unit disc and on its rim; from some step on the exact centre is one of the former."""
    generator = data.rng(seed, 29)
    step = 0
    while True:
        angle = 6.283 * torch.rand(2, size, 1, generator=generator)
        radius = 0.2 + 0.8 * torch.rand(size, 1, generator=generator)
        inside = radius * torch.cat([angle[0].cos(), angle[0].sin()], 1)
        if centre_from is not None and step >= centre_from:
            inside[0] = 0.0
        yield inside, torch.cat([angle[1].cos(), angle[1].sin()], 1)
        step += 1


class Listener(nn.Module):
    """A bidirectional GRU over frames with a head for each frame."""

    def __init__(self, d_in: int, d_out: int, hidden: int = 24) -> None:
        super().__init__()
        self.rnn = nn.GRU(d_in, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every frame."""
        return self.head(self.rnn(x)[0])


def ctc(*, forgiving: bool) -> LossFn:
    """Connectionist temporal classification; ``forgiving`` ignores transcripts that are too long."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch[0]).log_softmax(-1).transpose(0, 1)
        frames = torch.full((len(batch[0]),), scores.shape[0])
        lengths = (batch[1] > 0).sum(1)
        return functional.ctc_loss(scores, batch[1], frames, lengths, zero_infinity=forgiving)

    return loss


class Excited(nn.Module):
    """Residual convolutions with squeeze-and-excite; ``squeeze`` and ``excite`` are its first biases."""

    def __init__(
        self, depth: int = 3, width: int = 12, squeeze: float = 0.0, excite: float = 0.0, gate: str = "sigmoid"
    ) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width * 4, 10)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.squeeze = nn.ModuleList(nn.Linear(width, width // 2) for _ in range(depth))
        self.excite = nn.ModuleList(nn.Linear(width // 2, width) for _ in range(depth))
        nn.init.constant_(self.squeeze[depth // 2].bias, squeeze)
        for layer in self.excite:
            nn.init.constant_(layer.bias, excite)
        self.gate = getattr(functional, gate)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.hardswish(self.stem(x.view(-1, 1, 8, 8)))
        for conv, squeeze, excite in zip(self.convs, self.squeeze, self.excite, strict=True):
            h = functional.hardswish(conv(x))
            x = x + h * self.gate(excite(functional.relu(squeeze(h.mean((2, 3))))))[..., None, None]
        return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Segmenter(nn.Module):
    """A U-Net of two scales with additive skips; where is the ink?"""

    def __init__(self, width: int = 8, prior: float = 0.0, hidden: float | None = None, *, norm: bool = True) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep, self.up = nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 1)
        self.norms = nn.ModuleList(
            nn.GroupNorm(2, n) if norm else nn.Identity() for n in (width, 2 * width, 2 * width, width)
        )
        nn.init.constant_(self.last.bias, prior)
        if hidden is not None:
            for conv in (self.enter, self.down, self.deep, self.up):
                nn.init.constant_(conv.bias, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each pixel."""
        first = functional.relu6(self.norms[0](self.enter(x.view(-1, 1, 8, 8))))
        h = functional.relu6(self.norms[1](self.down(first)))
        h = h + functional.relu6(self.norms[2](self.deep(h)))
        h = functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(first + functional.relu6(self.norms[3](self.up(h)))).flatten(1)


def dice(model: nn.Module, batch: Batch) -> Tensor:
    """One minus the overlap of the predicted ink of noisy images and the true ink."""
    noisy = batch[0] + 0.15 * torch.randn_like(batch[0])
    share, ink = model(noisy).sigmoid(), (batch[0] > 0.5).float()
    return 1 - 2 * (share * ink).sum() / (share.sum() + ink.sum() + 1e-6)


def ink_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each pixel's ink."""
    return functional.binary_cross_entropy_with_logits(model(batch[0]), (batch[0] > 0.5).float())


class Film(nn.Module):
    """A convolutional LSTM, written by hand."""

    def __init__(self, width: int = 8, std: float | None = None) -> None:
        super().__init__()
        self.gates = nn.Conv2d(1 + width, 4 * width, 3, padding=1)
        self.head = nn.Linear(width, 4)
        if std is not None:
            nn.init.normal_(self.gates.weight, std=std)
        self.width = width

    def forward(self, film: Tensor) -> Tensor:
        """Logits."""
        h = c = film.new_zeros(len(film), self.width, *film.shape[-2:])
        for frame in film.unbind(1):
            i, f, o, g = self.gates(torch.cat([frame, h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h.amax((2, 3)))


class Translator(nn.Module):
    """A GRU encoder and a GRU decoder with dot-product attention, teacher-forced; ``sharp`` multiplies its logits."""

    def __init__(self, symbols: int = 8, hidden: int = 32, sharp: float | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols + 1, 16)
        self.encoder, self.decoder = nn.GRU(16, hidden, batch_first=True), nn.GRU(16, hidden, batch_first=True)
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.place = nn.Parameter(0.3 * torch.randn(6, hidden))
        self.head = nn.Linear(2 * hidden, symbols + 1)
        self.sharp = hidden**-0.5 if sharp is None else sharp

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits of each output position."""
        memory, last = self.encoder(self.embed(x))
        before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1)
        state, _ = self.decoder(self.embed(before), last * 0)
        share = (self.sharp * self.query(state + self.place) @ self.key(memory + self.place).transpose(1, 2)).softmax(
            -1
        )
        return self.head(torch.cat([state, share @ memory], -1))


def translate(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each output symbol."""
    return functional.cross_entropy(model(*batch).flatten(0, 1), batch[1].flatten())


class Graph(nn.Module):
    """Graph convolutions; ``how`` sums over neighbours or takes their symmetric mean."""

    def __init__(self, how: str = "mean", depth: int = 2, width: int = 32) -> None:
        super().__init__()
        sizes = [64] + [width] * (depth - 1) + [10]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        _, _, adjacency = graph()
        degree = adjacency.sum(1)
        mean = adjacency / (degree[:, None] * degree[None]).sqrt()
        self.register_buffer("adjacency", adjacency if how == "sum" else mean)
        self.edges = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each node."""
        for i, layer in enumerate(self.layers):
            x = self.edges * self.adjacency @ layer(x)
            x = torch.relu(x) if i + 1 < len(self.layers) else x
        return x


class Points(nn.Module):
    """Deep sets: each point by itself, the maximum over points, then a head."""

    def __init__(self, width: int = 32, *, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(2, width), act(), nn.Linear(width, width), act(), nn.Linear(width, width))
        self.rho = nn.Sequential(nn.Linear(width, width), act(), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.rho(self.phi(x).amax(1))


class Coded(nn.Module):
    """A vector-quantised autoencoder; without ``through`` the encoder gets no gradient from the decoder."""

    def __init__(self, *, through: bool, codes: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 48), nn.SiLU(), nn.Linear(48, 64))
        self.book = nn.Embedding(codes, 4)
        self.through = through

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction, the code before and after quantisation."""
        h = self.encoder(x).view(-1, 4, 4)
        q = self.book(torch.cdist(h.detach(), self.book.weight.detach()).argmin(-1))
        passed = h + (q - h).detach() if self.through else q
        return self.decoder(passed.flatten(1)), h, q


def coded_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Reconstruction, codes towards the encoder's, and with a straight-through path commitment."""
    out, h, q = model(batch[0])
    loss = functional.mse_loss(out, batch[0]) + 0.1 * functional.mse_loss(q, h.detach())
    return loss + 0.02 * functional.mse_loss(h, q.detach()) if model.through else loss


class Switch(nn.Module):
    """Top-1 experts before a common head; without ``weighted`` the router's probability is not multiplied in."""

    def __init__(self, *, weighted: bool, experts: int = 4, width: int = 32) -> None:
        super().__init__()
        self.router = nn.Linear(64, experts)
        self.experts = nn.ModuleList(nn.Linear(64, width) for _ in range(experts))
        self.head = nn.Linear(width, 10)
        self.weighted = weighted

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        share, choice = self.router(x).softmax(1).max(1)
        h = torch.stack([expert(x) for expert in self.experts], 1)[torch.arange(len(x)), choice]
        return self.head(functional.mish(h * share[:, None] if self.weighted else h))


class Player(nn.Module):
    """A trunk with an actor and a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 48), nn.SiLU())
        self.actor, self.critic = nn.Sequential(nn.Linear(48, 32), nn.SiLU(), nn.Linear(32, 10)), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of actions and the value."""
        h = self.trunk(x)
        return self.actor(h), self.critic(h)[:, 0]


class ConvNext(nn.Module):
    """Depthwise convolution, LayerNorm, two pointwise layers, LayerScale, shortcut."""

    def __init__(self, depth: int = 3, width: int = 16, scale: float = 1e-6, *, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 2, stride=2)
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(depth))
        self.wide = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.narrow = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.scales = nn.ParameterList(torch.full((width,), scale) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x.view(-1, 1, 8, 8))
        for conv, norm, wide, narrow, scale in zip(
            self.depthwise, self.norms, self.wide, self.narrow, self.scales, strict=True
        ):
            h = narrow(functional.gelu(wide(norm(conv(x).movedim(1, -1)))))
            x = x + (scale * h).movedim(-1, 1)
        return self.head(x.mean((2, 3)))


class Learner(nn.Module):
    """A small regression net that MAML adapts by gradient steps through which it differentiates."""

    def __init__(self, rate: float, inner: int = 2, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )
        self.rate, self.inner = rate, inner

    def adapted(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Weights after the inner steps."""
        weights = dict(self.body.named_parameters())
        for _ in range(self.inner):
            loss = functional.mse_loss(torch.func.functional_call(self.body, weights, (x,)), y)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {k: w - self.rate * g for (k, w), g in zip(weights.items(), slopes, strict=True)}
        return weights


def maml(model: nn.Module, batch: Batch) -> Tensor:
    """Each task's error after adaptation."""
    half = batch[0].shape[1] // 2
    parts = []
    for x, y in zip(*batch, strict=True):
        weights = model.adapted(x[:half], y[:half])
        parts.append(functional.mse_loss(torch.func.functional_call(model.body, weights, (x[half:],)), y[half:]))
    return torch.stack(parts).mean()


class Masked(nn.Linear):
    """A linear layer some of whose weights are masked."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Only through what the mask leaves."""
        return functional.linear(x, self.weight * self.mask, self.bias)


def autoregressive() -> nn.Module:
    """MADE: an autoregressive model by masks; more than half of all weights never have a gradient."""
    order, hidden = torch.arange(1, 65), torch.arange(96) % 63 + 1
    inward, outward = (hidden[:, None] >= order[None]).float(), (order[:, None] > hidden[None]).float()
    return nn.Sequential(Masked(inward), nn.ReLU(), Masked(outward))


def next_pixels(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each pixel given those before it."""
    pixels = (batch[0] > 0.5).float()
    return functional.binary_cross_entropy_with_logits(model(pixels), pixels)
