"""Clipping gives the weights that torch's own functions give, and never makes things worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import MODELS, batch, loss_of, mlp
from torch import nn

import gradwatch
from gradwatch import ClipNorm, ClipValue, GradwatchWarning
from gradwatch._statistics import ALWAYS, Statistics
from gradwatch.errors import NonfiniteGradientError


def trained(make, clip, *, by_torch, steps=20, optimizer=torch.optim.SGD):
    """Weights, norms before and norms after, clipped by torch's function or by ours."""
    torch.manual_seed(0)
    model = make()
    opt = optimizer(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    before, after = [], []
    with gradwatch.watch(model, clip=None if by_torch else clip, writers=[]) as watch:
        for _ in range(steps):
            opt.zero_grad()
            loss_of(model, batch(model, generator)).backward()
            if by_torch and isinstance(clip, ClipNorm):
                nn.utils.clip_grad_norm_(model.parameters(), clip.max_norm, clip.norm_type)
            elif by_torch:
                nn.utils.clip_grad_value_(model.parameters(), clip.clip_value)
            opt.step()
        before = [record.total_norm for record in watch.history]
        after = [record.clipped_norm for record in watch.history]
    return [p.detach().clone() for p in model.parameters()], before, after


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "clip",
    [ClipNorm(0.3), ClipNorm(0.05, math.inf), ClipNorm(9.0, 1.0), ClipNorm(0.3, 3.5), ClipNorm(1e9), ClipValue(0.01)],
    ids=str,
)
def test_the_weights_equal_those_of_torch(model, clip):
    """For norms of any order and by value, on four kinds of networks; before and after are the same numbers, too."""
    ours, before, after = trained(MODELS[model], clip, by_torch=False)
    theirs, before_torch, after_torch = trained(MODELS[model], clip, by_torch=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-7)
    np.testing.assert_allclose(before, before_torch, rtol=1e-4)
    np.testing.assert_allclose(after, after_torch, rtol=1e-4)


@pytest.mark.parametrize("dtypes", ["float32", "float16 bfloat16 float32", "float64", "float32 float64", "complex64"])
def test_gradients_of_every_dtype_are_scaled_in_their_own_precision(dtypes):
    """Alone or mixed, each gradient is what multiplying it by the exact coefficient gives, in its own rounding."""
    torch.manual_seed(0)
    parameters = [
        nn.Parameter(torch.randn(5, 3).to(getattr(torch, name)), requires_grad=True) for name in dtypes.split() * 3
    ]
    bag = nn.ParameterList(parameters)
    before = [torch.randn(5, 3).to(parameter.dtype) for parameter in parameters]
    for parameter, gradient in zip(parameters, before, strict=True):
        parameter.grad = gradient.clone()
    parameters[1].grad = None
    before[1] = torch.zeros(0)
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    with gradwatch.watch(bag, clip=ClipNorm(0.1), writers=[]) as watch:
        optimizer.step()
    assert watch.history[0].clipped_norm == pytest.approx(0.1, rel=1e-4)
    factor = 0.1 / (watch.total_norm + 1e-6)
    for parameter, gradient in zip(parameters, before, strict=True):
        if parameter.grad is None:
            continue
        eps = torch.finfo(parameter.dtype).eps
        exact = gradient.to(torch.complex128 if gradient.is_complex() else torch.float64) * factor
        torch.testing.assert_close(parameter.grad.to(exact.dtype), exact, rtol=1.2 * eps, atol=eps * 1e-3)


@pytest.mark.parametrize("total", [0.0, 1e-320, 1e-30, 0.5, 0.5 - 1e-6, 1.0, 3.7, 1e30, math.inf, math.nan])
@pytest.mark.parametrize("max_norm", [1e-30, 0.5, 1e30, math.inf])
def test_the_hosts_coefficient_is_the_devices(total, max_norm):
    """Computed in Python where the norm is at hand, it is what the device computes by itself, to the last digits."""
    data = torch.tensor([[total, 0.0, 1.0]], dtype=torch.float64)
    statistics = Statistics(data, ALWAYS)
    statistics.__dict__["_total_norm"] = torch.tensor(total, dtype=torch.float64)
    here = ClipNorm(max_norm).coefficient(statistics)
    norm = torch.tensor(total, dtype=torch.float64)
    there = torch.where(torch.isfinite(norm), max_norm / (norm + 1e-6), 1.0).clamp(max=1.0)
    torch.testing.assert_close(here, there, rtol=4e-16, atol=0.0)


def test_below_the_limit_nothing_changes():
    """A norm under ``max_norm`` leaves the training bit-equal, as torch's multiplication by one does."""
    clipped, _, _ = trained(mlp, ClipNorm(1e9), by_torch=False)
    plain, _, _ = trained(mlp, None, by_torch=False)
    assert all(torch.equal(a, b) for a, b in zip(clipped, plain, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [ClipNorm(0.1), ClipNorm(0.1, math.inf), ClipNorm(0.1, 1.0)], ids=str)
def test_a_nonfinite_norm_leaves_healthy_gradients_alone(bad, clip):
    """torch's function would turn every gradient into NaN; here only the bad layer is bad."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, clip=clip, writers=[]) as watch:
        loss_of(model, batch(model, torch.Generator().manual_seed(0))).backward()
        model[2].weight.grad[0, 0] = bad
        expected = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name]) or name == "2.weight"
    assert [i.kind for i in watch.incidents] == ["nonfinite"]
    assert watch.incidents[0].layers[0].startswith("2")


def test_error_if_nonfinite_raises_as_torch_does():
    """The user asked to stop: the error passes through the step, with the norm in its text, and is a RuntimeError."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, clip=ClipNorm(1.0, error_if_nonfinite=True), writers=[]) as watch:
        model(torch.full((2, 3), math.nan)).sum().backward()
        with pytest.raises(NonfiniteGradientError, match=r"total norm of order 2.0 .* is nan"):
            optimizer.step()
        assert issubclass(NonfiniteGradientError, RuntimeError)
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()  # and the watch goes on
    assert math.isfinite(watch.total_norm)


def test_sparse_gradients_are_clipped():
    """Where torch's functions raise, the dense result is reached: summed duplicates count once."""
    for clip in (ClipNorm(0.5), ClipValue(0.1)):
        results = []
        for sparse in (True, False):
            torch.manual_seed(0)
            table = nn.Embedding(20, 4, sparse=sparse)
            optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
            with gradwatch.watch(table, clip=clip, writers=[]):
                table(torch.tensor([1, 1, 1, 7])).square().sum().backward()
                optimizer.step()
            results.append(table.weight.detach().clone())
        torch.testing.assert_close(*results)


def test_share_of_clipped_steps():
    """The summary counts the steps whose norm was made smaller, by whomever."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, clip=ClipNorm(1.0), writers=[]) as watch:
        for size in (0.01, 10.0, 0.01, 10.0, 10.0):
            optimizer.zero_grad()
            (model(torch.ones(1, 4)).sum() * size).backward()
            optimizer.step()
    assert [record.clipped for record in watch.history] == [False, True, False, True, True]
    assert watch._monitor.summary().num_clipped == 3
    assert "ClipNorm(max_norm=1)" in watch.summary()


def test_audit_the_user_clips_too():
    """Two clippings of one step are told once."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        for _ in range(3):
            loss_of(model, batch(model, torch.Generator().manual_seed(0))).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()

    with gradwatch.watch(model, clip=ClipNorm(1.0), writers=[]) as watch, pytest.warns(GradwatchWarning) as caught:
        train()
    assert len(caught) == 1
    assert "clipped twice" in str(caught[0].message)
    assert "clipped twice" in watch.summary()


@pytest.mark.parametrize("by_torch", [True, False])
def test_audit_a_limit_far_too_small(by_torch):
    """20 steps in a row clipped by more than 100x, by us or by the user, are told once with a better limit."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        for _ in range(30):
            optimizer.zero_grad()
            loss_of(model, batch(model, torch.Generator().manual_seed(0))).backward()
            if by_torch:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
            optimizer.step()

    clip = None if by_torch else ClipNorm(1e-6)
    with gradwatch.watch(model, clip=clip, writers=[]), pytest.warns(GradwatchWarning) as caught:
        train()
    assert len(caught) == 1
    assert "clipped by more than 100x" in str(caught[0].message)


@pytest.mark.parametrize("fused", [False, True])
def test_audit_clipping_scaled_gradients(fused):
    """Clipping before ``unscale_`` is told once, and the norm before it is recorded unscaled."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def train(watch):
        for _ in range(2):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).sum()
            (expected,) = torch.autograd.grad(loss, [model.weight], retain_graph=True)
            scaler.scale(loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            assert watch.history[-1].grad_norm[0] == pytest.approx(expected.norm().item(), rel=1e-5)

    with gradwatch.watch(model, writers=[]) as watch, pytest.warns(GradwatchWarning, match="scaler.unscale_") as caught:
        train(watch)
    assert len(caught) == 1


def test_audit_an_optimizer_inside_the_backward_pass():
    """ClipNorm cannot work there, says so once and touches nothing; ClipValue works."""
    for clip in (ClipNorm(1e-3), ClipValue(1e-3)):
        torch.manual_seed(0)
        model = mlp()
        optimizers = {p: torch.optim.SGD([p], lr=1.0) for p in model.parameters()}
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda p, o=optimizers: o[p].step() or o[p].zero_grad())
        start = [p.detach().clone() for p in model.parameters()]
        with gradwatch.watch(model, clip=clip, writers=[]) as watch:
            loss = loss_of(model, batch(model, torch.Generator().manual_seed(0)))
            if isinstance(clip, ClipNorm):
                with pytest.warns(GradwatchWarning, match="inside the backward pass"):
                    loss.backward()
            else:
                loss.backward()
        moved = max(float((a - b.detach()).abs().max()) for a, b in zip(start, model.parameters(), strict=True))
        assert (moved <= 1.001e-3) == isinstance(clip, ClipValue)
        assert watch.step == 1
        assert watch.history[0].clipped == isinstance(clip, ClipValue)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ClipNorm(0), ValueError, "max_norm=0"),
        (lambda: ClipNorm(-1.0), ValueError, "must be a number > 0"),
        (lambda: ClipNorm(math.nan), ValueError, "max_norm=nan"),
        (lambda: ClipNorm("1"), TypeError, "max_norm=.* is of type str"),
        (lambda: ClipNorm(True), TypeError, "max_norm=.* is of type bool"),
        (lambda: ClipNorm(1.0, 0), ValueError, "norm_type=0"),
        (lambda: ClipNorm(1.0, "2"), TypeError, "norm_type=.* is of type str"),
        (lambda: ClipNorm(1.0, error_if_nonfinite=1), TypeError, "error_if_nonfinite=.* is of type int"),
        (lambda: ClipValue(-0.5), ValueError, "clip_value=-0.5"),
        (lambda: ClipValue(None), TypeError, "clip_value=.* is of type NoneType"),
        (lambda: gradwatch.watch(nn.Linear(1, 1), clip=1.0), TypeError, r"such as gradwatch.ClipNorm\(1.0\)"),
        (lambda: gradwatch.watch(nn.Linear(1, 1), clip=ClipNorm), TypeError, "clip=.* is of type type"),
        (lambda: gradwatch.watch(nn.Linear(1, 1, dtype=torch.cfloat), clip=ClipValue(1)), ValueError, "use ClipNorm"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(make, error, text):
    """The message names the argument, what was given and what is allowed; the error is of our tree."""
    with pytest.raises(error, match=text) as caught:
        make()
    assert isinstance(caught.value, gradwatch.GradwatchError)


def test_torch_words_are_understood():
    """``norm_type="inf"`` and an infinite ``max_norm`` mean what they mean in torch."""
    assert ClipNorm(1.0, "inf").norm_type == math.inf
    assert ClipNorm(math.inf).max_norm == math.inf
