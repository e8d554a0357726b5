from __future__ import annotations

import json
import math

import pytest
import torch
from helpers import quiet_watch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradwatch._probes.graph import GraphTooLargeError, read_graph
from gradwatch._probes.operations import operations
from gradwatch.records import ModelInfo


def names_of(model):
    """From the id of each parameter to its module's name."""
    return {id(p): name for name, m in model.named_modules() for p in m._parameters.values() if p is not None}


def read(model, loss):
    return operations(loss, names_of(model))


def compiled_output(model, x):
    """What a compiled model gives; that something was compiled is forgotten again."""
    out = torch.compile(model.forward, backend="aot_eager")(x)
    torch._dynamo.reset()
    return out


def mlp():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


class Branches(nn.Module):
    """Two towers on one trunk, an encoder with a sampled code, or a residual block, as the test asks."""

    def __init__(self, join):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.join = join

    def forward(self, x):
        return self.join(self, x)


JOINS = {
    "residual": (lambda m, x: m.d((h := m.a(x)) + m.b(h.relu())), True),
    "residual over two": (lambda m, x: m.d((h := m.a(x)) + m.c(m.b(h).relu())), True),
    "gate": (lambda m, x: m.d((h := m.a(x)) * (g := m.b(h).sigmoid()) + (1 - g) * m.c(h)), True),
    "two towers": (lambda m, x: m.d(m.b(h := m.a(x)) + m.c(h)), False),
    "bias by hand": (lambda m, x: m.d(m.a(x) + m.b.bias), False),
    "noise": (lambda m, x: m.d(m.a(x) + torch.randn(3, 4)), False),
    "two terms of a loss": (lambda m, x: m.b(h := m.a(x)).square().mean() + h.square().mean(), False),
}


def test_operations_behind_the_last_layer_and_between():
    """A final sigmoid with a squared error shows, though both are functions, and what arranges values does not."""
    model = mlp()
    loss = functional.mse_loss(torch.sigmoid(model(torch.randn(3, 4))).view(3), torch.rand(3))
    found = read(model, loss)
    assert found.in_loss == ("Sigmoid", "MseLoss")
    assert found.after == (("0", ("Relu",)), ("2", ("Tanh",)), ("4", ()))
    assert not found.has_shortcuts


@pytest.mark.parametrize("join", JOINS)
def test_shortcuts(join):
    """A signal added to what layers made of it is a shortcut, gated too; a bias, noise and a sum of losses are not."""
    function, expected = JOINS[join]
    model = Branches(function)
    assert read(model, model(torch.randn(3, 4)).sum()).has_shortcuts == expected


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer(norm_first):
    """Shortcuts and softmax show in a transformer, before and after LN, and an embedding is a layer."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.Embedding(5, 8), block, nn.Linear(8, 5))
    found = read(model, functional.cross_entropy(model(torch.tensor([[1, 2, 3]]))[0], torch.tensor([1, 2, 3])))
    assert found.has_shortcuts
    assert found.in_loss == ("LogSoftmax", "NllLoss")
    assert any("oftmax" in name for name in dict(found.after)["1.self_attn"])
    assert "0" in dict(found.after)


def test_normalised_weights_are_no_data():
    """Weight norm and a normalised prototype are operations on parameters: they stand in no list."""
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    prototype = functional.normalize(model[1].weight)
    found = read(model, (model[0](torch.randn(3, 4)) @ prototype.T).exp().sum())
    assert found.in_loss == ("Exp", "Sum")


def test_a_loop_is_walked_without_recursion():
    """A layer used a thousand times is one entry, and Python's recursion limit does not matter."""
    model, hidden = nn.Linear(4, 4), torch.randn(2, 4)
    for _ in range(1000):
        hidden = torch.tanh(model(hidden))
    assert operations(hidden.sum(), names_of(model), seconds=30).after == (("", ("Tanh",)),)


def test_where_nothing_can_be_told():
    """No graph, a compiled one, one too large or too slow: None, and no error."""
    model = mlp()
    assert read(model, torch.tensor(1.0)) is None
    compiled = mlp()
    assert read(compiled, compiled_output(compiled, torch.randn(3, 4)).sum()) is None
    loss = model(torch.randn(3, 4)).sum()
    assert operations(loss, names_of(model), seconds=0) is None
    with pytest.raises(GraphTooLargeError):
        read_graph(loss, names_of(model), limit=3)


def test_no_value_is_read():
    """Structure alone: it works on the meta device, and runs no hook of a checkpoint."""
    model = mlp().to("meta")
    assert read(model, model(torch.randn(3, 4, device="meta")).exp().sum()).in_loss == ("Exp", "Sum")
    calls = []
    model = mlp()

    def part(x):
        calls.append(1)
        return model(x)

    found = read(model, checkpoint(part, torch.randn(3, 4), use_reentrant=False).sum())
    assert (found.in_loss, calls) == (("Sum",), [1])


def test_a_watch_learns_them_from_the_told_loss():
    """They stand in the model's description, also in JSON, and change when the model does."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet_watch(model) as watch:
        for step in range(10):
            out = model(torch.randn(3, 4))
            loss = (out.exp() if step == 9 else out.square()).sum()
            watch.loss(loss)
            loss.backward()
            optimizer.step()
            info = watch._monitor._tracks.layouts.info
            assert info.operations.in_loss == (("Exp", "Sum") if step == 9 else ("Pow", "Sum"))
    assert ModelInfo.from_json(info.to_json()) == info


def class_loss(name, output, y):
    """A loss of ``output`` ``[batch, classes, ...]``; most of them are variants of the cross entropy."""
    weight, entropy = torch.linspace(0.5, 2, output.shape[1]), functional.cross_entropy
    return {
        "mean": lambda: entropy(output, y),
        "by hand": lambda: functional.nll_loss(output.log_softmax(1), y),
        "ignoring some": lambda: entropy(output, y.masked_fill(y == 1, -100)),
        "weights": lambda: entropy(output, y, weight=weight),
        "sum": lambda: entropy(output, y, reduction="sum"),
        "none": lambda: entropy(output, y, reduction="none").mean(),
        "label smoothing": lambda: entropy(output, y, label_smoothing=0.1),
        "weights and smoothing": lambda: entropy(output, y, weight=weight, label_smoothing=0.1),
        "chances as targets": lambda: entropy(output, torch.full_like(output, 1 / output.shape[1])),
        "twice": lambda: 2 * entropy(output, y),
        "with another term": lambda: entropy(output, y) + output.square().mean(),
        "squared": lambda: functional.mse_loss(output, torch.zeros_like(output)),
        "binary": lambda: functional.binary_cross_entropy_with_logits(output, torch.ones_like(output)),
        "probabilities": lambda: functional.nll_loss(output.softmax(1), y),
    }[name]()


KNOWN = ("mean", "by hand", "ignoring some", "weights")
UNKNOWN = ("sum", "none", "label smoothing", "weights and smoothing", "chances as targets", "twice")
OTHER = ("with another term", "squared", "binary", "probabilities")


@pytest.mark.parametrize("name", [*KNOWN, *UNKNOWN, *OTHER])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4)], ids=["classes", "sequence", "image"])
def test_what_guessing_gives(name, shape):
    """The loss of equal chances, for a mean cross entropy; of any other loss nothing is claimed, or the truth."""
    model, classes = nn.Conv2d(2, 7, 1), 7
    y = torch.randint(classes, (6, *shape))
    output = model(torch.randn(6, 2, *(shape if len(shape) == 2 else (max(shape, default=1), 1)))).reshape(6, 7, *shape)
    chance = read(model, class_loss(name, output, y)).chance
    truth = float(class_loss(name, torch.zeros(6, 7, *shape), y))
    if name in KNOWN and len(shape) != 1:  # torch reshapes a sequence's before it takes the loss: nothing is claimed
        assert chance == pytest.approx(truth, rel=1e-5)
        assert chance == pytest.approx(math.log(7))
    else:
        assert chance is None


def test_chance_survives_json():
    """A recorded run is judged by the same number; one of an older version knows none."""
    model = mlp()
    model[4] = nn.Linear(4, 3)
    found = read(model, functional.cross_entropy(model(torch.randn(5, 4)), torch.randint(3, (5,))))
    info = ModelInfo("M", operations=found)
    data = json.loads(json.dumps(info.to_json()))
    assert ModelInfo.from_json(data).operations.chance == pytest.approx(math.log(3))
    del data["operations"]["chance"]
    assert ModelInfo.from_json(data).operations.chance is None
