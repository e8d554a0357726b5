"""The fifth blind corpus: nets and streams of its sweeps and of both of its parts; ordinary ones, as users have them.

Data: tables and digits that ship with scikit-learn, Python's manual, and synthetic tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.core import Batch

# ---------------------------------------------------------------------------------------------------------- streams


def friedman(size: int, seed: int) -> Iterator[Batch]:
    """Friedman's first function of ten uniform numbers, five of them without effect; everything standardised."""
    generator = data.rng(seed, 501)
    while True:
        x = torch.rand(size, 10, generator=generator)
        y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
        y = y + torch.randn(size, generator=generator)
        yield (x - 0.5) * 3.46, (y - 14.4) / 5.0


@lru_cache(None)
def blob_centres(dims: int, classes: int) -> Tensor:
    """Where the blobs are."""
    return 0.9 * torch.randn(2 * classes, dims, generator=data.rng(0, 502))


def blobs(size: int, seed: int, dims: int = 20, classes: int = 5) -> Iterator[Batch]:
    """Each class consists of two blobs."""
    centres, generator = blob_centres(dims, classes), data.rng(seed, 503)
    while True:
        which = torch.randint(0, 2 * classes, (size,), generator=generator)
        yield centres[which] + torch.randn(size, dims, generator=generator), which % classes


@lru_cache(None)
def shape_images() -> tuple[Tensor, Tensor]:
    """Noisy images of 1 x 12 x 12: a lying bar, a standing bar, a frame or a cross, anywhere; and which it is."""
    generator = data.rng(0, 504)
    images, classes = 0.3 * torch.randn(1200, 1, 12, 12, generator=generator), torch.arange(1200) % 4
    for image, kind, (i, j) in zip(
        images[:, 0], classes.tolist(), torch.randint(0, 7, (1200, 2), generator=generator).tolist(), strict=True
    ):
        if kind in {0, 3}:
            image[i + 2, j : j + 5] += 1
        if kind in {1, 3}:
            image[i : i + 5, j + 2] += 1
        if kind == 2:
            image[[i, i + 4], j : j + 5] += 1
            image[i : i + 5, [j, j + 4]] += 1
    return images, classes


def shapes(size: int, seed: int) -> Iterator[Batch]:
    """Images of bars, frames and crosses."""
    return data.batches(*shape_images(), size, seed)


def rows(size: int, seed: int) -> Iterator[Batch]:
    """Digits as eight frames of eight pixels."""
    for x, y in data.batches(*data.digits(), size, seed):
        yield x.view(-1, 8, 8), y


def flat(size: int, seed: int) -> Iterator[Batch]:
    """Digits as rows of 64, centred."""
    x, y = data.digits()
    return data.batches(2 * x - 1, y, size, seed)


def itself(size: int, seed: int) -> Iterator[Batch]:
    """Digits in 0..1, twice: what goes in should come out."""
    for x, _ in data.batches(*data.digits(), size, seed):
        yield x, x


@lru_cache(None)
def load_curve() -> Tensor:
    """4000 hours of a daily and a weekly swing with lingering noise; mean about zero, deviation about one."""
    noise, level, values = torch.randn(4000, generator=data.rng(0, 505)).tolist(), 0.0, []
    for hour, shock in enumerate(noise):
        level = 0.9 * level + 0.15 * shock
        values.append(math.sin(hour * math.tau / 24) + 0.5 * math.sin(hour * math.tau / 168) + level)
    return torch.tensor(values)


def hours(size: int, seed: int, length: int = 24) -> Iterator[Batch]:
    """Windows of the load curve, a frame an hour, and the next value."""
    series, generator = load_curve(), data.rng(seed, 506)
    while True:
        starts = torch.randint(0, len(series) - length - 1, (size,), generator=generator)
        found = series[starts[:, None] + torch.arange(length + 1)]
        yield found[:, :-1, None], found[:, -1]


def first_word(size: int, length: int, seed: int, words: int = 12) -> Iterator[Batch]:
    """Random symbols; the class is the first of them, one of four."""
    generator = data.rng(seed, 507)
    while True:
        x = torch.randint(0, words, (size, length), generator=generator)
        x[:, 0] %= 4
        yield x, x[:, 0].clone()


def bags(size: int, seed: int, items: int = 10) -> Iterator[Batch]:
    """Sets of points in the plane, and how far apart the two most distant from the origin's left and right are."""
    generator = data.rng(seed, 508)
    while True:
        x = torch.randn(size, items, 2, generator=generator)
        yield x, (x[..., 0].amax(1) - x[..., 0].amin(1) - 3.08) / 0.8


@lru_cache(None)
def network(nodes: int = 150, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of three groups: its normalised adjacency, noisy features and the groups."""
    generator = data.rng(0, 509)
    group = torch.arange(nodes) % groups
    chance = torch.where(group[:, None] == group, 0.15, 0.02)
    upper = torch.triu(torch.rand(nodes, nodes, generator=generator) < chance, 1).float()
    edges = upper + upper.T + torch.eye(nodes)
    degree = edges.sum(1).rsqrt()
    features = torch.randn(nodes, 16, generator=generator)
    features[:, :groups] += 0.7 * functional.one_hot(group, groups)
    return degree[:, None] * edges * degree, features, group


def whole_network() -> Iterator[Batch]:
    """The features and the groups of all nodes, for ever."""
    _, features, group = network()
    while True:
        yield features, group


def ratings(size: int, seed: int, users: int = 120, items: int = 80) -> Iterator[Batch]:
    """A user, an item, and the rating between about one and five stars."""
    fixed, generator = data.rng(0, 510), data.rng(seed, 511)
    taste, kind = torch.randn(users, 3, generator=fixed), torch.randn(items, 3, generator=fixed)
    while True:
        u, i = (torch.randint(0, n, (size,), generator=generator) for n in (users, items))
        noise = 0.2 * torch.randn(size, generator=generator)
        yield torch.stack([u, i], 1), 3.0 + 0.6 * (taste[u] * kind[i]).sum(1) + noise


# ------------------------------------------------------------------------------------------------------------- nets


class ConvNet(nn.Module):
    """Two convolutions with pooling, BatchNorm or not, and two linear layers, on images of 12 x 12."""

    def __init__(self, width: int = 8, *, norm: bool = True, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(2 * width) if norm else nn.Identity()
        self.act1, self.act2, self.act3 = act(), act(), act()
        self.fc1, self.fc2 = nn.Linear(2 * width * 9, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.max_pool2d(self.act1(self.norm1(self.conv1(x))), 2)
        x = functional.max_pool2d(self.act2(self.norm2(self.conv2(x))), 2)
        return self.fc2(self.act3(self.fc1(x.flatten(1))))


class Block(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, width: int, *, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not norm)
        self.bn1, self.bn2 = (nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The features and what is added to them."""
        h = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(x + h)


class ResNet(nn.Module):
    """A small ResNet on images of 12 x 12."""

    def __init__(self, blocks: int = 3, width: int = 8, *, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(width, norm=norm) for _ in range(blocks))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Tagger(nn.Module):
    """An embedding, a recurrent net of torch's own and a linear layer: on every state, or on the last."""

    def __init__(
        self,
        kind: str,
        words: int,
        classes: int,
        width: int = 32,
        *,
        layers: int = 1,
        every: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        kinds: dict[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        self.embed = nn.Embedding(words, 16)
        self.rnn = kinds[kind](16, width, layers, batch_first=True, dropout=drop)
        self.fc = nn.Linear(width, classes)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.rnn(self.embed(x))[0]
        return self.fc(h if self.every else h[:, -1])


class Forecaster(nn.Module):
    """A recurrent net over frames of numbers; from the last state one number or some logits."""

    def __init__(self, kind: str = "gru", d_in: int = 1, width: int = 24, d_out: int = 1, *, layers: int = 1) -> None:
        super().__init__()
        kinds: dict[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
        self.rnn = kinds[kind](d_in, width, layers, batch_first=True)
        self.fc = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        return self.fc(self.rnn(x)[0][:, -1])


class MiniGpt(nn.Module):
    """A decoder of characters from torch's own encoder layers."""

    def __init__(
        self, vocab: int, length: int = 24, width: int = 32, *, layers: int = 2, pre: bool = True, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, drop, "gelu", batch_first=True, norm_first=pre)
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))
        self.register_buffer("places", torch.arange(length))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        h = self.token(x) + self.position(self.places)
        for layer in self.layers:
            h = layer(h, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(h))


class Vit(nn.Module):
    """A vision transformer on images of 12 x 12 in nine patches of 4 x 4."""

    def __init__(self, width: int = 32, layers: int = 2, *, pre: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, stride=4)
        self.cls, self.place = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(0.02 * torch.randn(10, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True, norm_first=pre) for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls.expand(len(x), -1, -1), h], 1) + self.place
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h[:, 0]))


class AutoEncoder(nn.Module):
    """A plain autoencoder of digits; the output is squashed to 0..1, or not."""

    def __init__(
        self, width: int = 48, code: int = 12, act: Callable[[], nn.Module] = nn.ReLU, *, squash: bool = True
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), act(), nn.Linear(width, code))
        self.decoder = nn.Sequential(nn.Linear(code, width), act(), nn.Linear(width, 64))
        self.squash = squash

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        out = self.decoder(self.encoder(x))
        return out.sigmoid() if self.squash else out


class Vae(nn.Module):
    """A variational autoencoder of digits; gives logits, means and log-variances."""

    def __init__(self, width: int = 48, code: int = 6) -> None:
        super().__init__()
        self.body, self.mean, self.spread = nn.Linear(64, width), nn.Linear(width, code), nn.Linear(width, code)
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ReLU(), nn.Linear(width, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means, log-variances."""
        h = self.body(x).relu()
        mean, spread = self.mean(h), self.spread(h)
        return self.decoder(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread


class Gcn(nn.Module):
    """Graph convolutions on the network of three groups."""

    def __init__(self, layers: int = 2, width: int = 24, drop: float = 0.0) -> None:
        super().__init__()
        sizes = [16, *[width] * (layers - 1), 3]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.drop = nn.Dropout(drop)
        self.register_buffer("edges", network()[0])

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every node."""
        for layer in self.layers[:-1]:
            x = self.drop(functional.relu(self.edges @ layer(x)))
        return self.edges @ self.layers[-1](x)


class DeepSet(nn.Module):
    """Every item through one net, their sum, mean or maximum through another."""

    def __init__(self, pool: str = "max", width: int = 32) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width))
        self.rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        h = self.phi(x)
        return self.rho({"sum": h.sum, "mean": h.mean, "max": h.amax}[self.pool](1))


class Factors(nn.Module):
    """Matrix factorisation with biases."""

    def __init__(self, users: int = 120, items: int = 80, rank: int = 8, std: float = 0.1) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(users, rank), nn.Embedding(items, rank)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.base = nn.Parameter(torch.zeros(()))
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=std)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Ratings."""
        u, i = x.unbind(1)
        bias = self.user_bias(u) + self.item_bias(i)
        return (self.user(u) * self.item(i)).sum(1) + bias[:, 0] + self.base
