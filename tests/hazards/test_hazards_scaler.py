"""A4-A6: GradScaler, and gradients that somebody else clips."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import pytest
import torch
from helpers import batch_loss, clip_like_accelerate, copies, grad_norm, norm_of, quiet_watch, small_model
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_  # as users do: before any watch is open

import gradwatch

SCALE = 2.0**12


def _sgd(model: nn.Module, *, fused: bool = False, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, fused=fused)


def _scaled_backward(model: nn.Module, scaler: torch.amp.GradScaler, factor: float = 1.0) -> float:
    """One backward pass; return the gradients' true norm."""
    model.zero_grad()
    scaler.scale(batch_loss(model) * factor).backward()
    return grad_norm(model) / scaler.get_scale()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a04_an_overflow_is_a_skipped_step(*, fused: bool, unscale: bool) -> None:
    """The step that the scaler does not take is recorded as skipped, is no incident, and moves no weight."""
    model = small_model()
    optimizer, scaler = _sgd(model, fused=fused), torch.amp.GradScaler("cpu", init_scale=SCALE)
    with quiet_watch(model) as watch:
        for num in range(5):
            before = copies(model.parameters())
            _scaled_backward(model, scaler, math.inf if num == 2 else 1.0)
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            moved = norm_of(a - b for a, b in zip(before, model.parameters(), strict=True))
            assert (moved == 0) == (num == 2)
    assert [record.skipped for record in watch.history] == [False, False, True, False, False]
    assert math.isnan(watch.history[2].clipped_norm)
    assert watch.history[2].num_nonfinite.sum() > 0
    assert watch.step == 5
    assert not watch.incidents


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a05_norms_are_without_the_scale(*, fused: bool, unscale: bool) -> None:
    """Every recorded norm is that of the unscaled gradient, also where a fused optimizer is handed scaled ones."""
    model = small_model()
    optimizer, scaler = _sgd(model, fused=fused), torch.amp.GradScaler("cpu", init_scale=SCALE)
    with quiet_watch(model, every=1) as watch:
        for _ in range(3):
            norm = _scaled_backward(model, scaler)
            largest = max(p.grad.abs().max().item() for p in model.parameters()) / scaler.get_scale()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            record = watch.history[-1]
            assert record.total_norm == pytest.approx(norm, rel=1e-5)
            assert record.clipped_norm == pytest.approx(norm, rel=1e-5)
            assert norm_of(torch.from_numpy(record.grad_norm)) == pytest.approx(norm, rel=1e-5)
            assert record.grad_max.max() == pytest.approx(largest, rel=1e-5)
            assert record.loss_scale == SCALE


@pytest.mark.parametrize(
    "clip", [gradwatch.ClipNorm(0.01), gradwatch.ClipNorm(0.01, math.inf), gradwatch.ClipValue(1e-3)]
)
@pytest.mark.parametrize("fused", [False, True])
def test_a05_the_limit_is_for_unscaled_gradients(
    *, fused: bool, clip: gradwatch.ClipNorm | gradwatch.ClipValue
) -> None:
    """Our clipping means the same with a scaler as without one, fused or not."""
    model, twin = small_model(), small_model()
    twin.load_state_dict(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    with quiet_watch(model, clip=clip):
        torch.manual_seed(1)
        _scaled_backward(model, scaler)
        scaler.step(_sgd(model, fused=fused, lr=1.0))
    torch.manual_seed(1)
    batch_loss(twin).backward()
    if isinstance(clip, gradwatch.ClipNorm):
        clip_grad_norm_(twin.parameters(), clip.max_norm, clip.norm_type)
    else:
        clip_grad_value_(twin.parameters(), clip.clip_value)
    _sgd(twin, lr=1.0).step()
    for ours, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


CLIPPINGS: dict[str, Callable[[Iterable[nn.Parameter]], object]] = {
    "norm": lambda parameters: clip_grad_norm_(parameters, 0.01),
    "inf-norm": lambda parameters: clip_grad_norm_(parameters, 0.01, norm_type=math.inf),
    "norm, one by one": lambda parameters: [clip_grad_norm_(parameter, 0.01) for parameter in parameters],
    "norm, not foreach": lambda parameters: clip_grad_norm_(parameters, 0.01, foreach=False),
    "value": lambda parameters: clip_grad_value_(parameters, 1e-3),
    "value, not foreach": lambda parameters: clip_grad_value_(parameters, 1e-3, foreach=False),
    "value, then norm": lambda parameters: (clip_grad_value_(parameters, 1e-2), clip_grad_norm_(parameters, 0.01)),
}


@pytest.mark.parametrize("clip", CLIPPINGS.values(), ids=CLIPPINGS)
def test_a06_the_norm_before_the_users_clipping(clip: Callable[[Iterable[nn.Parameter]], object]) -> None:
    """``.total_norm`` is the one before the user's clipping, ``.clipped_norm`` the one after it, from step 0 on."""
    model = small_model()
    optimizer = _sgd(model)
    with quiet_watch(model) as watch:
        for _ in range(3):
            model.zero_grad()
            batch_loss(model).backward()
            norm = grad_norm(model)
            clip(list(model.parameters()))
            clipped = grad_norm(model)
            optimizer.step()
            assert clipped < norm
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
            assert watch.history[-1].clipped_norm == pytest.approx(clipped, rel=1e-5)
            assert watch.history[-1].clipped


@pytest.mark.parametrize("clip", CLIPPINGS.values(), ids=CLIPPINGS)
def test_a06_the_users_clipping_after_unscale(clip: Callable[[Iterable[nn.Parameter]], object]) -> None:
    """The same with ``scaler.unscale_`` before the clipping."""
    model = small_model()
    optimizer, scaler = _sgd(model), torch.amp.GradScaler("cpu", init_scale=SCALE)
    with quiet_watch(model) as watch:
        for _ in range(3):
            norm = _scaled_backward(model, scaler)
            scaler.unscale_(optimizer)
            clip(list(model.parameters()))
            clipped = grad_norm(model)
            scaler.step(optimizer)
            scaler.update()
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
            assert watch.history[-1].clipped_norm == pytest.approx(clipped, rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a06_clipping_scaled_gradients_is_told(*, fused: bool) -> None:
    """Who clips before unscaling is told so once; the norm is still the true one."""
    model = small_model()
    optimizer, scaler = _sgd(model, fused=fused), torch.amp.GradScaler("cpu", init_scale=SCALE)
    with quiet_watch(model) as watch:
        norm = _scaled_backward(model, scaler)
        clip_grad_norm_(model.parameters(), 0.01)
        with pytest.warns(gradwatch.GradwatchWarning, match="unscale_"):
            scaler.step(optimizer)
        scaler.update()
    assert watch.total_norm == pytest.approx(norm, rel=1e-5)


def test_a06_clipping_by_hand_is_at_least_measured_as_the_optimizer_sees_it() -> None:
    """A hand-written clipping passes nothing that can be listened to: the record is of what was left."""
    model = small_model()
    optimizer = _sgd(model)
    with quiet_watch(model) as watch:
        batch_loss(model).backward()
        clip_like_accelerate(model.parameters(), 0.01)
        optimizer.step()
    assert watch.total_norm == watch.history[0].clipped_norm == pytest.approx(0.01, rel=1e-3)


def test_a06_every_micro_batch_clipped() -> None:
    """What was clipped before more gradients came on top is not the step's norm."""
    model = small_model()
    optimizer = _sgd(model)
    with quiet_watch(model) as watch:
        for _ in range(3):
            model.zero_grad()
            for _ in range(3):
                batch_loss(model).backward()
                norm = grad_norm(model)
                clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)


def test_a06_a_batch_clipped_but_not_stepped() -> None:
    """Gradients that were clipped and thrown away before the first step leave nothing behind."""
    model = small_model()
    optimizer = _sgd(model)
    with quiet_watch(model) as watch:
        for _ in range(2):
            optimizer.zero_grad()
            batch_loss(model).backward()
            norm = grad_norm(model)
            clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    assert watch.total_norm == pytest.approx(norm, rel=1e-5)


def test_a06_many_tensors_clipped_one_by_one() -> None:
    """Clipping in a loop over the parameters costs no model walk for each of them."""
    model = nn.ParameterList([torch.ones(2) for _ in range(500)])
    optimizer = _sgd(model)
    with quiet_watch(model) as watch:
        for parameter in model:
            parameter.grad = torch.ones(2)
        start = time.perf_counter()
        for parameter in model:
            clip_grad_norm_(parameter, 0.01)
        assert time.perf_counter() - start < 2.0
        optimizer.step()
    assert watch.total_norm == pytest.approx(math.sqrt(1000), rel=1e-5)


def test_a06_measuring_a_norm_is_no_clipping() -> None:
    """``get_total_norm`` and ``clip_grad_norm_(..., inf)`` leave total and clipped norm equal."""
    model = small_model()
    optimizer = _sgd(model)
    with quiet_watch(model, clip=gradwatch.ClipNorm(1e3)) as watch:
        batch_loss(model).backward()
        torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()])
        optimizer.step()
    assert watch.total_norm == watch.history[0].clipped_norm


def test_a06_both_clip() -> None:
    """The user and we clip: told once, the stricter one decides, the norm is the one before both."""
    model = small_model()
    optimizer = _sgd(model)
    with (  # noqa: PT031
        quiet_watch(model, clip=gradwatch.ClipNorm(0.001)) as watch,
        pytest.warns(gradwatch.GradwatchWarning, match="twice") as warned,
    ):
        for _ in range(3):
            model.zero_grad()
            batch_loss(model).backward()
            norm = grad_norm(model)
            clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            assert watch.total_norm == pytest.approx(norm, rel=1e-5)
            assert watch.history[-1].clipped_norm == pytest.approx(0.001, rel=1e-2)
    assert len(warned) == 1
