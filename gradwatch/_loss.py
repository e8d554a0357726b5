"""The loss of one optimizer step: the mean over its micro-batches, without waiting for a device."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwatch._transfer import number, on_host
from gradwatch.errors import ArgumentTypeError, ArgumentValueError, is_number


class LossMean:
    """Collects losses until the step takes their mean."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._num = 0

    @torch.no_grad()
    def add(self, loss: Tensor | float) -> float | None:
        """Add one micro-batch's loss; a tensor's graph is not kept alive.

        Returns:
            Its value; None where the host would have to wait for it.

        Raises:
            ArgumentTypeError: It is neither a tensor nor a number.
            ArgumentValueError: It is a tensor with other than one element, or a complex one.
        """
        if not isinstance(loss, Tensor):
            if not is_number(loss):
                raise ArgumentTypeError("loss", loss, "a tensor with one element or a number")
            value: Tensor | float = float(loss)
        elif loss.numel() != 1 or loss.is_complex():
            shape = tuple(loss.shape)
            raise ArgumentValueError("loss", f"tensor{shape}", "must have one real element; take its .mean() or .sum()")
        elif on_host(loss):
            value = number(loss)
        else:
            value = loss.detach().reshape(()).to(torch.float64)
            if isinstance(self._sum, Tensor) and self._sum.device != value.device:
                self._sum = self._sum.to(value.device, non_blocking=True)
        self._sum = self._sum + value
        self._num += 1
        return value if isinstance(value, float) else None

    def take(self) -> Tensor | float | None:
        """The mean of what was added since the last call: a number where the host knows it; None where nothing was."""
        if not self._num:
            return None
        mean = self._sum / self._num
        self._sum, self._num = 0.0, 0
        return mean
