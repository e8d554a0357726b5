"""torch's process-wide forward hook, put in place and taken away without a trace, and where it must not be used."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

Hook = Callable[[nn.Module, Any, Any, Any], None]
"""Sees module, positional and keyword arguments, and output of each call."""


def put_hook(hook: Hook) -> RemovableHandle:
    """See every call of a module in this process; where torch compiles a function, the hook folds away to nothing."""

    def unless_compiling(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        hook(module, args, kwargs, output)

    _silence_torch()
    return torch_module.register_module_forward_hook(unless_compiling, with_kwargs=True)


def take_away(handle: RemovableHandle) -> None:
    """See no more."""
    handle.remove()
    # torch 2.13 forgets this one, and would call every module the slow way for ever after
    getattr(torch_module, "_global_forward_hooks_with_kwargs", {}).pop(handle.id, None)


_ABOUT_US = "Using `torch.compile\\(module\\)` when there are global hooks on modules"
_SAYS = _ABOUT_US.replace("\\", "")


def _silence_torch() -> None:
    """Torch warns of process-wide hooks where a model is compiled in mid-run: those hooks are ours, and for one step.

    Only where that is not silent yet: a change of the filters makes Python forget which warnings it has shown.
    """
    matching = (
        action
        for action, message, category, module, _ in warnings.filters
        if issubclass(UserWarning, category) and module is None and (message is None or message.match(_SAYS))
    )
    if next(matching, "default") != "ignore":
        warnings.filterwarnings("ignore", message=_ABOUT_US)


def is_foreign_territory() -> bool:
    """Where nobody may look: recomputation inside a backward pass, function transforms, tracing, graph capture."""
    if torch._C._current_graph_task_id() != -1 or torch._C._functorch.maybe_current_level() is not None:  # noqa: SLF001
        return True
    if torch._C._get_tracing_state() is not None:  # noqa: SLF001
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def compiles(modules: Iterable[nn.Module]) -> bool:
    """Whether torch.compile has been used in this process, or on one of these modules."""
    frame = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(frame, "cached_backends", {})  # private; torch.compiler.disable leaves a None
    if any(backend is not None for backend in backends.values()):
        return True
    kind = getattr(frame, "OptimizedModule", ())
    return any(module._compiled_call_impl is not None or isinstance(module, kind) for module in modules)  # noqa: SLF001
