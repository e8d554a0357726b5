"""What clipping costs at each step that is clipped, as a ratio to ``torch.nn.utils.clip_grad_norm_`` in the same run.

    python tests/benchmarks/clipping.py [--quick] [--only WORD]

One thread. *fused*: a watched fused AdamW (or SGD with momentum) that clips, its step included, against
``clip_grad_norm_`` and the same step. *in place*: a watch that clips the gradients itself, against ``clip_grad_norm_``
alone; the optimizer does nothing. In all the watch is what a user runs: per-layer norms at every step, samples as they
come, detection, TensorBoard writing.

Every step is clipped: the gradients are put back in between, outside of the measured time. Blocks of whole periods of
20 steps alternate, after the first 20 of a watch, which are once a run and cost more; the figure is the median of the
blocks' ratios in CPU time of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from overhead import PERIOD, Bag, Idle, Shapes, gpt2, mlp, resnet50
from torch import Tensor, nn

import gradwatch

MAX_NORM = 0.3
"""Below the norm of the gradients of every model here."""

LIMITS = {"AdamW": 0.80, "SGD": 0.80, "in place": 1.15}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-6, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, fused=True),
    "in place": Idle,
}


def block(work: Callable[[], object], gradients: list[Tensor], originals: list[Tensor], steps: int) -> float:
    """CPU seconds a step, without what putting the gradients back takes."""
    spent = 0.0
    for _ in range(steps):
        torch._foreach_copy_(gradients, originals)
        start = time.process_time()
        work()
        spent += time.process_time() - start
    return spent / steps


def compare(kind: str, name: str, shapes: Shapes, *, blocks: int, steps: int) -> None:
    """Print the ratio."""
    model = Bag(shapes)
    parameters = list(model.parameters())
    optimizer, fused = OPTIMIZERS[kind](parameters), kind != "in place"
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    originals = [gradient.clone() for gradient in gradients]

    def clip_then_step() -> None:
        nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        if fused:
            optimizer.step()

    block(clip_then_step, gradients, originals, 2)  # the optimizer makes its state
    bare, watched = [], []
    for _ in range(blocks):
        gc.collect()
        bare.append(block(clip_then_step, gradients, originals, steps))
        with tempfile.TemporaryDirectory() as logdir:
            watch = gradwatch.watch(model, clip=gradwatch.ClipNorm(MAX_NORM), logdir=logdir, writers=[])
            block(optimizer.step, gradients, originals, PERIOD)
            watched.append(block(optimizer.step, gradients, originals, steps))
            watch.close()
            assert all(record.clipped for record in watch.history)
    ratios = [w / b for w, b in zip(watched, bare, strict=True)]
    ms = [statistics.median(times) * 1e3 for times in (bare, watched)]
    label, step = (f"fused {kind}", " + step") if fused else (kind, "")
    print(
        f"{label:<12}{name:<22}{len(parameters):>6,} tensors   clip{step:<7} {ms[0]:8.2f} ms   watch{step:<7} "
        f"{ms[1]:8.2f} ms   ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"must be <= {LIMITS[kind]:.2f}",
        flush=True,
    )


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks, no GPT-2")
    parser.add_argument("--only", default="", help="the lines that have this in their name: adamw, sgd, in place")
    arguments = parser.parse_args()
    quick, only = arguments.quick, arguments.only.lower()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    blocks = 3 if quick else 9
    for kind in OPTIMIZERS:
        if only not in kind.lower():
            continue
        compare(kind, "MLP", mlp(), blocks=blocks, steps=2 * PERIOD)
        compare(kind, "1,000 small tensors", mlp(500, 32), blocks=blocks, steps=2 * PERIOD)
        compare(kind, "ResNet-50 (25.6 M)", resnet50(), blocks=blocks, steps=PERIOD)
        if not quick:
            compare(kind, "GPT-2 small (124 M)", gpt2(), blocks=3, steps=PERIOD)


if __name__ == "__main__":
    main()
