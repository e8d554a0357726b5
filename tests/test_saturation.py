"""Saturation: real small trainings with the fault put in, and healthy ones that look like it."""

from __future__ import annotations

import pytest
import torch
from faults import kinds, reads_well, train
from helpers import quiet_watch
from torch import nn
from torch.nn import functional


def net(act: type[nn.Module] = nn.Tanh, *, gain: float = 1.0) -> nn.Sequential:
    """Three layers; the weights of the first two are that many times as large."""
    model = nn.Sequential(nn.Linear(64, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, 10))
    for layer in (model[0], model[2]):
        layer.weight.data *= gain
    return model


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid])
def test_weights_that_are_far_too_large(act):
    """Found, with the layer, and with the weights as the cause."""
    watch = train(_slow(act), 120)
    assert kinds(watch)[:1] == ["saturation"]
    incident = watch.incidents[0]
    assert incident.layers[0] in ("1", "3")
    assert incident.value > 0.75
    assert incident.causes[0].name == "large_weights"
    reads_well(incident)


def _slow(act):
    """So saturated that the head alone cannot make up for it."""
    model = net(act, gain=200.0)
    model[4].weight.requires_grad_(requires_grad=False)
    model[4].weight.data *= 0.05
    return model


class SigmoidOutput(nn.Module):
    """Ends in a sigmoid, which saturates when all is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return torch.sigmoid(self.body(x))


def _bce(output, labels):
    return functional.binary_cross_entropy(output, functional.one_hot(labels, 10).float())


class Attention(nn.Module):
    """Causal self-attention by hand over the eight lines of a digit: the first row can choose but itself."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 48), nn.Linear(16 * 8, 10)
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        q, k, v = self.qkv(x.reshape(-1, 8, 8)).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 4
        scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        return self.head((self.softmax(scores) @ v).flatten(1))


class Recurrent(nn.Module):
    """An LSTM over the lines of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.lstm(x.reshape(-1, 8, 8))[0][:, -1])


HEALTHY = {
    "tanh": (net, {}),
    "sigmoid": (lambda: net(nn.Sigmoid), {}),
    "hardtanh": (lambda: net(nn.Hardtanh), {}),
    "relu6 of large values": (lambda: net(nn.ReLU6, gain=3.0), {}),
    "a converged sigmoid output": (SigmoidOutput, {"loss_fn": _bce, "num_steps": 400}),
    "causal attention": (Attention, {}),
    "lstm": (Recurrent, {}),
    "large weights that learn": (lambda: net(gain=4.0), {}),
    "without a weight matrix": (lambda: nn.Sequential(nn.BatchNorm1d(64), nn.Sigmoid()), {}),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_left_alone(name):
    """Silence for what only looks like it."""
    make, options = HEALTHY[name]
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    watch = train(model, **{"num_steps": 160, "optimizer": optimizer, **options})
    assert "saturation" not in kinds(watch)


def test_a_loss_that_is_not_told_is_not_spoken_of():
    """Activations far out tell enough; nothing is claimed of a loss that nobody knows."""
    watch = train(_slow(nn.Tanh), 120, tell=False)
    assert kinds(watch) == ["saturation"]
    assert "loss" not in watch.incidents[0].message


def test_state_in_mid_symptom():
    """Saved before it is told, and told after going on elsewhere."""
    model = _slow(nn.Tanh)
    first = quiet_watch(model)
    train(model, 3, watch=first)
    state = first.state_dict()
    first.close()
    assert first.incidents == []
    second = quiet_watch(model)
    second.load_state_dict(state)
    train(model, 120, watch=second, start=3)
    second.close()
    assert kinds(second) == ["saturation"]
    assert second.incidents[0].step <= 20  # one look is lost: nothing is armed ahead of the first step


def test_an_output_that_is_sure_from_the_start_is_one_incident():
    """That nothing moves follows from it; and scores of attention are not what an output softmax is made of."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), nn.Softmax(-1))
    with torch.no_grad():
        model[2].weight.mul_(3000)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(64, 8), nn.functional.one_hot(torch.randint(0, 4, (64,)), 4).float()
    with quiet_watch(model) as watch:
        for _ in range(120):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            watch.loss(loss)
            loss.backward()
            optimizer.step()
    (incident,) = watch.incidents
    assert (incident.kind, incident.evidence["rule"]) == ("saturation", "output")
    assert "CrossEntropyLoss" in incident.causes[0].remedies[0].snippet
