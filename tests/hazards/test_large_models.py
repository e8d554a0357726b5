"""In a model of many parameters each step checks only some of them for having been exchanged: nothing slips through."""

from __future__ import annotations

import pytest
import torch
from helpers import grad_norm, quiet_watch
from torch import nn
from torch.nn.utils import parametrize

from gradwatch import _layout

NUM_LAYERS = 60
CHANGED = 41
"""A layer whose turn is not at the step after the change."""


def _model() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(NUM_LAYERS)))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, *, set_to_none: bool = True) -> None:
    optimizer.zero_grad(set_to_none=set_to_none)
    for parameter in model.parameters():
        if parameter.requires_grad:
            grad = torch.randn_like(parameter)
            parameter.grad = grad if parameter.grad is None else parameter.grad.copy_(grad)
    optimizer.step()


@pytest.fixture
def optimizer_of() -> object:
    """Plain SGD of everything."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=0.01)


def test_only_a_share_is_checked(optimizer_of, monkeypatch) -> None:
    """The tests below would prove nothing if every step checked everything."""
    model = _model()
    optimizer = optimizer_of(model)
    sizes: list[int] = []
    check = _layout.Share.is_current
    monkeypatch.setattr(_layout.Share, "is_current", lambda share: sizes.append(len(share.parameters)) or check(share))
    with quiet_watch(model):
        for _ in range(6):
            _step(model, optimizer)
    assert sizes
    assert max(sizes) < 2 * NUM_LAYERS / 4
    assert len(sizes) <= 6


@pytest.mark.parametrize("set_to_none", [True, False])
def test_frozen_and_thawed_at_the_very_step(optimizer_of, set_to_none) -> None:
    """A frozen layer leaves the records at once, whether its gradients are dropped or set to zero, and comes back."""
    model = _model()
    optimizer = optimizer_of(model)
    with quiet_watch(model) as watch:
        for step in range(12):
            model[CHANGED].requires_grad_(not 4 <= step < 8)
            _step(model, optimizer, set_to_none=set_to_none)
    frozen = [f"{CHANGED}.weight" not in record.names for record in watch.history]
    assert frozen == [4 <= step < 8 for step in range(12)]
    assert not watch.incidents


def test_replaced_at_the_very_step(optimizer_of) -> None:
    """No row is shown under the name of a parameter that the optimizer does not own any more."""
    model = _model()
    optimizer = optimizer_of(model)
    with quiet_watch(model) as watch:
        for _ in range(4):
            _step(model, optimizer)
        model[CHANGED].weight = nn.Parameter(torch.randn(8, 8))
        _step(model, optimizer)
    assert len(watch.history[-2].names) == 2 * NUM_LAYERS
    assert f"{CHANGED}.weight" not in watch.history[-1].names


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("shape", [(4, 8), (12, 8), (8, 3), (300, 300), (900, 900)])
def test_other_shapes_at_the_very_step(optimizer_of, shape) -> None:
    """``.data`` of another shape is measured for what it is, and the neighbours stay right."""
    model = _model()
    optimizer = optimizer_of(model)
    with quiet_watch(model, every=1) as watch:
        for _ in range(4):
            _step(model, optimizer)
        model[CHANGED].weight.data = torch.randn(shape)
        for _ in range(2):
            _step(model, optimizer)
            assert watch.total_norm == pytest.approx(grad_norm(model), rel=1e-5)
    record = watch.history[-1]
    assert record.layers[record.names.index(f"{CHANGED}.weight")].shape == shape
    expected = [float(parameter.grad.double().norm()) for parameter in model.parameters()]
    assert record.grad_norm == pytest.approx(expected, rel=1e-5)


def test_wider_data_at_the_very_step(optimizer_of) -> None:
    """1e100 in a parameter that has become float64 is finite."""
    model = _model()
    optimizer = optimizer_of(model)
    with quiet_watch(model) as watch:
        for _ in range(4):
            _step(model, optimizer)
        model[CHANGED].double()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e100 if parameter.dtype == torch.float64 else 1.0)
        optimizer.step()
    record = watch.history[-1]
    assert record.num_nonfinite.sum() == 0
    assert record.grad_norm[2 * CHANGED] == pytest.approx(8e100)


def test_a_parametrization_within_the_promised_steps(optimizer_of) -> None:
    """Nothing shows in the gradients when a parameter moves to another place in the model: its turn comes."""
    model = _model()
    optimizer = optimizer_of(model)
    with quiet_watch(model) as watch:
        for _ in range(4):
            _step(model, optimizer)
        parametrize.register_parametrization(model[CHANGED], "weight", nn.Identity())
        for _ in range(32):
            _step(model, optimizer)
    assert watch.history[-1].names == tuple(name for name, _ in model.named_parameters())
