"""Says from step records alone that training goes wrong: ``StepRecord`` → ``list[Incident]``.

One small class per kind. A detector never acts, raises or does I/O; what it remembers is kept per optimizer. It knows
no absolute size of a gradient, because a loss may be scaled by anything: it holds a norm against its own history,
against the other layers of the same step, or an update against the weights that it changes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from gradwatch.errors import StateError
from gradwatch.records import Float64Array, Incident, Int64Array, Layer, Severity, StepRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

CLEAN_STEPS = 30
"""An incident is over after so many steps without its symptom; then the next one is a new one."""

SKIPPED_STEPS = 20
"""A GradScaler halves its scale at each skip: 20 in a row are a factor of 10^6, so the scale is not the trouble."""

FADE = 3.0
"""Decades across the depth. Healthy nets stay within about one; half of three decades is already slow learning."""

FADE_WEAK = 1.5
"""Decades across the depth that count only when the loss has stood still too."""

STALLED_STEPS = 60
"""Steps without a better loss that count as standing still."""

RECOVERING = 0.3
"""Decades: a gap that closes this fast is a zero-initialised layer waking up, not a fault."""

SILENT_STEPS = 30
"""Steps with a gradient of exactly zero after which a layer in the midst of others counts as silenced: a branch that
is used now and then is none."""

JUMP = 1.5
"""Decades above the usual norm that heavy-tailed losses do not hold for three steps."""

BURST = 3.0
"""Decades above anything seen that are evidence enough in a single step."""

SPREADS = 5.0
"""Mean deviations above the usual norm: a run that fluctuates a lot must jump further."""

WARM_STEPS = 10
"""Steps before a history counts as one."""

REPLACED = 1.0
"""Update over weight: from here on a step does not improve the weights, it replaces them."""


class Detector(Protocol):
    """One kind of fault: looks at every step, remembers what it needs, says when an incident begins."""

    kind: str

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        ...


def default_detectors() -> tuple[Detector, ...]:
    """One detector of every kind, root causes first; they share the depth profile of a step."""
    depth = DepthProfiles()
    return NonfiniteDetector(), ExplodingDetector(depth), VanishingDetector(depth)


# ------------------------------------------------------------------------------------------------- what is remembered


@dataclass
class _Episode:
    """A condition that lasts is one incident that goes on."""

    active: bool = False
    clean: int = 0

    def begins(self, *, symptom: bool, alarm: bool) -> bool:
        """Whether a new incident begins at this step; the symptom alone keeps a running one going."""
        if symptom or alarm:
            new = alarm and not self.active
            self.active, self.clean = self.active or alarm, 0
            return new
        self.clean += 1
        self.active = self.active and self.clean < CLEAN_STEPS
        return False


@dataclass
class _Streaks:
    """For how many steps in a row each symptom has lasted."""

    lasted: dict[str, int] = field(default_factory=dict)
    height: dict[str, float] = field(default_factory=dict)

    def update(self, heights: Mapping[str, float]) -> None:
        """Count one step; a symptom that has receded from where it began starts anew."""
        for rule, height in heights.items():
            if rule in self.lasted and height >= self.height[rule] - RECOVERING:
                self.lasted[rule] += 1
            else:
                self.lasted[rule], self.height[rule] = 1, height
        for rule in self.lasted.keys() - heights.keys():
            del self.lasted[rule], self.height[rule]

    def ripe(self, patience: Mapping[str, int]) -> list[str]:
        """The symptoms that have lasted long enough, in the order of ``patience``."""
        return [rule for rule, steps in patience.items() if self.lasted.get(rule, 0) >= steps]


@dataclass
class _Level:
    """The usual size of a norm, in decades: a running mean that no single step can move far.

    Attributes:
        mean: Usual log10 of the norm.
        spread: Mean absolute deviation from it.
        peak: Where the mean has been, forgotten slowly: a converged run that bounces back to where it came from
            has not exploded.
        highest: The largest value ever seen.
        count: Values seen.
    """

    mean: float = 0.0
    spread: float = 0.0
    peak: float = -math.inf
    highest: float = -math.inf
    count: int = 0

    def update(self, value: float) -> None:
        """Take in one finite value; a jump counts as half a decade at most."""
        if self.count == 0:
            self.mean = self.peak = value
        self.count += 1
        rate = max(1 / self.count, 0.05)
        off = min(max(value - self.mean, -0.5), 0.5)
        self.mean += rate * off
        self.spread += rate * (abs(off) - self.spread)
        self.peak = max(self.mean, self.peak + 0.005 * (self.mean - self.peak))
        self.highest = max(self.highest, value)

    def shift(self, decades: float) -> None:
        """Move with the set of parameters that it is about."""
        self.mean += decades
        self.peak += decades
        self.highest += decades

    @property
    def limit(self) -> float:
        """What a norm must exceed for several steps to have jumped."""
        return max(self.mean + max(JUMP, SPREADS * self.spread), self.peak)


@dataclass
class _Progress:
    """Whether the loss still gets better."""

    smooth: float = math.nan
    best: float = math.inf
    since: int = 0

    def update(self, loss: float | None) -> None:
        """Take in one step's loss; an unknown or non-finite one tells nothing."""
        if loss is None or not math.isfinite(loss):
            return
        self.smooth = loss if math.isnan(self.smooth) else self.smooth + 0.1 * (loss - self.smooth)
        self.since += 1
        if self.smooth < self.best - 0.01 * abs(self.best) or math.isinf(self.best):
            self.best, self.since = self.smooth, 0


@dataclass
class WeightScale:
    """How large the weight matrices are, as last measured: diagnosis asks for it at steps that measure no weights.

    Attributes:
        median: Of norm / (norm at a variance of 2 / fan_in), which keeps a signal as strong as it is through ReLUs (He
            et al., 2015); torch's own default is 0.4. NaN where it was never measured.
        smallest: The matrix with the smallest one.
        largest: The matrix with the largest one.
    """

    median: float = math.nan
    smallest: str = ""
    largest: str = ""

    def evidence(self) -> dict[str, Any]:
        """Its part of an incident's evidence."""
        if math.isnan(self.median):
            return {}
        return {"weight_scale": self.median, "smallest_weight": self.smallest, "largest_weight": self.largest}


@dataclass
class _Usual:
    """The usual gradient norm of every parameter; NaN where none was seen that was not zero.

    A running mean in which one step counts as twice the usual at most: it follows slow growth, but needs many steps
    to follow a jump.
    """

    names: tuple[str, ...] = ()
    norm: Float64Array = field(default_factory=lambda: np.empty(0))

    def rename(self, names: tuple[str, ...], grad_norm: Float64Array) -> float:
        """Follow the optimizer to other parameters: what is known is kept by name.

        Args:
            names: The parameters from now on.
            grad_norm: Their first norms, taken as usual where nothing is known.

        Returns:
            By how many decades the usual total norm changes thereby: unfreezing layers is no explosion.
        """
        if names == self.names:
            return 0.0
        before = _root_sum_square(self.norm)
        known = dict(zip(self.names, self.norm.tolist(), strict=True))
        self.names, self.norm = names, np.array([known.get(name, math.nan) for name in names], dtype=np.float64)
        after = _root_sum_square(np.where(np.isnan(self.norm), grad_norm, self.norm))
        return math.log10(after / before) if after > 0 < before else 0.0

    def update(self, grad_norm: Float64Array) -> None:
        """Take in one step's norms, those that are finite."""
        change = np.minimum(grad_norm, self.norm * 2)
        change -= self.norm
        change *= 0.1
        if math.isfinite(change.sum()):
            self.norm += change
            return
        self.norm += np.where(np.isfinite(change), change, 0)
        new = np.isnan(self.norm) & np.isfinite(grad_norm) & (grad_norm > 0)
        self.norm[new] = grad_norm[new]


StateT = TypeVar("StateT")


class _Memory(Generic[StateT]):
    """One state per optimizer, to and from plain data."""

    def __init__(self, new: Callable[[], StateT]) -> None:
        self._new = new
        self._states: dict[int, StateT] = {}

    def of(self, optimizer: int) -> StateT:
        """The state of this optimizer, a new one at its first step."""
        state = self._states.get(optimizer)
        if state is None:
            state = self._states[optimizer] = self._new()
        return state

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists, strings and numbers only: survives ``torch.load(weights_only=True)``."""
        return {str(optimizer): _to_plain(state) for optimizer, state in self._states.items()}

    def from_plain(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_plain`.

        Raises:
            StateError: The data is not what :meth:`to_plain` gives.
        """
        try:
            states = {int(optimizer): _from_plain(self._new(), plain) for optimizer, plain in data.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise StateError(f"gradwatch: this is not the state of a detector of this version: {error}") from error
        self._states = states


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {item.name: _to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, (tuple, list)) else dict(value) if isinstance(value, dict) else value


def _from_plain(default: Any, plain: Any) -> Any:
    """``plain`` in the types of ``default``."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        changes = {key: _from_plain(getattr(default, key), value) for key, value in plain.items()}
        return dataclasses.replace(default, **changes)
    return np.array(plain, dtype=np.float64) if isinstance(default, np.ndarray) else type(default)(plain)


# --------------------------------------------------------------------------------------------------- the depth profile


@dataclass(frozen=True, eq=False)
class Profile:
    """How strong the learning signal is at each depth of one step.

    A module's norm is taken over all its parameters, since a bias's gradient is the signal itself, while a weight's is
    the signal times the activation and can hide that both shrink. Modules without a weight matrix tell nothing of the
    way between layers, and an embedding's gradient has few rows.

    Attributes:
        modules: The modules that have a gradient, in the model's order.
        level: log10 of each one's norm, ``[num_modules]``; -inf where it is exactly zero.
        lowest: Smallest level.
        highest: Largest level.
        fade: Decades from the last module to the first, by a least-squares line through those that are not zero.
    """

    modules: tuple[str, ...]
    level: Float64Array
    lowest: float
    highest: float
    fade: float

    def trend(self) -> float:
        """Decades from the last module to the first, by the median slope of all pairs: one odd layer has no say."""
        level = self.level[self.level > -math.inf]
        count = len(level)
        if count < _MIN_TREND:
            return 0.0
        if count > _MAX_POINTS:
            starts = np.linspace(0, count, _MAX_POINTS, endpoint=False).astype(np.int64)
            level = np.add.reduceat(level, starts) / np.diff(np.append(starts, count))
        first, last = np.triu_indices(len(level), 1)
        return float(np.median((level[last] - level[first]) / (last - first))) * (len(level) - 1)


_SQUARABLE = 1e150  # float64 overflows beyond its root
_MAX_POINTS = 32
_MIN_TREND = 4  # two layers have no trend, and three only just


class DepthProfiles:
    """The depth profile of a step, computed once for all detectors that share it."""

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout] = {}
        self._record: StepRecord | None = None
        self._profile: Profile
        self._scales: dict[int, tuple[StepRecord, WeightScale]] = {}

    def of(self, record: StepRecord) -> Profile:
        """The profile of this step."""
        if record is not self._record:
            self._record, self._profile = record, self.layout(record).profile(record)
        return self._profile

    def scale(self, record: StepRecord) -> WeightScale | None:
        """The size of the weights; None where the step measured none."""
        if record.weight_norm is None:
            return None
        known = self._scales.get(record.optimizer)
        if known is None or known[0] is not record:
            known = self._scales[record.optimizer] = record, self.layout(record).scale(record.weight_norm)
        return known[1]

    def layout(self, record: StepRecord) -> _Layout:
        """What the layers of this record have in common with those of the step before."""
        layout = self._layouts.get(record.optimizer)
        if layout is None or layout.layers is not record.layers:
            layout = self._layouts[record.optimizer] = _Layout(record.layers)
        return layout


class _Layout:
    """Which parameters belong to which module, for one tuple of layers.

    Attributes:
        layers: The layers that all this is about.
        modules: The modules with a weight matrix, in the model's order.
        matrix: Which parameters are weight matrices, ``[num_params]``.
        common_norm: The norm of a matrix whose weights have a variance of 1 / fan_in, ``[num_params]``.
    """

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        members: dict[str, list[int]] = {}
        deep: set[str] = set()
        for index, layer in enumerate(layers):
            if layer.numel == 0 or layer.module_type.startswith("Embedding"):
                continue
            module = layer.module or layer.name
            members.setdefault(module, []).append(index)
            if len(layer.shape) > 1:
                deep.add(module)
        self.modules = tuple(module for module in members if module in deep)
        groups = [members[module] for module in self.modules]
        self._order = np.array([index for group in groups for index in group], dtype=np.int64)
        self._starts = np.cumsum([0, *(len(group) for group in groups)])[:-1]
        self._line = _line(len(groups))
        self.matrix = np.array([len(layer.shape) > 1 and layer.numel > 0 for layer in layers], dtype=bool)
        self.common_norm = np.sqrt([layer.shape[0] if layer.shape else 1 for layer in layers])

    def profile(self, record: StepRecord) -> Profile:
        """The profile over the modules that have a gradient."""
        if not self.modules:
            return Profile((), np.empty(0), 0.0, 0.0, 0.0)
        norm = np.minimum(record.grad_norm.take(self._order), _SQUARABLE)
        modules = self.modules
        with np.errstate(all="ignore"):
            level = np.log10(np.add.reduceat(norm * norm, self._starts)) / 2
            fade = float(self._line @ level)
            if not math.isfinite(fade):
                present = ~np.logical_and.reduceat(np.isnan(norm), self._starts)
                level = np.log10(np.add.reduceat(np.nan_to_num(norm * norm, nan=0.0), self._starts)) / 2
                level = level[present]
                modules = tuple(np.array(modules, dtype=object)[present].tolist())
                alive = level[level > -math.inf]
                fade = float(_line(len(alive)) @ alive)
        if not modules:
            return Profile((), level, 0.0, 0.0, 0.0)
        return Profile(modules, level, float(level.min()), float(level.max()), fade)

    def scale(self, weight_norm: Float64Array) -> WeightScale:
        """How large the weight matrices are against a common initialisation."""
        indices = np.nonzero(self.matrix & np.isfinite(weight_norm))[0]
        if len(indices) == 0:
            return WeightScale()
        scale = weight_norm[indices] / (self.common_norm[indices] * math.sqrt(2))
        smallest, largest = (self.layers[int(indices[find(scale)])].name for find in (np.argmin, np.argmax))
        return WeightScale(float(np.median(scale)), smallest, largest)


def _line(count: int) -> Float64Array:
    """Weights whose dot product with ``count`` levels is the rise of their least-squares line."""
    depth: Float64Array = np.arange(count, dtype=np.float64) - (count - 1) / 2
    return depth * ((count - 1) / max(float(depth @ depth), 0.5))


# ----------------------------------------------------------------------------------------------------------- nonfinite


@dataclass
class _NonfiniteState:
    bad: _Episode = field(default_factory=_Episode)
    overflow: _Episode = field(default_factory=_Episode)
    skipped: int = 0


class NonfiniteDetector:
    """NaN or inf in gradients, weights or the loss; a GradScaler that skips step after step."""

    kind = "nonfinite"

    def __init__(self) -> None:
        self._memory = _Memory(_NonfiniteState)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        state = self._memory.of(record.optimizer)
        state.skipped = state.skipped + 1 if record.skipped else 0
        weights = record.num_nonfinite_weight
        # A skipped step's gradients are the scaler's business; no scaler repairs a weight.
        bad = bool(weights is not None and weights.any()) or (
            not record.skipped
            and (bool(record.num_nonfinite.any()) or not math.isfinite(0.0 if record.loss is None else record.loss))
        )
        found = []
        if (bad or not record.skipped) and state.bad.begins(symptom=bad, alarm=bad):
            found.append(_nonfinite(record))
        if state.overflow.begins(symptom=record.skipped, alarm=state.skipped >= SKIPPED_STEPS and not bad):
            found.append(_overflowing(record, state.skipped))
        return found


def _nonfinite(record: StepRecord) -> Incident:
    """Weights first, then gradients in the order in which they probably went bad."""
    grads = record.num_nonfinite
    weights = np.zeros_like(grads) if record.num_nonfinite_weight is None else record.num_nonfinite_weight
    loss_is_bad = record.loss is not None and not math.isfinite(record.loss)
    order = _worst_first(record, weights, loss_is_bad=loss_is_bad)
    names = tuple(record.layers[index].name for index in order)
    bad_grads = int((grads > 0).sum())
    evidence: dict[str, Any] = {
        "rule": "weight" if weights.any() else "gradient" if bad_grads else "loss",
        "loss": record.loss,
        "num_nonfinite": int(grads.sum()),
        "num_nonfinite_weight": int(weights.sum()),
        "num_layers_nonfinite": bad_grads,
        "dtype": record.layers[order[0]].dtype if order else "",
        "loss_scale": record.loss_scale,
    }
    return Incident(
        kind="nonfinite",
        step=record.step,
        layers=names,
        severity=Severity.ERROR,
        value=float(weights.sum() + grads.sum()) if names else 1.0,
        threshold=0.0,
        message=_nonfinite_message(record, order, weights, loss_is_bad=loss_is_bad),
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence=evidence,
    )


def _worst_first(record: StepRecord, weights: Int64Array, *, loss_is_bad: bool) -> list[int]:
    """Indices of the non-finite layers, the likely birthplace first.

    The backward pass runs from the last layer to the first, so with a good loss the last bad layer was bad first. With
    a bad loss the forward pass is to blame: behind the birthplace every input is non-finite and so is every element of
    the weight's gradient, while before it ReLUs hold some back; so the first of the worst layers is the nearest.
    """
    grads = record.num_nonfinite
    numel = np.maximum(np.array([layer.numel for layer in record.layers], dtype=np.float64), 1)
    depth = np.arange(len(grads))
    keys = (depth, -grads / numel) if loss_is_bad else (-depth,)
    by_gradient = np.lexsort(keys)
    by_weight = np.lexsort((depth, -weights / numel))
    first = [int(index) for index in by_weight if weights[index]]
    return first + [int(index) for index in by_gradient if grads[index] and not weights[index]]


def _nonfinite_message(record: StepRecord, order: list[int], weights: Int64Array, *, loss_is_bad: bool) -> str:
    loss = f"the loss is {record.loss}"
    if not order:
        return f"{loss.capitalize()}, although every gradient of this step is finite."
    layer = record.layers[order[0]]
    if weights[order[0]]:
        count = f"{weights[order[0]]:,} of its {layer.numel:,} elements"
        return f"The weight {layer.name} holds NaN or inf ({count}): from here on everything it touches is non-finite."
    bad = int((record.num_nonfinite > 0).sum())
    many = f"{bad:,} of {len(record.layers):,} parameters"
    count = f"{record.num_nonfinite[order[0]]:,} of {layer.numel:,} elements"
    if loss_is_bad:
        return (
            f"{loss.capitalize()}, and the gradients of {many} hold NaN or inf: the forward pass produced it, "
            f"nearest to {layer.name} ({count})."
        )
    if bad == len(record.layers):
        return (
            f"The gradients of all {bad:,} parameters hold NaN or inf: it arose in the loss or behind the last layer, "
            f"{layer.name} ({count})."
        )
    return f"The gradient of {layer.name} holds NaN or inf ({count}); it was the first of {many} on the way back."


def _overflowing(record: StepRecord, skipped: int) -> Incident:
    scale = "" if record.loss_scale is None else f", now with a loss scale of {record.loss_scale:g}"
    return Incident(
        kind="nonfinite",
        step=record.step,
        layers=tuple(layer.name for layer, bad in zip(record.layers, record.num_nonfinite, strict=True) if bad),
        severity=Severity.ERROR,
        value=float(skipped),
        threshold=float(SKIPPED_STEPS),
        message=f"The GradScaler has skipped {skipped} steps in a row{scale}: nothing is being learnt.",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={"rule": "loss_scale", "loss_scale": record.loss_scale, "skipped": skipped, "loss": record.loss},
    )


# ----------------------------------------------------------------------------------------------------------- exploding

_EXPLODING_PATIENCE = {"replaced": 1, "burst": 1, "jump": 3, "growth": 3}


@dataclass
class _ExplodingState:
    episode: _Episode = field(default_factory=_Episode)
    streaks: _Streaks = field(default_factory=_Streaks)
    weights: WeightScale = field(default_factory=WeightScale)
    total: _Level = field(default_factory=_Level)
    usual: _Usual = field(default_factory=_Usual)


class ExplodingDetector:
    """Gradients far above their usual size, growing from layer to layer, or updates that replace the weights."""

    kind = "exploding"

    def __init__(self, depth: DepthProfiles | None = None) -> None:
        self._depth = depth or DepthProfiles()
        self._memory = _Memory(_ExplodingState)
        self._layers: dict[int, tuple[Layer, ...]] = {}

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)
        self._layers = {}

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        # Neither an overflow nor a NaN is a large gradient: such a step says nothing here, good or bad.
        if record.skipped or not math.isfinite(record.total_norm) or record.num_nonfinite.any():
            return []
        state = self._memory.of(record.optimizer)
        if self._layers.get(record.optimizer) is not record.layers:
            self._layers[record.optimizer] = record.layers
            state.total.shift(state.usual.rename(record.names, record.grad_norm))
        state.weights = self._depth.scale(record) or state.weights
        findings = self._findings(record, state)
        state.streaks.update(dict.fromkeys(findings, 0.0))
        ripe = state.streaks.ripe(_EXPLODING_PATIENCE)
        found = []
        if state.episode.begins(symptom=bool(findings), alarm=bool(ripe)):
            incident = findings[ripe[0]]()
            found.append(dataclasses.replace(incident, evidence={**incident.evidence, **state.weights.evidence()}))
        if record.total_norm > 0:
            state.total.update(math.log10(record.total_norm))
        state.usual.update(record.grad_norm)
        return found

    def _findings(self, record: StepRecord, state: _ExplodingState) -> dict[str, Callable[[], Incident]]:
        """The symptoms of this step; each can be made an incident."""
        findings: dict[str, Callable[[], Incident]] = {}
        total, level = state.total, math.log10(record.total_norm) if record.total_norm > 0 else -math.inf
        if total.count >= WARM_STEPS:
            if level >= total.highest + BURST:
                findings["burst"] = lambda: _jumped(record, state, _power(total.highest + BURST), "burst")
            if level >= total.limit or (level >= total.peak + 0.5 and _carried_by_one(record, state)):
                findings["jump"] = lambda: _jumped(record, state, _power(total.limit), "jump")
        profile = self._depth.of(record)
        if profile.fade <= -FADE and profile.trend() <= -FADE:
            findings["growth"] = lambda: _growing(record, profile)
        if record.update_ratio is not None:
            ratios = _update_ratios(self._depth.layout(record), record)
            if (ratios >= REPLACED).any() and np.nanmedian(ratios) >= REPLACED:
                findings["replaced"] = lambda: _replaced(record, ratios)
        return findings


def _carried_by_one(record: StepRecord, state: _ExplodingState) -> bool:
    """Whether one layer alone outweighs the whole model's usual norm, far above its own usual: diluted by the rest."""
    alone = record.grad_norm >= _power(state.total.peak)
    far = _power(state.total.limit - state.total.mean)
    return bool((alone & (record.grad_norm >= far * state.usual.norm)).any())


def _update_ratios(layout: _Layout, record: StepRecord) -> Float64Array:
    """Update over weight of every matrix, ``[num_params]``; NaN where there is none or where it means nothing.

    A matrix initialised to (nearly) zero is replaced by its first updates, as it should be: at a hundredth of the size
    that weights with a variance of 1 / fan_in have, the ratio means nothing.
    """
    if record.update_ratio is None:
        return np.full(len(record.layers), math.nan)
    started = layout.matrix if record.weight_norm is None else record.weight_norm > 0.01 * layout.common_norm
    return np.where(layout.matrix & started, record.update_ratio, math.nan)


def _jumped(record: StepRecord, state: _ExplodingState, threshold: float, rule: str) -> Incident:
    usual = _power(state.total.mean)
    with np.errstate(all="ignore"):
        times = np.nan_to_num(record.grad_norm / state.usual.norm, nan=0.0)
    order = [int(index) for index in np.argsort(-times, kind="stable") if times[index] >= 10]  # noqa: PLR2004
    order = order or [int(np.nanargmax(record.grad_norm))]
    worst = f"{record.layers[order[0]].name} ({_number(times[order[0]])} times its usual)"
    factor = _number(record.total_norm / usual)
    lasted = "in a single step" if rule == "burst" else f"for {_EXPLODING_PATIENCE[rule]} steps in a row"
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(record.layers[index].name for index in order),
        severity=Severity.ERROR,
        value=record.total_norm if rule == "burst" or record.total_norm > threshold else float(times[order[0]] * usual),
        threshold=threshold,
        message=f"The gradients have exploded: their norm of {record.total_norm:.3g} is {factor} times the usual "
        f"{usual:.3g}, {lasted}; most of all {worst}.",
        optimizer=record.optimizer,
        num_layers=len(record.layers),
        evidence={
            "rule": rule,
            "total_norm": record.total_norm,
            "usual_norm": usual,
            "highest_norm": _power(state.total.highest),
            "lr": record.lr,
            "loss": record.loss,
        },
    )


def _growing(record: StepRecord, profile: Profile) -> Incident:
    order = np.argsort(-profile.level, kind="stable")
    worst = [int(index) for index in order if profile.level[index] >= profile.level[-1] + FADE] or [int(order[0])]
    decades = -profile.trend()
    factor = _power(decades / (len(profile.modules) - 1))
    first, last = profile.modules[worst[0]], profile.modules[-1]
    ratio = _power(float(profile.level[worst[0]] - profile.level[-1]))
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(profile.modules[index] for index in worst),
        severity=Severity.ERROR,
        value=_power(decades),
        threshold=10**FADE,
        message=f"The learning signal grows on its way back: every layer multiplies it by about {factor:.2g}, so "
        f"{first} receives {_number(ratio)} times what {last} does.",
        optimizer=record.optimizer,
        num_layers=len(profile.modules),
        evidence={
            "rule": "growth",
            "per_layer": factor,
            "decades": decades,
            "first": first,
            "last": last,
            "total_norm": record.total_norm,
            "lr": record.lr,
        },
    )


def _replaced(record: StepRecord, ratios: Float64Array) -> Incident:
    order = [int(index) for index in np.argsort(-ratios, kind="stable") if ratios[index] >= REPLACED]
    median, looked_at = float(np.nanmedian(ratios)), int((~np.isnan(ratios)).sum())
    return Incident(
        kind="exploding",
        step=record.step,
        layers=tuple(record.layers[index].name for index in order),
        severity=Severity.ERROR,
        value=median,
        threshold=REPLACED,
        message=f"Each step replaces the weights instead of improving them: the update is {_number(median)} times as "
        f"large as the weights (median of {looked_at}; about 0.001 is usual), most of all in "
        f"{record.layers[order[0]].name} ({_number(ratios[order[0]])} times).",
        optimizer=record.optimizer,
        num_layers=looked_at,
        evidence={
            "rule": "replaced",
            "update_ratio": median,
            "total_norm": record.total_norm,
            "lr": record.lr,
            "loss": record.loss,
        },
    )


# ----------------------------------------------------------------------------------------------------------- vanishing

_VANISHING_PATIENCE = {"zero": 5, "fade": 5, "gap": 10, "notch": 10, "silent": 1, "slow": 5}


@dataclass
class _VanishingState:
    """What is remembered of one optimizer.

    Attributes:
        silent: For how many steps in a row each module in the midst of others has had a gradient of exactly zero.
        awake: Steps in a row in which every module had a gradient.
        complete: Whether that has been so for long: a module that is silent now is then not an unused branch.
    """

    episode: _Episode = field(default_factory=_Episode)
    streaks: _Streaks = field(default_factory=_Streaks)
    weights: WeightScale = field(default_factory=WeightScale)
    progress: _Progress = field(default_factory=_Progress)
    silent: dict[str, int] = field(default_factory=dict)
    awake: int = 0
    complete: bool = False


@dataclass(frozen=True, eq=False)
class _Symptom:
    """A weak signal: in which modules, worst first, and how many decades below which other module."""

    rule: str
    modules: tuple[str, ...]
    decades: float
    reference: str
    threshold: float = FADE
    height: float = 0.0


class VanishingDetector:
    """The learning signal does not reach some layers: it fades on its way back, breaks off, or skips one."""

    kind = "vanishing"

    def __init__(self, depth: DepthProfiles | None = None) -> None:
        self._depth = depth or DepthProfiles()
        self._memory = _Memory(_VanishingState)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)

    def observe(self, record: StepRecord) -> list[Incident]:
        """The incidents that begin at this step."""
        if record.skipped or not math.isfinite(record.total_norm) or record.num_nonfinite.any():
            return []
        state = self._memory.of(record.optimizer)
        state.progress.update(record.loss)
        state.weights = self._depth.scale(record) or state.weights
        profile = self._depth.of(record)
        state.awake = state.awake + 1 if profile.lowest > -math.inf else 0
        state.complete = state.complete or state.awake >= WARM_STEPS
        symptoms = {symptom.rule: symptom for symptom in _symptoms(profile, state)}
        state.streaks.update({rule: symptom.height for rule, symptom in symptoms.items()})
        ripe = state.streaks.ripe(_VANISHING_PATIENCE)
        if state.episode.begins(symptom=bool(symptoms), alarm=bool(ripe)):
            return [_vanishing(record, profile, symptoms[ripe[0]], state.weights)]
        return []


def _symptoms(profile: Profile, state: _VanishingState) -> list[_Symptom]:
    """Every way in which the signal of this step is weak somewhere."""
    trend = _fading(profile, state.progress)
    if profile.highest - profile.lowest < FADE or profile.highest == -math.inf:
        state.silent = {}
        return trend
    broken = _broken_off(profile)
    # Where one place makes up most of the fade, it breaks off there and does not fade from layer to layer.
    if any(symptom.rule == "gap" and symptom.decades > fade.decades / 2 for symptom in broken for fade in trend):
        trend = []
    return [*broken, *trend, *_notch(profile), *_silenced(profile, state)]


def _fading(profile: Profile, progress: _Progress) -> list[_Symptom]:
    """A trend over depth; half of it counts when the loss stands still."""
    slow = progress.since >= STALLED_STEPS
    threshold = FADE_WEAK if slow else FADE
    if profile.fade < threshold or (decades := profile.trend()) < threshold:
        return []
    rule = "fade" if decades >= FADE else "slow"
    below = profile.level <= profile.level[-1] - threshold
    worst = _lowest_first(profile, below) or profile.modules[:1]
    return [_Symptom(rule, worst, decades, profile.modules[-1], threshold)]


def _broken_off(profile: Profile) -> list[_Symptom]:
    """Everything before some layer is far below everything behind it, or exactly zero."""
    top = np.maximum.accumulate(profile.level)[:-1]
    bottom = np.minimum.accumulate(profile.level[::-1])[::-1][1:]
    with np.errstate(all="ignore"):
        gap = np.nan_to_num(bottom - top, nan=0.0, posinf=math.inf, neginf=0.0)
    cut = int(np.argmax(gap)) + 1
    decades = float(gap[cut - 1])
    modules, reference = profile.modules[:cut], profile.modules[cut]
    if math.isinf(decades):
        return [_Symptom("zero", modules, decades, reference)]
    # One weak first layer is no broken chain: its input may simply be small.
    return [_Symptom("gap", modules, decades, reference, height=decades)] if decades >= FADE and cut > 1 else []


def _notch(profile: Profile) -> list[_Symptom]:
    """A layer far below most others, between stronger ones: to compare the first with the last would not show it."""
    middle = float(np.median(profile.level))
    low = profile.level < middle - FADE
    strong = np.cumsum(~low)
    inside = low & (strong > 1) & (strong < strong[-1]) & (profile.level > -math.inf)
    if not inside.any():
        return []
    decades = middle - float(profile.level[inside].min())
    reference = profile.modules[int(np.argmin(np.abs(profile.level - middle)))]
    return [_Symptom("notch", _lowest_first(profile, inside), decades, reference, height=decades)]


def _silenced(profile: Profile, state: _VanishingState) -> list[_Symptom]:
    """Modules that had a signal, and for long have had exactly none, while others on both sides have."""
    zero = profile.level == -math.inf
    inside = zero & (np.cumsum(~zero) > 0)
    names = [profile.modules[int(index)] for index in np.nonzero(inside)[0]]
    state.silent = {name: state.silent.get(name, 0) + 1 for name in names} if state.complete else {}
    lasting = tuple(name for name, steps in state.silent.items() if steps >= SILENT_STEPS)
    last = profile.modules[int(np.nonzero(~zero)[0][-1])]
    return [_Symptom("silent", lasting, math.inf, last)] if lasting else []


def _lowest_first(profile: Profile, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    order = np.argsort(profile.level, kind="stable")
    return tuple(profile.modules[int(index)] for index in order if chosen[index])


def _vanishing(record: StepRecord, profile: Profile, symptom: _Symptom, weights: WeightScale) -> Incident:
    per_layer = _power(-symptom.decades / max(1, len(profile.modules) - 1))
    indices = {module: index for index, module in enumerate(profile.modules)}
    worst, reference = symptom.modules[0], symptom.reference
    ratio = _power(float(profile.level[indices[worst]] - profile.level[indices[reference]]))
    return Incident(
        kind="vanishing",
        step=record.step,
        layers=symptom.modules,
        severity=Severity.WARNING if symptom.rule == "slow" else Severity.ERROR,
        value=_power(-symptom.decades) if symptom.rule in ("fade", "slow") else ratio,
        threshold=10**-symptom.threshold,
        message=_vanishing_message(symptom, worst, per_layer, ratio),
        optimizer=record.optimizer,
        num_layers=len(profile.modules),
        evidence={
            "rule": symptom.rule,
            "per_layer": per_layer,
            "decades": symptom.decades,
            "ratio": ratio,
            "first": worst,
            "last": reference,
            "num_modules": len(symptom.modules),
            **weights.evidence(),
        },
    )


def _vanishing_message(symptom: _Symptom, worst: str, per_layer: float, ratio: float) -> str:
    span = worst if len(symptom.modules) == 1 else f"{worst} and {len(symptom.modules) - 1} more"
    steps, share = _VANISHING_PATIENCE[symptom.rule], f"{_fraction(ratio)} of what {symptom.reference} does"
    if symptom.rule == "zero":
        return (
            f"No learning signal reaches {span}: the gradient has been exactly zero for {steps} steps, "
            f"while {symptom.reference} behind receives one."
        )
    if symptom.rule == "silent":
        return (
            f"No learning signal reaches {span} any more: the gradient has been exactly zero for {SILENT_STEPS} steps, "
            "while other layers before and behind receive one."
        )
    if symptom.rule == "gap":
        return f"The learning signal breaks off on its way back: {span} receives {share}, for {steps} steps now."
    if symptom.rule == "notch":
        return f"One part hardly learns: {span} receives {share}, while the layers before and behind are well."
    stalled = f", and the loss has stood still for {STALLED_STEPS} steps" if symptom.rule == "slow" else ""
    return (
        f"The learning signal fades on its way back: every layer passes on about {100 * per_layer:.2g} % of it, so "
        f"{worst} receives {share}{stalled}."
    )


def _root_sum_square(norm: Float64Array) -> float:
    """The total of several norms; NaN counts as nothing."""
    return float(np.linalg.norm(np.nan_to_num(np.minimum(norm, _SQUARABLE), nan=0.0)))


def _power(decades: float) -> float:
    """10 to this power; a float's largest rather than an OverflowError."""
    return float(10 ** min(decades, 308.0))


def _number(value: float) -> str:
    """``12``, ``40,000``, ``3e+09``."""
    return f"{float(f'{value:.2g}'):,.0f}" if 10 <= value < 1e7 else f"{value:.2g}"  # noqa: PLR2004


def _fraction(ratio: float) -> str:
    """``1/40,000``, ``1/3e+09``."""
    return f"1/{_number(1 / ratio)}" if ratio > 0 else "nothing"
