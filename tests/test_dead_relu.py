"""Dead ReLUs: real small trainings with the fault put in, and healthy ones that look like it."""

from __future__ import annotations

import pytest
import torch
from faults import kinds, reads_well, train
from helpers import quiet_watch
from torch import nn
from torch.nn import functional


def net(*, inplace: bool = False, bias: float = 0.0, lead: nn.Module | None = None) -> nn.Sequential:
    """Three layers; the bias of the second is moved."""
    layers = [nn.Linear(64, 48), nn.ReLU(inplace), nn.Linear(48, 48), nn.ReLU(inplace), nn.Linear(48, 10)]
    model = nn.Sequential(*([] if lead is None else [lead]), *layers)
    model[-3].bias.data += bias
    return model


class Tutorial(nn.Module):
    """Functions and pooling, as the first tutorial writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(1, 12, 3), nn.MaxPool2d(2), nn.Linear(108, 10)

    def forward(self, x):
        return self.head(self.pool(functional.relu(self.conv(x.reshape(-1, 1, 8, 8)))).flatten(1))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_bias_that_kills_a_layer(inplace):
    """Found within a few looks, with the layer first, its cause, and what to do about it."""
    watch = train(net(inplace=inplace, bias=-60.0), 40)
    assert kinds(watch) == ["dead_relu"]
    (incident,) = watch.incidents
    assert incident.layers[0] == "2"
    assert incident.value == 1
    assert incident.step <= 25
    reads_well(incident)
    if not inplace:
        assert incident.causes[0].name == "dead_by_bias"


def test_a_dead_function_in_front_of_a_pooling_layer():
    """Also where no module stands for the ReLU, and a layer without weights reads it."""
    model = Tutorial()
    model.conv.bias.data -= 50
    watch = train(model, 40)
    assert kinds(watch) == ["dead_relu"]
    assert watch.incidents[0].layers[0] == "conv"


def test_it_is_found_without_being_told_the_loss():
    """The activations alone are enough."""
    assert kinds(train(net(bias=-60.0), 40, tell=False)) == ["dead_relu"]


class Branches(nn.Module):
    """A residual branch that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            nn.Linear(64, 48),
            nn.Linear(48, 48),
            nn.Linear(48, 48),
            nn.Linear(48, 10),
        )
        nn.init.zeros_(self.b.weight)
        nn.init.zeros_(self.b.bias)

    def forward(self, x):
        h = functional.relu(self.stem(x))
        return self.head(h + self.b(functional.relu(self.a(h))))


def _half_dead() -> nn.Sequential:
    model = net()
    model[2].bias.data[:24] -= 50
    return model


def _sparse() -> nn.Sequential:
    """Nine in ten outputs are zero, and hardly any unit is so for all samples."""
    model = net()
    model[2].bias.data -= 0.35
    return model


HEALTHY = {
    "plain": (net, {}),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), *net()[:4], nn.Dropout(0.8), nn.Linear(48, 10)), {}),
    "a branch that begins at zero": (Branches, {}),
    "a batch of one": (net, {"size": 1}),
    "half of the units dead": (_half_dead, {}),
    "sparse": (_sparse, {}),
    "a pooling tutorial": (Tutorial, {}),
    "relu6": (lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU6(), nn.Linear(48, 10)), {}),
    "leaky": (lambda: nn.Sequential(nn.Linear(64, 48), nn.LeakyReLU(), nn.Linear(48, 10)), {}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_left_alone(name):
    """Silence for what only looks like it."""
    make, options = HEALTHY[name]
    assert kinds(train(make(), 160, **options)) == []


def test_state_in_mid_symptom():
    """Saved between the first look that shows it and the one that tells it, and gone on with elsewhere."""
    model = net(bias=-60.0)
    first = quiet_watch(model)
    train(model, 2, watch=first)
    state = first.state_dict()
    first.close()
    assert first.incidents == []
    second = quiet_watch(model)
    second.load_state_dict(state)
    train(model, 12, watch=second, start=2)
    second.close()
    assert kinds(second) == ["dead_relu"]
    third = quiet_watch(model)
    third.load_state_dict(second.state_dict())
    train(model, 40, watch=third, start=12)
    third.close()
    assert kinds(third) == ["dead_relu"], "the same incident goes on"


def test_a_step_that_kills():
    """A single step with a wild learning rate, late in the run."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def before(step):
        optimizer.param_groups[0]["lr"] = 300.0 if step == 60 else 0.05

    watch = train(model, 100, optimizer=optimizer, before=before)
    assert watch.incidents
    assert watch.incidents[0].kind in ("dead_relu", "lr_too_high")
    assert 60 <= watch.incidents[0].step <= 85


@pytest.mark.parametrize("awake", [True, False])
def test_units_that_only_a_sample_wakes_that_is_not_looked_at(awake):
    """A signal that comes back through a layer proves that it is not dead, whatever the sample says."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    model[0].bias.data -= 20
    x = torch.randn(640, 4)
    x[1] *= 100.0 if awake else 1.0
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    with quiet_watch(model) as watch:
        for _ in range(40):
            optimizer.zero_grad()
            loss = (model(x)[:, 0] - x[:, 0]).square().mean()
            watch.loss(loss)
            loss.backward()
            optimizer.step()
    shares = [record.activations.dead_share.tolist() for record in watch.history if record.activations is not None]
    assert max(share[1] for share in shares) == 1
    assert kinds(watch) == ([] if awake else ["dead_relu"])
