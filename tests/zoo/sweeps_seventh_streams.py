"""Streams of the seventh part of the severity sweeps: the names of Unicode's characters, and synthetic tasks."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from zoo import data
from zoo.core import Batch


def pendulum(size: int, seed: int) -> Iterator[Batch]:
    """A pendulum's angle as a point on a circle, its speed and a torque; the same without the torque 0.4 s later."""
    generator = data.rng(seed, 701)
    while True:
        angle, speed, torque = (2 * torch.rand(3, size, generator=generator) - 1) * torch.tensor([[math.pi], [3], [2]])
        x = torch.stack([angle.cos(), angle.sin(), speed / 2, torque], 1)
        for _ in range(8):
            speed = speed + 0.05 * (torque - 9.8 * angle.sin())
            angle = angle + 0.05 * speed
        yield x, torch.stack([angle.cos(), angle.sin(), speed / 3], 1)


SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
"""Which segments of a display of seven show 0 to 9."""


@lru_cache(None)
def display_images(count: int = 1500) -> tuple[Tensor, Tensor]:
    """Noisy images of 1 x 14 x 10: a digit of seven segments, anywhere; mean about 0 and deviation about 1."""
    generator = data.rng(0, 702)
    places: dict[str, tuple[int | slice, int | slice]] = {
        "a": (0, slice(0, 5)),
        "b": (slice(0, 5), 4),
        "c": (slice(4, 9), 4),
        "d": (8, slice(0, 5)),
        "e": (slice(4, 9), 0),
        "f": (slice(0, 5), 0),
        "g": (4, slice(0, 5)),
    }
    classes = torch.arange(count) % 10
    images = torch.zeros(count, 1, 14, 10)
    corners = torch.stack([torch.randint(0, n, (count,), generator=generator) for n in (3, 3)], 1).tolist()
    for image, digit, (i, j) in zip(images[:, 0], classes.tolist(), corners, strict=True):
        for segment in SEGMENTS[digit]:
            image[i + 1 : i + 10, j + 1 : j + 6][places[segment]] = 1.0
    images = images + 0.2 * torch.randn(images.shape, generator=generator)
    return (images - images.mean()) / images.std(), classes


def displays(size: int, seed: int) -> Iterator[Batch]:
    """Digits of seven segments."""
    return data.batches(*display_images(), size, seed)


ALPHABET = {c: i for i, c in enumerate("\n -ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")}


@lru_cache(None)
def character_names() -> Tensor:
    """The names of Unicode's characters from U+0020 to U+2FFF, one a line, as numbers of their letters."""
    names = (unicodedata.name(chr(code), "") for code in range(0x20, 0x3000))
    return torch.tensor([ALPHABET[c] for c in "\n".join(filter(None, names)) if c in ALPHABET])


def names(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Names of characters, and the same one letter later."""
    text, generator = character_names(), data.rng(seed, 703)
    while True:
        starts = torch.randint(0, len(text) - length - 1, (size,), generator=generator)
        rows = text[starts[:, None] + torch.arange(length + 1)]
        yield rows[:, :-1], rows[:, 1:]


SCRIPTS = ("GREEK", "TAMIL", "LATIN", "OGHAM")


def scripts(size: int, length: int, seed: int) -> Iterator[Batch]:
    """A script's name, then as many letters of any other names as the length says; which script was it?"""
    words = torch.tensor([[ALPHABET[c] for c in word] for word in SCRIPTS])
    generator = data.rng(seed, 704)
    for x, _ in names(size, length, seed):
        y = torch.randint(0, len(SCRIPTS), (size,), generator=generator)
        yield torch.cat([words[y], x], 1), y


def surface(size: int, seed: int) -> Iterator[Batch]:
    """Franke's function of two uniform numbers; everything of mean about 0 and deviation about 1."""
    generator = data.rng(seed, 705)
    while True:
        u, v = torch.rand(2, size, generator=generator)
        a, b = 9 * u, 9 * v
        y = (
            0.75 * (-((a - 2) ** 2) / 4 - (b - 2) ** 2 / 4).exp()
            + 0.75 * (-((a + 1) ** 2) / 49 - (b + 1) / 10).exp()
            + 0.5 * (-((a - 7) ** 2) / 4 - (b - 3) ** 2 / 4).exp()
            - 0.2 * (-((a - 4) ** 2) - (b - 7) ** 2).exp()
        )
        yield 3.46 * torch.stack([u - 0.5, v - 0.5], 1), (y - 0.41) / 0.28


def labels(size: int, seed: int, dims: int = 16, count: int = 8) -> Iterator[Batch]:
    """Standard normal features, and eight labels of which any may hold: each bends around a plane of its own."""
    fixed, generator = data.rng(0, 706), data.rng(seed, 707)
    along, across = torch.randn(2, dims, count, generator=fixed) / dims**0.5
    while True:
        x = torch.randn(size, dims, generator=generator)
        yield x, (x @ along + 0.7 * (x @ across).abs() > 0.55).float()


def counts(size: int, seed: int) -> Iterator[Batch]:
    """Six standard normal features, and a count of Poisson's whose logarithm of the mean they bend."""
    generator = data.rng(seed, 708)
    while True:
        x = torch.randn(size, 6, generator=generator)
        log = -0.5 + 0.8 * x[:, 0] + 0.7 * (2 * x[:, 1]).sin() + 0.5 * (x[:, 2] * x[:, 3]).tanh()
        yield x, torch.poisson(log.exp(), generator=generator)


def lately(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Numbers, and twice the mean of the last four."""
    generator = data.rng(seed, 709)
    while True:
        x = torch.randn(size, length, 1, generator=generator)
        yield x, 2 * x[:, -4:, 0].mean(1)


SHOPS, GOODS = 40, 15


def sales(size: int, seed: int) -> Iterator[Batch]:
    """A shop, an article and three standard normal numbers; what was sold, of mean about 0 and deviation about 1."""
    fixed, generator = data.rng(0, 710), data.rng(seed, 711)
    shop, article = torch.randn(SHOPS, generator=fixed), torch.randn(GOODS, generator=fixed)
    while True:
        s, g = (torch.randint(0, n, (size,), generator=generator) for n in (SHOPS, GOODS))
        x = torch.randn(size, 3, generator=generator)
        y = 0.5 * shop[s] + 0.4 * article[g] - 0.6 * x[:, 0] + 0.5 * (x[:, 1] * x[:, 2]).tanh()
        yield torch.cat([s[:, None].float(), g[:, None].float(), x], 1), y


def beats(size: int, seed: int, length: int = 40) -> Iterator[Batch]:
    """Three beats of a heart in noise: all alike, the middle one late, or the middle one wide; and which it is."""
    generator, time = data.rng(seed, 712), torch.arange(length)
    while True:
        y = torch.randint(0, 3, (size,), generator=generator)
        start = 6 + 3 * torch.rand(size, generator=generator)
        centre = torch.stack([start, start + 12 + 4 * (y == 1), start + 24], 1)
        width = 0.8 + torch.stack([0 * y, 1.2 * (y == 2), 0 * y], 1)
        wave = (-(((time - centre[..., None]) / width[..., None]) ** 2)).exp().sum(1)
        yield (3 * wave - 0.5 + 0.3 * torch.randn(size, length, generator=generator))[:, None], y


@lru_cache(None)
def disc_images(count: int = 1200, side: int = 12) -> tuple[Tensor, Tensor]:
    """Noisy images of 1 x 12 x 12 with a bright disc and a dark one, and where the bright one is, as ones."""
    generator = data.rng(0, 713)
    axis = torch.arange(side).float()

    def disc() -> Tensor:
        i, j = (1 + (side - 3) * torch.rand(2, count, 1, 1, generator=generator)).unbind(0)
        radius = 1.5 + 2 * torch.rand(count, 1, 1, generator=generator)
        return ((axis[:, None] - i) ** 2 + (axis - j) ** 2 < radius**2).float()

    bright, dark = disc(), disc()
    images = 1.2 * bright - 1.2 * dark + 0.6 * torch.randn(count, side, side, generator=generator)
    return images[:, None], bright[:, None]


def discs(size: int, seed: int) -> Iterator[Batch]:
    """Images and the place of the bright disc."""
    return data.batches(*disc_images(), size, seed)


def backwards(size: int, seed: int, length: int = 8, symbols: int = 9) -> Iterator[Batch]:
    """Symbols, and the same symbols from the last to the first."""
    generator = data.rng(seed, 714)
    while True:
        x = torch.randint(0, symbols, (size, length), generator=generator)
        yield x, x.flip(1)
