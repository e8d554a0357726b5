"""The loss of one optimizer step: the mean over its micro-batches, without waiting for a device."""

from __future__ import annotations

import torch
from torch import Tensor

from gradwatch._transfer import on_host
from gradwatch.errors import ArgumentTypeError, ArgumentValueError, is_number


class LossMean:
    """Collects losses until the step takes their mean."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._num = 0

    @torch.no_grad()
    def add(self, loss: Tensor | float) -> None:
        """Add one micro-batch's loss; a tensor's graph is not kept alive.

        Raises:
            ArgumentTypeError: It is neither a tensor nor a number.
            ArgumentValueError: It is a tensor with other than one element, or a complex one.
        """
        if not isinstance(loss, Tensor):
            if not is_number(loss):
                raise ArgumentTypeError("loss", loss, "a tensor with one element or a number")
            loss = torch.tensor(float(loss), dtype=torch.float64, device="cpu")
        elif loss.numel() != 1 or loss.is_complex():
            shape = tuple(loss.shape)
            raise ArgumentValueError("loss", f"tensor{shape}", "must have one real element; take its .mean() or .sum()")
        value = loss.detach().reshape(()).to(torch.float64)
        if self._sum is not None and on_host(value) and not on_host(self._sum):
            value = value.to(self._sum.device, non_blocking=True)  # the other way round the host would wait
        self._sum = value.clone() if self._sum is None else self._sum.to(value.device, non_blocking=True) + value
        self._num += 1

    def take(self) -> Tensor | None:
        """The mean of what was added since the last call, 0-dim float64; None where nothing was."""
        mean = None if self._sum is None else self._sum / self._num
        self._sum, self._num = None, 0
        return mean
