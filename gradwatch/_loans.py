"""What an optimizer is lent for the length of one step: attributes that it reads, and gradients that it shall not see.

All of it is taken back right after the step; where the step has raised, at the optimizer's next event or at the end.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_ABSENT = object()


@dataclass
class _Loan:
    attributes: list[tuple[str, Tensor, Any]] = field(default_factory=list)
    """Name, what is lent, and what was there before."""
    gradients: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Parameters and the gradients that are kept from the optimizer."""


class Loans:
    """Who has been lent what; holds the optimizers weakly."""

    def __init__(self) -> None:
        self._loans: weakref.WeakKeyDictionary[Optimizer, _Loan] = weakref.WeakKeyDictionary()

    def lend(self, optimizer: Optimizer, name: str, value: Tensor) -> None:
        """Let the optimizer find ``value`` under this name."""
        loan = self._loans.setdefault(optimizer, _Loan())
        loan.attributes.append((name, value, getattr(optimizer, name, _ABSENT)))
        setattr(optimizer, name, value)

    def hide_gradients(self, optimizer: Optimizer) -> None:
        """Let the optimizer find no gradient: what has none is left alone, with its state and its count of steps."""
        loan = self._loans.setdefault(optimizer, _Loan())
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    loan.gradients.append((parameter, parameter.grad))
                    parameter.grad = None

    def take_back(self, optimizer: Optimizer) -> None:
        """Put everything back as it was, except what somebody else has changed since."""
        loan = self._loans.pop(optimizer, None)
        if loan is None:
            return
        for name, lent, before in reversed(loan.attributes):
            if getattr(optimizer, name, None) is not lent:
                continue
            if before is _ABSENT:
                delattr(optimizer, name)
            else:
                setattr(optimizer, name, before)
        for parameter, gradient in loan.gradients:
            if parameter.grad is None:
                parameter.grad = gradient

    def take_back_all(self) -> None:
        """The same from everybody."""
        for optimizer in list(self._loans):
            self.take_back(optimizer)
