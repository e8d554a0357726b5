"""What a watch costs at each optimizer step, as a ratio to ``torch.nn.utils.clip_grad_norm_`` in the same run.

    python tests/benchmarks/overhead.py [--quick]

One thread. Both sides see the same gradients; blocks of steps alternate, and the figure is the median of the blocks'
ratios in CPU time of the whole process, so the TensorBoard writer's background thread counts, too. The watch is what a
user runs: per-layer norms at every step, ``ClipNorm`` under its limit, maxima, weight norms and update ratios every 10
steps, detection, and TensorBoard writing. The optimizer does nothing, so that its own cost does not blur the figure.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import nn

import gradwatch

Shapes = list[tuple[int, ...]]


class Idle(torch.optim.Optimizer):
    """Steps without moving: torch's hooks fire, and nothing else takes time."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {"lr": 0.0})  # type: ignore[arg-type]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Do nothing."""


def mlp(num_layers: int = 200, width: int = 128) -> Shapes:
    """Many small tensors: 400 of them by default."""
    return [shape for _ in range(num_layers) for shape in ((width, width), (width,))]


def resnet50() -> Shapes:
    """The parameters of ResNet-50, 25.6 million."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, channels, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2() -> Shapes:
    """The parameters of GPT-2 small, 124 million."""
    block: Shapes = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
    block += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
    return [(50257, 768), (1024, 768), *(block * 12), (768,), (768,)]


class Bag(nn.Module):
    """Parameters of given shapes, with gradients."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for shape in shapes:
            part = nn.Module()
            part.weight = nn.Parameter(torch.randn(shape) * 0.02)
            self.parts.append(part)
        for parameter in self.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3


def block(work: Callable[[], object], steps: int) -> float:
    """CPU seconds a step."""
    start = time.process_time()
    for _ in range(steps):
        work()
    return (time.process_time() - start) / steps


def compare(name: str, shapes: Shapes, *, blocks: int, steps: int) -> float:
    """Print and return the ratio."""
    model = Bag(shapes)
    optimizer = Idle(model.parameters())
    parameters = list(model.parameters())

    def clip() -> object:
        return nn.utils.clip_grad_norm_(parameters, 1e9)

    bare, watched = [], []
    for _ in range(blocks):
        gc.collect()
        bare.append(block(clip, steps))
        with tempfile.TemporaryDirectory() as logdir:
            watch = gradwatch.watch(model, clip=gradwatch.ClipNorm(1e9), logdir=logdir, writers=[])
            optimizer.step()  # the first step builds the layout, once a run
            watch.loss(1.0)
            watched.append(block(optimizer.step, steps))
            watch.close()
    ratios = [w / b for w, b in zip(watched, bare, strict=True)]
    ratio = statistics.median(ratios)
    megabytes = sum(p.numel() for p in parameters) * 4 / 1e6
    ms = [statistics.median(times) * 1e3 for times in (bare, watched)]
    print(
        f"{name:<22}{len(parameters):>8,} tensors{megabytes:>9,.0f} MB   clip_grad_norm_ {ms[0]:7.2f} ms   "
        f"watch {ms[1]:7.2f} ms   ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )
    return ratio


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks, no GPT-2")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    blocks = 3 if quick else 9
    compare("MLP", mlp(), blocks=blocks, steps=50)
    compare("1,000 small tensors", mlp(500, 32), blocks=blocks, steps=30)
    compare("ResNet-50 (25.6 M)", resnet50(), blocks=blocks, steps=20)
    if not quick:
        compare("GPT-2 small (124 M)", gpt2(), blocks=5, steps=10)


if __name__ == "__main__":
    main()
