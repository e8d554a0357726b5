"""Activations with flat ends that no module stands for: gates and attention by hand, and those inside of fused kernels.

They show in the autograd graph: on the way back from what a module is given lie the operations since the last module,
and those with flat ends have saved what they gave. What fused attention, nn.LSTM and nn.GRU keep to themselves is
worked out again for a few samples. Nothing that is saved through a hook of the user's (activation checkpointing,
offloading) is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gradwatch._probes.saved import is_hooked
from gradwatch._probes.unroll import Recurrence

_KINDS = {
    "SigmoidBackward0": "Sigmoid",
    "TanhBackward0": "Tanh",
    "SoftmaxBackward0": "Softmax",
    "SafeSoftmaxBackward0": "Softmax",  # of attention with dropout, on a CPU
}
_FUSED_ATTENTION = frozenset(
    {"ScaledDotProductFlashAttentionForCpuBackward0", "ScaledDotProductFlashAttentionBackward0"}
)
_LEAF = "torch::autograd::AccumulateGrad"
_MAX_NODES = 5_000
_MAX_ROWS = 64
_MAX_SAMPLES, _MAX_TIMES = 8, 8


class HiddenActivations:
    """Walks every operation of a step once, in pieces: each from a tensor back to where an earlier one came by."""

    def __init__(self) -> None:
        self._passed: set[int] = set()  # numbers and not nodes: a node would keep the whole graph alive

    def know(self, tensor: Tensor) -> None:
        """What gave this tensor is known otherwise."""
        if tensor.grad_fn is not None:
            self._passed.add(_number(tensor.grad_fn))

    def behind(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Those on the way back from a tensor that no earlier walk has come by.

        Args:
            tensor: Any tensor of the step's forward pass.

        Yields:
            The kind of activation, and what it gave: a softmax's choices lie along the last dimension.
        """
        waiting = [tensor.grad_fn]
        while waiting and len(self._passed) < _MAX_NODES:
            node = waiting.pop()
            if node is None or node.name() == _LEAF or (number := _number(node)) in self._passed:
                continue
            self._passed.add(number)
            waiting += [before for before, _ in node.next_functions]
            try:
                found = _given_by(node)
            except RuntimeError:  # changed in place since: the backward pass would say so, if there is one
                continue
            if found is not None:
                yield found


def _given_by(node: Any) -> tuple[str, Tensor] | None:
    """The kind of activation that this operation is, and what it gave; None where it is none or may not be touched."""
    name = node.name()
    if name in _KINDS:
        if is_hooked(node._raw_saved_result):  # noqa: SLF001
            return None
        return _KINDS[name], _last_dim(node, node._saved_result.detach())  # noqa: SLF001
    chances = _chances(node) if name in _FUSED_ATTENTION else None
    return None if chances is None else ("Softmax", chances)


def _number(node: Any) -> int:
    return int(node._sequence_nr())  # noqa: SLF001 - there is no public way to tell one node from another


def _last_dim(node: Any, result: Tensor) -> Tensor:
    """A softmax's result with its dimension last; torch saves a negative one as an unsigned number of 64 bits."""
    dim = getattr(node, "_saved_dim", -1)
    return result.movedim(dim if dim < 1 << 63 else dim - (1 << 64), -1) if result.dim() else result


@torch.no_grad()
def _chances(node: Any) -> Tensor | None:
    """What each of some last queries gives to every key, ``[rows, keys]``: the kernel itself keeps only their sums.

    Where it is causal, the last query sees as many keys as there are queries.
    """
    names = ("query", "key", "logsumexp")
    if any(is_hooked(getattr(node, f"_raw_saved_{name}")) for name in names):
        return None
    query, key, total = (getattr(node, f"_saved_{name}").detach() for name in names)
    if node._saved_is_causal:  # noqa: SLF001
        key = key[..., : query.shape[-2], :]
    query, total = query[..., -1, :].flatten(0, -2)[:_MAX_ROWS].float(), total[..., -1].flatten()[:_MAX_ROWS].float()
    if key.shape[:-2].numel() < len(query):
        return None  # several queries share a key
    key = key.flatten(0, -3)[: len(query)].float()
    scale = getattr(node, "_saved_scale", None) or 1 / math.sqrt(query.shape[-1])
    scores = torch.einsum("rd,rkd->rk", query, key) * scale
    mask = getattr(node, "_saved_attn_mask", None)
    if isinstance(mask, Tensor):
        return None  # what it hides would count
    return torch.exp(scores - total[:, None]).clamp_max(1.0)


def gates_of(module: nn.Module, given: Tensor | None, output: Tensor) -> list[tuple[str, Tensor]]:
    """What the gates of a fused recurrent layer give at some of its time steps.

    Args:
        module: Of an nn.LSTM or nn.GRU with several layers or directions the states between them are not known.
        given: Its input, a plain tensor.
        output: Its hidden states.

    Returns:
        As :meth:`Recurrence.gates`; nothing for any other module.
    """
    if type(module) not in (nn.LSTM, nn.GRU) or given is None or given.dim() != 3:  # noqa: PLR2004
        return []
    assert isinstance(module, nn.RNNBase)
    with torch.no_grad():
        return _fused_gates(module, given.detach(), output.detach())


def _fused_gates(module: nn.RNNBase, inputs: Tensor, states: Tensor) -> list[tuple[str, Tensor]]:
    if module.num_layers > 1 or module.bidirectional or module.proj_size:
        return []
    recurrence = Recurrence.of(module, 0, 0, torch.float32)
    if not isinstance(recurrence, Recurrence):
        return []
    if module.batch_first:
        inputs, states = inputs.transpose(0, 1), states.transpose(0, 1)
    times = slice(None, None, max(1, len(inputs) // _MAX_TIMES))
    # The state before the first step may be any.
    inputs, states = inputs[1:, :_MAX_SAMPLES][times].flatten(0, 1), states[:-1, :_MAX_SAMPLES][times].flatten(0, 1)
    return recurrence.gates(inputs.float(), states.float()) if len(inputs) else []
