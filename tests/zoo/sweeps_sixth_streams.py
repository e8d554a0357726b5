"""Streams of the sixth part of the severity sweeps.

The digits that ship with scikit-learn, the words of Python's manual, and synthetic tasks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pydoc_data.topics import topics

import torch
from torch import Tensor

from zoo import data
from zoo.core import Batch


@lru_cache(None)
def colour_images(count: int = 1500, side: int = 10) -> tuple[Tensor, Tensor]:
    """Noisy images of 3 x 10 x 10: stripes of four directions or a chequer, in any colour; and which it is."""
    generator = data.rng(0, 601)
    classes = torch.arange(count) % 5
    i, j = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    phase = math.tau * torch.rand(count, 1, 1, generator=generator)
    waves = torch.stack([torch.sin(1.6 * place + phase) for place in (i, j, 0.7 * (i + j), 0.7 * (i - j))])
    chequer = 1.4 * torch.sin(1.6 * i + phase) * torch.sin(1.6 * j + phase)
    pattern = torch.cat([waves, chequer[None]])[classes, torch.arange(count)]
    colour = torch.randn(count, 3, 1, 1, generator=generator)
    return pattern[:, None] * colour + 0.7 * torch.randn(count, 3, side, side, generator=generator), classes


def colours(size: int, seed: int) -> Iterator[Batch]:
    """Coloured stripes and chequers."""
    return data.batches(*colour_images(), size, seed)


def brackets(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Opening (0) and closing (1) brackets among four letters; how many are open at each place, at most three."""
    generator = data.rng(seed, 602)
    while True:
        x = torch.randint(0, 6, (size, length), generator=generator)
        level, depths = torch.zeros(size, dtype=torch.long), []
        for now in x.T:
            level = (level + (now == 0).long() - (now == 1).long()).clamp(0, 3)
            depths.append(level)
        yield x, torch.stack(depths, 1)


def unsorted(size: int, seed: int, length: int = 8, symbols: int = 10) -> Iterator[Batch]:
    """Symbols, and the same symbols in order."""
    generator = data.rng(seed, 603)
    while True:
        x = torch.randint(0, symbols, (size, length), generator=generator)
        yield x, x.sort(1).values


WORDS = 200


@lru_cache(None)
def manual_words() -> Tensor:
    """Python's manual as numbers of its 200 most frequent words; all other words are left out."""
    found = [word for key in sorted(topics) for word in topics[key].lower().split() if word.isalpha()]
    numbers = {word: number for number, (word, _) in enumerate(Counter(found).most_common(WORDS))}
    return torch.tensor([numbers[word] for word in found if word in numbers])


def contexts(size: int, seed: int) -> Iterator[Batch]:
    """Two words before and two after, and the word between them."""
    text, generator = manual_words(), data.rng(seed, 604)
    around = torch.tensor([-2, -1, 1, 2])
    while True:
        at = torch.randint(2, len(text) - 2, (size,), generator=generator)
        yield text[at[:, None] + around], text[at]


@lru_cache(None)
def teacher(dims: int, classes: int) -> tuple[Tensor, Tensor]:
    """The weights of a fixed net that says which class a point has."""
    generator = data.rng(0, 605)
    first = torch.randn(24, dims, generator=generator) * 1.5 / dims**0.5
    return first, torch.randn(classes, 24, generator=generator)


def taught_classes(size: int, seed: int, dims: int = 8, classes: int = 4) -> Iterator[Batch]:
    """Standard normal features, and the class that a fixed tanh net gives them."""
    (first, second), generator = teacher(dims, classes), data.rng(seed, 606)
    while True:
        x = torch.randn(size, dims, generator=generator)
        yield x, ((x @ first.T).tanh() @ second.T).argmax(1)


def arm(size: int, seed: int) -> Iterator[Batch]:
    """Three angles of a robot's arm, and where its hand is: two numbers of mean about 0 and deviation about 1."""
    generator = data.rng(seed, 607)
    while True:
        x = 3.46 * (torch.rand(size, 3, generator=generator) - 0.5)
        turned = x.cumsum(1)
        lengths = torch.tensor([1.0, 0.8, 0.6])
        yield x, torch.stack([(lengths * turned.cos()).sum(1) - 0.9, (lengths * turned.sin()).sum(1)], 1) / 0.95


def noisy(size: int, seed: int) -> Iterator[Batch]:
    """Digits without their mean image, with noise and without; the deviation of all pixels is one."""
    generator = data.rng(seed, 608)
    x, y = data.digits()
    centred = x - x.mean(0)
    for clean, _ in data.batches(centred / centred.std(), y, size, seed):
        yield clean + 0.7 * torch.randn(clean.shape, generator=generator), clean


def tones(size: int, seed: int, length: int = 48) -> Iterator[Batch]:
    """Sounds of one channel in noise: a sine, a square, a saw or a rising pitch; and which it is."""
    generator = data.rng(seed, 609)
    time = torch.arange(length) / length
    while True:
        y = torch.randint(0, 4, (size,), generator=generator)
        phase, pitch = torch.rand(size, 1, generator=generator), 2 + 3 * torch.rand(size, 1, generator=generator)
        turns = pitch * time + phase
        sine = (math.tau * turns).sin()
        kinds = torch.stack([sine, sine.sign(), 2 * (turns % 1) - 1, (math.tau * (turns + 4 * time**2)).sin()])
        yield (kinds[y, torch.arange(size)] + 0.2 * torch.randn(size, length, generator=generator))[:, None], y


def swings(size: int, seed: int, length: int = 16) -> Iterator[Batch]:
    """Damped swings of any pitch in a little noise, a frame a sample; and the next one."""
    generator = data.rng(seed, 610)
    time = torch.arange(length + 1)
    while True:
        pitch, phase, loss = (torch.rand(size, 1, generator=generator) for _ in range(3))
        wave = 1.5 * ((0.3 + 0.7 * pitch) * time + math.tau * phase).sin() * (-0.04 * loss * time).exp()
        wave = wave + 0.05 * torch.randn(size, length + 1, generator=generator)
        yield wave[:, :-1, None], wave[:, -1]


def first_number(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Numbers, and the first of them."""
    generator = data.rng(seed, 611)
    while True:
        x = torch.randn(size, length, 1, generator=generator)
        x[:, 1:] *= 0.3
        yield x, x[:, 0, 0].clone()


def totals(size: int, length: int, seed: int) -> Iterator[Batch]:
    """Pairs of numbers, and the sum of all first ones of a pair over the root of their count."""
    generator = data.rng(seed, 612)
    while True:
        x = torch.randn(size, length, 2, generator=generator)
        yield x, x[..., 0].sum(1) / length**0.5
