"""A7-A12: extreme, non-finite, sparse, complex, foreign and missing gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import batch_loss, copies, grad_norm, norm_of, quiet_watch, small_model
from torch import Tensor, nn

import gradwatch


def _step_with(gradients: list[Tensor | None], **options: object) -> tuple[gradwatch.StepRecord, list[Tensor | None]]:
    """One step of one parameter a gradient; return the record and the gradients as the optimizer saw them."""
    model = nn.ParameterList(
        [torch.zeros(3, 4) if g is None else torch.zeros(g.shape, dtype=g.dtype) for g in gradients]
    )
    for parameter, gradient in zip(model, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    with quiet_watch(model, every=1, detectors=[], **options) as watch:
        torch.optim.SGD(model.parameters(), lr=0.0, foreach=False).step()
    return watch.history[0], [parameter.grad for parameter in model]


@pytest.mark.parametrize("shape", [(5, 7), (130, 130), (1 << 17,), (3, 4099)])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float16, 6e4),
        (torch.float16, 1e-7),
        (torch.bfloat16, 1e30),
        (torch.float32, 1e30),
        (torch.float32, 1e19),
        (torch.float32, 1.0),
        (torch.float32, 1e-20),
        (torch.float32, 1e-30),
        (torch.float64, 1e100),
        (torch.float64, 1e-100),
    ],
)
def test_a07_norms_neither_overflow_nor_underflow(dtype: torch.dtype, size: float, shape: tuple[int, ...]) -> None:
    """A finite gradient has a finite norm, right to 1e-5, whatever its dtype and range."""
    gradient = torch.full(shape, size, dtype=dtype)
    record, _ = _step_with([gradient, torch.zeros_like(gradient)])
    expected = float(gradient.view(-1)[0]) * math.sqrt(gradient.numel())
    assert record.grad_norm.tolist() == [pytest.approx(expected, rel=1e-5, abs=0), 0.0]
    assert record.total_norm == pytest.approx(expected, rel=1e-5, abs=0)
    assert record.num_nonfinite.tolist() == [0, 0]


def test_a07_huge_gradients_are_clipped_right() -> None:
    """A norm beyond float32's squares still clips to the limit."""
    record, (first, second) = _step_with([torch.full((10, 10), 1e30), torch.ones(3)], clip=gradwatch.ClipNorm(1.0))
    assert norm_of([first, second]) == pytest.approx(1.0, rel=1e-4)
    assert record.clipped_norm == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a08_a_nonfinite_gradient_is_counted_and_infects_no_other(bad: float) -> None:
    """The bad elements are counted where they are; clipping by norm leaves every gradient as it is."""
    gradients = [torch.ones(3, 4), torch.ones(5), torch.full((200, 200), 0.5)]
    gradients[0][1, 1:3] = bad
    for clip in (None, gradwatch.ClipNorm(0.1), gradwatch.ClipNorm(0.1, math.inf), gradwatch.ClipNorm(0.1, 3.0)):
        record, after = _step_with(gradients, clip=clip)
        assert record.num_nonfinite.tolist() == [2, 0, 0]
        assert not math.isfinite(record.grad_norm[0])
        assert record.grad_norm[1:].tolist() == pytest.approx([math.sqrt(5), 100.0], rel=1e-5)
        assert not math.isfinite(record.total_norm)
        assert not record.absent.any()
        for left, given in zip(after, gradients, strict=True):
            assert torch.equal(left.nan_to_num(7.0), given.nan_to_num(7.0))


def test_a08_one_nan_step_does_not_blind_the_next() -> None:
    """After a NaN step the records are finite again, and an explosion is still found."""
    model = nn.ParameterList([torch.zeros(4), torch.zeros(4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(3)
    with quiet_watch(model) as watch:
        for num in range(120):
            for parameter in model:
                parameter.grad = torch.randn(4, generator=generator) + 3.0
            if num == 40:
                model[0].grad[2] = math.nan
            if num >= 110:
                for parameter in model:
                    parameter.grad *= 1e6
            optimizer.step()
    assert [math.isfinite(record.total_norm) for record in watch.history].count(False) == 1
    assert {incident.kind for incident in watch.incidents} >= {"nonfinite", "exploding"}


@pytest.mark.parametrize("clip", [None, gradwatch.ClipNorm(0.5), gradwatch.ClipValue(0.5)])
def test_a09_sparse_gradients(clip: gradwatch.ClipNorm | gradwatch.ClipValue | None) -> None:
    """An embedding's sparse gradient, with repeated indices or not, has the dense one's norm and is clipped like it."""
    for indices in ([1, 1, 1, 2], [0, 2, 3, 5]):
        sparse, dense = nn.Embedding(10, 3, sparse=True), nn.Embedding(10, 3)
        dense.load_state_dict(sparse.state_dict())
        weight = torch.tensor([3.0, 4.0, 5.0, 0.1])[:, None]
        for model in (sparse, dense):
            model.zero_grad()
            (model(torch.tensor(indices)) * weight).sum().backward()
        assert sparse.weight.grad.is_sparse
        assert not sparse.weight.grad.is_coalesced()
        with quiet_watch(sparse, clip=clip, every=1) as ours:
            torch.optim.SGD(sparse.parameters(), lr=1.0).step()
        with quiet_watch(dense, clip=clip, every=1) as expected:
            torch.optim.SGD(dense.parameters(), lr=1.0).step()
        for name in ("total_norm", "clipped_norm"):
            assert getattr(ours.history[0], name) == pytest.approx(getattr(expected.history[0], name), rel=1e-5)
        assert ours.history[0].grad_max == pytest.approx(expected.history[0].grad_max)
        torch.testing.assert_close(sparse.weight, dense.weight)


def test_a09_a_sparse_gradient_may_be_nan() -> None:
    """A NaN in a sparse gradient is counted."""
    model = nn.Embedding(10, 3, sparse=True)
    (model(torch.tensor([1, 2])).sum() * math.nan).backward()
    with quiet_watch(model) as watch:
        torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert watch.history[0].num_nonfinite.tolist() == [6]


@pytest.mark.parametrize("conjugated", [False, True])
def test_a10_complex_gradients(*, conjugated: bool) -> None:
    """A complex gradient's norm is that of its moduli, and it is clipped by norm."""
    gradient = torch.randn(5, 6, dtype=torch.complex64) * 1e20
    gradient = gradient.conj() if conjugated else gradient
    model = nn.ParameterList([torch.zeros(5, 6, dtype=torch.complex64)])
    norm = norm_of([gradient])
    model[0].grad = gradient
    with quiet_watch(model, every=1, clip=gradwatch.ClipNorm(1.0)) as watch:
        torch.optim.SGD(model.parameters(), lr=1.0).step()
    record = watch.history[0]
    assert record.total_norm == pytest.approx(norm, rel=1e-5)
    assert record.grad_max[0] <= record.total_norm <= record.grad_max[0] * math.sqrt(30)
    assert norm_of(model) == pytest.approx(1.0, rel=1e-4)


def test_a10_complex_gradients_cannot_be_clamped() -> None:
    """Clipping a complex model by value is refused before training."""
    with pytest.raises(gradwatch.GradwatchError, match="complex"):
        quiet_watch(nn.Linear(3, 3, dtype=torch.complex64), clip=gradwatch.ClipValue(1.0))


class _Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = nn.Linear(3, 6), nn.Linear(6, 1)
        self.loose = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize("clip", [None, gradwatch.ClipNorm(0.01)])
def test_a11_each_optimizer_has_its_own_gradients(clip: gradwatch.ClipNorm | None) -> None:
    """A GAN step's record holds, and its clipping counts, only what the stepping optimizer owns."""
    gan = _Gan()
    for_generator = torch.optim.SGD(gan.generator.parameters(), lr=0.1)
    for_critic = torch.optim.SGD(gan.critic.parameters(), lr=0.1)
    with quiet_watch(gan, clip=clip) as watch:
        for _ in range(3):
            (gan.critic(gan.generator(torch.randn(8, 3))).mean() + gan.loose.sum()).backward()
            for index, (part, optimizer) in enumerate([(gan.generator, for_generator), (gan.critic, for_critic)]):
                norm = grad_norm(part)
                optimizer.step()
                record = watch.history[-1]
                assert record.optimizer == index
                assert record.total_norm == pytest.approx(norm, rel=1e-5)
                if clip is not None:
                    assert grad_norm(part) == pytest.approx(0.01, rel=1e-3)
            for_generator.zero_grad()  # and not the critic's, whose gradients grow stale
    assert {record.names for record in watch.history} == {
        ("generator.weight", "generator.bias"),
        ("critic.weight", "critic.bias"),
    }
    assert [record.step for record in watch.history] == list(range(6))


def test_a11_a_parameter_in_two_optimizers() -> None:
    """A shared parameter shows up in the records of both."""
    model = small_model()
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    second = torch.optim.Adam(model[2].parameters())
    with quiet_watch(model) as watch:
        for _ in range(2):
            model.zero_grad()
            batch_loss(model).backward()
            norms = [grad_norm(model), grad_norm(model[2])]
            first.step()
            second.step()
            assert [record.total_norm for record in watch.history[-2:]] == pytest.approx(norms, rel=1e-5)
    assert [record.optimizer for record in watch.history] == [0, 1, 0, 1]
    assert len(watch.history[0].names) == 4
    assert watch.history[1].names == ("2.weight", "2.bias")


def test_a12_absent_zero_and_tiny_are_three_states() -> None:
    """None reads as absent, zeros as exactly zero, and 1e-30 as 1e-30."""
    record, after = _step_with([None, torch.zeros(4), torch.full((4,), 1e-30)], clip=gradwatch.ClipNorm(1.0))
    assert record.absent.tolist() == [True, False, False]
    assert np.isnan(record.grad_norm[0])
    assert record.grad_norm[1] == 0.0
    assert record.grad_norm[2] == pytest.approx(2e-30, rel=1e-5, abs=0)
    assert record.num_nonfinite.tolist() == [0, 0, 0]
    assert np.isnan(record.grad_max[0])
    assert after[0] is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a12_an_unused_layer(*, set_to_none: bool) -> None:
    """A layer that takes no part is absent, or zero after ``zero_grad(set_to_none=False)``; neither is vanishing."""
    model = nn.ModuleDict({"used": small_model(), "sometimes": nn.Linear(6, 4)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with quiet_watch(model) as watch:
        for num in range(30):
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = batch_loss(model["used"])
            (loss + batch_loss(model["sometimes"]) if num == 0 else loss).backward()
            optimizer.step()
    absent = [record.absent[-2:].all() for record in watch.history]
    assert absent == [False] + [set_to_none] * 29
    assert all(record.grad_norm[-1] == 0 for record in watch.history[1:]) != set_to_none
    assert "vanishing" not in {incident.kind for incident in watch.incidents}


def test_a12_no_gradient_at_all() -> None:
    """A step without any gradient has total norm 0 and every layer absent; the weights stay."""
    model = small_model()
    before = copies(model.parameters())
    with quiet_watch(model, clip=gradwatch.ClipNorm(1.0)) as watch:
        torch.optim.Adam(model.parameters()).step()
    assert watch.total_norm == 0.0
    assert watch.history[0].absent.all()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a12_tied_weights_have_one_row() -> None:
    """A weight that two modules share is one parameter with one name."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4))
    model[1].weight = model[0].weight
    with quiet_watch(model) as watch:
        batch_loss(model).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert watch.history[0].names == ("0.weight", "0.bias", "1.bias", "2.weight", "2.bias")
    assert all(a != b for a, b in pairwise(watch.history[0].grad_norm))
