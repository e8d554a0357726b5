"""What the probes have last seen of the model at work, kept between the sampled steps for whoever judges in between."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwatch._activation_kinds import ACTIVATIONS, BOUNDED, RELUS
from gradwatch._decades import root_sum_square
from gradwatch._memory import Memory, PerLayers
from gradwatch._noise_scale import WHAT as LOCAL_NORMS
from gradwatch._weights import Weights
from gradwatch.records import Activations, Incident, Layer, StepRecord, Unavailable


class Plan:
    """What the order of the calls alone tells; it seldom changes from one look to the next.

    Args:
        modules: Which module was called, ``[num_calls]``.
        kinds: What kind of module it is, ``[num_calls]``.
        layers: The modules that hold a weight matrix.

    Attributes:
        is_layer: Where the module holds a weight matrix, ``[num_calls]``.
        before: Row of the nearest layer before each call; -1 where there is none, ``[num_calls]``.
        bounded: Rows of hidden activations with flat ends: a layer follows, so that they are not the model's output.
        outputs: Rows of activations with flat ends that no layer follows: the model's output.
        relus: Rows of activations of the ReLU family that a layer precedes.
        chain: Row of each layer's first call, embeddings left out: theirs has few rows.
        chain_modules: Their modules.
    """

    def __init__(self, modules: tuple[str, ...], kinds: tuple[str, ...], layers: frozenset[str]) -> None:
        self.modules = modules
        self.kinds = kinds
        # A function's row bears the name of the layer before it.
        pairs = zip(modules, kinds, strict=True)
        self.is_layer = np.array([name in layers and kind not in ACTIVATIONS for name, kind in pairs], dtype=bool)
        rows = np.arange(len(modules))
        self.before = np.concatenate([[-1], np.maximum.accumulate(np.where(self.is_layer, rows, -1))[:-1]])
        last = int(rows[self.is_layer][-1]) if self.is_layer.any() else -1
        self.bounded = np.array([row for row in rows if kinds[row] in BOUNDED and row < last], dtype=np.int64)
        self.outputs = np.array([row for row in rows if kinds[row] in BOUNDED and row > last >= 0], dtype=np.int64)
        self.relus = np.array([r for r in rows if kinds[r] in RELUS and self.before[r] >= 0], dtype=np.int64)
        chain: dict[str, int] = {}
        for row in rows[self.is_layer].tolist():
            if not kinds[row].startswith("Embedding"):
                chain.setdefault(modules[row], row)
        self.chain = np.array(list(chain.values()), dtype=np.int64)
        self.chain_modules = tuple(chain)


@dataclass(frozen=True, eq=False)
class Calls:
    """One step's activations, with what their order tells."""

    seen: Activations
    plan: Plan

    def before(self, row: int) -> int:
        """Row of the nearest layer before this call; -1 where there is none."""
        return int(self.plan.before[row])

    @functools.cached_property
    def input_size(self) -> tuple[int, float]:
        """Row of the first layer that is given data, and the root mean square of that; -1 where there is none."""
        given = self.plan.is_layer & (self.seen.from_data == 1)
        for row in given.nonzero()[0].tolist():
            mean, std = self.seen.in_mean.item(row), self.seen.in_std.item(row)
            if not math.isnan(std):
                return row, math.hypot(mean, std)
        return -1, math.nan

    @functools.cached_property
    def carried_grad(self) -> float:
        """The largest gradient that was still there when the backward pass began; 0 where there was none."""
        largest = float(np.fmax.reduce(self.seen.carried_grad))
        return largest if largest > 0 else 0.0


class Forward:
    """The calls of each step, made once for all that share it."""

    def __init__(self) -> None:
        self._names = PerLayers(_layers_with_matrix)
        self._record: StepRecord | None = None
        self._calls: Calls | None = None
        self._plans: dict[int, tuple[frozenset[str], Plan]] = {}

    def of(self, record: StepRecord) -> Calls | None:
        """The calls of this step; None where nobody has looked."""
        if record.activations is None:
            return None
        if record is not self._record:
            self._record, seen = record, record.activations
            self._calls = None if len(seen.modules) == 0 else Calls(seen, self._plan(record, seen))
        return self._calls

    def _plan(self, record: StepRecord, seen: Activations) -> Plan:
        layers = self._names.of(record)
        known = self._plans.get(record.optimizer)
        if known is None or known[0] is not layers or (known[1].modules, known[1].kinds) != (seen.modules, seen.kinds):
            known = self._plans[record.optimizer] = layers, Plan(seen.modules, seen.kinds, layers)
        return known[1]


def _layers_with_matrix(layers: tuple[Layer, ...]) -> frozenset[str]:
    return frozenset(layer.module for layer in layers if len(layer.shape) > 1)


@dataclass
class _Known:
    """What was last seen of one optimizer's steps.

    Attributes:
        input_guessed: The first layer, where what it is given is only known from its gradients.
        input_module: The first layer that is given data.
        input_rms: Root mean square of that.
        input_max: Its largest absolute value.
        input_spread: Largest over median standard deviation of its features.
        num_bounded: Hidden activations with flat ends.
        saturated_share: Share of their elements at the flat ends.
        carried_grad: Norm of a gradient that was still there when the backward pass began.
        largest_update: Largest update over weight so far, median over the weight matrices.
        wildest_update: The same of the matrix that was changed most.
        first_loss: The first one.
        loss_growth: The last finite one over the first.
        first_weight: Total norm of the weights when first seen.
        last_weight: The same, last seen.
    """

    input_module: str = ""
    input_guessed: str = ""
    input_rms: float = math.nan
    input_max: float = math.nan
    input_spread: float = math.nan
    num_bounded: int = 0
    saturated_share: float = math.nan
    carried_grad: float = 0.0
    largest_update: float = 0.0
    wildest_update: float = 0.0
    first_loss: float = math.nan
    loss_growth: float = 0.0
    first_weight: float = math.nan
    last_weight: float = math.nan

    def estimate_input(self, record: StepRecord) -> None:
        """Before anybody has looked: a weight's gradient is the bias's times what the layer is given."""
        if len(record.layers) < 2:  # noqa: PLR2004
            return
        weight, bias = record.layers[0], record.layers[1]
        if weight.module != bias.module or len(bias.shape) != 1 or len(weight.shape) < 2:  # noqa: PLR2004
            return
        if record.grad_norm[1] > 0 and record.grad_norm[0] > 0:
            rms = float(record.grad_norm[0] / record.grad_norm[1]) / math.sqrt(weight.numel / weight.shape[0])
            self.input_rms, self.input_guessed = rms, weight.module


def _follow_loss(record: StepRecord, known: _Known) -> None:
    if record.loss is None or not math.isfinite(record.loss) or record.loss <= 0:
        return
    known.first_loss = record.loss if math.isnan(known.first_loss) else known.first_loss
    known.loss_growth = record.loss / known.first_loss


class Scene:
    """Remembers what the probes have seen, and adds it to the evidence of the incidents."""

    def __init__(self, forward: Forward | None = None, weights: Weights | None = None) -> None:
        self._forward = forward or Forward()
        self._weights = weights or Weights()
        self._memory = Memory(_Known)
        self._gaps: tuple[Unavailable, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)

    def observe(self, record: StepRecord) -> None:
        """Take in one step."""
        gaps = tuple(gap for gap in record.unavailable if gap.what != LOCAL_NORMS)  # no diagnosis asks for them
        self._gaps = gaps or (() if record.activations is not None else self._gaps)
        known = self._memory.of(record.optimizer)
        if record.update_ratio is not None:
            known.largest_update = max(known.largest_update, self._weights.typical_update(record, 0.0))
            known.wildest_update = max(known.wildest_update, self._weights.largest_update(record))
        _follow_loss(record, known)
        if known.input_module == "" and record.finite:
            known.estimate_input(record)
        if record.weight_norm is not None:
            known.last_weight = root_sum_square(record.weight_norm)
            known.first_weight = known.last_weight if math.isnan(known.first_weight) else known.first_weight
        if (calls := self._forward.of(record)) is None:
            return
        seen = calls.seen
        known.carried_grad = calls.carried_grad
        row, rms = calls.input_size
        if row >= 0 and math.isfinite(rms):
            known.input_module, known.input_rms = seen.modules[row], rms
            known.input_max, known.input_spread = float(seen.in_max[row]), float(seen.in_spread[row])
        bounded = calls.plan.bounded
        known.num_bounded = len(bounded)
        known.saturated_share = float(seen.saturated_share[bounded].mean()) if len(bounded) else math.nan

    def complete(self, incident: Incident) -> Incident:
        """The incident with what was last seen as evidence, and with what could not be seen."""
        known = vars(self._memory.of(incident.optimizer))
        facts = {key: value for key, value in known.items() if value not in ("", 0) and value == value}  # noqa: PLR0124
        gaps = tuple(gap for gap in self._gaps if gap not in incident.unavailable)
        return dataclasses.replace(
            incident, evidence={**facts, **incident.evidence}, unavailable=(*incident.unavailable, *gaps)
        )
