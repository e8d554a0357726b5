"""Streams of the eighth part of the severity sweeps: scikit-learn's digits, tables and their texts; synthetic tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from zoo import data
from zoo.core import Batch


def ishigami(size: int, seed: int) -> Iterator[Batch]:
    """Ishigami's function of three uniform angles; everything of mean about 0 and deviation about 1."""
    generator = data.rng(seed, 801)
    while True:
        x = math.pi * (2 * torch.rand(size, 3, generator=generator) - 1)
        y = x[:, 0].sin() + 7 * x[:, 1].sin() ** 2 + 0.1 * x[:, 2] ** 4 * x[:, 0].sin()
        yield x / 1.81, (y - 3.5) / 3.72


def spirals(size: int, seed: int, arms: int = 3) -> Iterator[Batch]:
    """Points of the plane on three spirals of three quarters of a turn, in a little noise; and which spiral it is."""
    generator = data.rng(seed, 802)
    while True:
        y = torch.randint(0, arms, (size,), generator=generator)
        far = torch.rand(size, generator=generator).sqrt()
        angle = math.tau * (y / arms + 0.75 * far)
        noise = 0.1 * torch.randn(size, 2, generator=generator)
        yield 1.8 * far[:, None] * torch.stack([angle.cos(), angle.sin()], 1) + noise, y


@lru_cache(None)
def turned_digits() -> tuple[Tensor, Tensor]:
    """Digits of 1 x 8 x 8, standardised as a whole and turned by quarters, and by how many."""
    x = (data.digits()[0].view(-1, 1, 8, 8) - 0.305) / 0.376
    quarters = torch.arange(4).repeat_interleave(len(x))
    return torch.cat([torch.rot90(x, number, (2, 3)) for number in range(4)]), quarters


def turned(size: int, seed: int) -> Iterator[Batch]:
    """Turned digits."""
    return data.batches(*turned_digits(), size, seed)


def turned_rows(size: int, seed: int) -> Iterator[Batch]:
    """Turned digits as rows of 64."""
    return data.batches(turned_digits()[0].flatten(1), turned_digits()[1], size, seed)


def tissue(size: int, seed: int, power: float = 0.0) -> Iterator[Batch]:
    """The table of breast cancer: every column of mean 0, and of its own deviation to the power given."""
    raw, y = data.table("breast_cancer", standardise=False)
    return data.batches((raw - raw.mean(0)) / raw.std(0) ** (1 - power), y, size, seed)


@lru_cache(None)
def descriptions() -> tuple[Tensor, int]:
    """What scikit-learn says about five of its tables, as character numbers; and the size of the alphabet."""
    from sklearn import datasets

    names = ("breast_cancer", "diabetes", "digits", "iris", "wine")
    joined = "".join(getattr(datasets, f"load_{name}")().DESCR for name in names)
    alphabet = {c: i for i, c in enumerate(sorted(set(joined)))}
    return torch.tensor([alphabet[c] for c in joined]), len(alphabet)


def sentences(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Descriptions, and the same one character later."""
    (text, _), generator = descriptions(), data.rng(seed, 803)
    while True:
        starts = torch.randint(0, len(text) - length - 1, (size,), generator=generator)
        rows = text[starts[:, None] + torch.arange(length + 1)]
        yield rows[:, :-1], rows[:, 1:]


def heights(size: int, seed: int, length: int = 10, symbols: int = 12) -> Iterator[Batch]:
    """Symbols, and at each place the highest one so far."""
    generator = data.rng(seed, 804)
    while True:
        x = torch.randint(0, symbols, (size, length), generator=generator)
        yield x, x.cummax(1).values


def addends(size: int, length: int, seed: int) -> Iterator[Batch]:
    """The adding problem: the first number bears a mark, and one of the next two; the sum of both, of deviation 1."""
    generator = data.rng(seed, 805)
    rows = torch.arange(size)
    while True:
        x = torch.stack([1.73 * (2 * torch.rand(size, length, generator=generator) - 1), torch.zeros(size, length)], 2)
        other = torch.randint(1, 3, (size,), generator=generator)
        x[:, 0, 1] = 1
        x[rows, other, 1] = 1
        yield x, (x[:, 0, 0] + x[rows, other, 0]) / 1.41


def fading(size: int, seed: int, length: int = 40) -> Iterator[Batch]:
    """Pairs of numbers, and a mean of the first ones in which each step back counts for three quarters; deviation 1."""
    generator = data.rng(seed, 806)
    weights = 0.66 * 0.75 ** torch.arange(length - 1, -1, -1.0)
    while True:
        x = torch.randn(size, length, 2, generator=generator)
        yield x, x[..., 0] @ weights


def chirps(size: int, seed: int, length: int = 40) -> Iterator[Batch]:
    """Sounds of one channel in noise: rising, falling or of constant pitch, or silent; and which it is."""
    generator, time = data.rng(seed, 808), torch.arange(length) / length
    while True:
        y = torch.randint(0, 4, (size,), generator=generator)
        bend = torch.tensor([4.0, -4.0, 0.0, 0.0])[y]
        start = torch.tensor([2.0, 10.0, 6.0, 6.0])[y] + torch.rand(size, generator=generator)
        angle = math.tau * (start[:, None] * time + bend[:, None] * time**2 + torch.rand(size, 1, generator=generator))
        noise = 0.4 * torch.randn(size, length, generator=generator)
        yield (1.3 * (y < 3)[:, None] * angle.sin() + noise)[:, None], y
