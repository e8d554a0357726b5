"""A hook on a node of the autograd graph that cannot hurt the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradwatch.errors import warn


def put_hook(node: Any, note: Callable[[Tensor], None], number: int) -> Any:
    """Let ``note`` see the gradient that comes to a node's output; whatever it does, the backward pass goes on.

    On the node and not on the tensor: the user may change that in place, pickle it, or have dropped it.

    Args:
        node: Of the graph.
        note: Sees plain gradients only, and never builds a graph.
        number: Which of the node's outputs.

    Returns:
        Takes the hook away with ``remove()``.
    """

    def hook(gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[number]
        if gradient is None or _is_transformed(gradient):
            return
        try:
            if torch.is_grad_enabled():  # create_graph=True
                with torch.no_grad():
                    note(gradient.detach())
            else:
                note(gradient)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            warn(
                f"gradwatch could not follow the signal through time at one step ({type(error).__name__}: {error}); "
                "the training and everything else go on"
            )

    return node.register_prehook(hook)


def _is_transformed(gradient: Tensor) -> bool:
    """Whether it is no plain tensor, or one inside of a function transform: vmap, or ``is_grads_batched``."""
    functorch = torch._C._functorch  # noqa: SLF001 - private: there is no public way to ask
    return (
        type(gradient) is not Tensor
        or functorch.maybe_current_level() is not None
        or functorch.is_legacy_batchedtensor(gradient)
    )
