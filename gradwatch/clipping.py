"""Clipping rules: from the measured norm, on the device.

A rule owns no norm: it names the column it needs, gets it measured, and scales or clamps in place. Where the gradients
lie in host memory it leaves them alone when there is nothing to clip; elsewhere the device decides and nobody waits.
A non-finite norm never touches a gradient: scaling by it would turn the healthy ones into NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import torch
from torch import Tensor

from gradwatch._distributed_parts import any_dtensor, is_dtensor, is_partial, local, summed
from gradwatch._statistics import Column, Statistics, values_of
from gradwatch._transfer import look, on_host, wait_for
from gradwatch.errors import ArgumentTypeError, ArgumentValueError, NonfiniteGradientError, is_number

_EPSILON = 1e-6
"""What torch adds to the norm before it divides by it (``torch.nn.utils.clip_grad_norm_``)."""


class Clip(Protocol):
    """A clipping rule."""

    @property
    def norm_type(self) -> float:
        """The ``p`` of the norm that decides."""

    @property
    def needs(self) -> tuple[Column, ...]:
        """What has to be measured beyond the usual columns."""

    @property
    def per_parameter(self) -> bool:
        """Whether each gradient is clipped by itself, so that it works without having seen the others."""

    def apply(self, parameters: Sequence[Tensor], statistics: Statistics, scale: Tensor | float) -> Tensor | None:
        """Clip the parameters' gradients in place.

        Args:
            parameters: ``[num_params]``; their ``.grad`` may be None.
            statistics: Of these gradients, unscaled.
            scale: The loss scale that the gradients still carry, 1.0 for none.

        Returns:
            The total L2 norm after clipping, unscaled, 0-dim; None where it must be measured again.
        """


@dataclass(frozen=True)
class ClipNorm:
    """Scale all gradients so that their total norm is at most ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does.

    ``grad *= min(1, max_norm / (total_norm + 1e-6))`` (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063). With a
    non-finite total norm the gradients stay as they are.

    Args:
        max_norm: Largest total norm, > 0.
        norm_type: The ``p`` of the p-norm, > 0; ``math.inf`` for the largest absolute value.
        error_if_nonfinite: Raise at a non-finite total norm, as torch does. Waits for the device.

    Raises:
        ArgumentTypeError: An argument is not a number (or not a bool).
        ArgumentValueError: ``max_norm`` or ``norm_type`` is not positive, or NaN.
    """

    max_norm: float
    norm_type: float = 2.0
    error_if_nonfinite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", _positive("max_norm", self.max_norm))
        given: object = self.norm_type
        object.__setattr__(self, "norm_type", _positive("norm_type", math.inf if given == "inf" else given))
        if not isinstance(self.error_if_nonfinite, bool):
            raise ArgumentTypeError("error_if_nonfinite", self.error_if_nonfinite, "True or False")

    @property
    def needs(self) -> tuple[Column, ...]:
        """What has to be measured beyond the usual columns."""
        if self.norm_type == 2.0:  # noqa: PLR2004 - the L2 norm
            return ()
        return (Column.ABS_MAX,) if math.isinf(self.norm_type) else (Column.POWER,)

    @property
    def per_parameter(self) -> bool:
        """The total norm is over all gradients."""
        return False

    def total_norm(self, statistics: Statistics) -> Tensor:
        """The p-norm over all gradients, 0-dim float64, on the device."""
        if self.needs == (Column.ABS_MAX,):
            maxima = statistics[Column.ABS_MAX]
            return maxima.max() if len(maxima) else maxima.sum()
        if self.needs == (Column.POWER,):
            return statistics[Column.POWER].sum().pow(1 / self.norm_type)
        return statistics.total_norm()

    def apply(self, parameters: Sequence[Tensor], statistics: Statistics, scale: Tensor | float) -> Tensor | None:
        """Clip in place; see :class:`Clip`."""
        del scale  # the coefficient is a ratio
        if on_host(statistics.data) and self._within(statistics) == 1.0:
            return statistics.total_norm()
        coefficient = self.coefficient(statistics)
        _scale_gradients(parameters, coefficient)
        return statistics.total_norm() * coefficient

    def coefficient(self, statistics: Statistics) -> Tensor:
        """What the gradients are to be multiplied by, 0-dim, on the device; 1 where the norm is not finite."""
        if on_host(statistics.data):
            return torch.tensor(self._within(statistics), dtype=torch.float64, device="cpu")
        total = self.total_norm(statistics)
        if self.error_if_nonfinite:
            self._raise_if_nonfinite(wait_for(total))
        return torch.where(torch.isfinite(total), self.max_norm / (total + _EPSILON), 1.0).clamp(max=1.0)

    def _within(self, statistics: Statistics) -> float:
        """The coefficient where looking is free: torch's calls on one number cost ten times as much."""
        norm = float(look(self.total_norm(statistics)))
        if self.error_if_nonfinite:
            self._raise_if_nonfinite(norm)
        return min(self.max_norm / (norm + _EPSILON), 1.0) if math.isfinite(norm) else 1.0

    def _raise_if_nonfinite(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise NonfiniteGradientError(
                f"gradwatch: the total norm of order {self.norm_type} of the gradients is {norm}, so they cannot be "
                "clipped; ClipNorm(error_if_nonfinite=True) asked to stop here. Set it to False to go on: the "
                "gradients are then left as they are"
            )

    def __str__(self) -> str:
        kind = "" if self.norm_type == 2.0 else f", norm_type={self.norm_type:g}"  # noqa: PLR2004 - the L2 norm
        return f"ClipNorm(max_norm={self.max_norm:g}{kind})"


@dataclass(frozen=True)
class ClipValue:
    """Clamp every element to ``[-clip_value, clip_value]``, as ``torch.nn.utils.clip_grad_value_`` does.

    It changes the direction of the step, which clipping by norm does not. NaN stays NaN.

    Args:
        clip_value: Largest absolute value of an element, > 0.

    Raises:
        ArgumentTypeError: ``clip_value`` is not a number.
        ArgumentValueError: ``clip_value`` is not positive, or NaN.
    """

    clip_value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip_value", _positive("clip_value", self.clip_value))

    @property
    def norm_type(self) -> float:
        """Values are compared one by one: the norm that decides is the largest one."""
        return math.inf

    @property
    def needs(self) -> tuple[Column, ...]:
        """Nothing beyond the usual columns."""
        return ()

    @property
    def per_parameter(self) -> bool:
        """Every element is clipped by itself."""
        return True

    def apply(self, parameters: Sequence[Tensor], statistics: Statistics, scale: Tensor | float) -> Tensor | None:
        """Clip in place; see :class:`Clip`."""
        del statistics
        bound = self.clip_value * scale
        for parameter in parameters if any_dtensor(parameters) else ():
            if parameter.grad is not None and is_partial(parameter.grad):
                parameter.grad = summed(parameter.grad)  # clamping the summands one by one is something else
        for values in _values_in_place(parameters):
            if isinstance(bound, Tensor):
                limit = bound.to(values.device, values.dtype)
                torch.clamp(values, min=-limit, max=limit, out=values)
            else:
                values.clamp_(min=-bound, max=bound)
        return None

    def squared_norms_left(
        self, gradients: Sequence[Tensor | None], scale: Tensor | float | None, device: torch.device
    ) -> Tensor:
        """Squared L2 norm of what it will leave of each gradient, unscaled, ``[num_params]`` float64 on ``device``.

        Args:
            gradients: As they are; not changed, None where absent.
            scale: The loss scale that they carry, None for none.
            device: Where to.
        """
        result = torch.zeros(len(gradients), dtype=torch.float64, device=device)
        for row, gradient in enumerate(gradients):
            if gradient is None:
                continue
            values = values_of(gradient)
            unscaled = values if scale is None else values.to(torch.float64) / scale
            clamped = unscaled.clamp(min=-self.clip_value, max=self.clip_value)
            norm = torch.linalg.vector_norm(clamped, dtype=torch.float64)
            result[row].copy_(norm.square(), non_blocking=True)
        return result

    def __str__(self) -> str:
        return f"ClipValue(clip_value={self.clip_value:g})"


def cuts(coefficient: Tensor) -> bool:
    """Whether there is something to clip; where only the device knows, it has to be tried."""
    return not on_host(coefficient) or float(look(coefficient)) < 1.0


_GRAD, _DTYPE, _LAYOUT = attrgetter("grad"), attrgetter("dtype"), attrgetter("layout")
_DENSE = frozenset((torch.strided,))
_SINGLE = frozenset((torch.float32, torch.float16, torch.bfloat16))
_DOUBLE = (torch.float64, torch.complex128)


def _scale_gradients(parameters: Sequence[Tensor], coefficient: Tensor) -> None:
    # A 0-dim tensor, not a float, and of their precision: three times faster on the CPU, and nobody has to wait.
    gradients = [gradient for gradient in map(_GRAD, parameters) if gradient is not None]
    if (
        on_host(coefficient)
        and _SINGLE.issuperset(map(_DTYPE, gradients))
        and _DENSE.issuperset(map(_LAYOUT, gradients))
        and not any_dtensor(gradients)
    ):
        if gradients:
            gradients.reverse()  # the last to be measured are still in the processor's cache
            torch._foreach_mul_(gradients, coefficient.to(torch.float32))
        return
    groups: dict[tuple[torch.device, bool], list[Tensor]] = {}
    for value in _values_in_place(parameters):
        groups.setdefault((value.device, value.dtype in _DOUBLE), []).append(value)
    for (device, is_double), group in groups.items():
        factor = coefficient if is_double else coefficient.to(torch.float32)
        torch._foreach_mul_(group, factor.to(device, non_blocking=True))


def _values_in_place(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The elements of every gradient that there is, to be changed in place."""
    gradients = [gradient for parameter in parameters if (gradient := parameter.grad) is not None]
    if any_dtensor(gradients):
        # what lies here, for torch refuses a mix of both kinds; as new as .data, for torch's own clipping leaves the
        # version counters of a DTensor alone
        gradients = [local(gradient).data if is_dtensor(gradient) else gradient for gradient in gradients]
    if not any(gradient.is_sparse or gradient.is_conj() for gradient in gradients):
        return gradients
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.layout is torch.sparse_coo:
            # uncoalesced, an element is a sum of several values: clamping them one by one is something else
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())  # noqa: SLF001 - .values() refuses to be changed in place
        else:  # the lazy conjugate bit bars torch's foreach functions; a real factor does not care about it
            values.append(parameter.grad.conj() if parameter.grad.is_conj() else parameter.grad)
    return values


def _positive(argument: str, given: object) -> float:
    if not is_number(given):
        raise ArgumentTypeError(argument, given, "a number")
    value = float(given)
    if not value > 0:
        raise ArgumentValueError(argument, given, "must be a number > 0")
    return value
