"""Nets of the seventh part of the severity sweeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.sweeps_seventh_streams import GOODS, SHOPS


class Panel(nn.Module):
    """Plain convolutions on images of 14 x 10, the second with a stride; no norm, no shortcut."""

    def __init__(self, depth: int = 3, width: int = 10) -> None:
        super().__init__()
        inputs = [1, *[width] * (depth - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(n, width, 3, 1 + int(number == 1), 1) for number, n in enumerate(inputs))
        self.head = nn.Linear(35 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for conv in self.convs:
            x = functional.relu(conv(x))
        return self.head(x.flatten(1))


class Segmenter(nn.Module):
    """A small U-Net with BatchNorm: down by two, up again, and the first features beside them."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inlet, self.norm1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.down, self.norm2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.up, self.norm3 = nn.ConvTranspose2d(2 * width, width, 2, 2, bias=False), nn.BatchNorm2d(width)
        self.outlet = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel."""
        fine = self.norm1(self.inlet(x)).relu()
        coarse = self.norm2(self.down(fine)).relu()
        return self.outlet(torch.cat([fine, self.norm3(self.up(coarse)).relu()], 1))


class Letters(nn.Module):
    """Letters through an embedding and a recurrent net of torch's own; a linear layer on every state, or the last."""

    def __init__(self, rnn: nn.Module, d_out: int, letters: int, *, every: bool = False) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, rnn.input_size), rnn
        self.fc, self.every = nn.Linear(rnn.hidden_size, d_out), every

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.rnn(self.embed(x))[0]
        return self.fc(h if self.every else h[:, -1])


class Frames(nn.Module):
    """A recurrent net of torch's own over numbers; one number from its last state."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.fc = rnn, nn.Linear(rnn.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        return self.fc(self.rnn(x)[0][:, -1])


class Shop(nn.Module):
    """Embeddings of shop and article beside three numbers, through two hidden layers."""

    def __init__(self, act: Callable[[], nn.Module] = nn.ReLU, width: int = 40) -> None:
        super().__init__()
        self.shop, self.article = nn.Embedding(SHOPS, 8), nn.Embedding(GOODS, 6)
        self.body = nn.Sequential(nn.Linear(17, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        shop, article = x[:, 0].long(), x[:, 1].long()
        return self.body(torch.cat([self.shop(shop), self.article(article), x[:, 2:]], 1))


class Heart(nn.Module):
    """Two convolutions over a signal, tanh after each; all answers are classified."""

    def __init__(self, width: int = 14) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, width, 7, padding=3), nn.Conv1d(width, width, 9, 2, 4)
        self.act1, self.act2, self.head = nn.Tanh(), nn.Tanh(), nn.Linear(20 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.act2(self.conv2(self.act1(self.conv1(x)))).flatten(1))


class PostNorm(nn.Module):
    """An encoder of torch's own layers, LayerNorm after each sum, which says at every place what belongs there."""

    def __init__(self, symbols: int = 9, length: int = 8, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(symbols, width), nn.Parameter(0.5 * torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at every place."""
        h = self.token(x) + self.place
        for layer in self.layers:
            h = layer(h)
        return self.head(h)


class Mixer(nn.Module):
    """An MLP-Mixer on digits of 8 x 8 in sixteen patches."""

    def __init__(self, width: int = 24, blocks: int = 2) -> None:
        super().__init__()
        self.patch = nn.Linear(4, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.mixes = nn.ModuleList(
            nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))
            for _ in range(blocks)
            for n in (16, width)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        patches = x.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)
        h = self.patch(patches)
        for number, (norm, mix) in enumerate(zip(self.norms, self.mixes, strict=True)):
            h = h + (mix(norm(h)) if number % 2 else mix(norm(h).transpose(1, 2)).transpose(1, 2))
        return self.head(h.mean(1))


class Masked(nn.Module):
    """A body with a waist that only the last samples of a batch teach: for the share ``cut`` it is detached."""

    def __init__(self, body: nn.Module, head: nn.Module, cut: float) -> None:
        super().__init__()
        self.body, self.head, self.cut = body, head, cut

    def forward(self, x: Tensor) -> Tensor:
        """Outputs."""
        h, rows = self.body(x), round(self.cut * len(x))
        return self.head(h.detach() if rows == len(x) else torch.cat([h[:rows].detach(), h[rows:]]))
