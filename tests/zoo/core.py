"""What a scenario is: a small deterministic training run of known diagnosis; and the registry that collects them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LABELS = (
    "healthy",
    "exploding",
    "vanishing",
    "nonfinite",
    "dead_relu",
    "saturation",
    "lr_too_high",
    "stalled",
    "disconnected",
    "input_scale",
    "data_outlier",
)

CAUSES = frozenset(
    {
        "saturating_activations",
        "small_weights",
        "large_weights",
        "zero_weights",
        "no_normalisation",
        "no_shortcuts",
        "long_recurrence",
        "lr_too_high",
        "lr_too_low",
        "lr_jumped",
        "growing_weights",
        "unscaled_inputs",
        "unscaled_targets",
        "one_bad_batch",
        "half_precision_overflow",
        "half_precision_underflow",
        "rounded_away",
        "loss_scale",
        "domain_operation",
        "nonfinite_weight",
        "nonfinite_input",
        "unsuited_loss",
        "unscaled_logits",
        "dead_by_bias",
        "dead_by_learning_rate",
        "zero_gradient_structural",
        "cut_graph",
        "no_optimizer",
        "clipping_too_small",
        "eps_too_large",
        "gradients_pile_up",
        "schedule_at_zero",
    }
)

CHECKS = ("loss", "own", "nonfinite", "dead", "unmoved", "spike", "saturated", "floor", "bounded")

Batch = tuple[Tensor, ...]
LossFn = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Turn:
    """One player's move where several optimizers alternate, as in a GAN."""

    optimizer: torch.optim.Optimizer
    loss_fn: LossFn


@dataclass
class Run:
    """One run, ready to train.

    Attributes:
        model: What is trained.
        optimizer: What trains it; with ``turns`` the first of several.
        batches: Endless.
        loss_fn: From model and batch to the scalar loss.
        clip: Largest total norm, by ``clip_grad_norm_``; None for no clipping.
        accum: Micro-batches per optimizer step.
        zero_grad: Whether the loop empties the gradients before each step, as it should.
        before_step: Called with the step's number before anything else: schedules, and the bugs that are injected.
        turns: Where several optimizers alternate, who moves when: step ``t`` is ``turns[t % len(turns)]``.
        scaler: For half precision with a dynamic loss scale.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[Batch]
    loss_fn: LossFn
    clip: float | None = None
    accum: int = 1
    zero_grad: bool = True
    before_step: Callable[[int], None] | None = None
    turns: tuple[Turn, ...] = ()
    scaler: torch.amp.GradScaler | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Every optimizer that steps in this run."""
        return [turn.optimizer for turn in self.turns] or [self.optimizer]


Builder = Callable[[int], Run]


@dataclass(frozen=True)
class Scenario:
    """A labelled training run.

    Attributes:
        name: Unique; healthy ones begin with ``ok_``.
        label: The diagnosis, one of ``LABELS``.
        cause: In a sentence, what is wrong.
        build: From a seed to the run.
        steps: How long it is trained.
        onset: First step at which the fault is present; ``"first_bad"``: the first non-finite value; None if healthy.
        faulty_layers: Prefixes of the modules that a detector should name; empty where no layer is to blame.
        accept: Further labels that are a fair diagnosis of the same fault.
        control: Builds the repaired twin, which counts as a healthy run.
        no_control: Where there is no twin, why.
        right_causes: Names of causes that are right as the first one.
        trap: Of a healthy run, which false alarm it provokes.
        check: How ``verify.py`` proves the label, one of ``CHECKS``.
    """

    name: str
    label: str
    cause: str
    build: Builder
    steps: int = 150
    onset: int | str | None = 0
    faulty_layers: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    control: Builder | None = None
    no_control: str = ""
    right_causes: tuple[str, ...] = ()
    trap: str = ""
    check: str = "loss"

    @property
    def ok_labels(self) -> frozenset[str]:
        """All labels that are right."""
        return frozenset((self.label, *self.accept))

    def start(self, seed: int, *, control: bool = False) -> Run:
        """Build the run, or its repaired twin; the same seed builds the same run, bit for bit."""
        builder = self.control if control else self.build
        if builder is None:
            raise ValueError(f"{self.name} has no repaired twin")
        torch.manual_seed(seed)
        run = builder(seed)
        torch.manual_seed(seed + 777)
        return run


class Registry(list[Scenario]):
    """A list of scenarios that refuses what is malformed."""

    def put(self, scenario: Scenario) -> None:
        """Append one."""
        if scenario.label not in LABELS or not set(scenario.accept) <= set(LABELS):
            raise ValueError(f"{scenario.name}: unknown label among {scenario.label}, {scenario.accept}")
        if not set(scenario.right_causes) <= CAUSES:
            raise ValueError(f"{scenario.name}: unknown causes {set(scenario.right_causes) - CAUSES}")
        if scenario.check not in CHECKS:
            raise ValueError(f"{scenario.name}: unknown check {scenario.check}")
        if any(scenario.name == other.name for other in self):
            raise ValueError(f"two scenarios are called {scenario.name}")
        self.append(scenario)

    def pair(  # noqa: PLR0917 - a table of scenarios reads best without keywords
        self,
        name: str,
        label: str,
        cause: str,
        make: Callable[..., Run],
        bad: dict[str, Any],
        good: dict[str, Any],
        causes: tuple[str, ...] = (),
        **fields: Any,
    ) -> None:
        """Append a faulty run and its twin: one ``make(seed, ...)``, with the fault's options or the repaired ones."""
        both = {"build": of(make, **bad), "control": of(make, **good), "right_causes": causes}
        self.put(Scenario(name, label, cause, **both, **fields))

    def healthy(
        self, name: str, trap: str, make: Callable[..., Run], steps: int = 150, check: str = "loss", /, **options: Any
    ) -> None:
        """Append a healthy run and say which false alarm it provokes; ``options`` are those of ``make``."""
        self.put(Scenario(name, "healthy", "", of(make, **options), steps=steps, onset=None, trap=trap, check=check))


def of(make: Callable[..., Run], **options: Any) -> Builder:
    """A builder with its options filled in."""
    return lambda seed: make(seed, **options)
