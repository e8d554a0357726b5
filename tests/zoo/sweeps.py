"""Severity sweeps: one fault from mild to severe. Whether a level does harm is measured, not declared.

    python tests/zoo/sweeps.py             # what each level does, unwatched; --sweeps eighth: of a fresh set
    python tests/zoo/score.py --sweeps     # what gradwatch says about it

Every level of a sweep is trained unwatched on the same batches. With the improvement of the sweep's best level for a
measure (first loss of that level, mean of the last 15 losses), a level is
  harmful   if it loses more than half of that improvement, or ends non-finite
  harmless  if it keeps more than 80 % of it
  unjudged  between the two
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import ModuleType

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from zoo import loop, models, models_seq
from zoo.core import Run
from zoo.faulty_poison import half
from zoo.faulty_rate import jumping
from zoo.faulty_units import dead_stack
from zoo.recipes import VOCAB, echoing, images, odd_batch, on_digits, stack, tabular, transformer, writing

SETS = ("own", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
"""Our own, and fresh ones: each written without a look at a detector, and judged before a rule was changed for it."""

TAIL = 15
DIVERGES = ("exploding", "lr_too_high", "nonfinite", "dead_relu")


@dataclass(frozen=True)
class Sweep:
    """One fault at several levels, from mild to severe.

    ``accept`` are the labels that name it rightly; ``scales_loss`` says that the level multiplies the loss itself.
    """

    name: str
    accept: tuple[str, ...]
    levels: tuple[float, ...]
    build: Callable[[int, float], Run]
    steps: int = 150
    scales_loss: bool = False

    def start(self, seed: int, level: float) -> Run:
        """Build one level's run."""
        torch.manual_seed(seed)
        run = self.build(seed, level)
        torch.manual_seed(seed + 777)
        return run


def powers(first: int, last: int) -> tuple[float, ...]:
    """Powers of ten, from the first exponent to the last, whichever way that is."""
    step = 1 if last >= first else -1
    return tuple(10.0**k for k in range(first, last + step, step))


def biased_cell(seed: int, radius: float) -> Run:
    """A tanh cell over 20 frames."""
    return echoing(seed, models_seq.CellLoop(4, 32, 4, radius), 20)


def memory(seed: int, length: float) -> Run:
    """A fused tanh RNN of radius 0.8."""
    return echoing(seed, models_seq.Fused("tanh", 4, 32, 4, radius=0.8), int(length))


def branches(seed: int, branch: float) -> Run:
    """Residual blocks without norm."""
    model = models.reset(models.Residual(12, 32, branch, ""), "he")
    return on_digits(seed, model, "sgd", 0.02)


def outlier(seed: int, factor: float) -> Run:
    """One batch of inputs multiplied at step 60."""
    return odd_batch(stack(seed, 3, 48, init="he", kind="momentum", lr=0.02), 60, inputs=factor)


def odd_target(seed: int, factor: float) -> Run:
    """One batch of targets multiplied at step 60."""
    return odd_batch(tabular(seed, "diabetes", 1, kind="sgd", lr=0.02), 60, targets=factor)


def text_rnn(seed: int, clip: float) -> Run:
    """A GRU on text under SGD and clipping."""
    return writing(seed, models_seq.Fused("gru", 16, 32, VOCAB, vocab=VOCAB, every=True), "sgd", 2.0, clip=clip)


SWEEPS = (
    Sweep("sgd_rate_up", DIVERGES, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
          lambda s, v: stack(s, 3, 48, init="he", kind="sgd", lr=v)),
    Sweep("momentum_rate_up_convs", DIVERGES, (0.02, 0.04, 0.1, 0.3, 1.0, 3.0, 10.0),
          lambda s, v: images(s, "he", depth=4, lr=v), 100),
    Sweep("adam_rate_up", (*DIVERGES, "saturation"), powers(-3, 2),
          lambda s, v: stack(s, 3, 48, "gelu", kind="adam", lr=v)),
    Sweep("adam_rate_up_transformer", DIVERGES, (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0),
          lambda s, v: transformer(s, lr=v), 100),
    Sweep("sgd_rate_down", ("stalled",), powers(-1, -7), lambda s, v: stack(s, 2, 64, kind="momentum", lr=v)),
    Sweep("adam_rate_down", ("stalled",), (1e-2, *powers(-3, -8)),
          lambda s, v: tabular(s, "breast_cancer", kind="adam", lr=v)),
    Sweep("relu_init_up", DIVERGES, (1.0, 1.2, 1.4, 1.6, 1.8, 2.5, 5.0),
          lambda s, v: stack(s, 8, 48, init="he", gain=v, kind="sgd", lr=0.01)),
    Sweep("tanh_init_down", ("vanishing", "stalled"), (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.03),
          lambda s, v: stack(s, 8, 48, "tanh", "xavier", gain=v, kind="momentum", lr=0.03)),
    Sweep("sigmoid_depth", ("vanishing", "stalled"), (1, 2, 3, 4, 6, 8, 12),
          lambda s, v: stack(s, int(v), 48, "sigmoid", "xavier", kind="momentum", lr=0.1), 250),
    Sweep("recurrent_radius_down", ("vanishing",), (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3), biased_cell, 200),
    Sweep("recurrent_length_up", ("vanishing",), (5, 8, 12, 18, 25, 35, 50), memory, 200),
    Sweep("inputs_up", ("input_scale", "saturation", *DIVERGES), powers(0, 6),
          lambda s, v: stack(s, 3, 48, init="he", times=v, kind="sgd", lr=0.05)),
    Sweep("inputs_up_tanh", ("input_scale", "saturation", "vanishing", *DIVERGES), powers(0, 6),
          lambda s, v: stack(s, 3, 48, "tanh", "xavier", times=v, kind="sgd", lr=0.05)),
    Sweep("relu_bias_down", ("dead_relu",), (0.0, -0.5, -1.0, -2.0, -4.0, -8.0, -16.0),
          lambda s, v: dead_stack(s, 1, v)),
    Sweep("clip_down", ("stalled",), (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5), text_rnn),
    Sweep("adam_eps_up", ("stalled",), powers(-8, 4)[::2], lambda s, v: stack(s, 3, 48, kind="adam", lr=2e-3, eps=v)),
    Sweep("outlier_batch_up", ("data_outlier", "input_scale", *DIVERGES), powers(0, 7), outlier, 140),
    Sweep("outlier_targets_up", ("data_outlier", "input_scale", *DIVERGES), powers(0, 6), odd_target, 140),
    Sweep("rate_jump_up", DIVERGES, (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
          lambda s, v: jumping(s, "convs", v, 60), 120),
    Sweep("branch_up", DIVERGES, (0.2, 0.3, 0.4, 0.5, 0.6, 1.0, 3.0), branches, 100),
    Sweep("tanh_gain_up", ("saturation", "vanishing", *DIVERGES), (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
          lambda s, v: stack(s, 4, 40, "tanh", "xavier", gain=v, kind="sgd", lr=0.05)),
    Sweep("half_loss_scale_up", ("nonfinite", "exploding"), tuple(2.0**k for k in (0, 6, 10, 13, 16, 20, 24)),
          lambda s, v: half(s, models.Stack([64, 48, 48, 10], "tanh"), v, 0.2), 120, scales_loss=True),
)  # fmt: skip


@dataclass(frozen=True)
class Level:
    """What one level did: the share of the best level's improvement that it keeps, and the verdict on it."""

    level: float
    kept: float
    verdict: str


def assess(losses: dict[float, list[float]], steps: int) -> list[Level]:
    """Judge the levels of one sweep by their losses; those of a level that stopped early are non-finite."""
    ends = {level: fmean(series[-TAIL:]) if len(series) == steps else math.nan for level, series in losses.items()}
    best = min((level for level in ends if math.isfinite(ends[level])), key=lambda level: ends[level])
    first = losses[best][0]
    judged = []
    for level, end in ends.items():
        kept = (first - end) / max(first - ends[best], 1e-30) if math.isfinite(end) else -math.inf
        judged.append(Level(level, kept, "harmful" if kept < 0.5 else "harmless" if kept > 0.8 else "unjudged"))
    return judged


def measure(sweep: Sweep, seed: int) -> list[Level]:
    """Train all levels of a sweep, unwatched."""
    return assess(
        {level: losses_of(sweep, level, loop.train(sweep.start(seed, level), sweep.steps)) for level in sweep.levels},
        sweep.steps,
    )


def losses_of(sweep: Sweep, level: float, losses: list[float]) -> list[float]:
    """The losses in a unit that all levels share."""
    return [loss / level for loss in losses] if sweep.scales_loss else losses


def sweeps_of(name: str) -> tuple[Sweep, ...]:
    """The sweeps of a set."""
    found: tuple[Sweep, ...] = module_of(name).SWEEPS
    return found


def right_causes_of(name: str) -> dict[str, tuple[str, ...]]:
    """Which first causes are right for each of its sweeps, where somebody has said so."""
    return dict(getattr(module_of(name), "RIGHT_CAUSES", {}))


def module_of(name: str) -> ModuleType:
    """Where a set is."""
    return importlib.import_module("zoo.sweeps" if name == "own" else f"zoo.sweeps_{name}")


def main() -> None:
    """Print what each level does."""
    from zoo.score import options

    parser = options(__doc__)
    parser.add_argument("--sweeps", choices=SETS, default="own", help="which set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for sweep in sweeps_of(args.sweeps):
        if args.only and not any(word in sweep.name for word in args.only):
            continue
        for seed in args.seeds:
            told = (f"{level.level:g}:{max(level.kept, -9.99):.2f}{level.verdict[4]}" for level in measure(sweep, seed))
            print(f"{sweep.name}.{seed}", *told, flush=True)


if __name__ == "__main__":
    main()
