"""Disconnected: what is meant to be trained and is not, and what is not meant to be."""

from __future__ import annotations

import copy

import pytest
import torch
from faults import kinds, reads_well, train
from helpers import quiet_watch
from torch import nn
from torch.nn import functional


class Cut(nn.Module):
    """Encoder and head, with a cut of some kind between them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.encoder, self.head, self.how = nn.Linear(64, 32), nn.Linear(32, 10), how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                h = self.encoder(x)
        else:
            h = self.encoder(x)
        h = {"detach": h.detach, "numpy": lambda: torch.from_numpy(h.detach().numpy())}.get(self.how, lambda: h)()
        return self.head(functional.relu(h))


@pytest.mark.parametrize("how", ["detach", "numpy", "no_grad"])
@pytest.mark.parametrize("tell", [True, False])
def test_a_cut_in_the_graph(how, tell):
    """Found soon, at the layer that is cut off, and where to look; with or without a loss."""
    watch = train(Cut(how), 60, tell=tell)
    assert kinds(watch) == ["disconnected"]
    (incident,) = watch.incidents
    assert incident.layers == ("encoder",)
    assert incident.step <= 25
    assert incident.causes[0].name == "cut_graph"
    assert ("no_grad" in incident.causes[0].remedies[0].action) == (how == "no_grad")
    reads_well(incident)


def test_a_layer_that_no_optimizer_owns():
    """Made after the optimizer: it gets gradients, and nobody moves it."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    model.append(nn.Linear(32, 10))
    watch = train(model, 80, optimizer=optimizer)
    assert kinds(watch) == ["disconnected"]
    assert watch.incidents[0].layers == ("4",)
    assert watch.incidents[0].causes[0].name == "no_optimizer"
    reads_well(watch.incidents[0])


class Target(nn.Module):
    """A target network that follows by a moving average."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.target = copy.deepcopy(self.online)

    def forward(self, x):
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
            self.target(x)
        return self.online(x)


class Experts(nn.Module):
    """One expert is never asked, another every 25th time."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.num = nn.ModuleList(nn.Linear(64, 10) for _ in range(3)), 0

    def forward(self, x):
        self.num += 1
        return self.experts[1 if self.num % 25 == 0 else 0](x)


class Sometimes(nn.Module):
    """A second head that runs at every step, and enters the loss at every 25th."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.second, self.num = nn.Linear(64, 32), nn.Linear(32, 10), nn.Linear(32, 10), 0

    def forward(self, x):
        self.num += 1
        h = functional.relu(self.body(x))
        extra = self.second(h)
        return self.first(h) + (extra if self.num % 25 == 3 else 0)


def _frozen() -> nn.Module:
    model = Cut("none")
    model.encoder.requires_grad_(requires_grad=False)
    return model


def _pretrained() -> nn.Module:
    model = Cut("none")
    train(model, 120)
    return model


HEALTHY = {
    "plain": (lambda: Cut("none"), None),
    "a target network in the optimizer": (Target, None),
    "a target network outside of it": (Target, lambda m: m.online.parameters()),
    "unused experts": (Experts, None),
    "a head that is used now and then": (Sometimes, None),
    "a frozen backbone": (_frozen, None),
    "a pretrained backbone left out": (_pretrained, lambda m: m.head.parameters()),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_left_alone(name):
    """Silence for what only looks like it."""
    make, chosen = HEALTHY[name]
    model = make()
    optimizer = torch.optim.SGD((chosen or nn.Module.parameters)(model), 0.05)
    assert kinds(train(model, 160, optimizer=optimizer)) == []


def test_gan():
    """Two optimizers take turns; each one's network has no gradient in the other's steps."""
    model = nn.ModuleDict(
        {
            "g": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64)),
            "d": nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)),
        }
    )
    optimizers = {name: torch.optim.Adam(part.parameters(), 2e-4) for name, part in model.items()}
    bce = functional.binary_cross_entropy_with_logits
    with quiet_watch(model) as watch:
        for _ in range(150):
            model.zero_grad()
            fake = model["g"](torch.randn(16, 8))
            (
                bce(model["d"](torch.randn(16, 64)), torch.ones(16, 1))
                + bce(model["d"](fake.detach()), torch.zeros(16, 1))
            ).backward()
            optimizers["d"].step()
            model.zero_grad()
            bce(model["d"](model["g"](torch.randn(16, 8))), torch.ones(16, 1)).backward()
            optimizers["g"].step()
    assert "disconnected" not in kinds(watch)


def test_state_in_mid_symptom():
    """What was counted before a resume counts after it, and what was told is not told again."""
    model = Cut("detach")
    first = quiet_watch(model)
    train(model, 5, watch=first)
    state = first.state_dict()
    first.close()
    assert first.incidents == []
    second = quiet_watch(model)
    second.load_state_dict(state)
    train(model, 30, watch=second, start=5)
    state = second.state_dict()
    second.close()
    assert kinds(second) == ["disconnected"]
    third = quiet_watch(model)
    third.load_state_dict(state)
    train(model, 100, watch=third, start=30)
    third.close()
    assert len(third.incidents) == 1
