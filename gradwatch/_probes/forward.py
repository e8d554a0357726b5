"""The forward probe: on a sampled step it looks at what the modules of the model are given and what they give.

It listens through torch's process-wide forward hook, for one step at a time, so that nothing is ever set on the user's
model.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._activation_kinds import ACTIVATIONS, BOUNDED
from gradwatch._layout import walk
from gradwatch._probes import node_hook
from gradwatch._probes.activations import Sample, Statistics, sample_of
from gradwatch._probes.calls import Call, Known, first_tensor, norm_of, operation_of, root_of
from gradwatch._probes.hidden_activations import HiddenActivations, gates_of
from gradwatch._probes.module_hook import compiles, is_foreign_territory, put_hook, take_away
from gradwatch._probes.through_time import ThroughTime, TimeSignal
from gradwatch.errors import GradwatchWarning, warn
from gradwatch.records import Unavailable

_MAX_CALLS = 2_000
_MAX_CALLS_OF_ONE = 4
"""A module that a loop calls once for every time step has the same to tell each time."""

_DESCRIBED = ACTIVATIONS | BOUNDED
"""Whose output is looked at."""

COMPILED = Unavailable(
    "activations and output gradients", "torch.compile is in use, and hooks on modules would break its graphs"
)
FAILED = Unavailable("activations and output gradients", "the forward probe failed earlier in this run, as it has said")
NO_CALLS = Unavailable("activations and output gradients", "no module of the model was called with gradients enabled")


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
        self._known: dict[int, Known] = {}
        self._failed = False
        self._seconds = 0.0
        self._functional: set[str] = set()
        """Layers whose activation no module stands for: from the next look on, what they give it is looked at, too."""
        self._clear()

    def _clear(self) -> None:
        self._calls: list[Call] = []
        self._counts: dict[int | str, int] = {}
        self._channels_first = False
        self._last_layer = ""
        self._before_function: Tensor | None = None
        self._described: dict[int, tuple[weakref.ref[Tensor], int, Sample]] = {}
        self._statistics = Statistics()
        self._hidden = HiddenActivations()
        self._backward_began = self._knows_carried = False
        self._carried: tuple[Call, nn.Parameter, Tensor] | None = None
        self.time: ThroughTime | None = None

    @property
    def is_armed(self) -> bool:
        """Whether it looks at this step."""
        return self._hook is not None

    def arm(self, *, through_time: bool = False) -> Unavailable | None:
        """Look at the calls from here on; or say why that cannot be."""
        model = self._model()
        if self._failed:
            return FAILED
        if self.is_armed or model is None:
            return None
        modules = list(model.modules())
        if compiles(modules):
            return COMPILED
        if len(modules) != len(self._known) or not all(map(is_, modules, [k.module() for k in self._known.values()])):
            self._known = {id(module): Known.of(name, module) for name, module in walk(model)}
        self.time = ThroughTime() if through_time and self._follows_time else None
        saw = weakref.WeakMethod(self._saw)

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if (method := saw()) is not None:
                method(module, args, kwargs, output)

        # Taken away also where the watch is dropped without being closed.
        self._hook = weakref.finalize(self, take_away, put_hook(hook))
        return None

    def take_seconds(self) -> float:
        """What looking has taken since this was last asked; of the backward pass only what every call takes."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def disarm(self) -> None:
        """Look no more; what was seen is forgotten."""
        if self.time is not None:
            self.time.close()
        if self._hook is not None:
            self._hook()
            self._hook = None
        self._clear()

    def take(self, *, moved: bool = False) -> Seen | None:
        """What was seen since :meth:`arm`, and look no more; None where nothing was.

        Args:
            moved: The weights are not those of the forward pass any more: nothing can be followed through time.
        """
        try:
            return self._seen(moved=moved)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self.fail("", error)
            return None
        finally:
            self.disarm()

    def _seen(self, *, moved: bool) -> Seen | None:
        if self._carried is not None and self._carried[1].grad is not self._carried[2]:
            self._carried[0].gradients.pop("carried_grad")  # zeroed since: that backward pass was somebody else's
        signals = [] if self.time is None or moved else self.time.finish()
        gaps = () if self.time is None else self.time.unavailable
        calls, statistics = self._calls, self._statistics
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
        start = time.perf_counter()
        try:
            if torch.is_grad_enabled():
                self._look(known, module, args or tuple(kwargs.values()), output)
                if self.time is not None:
                    self.time.saw(known.name, module, args, output, kwargs)
            elif module.training and known.has_weights and self._counts_call(id(module)):
                self._calls.append(Call(known.name, known.kind, joined=False, from_data=True))
        except GradwatchWarning:
            raise  # only where the user turned warnings into errors
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            self.fail(known.name, error)
        finally:
            self._seconds += time.perf_counter() - start

    def fail(self, name: str, error: Exception) -> None:
        """Look no more, and say so once."""
        self._failed = True
        self.disarm()
        warn(
            f"gradwatch: the forward probe failed at module {name!r} and looks no more "
            f"({type(error).__name__}: {error}); the training and everything else go on"
        )

    def came_back(self, call: Call, module: nn.Module | None, gradient: Tensor) -> None:
        """The backward pass has come to the output of a call."""
        self._backward_began = True
        call.gradients["out_grad"] = norm_of(gradient)
        if module is None or self._knows_carried:
            return
        self._knows_carried = True
        first = next((p for p in module._parameters.values() if p is not None), None)  # noqa: SLF001
        left = None if first is None else first.grad
        if first is not None and type(left) is Tensor and left.layout is torch.strided:
            call.gradients["carried_grad"] = norm_of(left.detach())
            self._carried = call, first, left

    def _look(self, known: Known, module: nn.Module, args: Any, output: Any) -> None:
        result = first_tensor(output)
        if result is None:
            return
        if not known.has_weights and not known.is_leaf:
            self._look_between(result)  # a function may have the last word
            return
        kind = known.kind if known.has_weights else operation_of(result) or known.kind
        if (given := first_tensor(args)) is result:
            given = None  # changed in place, it is not what was given any more
        self._look_before(known, given, result)
        if (known.has_weights or kind in _DESCRIBED) and self._counts_call(id(module)):
            from_data = given is not None and not given.requires_grad
            if given is not None:
                self._describe_input(known, kind, given, from_data=from_data)
            if kind in _DESCRIBED:
                self._describe_output(kind, result)
            call = Call(known.name, kind, result.requires_grad, from_data)
            self._note(call, result, module if known.has_weights else None)
        if known.has_weights:
            self._channels_first = known.channels_first
            self._last_layer = known.name
            self._look_inside(known, module, given, result)
            is_read = known.name in self._functional
            self._before_function = sample_of(result, channels_first=known.channels_first) if is_read else None

    def _counts_call(self, of: int | str) -> bool:
        """Count a call of a module, or of an activation after a layer; whether it is one of the first."""
        count = self._counts[of] = self._counts.get(of, 0) + 1
        return count <= _MAX_CALLS_OF_ONE and len(self._calls) < _MAX_CALLS

    def _look_before(self, known: Known, given: Tensor | None, result: Tensor) -> None:
        """What came between the last module and this one; whoever walks back to a plain one may stop there."""
        if given is not None:
            self._look_between(given)
        if known.is_plain:
            self._hidden.know(result)

    def _look_between(self, given: Tensor) -> None:
        """An activation that no module stands for: it shows in what the next module is given."""
        if not self._last_layer:
            return
        kind = operation_of(given)
        if kind is None or self._sample_of(given) is not None:
            self._look_behind(given)
            return
        if not self._counts_call(self._last_layer):
            return
        self._functional.add(self._last_layer)
        if (values := self._before_function) is not None:
            row = len(self._calls)
            self._statistics.add(Sample(values, means=[(row, "in")], row=row))
        self._describe_output(kind, given)
        self._note(Call(self._last_layer, kind, joined=True, from_data=False), given)

    def _look_inside(self, known: Known, module: nn.Module, given: Tensor | None, result: Tensor) -> None:
        """A module with weights may work by functions alone, as nn.MultiheadAttention does, or by a fused kernel."""
        if known.is_plain:
            return
        gates = gates_of(module, given, result)
        for kind, values in gates:
            self._note_hidden(kind, values)
        if gates:
            deque(self._hidden.behind(result), maxlen=0)  # they are known now, as far as the graph shows them
        elif not known.is_leaf or known.kind in ("LSTM", "GRU"):
            self._look_behind(result)

    def _look_behind(self, tensor: Tensor) -> None:
        """Activations with flat ends that no module stands for, and whose output no module is given as it is."""
        for kind, values in self._hidden.behind(tensor):
            self._note_hidden(kind, values)

    def _note_hidden(self, kind: str, values: Tensor) -> None:
        if self._counts_call(f"{self._last_layer} {kind}"):
            self._describe_output(kind, values)
            self._calls.append(Call(self._last_layer, kind, joined=True, from_data=False))

    def _sample_of(self, tensor: Tensor) -> Sample | None:
        """The sample of an activation's output; None for any other tensor."""
        found = self._described.get(id(tensor))
        return found[2] if found is not None and found[0]() is tensor and found[1] == tensor._version else None  # noqa: SLF001

    def _describe_input(self, known: Known, kind: str, given: Tensor, *, from_data: bool) -> None:
        """Of the call that is noted next; a normalisation layer's input tells nothing, for it is normalised."""
        if known.is_norm and not from_data:
            return
        sample = self._sample_of(given)
        if sample is None:
            reads_channels = known.channels_first or (self._channels_first and kind in _DESCRIBED)
            sample = Sample(sample_of(given, channels_first=reads_channels), is_data=from_data, row=len(self._calls))
            self._statistics.add(sample)
        sample.means.append((len(self._calls), "in"))

    def _describe_output(self, kind: str, result: Tensor) -> None:
        """Of the call that is noted next."""
        values = sample_of(result, channels_first=self._channels_first, whole_rows=kind == "Softmax")
        row = len(self._calls)
        sample = Sample(values, kind, means=[(row, "out")], row=row)
        self._statistics.add(sample)
        self._described[id(result)] = weakref.ref(result), result._version, sample  # noqa: SLF001
        self._hidden.know(result)

    def _note(self, call: Call, result: Tensor, owner: nn.Module | None = None) -> None:
        """Add a row, and let autograd tell us the gradient of the call's output."""
        self._calls.append(call)
        root = root_of(result)
        if root.grad_fn is not None:
            holder = None if owner is None else weakref.ref(owner)
            node_hook.put_hook(root.grad_fn, partial(_note_gradient, weakref.ref(self), call, holder), root.output_nr)


def _note_gradient(
    probe: weakref.ref[ForwardProbe], call: Call, owner: weakref.ref[nn.Module] | None, gradient: Tensor
) -> None:
    """The backward pass has come to a call's output; called by autograd, and nothing is given back or raised."""
    alive = probe()
    if alive is None or not alive.is_armed:
        return
    start = time.perf_counter()
    try:
        alive.came_back(call, None if owner is None else owner(), gradient)
    except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
        alive.fail(call.module, error)
    alive._seconds += time.perf_counter() - start  # noqa: SLF001 - its own function, kept apart to hold it weakly
