"""Verify every label by what is measured on unwatched runs: ``python tests/zoo/verify.py --seeds 0 1 2``.

How a label is proved is the scenario's ``check``:
  loss       the run loses more than half of its twin's improvement, or ends non-finite; the twin improves by a tenth
  own        the same, each by its own first loss (where the fault changes the unit of the loss)
  nonfinite  the first non-finite number appears at the onset, and none in the twin
  dead       nine tenths of the faulty layers' units stay below zero for whole batches, to the end; not in the twin
  saturated  four fifths of the faulty layers' outputs are beyond 5 in the steps after the onset; not in the twin
  unmoved    from the onset on the faulty layers get no gradient but zero, or no optimizer owns them; not in the twin
  spike      gradient norm or loss is 20 times its median at the onset; not in the twin
Healthy runs and twins:
  loss       the loss falls by a tenth
  floor      the loss stays where it is, at its floor or its plateau
  bounded    the loss stays within 20 times its first value (games, loss of changing meaning)
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from zoo import loop
from zoo.core import Run, Scenario

TAIL = 15
SLOW_SECONDS = 1.5


@dataclass
class Measured(loop.Silent):
    """What is measured of one run; an observer of its training."""

    run: Run
    layers: tuple[str, ...]
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    closed: list[float] = field(default_factory=list)
    flat: list[float] = field(default_factory=list)
    silent: list[bool] = field(default_factory=list)
    first_bad: int | None = None
    seconds: float = 0.0

    def named(self, name: str) -> bool:
        """Whether the name lies in one of the faulty layers."""
        return any(name == layer or name.startswith(layer + ".") for layer in self.layers)

    def train(self, steps: int) -> Measured:
        """Train and measure."""
        bad = loop.FirstBad(self.run.model)
        self.bad, self.shares = bad, ([], [])
        hooks = [
            module.register_forward_hook(self._output)
            for name, module in self.run.model.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and self.named(name)
        ]
        began = time.perf_counter()
        try:
            self.losses = loop.train(self.run, steps, self)
        finally:
            bad.close()
            for hook in hooks:
                hook.remove()
        self.seconds, self.first_bad = time.perf_counter() - began, bad.found
        return self

    def loss(self, loss: Tensor) -> None:
        """Look for what is not finite."""
        self.bad.loss(loss)

    def before_step(self) -> None:
        """Measure the gradients."""
        self.bad.before_step()
        owned = {id(p) for o in self.run.optimizers() for group in o.param_groups for p in group["params"]}
        grads = [p.grad for p in self.run.model.parameters() if p.grad is not None]
        self.norms.append(math.sqrt(sum(float(g.detach().to_dense().double().square().sum()) for g in grads)))
        faulty = [p for name, p in self.run.model.named_parameters() if self.named(name)]
        self.silent.append(all(id(p) not in owned or p.grad is None or not p.grad.any() for p in faulty))
        for series, shares in zip((self.closed, self.flat), self.shares, strict=True):
            series.append(max(shares, default=0.0))
            shares.clear()

    def after_step(self) -> None:
        """Look for what is not finite."""
        self.bad.after_step()

    def _output(self, module: nn.Module, args: object, output: Tensor) -> None:
        units = output.detach().transpose(1, -1).flatten(0, -2)
        self.shares[0].append(float((units <= 0).all(0).float().mean()))
        self.shares[1].append(float((units.abs() > 5).float().mean()))

    @property
    def last(self) -> float:
        """Where the loss ends."""
        return fmean(self.losses[-TAIL:])

    @property
    def gain(self) -> float:
        """The relative improvement of the loss."""
        return (self.losses[0] - self.last) / max(abs(self.losses[0]), 1e-30)

    def jump(self, at: int) -> float:
        """By how much the norm or the loss at a step exceeds the median of the 20 before."""
        return max(series[at] / max(1e-12, abs(median(series[at - 20 : at]))) for series in (self.norms, self.losses))


def kept(bad: Measured, good: Measured, *, own: bool = False) -> float:
    """The share of the twin's improvement that the faulty run reaches."""
    if not math.isfinite(bad.last):
        return -math.inf
    if own:
        return bad.gain / good.gain
    return (good.losses[0] - bad.last) / (good.losses[0] - good.last)


def measure(scenario: Scenario, seed: int, *, control: bool = False) -> Measured:
    """Train once."""
    return Measured(scenario.start(seed, control=control), scenario.faulty_layers).train(scenario.steps)


def healthy_complaint(check: str, m: Measured) -> str:
    """What speaks against calling a run healthy, or nothing."""
    if m.first_bad is not None and m.run.scaler is None:
        return f"non-finite at step {m.first_bad}"
    if check == "floor":
        start = fmean(m.losses[:TAIL])
        return "" if m.last <= 1.5 * start else f"rises from {start:.3g} to {m.last:.3g}"
    if check == "bounded":
        return "" if max(m.losses) <= 20 * abs(m.losses[0]) else f"loss up to {max(m.losses):.3g}"
    return "" if m.gain > 0.1 else f"loss {m.losses[0]:.4g} to {m.last:.4g} only"


def faulty_complaint(scenario: Scenario, bad: Measured, good: Measured | None) -> str:
    """What speaks against the label of a faulty run, or nothing."""
    onset = bad.first_bad if scenario.onset == "first_bad" else scenario.onset
    if not isinstance(onset, int):
        return "no non-finite number at all"
    check = scenario.check
    if check in ("loss", "own"):
        share = 0.0 if good is None else kept(bad, good, own=check == "own")
        return (
            ""
            if share < 0.5
            else f"keeps {share:.0%} of the twin's improvement ({bad.losses[0]:.3g} to {bad.last:.3g})"
        )
    if check == "nonfinite":
        return (
            "" if bad.first_bad is not None and onset <= bad.first_bad <= onset + 2 else f"first bad at {bad.first_bad}"
        )
    if check == "spike":
        jumps = bad.jump(onset), 0.0 if good is None else good.jump(onset)
        return "" if jumps[0] > 20 > jumps[1] else f"jumps by {jumps[0]:.3g}, the twin by {jumps[1]:.3g}"
    series = {"dead": (0.9, bad.closed, good and good.closed), "saturated": (0.8, bad.flat, good and good.flat)}
    if check == "unmoved":
        fine = all(bad.silent[onset:]) and (good is None or not all(good.silent[onset:]))
        return "" if fine else f"silent in {sum(bad.silent[onset:])} of {len(bad.silent[onset:])} steps"
    limit, of_bad, of_good = series[check]
    of_bad = of_bad[onset:] if check == "dead" else of_bad[onset : onset + 20]
    fine = min(of_bad) > limit and not (of_good and min(of_good[onset:]) > limit)
    return "" if fine else f"share {min(of_bad):.2f} to {max(of_bad):.2f}"


def verify(scenario: Scenario, seed: int) -> tuple[str, float]:
    """What speaks against a scenario's labels, or nothing; and the seconds of the slower run."""
    good = measure(scenario, seed, control=True) if scenario.control else None
    first = measure(scenario, seed)
    if scenario.label == "healthy":
        return healthy_complaint(scenario.check, first), first.seconds
    complaints = [faulty_complaint(scenario, first, good)]
    if good:
        complaints.append(f"twin: {text}" if (text := healthy_complaint("loss", good)) else "")
    return "; ".join(filter(None, complaints)), max(first.seconds, good.seconds if good else 0.0)


def main() -> None:
    """Verify the scenarios that the command line names."""
    from zoo.corpus import SCENARIOS
    from zoo.score import options

    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    wrong = checked = 0
    for scenario in SCENARIOS:
        if args.only and not any(word in scenario.name for word in args.only):
            continue
        for seed in args.seeds:
            complaint, seconds = verify(scenario, seed)
            checked += 1
            wrong += bool(complaint)
            mark = "WRONG" if complaint else "ok   "
            if complaint or args.verbose or seconds > SLOW_SECONDS:
                print(
                    f"{mark} {scenario.name}.{seed} ({scenario.label}) {seconds:.1f} s {complaint}",
                    flush=True,
                )
    print(f"{checked} checked, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
