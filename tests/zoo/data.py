"""Real data that ships with scikit-learn and with Python, synthetic tasks, and endless streams of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from zoo.core import Batch


@lru_cache(None)
def digits() -> tuple[Tensor, Tensor]:
    """1797 images of 8 x 8 pixels in 0..1, as rows of 64, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data, dtype=torch.float32) / 16.0, torch.tensor(data.target)


@lru_cache(None)
def table(name: str, *, standardise: bool = True) -> tuple[Tensor, Tensor]:
    """``wine`` or ``breast_cancer`` with classes, or ``diabetes`` with a target of mean 0 and deviation 1."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")(**({"scaled": False} if name == "diabetes" else {}))
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    if standardise:
        x = (x - x.mean(0)) / x.std(0)
    if name == "diabetes":
        return x, ((y - y.mean()) / y.std()).float()
    return x, y.long()


@lru_cache(None)
def text() -> tuple[Tensor, int]:
    """Python's own manual, from its last topic backwards, as character numbers; and the size of the alphabet."""
    from pydoc_data.topics import topics

    joined = "\n".join(topics[key] for key in sorted(topics, reverse=True))[:150_000]
    alphabet = {c: i for i, c in enumerate(sorted(set(joined)))}
    return torch.tensor([alphabet[c] for c in joined]), len(alphabet)


def rng(seed: int, stream: int = 1) -> torch.Generator:
    """A generator of its own, so that data do not depend on what else was drawn."""
    return torch.Generator().manual_seed(1_000_003 * stream + seed)


def batches(x: Tensor, y: Tensor, size: int, seed: int) -> Iterator[Batch]:
    """Shuffled mini-batches, for ever."""
    generator = rng(seed, 2)
    while True:
        for rows in torch.randperm(len(x), generator=generator).split(size):
            if len(rows) == min(size, len(x)):
                yield x[rows], y[rows]


def windows(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Text and the same text one character later."""
    data, _ = text()
    generator = rng(seed, 3)
    while True:
        starts = torch.randint(0, len(data) - length - 1, (size,), generator=generator)
        rows = data[starts[:, None] + torch.arange(length + 1)]
        yield rows[:, :-1], rows[:, 1:]


def echo(size: int, length: int, seed: int, lag: int | None = None, classes: int = 4) -> Iterator[Batch]:
    """A class is shown ``lag`` frames before the end (default: in the first frame) of noise; report it at the end."""
    generator = rng(seed, 4)
    at = 0 if lag is None else length - 1 - lag
    while True:
        y = torch.randint(0, classes, (size,), generator=generator)
        x = torch.randn(size, length, classes, generator=generator) * 0.1
        x[:, at] += functional.one_hot(y, classes)
        yield x, y


def parity(size: int, seed: int, bits: int = 8, of: int = 2) -> Iterator[Batch]:
    """Signs; the class is the parity of the first ``of`` of them."""
    generator = rng(seed, 5)
    while True:
        x = torch.randint(0, 2, (size, bits), generator=generator).float() * 2 - 1
        yield x, (x[:, :of].prod(1) > 0).long()


def copying(size: int, seed: int, length: int = 6, symbols: int = 6) -> Iterator[Batch]:
    """Symbols, then as many blanks in which to repeat them; what is asked for in the first half is a blank."""
    generator = rng(seed, 6)
    while True:
        s = torch.randint(1, symbols + 1, (size, length), generator=generator)
        blank = torch.zeros_like(s)
        yield torch.cat([s, blank], 1), torch.cat([blank, s], 1)


def waves(size: int, seed: int, length: int = 32) -> Iterator[Batch]:
    """One-channel sounds in -1..1 of two pitches in noise, and which pitch it is."""
    generator = rng(seed, 7)
    time = torch.arange(length) / length
    while True:
        y = torch.randint(0, 2, (size,), generator=generator)
        phase = torch.rand(size, 1, generator=generator)
        wave = torch.sin(6.283 * ((3 + 3 * y[:, None]) * time + phase))
        yield 0.5 * wave + 0.2 * torch.randn(size, length, generator=generator), y


def altered(
    stream: Iterator[Batch], change: Callable[[Batch], Batch], at: int, until: int | None = None
) -> Iterator[Batch]:
    """The stream with ``change`` applied to the batches ``at`` to ``until`` (by default to that one only)."""
    last = at if until is None else until
    for number, batch in enumerate(stream):
        yield change(batch) if at <= number <= last else batch


def times(factor: float) -> Callable[[Batch], Batch]:
    """A change that multiplies the inputs."""
    return lambda batch: (batch[0] * factor, *batch[1:])


FOREVER = 10**9
