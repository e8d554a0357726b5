"""The fine print of the design that concerns plain torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch_loss, copies, quiet_watch, small_model, train
from torch import Tensor, nn

import gradwatch


def test_steps_are_counted_over_all_optimizers_in_order() -> None:
    """``.step`` and ``StepRecord.step`` count all optimizers' steps in the order in which they were made."""
    model = small_model()
    first, second = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.2)
    with quiet_watch(model) as watch:
        batch_loss(model).backward()
        for optimizer in (first, second, second, first):
            optimizer.step()
    assert [(r.step, r.optimizer, r.lr) for r in watch.history] == [(0, 0, 0.1), (1, 1, 0.2), (2, 1, 0.2), (3, 0, 0.1)]
    assert watch.step == 4


def test_the_count_goes_on_over_a_resume() -> None:
    """A watch with a loaded state numbers its first step after the last saved one."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        train(model, optimizer, 3)
        state = watch.state_dict()
    with quiet_watch(model) as resumed:
        resumed.load_state_dict(state)
        assert resumed.step == 3
        train(model, optimizer, 2)
    assert [record.step for record in resumed.history] == [3, 4]


def _skip(model: nn.Module, num: int) -> gradwatch.Watch:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
    with quiet_watch(model) as watch:
        for bad in [False] * 3 + [True] * num + [False] * 3:
            optimizer.zero_grad()
            scaler.scale(batch_loss(model) * (math.inf if bad else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    return watch


def test_nineteen_skipped_steps_are_no_incident() -> None:
    """A skipped step counts, has no clipped norm, and is no incident."""
    watch = _skip(small_model(), 19)
    assert watch.step == 25
    assert [math.isnan(record.clipped_norm) for record in watch.history] == [r.skipped for r in watch.history]
    assert not watch.incidents


def test_twenty_skipped_steps_in_a_row_are_one_incident() -> None:
    """They are one ``nonfinite`` incident, which does not come again however long it goes on."""
    incidents = _skip(small_model(), 40).incidents
    assert [incident.kind for incident in incidents] == ["nonfinite"]
    assert "scale" in incidents[0].causes[0].name


def test_total_norm_is_before_any_clipping_of_anybody() -> None:
    """Clipped by the user and by us: ``.total_norm`` is the norm before both."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    data, target = torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)
    norms = []
    for clip in (None, gradwatch.ClipNorm(0.01), gradwatch.ClipValue(0.001)):
        with quiet_watch(model, clip=clip) as watch:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(data), target).backward()
            optimizer.step()
        norms.append(watch.total_norm)
        assert watch.history[0].clipped == (clip is not None)
    assert norms[0] == norms[1] == norms[2]


def test_loss_is_the_mean_over_micro_batches() -> None:
    """What ``watch.loss`` was told since the last step, tensors and numbers, is averaged; None where nothing was."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with quiet_watch(model) as watch:
        for losses in ([1.0, torch.tensor(2.0), torch.tensor([[6.0]], dtype=torch.float16)], [], [np.float32(4)]):
            for loss in losses:
                watch.loss(loss)
            batch_loss(model).backward()
            optimizer.step()
    assert [record.loss for record in watch.history] == [3.0, None, 4.0]


def test_the_loss_told_inside_a_closure_is_of_this_step() -> None:
    """With a closure, the loss that it told belongs to the same record; LBFGS keeps the first evaluation's."""
    model = small_model()
    told = []

    def closure() -> Tensor:
        model.zero_grad()
        loss = batch_loss(model)
        told.append(loss.item())
        watch.loss(loss)
        loss.backward()
        return loss

    with quiet_watch(model) as watch:
        for optimizer in (
            torch.optim.SGD(model.parameters(), lr=0.1),
            torch.optim.LBFGS(model.parameters(), max_iter=3),
            torch.optim.SGD(model.parameters(), lr=0.1),
        ):
            first = len(told)
            optimizer.step(closure)
            assert watch.history[-1].loss == pytest.approx(told[first])


def test_error_if_nonfinite_stops_the_training() -> None:
    """``ClipNorm(error_if_nonfinite=True)`` raises as torch's own does, before the weights move; torch is restored."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copies(model.parameters())
    with quiet_watch(model, clip=gradwatch.ClipNorm(1.0, error_if_nonfinite=True)) as watch:
        (batch_loss(model) * math.nan).backward()
        with pytest.raises(RuntimeError, match="error_if_nonfinite"):
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        train(model, optimizer, 2)
    assert [math.isfinite(record.total_norm) for record in watch.history] == [False, True, True]


def _frozen() -> nn.Module:
    return small_model().requires_grad_(False)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": "net"}, TypeError, "model"),
        ({"model": nn.ReLU()}, ValueError, "requires_grad"),
        ({"model": _frozen()}, ValueError, "requires_grad"),
        ({"optimizer": "Adam"}, TypeError, "optimizer"),
        ({"optimizer": []}, ValueError, "optimizer"),
        ({"optimizer": torch.optim.SGD(small_model().parameters())}, ValueError, "owns no trainable parameter"),
        ({"clip": 1.0}, TypeError, "ClipNorm"),
        ({"clip": gradwatch.ClipNorm}, TypeError, "ClipNorm"),
        ({"every": 0}, ValueError, "every"),
        ({"every": 1.5}, TypeError, "every"),
        ({"every": True}, TypeError, "every"),
        ({"history": -1}, ValueError, "history"),
        ({"writers": ["console"]}, TypeError, "writers"),
        ({"detectors": 3}, TypeError, "detectors"),
        ({"logdir": 3}, TypeError, "logdir"),
    ],
)
def test_wrong_arguments_raise_before_training(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    """The error is one of our tree and a built-in one, and its message names the argument."""
    with pytest.raises(error, match=match) as raised:
        gradwatch.watch(**{"model": small_model(), **arguments})
    assert isinstance(raised.value, gradwatch.GradwatchError)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: gradwatch.ClipNorm(0.0), ValueError, "max_norm"),
        (lambda: gradwatch.ClipNorm(math.nan), ValueError, "max_norm"),
        (lambda: gradwatch.ClipNorm("1"), TypeError, "max_norm"),
        (lambda: gradwatch.ClipNorm(1.0, 0.0), ValueError, "norm_type"),
        (lambda: gradwatch.ClipNorm(1.0, error_if_nonfinite=1), TypeError, "error_if_nonfinite"),
        (lambda: gradwatch.ClipValue(-1.0), ValueError, "clip_value"),
        (lambda: gradwatch.ClipValue(None), TypeError, "clip_value"),
    ],
)
def test_wrong_limits_raise(make: Any, error: type[Exception], match: str) -> None:
    """So do a clipping rule's arguments."""
    with pytest.raises(error, match=match) as raised:
        make()
    assert isinstance(raised.value, gradwatch.GradwatchError)


@pytest.mark.parametrize("loss", ["0.1", None, True, torch.ones(2), torch.ones((), dtype=torch.complex64)])
def test_a_wrong_loss_raises(loss: Any) -> None:
    """``watch.loss`` takes one real number and nothing else."""
    model = small_model()
    with quiet_watch(model) as watch:
        with pytest.raises((TypeError, ValueError), match="loss"):
            watch.loss(loss)
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)


def test_readable_after_close() -> None:
    """History (bounded), incidents, total norm and summary stay readable; closing twice does nothing."""
    model = small_model()
    watch = quiet_watch(model, history=3)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 5)
    watch.close()
    watch.close()
    assert [record.step for record in watch.history] == [2, 3, 4]
    assert watch.total_norm == watch.history[-1].total_norm
    assert watch.step == 5
    assert watch.incidents == []
    assert "5" in watch.summary()


def test_sampled_columns_come_every_n_steps() -> None:
    """``every`` thins maxima, weight norms and update ratios, and nothing else."""
    model = small_model()
    with quiet_watch(model, every=3) as watch:
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), 7)
    for name in ("grad_max", "weight_norm", "update_ratio"):
        assert [getattr(record, name) is not None for record in watch.history] == [True, False, False] * 2 + [True]
    record = watch.history[3]
    assert record.update_ratio == pytest.approx(0.1 * record.grad_norm / record.weight_norm, rel=1e-3)
