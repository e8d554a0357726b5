"""What clipping costs at each step that is clipped, as a ratio to ``torch.nn.utils.clip_grad_norm_`` in the same run.

    python tests/benchmarks/clipping.py [--quick]

One thread. *fused*: a watched fused AdamW that clips, its step included, against ``clip_grad_norm_`` and the same step.
*in place*: a watch that clips the gradients itself, against ``clip_grad_norm_`` alone; the optimizer does nothing. In
both the watch is what a user runs: per-layer norms at every step, samples every 10, detection, TensorBoard writing.

Every step is clipped: the gradients are put back in between, outside of the measured time. Blocks of steps alternate,
and the figure is the median of the blocks' ratios in CPU time of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from overhead import Bag, Idle, Shapes, gpt2, mlp, resnet50
from torch import Tensor, nn

import gradwatch

MAX_NORM = 1e-3
"""Far below the norm of the gradients."""


def block(work: Callable[[], object], gradients: list[Tensor], originals: list[Tensor], steps: int) -> float:
    """CPU seconds a step, without what putting the gradients back takes."""
    spent = 0.0
    for _ in range(steps):
        torch._foreach_copy_(gradients, originals)
        start = time.process_time()
        work()
        spent += time.process_time() - start
    return spent / steps


def compare(name: str, shapes: Shapes, *, fused: bool, blocks: int, steps: int) -> float:
    """Print and return the ratio."""
    model = Bag(shapes)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True) if fused else Idle(parameters)
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
            block(optimizer.step, gradients, originals, 1)  # the first step builds the layout, once a run
            watched.append(block(optimizer.step, gradients, originals, steps))
            watch.close()
            assert all(record.clipped for record in watch.history)
    ratios = [w / b for w, b in zip(watched, bare, strict=True)]
    ratio = statistics.median(ratios)
    ms = [statistics.median(times) * 1e3 for times in (bare, watched)]
    kind, step = ("fused", " + step") if fused else ("in place", "")
    print(
        f"{kind:<10}{name:<22}{len(parameters):>6,} tensors   clip{step:<7} {ms[0]:8.2f} ms   watch{step:<7} "
        f"{ms[1]:8.2f} ms   ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )
    return ratio


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks, no GPT-2")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    blocks = 3 if quick else 9
    for fused in (True, False):
        compare("MLP", mlp(), fused=fused, blocks=blocks, steps=30)
        compare("1,000 small tensors", mlp(500, 32), fused=fused, blocks=blocks, steps=20)
        compare("ResNet-50 (25.6 M)", resnet50(), fused=fused, blocks=blocks, steps=10)
        if not quick:
            compare("GPT-2 small (124 M)", gpt2(), fused=fused, blocks=5, steps=5)


if __name__ == "__main__":
    main()
