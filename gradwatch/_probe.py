"""The forward probe: on a sampled step it looks at what the modules of the model are given and what they give.

It listens through torch's process-wide forward hook, for one step at a time, so that nothing is ever set on the user's
model. Where torch compiles a function, the hook folds away to nothing.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from gradwatch._activations import KIND_OF_OPERATION, Side
from gradwatch._layout import walk
from gradwatch._through_time import ThroughTime, TimeSignal
from gradwatch.errors import GradwatchWarning, warn
from gradwatch.records import ACTIVATION_COLUMNS, Unavailable

_MAX_CALLS = 2_000
_MAX_CALLS_OF_ONE = 4
"""A module that a loop calls once for every time step has the same to tell each time."""

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - their only common base
_ACTIVATIONS = frozenset(KIND_OF_OPERATION.values())

COMPILED = Unavailable(
    "activations and output gradients", "torch.compile is in use, and hooks on modules would break its graphs"
)
NO_CALLS = Unavailable("activations and output gradients", "no module of the model was called with gradients enabled")


@dataclass(eq=False)
class _Call:
    """One call of a module: its row."""

    module: str
    kind: str
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a probed step has shown.

    Attributes:
        modules: Name of the module of each call.
        kinds: Class name of each, or what autograd calls the activation.
        data: ``[num_calls, num_columns]`` float32 on the model's device, the columns of ``Activations``.
        signals: Of recurrent layers, through time.
        unavailable: What could not be followed through time.
    """

    modules: tuple[str, ...]
    kinds: tuple[str, ...]
    data: Tensor
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
        self._remove: Callable[[], None] | None = None
        self._follows_time = through_time
        self._names: dict[int, str] = {}
        self._failed = False
        self._clear()

    def _clear(self) -> None:
        self._calls: list[_Call] = []
        self._counts: dict[int, int] = {}
        self._channels_first = False
        self._last_layer = ""
        self._last_output: weakref.ref[Tensor] | None = None
        self._backward_began = False
        self.time: ThroughTime | None = None

    @property
    def is_armed(self) -> bool:
        """Whether it looks at this step."""
        return self._remove is not None

    def arm(self, *, through_time: bool = False) -> Unavailable | None:
        """Look at the calls from here on; or say why that cannot be."""
        model = self._model()
        if self.is_armed or model is None or self._failed:
            return None
        if _compiles(model):
            return COMPILED
        self._names = {id(module): name for name, module in walk(model)}
        self._clear()
        self.time = ThroughTime() if through_time and self._follows_time else None
        saw = weakref.WeakMethod(self._saw)

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if torch.compiler.is_compiling():  # folds away while torch traces us
                return
            if (method := saw()) is not None:
                method(module, args, kwargs, output)

        self._remove = torch_module.register_module_forward_hook(hook, with_kwargs=True).remove
        return None

    def disarm(self) -> None:
        """Look no more; what was seen is forgotten."""
        if self.time is not None:
            self.time.close()
        if self._remove is not None:
            self._remove()
            self._remove = None
        self._names = {}
        self._clear()

    def take(self) -> Seen | None:
        """What was seen since :meth:`arm`, and look no more; None where nothing was."""
        calls = self._calls
        signals = [] if self.time is None else self.time.finish()
        gaps = () if self.time is None else self.time.unavailable
        self.disarm()
        if not calls:
            return None
        device = next((v.device for call in calls for v in call.values.values()), torch.device("cpu"))
        missing = torch.full((), float("nan"), device=device)
        flat = [call.values.get(column, missing) for call in calls for column in ACTIVATION_COLUMNS]
        if any(value.device != device for value in flat):
            flat = [value.to(device, non_blocking=True) for value in flat]
        data = torch.stack(flat).view(len(calls), len(ACTIVATION_COLUMNS))
        modules, kinds = tuple(call.module for call in calls), tuple(call.kind for call in calls)
        return Seen(modules, kinds, data, tuple(signals), gaps)

    def _saw(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A module was called; never raises."""
        name = self._names.get(id(module))
        if name is None or self._backward_began or _is_foreign_territory():
            return
        try:
            self._look(name, module, args or tuple(kwargs.values()), output)
            if self.time is not None:
                self.time.saw(name, module, args, output, kwargs)
        except GradwatchWarning:
            raise  # only where the user turned warnings into errors
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self._failed = True
            self.disarm()
            warn(
                f"gradwatch: the forward probe failed at module {name!r} and looks no more "
                f"({type(error).__name__}: {error}); the training and everything else go on"
            )

    def _look(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            if module.training and _has_own_weights(module) and self._counts_call(module):
                flag = {"joined": _flag(_first_tensor(output), on=False)}
                self._calls.append(_Call(name, type(module).__name__, flag))
            return
        if next(module.children(), None) is not None and not _has_own_weights(module):
            return
        given, result = _first_tensor(args), _first_tensor(output)
        if result is None or not self._counts_call(module):
            return
        if given is not None:
            self._look_between(given)
        with torch.no_grad():
            self._describe(_Call(name, _kind(module, result)), module, given, result)

    def _counts_call(self, module: nn.Module) -> bool:
        """Count this call; whether it is one of the first."""
        count = self._counts[id(module)] = self._counts.get(id(module), 0) + 1
        return count <= _MAX_CALLS_OF_ONE and len(self._calls) < _MAX_CALLS

    def _look_between(self, given: Tensor) -> None:
        """An activation that no module stands for: it shows in what the next module is given."""
        operation = None if given.grad_fn is None else given.grad_fn.name()
        kind = KIND_OF_OPERATION.get(operation or "")
        if kind is None or not self._last_layer or (self._last_output is not None and self._last_output() is given):
            return
        call = _Call(self._last_layer, kind)
        with torch.no_grad():
            side = Side.of(given, channels_first=self._channels_first, whole_rows=kind == "Softmax")
            self._describe_output(call, side, given)
        self._calls.append(call)

    def _describe(self, call: _Call, module: nn.Module, given: Tensor | None, result: Tensor) -> None:
        has_weights = _has_own_weights(module)
        self._last_output = weakref.ref(result)
        if has_weights:
            if isinstance(module, _CHANNELS_FIRST):
                self._channels_first = True
            elif not isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001
                self._channels_first = False
            self._last_layer = call.module
        values = call.values
        if given is not None:
            values["from_data"] = _flag(given, on=not given.requires_grad)
            if has_weights or not given.requires_grad:
                side = Side.of(given, channels_first=isinstance(module, _CHANNELS_FIRST))
                values["in_mean"], values["in_std"] = side.mean_and_std()
                values["in_max"] = side.largest()
                if not given.requires_grad:
                    values["in_spread"] = side.spread()
        self._describe_output(
            call, Side.of(result, channels_first=self._channels_first, whole_rows=call.kind == "Softmax"), result
        )
        self._calls.append(call)

    def _describe_output(self, call: _Call, side: Side, result: Tensor) -> None:
        values = call.values
        values["out_mean"], values["out_std"] = side.mean_and_std()
        if call.kind in _ACTIVATIONS or not result.requires_grad:
            values["zero_share"], values["dead_share"] = side.zeros()
        if (saturation := side.saturation(call.kind)) is not None:
            values["saturated_share"], values["saturated_units"] = saturation
        values["joined"] = _flag(result, on=result.requires_grad)
        if result.requires_grad:
            result.register_hook(partial(_note_gradient, weakref.ref(self), call))


def _note_gradient(probe: weakref.ref[ForwardProbe], call: _Call, gradient: Tensor) -> None:
    """The backward pass has come to a call's output; called by autograd, and nothing is given back."""
    if torch._C._functorch.maybe_current_level() is not None or type(gradient) is not Tensor:  # noqa: SLF001
        return
    if (alive := probe()) is not None:
        alive._backward_began = True  # noqa: SLF001 - its own hook
        if not alive.is_armed:
            return
    with torch.no_grad():
        call.values["out_grad"] = torch.linalg.vector_norm(gradient.detach(), dtype=_wide(gradient)).to(torch.float32)


def _wide(tensor: Tensor) -> torch.dtype:
    if tensor.is_complex():
        return torch.complex128 if tensor.dtype == torch.complex128 else torch.complex64
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _is_foreign_territory() -> bool:
    """Where we must not look: recomputation inside a backward pass, function transforms, tracing, graph capture."""
    if torch._C._current_graph_task_id() != -1 or torch._C._functorch.maybe_current_level() is not None:  # noqa: SLF001
        return True
    if torch._C._get_tracing_state() is not None:  # noqa: SLF001
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _compiles(model: nn.Module) -> bool:
    """Whether torch.compile has been used in this process, or on this model."""
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()):
        return True
    frame = sys.modules.get("torch._dynamo.eval_frame")
    kind = getattr(frame, "OptimizedModule", None)
    if kind is not None and any(isinstance(module, kind) for module in model.modules()):
        return True
    backends = getattr(frame, "cached_backends", {})  # private; torch.compiler.disable leaves a None
    return any(backend is not None for backend in backends.values())


def _first_tensor(value: Any) -> Tensor | None:
    """The value itself or the first plain floating-point tensor of a tuple or list; a plain tensor only."""
    items: Iterable[Any] = value if isinstance(value, (tuple, list)) else (value,)
    for item in items:
        if type(item) in (Tensor, nn.Parameter) and item.is_floating_point() and item.layout is torch.strided:
            return None if item.numel() == 0 else item
    return None


def _has_own_weights(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())  # noqa: SLF001 - without a walk


def _kind(module: nn.Module, result: Tensor) -> str:
    """The activation that autograd names, for a module of the user's own too; else the class name."""
    if not _has_own_weights(module) and result.grad_fn is not None:
        known = KIND_OF_OPERATION.get(result.grad_fn.name())
        if known is not None:
            return known
    name = type(module).__name__
    return "RNN(relu)" if name == "RNN" and getattr(module, "nonlinearity", "") == "relu" else name


def _flag(like: Tensor | None, *, on: bool) -> Tensor:
    device = "cpu" if like is None else like.device
    return torch.full((), float(on), device=device)
