"""Gradients in, one tensor of statistics out: ``[num_params, num_columns]`` float64, on the gradients' device.

Every column says how the parts of a sharded run combine (:class:`Reduction`). Nothing here waits for a device. In host
memory, where looking is free, :class:`SquaredNorms` decides for itself what needs a second look; elsewhere norms
accumulate in float64 from the start, so that none does.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from operator import is_not

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradwatch._norms import SquaredNorms
from gradwatch._rows import flat
from gradwatch._transfer import look, on_host

_HALVES = (torch.float16, torch.bfloat16)
_MEASURABLE = (torch.float32, torch.float64, *_HALVES)


class Reduction(enum.Enum):
    """How local values become the global one."""

    SUM = enum.auto()
    MAX = enum.auto()


class Column(enum.Enum):
    """One statistic of a gradient, with its reduction."""

    SQUARED_NORM = (0, Reduction.SUM)
    """Sum of squares; 0 where absent."""
    NUM_NONFINITE = (1, Reduction.SUM)
    """Number of elements that are NaN or infinite."""
    PRESENT = (2, Reduction.MAX)
    """1 where there is a gradient, 0 where it is None."""
    ABS_MAX = (3, Reduction.MAX)
    """Largest absolute value; for a complex gradient the largest modulus."""
    POWER = (4, Reduction.SUM)
    """Sum of ``|g| ** p``, for clipping by a p-norm."""

    def __init__(self, position: int, reduction: Reduction) -> None:
        self.position = position
        self.reduction = reduction


ALWAYS = (Column.SQUARED_NORM, Column.NUM_NONFINITE, Column.PRESENT)


@dataclass(frozen=True)
class Statistics:
    """What was measured of a list of tensors.

    Attributes:
        data: ``[num_params, num_columns]`` float64, on the device of the gradients.
        columns: Which they are.
        sound: It is known that every one is there, finite and not zero, as at nearly every step.
    """

    data: Tensor
    columns: tuple[Column, ...]
    sound: bool = False

    def __getitem__(self, column: Column) -> Tensor:
        """One column, ``[num_params]``."""
        return self.data[:, self.columns.index(column)]

    def values(self, column: Column) -> NDArray[np.float64]:
        """The same where it lies in host memory, without a copy; elsewhere it is an error to ask."""
        return look(self.data)[:, self.columns.index(column)]

    def norms(self) -> Tensor:
        """L2 norm of each, ``[num_params]``."""
        return self[Column.SQUARED_NORM].sqrt()

    def total_norm(self) -> Tensor:
        """L2 norm over all of them, 0-dim float64; 0 where all are absent."""
        return self._total_norm

    @cached_property
    def _total_norm(self) -> Tensor:
        """Many ask, it is computed once; nobody changes it in place."""
        if on_host(self.data):  # a few calls of torch's on one number cost more than the number
            return torch.from_numpy(np.sqrt(self.values(Column.SQUARED_NORM).sum(keepdims=True)).reshape(()))
        return self[Column.SQUARED_NORM].sum().sqrt()

    def of(self, rows: Tensor) -> Statistics:
        """Some of its rows, ``[num_rows, num_columns]``, with the total norm of all."""
        some = Statistics(rows, self.columns)
        some.__dict__["_total_norm"] = self._total_norm
        return some

    def in_columns(self, columns: tuple[Column, ...]) -> Statistics:
        """The same in these columns; what was not measured is 0."""
        if columns == self.columns:
            return self
        nothing = self.data.new_zeros(len(self.data))
        found = [self[column] if column in self.columns else nothing for column in columns]
        return Statistics(torch.stack(found, dim=1), columns)

    def unscaled(self, scale: Tensor | float, norm_type: float) -> Statistics:
        """The same without a loss scale that the gradients still carry."""
        data = self.data.clone()
        exponents = {Column.SQUARED_NORM: 2.0, Column.ABS_MAX: 1.0, Column.POWER: norm_type}
        for position, column in enumerate(self.columns):
            if column in exponents:
                data[:, position] /= scale ** exponents[column]
        return Statistics(data, self.columns)


class Meter:
    """Measures lists of tensors of fixed shapes and dtypes (the gradients, or the weights themselves).

    Args:
        templates: Tensors with the shapes and dtypes to come, such as the parameters.
    """

    def __init__(self, templates: Sequence[Tensor]) -> None:
        views = [_real_view(template.detach()) for template in templates]
        self._shapes = [view.shape for view in views]
        self._dtypes = [view.dtype if view.dtype in _MEASURABLE else torch.float32 for view in views]
        self.on_host = all(on_host(template) for template in templates)
        """Whether looking at what has been measured is free."""
        self.device = next((t.device for t in templates if not on_host(t)), torch.device("cpu"))
        """Where the statistics are."""
        self._norms = SquaredNorms(self._shapes, self._dtypes) if self.on_host else None
        self._plain = all(template.dtype is dtype for template, dtype in zip(templates, self._dtypes, strict=True))
        """As far as is known all that comes is strided and real, so that nobody has to look at each by itself."""
        self._complete = self._all_count = all(shape.numel() for shape in self._shapes)
        """Whether none was absent of late; an empty one is not read, so that nobody would notice."""
        self._clean = np.tile([0.0, 0.0, 1.0], (len(templates), 1))
        """All present and finite, as at nearly every step."""

    @torch.no_grad()
    def measure(
        self, tensors: Sequence[Tensor | None], columns: tuple[Column, ...] = ALWAYS, norm_type: float = 2.0
    ) -> Statistics:
        """Measure ``tensors``, ``[num_params]`` in the templates' order, None where absent.

        Args:
            tensors: Of any layout (sparse ones are coalesced, complex ones seen as pairs of reals); never changed.
            columns: What to measure; :data:`ALWAYS` comes first.
            norm_type: The ``p`` of :attr:`Column.POWER`.
        """
        if self._norms is not None and self._plain and Column.POWER not in columns:
            try:
                if self._complete:
                    try:
                        return self._in_one_go(tensors, columns, self._norms, complete=True)
                    except TypeError:  # one is absent: torch tells at no cost, and looking costs
                        self._complete = False
                self._complete = all(map(is_not, tensors, repeat(None))) and self._all_count
                return self._in_one_go(tensors, columns, self._norms, complete=self._complete)
            except (RuntimeError, TypeError):  # a sparse gradient, for one
                self._plain = False
        return self._one_by_one(tensors, columns, norm_type)

    def _in_one_go(
        self, tensors: Sequence[Tensor | None], columns: tuple[Column, ...], norms: SquaredNorms, *, complete: bool
    ) -> Statistics:
        maxima = np.zeros(len(tensors)) if Column.ABS_MAX in columns else None
        data = self._clean.copy() if maxima is None else np.empty((len(tensors), len(columns)))
        squared, nonfinite, sound = norms.judged(tensors, maxima, complete=complete)
        data[:, 0] = squared
        if maxima is not None:
            data[:, 1:3] = 0.0, 1.0
            data[:, columns.index(Column.ABS_MAX)] = maxima
        if nonfinite is not None:
            data[:, 1] = nonfinite
        if not complete:
            data[:, 2] = [tensor is not None for tensor in tensors]
        return Statistics(torch.from_numpy(data), columns, sound and complete)

    def _one_by_one(
        self, tensors: Sequence[Tensor | None], columns: tuple[Column, ...], norm_type: float
    ) -> Statistics:
        plain: list[Tensor | None] = []
        odd: list[int] = []
        for i, (tensor, dtype) in enumerate(zip(tensors, self._dtypes, strict=True)):
            if tensor is None or (tensor.layout is torch.strided and tensor.dtype is dtype):
                plain.append(tensor)
            else:
                plain.append(_real_view(values_of(tensor).detach()).to(dtype))
                odd.append(i)
        measured = self._on_the_host(plain, odd) if self._norms is not None else self._on_the_device(plain)
        for column in columns[len(ALWAYS) :]:
            if column is Column.ABS_MAX:
                extremes = [None if g is None else _extremes(g) for g in tensors]
                low = self._stack([None if pair is None else pair[0] for pair in extremes])
                high = self._stack([None if pair is None else pair[1] for pair in extremes])
                measured.append(torch.maximum(-low, high))
            else:
                measured.append(self._stack([None if g is None else _power(g, norm_type) for g in plain]))
        return Statistics(torch.stack(measured, dim=1), columns)

    def _on_the_host(self, tensors: list[Tensor | None], odd: list[int]) -> list[Tensor]:
        assert self._norms is not None
        misshapen = [(i, t) for i in odd if (t := tensors[i]) is not None and t.shape != self._shapes[i]]
        for i, _ in misshapen:  # the values of a sparse gradient: as many as there happen to be at this step
            tensors[i] = None
        squared, counts = self._norms(tensors)
        nonfinite = np.zeros(len(tensors), dtype=np.int64) if counts is None else counts
        for i, tensor in misshapen:
            (squared[i],), bad = SquaredNorms([tensor.shape], [tensor.dtype])([tensor])
            nonfinite[i] = 0 if bad is None else bad[0]
            tensors[i] = tensor
        present = torch.tensor([t is not None for t in tensors], dtype=torch.float64, device="cpu")
        return [torch.from_numpy(squared), torch.from_numpy(nonfinite).to(torch.float64), present]

    def _on_the_device(self, tensors: list[Tensor | None]) -> list[Tensor]:
        present = [flat(tensor) for tensor in tensors if tensor is not None]
        norms = iter(torch._foreach_norm(present, 2, torch.float64) if present else ())  # noqa: SLF001 - as torch's clip
        counts = iter([torch.isfinite(tensor).logical_not_().sum() for tensor in present])
        ones = torch.ones((), dtype=torch.float64, device=self.device)
        return [
            self._stack([None if t is None else next(norms).square() for t in tensors]),
            self._stack([None if t is None else next(counts) for t in tensors]),
            self._stack([None if t is None else ones for t in tensors]),
        ]

    def _stack(self, values: Sequence[Tensor | None]) -> Tensor:
        """``[num_params]`` float64 on one device, 0 where absent."""
        present = [value for value in values if value is not None]
        if len({(value.device, value.dtype) for value in present}) > 1:
            present = [value.to(self.device, torch.float64, non_blocking=True) for value in present]
        result = torch.zeros(len(values), dtype=torch.float64, device=self.device)
        if len(present) == len(values) and present:
            return result.copy_(torch.stack(present), non_blocking=True)
        where = [i for i, value in enumerate(values) if value is not None]
        for i, value in zip(where, present, strict=True):
            result[i].copy_(value, non_blocking=True)
        return result


def values_of(gradient: Tensor) -> Tensor:
    """The explicit elements of a gradient: of a sparse one its coalesced values, of any other itself."""
    if gradient.layout is torch.strided:
        return gradient
    if gradient.layout is torch.sparse_coo:
        return gradient.coalesce().values()
    return gradient.to_dense()


def _real_view(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _extremes(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest element, at memory speed, where ``abs().max()`` is not."""
    values = values_of(gradient)
    if not values.numel():
        zero = torch.zeros((), dtype=torch.float64, device=values.device)
        return zero, zero
    if values.is_complex():
        modulus = values.abs().max()
        return -modulus, modulus
    low, high = torch.aminmax(values)
    return low, high


def _power(tensor: Tensor, norm_type: float) -> Tensor:
    if math.isinf(norm_type):
        raise ValueError("the infinity norm is a maximum: measure Column.ABS_MAX")
    norm: Tensor = torch.linalg.vector_norm(tensor, norm_type, dtype=torch.float64)
    return norm.pow(norm_type)
