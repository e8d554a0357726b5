"""Which parameters a step is about, and what they are called.

Names are those of ``model.named_parameters()`` without the prefixes of real wrappers (DataParallel, DDP, FSDP,
``torch.compile``); a user's own attribute called ``module`` stays. The map is made again whenever it has become stale:
a parameter was replaced, parametrized, frozen, added to the optimizer, or a lazy one got its shape.
"""

from __future__ import annotations

import gc
import itertools
import math
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, is_

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from gradwatch._distributed_parts import Part, is_dtensor, local, local_gradients, parts_of
from gradwatch._distributed_roster import Holding
from gradwatch._distributed_world import World, rank_and_size, world_of
from gradwatch._staleness import REQUIRES_GRAD, Share, Silence
from gradwatch._statistics import Column, Meter, Statistics
from gradwatch._transfer import on_host
from gradwatch.records import Layer, ModelInfo, ModuleInfo

_WRAPPERS = (
    ("torch.nn.parallel.data_parallel", "DataParallel", "module"),
    ("torch.nn.parallel.distributed", "DistributedDataParallel", "module"),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel", "_fsdp_wrapped_module"),
    ("torch.distributed.algorithms._checkpoint.checkpoint_wrapper", "ActivationWrapper", "_checkpoint_wrapped_module"),
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
)
"""Module, class and the attribute that holds the wrapped model. Looked up only where already imported."""


_GRAD = attrgetter("grad")

_SHARES, _LEAST = 32, 24
"""A quick check looks at one of so many shares of the parameters, but at no fewer than this."""


@dataclass(frozen=True)
class _Entry:
    """One parameter of the model: its name, and where the model keeps it."""

    name: str
    module_name: str
    module_type: str
    parameters: dict[str, nn.Parameter | None]
    """The owning module's own dict, to see without a walk whether the parameter is still there."""
    attribute: str
    parameter: nn.Parameter


@dataclass(frozen=True)
class Layout:
    """The trainable parameters that one optimizer owns, in the model's order.

    Attributes:
        parameters: ``[num_params]``.
        layers: Their names and shapes.
        meter: Measures tensors of the shapes that lie here.
        parts: Which part of each parameter does; None where all are whole.
        holding: What other processes have to know of it; None where there are none.
    """

    parameters: list[nn.Parameter]
    layers: tuple[Layer, ...]
    meter: Meter
    parts: tuple[Part | None, ...] | None
    holding: Holding | None
    _shares: list[Share] = field(repr=False)
    """What may change without a trace in the optimizer's own lists."""
    _owned: list[nn.Parameter] = field(repr=False)
    """All that the optimizer owns, frozen ones and those of other models included."""
    _frozen: list[nn.Parameter] = field(repr=False)
    """Those of them that do not require a gradient."""
    _complete: bool = field(repr=False)
    _device: torch.device | None = field(repr=False)
    """A model is moved as a whole."""
    _silence: Silence = field(repr=False, default_factory=Silence)
    _turn: Iterator[int] = field(repr=False, default_factory=itertools.count)

    def gradients(self) -> list[Tensor | None]:
        """The elements of the gradients that lie here, ``[num_params]``, None where absent."""
        gradients = list(map(_GRAD, self.parameters))
        return gradients if self.parts is None else local_gradients(gradients)

    def weights(self) -> Sequence[Tensor]:
        """The elements of the parameters that lie here, ``[num_params]``."""
        return self.parameters if self.parts is None else [local(parameter) for parameter in self.parameters]

    def among(self, gradients: list[Tensor]) -> list[Tensor]:
        """Those of ``gradients`` that are these parameters'."""
        mine = {id(parameter.grad) for parameter in self.parameters}
        return [gradient for gradient in gradients if id(gradient) in mine]

    def present_gradients(self) -> list[Tensor]:
        """Those that there are."""
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def is_current(self, owned: list[nn.Parameter], *, quick: bool = False) -> bool:
        """Whether optimizer and model still hold just these parameters.

        Args:
            owned: What the optimizer owns.
            quick: As at every step: what the optimizer owns and what has been unfrozen is seen at once; of the rest one
                share is looked at. What has been frozen or replaced in the model shows in the gradients, too
                (:meth:`is_usual`), and in the rest of the cases (a parametrization) within :data:`_SHARES` steps.
        """
        return (  # map() over built-in functions: no bytecode runs for each parameter
            self._complete
            and len(owned) == len(self._owned)
            and all(map(is_, owned, self._owned))
            and not any(map(REQUIRES_GRAD, self._frozen))
            and _device(self.parameters) == self._device
            and all(share.is_current() for share in ([self._next_share()] if quick else self._shares))
        )

    def is_usual(self, statistics: Statistics) -> bool:
        """Whether the same gradients are there, finite and not zero, as a step ago; True where nobody may look."""
        if statistics.sound:
            return self._silence.ends()
        return not on_host(statistics.data) or self._silence.goes_on(statistics.values(Column.SQUARED_NORM))

    def _next_share(self) -> Share:
        return self._shares[next(self._turn) % len(self._shares)]


def nothing(trouble: str) -> Layout:
    """The layout of a process that cannot tell its parameters, while others wait for it."""
    holding = Holding(rank_and_size()[0], trouble=trouble)
    return Layout([], (), Meter([]), None, holding, [], [], [], _complete=False, _device=None)


class Layouts:
    """The layouts of one model, one for each optimizer. Holds the model weakly."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._layouts: weakref.WeakKeyDictionary[Optimizer, Layout] = weakref.WeakKeyDictionary()
        self._foreign: weakref.WeakKeyDictionary[Optimizer, list[int]] = weakref.WeakKeyDictionary()
        """Optimizers of other models, with the parameters that showed it."""
        self._ids: set[int] = set()
        self._trainable: list[weakref.ref[nn.Parameter]] = []
        self._searched: set[int] = set()
        self._claimed: set[int] = set()
        """Parameters that some optimizer owns which has stepped, watched or not."""
        self._claimants: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self.world: World | None = None
        """Who else holds parts of the model, known once a layout was built."""
        self.info = _model_info(model)
        self._refresh()
        self.find_world()

    def _refresh(self) -> list[_Entry]:
        model = self._model()
        entries = [] if model is None else list(_entries(model))
        self._ids = {id(entry.parameter) for entry in entries}
        self._trainable = [weakref.ref(entry.parameter) for entry in entries if entry.parameter.requires_grad]
        return entries

    def claim(self, optimizer: Optimizer) -> None:
        """Note what an optimizer owns: nobody else needs to."""
        num_owned = sum(len(group["params"]) for group in optimizer.param_groups)
        if self._claimants.get(optimizer) != num_owned:
            self._claimants[optimizer] = num_owned
            self._claimed.update(map(id, _parameters(optimizer)))

    def module_names(self) -> dict[int, str]:
        """From the id of each parameter to the name of the module that holds it, as the model is now."""
        return {id(entry.parameter): entry.module_name for entry in self._refresh()}

    def _look_for_optimizers(self) -> None:
        """Optimizers that have not stepped yet may own what seems to have no owner: once, for it takes a while."""
        for candidate in gc.get_objects():
            if issubclass(type(candidate), Optimizer):
                self.claim(candidate)

    def ownerless(self) -> list[tuple[Layer, Tensor]]:
        """Trainable parameters with a gradient that no optimizer owns which has stepped so far."""
        alive = [parameter for ref in self._trainable if (parameter := ref()) is not None]
        homeless = {id(parameter) for parameter in alive} - self._claimed
        if homeless and homeless != self._searched:
            self._searched = homeless
            self._look_for_optimizers()
        if homeless <= self._claimed:
            return []
        return [
            (_layer(entry), entry.parameter)
            for entry in self._refresh()
            if entry.parameter.requires_grad and id(entry.parameter) not in self._claimed
            if entry.parameter.grad is not None and not is_lazy(entry.parameter) and not is_dtensor(entry.parameter)
        ]

    def owns_any(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer has a parameter of this model."""
        if optimizer in self._layouts:
            return True
        ids = [id(p) for p in _parameters(optimizer)]
        if self._foreign.get(optimizer) == ids:
            return False
        if self._ids.isdisjoint(ids):
            self._refresh()  # the model may have got new parameters since
            if self._ids.isdisjoint(ids):
                self._foreign[optimizer] = ids
                return False
        return True

    def of(self, optimizer: Optimizer, *, quick: bool = False) -> Layout:
        """The current layout of an optimizer's step; checked as :meth:`Layout.is_current` does it."""
        owned = _parameters(optimizer) if hasattr(optimizer, "param_groups") else self._everything()
        layout = self._layouts.get(optimizer)
        quick = quick and self.world is None and layout is not None and layout.meter.on_host
        if layout is None or not layout.is_current(owned, quick=quick):
            layout = self._layouts[optimizer] = self.build(owned)
        return layout

    def everything(self) -> Layout:
        """All trainable parameters, for an optimizer that does not say what it owns."""
        return self.build(self._everything())

    def _everything(self) -> list[nn.Parameter]:
        return [entry.parameter for entry in self._refresh()]

    def build(self, parameters: list[nn.Parameter]) -> Layout:
        """A layout of these parameters, as far as they belong to the model and are trainable."""
        entries = self._refresh()
        if self._model() is None:
            entries = []
        ids = {id(p) for p in parameters}
        mine = [entry for entry in entries if id(entry.parameter) in ids and entry.parameter.requires_grad]
        ready = [entry for entry in mine if not is_lazy(entry.parameter)]
        measured = [entry.parameter for entry in ready]
        parts = self._parts(measured)
        layers = tuple(_layer(entry, part) for entry, part in zip(ready, parts, strict=True))
        is_split = any(part is not None for part in parts)
        num_shares = max(1, min(_SHARES, len(measured) // _LEAST))
        return Layout(
            parameters=measured,
            layers=layers,
            meter=Meter([local(parameter) for parameter in measured] if is_split else measured),
            parts=parts if is_split else None,
            holding=self._holding(measured, layers, parts),
            _shares=[
                Share.of([(e.parameters, e.attribute, e.parameter) for e in ready[i::num_shares]])
                for i in range(num_shares)
            ],
            _owned=parameters.copy(),
            _frozen=[parameter for parameter in parameters if not parameter.requires_grad],
            _complete=len(ready) == len(mine),
            _device=_device(measured),
        )

    def find_world(self) -> World | None:
        """Who else holds parts of the model; looked for until somebody does."""
        model = self._model()
        if self.world is None and model is not None:
            self.world = world_of(model)
        return self.world

    def _parts(self, parameters: list[nn.Parameter]) -> tuple[Part | None, ...]:
        model = self._model()
        if model is None or (rank_and_size()[1] == 1 and not any(map(is_dtensor, parameters))):
            return (None,) * len(parameters)
        part_of: Callable[[Tensor], Part | None] = parts_of(model)
        return tuple(part_of(parameter) for parameter in parameters)

    def _holding(
        self, parameters: list[nn.Parameter], layers: tuple[Layer, ...], parts: tuple[Part | None, ...]
    ) -> Holding | None:
        world = self.find_world()
        if world is None:
            return None
        return Holding(
            rank=rank_and_size()[0],
            layers=layers,
            num_parts=tuple(1 if part is None else part.num_parts for part in parts),
            stages=tuple(world.stages.get(id(parameter), 0) for parameter in parameters),
            model=self.info,
        )


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that require a gradient, lazy ones included."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Not to be changed, and not to be kept: it may be the optimizer's own list."""
    groups = optimizer.param_groups
    if len(groups) == 1 and type(groups[0]["params"]) is list:
        return groups[0]["params"]
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _device(parameters: list[nn.Parameter]) -> torch.device | None:
    return parameters[0].device if parameters else None


def _layer(entry: _Entry, part: Part | None = None) -> Layer:
    parameter = entry.parameter
    return Layer(
        name=entry.name,
        module=entry.module_name,
        module_type=entry.module_type,
        shape=tuple(parameter.shape) if part is None else part.shape,
        dtype=str(parameter.dtype).removeprefix("torch."),
    )


def _entries(model: nn.Module) -> Iterator[_Entry]:
    """Every parameter once, in the order and under the name of ``named_parameters()``."""
    seen: set[int] = set()
    names: set[str] = set()
    types: dict[str, str] = {}
    for prefix, module in walk(model):
        types[prefix] = _type_name(module)
        holder = f".{prefix}".partition(".parametrizations.")[0][1:]
        for attribute, parameter in module._parameters.items():  # noqa: SLF001 - as named_parameters() does
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f"{prefix}.{attribute}" if prefix else attribute
            while name in names:  # only a wrapper with parameters of its own can bring this about
                name = f"{name}'"
            names.add(name)
            yield _Entry(name, holder, types[holder], module._parameters, attribute, parameter)  # noqa: SLF001


def walk(module: nn.Module, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """``named_modules()``, with the wrapped modules under their wrapper's own name."""
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    yield prefix, module
    transparent = _wrapped_attribute(module)
    for name, child in module._modules.items():  # noqa: SLF001 - as named_modules() does
        if child is not None:
            child_prefix = prefix if name == transparent else f"{prefix}.{name}" if prefix else name
            yield from walk(child, child_prefix, seen)


def _wrapped_attribute(module: nn.Module) -> str | None:
    for module_name, class_name, attribute in _WRAPPERS:
        wrapper = getattr(sys.modules.get(module_name), class_name, None)
        if wrapper is not None and isinstance(module, wrapper):
            return attribute
    return None


def _type_name(module: nn.Module) -> str:
    if parametrize.is_parametrized(module):
        return str(parametrize.type_before_parametrizations(module).__name__)
    kind = type(module)
    if (sharded := getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)) and issubclass(
        kind, sharded
    ):
        kind = kind.__mro__[getattr(kind, "_orig_cls_mro_index", 2)]  # FSDP2 puts a class of its own before the user's
    return kind.__name__


def _model_info(model: nn.Module) -> ModelInfo:
    part_of = parts_of(model)

    def numel(parameter: nn.Parameter) -> int:
        return parameter.numel() if (part := part_of(parameter)) is None else math.prod(part.shape)

    modules = []
    for name, module in walk(model):
        if next(module.children(), None) is None:
            known = [p for p in module.parameters() if p.requires_grad and not is_lazy(p)]
            modules.append(ModuleInfo(name, _type_name(module), sum(map(numel, known))))
    inner = model
    while (attribute := _wrapped_attribute(inner)) is not None:
        inner = getattr(inner, attribute)
    total = sum(numel(p) for p in trainable_parameters(model) if not is_lazy(p))
    return ModelInfo(_type_name(inner), tuple(modules), total)
