"""The forward probe: on a sampled step it looks at what the modules of the model are given and what they give.

It listens through torch's process-wide forward hook, for one step at a time, so that nothing is ever set on the user's
model.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch import _node_hook
from gradwatch._activation_kinds import BOUNDED, RELUS
from gradwatch._activations import KIND_OF_OPERATION, Sample, Statistics, sample_of
from gradwatch._layout import walk
from gradwatch._module_hook import compiles, is_foreign_territory, put_hook, take_away
from gradwatch._through_time import ThroughTime, TimeSignal
from gradwatch._transfer import look, on_host
from gradwatch.errors import GradwatchWarning, warn
from gradwatch.records import Unavailable

_MAX_CALLS = 2_000
_MAX_CALLS_OF_ONE = 4
"""A module that a loop calls once for every time step has the same to tell each time."""

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)  # noqa: SLF001 - the only base
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # noqa: SLF001
_ACTIVATIONS = frozenset(KIND_OF_OPERATION.values())
_SQUARABLE = 1e-12
"""A float32 norm below this may have lost squares that float32 cannot hold."""

COMPILED = Unavailable(
    "activations and output gradients", "torch.compile is in use, and hooks on modules would break its graphs"
)
NO_CALLS = Unavailable("activations and output gradients", "no module of the model was called with gradients enabled")


@dataclass(frozen=True)
class _Known:
    """What is the same at every call of a module.

    Attributes:
        module: The module, held weakly.
        name: Its name in the model.
        kind: Its class name.
        has_weights: Whether it holds parameters itself.
        is_leaf: Whether it has no modules inside.
        is_norm: Whether it is a normalisation layer.
        channels_first: Whether units are in the second dimension of what it is given.
    """

    module: weakref.ref[nn.Module]
    name: str
    kind: str
    has_weights: bool
    is_leaf: bool
    is_norm: bool
    channels_first: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> _Known:
        kind = type(module).__name__
        if kind == "RNN" and getattr(module, "nonlinearity", "") == "relu":
            kind = "RNN(relu)"
        has_weights = any(parameter is not None for parameter in module._parameters.values())  # noqa: SLF001 - its own
        is_leaf = next(module.children(), None) is None
        is_norm, channels_first = isinstance(module, _NORMS), isinstance(module, _CHANNELS_FIRST)
        return cls(weakref.ref(module), name, kind, has_weights, is_leaf, is_norm, channels_first)


@dataclass(eq=False)
class _Call:
    """One call of a module: its row.

    Attributes:
        module: Its name.
        kind: Its class name, or what autograd calls the activation.
        joined: Whether the output requires a gradient.
        from_data: Whether the input does not.
        gradients: Norms of gradients, by column, 0-dim.
    """

    module: str
    kind: str
    joined: bool
    from_data: bool
    gradients: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a probed step has shown.

    Attributes:
        calls: Module, kind, ``joined`` and ``from_data`` of each call.
        places: The rows and columns that each value goes to.
        values: ``[num_values]`` on the model's device.
        signals: Of recurrent layers, through time.
        unavailable: What could not be followed through time.
    """

    calls: tuple[tuple[str, str, bool, bool], ...]
    places: tuple[tuple[tuple[int, str], ...], ...]
    values: Tensor
    signals: tuple[TimeSignal, ...]
    unavailable: tuple[Unavailable, ...]


class ForwardProbe:
    """Looks at the calls of a model's modules between :meth:`arm` and :meth:`take`.

    Args:
        model: Held weakly.
        through_time: Whether recurrent calls are followed through time, too.
    """

    def __init__(self, model: nn.Module, *, through_time: bool = True) -> None:
        self._model = weakref.ref(model)
        self._hook: weakref.finalize[[Any], ForwardProbe] | None = None
        self._follows_time = through_time
        self._known: dict[int, _Known] = {}
        self._failed = False
        self._clear()

    def _clear(self) -> None:
        self._calls: list[_Call] = []
        self._counts: dict[int, int] = {}
        self._channels_first = False
        self._last_layer = ""
        self._described: dict[int, tuple[weakref.ref[Tensor], Sample]] = {}
        self._statistics = Statistics()
        self._backward_began = self._knows_carried = False
        self.time: ThroughTime | None = None

    @property
    def is_armed(self) -> bool:
        """Whether it looks at this step."""
        return self._hook is not None

    def arm(self, *, through_time: bool = False) -> Unavailable | None:
        """Look at the calls from here on; or say why that cannot be."""
        model = self._model()
        if self.is_armed or model is None or self._failed:
            return None
        modules = list(model.modules())
        if compiles(modules):
            return COMPILED
        if len(modules) != len(self._known) or not all(map(is_, modules, [k.module() for k in self._known.values()])):
            self._known = {id(module): _Known.of(name, module) for name, module in walk(model)}
        self._clear()
        self.time = ThroughTime() if through_time and self._follows_time else None
        saw = weakref.WeakMethod(self._saw)

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if (method := saw()) is not None:
                method(module, args, kwargs, output)

        # Taken away also where the watch is dropped without being closed.
        self._hook = weakref.finalize(self, take_away, put_hook(hook))
        return None

    def disarm(self) -> None:
        """Look no more; what was seen is forgotten."""
        if self.time is not None:
            self.time.close()
        if self._hook is not None:
            self._hook()
            self._hook = None
        self._clear()

    def take(self) -> Seen | None:
        """What was seen since :meth:`arm`, and look no more; None where nothing was."""
        calls, statistics = self._calls, self._statistics
        signals = [] if self.time is None else self.time.finish()
        gaps = () if self.time is None else self.time.unavailable
        self.disarm()
        if not calls:
            return None
        statistics.finish()
        gradients = [(((row, name),), norm) for row, call in enumerate(calls) for name, norm in call.gradients.items()]
        places = (*statistics.places, *(cells for cells, _ in gradients))
        values = [*statistics.values, *(norm.reshape(1) for _, norm in gradients)]
        if len({value.device for value in values}) > 1:
            values = [value.to(values[0].device, non_blocking=True) for value in values]
        rows = tuple((call.module, call.kind, call.joined, call.from_data) for call in calls)
        return Seen(rows, places, torch.cat(values) if values else torch.zeros(0), tuple(signals), gaps)

    def _saw(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module was called; never raises."""
        known = self._known.get(id(module))
        if known is None or self._backward_began or is_foreign_territory():
            return
        try:
            if torch.is_grad_enabled():
                self._look(known, module, args or tuple(kwargs.values()), output)
                if self.time is not None:
                    self.time.saw(known.name, module, args, output, kwargs)
            elif module.training and known.has_weights and self._counts_call(module):
                self._calls.append(_Call(known.name, known.kind, joined=False, from_data=True))
        except GradwatchWarning:
            raise  # only where the user turned warnings into errors
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self.fail(known.name, error)

    def fail(self, name: str, error: Exception) -> None:
        """Look no more, and say so once."""
        self._failed = True
        self.disarm()
        warn(
            f"gradwatch: the forward probe failed at module {name!r} and looks no more "
            f"({type(error).__name__}: {error}); the training and everything else go on"
        )

    def came_back(self, call: _Call, module: nn.Module | None, gradient: Tensor) -> None:
        """The backward pass has come to the output of a call."""
        self._backward_began = True
        call.gradients["out_grad"] = _norm(gradient)
        if module is None or self._knows_carried:
            return
        self._knows_carried = True
        left = [p.grad for p in module._parameters.values() if p is not None and p.grad is not None]  # noqa: SLF001
        if left and type(left[0]) is Tensor and left[0].layout is torch.strided:
            call.gradients["carried_grad"] = _norm(left[0].detach())

    def _look(self, known: _Known, module: nn.Module, args: Any, output: Any) -> None:
        result = _first_tensor(output)
        if result is None:
            return
        if not known.has_weights and not known.is_leaf:
            self._look_between(result)  # a function may have the last word
            return
        given, kind = _first_tensor(args), known.kind if known.has_weights else _operation(result) or known.kind
        if given is not None:
            self._look_between(given)
        if (known.has_weights or kind in _ACTIVATIONS or kind in BOUNDED) and self._counts_call(module):
            from_data = given is not None and not given.requires_grad
            if given is not None and given is not result:  # changed in place, it is not what was given any more
                self._describe_input(known, kind, given, from_data=from_data)
            if kind in _ACTIVATIONS or kind in BOUNDED:
                self._describe_output(kind, result)
            call = _Call(known.name, kind, result.requires_grad, from_data)
            self._note(call, result, module if known.has_weights else None)
        if known.has_weights:
            self._channels_first = known.channels_first
            self._last_layer = known.name

    def _counts_call(self, module: nn.Module) -> bool:
        """Count this call; whether it is one of the first."""
        count = self._counts[id(module)] = self._counts.get(id(module), 0) + 1
        return count <= _MAX_CALLS_OF_ONE and len(self._calls) < _MAX_CALLS

    def _look_between(self, given: Tensor) -> None:
        """An activation that no module stands for: it shows in what the next module is given."""
        kind = _operation(given)
        if kind is None or not self._last_layer or self._sample_of(given) is not None or len(self._calls) >= _MAX_CALLS:
            return
        self._describe_output(kind, given)
        self._note(_Call(self._last_layer, kind, joined=True, from_data=False), given)

    def _sample_of(self, tensor: Tensor) -> Sample | None:
        """The sample of an activation's output; None for any other tensor."""
        found = self._described.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _describe_input(self, known: _Known, kind: str, given: Tensor, *, from_data: bool) -> None:
        """Of the call that is noted next; a normalisation layer's input tells nothing, for it is normalised."""
        if known.is_norm and not from_data:
            return
        sample = self._sample_of(given)
        if sample is None:
            reads_channels = known.channels_first or (self._channels_first and kind in _ACTIVATIONS)
            sample = Sample(sample_of(given, channels_first=reads_channels), is_data=from_data, row=len(self._calls))
            self._statistics.add(sample)
        sample.means.append((len(self._calls), "in"))

    def _describe_output(self, kind: str, result: Tensor) -> None:
        """Of the call that is noted next."""
        values = sample_of(result, channels_first=self._channels_first, whole_rows=kind == "Softmax")
        row = len(self._calls)
        sample = Sample(values, kind, means=[(row, "out")], row=row)
        self._statistics.add(sample)
        self._described[id(result)] = weakref.ref(result), sample

    def _note(self, call: _Call, result: Tensor, owner: nn.Module | None = None) -> None:
        """Add a row, and let autograd tell us the gradient of the call's output."""
        self._calls.append(call)
        # A view that is changed in place afterwards (h = linear(x); h += x) leaves the graph, and what it views stays.
        base = result._base if result._is_view() else None
        root = result if base is None or base.numel() != result.numel() else base
        if root.grad_fn is not None:
            holder = None if owner is None else weakref.ref(owner)
            _node_hook.put_hook(root.grad_fn, partial(_note_gradient, weakref.ref(self), call, holder), root.output_nr)


def _note_gradient(
    probe: weakref.ref[ForwardProbe], call: _Call, owner: weakref.ref[nn.Module] | None, gradient: Tensor
) -> None:
    """The backward pass has come to a call's output; called by autograd, and nothing is given back or raised."""
    alive = probe()
    if alive is None or not alive.is_armed:
        return
    try:
        alive.came_back(call, None if owner is None else owner(), gradient)
    except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
        alive.fail(call.module, error)


def _norm(gradient: Tensor) -> Tensor:
    """The quick way first, where looking is free; float64 for what float32 cannot square."""
    if gradient.dtype is torch.float32 and on_host(gradient):
        norm: Tensor = torch.linalg.vector_norm(gradient)
        if _SQUARABLE < float(look(norm)) < math.inf:
            return norm
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    wide = torch.float32 if gradient.device.type == "mps" else torch.float64  # which it does not have
    return torch.linalg.vector_norm(gradient, dtype=wide).to(torch.float32)


def _first_tensor(value: Any) -> Tensor | None:
    """The value itself or the first plain floating-point tensor of a tuple or list; a plain tensor only."""
    items: Iterable[Any] = value if isinstance(value, (tuple, list)) else (value,)
    for item in items:
        if type(item) in (Tensor, nn.Parameter) and item.is_floating_point() and item.layout is torch.strided:
            return None if item.numel() == 0 else item
    return None


def _operation(tensor: Tensor) -> str | None:
    """The activation that gave this tensor, as far as autograd names one."""
    return None if tensor.grad_fn is None else KIND_OF_OPERATION.get(tensor.grad_fn.name())
