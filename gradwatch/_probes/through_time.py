"""The learning signal through time, which no gradient of a weight shows: a weight's gradient is the sum over all steps.

On a probed step the recurrent calls of the model are followed: nn.RNN, nn.GRU and nn.LSTM, whose fused kernels are
unrolled by hand afterwards, and cells and modules that a loop of the user's own calls.

Why it matters: Bengio, Simard & Frasconi (1994), "Learning long-term dependencies with gradient descent is difficult";
Pascanu, Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._probes.fused_rnn import FusedCall
from gradwatch._probes.loops import Loops
from gradwatch.records import Float64Array, TimeProfile, Unavailable

_FORWARDS = {nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward}
_MAX_CALLS = 4
"""Of one fused module: of several micro-batches the last one that got a gradient is told."""


@dataclass(frozen=True, eq=False)
class TimeSignal:
    """The signal through time of one recurrent layer, on its device.

    Attributes:
        module: The module's name.
        kind: Its class name.
        layer: As in ``TimeProfile``.
        data: ``[3, num_steps]`` float64: norm, direct and response; ``[1, num_steps]`` where only the norm is known.
            Norm and direct are those of the backward pass: a GradScaler's factor is in them.
    """

    module: str
    kind: str
    layer: str
    data: Tensor

    @property
    def label(self) -> tuple[str, str, str]:
        """What travels to the host beside the data, for :func:`profile_of`."""
        return self.module, self.kind, self.layer


def profile_of(label: tuple[str, str, str], data: Float64Array, *, scale: float = 1.0) -> TimeProfile:
    """On the host: the profile of one :class:`TimeSignal`.

    Args:
        label: Its label.
        data: Its data.
        scale: A GradScaler's factor at this step.
    """
    module, kind, layer = label
    rows = [tuple(map(float, row)) for row in (data[:2] / scale if len(data) else data)]
    response = tuple(map(float, data[2])) if len(data) > 2 else ()  # noqa: PLR2004
    return TimeProfile(module, kind, rows[0], layer, rows[1] if len(rows) > 1 else (), response)


class ThroughTime:
    """Follows the recurrent calls of one probed step: :meth:`saw` at every call, :meth:`finish` before the step."""

    def __init__(self) -> None:
        self._fused: dict[str, list[FusedCall]] = {}
        self._kinds: dict[str, str] = {}
        self._loops = Loops()
        self.unavailable: tuple[Unavailable, ...] = ()

    def saw(
        self, name: str, module: nn.Module, args: Any, output: Any, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """A module was called, with gradients enabled and outside of any backward pass.

        Args:
            name: What it is called in the model.
            module: The module, a leaf or not.
            args: What it was given by position.
            output: What it gave.
            kwargs: What it was given by name; unknown, a first state that is given so counts as zero.
        """
        if not torch.is_grad_enabled():
            return
        given = kwargs or {}
        if isinstance(module, nn.RNNBase) and _is_sequence(module, args, given):
            self._saw_fused(name, module, args, output, given)
            return
        self._loops.saw(name, module, (*args, *given.values()) if given else args, output)

    def _saw_fused(self, name: str, module: nn.RNNBase, args: Any, output: Any, kwargs: Mapping[str, Any]) -> None:
        calls = self._fused.setdefault(name, [])
        if len(calls) < _MAX_CALLS:
            self._kinds[name] = type(module).__name__
            with torch.no_grad():
                calls.append(FusedCall(module, args, output, kwargs))

    def finish(self) -> list[TimeSignal]:
        """The signals of this step; what could not be known is in :attr:`unavailable`. Everything else is forgotten.

        To be called right before the optimizer's step, while the weights are those of the forward pass.
        """
        with torch.no_grad(), _full_precision():
            return self._finish()

    def _finish(self) -> list[TimeSignal]:
        found: list[TimeSignal] = []
        gaps: list[Unavailable] = []
        for name, calls in self._fused.items():
            told = [call for call in calls if call.has_gradients]
            for call in calls:
                call.close()
            if not told:
                continue
            for result in told[-1].follow():
                if isinstance(result, Unavailable):
                    gaps.append(Unavailable(f"{result.what} in {name or 'the model'}", result.because))
                else:
                    found.append(TimeSignal(name, self._kinds[name], *result))
        found += [TimeSignal(name, kind, "0", data) for name, kind, data in self._loops.follow()]
        self.unavailable = tuple(dict.fromkeys(gaps))
        self.close()
        return found

    def close(self) -> None:
        """Forget everything, and take the hooks away where the graph still lives."""
        for calls in self._fused.values():
            for call in calls:
                call.close()
        self._fused.clear()
        self._loops.close()


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Whatever autocast the optimizer's step is called under, the signal is not rounded."""
    active = [device for device in ("cpu", "cuda", "xpu") if torch.is_autocast_enabled(device)]
    with contextlib.ExitStack() as stack:
        for device in active:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _is_sequence(module: nn.RNNBase, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether it is torch's own forward pass, over several time steps; a packed sequence has several, mostly."""
    if type(module).forward not in _FORWARDS:
        return False
    given = args[0] if args else kwargs.get("input")
    return not isinstance(given, Tensor) or given.shape[1 if module.batch_first and given.dim() > 2 else 0] > 1  # noqa: PLR2004
