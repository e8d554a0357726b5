"""Faulty runs in which a number that is not finite comes from outside: from data, a bug that writes it, or float16."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo import data, models, models_seq
from zoo.core import Batch, Registry, Run
from zoo.recipes import VOCAB, at_step, cross_entropy, images, on_digits, tabular, writing

SCENARIOS = Registry()
N, BAD = "nonfinite", "first_bad"


def poisoned(seed: int, value: float, at: int | None, *, target: bool = False) -> Run:
    """One number of one batch becomes NaN or inf, in the inputs or in the targets."""
    run = tabular(
        seed, "diabetes" if target else "wine", kind="rmsprop" if target else "nesterov", lr=2e-3 if target else 0.02
    )

    def poison(batch: Batch) -> Batch:
        x, y = batch[0].clone(), batch[1].clone()
        if target:
            y[4] = value
        else:
            x[4, 7] = value
        return x, y

    if at is not None:
        run.batches = data.altered(run.batches, poison, at)
    return run


def written(seed: int, at: int | None, value: float = float("nan"), *, lstm: bool = False) -> Run:
    """A bug writes one number into a weight at step ``at``."""
    if lstm:
        run = writing(seed, models_seq.Fused("lstm", 16, 32, VOCAB, vocab=VOCAB, every=True), lr=5e-3)
    else:
        run = images(seed, depth=4, norm=True)

    def write() -> None:
        with torch.no_grad():
            (run.model.rnn.weight_hh_l0 if lstm else run.model.convs[2].weight).view(-1)[11] = value

    return at_step(run, at, write)


class HalfEnergy(nn.Module):
    """Half-precision features whose squares are summed up over the image; growing inputs leave the range."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.filters = nn.Linear(64, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.filters(x * self.times)
        energy = (h * h).clamp_min(1e-3)
        return self.head(self.norm(energy))


def half(seed: int, model: nn.Module, scale: float = 1.0, lr: float = 0.05, kind: str = "sgd") -> Run:
    """Half-precision weights and inputs; the loss is multiplied by a static scale and the rate divided by it."""
    run = on_digits(seed, model.half(), kind, lr / scale)
    run.batches = ((x.half(), y) for x, y in run.batches)
    run.loss_fn = lambda model, batch: scale * cross_entropy(model, batch)
    return run


add = SCENARIOS.pair
add("nan_in_one_feature", N, "one missing value, NaN, in batch 60", poisoned, {"value": float("nan"), "at": 60},
    {"value": 0.0, "at": None}, ("nonfinite_input", "one_bad_batch"), onset=60, check=N, steps=100,
    accept=("data_outlier",))  # fmt: skip
add("inf_in_one_target", N, "one infinite target in batch 70", poisoned,
    {"value": float("inf"), "at": 70, "target": True}, {"value": 0.0, "at": None, "target": True},
    ("nonfinite_input", "one_bad_batch"), onset=70, check=N, steps=110, accept=("data_outlier",))  # fmt: skip
add("nan_written_into_conv", N, "a bug writes NaN into a convolution's weight at step 50", written, {"at": 50},
    {"at": None}, ("nonfinite_weight",), onset=50, check=N, steps=90, faulty_layers=("convs.2",))  # fmt: skip
add("inf_written_into_lstm", N, "a bug writes inf into an LSTM's recurrent weight at step 40", written,
    {"at": 40, "value": float("inf"), "lstm": True}, {"at": None, "lstm": True}, ("nonfinite_weight",), onset=40,
    check=N, steps=80, faulty_layers=("rnn",))  # fmt: skip
add("half_square_overflow", N, "squares of half-precision features pass 65504",
    lambda seed, times: half(seed, HalfEnergy(times), lr=0.02), {"times": 800.0}, {"times": 2.0},
    ("half_precision_overflow",), onset=BAD, check=N, steps=60, accept=("exploding", "input_scale"))  # fmt: skip
add("half_static_scale_convs", N, "half-precision convolutions under a static loss scale of 2 ** 22",
    lambda seed, scale: half(seed, models.reset(models.Images(2, 8), "he"), scale, 0.1, "momentum"),
    {"scale": 2.0**22}, {"scale": 64.0}, ("loss_scale", "half_precision_overflow"), onset=BAD, check=N, steps=50,
    accept=("exploding",))  # fmt: skip
