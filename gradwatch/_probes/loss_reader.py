"""What a told loss tells beside its value: the graph behind it, read before the backward pass frees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from torch import Tensor

from gradwatch._backward_order import WHAT
from gradwatch._layout import Layouts
from gradwatch._loss import LossMean
from gradwatch._measurement import Measurement
from gradwatch._probes.birthplace import find_birthplace
from gradwatch._probes.operations import operations
from gradwatch.records import Birthplace, Unavailable

LOOKS = 10
"""Bad losses in a row that are looked at: one finds the place, and a run that goes on with NaN stays fast."""

_NO_GRAPH = Unavailable(WHAT, "the loss was told as a plain number: tell the tensor, before .item()")


class LossReader:
    """Collects the losses of a step, and reads the graph of some of them.

    Args:
        layouts: Gives the model's parameters and their names, as they are now.
    """

    def __init__(self, layouts: Callable[[], Layouts]) -> None:
        self._layouts = layouts
        self._mean = LossMean()
        self._num_told = 0
        self._told_of: Layouts | None = None
        self._num_bad = 0
        self._found: Birthplace | Unavailable | None = None

    def add(self, loss: Tensor | float, graph: Tensor | None = None) -> None:
        """Add one micro-batch's loss; neither it nor its graph is kept alive.

        Args:
            loss: Its value.
            graph: The tensor that ``backward()`` will be called on, where that is another one.

        Raises:
            ArgumentTypeError: It is neither a tensor nor a number.
            ArgumentValueError: It is a tensor with other than one element, or a complex one.
        """
        value = self._mean.add(loss)
        told = loss if graph is None else graph
        if isinstance(told, Tensor) and told.grad_fn is not None:
            self._learn_operations(told)
        if value is None or math.isfinite(value):  # in the first case nobody can see without waiting for a device
            self._num_bad = 0
            return
        self._num_bad += 1
        if self._found is None and self._num_bad <= LOOKS:  # of several micro-batches the first bad one counts
            self._found = self._find(told) if isinstance(told, Tensor) else _NO_GRAPH

    def take(self) -> Tensor | float | None:
        """The mean of what was added since the last call: a number where the host knows it; None where nothing was."""
        self._found = None
        return self._mean.take()

    def hand_over(self, measurement: Measurement) -> None:
        """The gradients of a step are complete: what was told of it."""
        if isinstance(self._found, Birthplace):
            measurement.sighting.birthplace = self._found
        elif self._found is not None:
            measurement.sighting.unavailable += (self._found,)
        if (loss := self.take()) is not None:
            measurement.extras["loss"] = loss

    def _find(self, loss: Tensor) -> Birthplace | Unavailable:
        return find_birthplace(loss, self._names(), self._layouts().info.modules)

    def _names(self) -> dict[int, str]:
        return self._layouts().module_names()

    def _learn_operations(self, loss: Tensor) -> None:
        """At the 1st, 10th, 100th ... loss: a model may change, but seldom does."""
        layouts = self._layouts()
        if layouts is not self._told_of:
            self._told_of, self._num_told = layouts, 0
        self._num_told += 1
        if self._num_told != 10 ** round(math.log10(self._num_told)):
            return
        try:
            found = operations(loss, self._names())
        except Exception:  # noqa: BLE001 - a graph of a kind that nobody has seen: then diagnosis knows less
            return
        if found is not None:
            layouts.info = dataclasses.replace(layouts.info, operations=found)
