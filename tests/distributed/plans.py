"""A small training on digits in float64, once on one process and once on many, with figures by the book to compare."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import functional

import gradwatch
from gradwatch.records import Incident, StepRecord

BATCH = 8
"""Rows of a step, over all ranks."""


class Gain(nn.Module):
    """A learnt factor: one element, so that all shards of it but the first are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x * self.weight


def digits_net() -> nn.Sequential:
    """From ``[batch, 64]`` to ``[batch, 10]``: 7 and 10 rows do not divide evenly, one element not at all."""
    torch.manual_seed(1)
    layers: dict[str, nn.Module] = {
        "first": nn.Linear(64, 7),
        "act0": nn.Tanh(),
        "gain": Gain(),
        "second": nn.Linear(7, 7),
        "act1": nn.Tanh(),
        "norm": nn.LayerNorm(7),
        "last": nn.Linear(7, 10),
    }
    return nn.Sequential(OrderedDict(layers)).double()


Tamper = Callable[[nn.Module, int], None]


@dataclass(frozen=True)
class Plan:
    """What is trained, and how. Picklable: functions stand at the top of their module.

    Attributes:
        net: Makes the model, always with the same weights.
        num_steps: Optimizer steps.
        num_micro: Backward passes of each.
        clip: Our clipping rule.
        optimizer: From the parameters.
        tamper: Called with the model and the step's number once its gradients are complete.
        spoil: Called with a rank's own rows and the step's number; gives what the model reads instead.
        tell: Whether the watch is told the loss.
        watch: More options of the watch.
        start: The first step; the earlier ones have been made by another training.
        weights: What that one has left, by name.
        state: Of that one's watch.
    """

    net: Callable[[], nn.Module] = digits_net
    num_steps: int = 3
    num_micro: int = 1
    clip: gradwatch.ClipNorm | gradwatch.ClipValue | None = None
    optimizer: Callable[[Iterable[nn.Parameter]], Any] | None = None
    tamper: Tamper | None = None
    spoil: Callable[[Tensor, int], Tensor] | None = None
    tell: bool = True
    watch: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    weights: dict[str, Tensor] | None = None
    state: dict[str, Any] | None = None

    def model(self) -> nn.Module:
        """With the weights that the training begins with."""
        model = self.net()
        if self.weights is not None:
            model.load_state_dict(self.weights)
        return model


@dataclass(frozen=True)
class Figures:
    """One step's gradients, each by its parameter's name; absent ones are left out.

    Attributes:
        norm: L2 norms.
        largest: Largest absolute values.
        num_nonfinite: Counts of NaN and infinite elements.
    """

    norm: dict[str, float]
    largest: dict[str, float]
    num_nonfinite: dict[str, int]

    @property
    def total_norm(self) -> float:
        """L2 norm over all."""
        return math.sqrt(sum(norm**2 for norm in self.norm.values()))


@dataclass(frozen=True)
class Seen:
    """What one rank has seen of a training.

    Attributes:
        records: Of the watch.
        incidents: Of the watch.
        whole: By the book, per step: the gradients put together from all ranks.
        local: By the book, per step: what a monitor measures that knows nothing of other ranks.
        summed: Norms by a plain sum of squares over all ranks, per step: the next naive idea.
        weights: After the training, put together from all ranks.
        state: Of the watch, after the training.
    """

    records: list[StepRecord]
    incidents: list[Incident]
    whole: list[Figures]
    local: list[Figures]
    summed: list[dict[str, float]]
    weights: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Placed:
    """A model as it lies on the ranks.

    Attributes:
        model: This rank's.
        part: Which of ``num_parts`` shares of the batch this rank reads.
        num_parts: How many ranks read different data.
        weights: The whole weights by their plain names; by default each put together by itself.
        micro: Called before each micro-batch with ``is_last``, whether it is the last of its step.
        gradients: The whole gradients by their plain names; by default each put together by itself.
        backward: The passes over one micro-batch where they are not the usual ones; the loss where this rank has it.
    """

    model: nn.Module
    part: int = 0
    num_parts: int = 1
    weights: Callable[[], dict[str, Tensor]] | None = None
    gradients: Callable[[], dict[str, Tensor]] | None = None
    micro: Callable[..., Any] | None = None
    backward: Callable[[Tensor, Tensor], Tensor | None] | None = None


def batches(plan: Plan) -> list[list[tuple[Tensor, Tensor]]]:
    """The micro-batches of each step, ``[BATCH, 64]`` and ``[BATCH]``, the same on every rank."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16), torch.tensor(labels)
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(2)).split(BATCH)
    micro_batches = [(x[picked], y[picked]) for picked in rows[: plan.num_steps * plan.num_micro]]
    return [micro_batches[step * plan.num_micro :][: plan.num_micro] for step in range(plan.num_steps)]


def figures(gradients: Iterable[tuple[str, Tensor | None]]) -> Figures:
    """By the book, in float64."""
    doubles = {name: gradient.detach().double() for name, gradient in gradients if gradient is not None}
    return Figures(
        {name: float(g.square().sum().sqrt()) for name, g in doubles.items()},
        {name: float(g.abs().max()) if g.numel() else 0.0 for name, g in doubles.items()},
        {name: int(g.isfinite().logical_not().sum()) for name, g in doubles.items()},
    )


def plain_name(name: str) -> str:
    """Without the prefixes of wrappers."""
    for prefix in ("_fsdp_wrapped_module.", "_orig_mod.", "module."):
        name = name.replace(prefix, "")
    return name


def alone(plan: Plan) -> Seen:
    """The same training on one process, without a watch, clipped by torch's own functions."""
    model = plan.model()
    optimizer = _optimizer(plan, model)
    seen: list[Figures] = []
    for step, micro_batches in enumerate(batches(plan)[plan.start :], plan.start):
        optimizer.zero_grad()
        for x, y in micro_batches:
            (functional.cross_entropy(model(x), y) / plan.num_micro).backward()
        if plan.tamper is not None:
            plan.tamper(model, step)
        seen.append(figures((name, p.grad) for name, p in model.named_parameters()))
        if isinstance(plan.clip, gradwatch.ClipNorm):
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip.max_norm, plan.clip.norm_type)
        elif plan.clip is not None:
            nn.utils.clip_grad_value_(model.parameters(), plan.clip.clip_value)
        optimizer.step()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return Seen([], [], seen, seen, [s.norm for s in seen], weights)


def together(place: Callable[[nn.Module], Placed], plan: Plan) -> Seen:
    """The training as this rank sees it, watched; with ``place=Placed`` also that of a single process."""
    placed = place(plan.model())
    model = placed.model
    optimizer = _optimizer(plan, model)
    whole, local, summed = [], [], []

    def backward(x: Tensor, y: Tensor) -> Tensor | None:
        if placed.backward is not None:
            return placed.backward(x, y)
        loss = functional.cross_entropy(model(x), y)
        (loss / plan.num_micro).backward()
        return loss.detach()

    watch = gradwatch.watch(model, clip=plan.clip, **{"every": 1, "writers": [], **plan.watch})
    if plan.state is not None:
        watch.load_state_dict(plan.state)
    with watch:
        for step, micro_batches in enumerate(batches(plan)[plan.start :], plan.start):
            optimizer.zero_grad()
            for index, (x, y) in enumerate(micro_batches):
                if placed.micro is not None:
                    placed.micro(is_last=index == plan.num_micro - 1)
                mine = slice(placed.part, None, placed.num_parts)
                rows = x[mine] if plan.spoil is None else plan.spoil(x[mine], step)
                if (loss := backward(rows, y[mine])) is not None and plan.tell:
                    watch.loss(loss)
            if plan.tamper is not None:
                plan.tamper(model, step)
            gradients = {plain_name(name): p.grad for name, p in model.named_parameters()}
            whole.append(figures((placed.gradients or (lambda: whole_of(gradients)))().items()))  # noqa: B023
            local.append(figures((name, g if g is None else local_of(g)) for name, g in gradients.items()))
            summed.append(_summed(local[-1]))
            optimizer.step()
    named = {plain_name(name): p.detach() for name, p in model.named_parameters()}
    weights = (placed.weights or (lambda: whole_of(named)))()
    return Seen(watch.history, watch.incidents, whole, local, summed, weights, watch.state_dict())


def each(place: Callable[[nn.Module], Placed], plans: list[Plan]) -> list[Seen]:
    """One training after the other in one group."""
    return [together(place, plan) for plan in plans]


def local_of(tensor: Tensor) -> Tensor:
    """What lies here; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_of(tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Each put together from all ranks."""
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for name, t in present.items()}


def _summed(local: Figures) -> dict[str, float]:
    if not dist.is_initialized():
        return local.norm
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, local.norm)
    names = {name: None for norms in everywhere for name in norms}
    return {name: math.sqrt(sum(norms.get(name, 0.0) ** 2 for norms in everywhere)) for name in names}


def _optimizer(plan: Plan, model: nn.Module) -> Any:
    make = plan.optimizer or (lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9))
    return make(model.parameters())
