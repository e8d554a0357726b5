"""A1-A3, A15-A18: what is one optimizer step, and when its gradients are complete."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import batch_loss, copies, grad_norm, norm_of, quiet_watch, small_model, train
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradwatch

PASSING = {
    "positional": lambda optimizer, closure: optimizer.step(closure),
    "keyword": lambda optimizer, closure: optimizer.step(closure=closure),
}

TORCH_S_OWN_DEPRECATIONS = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def _closure(model: nn.Module, optimizer: torch.optim.Optimizer, norms: list[float]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = batch_loss(model)
        loss.backward()
        norms.append(grad_norm(model))
        return loss

    return closure


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_a01_closure_is_measured_after_it_ran(step: Callable[..., Tensor]) -> None:
    """The record of ``step(closure)`` is of the gradients that the closure made, not of those before it."""
    model, norms = small_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    closure = _closure(model, optimizer, norms)
    with quiet_watch(model) as watch:
        losses = [step(optimizer, closure) for _ in range(3)]
    assert [record.total_norm for record in watch.history] == pytest.approx(norms, rel=1e-5)
    assert all(isinstance(loss, Tensor) for loss in losses)


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_a01_closure_is_clipped_after_it_ran(step: Callable[..., Tensor]) -> None:
    """With a closure, too, the update is made of clipped gradients."""
    model, norms = small_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = copies(model.parameters())
    with quiet_watch(model, clip=gradwatch.ClipNorm(0.01)) as watch:
        step(optimizer, _closure(model, optimizer, norms))
    moved = norm_of(a - b for a, b in zip(before, model.parameters(), strict=True))
    assert norms[0] > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert watch.history[0].clipped_norm == pytest.approx(0.01, rel=1e-3)


def test_a01_no_closure_may_be_given_as_none() -> None:
    """``step(None)`` and ``step(closure=None)`` are plain steps."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        for step in (lambda: optimizer.step(None), lambda: optimizer.step(closure=None), optimizer.step):
            optimizer.zero_grad()
            batch_loss(model).backward()
            norm = grad_norm(model)
            step()
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
    assert watch.step == 3


def test_a02_lbfgs_is_one_step() -> None:
    """Several closure evaluations are one record, with the gradient of the first, and every one is clipped."""
    model, norms = small_model(), []
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with quiet_watch(model) as watch:
        for num_before in range(3):
            closure = _closure(model, optimizer, norms)
            first = len(norms)
            optimizer.step(closure)
            assert len(norms) - first > 1
            assert watch.step == num_before + 1
            assert watch.total_norm == pytest.approx(norms[first], rel=1e-5)


def test_a02_lbfgs_is_clipped_at_every_evaluation() -> None:
    """The optimizer never sees a gradient over the limit, whichever evaluation it is of."""
    model = small_model()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    seen = []
    gather = optimizer._gather_flat_grad
    optimizer._gather_flat_grad = lambda: seen.append(gather()) or seen[-1]
    with quiet_watch(model, clip=gradwatch.ClipNorm(0.01)):
        optimizer.step(_closure(model, optimizer, []))
    assert len(seen) > 1
    assert [float(flat.norm()) for flat in seen] == pytest.approx([0.01] * len(seen), rel=1e-3)


class _Projected(torch.optim.SGD):
    """A subclass that calls ``super().step()``, and may fail after it."""

    fails = False

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if self.fails:
            raise RuntimeError("the projection failed")
        return loss


def test_a03_a_nested_step_counts_once() -> None:
    """A subclass that calls ``super().step()`` makes one record a step, with or without a closure."""
    model, norms = small_model(), []
    optimizer = _Projected(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        train(model, optimizer, 3)
        optimizer.step(_closure(model, optimizer, norms))
    assert watch.step == len(watch.history) == 4
    assert watch.total_norm == pytest.approx(norms[0], rel=1e-5)


def test_a03_a_step_that_raises_does_not_blind_the_watch() -> None:
    """After a step that raised, every later step is seen, and nested ones still count once."""
    model = small_model()
    optimizer = _Projected(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        optimizer.fails = True
        with pytest.raises(RuntimeError, match="projection"):
            train(model, optimizer, 1)
        optimizer.fails = False
        train(model, optimizer, 3)
    assert [record.step for record in watch.history] == [0, 1, 2, 3]
    assert all(record.total_norm > 0 for record in watch.history)


@pytest.fixture
def _one_process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process_group")
@TORCH_S_OWN_DEPRECATIONS
def test_a03_zero_redundancy_optimizer_counts_once() -> None:
    """The optimizer inside a ZeroRedundancyOptimizer is no second one."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = small_model()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    with quiet_watch(model) as watch:
        train(model, optimizer, 3)
    assert watch.step == 3
    assert {record.optimizer for record in watch.history} == {0}


@pytest.mark.parametrize("compiled_first", [True, False])
def test_a15_a_compiled_model_is_seen_without_graph_breaks(*, compiled_first: bool) -> None:
    """Every step of a compiled model is measured, whenever the watch was opened, and its graph stays whole."""
    torch._dynamo.reset()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    if compiled_first:
        train(compiled, optimizer, 1)
    with quiet_watch(compiled) as watch:
        train(compiled, optimizer, 4)
        report = torch._dynamo.explain(model)(torch.randn(8, 6))
    assert [record.total_norm > 0 for record in watch.history] == [True] * 4
    assert report.graph_break_count == 0


class _Breaking(nn.Module):
    """Breaks its graph once, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model()

    def forward(self, x: Tensor) -> Tensor:
        """Two graphs."""
        x = x * 2
        torch._dynamo.graph_break()
        return self.inner(x)


def _dynamo_counts(*, watched: bool) -> tuple[dict[str, int], dict[str, int]]:
    """What torch.compile has counted over some steps: its graph breaks by reason, and its graphs."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = torch.compile(_Breaking(), backend="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    options = {"clip": gradwatch.ClipNorm(0.1), "skip_if_nonfinite": True}
    with quiet_watch(model, **options) if watched else contextlib.nullcontext() as watch:
        for _ in range(25):  # samples and probes have had their turns, early ones and later ones
            optimizer.zero_grad()
            loss = batch_loss(model)
            if watch is not None:
                watch.loss(loss)
            loss.backward()
            optimizer.step()
    found = torch._dynamo.utils.counters
    counts = dict(found["graph_break"]), {key: found["stats"][key] for key in ("unique_graphs", "calls_captured")}
    torch._dynamo.utils.counters.clear()
    return counts


def test_a15_watched_training_breaks_no_more_graphs() -> None:
    """Clipped, probed and told its loss, a compiled training counts the breaks and the graphs of the unwatched one."""
    unwatched = _dynamo_counts(watched=False)
    assert sum(unwatched[0].values()) == 1
    assert _dynamo_counts(watched=True) == unwatched


def test_a15_nothing_is_hooked_on_modules_or_parameters() -> None:
    """No hook sits on a module or a parameter while the watch runs."""
    model = small_model()
    with quiet_watch(model):
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 2)
        for module in model.modules():
            assert not any(value for key, value in vars(module).items() if key.endswith("_hooks"))
        for parameter in model.parameters():
            assert not parameter._backward_hooks
            assert not parameter._post_accumulate_grad_hooks


@TORCH_S_OWN_DEPRECATIONS
def test_a16_a_compiled_step_is_measured_and_clipped() -> None:
    """``torch.compile(optimizer.step)`` still tells of each step and sees clipped gradients."""
    torch._dynamo.reset()
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = torch.compile(optimizer.step, backend="eager")
    with quiet_watch(model, clip=gradwatch.ClipNorm(0.01)) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            batch_loss(model).backward()
            before, norm = copies(model.parameters()), grad_norm(model)
            step()
            moved = norm_of(a - b for a, b in zip(before, model.parameters(), strict=True))
            assert moved == pytest.approx(0.01, rel=1e-3)
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
    assert watch.step == 3


def _in_backward(model: nn.Module, lr: float = 0.1) -> None:
    optimizers = {p: torch.optim.SGD([p], lr=lr) for p in model.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)


def test_a17_an_optimizer_in_backward_is_one_step_an_iteration() -> None:
    """The step calls of one backward pass are one record over all parameters."""
    model, twin = small_model(), small_model()
    twin.load_state_dict(model.state_dict())
    _in_backward(model)
    with quiet_watch(model) as watch:
        for num in range(3):
            twin.load_state_dict(model.state_dict())
            twin.zero_grad()
            torch.manual_seed(num)
            batch_loss(twin).backward()
            torch.manual_seed(num)
            batch_loss(model).backward()
            assert watch.step == num + 1
            assert watch.total_norm == pytest.approx(grad_norm(twin), rel=1e-5)
    names = tuple(name for name, _ in model.named_parameters())
    assert all(record.names == names and not record.absent.any() for record in watch.history)
    assert all(record.lr == 0.1 for record in watch.history)


def test_a17_an_optimizer_in_backward_is_clipped_by_value() -> None:
    """Clipping by value works inside the backward pass; clipping by norm cannot and says so once."""
    model = small_model()
    _in_backward(model, lr=1.0)
    before = copies(model.parameters())
    with quiet_watch(model, clip=gradwatch.ClipValue(1e-3)) as watch:
        batch_loss(model).backward()
    moved = [(a - b).abs().max().item() for a, b in zip(before, model.parameters(), strict=True)]
    assert max(moved) == pytest.approx(1e-3, rel=1e-2)
    assert watch.history[0].clipped_norm < watch.history[0].total_norm
    with quiet_watch(model, clip=gradwatch.ClipNorm(1e-3)), pytest.warns(gradwatch.GradwatchWarning, match="inside"):
        batch_loss(model).backward()


class _Reused(nn.Module):
    """One layer used three times, once inside activation checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.inner, self.inner(x), use_reentrant=False)
        return self.head(torch.tanh(self.inner(x)))


def test_a18_steps_are_counted_not_forward_passes() -> None:
    """Checkpointing, a layer used three times and micro-batches: still one record a step, of the summed gradient."""
    model = _Reused()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        for num in range(3):
            optimizer.zero_grad()
            for _ in range(4):
                batch_loss(model).backward()
            norm = grad_norm(model)
            optimizer.step()
            assert watch.step == num + 1
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
    assert all(len(record.names) == 4 and math.isfinite(record.total_norm) for record in watch.history)
