"""The forward probe: on a sampled step it looks at what the modules of the model are given and what they give.

It listens through torch's process-wide forward hook, for one step at a time, so that nothing is ever set on the user's
model. Where torch compiles a function, the hook folds away to nothing.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from gradwatch._activation_kinds import BOUNDED, RELUS
from gradwatch._activations import KIND_OF_OPERATION, Side
from gradwatch._layout import walk
from gradwatch._through_time import ThroughTime, TimeSignal
from gradwatch.errors import GradwatchWarning, warn
from gradwatch.records import Unavailable

_MAX_CALLS = 2_000
_MAX_CALLS_OF_ONE = 4
"""A module that a loop calls once for every time step has the same to tell each time."""

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)  # noqa: SLF001 - the only base
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # noqa: SLF001
_ACTIVATIONS = frozenset(KIND_OF_OPERATION.values())

COMPILED = Unavailable(
    "activations and output gradients", "torch.compile is in use, and hooks on modules would break its graphs"
)
NO_CALLS = Unavailable("activations and output gradients", "no module of the model was called with gradients enabled")


@dataclass(eq=False)
class _Call:
    """One call of a module: its row.

    Attributes:
        module: Its name.
        kind: Its class name, or what autograd calls the activation.
        joined: Whether the output requires a gradient.
        from_data: Whether the input does not.
        values: What was measured, by column, 0-dim float32.
    """

    module: str
    kind: str
    joined: bool
    from_data: bool
    values: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a probed step has shown.

    Attributes:
        calls: Module, kind, ``joined`` and ``from_data`` of each call.
        places: Row and column of each value.
        values: ``[num_values]`` float32 on the model's device.
        signals: Of recurrent layers, through time.
        unavailable: What could not be followed through time.
    """

    calls: tuple[tuple[str, str, bool, bool], ...]
    places: tuple[tuple[int, str], ...]
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
        self._remove: Callable[[], object] | None = None
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
        self._last_moments: tuple[Tensor, Tensor]
        self._backward_began = self._knows_carried = False
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

        _silence_torch()
        handle = torch_module.register_module_forward_hook(hook, with_kwargs=True)
        self._remove = weakref.finalize(self, _remove, handle)  # also where the watch is dropped without being closed
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
        places = tuple((row, column) for row, call in enumerate(calls) for column in call.values)
        values = [value for call in calls for value in call.values.values()]
        if len({value.device for value in values}) > 1:
            values = [value.to(values[0].device, non_blocking=True) for value in values]
        rows = tuple((call.module, call.kind, call.joined, call.from_data) for call in calls)
        return Seen(rows, places, torch.stack(values) if values else torch.zeros(0), tuple(signals), gaps)

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
            self.fail(name, error)

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
        call.values["out_grad"] = _norm(gradient)
        if module is None or self._knows_carried:
            return
        self._knows_carried = True
        left = [p.grad for p in module._parameters.values() if p is not None and p.grad is not None]  # noqa: SLF001
        if left and type(left[0]) is Tensor and left[0].layout is torch.strided:
            call.values["carried_grad"] = _norm(left[0])

    def _look(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        has_weights = _has_own_weights(module)
        if not torch.is_grad_enabled():
            if module.training and has_weights and self._counts_call(module):
                self._calls.append(_Call(name, type(module).__name__, joined=False, from_data=True))
            return
        given, result = _first_tensor(args), _first_tensor(output)
        if result is None:
            return
        if not has_weights and next(module.children(), None) is not None:
            self._look_between(result)  # a function may have the last word
            return
        kind = _kind(module, result)
        if given is not None and (has_weights or kind in _ACTIVATIONS):
            self._look_between(given)
        if (has_weights or kind in _ACTIVATIONS or kind in BOUNDED) and self._counts_call(module):
            from_data = given is not None and not given.requires_grad
            self._describe(_Call(name, kind, result.requires_grad, from_data), module, given, result)
        if has_weights:
            self._channels_first = isinstance(module, _CHANNELS_FIRST)
            self._last_layer = name

    def _counts_call(self, module: nn.Module) -> bool:
        """Count this call; whether it is one of the first."""
        count = self._counts[id(module)] = self._counts.get(id(module), 0) + 1
        return count <= _MAX_CALLS_OF_ONE and len(self._calls) < _MAX_CALLS

    def _look_between(self, given: Tensor) -> None:
        """An activation that no module stands for: it shows in what the next module is given."""
        kind = KIND_OF_OPERATION.get("" if given.grad_fn is None else given.grad_fn.name())
        if kind is None or not self._last_layer or self._is_last(given):
            return
        call = _Call(self._last_layer, kind, joined=True, from_data=False)
        self._describe_activation(call, given)
        self._calls.append(call)
        _follow(given, weakref.ref(self), call)

    def _is_last(self, tensor: Tensor) -> bool:
        """Whether it is the output of the activation that was seen last."""
        return self._last_output is not None and self._last_output() is tensor

    @torch.no_grad()
    def _describe(self, call: _Call, module: nn.Module, given: Tensor | None, result: Tensor) -> None:
        values = call.values
        is_norm = isinstance(module, _NORMS)
        if given is not None and not (is_norm and given.requires_grad):
            if self._is_last(given) and not call.from_data:
                values["in_mean"], values["in_std"] = self._last_moments
            else:
                side = Side.of(given, channels_first=isinstance(module, _CHANNELS_FIRST) or self._reads_channels(call))
                values["in_mean"], values["in_std"] = side.mean_and_std()
                if call.from_data:
                    values["in_max"], values["in_spread"] = side.largest(), side.spread()
        if call.kind in _ACTIVATIONS or call.kind in BOUNDED:
            self._describe_activation(call, result)
        self._calls.append(call)
        _follow(result, weakref.ref(self), call, module)

    def _reads_channels(self, call: _Call) -> bool:
        return self._channels_first and call.kind in _ACTIVATIONS

    @torch.no_grad()
    def _describe_activation(self, call: _Call, result: Tensor) -> None:
        values = call.values
        side = Side.of(result, channels_first=self._channels_first, whole_rows=call.kind == "Softmax")
        moments = values["out_mean"], values["out_std"] = side.mean_and_std()
        self._last_output, self._last_moments = weakref.ref(result), moments
        if call.kind in RELUS:
            values["zero_share"], values["dead_share"] = side.zeros()
        if (saturation := side.saturation(call.kind)) is not None:
            values["saturated_share"], values["saturated_units"] = saturation


def _follow(result: Tensor, probe: weakref.ref[ForwardProbe], call: _Call, module: nn.Module | None = None) -> None:
    """Let autograd tell us the gradient of a call's output."""
    if result.requires_grad:
        owner = None if module is None or not _has_own_weights(module) else weakref.ref(module)
        result.register_hook(partial(_note_gradient, probe, call, owner))


def _remove(handle: RemovableHandle) -> None:
    handle.remove()
    # torch 2.13 forgets this one, and would call every module the slow way for ever after
    getattr(torch_module, "_global_forward_hooks_with_kwargs", {}).pop(handle.id, None)


_ABOUT_US = "Using `torch.compile\\(module\\)` when there are global hooks on modules"


def _silence_torch() -> None:
    """Torch warns of process-wide hooks where a model is compiled in mid-run: those hooks are ours, and for one step.

    Only where nobody has yet: a change of the filters makes Python forget which warnings it has shown.
    """
    if not any(message is not None and message.pattern == _ABOUT_US for _, message, *_ in warnings.filters):
        warnings.filterwarnings("ignore", message=_ABOUT_US)


def _note_gradient(
    probe: weakref.ref[ForwardProbe], call: _Call, owner: weakref.ref[nn.Module] | None, gradient: Tensor
) -> None:
    """The backward pass has come to a call's output; called by autograd, and nothing is given back or raised."""
    alive = probe()
    if alive is None or not alive.is_armed or type(gradient) is not Tensor or _is_batched(gradient):
        return
    try:
        alive.came_back(call, None if owner is None else owner(), gradient)
    except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
        alive.fail(call.module, error)


def _is_batched(gradient: Tensor) -> bool:
    """Whether a function transform or a batched backward pass is at work: there nothing can be measured."""
    legacy = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)  # noqa: SLF001 - private: where it is gone
    level = torch._C._functorch.maybe_current_level()  # noqa: SLF001
    return level is not None or (legacy is not None and legacy(gradient))


@torch.no_grad()
def _norm(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient.detach(), dtype=_wide(gradient))
    return norm.to(torch.float32)


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
