"""The gradients as they were before somebody else's clipping.

Row by row: a gradient that nothing but clipping has touched since keeps the row of the first look; one that has grown,
or has only come since, is measured as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch._distributed_parts import is_dtensor, local
from gradwatch._layout import Layout
from gradwatch._statistics import Column, Statistics


@dataclass
class BeforeClip:
    """What was measured right before a clipping.

    Attributes:
        layout: Of these parameters.
        statistics: Of their gradients, as scaled as they were.
        norm_type: The ``p`` of its p-norm column.
        marks: Of each parameter, the gradient and what its version counter reads once the clipping is done; None where
            there is none.
        scale: The loss scale that the gradients carried when they were clipped.
    """

    layout: Layout
    statistics: Statistics
    norm_type: float
    marks: list[tuple[Tensor, int] | None]
    scale: Tensor | float | None = None

    @classmethod
    def look(cls, layout: Layout, columns: tuple[Column, ...], norm_type: float) -> BeforeClip:
        """Measure the gradients as they are."""
        gradients = layout.gradients()
        marks = [None if p.grad is None else (p.grad, _version(p.grad)) for p in layout.parameters]
        return cls(layout, layout.meter.measure(gradients, columns, norm_type), norm_type, marks)

    def __post_init__(self) -> None:
        self._rows = {id(mark[0]): row for row, mark in enumerate(self.marks) if mark is not None}

    def knows(self, gradients: list[Tensor]) -> bool:
        """Whether all these gradients were there at the first look and only clipping has touched them since."""
        return all((row := self._rows.get(id(g))) is not None and self._holds(row) for g in gradients)

    def expect(self, gradients: list[Tensor], num_changes: int) -> None:
        """These are about to be clipped, which advances their version counters by ``num_changes``."""
        is_alone = self.layout.holding is None
        shared = None if is_alone else Counter(map(_counter, gradients))
        for gradient in gradients:
            row = self._rows.get(id(gradient))
            if row is not None:
                times = 1 if shared is None else 0 if is_dtensor(gradient) else shared[_counter(gradient)]
                self.marks[row] = (gradient, _version(gradient) + num_changes * times)

    def holds_any(self) -> bool:
        """Whether any gradient is just what the clipping left."""
        return any(self._holds(row) for row in range(len(self.marks)))

    def over(self, current: Statistics, scale: Tensor | float | None) -> Statistics:
        """``current``, with the rows from before the clipping where they hold; both unscaled.

        Args:
            current: Of the gradients as they are now, unscaled.
            scale: The loss scale that they carry now.
        """
        holds = [self._holds(row) for row in range(len(self.marks))]
        if not any(holds) or not set(current.columns) <= set(self.statistics.columns):
            return current
        carried = scale if self.scale is None else self.scale
        before = self.statistics if carried is None else self.statistics.unscaled(carried, self.norm_type)
        if before.columns != current.columns:
            before = Statistics(torch.stack([before[column] for column in current.columns], dim=1), current.columns)
        if all(holds):
            return before
        mask = torch.tensor(holds, device="cpu").unsqueeze(1).to(current.data.device, non_blocking=True)
        return Statistics(torch.where(mask, before.data, current.data), current.columns)

    def renewed(self, earlier: BeforeClip) -> BeforeClip:
        """This later look, with the rows of an earlier one where they hold."""
        statistics = earlier.over(self.statistics, None) if earlier.scale is None else self.statistics
        return BeforeClip(self.layout, statistics, self.norm_type, self.marks, self.scale)

    def for_layout(self, layout: Layout) -> BeforeClip | None:
        """The rows of some of the parameters; None where none of their gradients is among them."""
        rows = {id(parameter): row for row, parameter in enumerate(self.layout.parameters)}
        mine = [rows.get(id(parameter)) for parameter in layout.parameters]
        known = [row for row in mine if row is not None]
        if len(known) < len(mine) or all(self.marks[row] is None for row in known):
            return None
        data = torch.stack([self.statistics.data[row] for row in known])  # an index list would make the host wait
        statistics = Statistics(data, self.statistics.columns)
        return BeforeClip(layout, statistics, self.norm_type, [self.marks[row] for row in known], self.scale)

    def without(self, layout: Layout) -> BeforeClip | None:
        """What is left when some of the parameters have been claimed; None where that is nothing."""
        claimed = {id(parameter) for parameter in layout.parameters}
        for row, parameter in enumerate(self.layout.parameters):
            if id(parameter) in claimed:
                self.marks[row] = None
        return self if any(self.marks) else None

    def _holds(self, row: int) -> bool:
        mark = self.marks[row]
        if mark is None:
            return False
        gradient, version = mark
        return self.layout.parameters[row].grad is gradient and _version(gradient) == version


def _version(gradient: Tensor) -> int:
    """Counts in-place changes. A DTensor's own counter stands still, and that of its elements when torch clips it."""
    return local(gradient)._version  # noqa: SLF001


def _counter(gradient: Tensor) -> int:
    """What is the same for gradients that share one such counter: views of one tensor (FSDP1's flat gradient)."""
    base = gradient._base  # noqa: SLF001
    return id(gradient if base is None else base)
