"""Faulty runs in which an operation leaves its domain: log(0), 0/0, sqrt(0), acos(1), overflow of exp, and so on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data, models, models_seq
from zoo.core import Batch, Registry, Run
from zoo.recipes import VOCAB, cross_entropy, on_digits, optimizer, sized, stack, writing

SCENARIOS = Registry()
N = "nonfinite"


class Counts(nn.Module):
    """Predicts a rate through ``relu`` (may be zero), ``softplus`` or ``exp``."""

    def __init__(self, link: str) -> None:
        super().__init__()
        self.body = models.Stack([10, 32, 1], "tanh")
        self.link = link

    def forward(self, x: Tensor) -> Tensor:
        """The rate."""
        h = self.body(x)[:, 0]
        return {"relu": torch.relu, "softplus": functional.softplus, "exp": torch.exp}[self.link](h)


def poisson(seed: int, link: str, lr: float = 0.02) -> Run:
    """Poisson regression of the diabetes target in units of its deviation."""
    model = Counts(link)
    nn.init.constant_(model.body.linears[1].bias, 0.4)
    x, y = data.table("diabetes")
    y = (y * 0.8 + 1.6).clamp_min(0.0)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        rate = model(batch[0])
        return (rate - batch[1] * rate.log()).mean()

    return Run(model, optimizer(model.parameters(), "adam", lr), data.batches(x, y, 64, seed), loss)


class SelfScaled(nn.Module):
    """Standardises each batch by its own deviation before a stack."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.body = models.Stack(sized(2, 48))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.body((x - x.mean(0)) / (x.std(0) + self.eps))


class Spread(nn.Module):
    """Describes an image by the mean and the deviation of its features."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.filters = nn.Linear(64, 96, bias=False)
        self.head = models.Stack([48, 48, 10])
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.filters(x).view(len(x), 24, 4)
        return self.head(torch.cat([h.mean(2), (h.var(2) + self.eps).sqrt()], 1))


def blank_images(seed: int, eps: float, at: int) -> Run:
    """From step ``at`` on one image is blank."""

    def blank(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[5] = 0.0
        return x, batch[1]

    run = on_digits(seed, Spread(eps), "adam", 3e-3)
    run.batches = data.altered(run.batches, blank, at, data.FOREVER)
    return run


def angles(seed: int, margin: float, at: int) -> Run:
    """Pairs of the same class should have a small angle; from step ``at`` on a pair is one image twice."""
    model = models.Twins("tanh")

    def twice(batch: Batch) -> Batch:
        x, y = batch[0].clone(), batch[1].clone()
        x[40], y[40] = x[8], y[8]
        return x, y

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        a, b = model(batch[0][:32], batch[0][32:])
        angle = functional.cosine_similarity(a, b).clamp(margin - 1, 1 - margin).acos()
        same = (batch[1][:32] == batch[1][32:]).float()
        return (same * angle + (1 - same) * functional.relu(1.5 - angle)).mean()

    stream = data.altered(data.batches(*data.digits(), 64, seed), twice, at, data.FOREVER)
    return Run(model, optimizer(model.parameters(), "adam", 3e-3), stream, loss)


class Power(nn.Module):
    """Raises a feature to the power 1.5, of its positive part if ``safe``."""

    def __init__(self, *, safe: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(30, 24), nn.Linear(24, 24), nn.Linear(24, 2)
        nn.init.constant_(self.second.bias, 1.2)
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.second(torch.tanh(self.first(x)))
        return self.head((h.clamp_min(1e-3) if self.safe else h).pow(1.5))


def powers(seed: int, *, safe: bool) -> Run:
    """Breast cancer through a power."""
    model = Power(safe=safe)
    return Run(
        model,
        optimizer(model.parameters(), "momentum", 0.02),
        data.batches(*data.table("breast_cancer"), 32, seed),
        cross_entropy,
    )


def own_softmax(seed: int, at: int, *, safe: bool) -> Run:
    """A softmax by hand, with or without subtracting the maximum; from step ``at`` on logits have a common offset."""
    run = stack(seed, 2, 64, init="he", kind="adam", lr=2e-3)
    now = [0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0]) + (100.0 if now[0] >= at else 0.0)
        now[0] += 1
        shifted = logits - logits.detach().amax(1, keepdim=True) if safe else logits
        p = shifted.exp() / shifted.exp().sum(1, keepdim=True)
        return -(p[torch.arange(len(p)), batch[1]] + 1e-9).log().mean()

    run.loss_fn = loss
    return run


class Pooled(nn.Module):
    """Attention pooling over characters, character 0 masked out with ``fill``."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 24)
        self.score, self.head = nn.Linear(24, 1), nn.Linear(24, 2)
        self.fill = fill

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.embed(x)
        share = self.score(h)[..., 0].masked_fill(x == 0, self.fill).softmax(1)
        return self.head((share[..., None] * h).sum(1))


def masked(seed: int, fill: float, at: int) -> Run:
    """Does a text hold more than two spaces? From step ``at`` on one text of each batch is padding only."""
    model = Pooled(fill)
    space = int(data.text()[0].mode().values)

    def label(batch: Batch) -> Batch:
        return batch[0], ((batch[0] == space).sum(1) > 2).long()

    def pad(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[3] = 0
        return x, batch[1]

    stream = data.altered(map(label, data.windows(32, 16, seed)), pad, at, data.FOREVER)
    return Run(model, optimizer(model.parameters(), "adam", 1e-2), stream, cross_entropy)


def unit_gradients(seed: int, eps: float) -> Run:
    """Hooks divide each gradient by its norm; the head starts at zero, so the body's first norm is zero."""
    run = stack(seed, 3, 48, kind="sgd", lr=0.02)
    nn.init.zeros_(run.model.linears[3].weight)
    for p in run.model.parameters():
        p.register_hook(lambda g: g / (g.norm() + eps))
    return run


def no_eps(seed: int, eps: float) -> Run:
    """Adam without eps on an embedding most of whose rows have no gradient."""
    return writing(seed, models_seq.Fused("gru", 16, 32, VOCAB, vocab=VOCAB, every=True), "adam", 5e-3, eps=eps)


def absent_class(seed: int, at: int, *, safe: bool) -> Run:
    """A loss averaged per class; from step ``at`` on no batch holds class 3."""
    run = stack(seed, 2, 64, kind="adam", lr=2e-3)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        each = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        parts = [each[batch[1] == c] for c in range(10)]
        return torch.stack([part.mean() for part in parts if len(part) or not safe]).mean()

    def without(batch: Batch) -> Batch:
        y = batch[1].clone()
        y[y == 3] = 8
        return batch[0], y

    run.loss_fn = loss
    run.batches = data.altered(data.batches(*data.digits(), 128, seed), without, at, data.FOREVER)
    return run


add = SCENARIOS.pair
BAD = "first_bad"
OP = ("domain_operation",)
add("log_of_zero_rate", N, "log of a rate that relu made zero", poisson, {"link": "relu"}, {"link": "softplus"}, OP,
    onset=BAD, check=N, steps=150)  # fmt: skip
add("constant_pixel_over_its_std", N, "a constant pixel is divided by its deviation: 0/0",
    lambda seed, eps: on_digits(seed, SelfScaled(eps), "momentum", 0.05), {"eps": 0.0}, {"eps": 1e-2},
    (*OP, "nonfinite_input"), onset=0, check=N, steps=120)  # fmt: skip
add("sqrt_of_zero_variance", N, "sqrt of a variance that is zero once a blank image arrives at step 45",
    blank_images, {"eps": 0.0, "at": 45}, {"eps": 1e-4, "at": 45}, OP, onset=45, check=N, steps=90,
    faulty_layers=("filters",))  # fmt: skip
add("acos_of_one", N, "acos at 1, whose slope is infinite, when a pair is one image twice from step 60", angles,
    {"margin": 0.0, "at": 60}, {"margin": 1e-3, "at": 60}, OP, onset=BAD, check=N, steps=100)  # fmt: skip
add("power_of_negative", N, "a negative number to the power 1.5", powers, {"safe": False}, {"safe": True}, OP,
    onset=BAD, check=N, steps=120, faulty_layers=("second", "head"))  # fmt: skip
add("softmax_by_hand", N, "exp overflows in a softmax without subtracting the maximum: an offset of 100 from step 30",
    own_softmax, {"at": 30, "safe": False}, {"at": 30, "safe": True}, OP, onset=30, check=N, steps=90)  # fmt: skip
add("mask_all_minus_inf", N, "softmax over a text that is all padding, masked with -inf, from step 50", masked,
    {"fill": float("-inf"), "at": 50}, {"fill": -1e4, "at": 50}, OP, onset=50, check=N, steps=90)  # fmt: skip
add("gradients_over_zero_norm", N, "hooks divide each gradient by its norm, which is zero at first", unit_gradients,
    {"eps": 0.0}, {"eps": 1e-6}, OP, onset=0, check=N, steps=120)  # fmt: skip
add("adam_without_eps", N, "Adam with eps 0 divides zero gradients by zero: NaN weights", no_eps, {"eps": 0.0},
    {"eps": 1e-8}, (*OP, "nonfinite_weight"), onset=0, check=N, steps=120)  # fmt: skip
add("mean_of_no_samples", N, "the mean over a class that is absent from step 55 on: 0/0", absent_class,
    {"at": 55, "safe": False}, {"at": 55, "safe": True}, OP, onset=55, check=N, steps=95)  # fmt: skip
