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
        self._backward: int | None = None

    def add(self, optimizer: Optimizer, layout: Layout, measurement: Measurement, backward: int) -> None:
        """One optimizer's share; ``backward`` tells one pass from another, for one that raised left its shares here."""
        if backward != self._backward:
            self._shares, self._backward = [], backward
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
        first = shares[0][1].statistics
        device = first.data.device
        rows = {
            id(parameter): row
            for share, measurement in shares
            for parameter, row in zip(share.parameters, measurement.statistics.data, strict=True)
        }
        absent = first.data.new_zeros(len(first.columns))
        parameters = self.layout(layouts).parameters
        data = torch.stack([rows.get(id(p), absent).to(device, non_blocking=True) for p in parameters])
        statistics = Statistics(data, first.columns)
        clipped = [measurement.clipped_norm.to(device, non_blocking=True).square() for _, measurement in shares]
        clipped_norm: Tensor = torch.stack(clipped).sum().sqrt()
        return Measurement(statistics, statistics, clipped_norm, lr=max(m.lr for _, m in shares))
