"""Nets of the sixth part of the severity sweeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.sweeps_sixth_streams import WORDS


class Colours(nn.Module):
    """Convolutions on images of 3 x 10 x 10, with GroupNorm or without; their mean over the image is classified."""

    def __init__(self, depth: int = 3, width: int = 12, *, norm: bool = False) -> None:
        super().__init__()
        inputs = [3, *[width] * (depth - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(n, width, 3, 1 + int(number == 1), 1) for number, n in enumerate(inputs))
        self.norms = nn.ModuleList(nn.GroupNorm(3, width) if norm else nn.Identity() for _ in inputs)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


class Branch(nn.Module):
    """Two linear layers around an activation, added to what comes in; a norm in front of them, or none."""

    def __init__(self, width: int, inner: int, act: Callable[[], nn.Module], *, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up, self.act, self.down = nn.Linear(width, inner), act(), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.down(self.act(self.up(self.norm(x))))


class ResidualMlp(nn.Module):
    """A stem, residual branches and a head."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        blocks: int = 4,
        width: int = 32,
        act: Callable[[], nn.Module] = nn.ReLU,
        *,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(d_in, width)
        self.branches = nn.Sequential(*(Branch(width, 2 * width, act, norm=norm) for _ in range(blocks)))
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        return self.head(self.branches(self.stem(x)))


class Shrunk(nn.Module):
    """A body with a narrow end whose gradient is shrunk: of what it gives, the share ``cut`` is detached."""

    def __init__(self, body: nn.Module, head: nn.Module, cut: float) -> None:
        super().__init__()
        self.body, self.head, self.cut = body, head, cut

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        h = self.body(x)
        if self.cut >= 1:
            return self.head(h.detach())
        return self.head(self.cut * h.detach() + (1 - self.cut) * h)


class Recurrent(nn.Module):
    """A recurrent net of torch's own over frames of numbers or symbols, and a linear layer on the last state or all."""

    def __init__(self, rnn: nn.Module, d_out: int, symbols: int = 0, *, every: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, rnn.input_size) if symbols else nn.Identity()
        self.rnn, self.fc, self.every = rnn, nn.Linear(rnn.hidden_size, d_out), every

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        h = self.rnn(self.embed(x))[0]
        return self.fc(h if self.every else h[:, -1])


class Sorter(nn.Module):
    """An encoder of torch's own layers without dropout, which says at every place what belongs there."""

    def __init__(self, symbols: int = 10, length: int = 8, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(symbols, width), nn.Parameter(0.5 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        h = self.token(x) + self.place
        for layer in self.layers:
            h = layer(h)
        return self.head(self.norm(h))


class Cbow(nn.Module):
    """A word from the mean of its neighbours' embeddings."""

    def __init__(self, words: int = WORDS, width: int = 24) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(words, width), nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.embed(x).mean(1))


class Tones(nn.Module):
    """Strided convolutions over a sound; their mean over time goes through a hidden layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, width, 7, 2, 3), nn.Conv1d(width, width, 5, 2, 2)
        self.fc, self.head = nn.Linear(width, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return self.head(functional.relu(self.fc(h.mean(2))))
