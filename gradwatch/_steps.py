"""When an optimizer steps: torch's own events, told to whoever listens.

The process-wide step hooks, ``GradScaler`` and torch's clipping functions are tapped while there is a listener, and
left as they were when the last one has gone. Listeners are held weakly. An error in a listener never reaches the
training: it is told once as a warning (but what the user asked to be raised is raised).
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradwatch._transfer import wait_for
from gradwatch.errors import GradwatchWarning, NonfiniteGradientError


class Listener(Protocol):
    """What can be listened to. All are called in the thread that steps, without autograd."""

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether to be told of this optimizer's steps."""

    def before_step(self, optimizer: Optimizer) -> None:
        """The gradients of this step are complete: after the closure, right before the update."""

    def before_closure_again(self, optimizer: Optimizer) -> None:
        """The same step is about to evaluate its closure once more (LBFGS)."""

    def after_closure_again(self, optimizer: Optimizer) -> None:
        """It has: there are gradients once more."""

    def after_step(self, optimizer: Optimizer) -> None:
        """The update is done."""

    def step_skipped(self, optimizer: Optimizer) -> None:
        """A GradScaler found an overflow and did not call the optimizer."""

    def before_partial_step(self, optimizer: Optimizer) -> None:
        """An optimizer steps inside the backward pass, on its share of the gradients."""

    def after_backward(self) -> None:
        """The backward pass with such partial steps is over."""

    def before_unscale(self, optimizer: Optimizer, scale: Tensor) -> None:
        """A GradScaler is about to take ``scale`` out of the gradients."""

    def before_clip(self, gradients: list[Tensor], num_changes: int) -> None:
        """Somebody (the user, Lightning, another watch) is about to clip these gradients in place.

        ``num_changes`` is by how much this advances their version counters.
        """


_subscriptions: list[Subscription] = []
_lock = threading.RLock()
_local = threading.local()


class Subscription:
    """One listener's interest; :meth:`close` ends it, any number of times."""

    def __init__(self, listener: Listener) -> None:
        self.listener = weakref.ref(listener, lambda _: self.close())
        self._failed = False
        with _lock:
            _subscriptions.append(self)
            _taps.open()

    def close(self) -> None:
        """Stop listening; the last one restores torch."""
        with _lock:
            if self in _subscriptions:
                _subscriptions.remove(self)
                if not _subscriptions:
                    _taps.close()

    def guard(self, call: Callable[[Listener], object]) -> None:
        """Run ``call`` on the listener so that no error of ours stops the training."""
        listener = self.listener()
        if listener is None:
            return
        try:
            with torch.no_grad():
                call(listener)
        except (NonfiniteGradientError, GradwatchWarning):
            raise  # the latter only where the user turned warnings into errors
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            if not self._failed:
                self._failed = True
                warnings.warn(
                    f"gradwatch failed while measuring and goes on without this step: {type(error).__name__}: {error}",
                    GradwatchWarning,
                    stacklevel=2,
                )


def tell_others(sender: Listener, call: Callable[[Listener], object]) -> None:
    """Tell every listener but one, for what a listener itself does to the gradients."""
    for subscription in _subscriptions.copy():
        if subscription.listener() is not sender:
            subscription.guard(call)


def _tell(optimizer: Optimizer, call: Callable[[Listener], object]) -> None:
    for subscription in _concerned(optimizer):
        subscription.guard(call)


def _concerned(optimizer: Optimizer) -> list[Subscription]:
    found = []
    for subscription in _subscriptions.copy():
        listener = subscription.listener()
        if listener is not None and listener.concerns(optimizer):
            found.append(subscription)
    return found


# ---------------------------------------------------------------------------------------------- the optimizer's step


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _marks().add(id(optimizer))
    concerned = _concerned(optimizer)
    if not concerned or _is_nested(optimizer):
        return None
    if _in_backward():
        _tell(optimizer, lambda listener: listener.before_partial_step(optimizer))
        _after_this_backward(concerned)
        return None
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure):
        _tell(optimizer, lambda listener: listener.before_step(optimizer))
        return None
    watched = _watched(closure, optimizer)
    if "closure" in kwargs:
        return args, {**kwargs, "closure": watched}
    return (args[0], watched, *args[2:]), kwargs


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del args, kwargs
    if _concerned(optimizer) and not _is_nested(optimizer) and not _in_backward():
        _tell(optimizer, lambda listener: listener.after_step(optimizer))


def _watched(closure: Callable[..., Any], optimizer: Optimizer) -> Callable[..., Any]:
    """The closure, followed by the news: only then are this step's gradients there."""
    evaluations = itertools.count()

    def closure_then_news(*args: Any, **kwargs: Any) -> Any:
        again = next(evaluations) > 0
        if again:
            _tell(optimizer, lambda listener: listener.before_closure_again(optimizer))
        loss = closure(*args, **kwargs)
        if again:
            _tell(optimizer, lambda listener: listener.after_closure_again(optimizer))
        else:
            _tell(optimizer, lambda listener: listener.before_step(optimizer))
        return loss

    return closure_then_news


_STEP_WRAPPER = Optimizer.profile_hook_step(lambda _: None).__code__
"""The code that calls the hooks, the same for every optimizer class: its frames are the steps under way."""


def _is_nested(optimizer: Optimizer) -> bool:
    """Whether this step runs inside another one over the same parameters.

    So it is where a subclass calls ``super().step()`` or a wrapper (ZeroRedundancyOptimizer) the optimizer inside.
    Read off the stack, because a depth counter would stay open for ever once a step has raised.
    """
    frame = sys._getframe(1)  # noqa: SLF001 - there is no public way to see the steps under way
    steps_under_way = (f for f in _callers(frame) if f.f_code is _STEP_WRAPPER)
    next(steps_under_way, None)  # our own
    for outer_frame in steps_under_way:
        outer = outer_frame.f_locals.get("self")
        if outer is optimizer:
            return True
        if isinstance(outer, Optimizer) and not _parameter_ids(outer).isdisjoint(_parameter_ids(optimizer)):
            return True
    return False


def _callers(frame: Any) -> Iterator[Any]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def has_step_hook(optimizer: object) -> bool:
    """Whether torch's step hook will fire for this optimizer."""
    return isinstance(optimizer, Optimizer) and bool(getattr(type(optimizer).step, "hooked", False))


# ------------------------------------------------------------------------------------------ a step inside the backward


def _in_backward() -> bool:
    current = getattr(torch._C, "_current_graph_task_id", None)  # noqa: SLF001 - private: without it, never
    return current is not None and current() != -1


def _after_this_backward(concerned: list[Subscription]) -> None:
    """Tell them once when the running backward pass is over."""
    task = torch._C._current_graph_task_id()  # noqa: SLF001 - guarded by _in_backward
    if getattr(_local, "announced", None) == task:
        return
    _local.announced = task

    def over() -> None:
        for subscription in concerned:
            subscription.guard(lambda listener: listener.after_backward())

    engine = torch.autograd.Variable._execution_engine  # noqa: SLF001 - as DDP and FSDP do
    engine.queue_callback(over)


# -------------------------------------------------------------------------------------------- GradScaler and clipping


def _marks() -> set[int]:
    """Optimizers whose step hook fired in this thread since their scaler asked."""
    marks: set[int] = _local.__dict__.setdefault("marks", set())
    return marks


class _Taps:
    """The patches and hooks in torch, open while somebody listens."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def open(self) -> None:
        if self._undo:
            return
        self._undo = [
            register_optimizer_step_pre_hook(_before_step).remove,
            register_optimizer_step_post_hook(_after_step).remove,
            _replace(torch.amp.GradScaler, "step", _tapped_scaler_step),
            _replace(torch.amp.GradScaler, "unscale_", _tapped_unscale),
        ]
        if hasattr(clip_grad, "_group_tensors_by_device_and_dtype"):
            # private, but the one place that every clipping function passes, however the user imported it
            self._undo.append(_replace(clip_grad, "_group_tensors_by_device_and_dtype", _tapped_grouping))

    def close(self) -> None:
        for undo in self._undo:
            undo()
        self._undo = []


_taps = _Taps()


def _replace(owner: Any, name: str, make: Callable[..., Callable[..., Any]]) -> Callable[[], None]:
    """Put a tap in place of ``owner.name``; return how to take it out again."""
    original = getattr(owner, name)
    is_open = [True]

    tapped = make(original, is_open)
    setattr(owner, name, tapped)

    def undo() -> None:
        is_open[0] = False  # somebody who wrapped us in the meantime keeps calling: then we only pass on
        if getattr(owner, name) is tapped:
            setattr(owner, name, original)

    return undo


def _tapped_scaler_step(original: Callable[..., Any], is_open: list[bool]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(scaler: torch.amp.GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if not is_open[0] or not scaler.is_enabled() or not has_step_hook(optimizer):
            return original(scaler, optimizer, *args, **kwargs)
        _marks().discard(id(optimizer))
        result = original(scaler, optimizer, *args, **kwargs)
        if id(optimizer) not in _marks() and _found_overflow(scaler, optimizer):
            _tell(optimizer, lambda listener: listener.step_skipped(optimizer))
        return result

    return step


def _found_overflow(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
    """Why the optimizer was not called; the scaler itself has just waited for this number."""
    found = scaler._found_inf_per_device(optimizer)  # noqa: SLF001 - there is no public way to know (pytorch#67590)
    return any(wait_for(value) for value in found.values())


def _tapped_unscale(original: Callable[..., Any], is_open: list[bool]) -> Callable[..., Any]:
    @functools.wraps(original)
    def unscale_(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> None:
        scale = scale_of(scaler) if is_open[0] and scaler.is_enabled() else None
        if scale is not None:
            _tell(optimizer, lambda listener: listener.before_unscale(optimizer, scale))
        original(scaler, optimizer)

    return unscale_


def scale_of(scaler: torch.amp.GradScaler) -> Tensor | None:
    """A GradScaler's current factor on its device, None before its first use."""
    scale = getattr(scaler, "_scale", None)  # get_scale() would wait for the device
    return scale if isinstance(scale, Tensor) else None


def _code_of(name: str) -> Any:
    function = getattr(clip_grad, name, None)
    return getattr(getattr(function, "__wrapped__", None), "__code__", None)


_CLIP_BY_NORM, _CLIP_BY_VALUE = _code_of("_clip_grads_with_norm_"), _code_of("clip_grad_value_")


def _tapped_grouping(original: Callable[..., Any], is_open: list[bool]) -> Callable[..., Any]:
    @functools.wraps(original)
    def group(tensors: list[list[Tensor]], *args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1)  # noqa: SLF001 - torch measures a norm through here, too, which is no clipping
        if is_open[0] and caller.f_code in (_CLIP_BY_NORM, _CLIP_BY_VALUE):
            # by value: one clamp to the upper bound and one to the lower, unless the user asked for the plain loop
            by_value = caller.f_code is _CLIP_BY_VALUE and caller.f_locals.get("foreach") is not False
            gradients, num_changes = list(tensors[0]), 2 if by_value else 1
            for subscription in _subscriptions.copy():
                subscription.guard(lambda listener: listener.before_clip(gradients, num_changes))
        return original(tensors, *args, **kwargs)

    return group
