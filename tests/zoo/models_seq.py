"""Models of sequences: fused and hand-written recurrent nets, transformers, convolutions and bags over text."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def orthogonal(weight: Tensor, radius: float) -> None:
    """Make each square block of the weight orthogonal times ``radius``."""
    with torch.no_grad():
        for block in weight.split(weight.shape[1]):
            block.copy_(nn.init.orthogonal_(torch.empty_like(block)) * radius)


class Fused(nn.Module):
    """``nn.RNN`` (``tanh``, ``relu``), ``nn.GRU`` or ``nn.LSTM`` over numbers, or characters if ``vocab`` is given."""

    def __init__(
        self,
        kind: str,
        d_in: int,
        hidden: int,
        d_out: int,
        *,
        vocab: int = 0,
        every: bool = False,
        radius: float | None = None,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, d_in) if vocab else None
        if kind in ("tanh", "relu"):
            self.rnn: nn.RNNBase = nn.RNN(d_in, hidden, layers, nonlinearity=kind, batch_first=True)
        else:
            self.rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](d_in, hidden, layers, batch_first=True)
        if radius is not None:
            for name, weight in self.rnn.named_parameters():
                if name.startswith("weight_hh"):
                    orthogonal(weight, radius)
        self.out = nn.Linear(hidden, d_out)
        self.every = every

    def forget(self, bias: float) -> Fused:
        """Set the forget gates' bias of an LSTM."""
        hidden = self.rnn.hidden_size
        with torch.no_grad():
            for name, value in self.rnn.named_parameters():
                if name.startswith("bias"):
                    value[hidden : 2 * hidden] = bias / 2
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last frame, or of every frame."""
        h, _ = self.rnn(x if self.embed is None else self.embed(x))
        return self.out(h if self.every else h[:, -1])


class CellLoop(nn.Module):
    """A loop over ``nn.RNNCell``."""

    def __init__(self, d_in: int, hidden: int, d_out: int, radius: float, act: str = "tanh") -> None:
        super().__init__()
        self.cell = nn.RNNCell(d_in, hidden, nonlinearity=act)
        orthogonal(self.cell.weight_hh, radius)
        self.out = nn.Linear(hidden, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last frame."""
        h = x.new_zeros(len(x), self.cell.hidden_size)
        for frame in x.unbind(1):
            h = self.cell(frame, h)
        return self.out(h)


class OwnCell(nn.Module):
    """A hand-written recurrence of two linear layers; ``act`` is ``tanh``, ``relu``, ``sigmoid`` or ``none``."""

    def __init__(self, d_in: int, hidden: int, d_out: int, radius: float, act: str = "tanh") -> None:
        super().__init__()
        self.inward = nn.Linear(d_in, hidden)
        self.again = nn.Linear(hidden, hidden, bias=False)
        orthogonal(self.again.weight, radius)
        self.out = nn.Linear(hidden, d_out)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last frame."""
        h = x.new_zeros(len(x), self.again.in_features)
        for frame in self.inward(x).unbind(1):
            h = frame + self.again(h)
            if self.act != "none":
                h = getattr(torch, self.act)(h)
        return self.out(h)


class OwnGates(nn.Module):
    """A hand-written gated recurrence ``h = f * h + (1 - f) * c``; ``keep`` is the gate's initial bias."""

    def __init__(self, d_in: int, hidden: int, d_out: int, keep: float) -> None:
        super().__init__()
        self.gate = nn.Linear(d_in + hidden, hidden)
        self.candidate = nn.Linear(d_in, hidden)
        self.out = nn.Linear(hidden, d_out)
        nn.init.constant_(self.gate.bias, keep)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last frame."""
        h = x.new_zeros(len(x), self.out.in_features)
        for frame in x.unbind(1):
            f = torch.sigmoid(self.gate(torch.cat([frame, h], 1)))
            h = f * h + (1 - f) * torch.tanh(self.candidate(frame))
        return self.out(h)


class Attend(nn.Module):
    """Self-attention whose logits pass a softmax module; ``sharp`` multiplies them."""

    def __init__(self, width: int, heads: int, sharp: float = 1.0, *, causal: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.softmax = nn.Softmax(-1)
        self.heads, self.sharp, self.causal = heads, sharp, causal

    def forward(self, x: Tensor) -> Tensor:
        """What each position gathers."""
        n, t, d = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        logits = self.sharp * q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if self.causal:
            logits = logits.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -1e4)
        return self.out((self.softmax(logits) @ v).transpose(1, 2).reshape(n, t, d))


class Layer(nn.Module):
    """A pre-norm transformer layer with a feed-forward part; ``norm=False`` leaves the norms out."""

    def __init__(self, width: int, heads: int, sharp: float, *, norm: bool = True, causal: bool = True) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.attend = Attend(width, heads, sharp, causal=causal)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Positions in, positions out."""
        x = x + self.attend(self.norm1(x))
        return x + self.narrow(functional.gelu(self.wide(self.norm2(x))))


class OwnTransformer(nn.Module):
    """A small transformer over characters or symbols; ``tied`` shares the embedding with the head."""

    def __init__(
        self,
        vocab: int,
        width: int = 32,
        layers: int = 2,
        heads: int = 2,
        length: int = 24,
        *,
        sharp: float = 1.0,
        norm: bool = True,
        tied: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(Layer(width, heads, sharp, norm=norm, causal=causal) for _ in range(layers))
        self.final = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, vocab)
        if tied:
            nn.init.normal_(self.embed.weight, std=width**-0.5)
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every position."""
        h = self.embed(x) + self.place[: x.shape[1]]
        for layer in self.layers:
            h = layer(h)
        return self.head(self.final(h))


class TorchTransformer(nn.Module):
    """``nn.TransformerEncoder`` over characters, causal; post-norm unless ``first``."""

    def __init__(
        self, vocab: int, width: int = 32, layers: int = 2, length: int = 24, drop: float = 0.0, *, first: bool = True
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, drop, batch_first=True, norm_first=first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocab)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every position."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.encoder(self.embed(x) + self.place[: x.shape[1]], mask=mask, is_causal=True))


class TextConv(nn.Module):
    """One-dimensional convolutions over characters, averaged, with a linear head."""

    def __init__(self, vocab: int, width: int = 24, depth: int = 2, d_out: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(width, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(x).transpose(1, 2)
        for conv in self.convs:
            h = functional.relu(conv(h))
        return self.head(h.amax(2))


class Sounds(nn.Module):
    """Two strided convolutions over raw samples, averaged."""

    def __init__(self, width: int = 12, act: str = "relu") -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, width, 5, 2, 2), nn.Conv1d(width, width, 5, 2, 2)
        self.head = nn.Linear(width, 2)
        self.act = getattr(torch, act)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.act(self.conv2(self.act(self.conv1(x[:, None]))))
        return self.head(h.amax(2))
