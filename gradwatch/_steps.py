"""When an optimizer steps: torch's process-wide step hooks, turned into news.

A closure is followed, a step inside a step passed over, and steps inside the backward pass are told apart.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradwatch._listeners import concerned, tell, tell_all, tell_these
from gradwatch._price import arrives, leading_to_events

_local = threading.local()


def open_step_hooks() -> list[Callable[[], object]]:
    """Register them; return how to remove them."""
    pre, post = register_optimizer_step_pre_hook(_before_step), register_optimizer_step_post_hook(_after_step)
    return [pre.remove, post.remove]


def has_step_hook(optimizer: object) -> bool:
    """Whether torch's step hook will fire for this optimizer."""
    return isinstance(optimizer, Optimizer) and bool(getattr(type(optimizer).step, "hooked", False))


def fires_during(call: Callable[[], Any], optimizer: Optimizer) -> tuple[Any, bool]:
    """The call's result, and whether the optimizer's step hook fired in this thread meanwhile."""
    _fired().discard(id(optimizer))
    result = call()
    return result, id(optimizer) in _fired()


def _fired() -> set[int]:
    fired: set[int] = _local.__dict__.setdefault("fired", set())
    return fired


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    arrived = arrives()
    _fired().add(id(optimizer))
    listeners = concerned(optimizer)
    if not listeners or _is_nested(optimizer):
        return None
    if _in_backward():
        with leading_to_events(arrived):
            tell_these(listeners, lambda listener: listener.before_partial_step(optimizer))
        _after_this_backward()
        return None
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure):
        with leading_to_events(arrived):
            tell_these(listeners, lambda listener: listener.before_step(optimizer))
        return None
    watched = _watched(closure, optimizer)
    if "closure" in kwargs:
        return args, {**kwargs, "closure": watched}
    return (args[0], watched, *args[2:]), kwargs


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    del args, kwargs
    arrived = arrives()
    listeners = concerned(optimizer)
    if listeners and not _is_nested(optimizer) and not _in_backward():
        with leading_to_events(arrived):
            tell_these(listeners, lambda listener: listener.after_step(optimizer))


def _watched(closure: Callable[..., Any], optimizer: Optimizer) -> Callable[..., Any]:
    """The closure, followed by the news: only then are this step's gradients there."""
    evaluations = itertools.count()

    def closure_then_news(*args: Any, **kwargs: Any) -> Any:
        again = next(evaluations) > 0
        if again:
            tell(optimizer, lambda listener: listener.before_closure_again(optimizer))
        loss = closure(*args, **kwargs)
        if again:
            tell(optimizer, lambda listener: listener.after_closure_again(optimizer))
        else:
            tell(optimizer, lambda listener: listener.before_step(optimizer))
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


def _in_backward() -> bool:
    current = getattr(torch._C, "_current_graph_task_id", None)  # noqa: SLF001 - private: without it, never
    return current is not None and current() != -1


def running_backward() -> int:
    """A number of the backward pass that is under way in this thread; only valid inside of one."""
    return int(torch._C._current_graph_task_id())  # noqa: SLF001 - guarded by _in_backward


def _after_this_backward() -> None:
    """Tell everybody once when the running backward pass is over."""
    task = running_backward()
    if getattr(_local, "announced", None) == task:
        return
    _local.announced = task

    def over() -> None:
        tell_all(lambda listener: listener.after_backward())

    engine = torch.autograd.Variable._execution_engine  # noqa: SLF001 - as DDP and FSDP do
    engine.queue_callback(over)
