"""What a watch costs at each optimizer step: the lines of the README's table, with the limits that they must keep.

    python tests/benchmarks/overhead.py [--quick] [--only WORD]

WORD is in the name of a line: mlp, 1,000, 10,000, resnet, gpt2, lightning, growth, error, memory, trainer, wandb,
price, share (the last four: ``training.py``). For wandb: ``pip install -r tests/benchmarks/requirements.txt``.

One thread. Both sides see the same gradients; blocks of steps alternate, and the figure is the median of the blocks'
ratios in CPU time of the whole process, so the TensorBoard writer's background thread counts, too. The watch is what a
user runs: per-layer norms at every step, ``ClipNorm`` under its limit, maxima, weight norms and update ratios on the
default schedule, detection, and TensorBoard writing. Blocks are whole periods of 20 steps after the first hundred,
which are once a run and cost more (the layout is built, samples are taken every 10 steps). The optimizer does nothing,
so that its own cost does not blur the figure. The model is never called: what the forward probe costs is a matter of
the forward pass.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import training
from torch import nn

import gradwatch

Shapes = list[tuple[int, ...]]

PERIOD = 20
"""Steps after which everything that is sampled has had its turn."""

SETTLED = 100
"""Steps after which a run is sampled on the schedule that it keeps."""


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


class Case:
    """A model with both sides: what a step costs the one and the other, block by block."""

    def __init__(self, shapes: Shapes) -> None:
        self.model = Bag(shapes)
        self.optimizer = Idle(self.model.parameters())
        self.parameters = list(self.model.parameters())

    def clip(self) -> None:
        """What a watch replaces."""
        nn.utils.clip_grad_norm_(self.parameters, 1e9)

    def watched(self, steps: int) -> float:
        """CPU seconds a watched step, the optimizer's own included."""
        with tempfile.TemporaryDirectory() as logdir:
            watch = gradwatch.watch(self.model, clip=gradwatch.ClipNorm(1e9), logdir=logdir, writers=[])
            step = self._step_with_loss(watch)
            for _ in range(SETTLED):
                step()
            assert len(watch.history) == SETTLED  # asking for it judges and writes what waits
            start = time.process_time()
            for _ in range(steps):
                step()
            assert len(watch.history) == SETTLED + steps
            seconds = (time.process_time() - start) / steps
            watch.close()
        return seconds

    def _step_with_loss(self, watch: gradwatch.Watch) -> Callable[[], None]:
        def step() -> None:
            watch.loss(1.0)
            self.optimizer.step()

        return step

    def against(self, other: Callable[[], object], *, blocks: int, steps: int) -> tuple[list[float], list[float]]:
        """CPU seconds a step of the other side and of the watch, in alternating blocks."""
        others, watched = [], []
        other()
        for _ in range(blocks):
            gc.collect()
            others.append(block(other, steps))
            watched.append(self.watched(steps))
        return others, watched


def against_clipping(name: str, shapes: Shapes, limit: float, *, blocks: int, steps: int = 2 * PERIOD) -> None:
    """Print the ratio to ``clip_grad_norm_`` alone."""
    case = Case(shapes)
    bare, watched = case.against(case.clip, blocks=blocks, steps=steps)
    ratios = [w / b for w, b in zip(watched, bare, strict=True)]
    megabytes = sum(p.numel() for p in case.parameters) * 4 / 1e6
    ms = [statistics.median(times) * 1e3 for times in (bare, watched)]
    print(
        f"{name:<22}{len(shapes):>8,} tensors{megabytes:>7,.0f} MB   clip_grad_norm_ {ms[0]:7.2f} ms   watch "
        f"{ms[1]:7.2f} ms   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"must be <= {limit:.2f}",
        flush=True,
    )


def against_lightning(*, blocks: int) -> None:
    """Print how many times cheaper than Lightning's ``grad_norm`` with every norm written to TensorBoard."""
    from lightning.pytorch.utilities import grad_norm
    from torch.utils.tensorboard import SummaryWriter

    case = Case(mlp())
    with tempfile.TemporaryDirectory() as logdir:
        writer = SummaryWriter(logdir)
        steps = itertools.count()

        def log_norms() -> None:
            step = next(steps)
            for tag, norm in grad_norm(case.model, 2).items():
                writer.add_scalar(tag, norm, step)

        theirs, watched = case.against(log_norms, blocks=blocks, steps=PERIOD)
        writer.close()
    factor = statistics.median(t / w for t, w in zip(theirs, watched, strict=True))
    print(
        f"Lightning grad_norm + TensorBoard on the MLP: {statistics.median(theirs) * 1e3:.1f} ms a step, "
        f"the watch is {factor:.0f} times cheaper, must be >= 25",
        flush=True,
    )


def growth(*, blocks: int, many: int = 100_000) -> None:
    """Print the time a tensor with many tensors, against 1,000 of the same shapes."""
    few_case, many_case = Case(mlp(500, 32)), Case(mlp(many // 2, 32))
    few, more = [], []
    for _ in range(blocks):
        few.append(few_case.watched(5 * PERIOD) / 1000)
        more.append(many_case.watched(PERIOD) / many)
    ratio = statistics.median(m / f for m, f in zip(more, few, strict=True))
    print(
        f"{many:,} tensors: {statistics.median(more) * 1e6:.2f} us a tensor and step, {ratio:.2f} times that of 1,000, "
        "must be <= 1.20",
        flush=True,
    )


def memory(steps: int = 20_000) -> None:
    """Print how much the process grows over a long run, after its first 1,000 steps (and the history is full)."""
    case = Case(mlp(10, 16))
    with tempfile.TemporaryDirectory() as logdir:
        watch = gradwatch.watch(case.model, clip=gradwatch.ClipNorm(1e9), logdir=logdir, writers=[])
        sizes = []
        for step in range(steps):
            watch.loss(1.0)
            case.optimizer.step()
            if step in (1000, steps - 1):
                gc.collect()
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                sizes.append(pages * resource.getpagesize() / 1e6)
        watch.close()
    print(f"memory: {sizes[1] - sizes[0]:+.1f} MB over {steps:,} watched steps after the first 1,000, must be <= 5")


def norm_error() -> None:
    """Print the largest relative error of a layer's norm, where float32 alone is off by percents, and of torch's."""
    model = Bag([(50257, 768), (768, 2304), (128, 128), (100_003,)])
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1 / 3) + torch.randn_like(parameter) * 1e-2
    optimizer = Idle(model.parameters())
    with gradwatch.watch(model, writers=[], detectors=[]) as watch:
        optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    exact = torch.stack([g.double().norm() for g in gradients])
    ours = torch.from_numpy(watch.history[-1].grad_norm)
    theirs = torch.stack([g.norm() for g in gradients]).double()
    errors = [float(((norms - exact) / exact).abs().max()) for norms in (ours, theirs)]
    print(f"norm error {errors[0]:.1e}, must be <= 1e-05 (torch's own float32 norm: {errors[1]:.1e})", flush=True)


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks, no GPT-2, no 100,000 tensors")
    parser.add_argument("--only", default="", help="the lines whose name has this in it")
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)
    blocks = 3 if quick else 9
    lines: list[tuple[str, Callable[[], None], bool]] = [
        ("mlp", lambda: against_clipping("MLP", mlp(), 0.45, blocks=blocks), True),
        ("narrow mlp", lambda: against_clipping("MLP, 64 wide", mlp(width=64), 0.45, blocks=blocks), True),
        ("1,000", lambda: against_clipping("1,000 small tensors", mlp(500, 32), 0.30, blocks=blocks), True),
        ("10,000", lambda: against_clipping("10,000 small tensors", mlp(5000, 32), 0.30, blocks=blocks), True),
        ("resnet", lambda: against_clipping("ResNet-50 (25.6 M)", resnet50(), 0.60, blocks=blocks), True),
        ("gpt2", lambda: against_clipping("GPT-2 small (124 M)", gpt2(), 0.60, blocks=5, steps=PERIOD), False),
        ("lightning", lambda: against_lightning(blocks=3), True),
        ("growth", lambda: growth(blocks=3), False),
        ("error", norm_error, True),
        ("memory", memory, True),
        ("trainer", lambda: training.trainer(blocks=3), False),
        ("wandb", lambda: training.wandb(blocks=3), True),
        ("price", lambda: training.price(blocks=blocks), True),
        ("share", lambda: training.share(blocks=2), False),
    ]
    for name, line, is_quick in lines:
        if arguments.only in name and (is_quick or not quick):
            line()


if __name__ == "__main__":
    main()
