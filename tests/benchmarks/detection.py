"""What detection costs at each step, and what the forward probe adds to the training step of a small CNN.

    python tests/benchmarks/detection.py [--quick]

One thread; interleaved. Detection is all default detectors and the diagnosis over healthy records as
a run gives them: a loss that falls, weights and updates every 10 steps, the forward probe's rows every 20 steps. What
the probes cost is the difference between the steps that are probed and others of the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import gradwatch
from gradwatch._judges import Judges
from gradwatch._probes.schedule import EARLY
from gradwatch.detectors import default_detectors
from gradwatch.records import ACTIVATION_COLUMNS, Activations, Layer, ModelInfo, Ownerless, StepRecord


def records(num_layers: int, num_steps: int, *, probes: bool = True) -> list[StepRecord]:
    """A healthy run of a chain of linear layers and ReLUs."""
    rng = np.random.default_rng(0)
    layers = tuple(Layer(f"fc{i}.weight", f"fc{i}", "Linear", (32, 32)) for i in range(num_layers))
    names = tuple(name for i in range(num_layers) for name in (f"fc{i}", f"act{i}"))
    kinds = ("Linear", "ReLU") * num_layers
    found = []
    for step in range(num_steps):
        grad = np.exp(rng.normal(0, 0.3, num_layers))
        total = float(np.linalg.norm(grad))
        sampled, looked = step % 10 == 0, probes and (0 < step <= 4 or (step > 0 and step % 20 == 0))
        found.append(
            StepRecord(
                step=step,
                optimizer=0,
                layers=layers,
                grad_norm=grad,
                num_nonfinite=np.zeros(num_layers, np.int64),
                total_norm=total,
                clipped_norm=total,
                loss=2.3 * 0.995**step,
                lr=0.1,
                grad_max=grad if sampled else None,
                weight_norm=np.full(num_layers, 3.2) if sampled else None,
                update_ratio=np.full(num_layers, 1e-3) if sampled else None,
                activations=_activations(names, kinds, rng) if looked else None,
                ownerless=Ownerless((), np.empty(0)) if looked else None,
            )
        )
    return found


def _activations(names: tuple[str, ...], kinds: tuple[str, ...], rng: np.random.Generator) -> Activations:
    num = len(names)
    is_layer = np.arange(num) % 2 == 0
    columns = {column: np.full(num, np.nan) for column in ACTIVATION_COLUMNS}
    columns |= {"in_mean": np.zeros(num), "in_std": np.ones(num), "joined": np.ones(num)}
    columns["from_data"] = (np.arange(num) == 0).astype(np.float64)
    columns["zero_share"], columns["dead_share"] = (np.where(is_layer, np.nan, share) for share in (0.5, 0.1))
    columns["out_grad"] = np.exp(rng.normal(0, 0.3, num))
    return Activations(names, kinds, **columns)


def detection(num_layers: int, num_steps: int) -> float:
    """Microseconds a step: the mean over all steps, so that those of the probes count by their share."""
    run, model = records(num_layers, num_steps), ModelInfo("Chain")
    judges = Judges(default_detectors())
    told = [incident for record in run[:20] for incident in judges.observe(record, model)]
    start = time.perf_counter()
    for record in run[20:]:
        told += judges.observe(record, model)
    seconds = time.perf_counter() - start
    assert not told, told[0].message
    return seconds / (num_steps - 20) * 1e6


def shares(num_layers: int, num_steps: int) -> dict[str, float]:
    """Microseconds a step of each detector alone, by kind: the same run, each asked in its turn."""
    run, detectors = records(num_layers, num_steps), default_detectors()
    seconds = dict.fromkeys((detector.kind for detector in detectors), 0.0)
    for index, record in enumerate(run):
        for detector in detectors:
            start = time.perf_counter()
            detector.observe(record)
            seconds[detector.kind] += (time.perf_counter() - start) * (index >= 20)
    return {kind: total / (num_steps - 20) * 1e6 for kind, total in seconds.items()}


def cnn(width: int = 16) -> nn.Sequential:
    """Four convolutions with BatchNorm and ReLU, and a head: 14 leaf modules."""
    parts: list[nn.Module] = []
    for given, out, stride in ((1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 1)):
        channels = 1 if not parts else given * width
        parts += [nn.Conv2d(channels, out * width, 3, stride, 1), nn.BatchNorm2d(out * width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(2 * width * 16, 10))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> list[float]:
    """CPU seconds of each step."""
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    seconds = []
    for _ in range(num_steps):
        start = time.process_time()
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return seconds


def probes(*, num_steps: int) -> None:
    """Print what a probed step costs more than another of the same run, and the probes' share by default.

    On a step that is not probed the probes do nothing: its profile lists the same calls with them and without.
    """
    torch.manual_seed(0)
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    bare = statistics.median(train(model, optimizer, 200))
    with gradwatch.watch(model, writers=[], detectors=[], every=10, probes=gradwatch.Probes(every=20)):
        seconds = train(model, optimizer, num_steps + 1)
    # Weights are looked at on every tenth step: at 20 and 30, 40 and 50 ...; of these every second is probed.
    looked = range(20, num_steps - 9, 20)
    differences = [seconds[at] - statistics.median((seconds[at - 10], seconds[at + 10])) for at in looked]
    more = statistics.median(differences)
    print(f"probes: a small CNN's step of {bare * 1e3:.2f} ms takes {more * 1e6:.0f} us more where it is probed:")
    looks = [gradwatch.Probes().is_due(step) or 0 < step <= EARLY for step in range(2_000)]
    for when, part in (("the first 1,000 steps", looks[:1_000]), ("the next 1,000", looks[1_000:])):
        print(f"  {sum(part)} of {when:<22}are probed: {sum(part) / len(part) * more / bare:.1%} of a step on average")


def main() -> None:
    """Run both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    sizes = {150: 420, 1_000: 420, 10_000: 120, 100_000: 60}
    found: dict[int, list[float]] = {num_layers: [] for num_layers in sizes}
    for _ in range(3 if quick else 9):
        for num_layers, num_steps in sizes.items():
            found[num_layers].append(detection(num_layers, num_steps))
    for num_layers, micros in found.items():
        middle = statistics.median(micros)
        print(
            f"detection{num_layers:>9,} layers {middle:8.0f} us a step ({min(micros):.0f} to {max(micros):.0f}), "
            f"{middle / num_layers * 1e3:.0f} ns a layer"
        )
    parts = [shares(1_000, 420) for _ in range(3 if quick else 9)]
    each = (f"{kind} {statistics.median(part[kind] for part in parts):.1f}" for kind in parts[0])
    print(f"of 1,000 layers, by detector (what several share counts for the first): {', '.join(each)}", flush=True)
    probes(num_steps=500 if quick else 1_000)


if __name__ == "__main__":
    main()
