"""The published rules of peers on the same runs, as the baseline: ``python tests/zoo/peers.py --seeds 0``.

Each rule is re-implemented from its source, with the thresholds published there, on what ``recorder.py`` records.
Where a rule wants an accuracy, the loss stands in; where it looks once an epoch, it looks every ten steps here.

    nan_loss         stop when the loss is not finite (Keras TerminateOnNaN)
    global_norm      total gradient norm above 1e3 or below 1e-7 (common practice)
    zclip            z-score of the norm above 2.5, moving average 0.97, after 25 steps (ZClip, arXiv 2504.02507)
    update_ratio     update over weight outside 1e-5..1e-1 (the 1e-3 rule of thumb of CS231n, with two decades of room)
    autotrainer      AUTOTRAINER (Zhang et al., ICSE 2021), default_param of its repository
    deepdiagnosis    DeepDiagnosis (Wardat et al., ICSE 2022), constants of its callbacks.py
    sagemaker_core   SageMaker Debugger: ExplodingTensor, VanishingGradient, DeadRelu, SaturatedActivation, AllZero
    sagemaker_all    ... and LossNotDecreasing, WeightUpdateRatio, PoorWeightInitialization; each with its defaults
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from zoo import score
from zoo.judge import COLUMNS, Alarm, Outcome, judge
from zoo.recorder import Row, record

Rule = Callable[[list[Row]], Iterator[Alarm]]
CHECK_EVERY = 10


def nan_loss(rows: list[Row]) -> Iterator[Alarm]:
    """The loss is not finite."""
    for step, row in enumerate(rows):
        if not math.isfinite(row.loss):
            yield Alarm(step, "nonfinite")


def global_norm(rows: list[Row]) -> Iterator[Alarm]:
    """The total norm is not finite, above 1e3, or below 1e-7."""
    for step, row in enumerate(rows):
        if not math.isfinite(row.norm):
            yield Alarm(step, "nonfinite")
        elif row.norm > 1e3:
            yield Alarm(step, "exploding")
        elif row.norm < 1e-7:
            yield Alarm(step, "vanishing")


def zclip(rows: list[Row]) -> Iterator[Alarm]:
    """The norm is 2.5 deviations above its moving average; as published, one NaN blinds it for good."""
    first = [row.norm for row in rows[:25]]
    mean = fmean(first)
    variance = fmean((norm - mean) ** 2 for norm in first)
    for step, row in enumerate(rows[25:], 25):
        norm = row.norm
        if (norm - mean) / (math.sqrt(variance) + 1e-6) > 2.5:
            yield Alarm(step, "exploding")
            norm = mean + 2.5**2 / max(1e-6, (norm - mean) / (math.sqrt(variance) + 1e-6)) * math.sqrt(variance)
        mean, variance = 0.97 * mean + 0.03 * norm, 0.97 * variance + 0.03 * (norm - mean) ** 2


def update_ratio(rows: list[Row]) -> Iterator[Alarm]:
    """The median update of the weight matrices, over their norm, is outside 1e-5..1e-1."""
    for step, row in enumerate(rows):
        ratios = sorted(p.moved / p.weight_norm for p in row.matrices if p.weight_norm > 0)
        if not ratios:
            continue
        ratio = ratios[len(ratios) // 2]
        if not math.isfinite(ratio):
            yield Alarm(step, "nonfinite")
        elif ratio > 1e-1:
            yield Alarm(step, "lr_too_high")
        elif ratio < 1e-5:
            yield Alarm(step, "stalled")


def autotrainer(rows: list[Row]) -> Iterator[Alarm]:
    """NaN, or a loss of 1e5, at once; the rest only where training does not converge.

    Vanishing: norm of the first over the last kernel's gradient < 1e-3 and the first < 1e-4. Exploding: that ratio
    > 70. Dying ReLU: 70 % of all gradients zero. Slow convergence: improvement < 0.01. Oscillating: swings above 0.03
    in a fifth of the checks. These count from 30 % of the run on.
    """
    for step, row in enumerate(rows):
        if not math.isfinite(row.loss) or row.loss >= 1e5 or any(p.bad for p in row.params):
            yield Alarm(step, "exploding", "nonfinite")
        if step % CHECK_EVERY or step < 0.3 * len(rows):
            continue
        seen = [fmean(r.loss for r in rows[i : i + CHECK_EVERY]) for i in range(0, step, CHECK_EVERY)]
        if min(seen) > 0.4 * seen[0]:  # not converged: Theta = 0.6 of what there is to gain
            yield from _autotrainer_causes(step, row, seen)
        elif sum(abs(a - b) >= 0.03 * seen[0] and b > a for a, b in pairwise(seen)) >= 0.2 * len(seen):
            yield Alarm(step, "lr_too_high")


def _autotrainer_causes(step: int, row: Row, seen: list[float]) -> Iterator[Alarm]:
    """What a run that does not converge suffers from: the first that applies."""
    kernels = row.matrices
    if not kernels:
        return
    first, last = kernels[0].grad_norm or 0.0, kernels[-1].grad_norm or 0.0
    names = (kernels[0].name.rsplit(".", 1)[0],)
    if fmean(p.grad_zero for p in kernels) >= 0.7:
        yield Alarm(step, "dead_relu", layers=names)
    elif last > 0 and first / last > 70:
        yield Alarm(step, "exploding", layers=names)
    elif first < 1e-4 and (last == 0 or first / last < 1e-3):
        yield Alarm(step, "vanishing", layers=names)
    elif seen[0] - min(seen) < 0.01 * seen[0]:
        yield Alarm(step, "stalled")


def deepdiagnosis(rows: list[Row]) -> Iterator[Alarm]:
    """Its decision order: numerical error; dead node (70 % of outputs zero); saturation (half of the inputs beyond 5).

    Then vanishing (mean gradient < 1e-7) and weights' variance outside 1e-5..10. Asked where the loss does not fall.
    """
    for step, row in enumerate(rows):
        if not math.isfinite(row.loss) or row.bad_output or any(p.bad for p in row.params):
            yield Alarm(step, "nonfinite", layers=(row.bad_output,))
            return
        if step % CHECK_EVERY or not step:
            continue
        dead = [u.name for u in row.units if u.kind == "relu" and u.zero >= 0.7]
        flat = [u.name for u in row.units if u.kind == "saturable" and u.beyond5 > 0.5]
        faint = [p.name.rsplit(".", 1)[0] for p in row.matrices if (p.grad_mean or 0.0) < 1e-7]
        odd = [p.name for p in row.matrices if not 1e-5 <= p.variance <= 10]
        window = [
            fmean(r.loss for r in rows[max(0, at - CHECK_EVERY) : at]) for at in (step - CHECK_EVERY, step) if at > 0
        ]
        stuck = len(window) == 2 and window[1] >= window[0]
        for names, kind in ((dead, "dead_relu"), (flat, "saturation"), (faint, "vanishing"), (odd, "exploding")):
            if names and stuck:
                yield Alarm(step, kind, layers=tuple(names[:3]))
                return


def sagemaker_core(rows: list[Row]) -> Iterator[Alarm]:
    """ExplodingTensor: NaN or inf. VanishingGradient and AllZero: mean < 1e-7. DeadRelu, SaturatedActivation.

    DeadRelu: half of a layer's units closed for a whole batch. SaturatedActivation: half of them wholly on flat ends.
    """
    for step, row in enumerate(rows):
        bad = row.bad_output or next((p.name for p in row.params if p.bad), "")
        if bad:
            yield Alarm(step, "nonfinite", layers=(bad,))
        faint = [p.name.rsplit(".", 1)[0] for p in row.matrices if (p.grad_mean or 0.0) < 1e-7]
        if faint:
            yield Alarm(step, "vanishing", layers=tuple(faint[:3]))
        dead = [u.name for u in row.units if u.kind == "relu" and u.closed > 0.5]
        if dead:
            yield Alarm(step, "dead_relu", layers=tuple(dead[:3]))
        flat = [u.name for u in row.units if u.kind == "saturable" and u.flat > 0.5]
        if flat:
            yield Alarm(step, "saturation", layers=tuple(flat[:3]))


def sagemaker_all(rows: list[Row]) -> Iterator[Alarm]:
    """The core, and three more.

    LossNotDecreasing: less than 0.1 % in 10 steps. WeightUpdateRatio: outside 1e-8..10. PoorWeightInitialization: the
    variances of the weights differ by more than 10 times among layers, at the first step.
    """
    yield from sagemaker_core(rows)
    for step, row in enumerate(rows):
        if step >= CHECK_EVERY and step % CHECK_EVERY == 0 and not row.loss < 0.999 * rows[step - CHECK_EVERY].loss:
            yield Alarm(step, "stalled")
        ratios = [p.moved / (p.weight_norm + 1e-9) for p in row.matrices]
        if any(ratio > 10 for ratio in ratios):
            yield Alarm(step, "lr_too_high")
        elif any(ratio < 1e-8 for ratio in ratios):
            yield Alarm(step, "stalled")
        variances = [p.variance for p in row.matrices]
        if step == 0 and variances and max(variances) > 10 * min(variances):
            yield Alarm(step, "exploding", "poor_initialisation")


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (nan_loss, global_norm, zclip, update_ratio, autotrainer, deepdiagnosis, sagemaker_core, sagemaker_all)
}


def work(job: score.Job) -> dict[str, Outcome]:
    """Record one run and ask every rule."""
    module, index, seed, control = job
    torch.set_num_threads(1)
    scenario = importlib.import_module(module).SCENARIOS[index]
    blank = score.blank_outcome(scenario, seed, control=control)
    rows = record(score.start(scenario, seed, control=control), scenario.steps)
    return {name: replace(blank, alarms=list(rule(rows))) for name, rule in RULES.items()}


def main() -> None:
    """Print the table."""
    args = score.options(__doc__).parse_args()
    modules = ["zoo.corpus", *(score.public(args.public) if args.public else [])]
    jobs = score.jobs_of(modules, args.seeds, args.only)
    began = time.time()
    results = score.run_all(jobs, work, args.jobs)
    tables = {name: judge([result[name] for result in results]) for name in RULES}
    print("| rules | " + " | ".join(COLUMNS) + " |\n|---" + "|--:" * len(COLUMNS) + "|")
    for name, table in tables.items():
        print(f"| {name} | " + " | ".join(str(table[key]) for key in COLUMNS) + " |")
    if args.verbose:
        print(json.dumps({name: table["by_label"] for name, table in tables.items()}, indent=1))
    if args.json:
        runs = {name: [asdict(result[name]) for result in results] for name in RULES}
        Path(args.json).write_text(json.dumps({"figures": tables, "runs": runs}, indent=1))
    print(f"{len(jobs)} runs in {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
