"""Real models on real data, for the tests: an MLP, a CNN with BatchNorm, an LSTM and a transformer."""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional


class CharModel(nn.Module):
    """A character model over an embedding: ``body`` maps ``[batch, time, 16]`` to ``[batch, time, 32]``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 16)
        self.body = body
        self.head = nn.Linear(32, 128)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, time, 128]``."""
        hidden = self.body(self.embed(text))
        return self.head(hidden[0] if isinstance(hidden, tuple) else hidden)


def mlp(depth: int = 3, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """For digits."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(64 if i == 0 else 32, 32), act()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def cnn() -> nn.Sequential:
    """For digits, with BatchNorm, dropout and an in-place ReLU."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(512, 10),
    )


def lstm() -> CharModel:
    """For text."""
    return CharModel(nn.LSTM(16, 32, batch_first=True))


def transformer() -> CharModel:
    """For text."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    return CharModel(nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 32)))


MODELS = {"mlp": mlp, "cnn": cnn, "lstm": lstm, "transformer": transformer}


def batch(model: nn.Module, generator: torch.Generator, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """One random batch of what this model reads."""
    if isinstance(model, CharModel):
        text = torch.tensor([ord(c) % 128 for c in topics["if"] + topics["for"] + topics["while"]])
        starts = torch.randint(len(text) - 25, (size,), generator=generator)
        windows = torch.stack([text[s : s + 25] for s in starts.tolist()])
        return windows[:, :-1], windows[:, 1:]
    digits = load_digits()
    picked = torch.randint(len(digits.data), (size,), generator=generator)
    return torch.tensor(digits.data[picked], dtype=torch.float32) / 16, torch.tensor(digits.target[picked])


def loss_of(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy."""
    logits, target = model(data[0]), data[1]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))
