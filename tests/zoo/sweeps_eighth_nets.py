"""Nets of the eighth part of the severity sweeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Around(nn.Module):
    """One linear layer and an activation, added to what comes in."""

    def __init__(self, width: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(width, width), act()

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.act(self.fc(x))


def shortcuts(d_in: int, d_out: int, blocks: int, width: int, act: Callable[[], nn.Module]) -> nn.Sequential:
    """A residual net without norm: a stem, blocks of one layer each, a head."""
    return nn.Sequential(nn.Linear(d_in, width), *(Around(width, act) for _ in range(blocks)), nn.Linear(width, d_out))


class Turner(nn.Module):
    """Plain convolutions on images of 8 x 8, the second with a stride; all answers go through a linear layer."""

    def __init__(self, depth: int = 3, width: int = 12, act: Callable[[], nn.Module] = nn.ELU) -> None:
        super().__init__()
        inputs = [1, *[width] * (depth - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(n, width, 3, 1 + int(number == 1), 1) for number, n in enumerate(inputs))
        self.acts, self.head = nn.ModuleList(act() for _ in inputs), nn.Linear(16 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x))
        return self.head(x.flatten(1))


class Dilated(nn.Module):
    """Convolutions over a sound whose reach doubles with each, ReLU after each; the mean over time is classified."""

    def __init__(self, depth: int = 4, width: int = 14) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width if number else 1, width, 3, padding=2**number, dilation=2**number)
            for number in range(depth)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for conv in self.convs:
            x = functional.relu(conv(x))
        return self.head(x.mean(2))


class Signs(nn.Module):
    """Symbols through an embedding and a recurrent net of torch's own; a linear layer on every state."""

    def __init__(self, rnn: nn.Module, symbols: int) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(symbols, rnn.input_size), rnn
        self.fc = nn.Linear(rnn.hidden_size, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        return self.fc(self.rnn(self.embed(x))[0])


class Final(nn.Module):
    """A recurrent net of torch's own over pairs of numbers; one number from its last state."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.fc = rnn, nn.Linear(rnn.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        return self.fc(self.rnn(x)[0][:, -1])


class LinearMemory(nn.Module):
    """A recurrence without any activation, ``h = W h + V x + b``, from an orthogonal ``W`` times ``radius``."""

    def __init__(self, radius: float, width: int = 20) -> None:
        super().__init__()
        self.inlet, self.keep = nn.Linear(2, width), nn.Linear(width, width, bias=False)
        nn.init.orthogonal_(self.keep.weight, radius)
        self.fc = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        h = torch.zeros(len(x), self.keep.in_features)
        for frame in self.inlet(x).unbind(1):
            h = self.keep(h) + frame
        return self.fc(h)


class Causal(nn.Module):
    """A decoder of torch's own pre-norm layers over symbols."""

    def __init__(self, symbols: int = 12, length: int = 10, width: int = 24, layers: int = 2) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(symbols, width), nn.Parameter(0.1 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 3, 3 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        h = self.token(x) + self.place
        for layer in self.layers:
            h = layer(h, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(h))


class CutFront(nn.Module):
    """Narrow tanh layers, of which the first ``cut`` give a detached answer, and a head."""

    def __init__(self, d_in: int, d_out: int, depth: int, width: int, cut: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(d_in if not i else width, width) for i in range(depth))
        self.head, self.cut = nn.Linear(width, d_out), cut

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        for number, layer in enumerate(self.layers, 1):
            x = layer(x).tanh()
            x = x.detach() if number == self.cut else x
        return self.head(x)
