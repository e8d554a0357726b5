"""What all processes agree on before their first step: which parameters there are, once each, and who holds what.

Layers of several processes under the same name are the same parameter, or parts of it. Only the stages of a pipeline
may use one name for two: there the stage's number tells them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradwatch.records import Layer, ModelInfo


@dataclass(frozen=True)
class Holding:
    """What one process brings to the agreement.

    Attributes:
        rank: Its number among all processes of the run.
        layers: Its layers, ``[num_local]``, with the shapes of the whole parameters.
        num_parts: Into how many different parts each is split, ``[num_local]``.
        stages: The pipeline stage that each belongs to, ``[num_local]``; 0 without a pipeline.
        trouble: Why it cannot tell them, "" where all is well.
        model: What it has of the model; None where it cannot tell.
    """

    rank: int
    layers: tuple[Layer, ...] = ()
    num_parts: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    trouble: str = ""
    model: ModelInfo | None = field(default=None, compare=False)

    @property
    def keys(self) -> list[tuple[int, str]]:
        """What tells its layers apart from all others, ``[num_local]``."""
        return [(stage, layer.name) for stage, layer in zip(self.stages, self.layers, strict=True)]


@dataclass(frozen=True)
class View:
    """How one process's layers stand in the roster.

    Attributes:
        kept: Which of them are in it, ``[num_kept]`` int64; None for all.
        rows: Where, ``[num_kept]`` int64; None where they are just the roster.
        weight: What their sums count for, ``[num_kept, 1]`` float64: copies of one part share its weight.
        num_rows: Of the roster.
    """

    kept: Tensor | None
    rows: Tensor | None
    weight: Tensor
    num_rows: int

    def spread(self, values: Tensor) -> Tensor:
        """Values of the own layers, ``[num_local, n]``, in the roster's rows, ``[num_params, n]``; 0 for the others."""
        if self.kept is not None:
            values = values.index_select(0, self.kept)
        if self.rows is None:
            return values
        return values.new_zeros((self.num_rows, values.shape[1])).index_copy_(0, self.rows, values)

    def share(self, values: Tensor) -> Tensor:
        """The same of what will be summed, each with its weight."""
        if self.kept is not None:
            values = values.index_select(0, self.kept)
        return replace(self, kept=None).spread(values * self.weight)

    def own_rows(self, values: Tensor) -> Tensor:
        """Of values in the roster's rows those of the own layers."""
        return values if self.rows is None else values.index_select(0, self.rows)


class Roster:
    """The agreement, the same on every process: the fixed order of all that is exchanged.

    Args:
        holdings: Of all processes.
    """

    def __init__(self, holdings: Sequence[Holding]) -> None:
        self._holders = Counter(key for holding in holdings for key in holding.keys)
        stages = sorted(self._holders, key=lambda key: key[0])  # stable: within a stage as the processes have them
        self._order = {key: row for row, key in enumerate(stages)}
        found = {key: layer for holding in holdings for key, layer in zip(holding.keys, holding.layers, strict=True)}
        uses = Counter(name for _, name in self._order)
        self.layers = tuple(found[key] if uses[key[1]] == 1 else _told_apart(found[key], key[0]) for key in self._order)
        """Of all processes, each once, ``[num_params]``."""
        self.ranks = tuple(holding.rank for holding in holdings)
        """The numbers of the processes, ``[num_ranks]``."""
        self.model = _united([holding.model for holding in holdings if holding.model is not None], self.layers)
        """The whole model; None where nobody can tell."""
        self.trouble = {holding.rank: holding.trouble for holding in holdings if holding.trouble}
        """What keeps some from telling what they hold, by the number of the process; empty where all is well."""

    def view(self, own: Holding, device: torch.device) -> View:
        """How one process's layers stand in it, with tensors on ``device``.

        The weight of a local sum is ``num_parts / num_holders``: over a mesh that is one over the product of the sizes
        of its replicating dimensions, and for a plain tensor that every process has one over their number.
        """
        known = [(i, key) for i, key in enumerate(own.keys) if key in self._order]
        kept, rows = [i for i, _ in known], [self._order[key] for _, key in known]
        weight = [own.num_parts[i] / self._holders[key] for i, key in known]
        return View(
            kept=None if len(kept) == len(own.layers) else _indices(kept, device),
            rows=None if rows == list(range(len(self.layers))) else _indices(rows, device),
            weight=torch.tensor(weight, dtype=torch.float64, device="cpu").unsqueeze(1).to(device),
            num_rows=len(self.layers),
        )

    def places(self, own: Holding) -> list[int]:
        """Where the own layers stand, ``[num_local]``; -1 for one that came after the agreement."""
        return [self._order.get(key, -1) for key in own.keys]


def _united(infos: Sequence[ModelInfo], layers: Sequence[Layer]) -> ModelInfo | None:
    """What processes that hold different layers have of a model, put together."""
    if not infos or all(info == infos[0] for info in infos):
        return infos[0] if infos else None
    modules = {module.name: module for info in infos for module in info.modules}
    operations = next((info.operations for info in infos if info.operations is not None), None)
    total = sum(layer.numel for layer in layers)
    return ModelInfo(infos[0].name, tuple(modules.values()), total, operations)


def _told_apart(layer: Layer, stage: int) -> Layer:
    module = f"stage{stage}.{layer.module}" if layer.module else f"stage{stage}"
    return replace(layer, name=f"stage{stage}.{layer.name}", module=module)


def _indices(values: list[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu").to(device)
