"""Optimizers that step inside the backward pass: many step calls, one step.

Each is called as soon as its share of the gradients is there, and frees it. What was measured of the shares is put
together when the backward pass is over.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradwatch._layout import Layout, Layouts
from gradwatch._measurement import Measurement
from gradwatch._statistics import Statistics


class PartialSteps:
    """Collects the shares of one backward pass."""

    def __init__(self) -> None:
        self._optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._layout: Layout | None = None
        self._shares: list[tuple[Layout, Measurement]] = []

    def add(self, optimizer: Optimizer, layout: Layout, measurement: Measurement) -> None:
        """One optimizer's share."""
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            self._layout = None
        self._shares.append((layout, measurement))

    def layout(self, layouts: Layouts) -> Layout:
        """Of all parameters that were ever stepped this way, in the model's order."""
        if self._layout is None:
            parameters = [p for o in self._optimizers for group in o.param_groups for p in group["params"]]
            self._layout = layouts.build(parameters)
        return self._layout

    def take(self, layouts: Layouts) -> Measurement | None:
        """All shares since the last call as one measurement; None where there were none."""
        shares, self._shares = self._shares, []
        if not shares:
            return None
        layout = self.layout(layouts)
        rows = {id(parameter): row for row, parameter in enumerate(layout.parameters)}
        first = shares[0][1].statistics
        data = first.data.new_zeros((len(rows), first.data.shape[1]))
        for share, measurement in shares:
            here = [rows[id(parameter)] for parameter in share.parameters]
            data[here] = measurement.statistics.data.to(data.device, non_blocking=True)
        statistics = Statistics(data, first.columns)
        clipped = [measurement.clipped_norm.to(data.device, non_blocking=True).square() for _, measurement in shares]
        clipped_norm: Tensor = torch.stack(clipped).sum().sqrt()
        return Measurement(statistics, statistics, clipped_norm, lr=max(m.lr for _, m in shares))
