"""The fourth blind corpus: nets and streams of its sweeps and of both of its parts.

Data: tables and two photographs that ship with scikit-learn, the source code of Python's own library, and synthetic
tasks, each made so that one thing has to be learnt.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.core import Batch, LossFn, Run

# ---------------------------------------------------------------------------------------------------------- streams

SOURCES = ("_pydecimal.py", "argparse.py", "imaplib.py", "ast.py")
LINE = 40


@lru_cache(None)
def source_lines() -> tuple[Tensor, Tensor]:
    """Lines of four modules of Python's library as rows of 40 character codes below 128, and which module it is."""
    rows, classes = [], []
    for number, name in enumerate(SOURCES):
        text = (Path(os.__file__).parent / name).read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines()]
        for line in [line for line in lines if len(line) >= 15 and line.isascii()][:900]:
            rows.append([ord(c) for c in line[:LINE].ljust(LINE)])
            classes.append(number)
    return torch.tensor(rows), torch.tensor(classes)


@lru_cache(None)
def source_text() -> Tensor:
    """The source of ``argparse`` as character codes below 128."""
    text = (Path(os.__file__).parent / "argparse.py").read_text(encoding="utf-8")
    return torch.tensor([ord(c) for c in text if c.isascii()])


def code_lines(size: int, seed: int) -> Iterator[Batch]:
    """Lines of source code and which of four modules they come from."""
    return data.batches(*source_lines(), size, seed)


def code_chars(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Source code and the same code one character later."""
    text, generator = source_text(), data.rng(seed, 401)
    while True:
        starts = torch.randint(0, len(text) - length - 1, (size,), generator=generator)
        rows = text[starts[:, None] + torch.arange(length + 1)]
        yield rows[:, :-1], rows[:, 1:]


@lru_cache(None)
def photos() -> tuple[Tensor, Tensor]:
    """Patches of 3 x 8 x 8 in 0..1 from two photographs, every other pixel, and which photograph it is."""
    from sklearn.datasets import load_sample_image

    parts = []
    for name in ("china.jpg", "flower.jpg"):
        picture = torch.tensor(load_sample_image(name)[::2, ::2]).float().permute(2, 0, 1) / 255.0
        grid = picture.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).reshape(-1, 3, 8, 8)
        parts.append(grid)
    return torch.cat(parts), torch.arange(2).repeat_interleave(len(parts[0]))


def patches(size: int, seed: int) -> Iterator[Batch]:
    """Patches of two photographs, centred, and which photograph they come from."""
    x, y = photos()
    return data.batches(2 * x - 1, y, size, seed)


def repaired(size: int, seed: int, noise: float = 0.3) -> Iterator[Batch]:
    """Noisy patches and the clean ones."""
    generator = data.rng(seed, 402)
    for x, _ in patches(size, seed):
        yield x + noise * torch.randn(x.shape, generator=generator), x


def roll(size: int, seed: int, noise: float = 0.2) -> Iterator[Batch]:
    """Points on a Swiss roll, standardised, and how far along it they lie."""
    generator = data.rng(seed, 403)
    while True:
        u, v = torch.rand(2, size, generator=generator)
        t = 1.5 * math.pi * (1 + 2 * u)
        x = torch.stack([t * t.cos() / 6.8, (v - 0.5) * 3.46, t * t.sin() / 6.8], 1)
        yield x + noise / 6.8 * torch.randn(x.shape, generator=generator), (u - 0.5) * 3.46


def shells(size: int, seed: int) -> Iterator[Batch]:
    """Ten normal numbers; the class is whether their squares add up to more than their median, 9.34."""
    generator = data.rng(seed, 404)
    while True:
        x = torch.randn(size, 10, generator=generator)
        yield x, (x.square().sum(1) > 9.34).long()


def phases(size: int, seed: int, noise: float = 0.05) -> Iterator[Batch]:
    """Friedman's third function, the phase of a circuit of four parts; everything standardised."""
    generator = data.rng(seed, 405)
    while True:
        u = torch.rand(size, 4, generator=generator)
        a, b, c, d = 100 * u[:, 0], 40 * math.pi + 520 * math.pi * u[:, 1], u[:, 2], 1 + 10 * u[:, 3]
        y = torch.atan((b * c - 1 / (b * d)) / a.clamp(min=1e-3))
        yield (u - 0.5) * 3.46, (y - 1.3) / 0.32 + noise * torch.randn(size, generator=generator)


@lru_cache(None)
def chaos() -> Tensor:
    """4000 values of the Mackey-Glass equation with a delay of 17, standardised."""
    values = [1.2] * 18
    for _ in range(8200):
        late = values[-18]
        values.append(values[-1] + 0.2 * late / (1 + late**10) - 0.1 * values[-1])
    every_second = torch.tensor(values[218::2][:4000])
    return (every_second - every_second.mean()) / every_second.std()


def series(size: int, seed: int, length: int = 16, ahead: int = 6) -> Iterator[Batch]:
    """A stretch of a chaotic series and its value some steps later."""
    whole, generator = chaos(), data.rng(seed, 406)
    while True:
        starts = torch.randint(0, len(whole) - length - ahead, (size,), generator=generator)
        yield whole[starts[:, None] + torch.arange(length)][..., None], whole[starts + length + ahead - 1]


def latch(size: int, length: int, seed: int, classes: int = 3) -> Iterator[Batch]:
    """The first frame shows a class as one of three directions; noise follows; which was it?"""
    generator = data.rng(seed, 407)
    angle = torch.arange(classes) * (2 * math.pi / classes)
    ways = torch.stack([angle.cos(), angle.sin()], 1)
    while True:
        y = torch.randint(0, classes, (size,), generator=generator)
        x = 0.1 * torch.randn(size, length, 2, generator=generator)
        x[:, 0] += ways[y]
        yield x, y


def marked(size: int, seed: int, length: int = 12, values: int = 8) -> Iterator[Batch]:
    """Symbols, one of which bears a mark; which one is it? Two places after the mark nothing matters."""
    generator = data.rng(seed, 408)
    while True:
        x = torch.randint(0, values, (size, length), generator=generator)
        at = torch.randint(0, length, (size,), generator=generator)
        rows = torch.arange(size)
        y = x[rows, at].clone()
        x[rows, at] += values
        yield x, y


def iris(size: int, seed: int) -> Iterator[Batch]:
    """150 flowers, standardised, and their kind."""
    from sklearn.datasets import load_iris

    table = load_iris()
    x = torch.tensor(table.data, dtype=torch.float32)
    return data.batches((x - x.mean(0)) / x.std(0), torch.tensor(table.target), size, seed)


def pictures(size: int, seed: int) -> Iterator[Batch]:
    """Digits, standardised as a whole."""
    x, y = data.digits()
    return data.batches((x - 0.305) / 0.376, y, size, seed)


# ------------------------------------------------------------------------------------------------------------- runs


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Classes, one a sample or one a position."""
    logits = model(batch[0])
    return functional.cross_entropy(logits.flatten(0, -2).float(), batch[1].flatten())


def squares(model: nn.Module, batch: Batch) -> Tensor:
    """One number, or as many as the target has."""
    out = model(batch[0])
    return functional.mse_loss(out.view_as(batch[1]).float(), batch[1])


def teach(
    model: nn.Module,
    stream: Iterator[Batch],
    kind: Any,
    lr: float,
    loss: LossFn = cross_entropy,
    *,
    clip: float | None = None,
    accum: int = 1,
    weights: Iterable[Any] | None = None,
    **options: Any,
) -> Run:
    """A run under one optimizer, over all parameters that learn if no ``weights`` are given."""
    chosen = [p for p in model.parameters() if p.requires_grad] if weights is None else weights
    return Run(model, kind(chosen, lr=lr, **options), stream, loss, clip, accum)


# ------------------------------------------------------------------------------------------------------------- nets


def plain(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A plain net: linear layers with an activation between each two."""
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        parts += [nn.Linear(a, b), act()]
    return nn.Sequential(*parts, nn.Linear(*sizes[-2:]))


def refill(model: nn.Module, fill: Callable[[Tensor], object], *, head: bool = True) -> nn.Module:
    """The model with its weight matrices drawn anew and biases of zero; the last layer only if ``head``."""
    found = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    for module in found if head else found[:-1]:
        fill(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def he(weight: Tensor) -> Tensor:
    """For ReLU."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


class Gated(nn.Module):
    """Blocks of a gated linear unit around a shortcut, RMSNorm in front of each."""

    def __init__(self, d_in: int, d_out: int, width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.inlet = nn.Linear(d_in, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(blocks))
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.downs = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        x = self.inlet(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(functional.glu(up(norm(x))))
        return self.head(x)


class CodeConv(nn.Module):
    """Characters, two convolutions over them and the largest answer of each."""

    def __init__(self, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 16)
        self.narrow, self.broad = nn.Conv1d(16, width, 3), nn.Conv1d(16, width, 5, padding=1)
        self.act, self.head = nn.ReLU(), nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(x).transpose(1, 2)
        found = [self.act(conv(h)).amax(2) for conv in (self.narrow, self.broad)]
        return self.head(torch.cat(found, 1))


class Tower(nn.Module):
    """Plain convolutions over patches or digits, halved once on the way, without norms or shortcuts."""

    def __init__(
        self,
        depth: int = 6,
        width: int = 12,
        channels: int = 3,
        classes: int = 2,
        act: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.convs = nn.ModuleList(
            nn.Conv2d(channels if i == 0 else width, width, 3, padding=1, stride=2 if i == 1 else 1)
            for i in range(depth)
        )
        self.acts = nn.ModuleList(act() for _ in range(depth))
        self.head = nn.Linear(16 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.reshape(-1, self.channels, 8, 8)
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x))
        return self.head(x.flatten(1))


class Memory(nn.Module):
    """A recurrent net of torch's own and a head on its last state."""

    def __init__(self, kind: str, d_in: int, width: int, d_out: int, layers: int = 1) -> None:
        super().__init__()
        kinds: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        self.body = kinds[kind](d_in, width, layers, batch_first=True)
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        return self.head(self.body(x)[0][:, -1])


class Spotter(nn.Module):
    """A learnt question attends over symbols by torch's own multi-head attention."""

    def __init__(self, sharp: float = 1.0, width: int = 24, heads: int = 2, *, symbols: int = 16) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(symbols, width), nn.Parameter(0.02 * torch.randn(12, width))
        self.question = nn.Parameter(torch.randn(1, width))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, 8)
        with torch.no_grad():
            self.attend.in_proj_weight[: 2 * width] *= sharp

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(x) + self.place
        asked = self.question.expand(len(x), 1, -1)
        return self.head(self.attend(asked, h, h, need_weights=False)[0][:, 0])


class Squeezer(nn.Module):
    """An autoencoder of a narrow code; its body and its last layer may learn at different rates."""

    def __init__(self, d_in: int = 192, code: int = 8, width: int = 48, act: Callable[[], nn.Module] = nn.ELU) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d_in, width), act(), nn.Linear(width, code))
        self.decoder = nn.Sequential(nn.Linear(code, width), act())
        self.outlet = nn.Linear(width, d_in)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        return self.outlet(self.decoder(self.encoder(x.flatten(1)))).view_as(x)


class Coder(nn.Module):
    """A language model of characters: a GRU whose output is compared with the same table that it reads from."""

    def __init__(self, width: int = 32, *, tied: bool = True) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(128, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 128)
        if tied:
            nn.init.normal_(self.embed.weight, std=width**-0.5)
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        return self.head(self.body(self.embed(x))[0])


class Again(nn.Module):
    """One transformer block over characters, applied several times: all layers share their weights."""

    def __init__(self, times: int = 5, width: int = 32, length: int = 20) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(128, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.block = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 128)
        self.times = times
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        h = self.embed(x) + self.place
        for _ in range(self.times):
            h = self.block(h, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(h))


class Rezero(nn.Module):
    """Residual blocks, each weighted by a number that begins at ``start``."""

    def __init__(self, d_in: int, d_out: int, blocks: int = 16, width: int = 32, start: float = 0.0) -> None:
        super().__init__()
        self.inlet = nn.Linear(d_in, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.share = nn.Parameter(torch.full((blocks,), start))
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        x = self.inlet(x)
        for share, block in zip(self.share, self.blocks, strict=True):
            x = x + share * functional.relu(block(x))
        return self.head(x)


class Experts(nn.Module):
    """Two of several experts answer, chosen by noisy logits; keeps the share of each for a balance loss."""

    def __init__(self, d_in: int, d_out: int, experts: int = 8, width: int = 16, chosen: int = 2) -> None:
        super().__init__()
        self.router = nn.Linear(d_in, experts)
        self.experts = nn.ModuleList(plain(d_in, width, d_out, act=nn.GELU) for _ in range(experts))
        self.chosen, self.balance = chosen, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        logits = self.router(x)
        noisy = logits + 0.3 * torch.randn_like(logits)
        top, which = noisy.topk(self.chosen, 1)
        weight = top.softmax(1)
        share = logits.softmax(1).mean(0)
        used = functional.one_hot(which, len(self.experts)).sum(1).float().mean(0)
        self.balance = len(self.experts) * (share * used).sum()
        out = 0.0
        for number, expert in enumerate(self.experts):
            rows, place = (which == number).nonzero(as_tuple=True)
            if len(rows):
                answer = x.new_zeros(len(x), expert[-1].out_features)
                out = out + answer.index_add(0, rows, weight[rows, place, None] * expert(x[rows]))
        return out


class Lowrank(nn.Module):
    """A frozen linear layer and a product of two thin ones on top; the second begins at ``start``."""

    def __init__(self, base: nn.Linear, rank: int = 4, *, down: float = 0.1, up: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.down = nn.Parameter(down * torch.randn(rank, base.in_features))
        self.up = nn.Parameter(up * torch.randn(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        return self.base(x) + x @ self.down.T @ self.up.T


class Decaying(nn.Module):
    """Linear recurrences of one number each, ``h = a h + b x``, with given largest ``a``; read out by a small net."""

    def __init__(self, d_in: int, width: int, d_out: int, slowest: float = 0.98) -> None:
        super().__init__()
        self.inlet = nn.Linear(d_in, width)
        self.keep = nn.Parameter(torch.linspace(0.5, slowest, width))
        self.outlet = plain(width, width, d_out, act=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        u = self.inlet(x)
        h = torch.zeros_like(u[:, 0])
        for frame in u.unbind(1):
            h = self.keep * h + frame
        return self.outlet(h)


def taught(
    model: nn.Module, stream: Iterator[Batch], steps: int = 80, lr: float = 3e-3, loss: LossFn = cross_entropy
) -> nn.Module:
    """The model after some steps of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, next(stream)).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model
