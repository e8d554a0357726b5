"""What the operations of a graph have saved for the backward pass, and whether it is finite.

Only tensors that lie in host memory as they are: one that a hook would have to bring back (activation checkpointing,
offloading) is not touched, because that would run the user's code again. Nothing that is read here is kept.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from gradwatch._probes.graph import LEAF, Graph, Value
from gradwatch._transfer import look, on_host


class Finding(enum.IntEnum):
    """What a tensor holds, the worst of its elements."""

    FINITE = 0
    BELOW = 1
    """Minus infinity beside finite values, as masks are made."""
    INF = 2
    NAN = 3


_OWN = ("result", "output", "out", "logsumexp", "total_weight", "workspace", "reserve", "indices", "mask", "attn")
"""Beginnings of the names of what an operation has made for itself, and of masks, in which infinity is meant."""


@dataclass(eq=False)
class Saved:
    """What could be seen of a graph's values.

    Attributes:
        values: What the values hold that somebody has saved.
        outside: Of operations that took something non-finite for which there is no graph, what that holds.
        weights: Non-finite parameters and other leaves, by number.
        hidden: Operations whose saved tensors may not be touched.
        freed: Whether saved tensors are gone: the backward pass has run.
        half: Operations that work in float16.
    """

    values: dict[Value, Finding] = field(default_factory=dict)
    outside: dict[int, Finding] = field(default_factory=dict)
    weights: dict[int, Finding] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    freed: bool = False
    half: set[int] = field(default_factory=set)


def read_saved(graph: Graph) -> Saved:
    """Look at everything that may be looked at. The graph must not be in use by a backward pass."""
    saved, numbers = Saved(), {node: number for number, node in enumerate(graph.nodes)}
    known: dict[tuple[Any, ...], Finding | None] = {}
    for number, node in enumerate(graph.nodes):
        if graph.names[number] == LEAF:
            finding = finding_of(node.variable, known)
            if finding is not None:
                saved.values[number, 0] = finding
                if finding:
                    saved.weights[number] = finding
            continue
        try:
            for name, tensor in saved_tensors(node):
                maker = None if tensor.grad_fn is None else numbers.get(tensor.grad_fn)
                if (finding := finding_of(tensor, known)) is not None:
                    _note(saved, number, (name, tensor), maker, finding)
        except HiddenError:
            saved.hidden.add(number)
        except RuntimeError as error:  # freed, or changed in place since: the backward pass would say so
            saved.hidden.add(number)
            saved.freed = saved.freed or "freed" in str(error)
    return saved


class HiddenError(Exception):
    """What an operation saved can only be had by running a hook of the user's."""


def saved_tensors(node: Any) -> Iterator[tuple[str, Tensor]]:
    """What a node has saved, by name (``"self"``, ``"other"``, ``"result"``).

    Raises:
        HiddenError: Not without running a hook.
        RuntimeError: It is gone, or has been changed in place since.
    """
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        if any(is_hooked(raw) for raw in getattr(node, "_raw_saved_tensors", None) or ()):
            raise HiddenError
        for tensor in node.saved_tensors:
            if isinstance(tensor, Tensor):
                yield "", tensor
        return
    for name in _saved_names(cast("Hashable", type(node))):
        if is_hooked(getattr(node, f"_raw_saved_{name}")):
            raise HiddenError
        value = getattr(node, f"_saved_{name}")
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(tensor, Tensor) and not (name.startswith("running_") and node._saved_training):  # noqa: SLF001
                yield name, tensor


@functools.lru_cache(maxsize=1024)
def _saved_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(name.removeprefix("_raw_saved_") for name in dir(kind) if name.startswith("_raw_saved_"))


def is_hooked(raw: Any) -> bool:
    """Whether unpacking runs a hook; where torch does not tell, it has to be taken for one that does."""
    if isinstance(raw, (tuple, list)):
        return any(map(is_hooked, raw))
    return raw is not None and getattr(raw, "unpack_hook", is_hooked) is not None


def _note(saved: Saved, number: int, named: tuple[str, Tensor], maker: int | None, finding: Finding) -> None:
    name, tensor = named
    if tensor.dtype == torch.float16:
        saved.half.add(number)
    if maker is not None:
        value = (maker, tensor.output_nr)
        saved.values[value] = max(finding, saved.values.get(value, finding))
    elif tensor.requires_grad or name.startswith(_OWN) or not finding:
        return  # a leaf, which is looked at itself; what the operation has made for itself; nothing amiss
    elif name:
        saved.outside[number] = max(finding, saved.outside.get(number, finding))
    else:  # of a function of the user's own: what it has worked out itself
        saved.values[number, 0] = max(finding, saved.values.get((number, 0), finding))


@torch.no_grad()
def finding_of(tensor: Tensor, known: dict[tuple[Any, ...], Finding | None] | None = None) -> Finding | None:
    """What a tensor holds; None where it cannot be looked at."""
    if not on_host(tensor):
        return None
    plain = tensor.detach()
    if plain.is_sparse:
        plain = plain._values()  # noqa: SLF001 - coalescing would copy
    if plain.layout is not torch.strided or type(plain) is not Tensor:
        return None
    if not (plain.is_floating_point() or plain.is_complex()) or plain.numel() == 0:
        return Finding.FINITE
    known = {} if known is None else known
    key = (plain.data_ptr(), plain.dtype, plain.shape, plain.stride(), plain.is_conj())
    if key not in known:
        known[key] = _worst(plain)
    return known[key]


def _worst(plain: Tensor) -> Finding | None:
    try:
        if look(torch.isfinite(plain).all()):
            return Finding.FINITE
        if look(torch.isnan(plain).any()):
            return Finding.NAN
        return Finding.INF if plain.is_complex() or look((plain == torch.inf).any()) else Finding.BELOW
    except (RuntimeError, NotImplementedError):  # a dtype or a layout that torch itself cannot look at
        return None
