"""Input scale: raw inputs that keep a model from learning, and raw inputs that do not."""

from __future__ import annotations

import pytest
import torch
from faults import kinds, reads_well, train
from helpers import quiet_watch
from torch import nn


def net(*first: nn.Module) -> nn.Sequential:
    """Two layers behind what comes first."""
    return nn.Sequential(*first, nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


@pytest.mark.parametrize("scale", [300.0, 1e5])
def test_inputs_that_are_far_too_large(scale):
    """Whatever blows up because of them, it is the inputs that are told, with how large they are and what to do."""
    watch = train(net(), 100, scale=scale)
    assert watch.incidents
    incident = watch.incidents[0]
    assert incident.kind == "input_scale"
    assert incident.causes[0].name == "unscaled_inputs"
    assert "x.mean" in incident.causes[0].remedies[0].snippet or "mean" in incident.causes[0].remedies[0].action
    reads_well(incident)


@pytest.mark.parametrize("raw", [False, True])
def test_inputs_that_leave_a_tanh_nothing_but_signs(raw):
    """Friedman's third function, in ohms, radians a second, henries and microfarads: the signs alone tell a little."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), 3e-3)
    low, high = torch.tensor([0.0, 125.0, 0.0, 1.0]), torch.tensor([100.0, 1759.0, 1.0, 11.0])
    with quiet_watch(model) as watch:
        for _ in range(100):
            part = torch.rand(64, 4)
            ohms, speed, henries, farads = (low + part * (high - low)).T
            phase = torch.atan((speed * henries - 1 / (speed * farads)) / ohms)
            x = torch.stack([ohms, speed, henries, farads], 1) if raw else (part - 0.5) * 12**0.5
            optimizer.zero_grad()
            loss = (model(x)[:, 0] - 3 * (phase - 1.3)).square().mean()
            watch.loss(loss)
            loss.backward()
            optimizer.step()
    assert kinds(watch) == (["input_scale"] if raw else [])
    if raw:
        assert "flat ends" in watch.incidents[0].message
        reads_well(watch.incidents[0])


HEALTHY = {
    "raw inputs in front of BatchNorm": (lambda: net(nn.BatchNorm1d(64)), {"scale": 255.0}, torch.optim.SGD, 0.05),
    "raw inputs that Adam copes with": (net, {"scale": 30.0}, torch.optim.Adam, 1e-3),
    "raw inputs and a small learning rate": (net, {"scale": 30.0}, torch.optim.SGD, 3e-4),
    "tiny inputs in front of LayerNorm": (lambda: net(nn.LayerNorm(64)), {"scale": 0.02}, torch.optim.Adam, 1e-3),
    "standardised": (net, {}, torch.optim.SGD, 0.05),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_left_alone(name):
    """Large inputs alone are no fault."""
    make, options, optimizer, lr = HEALTHY[name]
    model = make()
    watch = train(model, 200, optimizer=optimizer(model.parameters(), lr), **options)
    assert kinds(watch) == []


def test_state_in_mid_symptom():
    """What was seen of the inputs goes on over a resume."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    first = quiet_watch(model)
    train(model, 45, watch=first, optimizer=optimizer, scale=100.0)
    state = first.state_dict()
    first.close()
    assert first.incidents == []
    second = quiet_watch(model)
    second.load_state_dict(state)
    train(model, 100, watch=second, optimizer=optimizer, scale=100.0, start=45)
    second.close()
    assert kinds(second)[:1] == ["input_scale"]
