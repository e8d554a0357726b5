"""What torch does not tell by itself: what a GradScaler does, and that somebody clips.

``GradScaler`` and torch's clipping functions are tapped, and the step hooks registered, while there is a listener, and
torch is left as it was when the last one has gone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.optim import Optimizer

from gradwatch._listeners import Listener, Subscription, tell, tell_all
from gradwatch._steps import fires_during, has_step_hook, open_step_hooks
from gradwatch._transfer import wait_for

_undo: list[Callable[[], object]] = []


def listen(listener: Listener) -> Subscription:
    """Let a listener know of every optimizer step from here on, until the subscription is closed."""
    return Subscription(listener, _open, _close)


def _open() -> None:
    _undo.extend(open_step_hooks())
    _undo.append(_replace(torch.amp.GradScaler, "step", _tapped_scaler_step))
    _undo.append(_replace(torch.amp.GradScaler, "unscale_", _tapped_unscale))
    if hasattr(clip_grad, "_group_tensors_by_device_and_dtype"):
        # private, but the one place that every clipping function passes, however the user imported it
        _undo.append(_replace(clip_grad, "_group_tensors_by_device_and_dtype", _tapped_grouping))


def _close() -> None:
    for undo in _undo:
        undo()
    _undo.clear()


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
        result, fired = fires_during(lambda: original(scaler, optimizer, *args, **kwargs), optimizer)
        if not fired and _found_overflow(scaler, optimizer):
            tell(optimizer, lambda listener: listener.step_skipped(optimizer))
        return result

    return step


def _found_overflow(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
    """Why the optimizer was not called; the scaler itself has just waited for this number."""
    look_up = getattr(scaler, "_found_inf_per_device", None)  # private: there is no public way (pytorch#67590)
    return look_up is not None and any(wait_for(value) for value in look_up(optimizer).values())


def _tapped_unscale(original: Callable[..., Any], is_open: list[bool]) -> Callable[..., Any]:
    @functools.wraps(original)
    def unscale_(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> None:
        scale = scale_of(scaler) if is_open[0] and scaler.is_enabled() else None
        if scale is not None:
            tell(optimizer, lambda listener: listener.before_unscale(optimizer, scale))
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
            tell_all(lambda listener: listener.before_clip(gradients, num_changes))
        return original(tensors, *args, **kwargs)

    return group
