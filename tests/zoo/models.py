"""Feed-forward blocks: stacks with module or functional activations, convolutions, residual nets, autoencoders."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky": partial(nn.LeakyReLU, 0.01),
    "elu": nn.ELU,
    "hardtanh": nn.Hardtanh,
    "softsign": nn.Softsign,
    "softplus": nn.Softplus,
    "none": nn.Identity,
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "hardtanh": functional.hardtanh,
    "none": lambda x: x,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "": lambda n: nn.Identity(),
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
}


def reset(model: nn.Module, kind: str, gain: float = 1.0) -> nn.Module:
    """Initialise all weight matrices: ``xavier``, ``he``, ``orthogonal``, ``normal`` or ``uniform`` times ``gain``."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            weight = module.weight
            with torch.no_grad():
                if kind == "xavier":
                    nn.init.xavier_uniform_(weight, gain)
                elif kind == "he":
                    nn.init.kaiming_normal_(weight, nonlinearity="relu").mul_(gain)
                elif kind == "orthogonal":
                    nn.init.orthogonal_(weight, gain)
                elif kind == "uniform":
                    nn.init.uniform_(weight, -gain, gain)
                elif kind == "normal":
                    nn.init.normal_(weight, std=gain)
                else:
                    weight.mul_(gain)
            if module.bias is not None and kind != "torch":
                nn.init.zeros_(module.bias)
    return model


class Stack(nn.Module):
    """Linear layers ``linears.i`` with activations as modules ``acts.i``, or as functions in ``forward``."""

    def __init__(
        self,
        sizes: list[int],
        act: str = "relu",
        *,
        functional: bool = False,
        norm: str = "",
        drop: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(NORMS[norm](n) for n in sizes[1:-1]) if norm else None
        self.acts = None if functional else nn.ModuleList(ACTIVATIONS[act]() for _ in sizes[1:-1])
        self.drop = nn.Dropout(drop) if drop else None
        self.function = act

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the last layer, without activation."""
        last = len(self.linears) - 1
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if i < last:
                x = x if self.norms is None else self.norms[i](x)
                x = FUNCTIONS[self.function](x) if self.acts is None else self.acts[i](x)
                x = x if self.drop is None else self.drop(x)
        return x


class Images(nn.Module):
    """Convolutions ``convs.i`` over 8 x 8 digits and a linear head; BatchNorm, shortcuts, functional activations."""

    def __init__(
        self,
        depth: int = 4,
        width: int = 12,
        act: str = "relu",
        *,
        functional: bool = False,
        norm: bool = False,
        shortcut: bool = False,
        branch: float = 1.0,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 if i == 0 else width, width, 3, padding=1) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth)) if norm else None
        self.acts = None if functional else nn.ModuleList(ACTIVATIONS[act]() for _ in range(depth))
        self.head = nn.Linear(width * 4, 10)
        self.function, self.shortcut, self.branch = act, shortcut, branch

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.reshape(-1, 1, 8, 8)
        for i, conv in enumerate(self.convs):
            h = conv(x)
            h = h if self.norms is None else self.norms[i](h)
            h = FUNCTIONS[self.function](h) if self.acts is None else self.acts[i](h)
            x = x + self.branch * h if self.shortcut and i else h
        return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Residual(nn.Module):
    """A residual MLP: ``x + branch * up(act(down(norm(x))))`` for each of ``blocks.i``."""

    def __init__(self, depth: int, width: int = 48, branch: float = 1.0, norm: str = "layer") -> None:
        super().__init__()
        self.inlet = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(NORMS[norm](width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.outlet = nn.Linear(width, 10)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for block in self.blocks:
            x = x + self.branch * block(x)
        return self.outlet(x)


class AutoEncoder(nn.Module):
    """An encoder and a decoder of ``depth`` layers each around a narrow code."""

    def __init__(
        self, depth: int, act: str, code: int = 12, width: int = 48, *, functional: bool = False, norm: str = ""
    ) -> None:
        super().__init__()
        self.encoder = Stack([64] + [width] * (depth - 1) + [code], act, functional=functional, norm=norm)
        self.decoder = Stack([code] + [width] * (depth - 1) + [64], act, functional=functional, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        return self.decoder(self.encoder(x))


class Variational(nn.Module):
    """A variational autoencoder; ``clamp`` bounds the log-variance."""

    def __init__(self, code: int = 6, *, clamp: bool = True) -> None:
        super().__init__()
        self.encoder = Stack([64, 48, 2 * code])
        self.decoder = Stack([code, 48, 64])
        self.clamp = clamp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log-variance."""
        mean, log_var = self.encoder(x).chunk(2, -1)
        log_var = log_var.clamp(-8, 8) if self.clamp else log_var
        return self.decoder(mean + torch.randn_like(mean) * (0.5 * log_var).exp()), mean, log_var


class Hourglass(nn.Module):
    """A U-Net in small for 8 x 8 images, with or without its skip connections."""

    def __init__(self, width: int = 8, *, skips: bool = True) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(1, width, 3, padding=1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = nn.Conv2d(2 * width, 1, 3, padding=1)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        """The image that comes out, as a row of 64."""
        first = functional.relu(self.down1(x.reshape(-1, 1, 8, 8)))
        h = functional.relu(self.middle(functional.relu(self.down2(first))))
        h = functional.relu(self.up(h))
        return self.last(torch.cat([h, first if self.skips else torch.zeros_like(first)], 1)).flatten(1)


class Twins(nn.Module):
    """A siamese net: two inputs, one embedding network."""

    def __init__(self, act: str = "relu") -> None:
        super().__init__()
        self.embed = Stack([64, 64, 16], act)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings."""
        return self.embed(a), self.embed(b)


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank adapter whose second factor starts at zero."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The base layer's output and the adapter's."""
        return self.base(x) + 2.0 * x @ self.lora_a.T @ self.lora_b.T


class Experts(nn.Module):
    """A mixture of experts with hard top-1 routing; experts that nobody chose have no gradient."""

    def __init__(self, experts: int = 6, width: int = 32) -> None:
        super().__init__()
        self.router = nn.Linear(64, experts)
        self.experts = nn.ModuleList(Stack([64, width, 10]) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, weighted by the router's confidence."""
        share, choice = self.router(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            rows = (choice == i).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, share[rows, None] * expert(x[rows]))
        return out
