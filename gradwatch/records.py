"""What is handed over: plain frozen data, without torch, JSON both ways.

Every room downstream of the measuring works on these objects alone, so that a recorded run can be judged, drawn
and compared without the model, the framework or a GPU.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

FoundT = TypeVar("FoundT")

Float64Array: TypeAlias = NDArray[np.float64]
Int64Array: TypeAlias = NDArray[np.int64]

KIND_CODES: Mapping[str, str] = {
    "exploding": "GW101",
    "vanishing": "GW102",
    "nonfinite": "GW103",
    "dead_relu": "GW104",
    "saturation": "GW105",
    "lr_too_high": "GW106",
    "stalled": "GW107",
    "disconnected": "GW108",
    "input_scale": "GW109",
    "data_outlier": "GW110",
}
"""The stable identity of every kind of incident; a number is never used again for something else."""

CAUSE_CODES: Mapping[str, str] = {
    "saturating_activations": "GW201",
    "small_weights": "GW202",
    "large_weights": "GW203",
    "zero_weights": "GW204",
    "no_normalisation": "GW205",
    "no_shortcuts": "GW206",
    "long_recurrence": "GW207",
    "lr_too_high": "GW211",
    "lr_too_low": "GW212",
    "lr_jumped": "GW213",
    "growing_weights": "GW214",
    "unscaled_inputs": "GW221",
    "one_bad_batch": "GW222",
    "unscaled_targets": "GW223",
    "half_precision_overflow": "GW231",
    "half_precision_underflow": "GW232",
    "rounded_away": "GW233",
    "loss_scale": "GW234",
    "domain_operation": "GW241",
    "nonfinite_weight": "GW242",
    "nonfinite_input": "GW243",
    "nonfinite_loss": "GW244",
    "nonfinite_gradient": "GW245",
    "unsuited_loss": "GW251",
    "dead_by_bias": "GW252",
    "dead_by_learning_rate": "GW253",
    "dead_relu": "GW254",
    "unscaled_logits": "GW255",
    "zero_gradient_structural": "GW261",
    "frozen": "GW262",
    "cut_graph": "GW271",
    "no_optimizer": "GW272",
    "clipping_too_small": "GW281",
    "no_clipping": "GW282",
    "eps_too_large": "GW283",
    "gradients_pile_up": "GW284",
    "schedule_at_zero": "GW285",
    "unknown": "GW299",
}
"""The stable identity of every cause, ten numbers a topic: architecture and weights, learning rate, data, precision,
non-finite values, loss and dead units, what is no fault, wiring, settings. Never used again for something else."""


class Severity(str, enum.Enum):
    """How urgent an incident is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Layer:
    """One trainable parameter and the module that holds it.

    Attributes:
        name: The parameter, as in ``model.named_parameters()``, wrappers' prefixes stripped (``"net.0.weight"``).
        module: The module that holds it (``"net.0"``; ``""`` for the model itself).
        module_type: That module's class name (``"Linear"``).
        shape: The parameter's shape.
        dtype: The parameter's dtype without the ``torch.`` (``"float32"``).
    """

    name: str
    module: str = ""
    module_type: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = "float32"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layer:
        """The inverse of :meth:`to_json`."""
        texts = {key: str(data[key]) for key in data if key != "shape"}
        return cls(**texts, shape=tuple(int(size) for size in data["shape"]))


@dataclass(frozen=True)
class ModuleInfo:
    """One module of the model, in registration order: what diagnosis knows of the architecture."""

    name: str
    kind: str
    num_parameters: int = 0


@dataclass(frozen=True)
class Operations:
    """What the autograd graph of one step tells of the architecture: also what no module stands for.

    Attributes:
        in_loss: Operations behind the last layer with weights up to the loss, in forward order, in autograd's words
            without the ``Backward0`` (``("Sigmoid", "MseLoss")``).
        after: For each module with weights, in forward order, the operations between it and the next one, as
            ``(module, operations)`` (``("fc0", ("Relu",))``).
        has_shortcuts: Whether a signal is added to one that has passed through layers with weights.
        chance: What the loss would be for equal chances for all classes, ``log(classes)``; None where the loss is no
            mean cross entropy.
    """

    in_loss: tuple[str, ...] = ()
    after: tuple[tuple[str, tuple[str, ...]], ...] = ()
    has_shortcuts: bool = False
    chance: float | None = None


@dataclass(frozen=True)
class ModelInfo:
    """The watched model, as far as diagnosis and reports need it.

    Attributes:
        name: The model's class name.
        modules: Its leaf modules in registration order.
        num_parameters: Number of trainable elements.
        operations: What the graph tells; None where no loss with a graph was told.
    """

    name: str
    modules: tuple[ModuleInfo, ...] = ()
    num_parameters: int = 0
    operations: Operations | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelInfo:
        """The inverse of :meth:`to_json`."""
        known = data.get("operations")
        operations = None
        if known is not None:
            after = tuple((module, tuple(names)) for module, names in known["after"])
            operations = Operations(
                tuple(known["in_loss"]), after, bool(known["has_shortcuts"]), chance=known.get("chance")
            )
        modules = tuple(_fitting(ModuleInfo(**module)) for module in data["modules"])
        return _fitting(cls(**{**data, "modules": modules, "operations": operations}))


@dataclass(frozen=True)
class Unavailable:
    """Something that could not be seen, and why: never a silent gap."""

    what: str
    because: str


@dataclass(frozen=True, eq=False)
class Activations:
    """What a forward probe saw at one step: a row for each call of a module, in the order in which they ran.

    All arrays are float64 ``[num_calls]``, taken from a sample of the rows and units; NaN where a number means nothing
    for this module, or could not be measured.

    Attributes:
        modules: Which module was called; a module that is used twice has two rows.
        kinds: Its class name.
        in_mean: Mean of its input.
        in_std: Standard deviation of its input.
        in_max: Largest absolute value of its input, where that is data.
        in_spread: Of data, largest over median standard deviation of the features: features in different units.
        out_mean: Mean of an activation's output.
        out_std: Standard deviation of an activation's output.
        zero_share: Of the ReLU family, share of the output's elements that are exactly zero.
        dead_share: Share of its units that are exactly zero for every sample.
        saturated_share: Of a bounded activation or a softmax, share of the elements at the flat ends.
        saturated_units: Share of its units that are at the flat ends for nearly every sample.
        out_grad: L2 norm of the loss's gradient with respect to its output; 0 is a measured zero, NaN none at all.
        carried_grad: Of the first layer that the backward pass comes to: L2 norm of the gradient that its first
            parameter still had from the step before, NaN where it had none.
        joined: 1 where the output depends on trainable parameters (it requires a gradient), 0 where it does not.
        from_data: 1 where the input does not depend on trainable parameters: it comes from the data.
    """

    modules: tuple[str, ...]
    kinds: tuple[str, ...]
    in_mean: Float64Array
    in_std: Float64Array
    in_max: Float64Array
    in_spread: Float64Array
    out_mean: Float64Array
    out_std: Float64Array
    zero_share: Float64Array
    dead_share: Float64Array
    saturated_share: Float64Array
    saturated_units: Float64Array
    out_grad: Float64Array
    carried_grad: Float64Array
    joined: Float64Array
    from_data: Float64Array

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict; non-finite numbers become the strings nan, inf and -inf."""
        columns = {key: _floats_to_json(getattr(self, key)) for key in ACTIVATION_COLUMNS}
        return {"modules": list(self.modules), "kinds": list(self.kinds), **columns}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Activations:
        """The inverse of :meth:`to_json`."""
        columns = {key: np.array([float(x) for x in data[key]], dtype=np.float64) for key in ACTIVATION_COLUMNS}
        return cls(modules=tuple(data["modules"]), kinds=tuple(data["kinds"]), **columns)


ACTIVATION_COLUMNS = tuple(field.name for field in fields(Activations) if field.name not in ("modules", "kinds"))
"""The columns of :class:`Activations`, in its order."""


@dataclass(frozen=True)
class TimeProfile:
    """The learning signal through time of one recurrent layer at one step.

    With a loss on the last time step alone, ``norm`` shows how the signal fades on its way back. With one on every time
    step it does not: each state then has a signal of its own. ``response`` shows it always, for there only the last
    one's is followed.

    Attributes:
        module: The recurrent module (``"rnn"``), or the cell or module that the user's own loop calls.
        kind: Its class name.
        norm: L2 norm of the loss's gradient with respect to the hidden state after each time step (of an LSTM: h), in
            the order in which the layer runs, over a few samples of the batch; of a loop over all of them. Long
            sequences are followed through their last steps only.
        layer: Which of a multi-layer module's layers, and ``"reverse"`` for its backward direction (``"0"``,
            ``"0 reverse"``).
        direct: L2 norm of the part of each that does not come through later states; empty where it is not known.
        response: What arrives at each state (of an LSTM: h and c together) of the last direct gradient alone, as a
            share of it: 1 at the end. Counted back from each sample's own last direct gradient, root mean square over
            the samples; NaN before the first step of all; empty where it is not known.
    """

    module: str
    kind: str
    norm: tuple[float, ...]
    layer: str = "0"
    direct: tuple[float, ...] = ()
    response: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return {**asdict(self), **{key: number_to_json(getattr(self, key)) for key in ("norm", "direct", "response")}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TimeProfile:
        """The inverse of :meth:`to_json`."""
        norms = {key: tuple(float(x) for x in data.get(key, ())) for key in ("norm", "direct", "response")}
        return _fitting(cls(**{**data, **norms}))


@dataclass(frozen=True, eq=False)
class Ownerless:
    """Parameters that are trainable and have a gradient, and that no optimizer moves.

    Attributes:
        layers: The parameters.
        weight_norm: Their L2 norms, ``[num_params]``.
    """

    layers: tuple[Layer, ...]
    weight_norm: Float64Array

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return {"layers": [layer.to_json() for layer in self.layers], "weight_norm": _floats_to_json(self.weight_norm)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ownerless:
        """The inverse of :meth:`to_json`."""
        norms = np.array([float(x) for x in data["weight_norm"]], dtype=np.float64)
        return cls(tuple(Layer.from_json(layer) for layer in data["layers"]), norms)


@dataclass(frozen=True)
class Birthplace:
    """Where a non-finite value of one step was born, read off the autograd graph before the backward pass freed it.

    Attributes:
        direction: ``"forward"`` or ``"backward"``.
        source: What held the first non-finite value: ``"input"``, ``"weight"``, ``"operation"``.
        operation: The operation in plain words (``"division"``), "" where it is not known.
        modules: The modules in which it may have happened, most likely first; empty for the loss itself.
        before: The nearest layers towards the input that were still finite.
        after: The nearest layers towards the loss, which were not (forward) or still were (backward).
    """

    direction: str
    source: str
    operation: str = ""
    modules: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict."""
        return {**asdict(self), **{key: list(getattr(self, key)) for key in ("modules", "before", "after")}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Birthplace:
        """The inverse of :meth:`to_json`."""
        return _fitting(cls(**{**data, **{key: tuple(data[key]) for key in ("modules", "before", "after")}}))


_SIMPLE: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "Mapping[str, Any]": Mapping,
    "tuple[str, ...]": tuple,
}


def _fitting(read: FoundT) -> FoundT:
    """The same, where every plain value is of the type that it is to be: a file may say anything.

    Raises:
        TypeError: One is not.
    """
    known: Any = read  # a dataclass
    for one in fields(known):
        kind, value = str(one.type), getattr(known, one.name)
        fits = isinstance(value, _SIMPLE.get(kind, object))
        if not fits or (kind == "tuple[str, ...]" and not all(isinstance(item, str) for item in value)):
            raise TypeError(f"{one.name} is, or holds, something else than {kind}")
    return read


@dataclass(frozen=True)
class Ranks:
    """What each process had of a step at which something was not finite.

    Attributes:
        numbers: Of the processes, ``[num_ranks]``: their ranks.
        num_nonfinite: Non-finite elements of the gradients that lie there, ``[num_ranks]``.
        loss: As told there, ``[num_ranks]``; None where it was not.
        grad_max: Largest absolute value of a gradient that lies there, ``[num_ranks]``; None where not measured.
    """

    numbers: tuple[int, ...]
    num_nonfinite: tuple[int, ...]
    loss: tuple[float | None, ...]
    grad_max: tuple[float, ...] | None = None

    @property
    def with_bad_loss(self) -> tuple[int, ...]:
        """Those that were told a non-finite loss: a mean over all ranks spreads it to every gradient."""
        pairs = zip(self.numbers, self.loss, strict=True)
        return tuple(rank for rank, loss in pairs if loss is not None and not math.isfinite(loss))

    @property
    def bad(self) -> tuple[int, ...]:
        """Those where it began, as far as can be told: with a bad loss; without one, with a non-finite gradient."""
        pairs = zip(self.numbers, self.num_nonfinite, strict=True)
        return self.with_bad_loss or tuple(rank for rank, count in pairs if count)

    @property
    def to_blame(self) -> tuple[int, ...]:
        """The bad ones, where others are sound: a fault of theirs. Empty where all are bad."""
        return self.bad if len(self.bad) < len(self.numbers) else ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "numbers": list(self.numbers),
            "num_nonfinite": list(self.num_nonfinite),
            "loss": [number_to_json(loss) for loss in self.loss],
            "grad_max": None if self.grad_max is None else [number_to_json(value) for value in self.grad_max],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ranks:
        """The inverse of :meth:`to_json`."""
        maxima = data["grad_max"]
        return cls(
            numbers=tuple(int(rank) for rank in data["numbers"]),
            num_nonfinite=tuple(int(count) for count in data["num_nonfinite"]),
            loss=tuple(None if loss is None else float(loss) for loss in data["loss"]),
            grad_max=None if maxima is None else tuple(float(value) for value in maxima),
        )


@dataclass(frozen=True)
class LocalNorms:
    """What the gradient of a step was on each rank, before DDP averaged it (``local_norms=True``).

    Norms are L2, over all parameters of the optimizer, unscaled; of gradients accumulated under ``no_sync()``, of their
    sum. The mean of their squares is never below :attr:`StepRecord.total_norm` squared; what it is above is noise.

    Attributes:
        ranks: Between which the gradients were averaged, ``[num_ranks]``: their numbers.
        norms: Of each, ``[num_ranks]``; NaN or inf where its gradient is not finite.
        spread: Standard deviation over mean of the norms: how unlike the ranks' batches are; NaN where one of them is
            not finite.
        noise_scale: The gradient noise scale in batches of one rank, from moving averages over the steps so far; None
            where it is not known yet. A batch much smaller than it gains almost linearly from growing, one much larger
            hardly at all (McCandlish et al. 2018, arXiv:1812.06162; formula: appendix A.1).
    """

    ranks: tuple[int, ...]
    norms: tuple[float, ...]
    spread: float
    noise_scale: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ranks": list(self.ranks),
            "norms": [number_to_json(norm) for norm in self.norms],
            "spread": number_to_json(self.spread),
            "noise_scale": self.noise_scale,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LocalNorms:
        """The inverse of :meth:`to_json`."""
        ranks, norms = tuple(int(rank) for rank in data["ranks"]), tuple(float(norm) for norm in data["norms"])
        if len(ranks) != len(norms) or not ranks:
            raise ValueError("local_norms does not have one norm for each rank")
        noise_scale = data["noise_scale"]
        return cls(ranks, norms, float(data["spread"]), None if noise_scale is None else float(noise_scale))


class _Once(Generic[FoundT]):
    """``functools.cached_property`` without its lock, which Python 3.12 has done away with: half of the time."""

    def __init__(self, find: Callable[[Any], FoundT]) -> None:
        self._find, self._name = find, find.__name__
        self.__doc__ = find.__doc__

    @overload
    def __get__(self, record: None, owner: type) -> _Once[FoundT]: ...

    @overload
    def __get__(self, record: object, owner: type) -> FoundT: ...

    def __get__(self, record: object | None, owner: type) -> _Once[FoundT] | FoundT:
        if record is None:
            return self
        found = record.__dict__[self._name] = self._find(record)
        return found


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What was measured at one optimizer step.

    All arrays have shape ``[num_params]`` in the order of :attr:`layers`. Norms are L2, before any clipping and
    unscaled (a GradScaler's factor is taken out).

    Attributes:
        step: Optimizer steps that the watch saw before this one, over all its optimizers (the first is 0).
        optimizer: Index of the stepping optimizer.
        layers: The trainable parameters that it owns.
        grad_norm: float64; NaN where the gradient is absent (``None``), NaN or inf where elements are non-finite.
        num_nonfinite: int64; non-finite elements of each gradient.
        total_norm: L2 norm over all gradients, before clipping.
        clipped_norm: The same as the optimizer sees it; NaN on a skipped step.
        own_clipped_norm: The same after gradwatch's own clipping, before anybody else's; None without a rule of ours.
        skipped: The optimizer did not move: a GradScaler found an overflow, or we held it back.
        held_back: ``skip_if_nonfinite`` kept the optimizer from moving, and no GradScaler did; such a step is judged as
            any other.
        loss: Mean over this step's micro-batches; None where it was not told.
        lr: Largest learning rate of the optimizer's parameter groups.
        loss_scale: A GradScaler's factor, None without one.
        grad_max: Sampled, float64: the largest absolute value of each gradient; None on other steps.
        weight_norm: Sampled, float64: each parameter's L2 norm before the step.
        update_ratio: Sampled, float64: norm of the update over norm of the weight, from at most 4,096 elements each.
        num_nonfinite_weight: int64: non-finite elements of each parameter before the step; only measured where
            there is reason to (a non-finite gradient or loss), None otherwise.
        activations: Sampled: what the forward probe saw; None on other steps and where it could not look.
        through_time: Sampled, of recurrent layers: the learning signal through time; empty on other steps.
        ownerless: Sampled: trainable parameters of the model that have a gradient, and that no optimizer owns which has
            stepped so far; None on other steps.
        birthplace: Where a non-finite loss or gradient of this step was born, as far as it could be seen.
        unavailable: What the probes could not see at this step, and why.
        ranks: What each of several processes had of it, where that was exchanged and something was not finite.
        local_norms: What each rank had of it before DDP averaged it; None where nobody has asked
            (``local_norms=True``), and where it cannot be had, which ``unavailable`` tells.
    """

    step: int
    optimizer: int
    layers: tuple[Layer, ...]
    grad_norm: Float64Array
    num_nonfinite: Int64Array
    total_norm: float
    clipped_norm: float
    skipped: bool = False
    held_back: bool = False
    loss: float | None = None
    lr: float = math.nan
    loss_scale: float | None = None
    grad_max: Float64Array | None = None
    weight_norm: Float64Array | None = None
    update_ratio: Float64Array | None = None
    num_nonfinite_weight: Int64Array | None = None
    own_clipped_norm: float | None = None
    activations: Activations | None = None
    through_time: tuple[TimeProfile, ...] = ()
    ownerless: Ownerless | None = None
    birthplace: Birthplace | None = None
    unavailable: tuple[Unavailable, ...] = ()
    ranks: Ranks | None = None
    local_norms: LocalNorms | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, shape ``[num_params]``."""
        return tuple(layer.name for layer in self.layers)

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Where the gradient is ``None``, shape ``[num_params]``."""
        absent: NDArray[np.bool_] = np.isnan(self.grad_norm) & (self.num_nonfinite == 0)
        return absent

    @_Once
    def finite(self) -> bool:
        """Whether the total norm and every element of every gradient are finite: many ask, it is counted once."""
        return math.isfinite(self.total_norm) and np.count_nonzero(self.num_nonfinite) == 0

    @_Once
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest gradient norm; NaN where any is absent or NaN: many ask, it is looked up once.

        By their index, which numpy finds in a quarter of the time of ``min`` and ``max``.
        """
        norm = self.grad_norm
        return (norm.item(norm.argmin()), norm.item(norm.argmax())) if len(norm) else (math.inf, 0.0)

    @property
    def clipped(self) -> bool:
        """Whether anybody's clipping made the norm smaller at this step (relative tolerance 1e-6)."""
        return self.clipped_norm < self.total_norm * (1 - 1e-6)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict without the layers; non-finite numbers become the strings nan, inf and -inf."""
        data: dict[str, Any] = {
            "step": self.step,
            "optimizer": self.optimizer,
            "total_norm": number_to_json(self.total_norm),
            "clipped_norm": number_to_json(self.clipped_norm),
            "own_clipped_norm": number_to_json(self.own_clipped_norm),
            "skipped": self.skipped,
            "loss": number_to_json(self.loss),
            "lr": number_to_json(self.lr),
            "loss_scale": number_to_json(self.loss_scale),
            "grad_norm": _floats_to_json(self.grad_norm),
            "num_nonfinite": self.num_nonfinite.tolist() if self.num_nonfinite.any() else None,
        }
        for key in ("grad_max", "weight_norm", "update_ratio"):
            array = getattr(self, key)
            data[key] = None if array is None else _floats_to_json(array)
        weights = self.num_nonfinite_weight
        data["num_nonfinite_weight"] = None if weights is None else weights.tolist()
        data.update(self._probes_to_json())
        return data

    def _probes_to_json(self) -> dict[str, Any]:
        """Whether we held it back, and what the probes saw, as far as there is something: most steps have nothing."""
        data: dict[str, Any] = {"held_back": True} if self.held_back else {}
        if self.activations is not None:
            data["activations"] = self.activations.to_json()
        if self.through_time:
            data["through_time"] = [profile.to_json() for profile in self.through_time]
        if self.ownerless is not None:
            data["ownerless"] = self.ownerless.to_json()
        if self.birthplace is not None:
            data["birthplace"] = self.birthplace.to_json()
        if self.unavailable:
            data["unavailable"] = [asdict(gap) for gap in self.unavailable]
        if self.ranks is not None:
            data["ranks"] = self.ranks.to_json()
        if self.local_norms is not None:
            data["local_norms"] = self.local_norms.to_json()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], layers: tuple[Layer, ...]) -> StepRecord:
        """The inverse of :meth:`to_json`; ``layers`` as they were when the record was written."""

        def fits(values: list[Any], key: str) -> list[Any]:
            if len(values) != len(layers):
                raise ValueError(f"{key} does not have one value for each of the {len(layers)} layers")
            return values

        def floats(key: str) -> Float64Array | None:
            return None if data.get(key) is None else np.array([float(x) for x in fits(data[key], key)], np.float64)

        def optional(key: str) -> float | None:
            return None if data.get(key) is None else float(data[key])

        def counts(key: str) -> Int64Array | None:
            return None if data.get(key) is None else np.array([int(x) for x in fits(data[key], key)], np.int64)

        grad_norm, num_nonfinite = floats("grad_norm"), counts("num_nonfinite")
        if grad_norm is None:
            raise ValueError("it has no grad_norm")
        return cls(
            step=int(data["step"]),
            optimizer=int(data["optimizer"]),
            layers=layers,
            grad_norm=grad_norm,
            num_nonfinite=np.zeros(len(layers), dtype=np.int64) if num_nonfinite is None else num_nonfinite,
            total_norm=float(data["total_norm"]),
            clipped_norm=float(data["clipped_norm"]),
            skipped=bool(data["skipped"]),
            held_back=bool(data.get("held_back", False)),
            loss=optional("loss"),
            lr=float(data["lr"]),
            loss_scale=optional("loss_scale"),
            grad_max=floats("grad_max"),
            weight_norm=floats("weight_norm"),
            update_ratio=floats("update_ratio"),
            num_nonfinite_weight=counts("num_nonfinite_weight"),
            own_clipped_norm=optional("own_clipped_norm"),
            activations=None if "activations" not in data else Activations.from_json(data["activations"]),
            through_time=tuple(TimeProfile.from_json(profile) for profile in data.get("through_time", ())),
            ownerless=None if "ownerless" not in data else Ownerless.from_json(data["ownerless"]),
            birthplace=None if "birthplace" not in data else Birthplace.from_json(data["birthplace"]),
            unavailable=tuple(_fitting(Unavailable(**gap)) for gap in data.get("unavailable", ())),
            ranks=None if "ranks" not in data else Ranks.from_json(data["ranks"]),
            local_norms=None if "local_norms" not in data else LocalNorms.from_json(data["local_norms"]),
        )


@dataclass(frozen=True)
class Remedy:
    """One thing to do about a cause.

    Attributes:
        action: What to do, in plain words.
        reason: Why it helps.
        snippet: Code for this very model, "" where there is none.
    """

    action: str
    reason: str = ""
    snippet: str = ""


@dataclass(frozen=True)
class Cause:
    """Why an incident happened, as far as the evidence holds.

    Attributes:
        name: Stable short name (``"saturating_activations"``).
        confidence: 0 to 1.
        evidence: Numbers of this run, in one sentence.
        remedies: Best first.
    """

    name: str
    confidence: float
    evidence: str
    remedies: tuple[Remedy, ...] = ()

    @property
    def code(self) -> str:
        """The stable identity of this cause (``"GW201"``); that of the kind where an earlier incident is the cause."""
        return CAUSE_CODES.get(self.name) or KIND_CODES.get(self.name, "GW000")

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict; the code is in it for those who read on and look it up."""
        return {**asdict(self), "code": self.code}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cause:
        """The inverse of :meth:`to_json`."""
        known = {key: value for key, value in data.items() if key != "code"}
        return _fitting(cls(**{**known, "remedies": tuple(_fitting(Remedy(**r)) for r in data["remedies"])}))


@dataclass(frozen=True)
class Incident:
    """Something went wrong, at a step, in layers.

    Attributes:
        kind: One of :data:`KIND_CODES`.
        step: The step at which it was found.
        layers: Parameter or module names, worst first; empty where no layer is to blame (a non-finite loss).
        severity: How urgent it is.
        value: The measured value.
        threshold: What it was held against, in the same unit.
        message: What happened, in plain words with the numbers of this run.
        causes: Ranked, most likely first.
        optimizer: Index of the optimizer whose step it was.
        num_layers: How many layers were looked at.
        evidence: Numbers for diagnosis; JSON-serialisable.
        unavailable: What could not be seen.
        ranks: The processes where it began, where others were sound; empty where all are affected, or nobody knows.
    """

    kind: str
    step: int
    layers: tuple[str, ...]
    severity: Severity
    value: float
    threshold: float
    message: str
    causes: tuple[Cause, ...] = ()
    optimizer: int = 0
    num_layers: int = 0
    evidence: Mapping[str, Any] = field(default_factory=dict)
    unavailable: tuple[Unavailable, ...] = ()
    ranks: tuple[int, ...] = ()

    @property
    def code(self) -> str:
        """The stable identity of this kind (``"GW102"``)."""
        return KIND_CODES.get(self.kind, "GW000")

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict; non-finite numbers become strings."""
        known = {**asdict(self), "ranks": list(self.ranks)}
        if not self.ranks:  # as in every run of a single process
            del known["ranks"]
        return {
            **known,
            "layers": list(self.layers),
            "severity": self.severity.value,
            "value": number_to_json(self.value),
            "threshold": number_to_json(self.threshold),
            "causes": [cause.to_json() for cause in self.causes],
            "evidence": {key: number_to_json(value) for key, value in self.evidence.items()},
            "unavailable": [asdict(gap) for gap in self.unavailable],
            "code": self.code,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Incident:
        """The inverse of :meth:`to_json`."""
        return _fitting(
            cls(
                **{
                    **{key: value for key, value in data.items() if key != "code"},
                    "layers": tuple(data["layers"]),
                    "severity": Severity(data["severity"]),
                    "value": float(data["value"]),
                    "threshold": float(data["threshold"]),
                    "causes": tuple(Cause.from_json(cause) for cause in data["causes"]),
                    "unavailable": tuple(_fitting(Unavailable(**gap)) for gap in data["unavailable"]),
                    "ranks": tuple(int(rank) for rank in data.get("ranks", ())),
                }
            )
        )


@dataclass(frozen=True)
class LayerSummary:
    """One module (all its parameters together) over the whole run: gradient norms before clipping.

    Attributes:
        name: The module; the parameter where the model itself holds it.
        first: Norm at the first step that had a gradient; NaN where there never was one.
        median: Median over the kept history.
        worst: The value farthest from the median on a log scale, or a non-finite one.
        worst_step: Its step; -1 where there is none.
        optimizer: Index of the optimizer that owns it.
    """

    name: str
    first: float
    median: float
    worst: float
    worst_step: int
    optimizer: int = 0


@dataclass(frozen=True)
class RunSummary:
    """A whole run in one object: what ``summary()``, the report and the closing line are drawn from.

    Attributes:
        model: The watched model.
        num_steps: Optimizer steps seen.
        num_skipped: Of these, skipped, by a GradScaler or by ``skip_if_nonfinite``.
        num_clipped: Of these, with a smaller norm after clipping than before.
        clip: The clipping rule in words, None without one.
        last_total_norm: Total norm before clipping of the last step.
        layers: One row a module, in depth order.
        incidents: In order of step.
        notes: The clip audit's and other one-time remarks.
        watch_seconds: Measured time spent inside gradwatch.
        run_seconds: Wall-clock time from the first step's start to the last step's end.
        num_tensors: Parameters watched, over all optimizers.
        suppressed: What a suppression kept quiet, in words (``"1 incident (GW102 in encoder.*: frozen on purpose)"``).
        num_held_back: Of the skipped steps those that ``skip_if_nonfinite`` kept back.
        thinned: What was left out to keep watching cheap, in words; "" for nothing.
        local_norms: What the ranks' own norms say of the size of the batch, or why there are none, in words; a line for
            each optimizer, empty where nobody has asked.
    """

    model: ModelInfo
    num_steps: int
    num_skipped: int
    num_clipped: int
    clip: str | None
    last_total_norm: float
    layers: tuple[LayerSummary, ...]
    incidents: tuple[Incident, ...]
    notes: tuple[str, ...]
    watch_seconds: float
    run_seconds: float
    num_tensors: int = 0
    suppressed: tuple[str, ...] = ()
    num_held_back: int = 0
    thinned: str = ""
    local_norms: tuple[str, ...] = ()


def number_to_json(value: Any) -> Any:
    """``value`` itself, with the strings nan, inf and -inf for what JSON has no numbers for, also inside of it."""
    if isinstance(value, Mapping):
        return {key: number_to_json(inner) for key, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return number_to_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [number_to_json(inner) for inner in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def _floats_to_json(array: Float64Array) -> list[Any]:
    values = array.tolist()
    return values if np.isfinite(array).all() else [number_to_json(value) for value in values]
