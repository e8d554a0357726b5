"""torch's fused optimizers divide the gradients inside their kernel, and leave a step out, where they are told to.

They do so for ``torch.amp.GradScaler``, through their attributes ``grad_scale`` and ``found_inf``, on the device and
without a pass of its own. The kernel writes the divided gradients back: after the step they are the clipped ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from gradwatch._layout import Layout

GRAD_SCALE = "grad_scale"
FOUND_INF = "found_inf"

_CLASSES: tuple[Any, ...] = (Adam, AdamW, SGD, Adagrad)


def reads_scale(optimizer: Optimizer) -> bool:
    """Whether every parameter group of this optimizer obeys both attributes.

    Only torch's own steps: whoever else says so may read the gradients before. A state loaded from another optimizer
    may have switched a group's kernel off, and those kernels refuse the attributes.
    """
    step = type(optimizer).step
    return (
        any(step is known.step for known in _CLASSES)
        and getattr(optimizer, "_step_supports_amp_scaling", False) is True
        and all(group.get("fused") for group in optimizer.param_groups)
    )


@dataclass
class LeftToStep:
    """Clipping that a fused optimizer will do by itself.

    Attributes:
        coefficient: What the gradients are to be multiplied by, 0-dim.
        marks: Where others have their turn before the step, the gradients that it is for, and what their version
            counters read.
    """

    coefficient: Tensor
    marks: list[tuple[Tensor, int]] | None = None

    def mark(self, layout: Layout) -> None:
        """Others have their turn now."""
        self.marks = [(gradient, gradient._version) for gradient in layout.present_gradients()]  # noqa: SLF001

    def holds(self, layout: Layout) -> bool:
        """Whether nobody has touched the gradients since."""
        if self.marks is None:
            return True
        present = layout.present_gradients()
        return len(present) == len(self.marks) and all(
            gradient is mark and gradient._version == version  # noqa: SLF001 - counts in-place changes
            for gradient, (mark, version) in zip(present, self.marks, strict=True)
        )


class Divisions:
    """Whether the division can be left to the optimizer's step; what depends on the layout is found out once."""

    def __init__(self) -> None:
        self._known: tuple[Layout, bool] | None = None

    def possible(self, optimizer: Any, layout: Layout) -> bool:
        """Whether this optimizer divides just the gradients of this layout, as exactly as if we had.

        Somebody's own hook before the step may look at the gradients, or clip them: it shall find them clipped.
        """
        return (
            isinstance(optimizer, Optimizer)
            and reads_scale(optimizer)
            and not optimizer._optimizer_step_pre_hooks  # noqa: SLF001 - there is no public way to ask
            and self._suits(layout)
            and _owns_no_other_gradient(optimizer, layout)
        )

    def _suits(self, layout: Layout) -> bool:
        """One device, and nothing that the kernel's float32 factor would be too coarse for."""
        if self._known is None or self._known[0] is not layout:
            devices = {parameter.device for parameter in layout.parameters}
            exact = all(parameter.dtype != torch.float64 for parameter in layout.parameters)
            self._known = (layout, len(devices) == 1 and exact)
        return self._known[1]


def _owns_no_other_gradient(optimizer: Optimizer, layout: Layout) -> bool:
    """What it owns beside the watched parameters (of another model, say) would be divided, too."""
    if sum(len(group["params"]) for group in optimizer.param_groups) == len(layout.parameters):
        return True
    mine = {id(parameter) for parameter in layout.parameters}
    owned = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return all(parameter.grad is None or id(parameter) in mine for parameter in owned)


def divisor(coefficient: Tensor, scale: object) -> Tensor:
    """What the kernel divides by, so that gradients under a loss scale come out unscaled and times ``coefficient``."""
    factor = coefficient.reciprocal().to(torch.float32)
    return scale * factor if isinstance(scale, Tensor) else factor


def buffers_to_come(optimizer: Optimizer) -> list[Tensor]:
    """Parameters whose momentum buffer this step makes: fused SGD fills it only where the step is not left out."""
    if not isinstance(optimizer, SGD):
        return []
    return [
        parameter
        for group in optimizer.param_groups
        if group["momentum"] != 0
        for parameter in group["params"]
        if parameter.grad is not None and optimizer.state.get(parameter, {}).get("momentum_buffer") is None
    ]


def clear_if_left_out(optimizer: Optimizer, parameters: list[Tensor], found_inf: Tensor) -> None:
    """Zeros for what torch has left uninitialised in these buffers, where the step was left out; nobody waits."""
    for parameter in parameters:
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            buffer.masked_fill_(found_inf.to(buffer.device, non_blocking=True) > 0, 0.0)
