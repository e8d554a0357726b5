"""What is known of a module and of one call of it, for the forward probe."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._probes.activations import KIND_OF_OPERATION
from gradwatch._transfer import look, on_host

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)  # noqa: SLF001 - the only base
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # noqa: SLF001
_GATED = (nn.RNNBase, nn.RNNCellBase)
_SHORT = 1 << 16
"""Elements up to which float32 adds up the squares of a tensor rightly (pytorch#151761)."""

_SQUARABLE = 1e-12
"""A float32 norm below this may have lost squares that float32 cannot hold."""


@dataclass(frozen=True)
class Known:
    """What is the same at every call of a module.

    Attributes:
        module: The module, held weakly.
        name: Its name in the model.
        kind: Its class name.
        has_weights: Whether it holds parameters itself.
        is_leaf: Whether it has no modules inside.
        is_norm: Whether it is a normalisation layer.
        is_plain: Whether it is one operation of torch's own: nothing is hidden inside.
        channels_first: Whether units are in the second dimension of what it is given.
    """

    module: weakref.ref[nn.Module]
    name: str
    kind: str
    has_weights: bool
    is_leaf: bool
    is_norm: bool
    is_plain: bool
    channels_first: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> Known:
        kind = type(module).__name__
        if kind == "RNN" and getattr(module, "nonlinearity", "") == "relu":
            kind = "RNN(relu)"
        has_weights = any(parameter is not None for parameter in module._parameters.values())  # noqa: SLF001 - its own
        is_leaf = next(module.children(), None) is None
        is_norm, channels_first = isinstance(module, _NORMS), isinstance(module, _CHANNELS_FIRST)
        is_torchs = type(module).__module__.startswith("torch.nn.modules.")
        is_plain = is_leaf and is_torchs and not isinstance(module, _GATED)
        return cls(weakref.ref(module), name, kind, has_weights, is_leaf, is_norm, is_plain, channels_first)


@dataclass(eq=False)
class Call:
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


def norm_of(gradient: Tensor) -> Tensor:
    """The quick way first, where looking is free; float64 for what float32 cannot square."""
    norm: Tensor
    if gradient.dtype is torch.float32 and gradient.numel() <= _SHORT and on_host(gradient):
        norm = torch.linalg.vector_norm(gradient)
        if _SQUARABLE < float(look(norm)) < math.inf:
            return norm
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    wide = torch.float32 if gradient.device.type == "mps" else torch.float64  # which it does not have
    norm = torch.linalg.vector_norm(gradient, dtype=wide)
    return norm.to(torch.float32)


def first_tensor(value: Any) -> Tensor | None:
    """The value itself or the first plain floating-point tensor of a tuple or list; a plain tensor only."""
    items: Iterable[Any] = value if isinstance(value, (tuple, list)) else (value,)
    for item in items:
        if type(item) in (Tensor, nn.Parameter) and item.is_floating_point() and item.layout is torch.strided:
            return None if item.numel() == 0 else item
    return None


def operation_of(tensor: Tensor) -> str | None:
    """The activation that gave this tensor, as far as autograd names one."""
    node = tensor.grad_fn
    kind = None if node is None else KIND_OF_OPERATION.get(node.name())
    if kind == "Hardtanh":
        return {(-1, 1): kind, (0, 6): "ReLU6"}.get((node._saved_min_val, node._saved_max_val))  # type: ignore[union-attr] # noqa: SLF001
    return kind


def root_of(result: Tensor) -> Tensor:
    """The tensor whose place in the graph stays: a view changed in place (h = linear(x); h += x) loses its own."""
    base = result._base if result._is_view() else None  # noqa: SLF001 - there is no public way to ask
    return result if base is None or base.numel() != result.numel() else base
