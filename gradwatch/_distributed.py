"""Local measurements in, the whole model's out: one packed exchange a step, the same on every process.

What is sharded. A :class:`~gradwatch._distributed_world.World` exists where the model has DTensors (FSDP2, tensor,
sequence and expert parallelism, on meshes of any dimension), FSDP1's flat parameters, or is a stage of a pipeline. For
everything else (one process, DDP, ZeRO's optimizer) every process sees the reduced gradients: nothing is exchanged.

What is agreed. Before its first step every process tells its layers (one ``all_gather_object``); the
:class:`~gradwatch._distributed_roster.Roster` is their union in a fixed order, so that None, empty and uneven parts,
and layers that live on some processes only, have their row on all. Copies of a part share its weight in a sum.

What is exchanged. One SUM in float64: per parameter the weighted sums of squares and non-finite counts (before
anybody's clipping, and as they are now); on sampled steps those of the weights; the update of the sampled step before,
which is only known after it; per process four numbers (non-finite elements, largest element, loss, flags). One MAX:
presence, largest elements, learning rate, skipped. The maximum of NaN differs from backend to backend (gloo drops it):
NaN goes in as 0 and is put back where the sum of squares, which no backend cleans, is NaN. A gradient whose summands
lie on several processes (Partial, as after ``SequenceParallel``) is summed before it is squared, by torch's own
``redistribute``: one more all-reduce over its mesh dimension for each of these, which are small.

What cannot hang. The form of the pack depends on nothing but the roster and counters that all processes share; an error
on the way to it sends neutral values and a flag, so every process exchanges as often as its peers and knows at the end
that this step is incomplete: nothing is clipped by it, and it is no record. A changed layout (a layer unfrozen on one
stage) sends a flag, too: in host memory all agree again at once, elsewhere before the next exchange, so that no device
is waited for. Optional looks do not depend on a local clock here (``max_overhead`` leaves nothing out). Nothing is
exchanged at the end of a run, for a process that has failed is not there any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradwatch._distributed_roster import Holding, Roster, View
from gradwatch._distributed_world import World
from gradwatch._statistics import ALWAYS, Column, Reduction, Statistics
from gradwatch._transfer import Later, look, on_host

FAILED, CHANGED, TOLD, SEEN = 1.0, 2.0, 4.0, 8.0
"""Flags of a process, to be added: its watcher has failed, its layout has changed, it was told a loss, it has something
to say of where a non-finite loss was born."""

_PER_RANK = 4
"""Non-finite elements, largest element, loss, flags."""

_ROUNDING = 1e-6
"""Counts of copies are shared out in fractions: their sum is as whole as float64 gets it."""


@dataclass(frozen=True)
class Form:
    """What one step's pack holds: the same on every process.

    Attributes:
        columns: Of the gradients.
        sampled: Whether the weights are measured.
        clamped: Whether a clamped norm is.
        num_updated: Rows of a sampled step before, whose update is reported; 0 for none.
    """

    columns: tuple[Column, ...] = ALWAYS
    sampled: bool = False
    clamped: bool = False
    num_updated: int = 0

    @property
    def sums(self) -> tuple[Column, ...]:
        """The columns that are summed."""
        return tuple(column for column in self.columns if column.reduction is Reduction.SUM)

    @property
    def maxima(self) -> tuple[Column, ...]:
        """Those of which the largest value counts."""
        return tuple(column for column in self.columns if column.reduction is Reduction.MAX)

    def num_values(self, num_params: int, num_ranks: int) -> tuple[int, int]:
        """Length of the SUM and of the MAX, in float64 values."""
        per_param = 2 * len(self.sums) + 1 + self.sampled + self.clamped
        total = num_params * per_param + 2 * self.num_updated + _PER_RANK * num_ranks
        return total, 2 * len(self.maxima) * num_params + 2


@dataclass(frozen=True)
class Traffic:
    """What one exchange costs a process.

    Attributes:
        num_collectives: How many.
        num_bytes: That it puts in; a ring all-reduce sends and receives about twice as many.
    """

    num_collectives: int
    num_bytes: int


def traffic(num_params: int, num_ranks: int, form: Form | None = None) -> Traffic:
    """Collectives and bytes of a step; 0 of both on a single process.

    Args:
        num_params: Of the whole model.
        num_ranks: Processes that hold parts of it.
        form: What is exchanged; by default that of a step without samples and without a rule.
    """
    if num_ranks == 1:
        return Traffic(0, 0)
    return Traffic(2, 8 * sum((form or Form()).num_values(num_params, num_ranks)))


@dataclass(frozen=True)
class Share:
    """What one process puts in.

    Attributes:
        before: Statistics of its gradients before any clipping, ``[num_local, num_columns]``.
        current: Of its gradients as they are.
        weights: Of its weights; None where they were not looked at.
        clamped: Squared norms of what a clamp leaves, ``[num_local]``.
        update: Squared norms of the last sampled update and of its weights, ``[num_updated_here, 2]``.
        loss: Of this step, 0-dim; None where it was not told.
        lr: Largest learning rate, NaN for none.
        skipped: Whether the optimizer was kept from its step.
        flags: :data:`FAILED` and the like, added.
    """

    before: Statistics
    current: Statistics
    weights: Statistics | None = None
    clamped: Tensor | None = None
    update: Tensor | None = None
    loss: Tensor | None = None
    lr: Tensor | float = float("nan")
    skipped: Tensor | float = 0.0
    flags: float = 0.0


@dataclass(frozen=True)
class Whole:
    """What comes out: of the whole model, the same on every process, on the gradients' device.

    Attributes:
        before: ``[num_params, num_columns]``.
        current: Likewise.
        num_nonfinite_weight: ``[num_params]``, of the processes that looked.
        weight_norm: ``[num_params]``; None where the form has none.
        clamped_norm: L2 norm of what a clamp leaves, 0-dim; None likewise.
        update: Squared norms of update and weight, ``[num_updated, 2]``; None likewise.
        ranks: ``[num_ranks, 4]``: non-finite elements, largest element, loss, flags.
        lr: 0-dim, NaN for none.
        skipped: 0-dim, above 0 where any process was kept from its step.
    """

    before: Statistics
    current: Statistics
    num_nonfinite_weight: Tensor
    weight_norm: Tensor | None
    clamped_norm: Tensor | None
    update: Tensor | None
    ranks: Tensor
    lr: Tensor
    skipped: Tensor

    def raised(self, flag: float) -> Tensor:
        """On which processes a flag is up, ``[num_ranks]`` bool."""
        return torch.remainder(torch.div(self.ranks[:, 3], flag, rounding_mode="floor"), 2) > 0

    def loss(self) -> tuple[Tensor, Tensor]:
        """Mean over the processes that were told one, NaN for none; and how many were. Both 0-dim."""
        num_told = self.raised(TOLD).sum()
        return self.ranks[:, 2].sum() / num_told, num_told


class Exchange:
    """One layout's way to the whole: made by all processes together.

    Args:
        world: Who takes part.
        own: What this process holds.
        device: Of its gradients.
    """

    def __init__(self, world: World, own: Holding, device: torch.device) -> None:
        self._world = world
        self._device = device
        self._late: Later | None = None
        self.agree(own)

    def agree(self, own: Holding) -> None:
        """All processes tell what they hold: a collective."""
        self.own = self._agreed = own
        self.roster = Roster(self._world.gather(own))
        self.view: View = self.roster.view(own, self._device)

    @property
    def is_agreed(self) -> bool:
        """Whether this process still holds what it has told."""
        return self.own is self._agreed

    def hold(self, own: Holding, device: torch.device) -> None:
        """This process holds something else from now on, or the same: no collective yet."""
        self._device = device
        self.own = self._agreed if own == self._agreed else own
        self.view = self.roster.view(own, self._device)

    def settle_late(self) -> bool:
        """Before an exchange: whether somebody's layout had changed at the last one, where nobody has looked yet."""
        late, self._late = self._late, None
        return late is not None and late.read() > 0

    def must_agree(self, whole: Whole) -> bool:
        """After an exchange: whether all have to agree again; asked late where looking would wait for a device."""
        if on_host(whole.ranks):
            return bool(look(whole.raised(CHANGED)).any())
        self._late = Later(whole.raised(CHANGED).any())
        return False

    def neutral(self, columns: tuple[Column, ...]) -> Share:
        """What a process puts in that has nothing to say."""
        zeros = torch.zeros((len(self.own.layers), len(columns)), dtype=torch.float64, device=self._device)
        nothing = Statistics(zeros, columns)
        return Share(nothing, nothing, flags=FAILED)

    def reduce(self, share: Share, form: Form, updates_of: View | None = None) -> Whole:
        """The whole of all shares: one SUM and one MAX.

        Args:
            share: This process's, of its layers as last told or held.
            form: The same on every process.
            updates_of: Whose rows the update is of.
        """
        num_params, num_ranks = len(self.roster.layers), len(self.roster.ranks)
        sums = self._world.add(self._summands(share, form, updates_of))
        maxima = self._world.largest(self._candidates(share, form))
        num_columns = form.num_values(1, 0)[0] - 2 * form.num_updated
        rows = sums[: num_params * num_columns].view(num_params, num_columns)
        tail = sums[num_params * num_columns :]
        largest = maxima[:-2].view(num_params, 2 * len(form.maxima))
        columns = iter(rows.unbind(1))
        summed = [[next(columns) for _ in form.sums] for _ in range(2)]
        reached = largest.unflatten(1, (2, len(form.maxima)))
        before, current = (_assembled(form, summed[i], reached[:, i]) for i in range(2))
        nonfinite_weight = torch.ceil(next(columns) - _ROUNDING)
        return Whole(
            before=before,
            current=current,
            num_nonfinite_weight=nonfinite_weight,
            weight_norm=next(columns).sqrt() if form.sampled else None,
            clamped_norm=next(columns).sum().sqrt() if form.clamped else None,
            update=tail[: 2 * form.num_updated].view(-1, 2) if form.num_updated else None,
            ranks=tail[2 * form.num_updated :].view(num_ranks, _PER_RANK),
            lr=torch.where(maxima[-2] < 0, torch.nan, maxima[-2]),
            skipped=maxima[-1],
        )

    def total_norm(self, statistics: Statistics) -> Tensor:
        """The L2 norm over all processes' parts, 0-dim: a SUM of its own, for what was clipped after the exchange."""
        squares = self.view.share(statistics[Column.SQUARED_NORM].unsqueeze(1)).sum().reshape(1)
        return self._world.add(squares)[0].sqrt()

    def first(self, found: object) -> object:
        """What the first process has that has something: a collective of its own, at a bad step."""
        return next((one for one in self._world.gather(found) if one is not None), None)

    def _summands(self, share: Share, form: Form, updates_of: View | None) -> Tensor:
        columns = [share.before[column] for column in form.sums] + [share.current[column] for column in form.sums]
        nothing = torch.zeros(len(share.before.data), dtype=torch.float64, device=self._device)
        columns.append(nothing if share.weights is None else share.weights[Column.NUM_NONFINITE])
        if form.sampled:
            columns.append(nothing if share.weights is None else share.weights[Column.SQUARED_NORM])
        if form.clamped:
            columns.append(nothing if share.clamped is None else share.clamped)
        parts = [self.view.share(torch.stack(columns, dim=1)).reshape(-1)]
        if form.num_updated:
            told = share.update is not None and updates_of is not None
            parts.append(
                updates_of.share(share.update).reshape(-1)  # type: ignore[union-attr,arg-type]
                if told
                else nothing.new_zeros(2 * form.num_updated)
            )
        ranks = nothing.new_zeros((len(self.roster.ranks), _PER_RANK))
        own = ranks[self._world.rank]
        own[0] = share.current[Column.NUM_NONFINITE].sum()
        if Column.ABS_MAX in form.columns and len(nothing):
            own[1] = share.current[Column.ABS_MAX].max()
        if share.loss is not None:
            own[2].copy_(share.loss, non_blocking=True)
        own[3] = share.flags + (0.0 if share.loss is None else TOLD) + (0.0 if self.is_agreed else CHANGED)
        return torch.cat([*parts, ranks.reshape(-1)])

    def _candidates(self, share: Share, form: Form) -> Tensor:
        columns = [share.before[column] for column in form.maxima] + [share.current[column] for column in form.maxima]
        rows = torch.stack(columns, dim=1).nan_to_num(nan=0.0, posinf=torch.inf)
        alone = rows.new_empty(2)
        alone[0] = share.lr
        alone[1] = share.skipped
        return torch.cat([self.view.spread(rows).reshape(-1), alone.nan_to_num(nan=-1.0, posinf=torch.inf)])


def _assembled(form: Form, sums: list[Tensor], maxima: Tensor) -> Statistics:
    """The columns in the form's order."""
    found = dict(zip(form.sums, sums, strict=True))
    found[Column.NUM_NONFINITE] = torch.ceil(found[Column.NUM_NONFINITE] - _ROUNDING)
    found.update(zip(form.maxima, maxima.unbind(1), strict=True))
    if Column.ABS_MAX in found:
        holds_nan = torch.isnan(found[Column.SQUARED_NORM])
        found[Column.ABS_MAX] = torch.where(holds_nan, torch.nan, found[Column.ABS_MAX])
    return Statistics(torch.stack([found[column] for column in form.columns], dim=1), form.columns)
