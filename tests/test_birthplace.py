from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from helpers import copies, quiet_watch, small_model
from test_operations import compiled_output, names_of
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradwatch._backward_order import WHAT
from gradwatch._layout import Layouts
from gradwatch._probes import loss_reader
from gradwatch._probes.birthplace import find_birthplace
from gradwatch.detectors.nonfinite import NonfiniteDetector
from gradwatch.records import Birthplace, StepRecord, Unavailable

X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


class Apply(nn.Module):
    """A custom activation without parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class OwnNorm(nn.Module):
    """A custom normalisation with a gain that forgot its eps."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        x = x - x
        return self.gain * (x / x.std(-1, keepdim=True))


class BadDouble(torch.autograd.Function):
    """A function of the user's own that makes NaN."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x + math.nan

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def net(middle=None):
    """fc1, act1, fc2, act2 (a ReLU and ``middle``), fc3, act3, fc4."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for i in (1, 2, 3):
        model.add_module(f"fc{i}", nn.Linear(4, 4))
        custom = nn.Sequential(nn.ReLU(), middle) if middle is not None and i == 2 else nn.ReLU()
        model.add_module(f"act{i}", custom)
    model.add_module("fc4", nn.Linear(4, 3))
    return model


def find(model, loss):
    return find_birthplace(loss, names_of(model), Layouts(model).info.modules)


def place(found):
    return found.source, found.operation, found.modules, found.before, found.after


MIDDLE = {
    "division": lambda x: (x - x) / (x - x),
    "division by a constant": lambda x: x / torch.where(x < 1e9, 0.0, 1.0),
    "logarithm": lambda x: torch.log(x - 100),
    "square root": lambda x: torch.sqrt(x - 100),
    "exponential": lambda x: torch.exp(x * 0 + 100),
    "arc cosine": lambda x: torch.acos(x + 100),
    "power": lambda x: (x - 100) ** 0.5,
    "baddouble": BadDouble.apply,
}


@pytest.mark.parametrize("case", MIDDLE)
def test_born_in_a_custom_activation(case):
    """The module without parameters between two layers is named, the ReLU in front of it is not, nor the layers."""
    model = net(Apply(MIDDLE[case]))
    found = find(model, functional.cross_entropy(model(X), Y))
    operation = "division" if case.startswith("division") else case
    assert place(found) == ("operation", operation, ("act2.1",), ("fc2",), ("fc3",))
    assert found.direction == "forward"


def test_born_in_a_custom_module_with_parameters():
    """What such a module does before its own weights come in is its own affair."""
    model = net(OwnNorm())
    found = find(model, functional.cross_entropy(model(X), Y))
    assert place(found) == ("operation", "division", ("act2.1",), ("fc2",), ("fc3",))


def test_the_input_held_it():
    """NaN in the batch is no fault of the first layer; in the targets it is none of the model's."""
    model = net()
    bad = X.clone()
    bad[2, 1] = math.inf
    assert place(find(model, functional.cross_entropy(model(bad), Y)))[:3] == ("input", "matrix product", ("fc1",))
    target = torch.full((6, 3), math.nan)
    assert place(find(model, functional.mse_loss(model(X), target))) == (
        "input",
        "mean squared error",
        (),
        ("fc4",),
        (),
    )


def test_an_input_that_wants_a_gradient():
    """Adversarial training: the input is a leaf, but no parameter."""
    model, bad = net(), X.clone()
    bad[0, 0] = math.nan
    found = find(model, functional.cross_entropy(model(bad.requires_grad_()), Y))
    assert (found.source, found.modules) == ("input", ("fc1",))


def test_a_weight_held_it():
    """The layer that holds it, although all that follows is NaN, too."""
    model = net()
    with torch.no_grad():
        model.fc3.weight[0, 0] = math.nan
    found = find(model, functional.cross_entropy(model(X), Y))
    assert place(found) == ("weight", "", ("fc3",), ("fc2",), ("fc4",))


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize(
    ("make", "operation"),
    [
        (lambda out: ((p := (1000 * out).softmax(-1)) * p.log()).sum(-1).mean(), "logarithm"),
        (lambda out: (out * 0).log().mean(), "logarithm"),
        (lambda out: (1e4 * out.abs()).exp().mean(), "exponential"),
        (lambda out: (out * 0).sum() / (out * 0).sum(), "division"),
        (lambda out: (1e30 * out).square().mean(), "power"),
        (lambda out: out.log_softmax(-1).sum() + (out * 0 - 1).sqrt().sum(), "square root"),
        (lambda out: out[:1].std(0).sum(), "standard deviation"),
    ],
)
def test_born_in_the_loss(make, operation):
    """Behind the last layer no module is to blame, and the operation is named."""
    model = net()
    assert place(find(model, make(model(X)))) == ("operation", operation, (), ("fc4",), ())


class Attention(nn.Module):
    """By hand, with a mask."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, mask):
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / 2.0
        return self.out(scores.masked_fill(mask, -math.inf).softmax(-1) @ x)


class Masked(nn.Module):
    """An attention between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.attention, self.last = nn.Linear(4, 4), Attention(), nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.last(self.attention(self.first(x), mask))


CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)


def test_a_mask_is_no_birthplace():
    """Minus infinities of masks, in attention and in front of a log-softmax, are passed over for the true fault."""
    torch.manual_seed(0)
    model = Masked()
    out = model(X[None], CAUSAL)
    masked = out.masked_fill(torch.tensor([True, False, False]), -math.inf).log_softmax(-1)
    fine = functional.nll_loss(masked[0], torch.ones(6, dtype=torch.long))
    assert math.isfinite(fine.detach())
    found = find(model, fine + (out * 0 - 1).log().mean())
    assert place(found) == ("operation", "logarithm", (), ("last",), ())
    found = find(model, fine + (1e4 * out.abs()).exp().mean())
    assert found.operation == "exponential"


def test_zero_times_a_masks_infinity():
    """The entropy of masked logits: not the mask but the product is at fault."""
    model = Masked()
    masked = model(X[None], CAUSAL).masked_fill(torch.tensor([True, False, False]), -math.inf).log_softmax(-1)
    assert find(model, (masked.exp() * masked).sum()).operation == "multiplication"


def test_a_row_that_is_masked_throughout():
    """A softmax over nothing is NaN: the softmax is named, in the module that holds the layers around it."""
    model = Masked()
    found = find(model, model(X[None], CAUSAL | True).sum())
    assert (found.operation, found.modules, found.after) == ("softmax", ("attention",), ("attention.out",))


def test_torchs_own_attention_with_a_mask():
    """``nn.TransformerEncoderLayer`` with a causal mask of minus infinities: the fault behind it is found."""
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), block, Apply(lambda x: x / (x - x)), nn.Linear(4, 3))
    hidden = block(model[0](X[None]), src_mask=torch.full((6, 6), -math.inf).triu(1))
    found = find(model, model[3](model[2](hidden)).sum())
    assert place(found) == ("operation", "division", ("2",), ("1.norm2",), ("3",))


def test_half_precision_overflow():
    """A matrix product whose result float16 cannot hold, in the layer where it happened, not the softmax behind."""
    model = net().half()
    with torch.no_grad():
        model.fc3.weight.fill_(3e4)
        model.fc3.bias.fill_(6e4)
        model.fc2.bias.fill_(10)
    found = find(model, functional.cross_entropy(model(X.half()).float(), Y))
    assert (found.operation, found.modules) == ("matrix product in float16", ("fc3",))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_convolutional_network(seed):
    """Convolutions and BatchNorm: one infinite pixel is found as the input of the first layer."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    x = torch.randn(2, 1, 6, 6)
    x[0, 0, 1, 1] = math.inf
    found = find(model, functional.cross_entropy(model(x), torch.tensor([0, 1])))
    assert (found.source, found.operation, found.modules) == ("input", "convolution", ("0",))
    model.eval()
    with torch.no_grad():
        model[1].running_var.fill_(math.nan)
    found = find(model, functional.cross_entropy(model(torch.randn(2, 1, 6, 6)), torch.tensor([0, 1])))
    assert found.modules == ("1",)


def odd_models():
    """Losses of kinds that are easily got wrong, each NaN or infinite."""
    embedding = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.LSTM(4, 3))
    yield embedding, embedding(torch.tensor([[1, 2], [3, 4]]))[0].sum().sub(10).log()
    linear = nn.Linear(4, 4, dtype=torch.complex64)
    yield linear, (linear(X.to(torch.complex64)).abs() - 1e6).log().sum()
    double = net().double()
    yield double, double(X.double()).sub(1e3).log().sum()
    sparse = nn.Linear(4, 2)
    yield sparse, torch.sparse.mm(X.to_sparse(), sparse.weight.T).sub(1e3).log().sum()
    brain = net().bfloat16()
    yield brain, brain(X.bfloat16()).sub(1e3).log().sum()
    cast = net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield cast, cast(X).float().sub(1e3).log().sum()
    changed = net()
    out = changed(X)
    product = out * out
    with torch.no_grad():
        out.add_(1)  # the backward pass will refuse: what it needs is gone
    yield changed, product.sub(1e3).log().sum()


def test_odd_kinds_of_graphs():
    """Sparse, complex, float64, bfloat16, autocast, LSTM, changed in place: the logarithm is found, nothing raised."""
    for model, loss in odd_models():
        assert find(model, loss).operation == "logarithm"


# ------------------------------------------------------------------------------------------------- what cannot be seen


def test_checkpointed_values_are_not_recomputed():
    """Touching what a checkpoint saved would run the user's code again: it is left alone, what is outside is seen."""
    runs = []

    def probe(x):
        runs.append(1)
        return x / (x - x)

    model = net(Apply(probe))
    loss = checkpoint(lambda x: functional.cross_entropy(model(x), Y), X, use_reentrant=False)
    found = find(model, loss)
    assert isinstance(found, Unavailable)
    assert "checkpoint" in found.because
    part = checkpoint(nn.Sequential(model.fc2, model.act2), model.act1(model.fc1(X)), use_reentrant=False)
    found = find(model, functional.cross_entropy(model.fc4(model.act3(model.fc3(part))), Y))
    assert (found.modules[0], len(runs)) == ("act2.1", 2)
    loss.backward()


def test_offloaded_values_are_not_brought_back():
    """Any saved-tensor hook is left alone."""
    model = net()

    def unpack(_):
        raise AssertionError

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        loss = model(X).sub(1e3).log().sum()
    assert isinstance(find(model, loss), Unavailable)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda model: model(X).sub(1e3).log().sum().detach(), "no graph"),
        (lambda model: model(X).to("meta").sum(), "lies on meta"),
        (lambda model: [loss := model(X).sub(1e3).log().sum(), loss.backward()][0], "had run already"),
        (lambda _: compiled_output(net(), X).sub(1e3).log().sum(), "compiled"),
        (lambda _: None, "failed"),
    ],
)
def test_what_cannot_be_seen_is_said(make, words):
    """Each reason in its own words, and no exception."""
    model = net()
    found = find(model, make(model))
    assert isinstance(found, Unavailable)
    assert words in found.because


# ------------------------------------------------------------------------------------------ nothing of training changes


def test_gradients_and_random_state_are_untouched():
    """Gradients are bit-equal with and without looking, also twice (retain_graph), and no random number is drawn."""

    def gradients(*, look):
        model = net(Apply(lambda x: x / (x - x)))
        drop = nn.Dropout(0.5)
        loss = functional.cross_entropy(drop(model(X)), Y)
        if look:
            find(model, loss)
        loss.backward(retain_graph=True)
        if look:
            find(model, loss)
        loss.backward()
        return [*copies(p.grad for p in model.parameters()), torch.get_rng_state()]

    for seen, unseen in zip(gradients(look=True), gradients(look=False), strict=True):
        assert torch.equal(
            seen.nan_to_num(7.0) if seen.is_floating_point() else seen,
            unseen.nan_to_num(7.0) if unseen.is_floating_point() else unseen,
        )


def test_nothing_is_kept_alive():
    """After the call neither the graph nor any of its tensors is held, without the garbage collector."""
    model = net(Apply(lambda x: x / (x - x)))
    gc.collect()
    gc.disable()
    try:
        hidden = model(X)
        loss = functional.cross_entropy(hidden, Y)
        assert find(model, loss).modules == ("act2.1",)
        token = nn.Identity()  # the graph's nodes take no weak reference, but what they hold in their metadata does
        loss.grad_fn.metadata["token"] = token
        gone = [weakref.ref(hidden), weakref.ref(loss), weakref.ref(token)]
        del hidden, loss, token
        assert [ref() for ref in gone] == [None, None, None]
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------- through a watch


def run(model, losses, watch_options=None, tell=lambda loss: loss):
    """One step for each group of micro-batch losses; the watch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with quiet_watch(model, **(watch_options or {})) as watch:
        for group in losses:
            for make in group:
                loss = make(model(X))
                watch.loss(tell(loss))
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return watch


def gaps(incident):
    """Why the birthplace could not be seen."""
    return [gap.because for gap in incident.unavailable if gap.what == WHAT]


def good(out):
    return functional.cross_entropy(out, Y)


def bad_log(out):
    return (out * 0 - 1).log().mean()


def bad_division(out):
    return (out * 0).sum() / (out * 0).sum()


def test_the_first_bad_micro_batch_counts():
    """Of accumulated micro-batches the first bad one tells the place; the record and the incident carry it."""
    watch = run(net(), [[good, good], [good, bad_log, bad_division]])
    assert watch.history[0].birthplace is None
    record = watch.history[1]
    assert record.birthplace == Birthplace("forward", "operation", "logarithm", (), ("fc4",), ())
    assert StepRecord.from_json(record.to_json(), record.layers).birthplace == record.birthplace
    (incident,) = watch.incidents
    assert incident.causes[0].name == "domain_operation"
    assert "clamp_min" in incident.causes[0].remedies[0].snippet
    assert "behind fc4 (a logarithm), on the way forward; fc4 before it was still finite" in incident.message
    assert gaps(incident) == []


def test_the_incident_names_the_module_first():
    """A custom activation that turns bad leads, before the parameters, and the message tells the bracket."""
    switch = []
    model = net(Apply(lambda x: x / (x - x) if switch else x))
    watch = run(model, [[good], [lambda _: [switch.append(1), good(model(X))][1]]])
    (incident,) = watch.incidents
    assert incident.layers[0] == "act2.1"
    assert "born in act2.1 (a division), on the way forward; fc2 before it was still finite, fc3 behind it was not" in (
        incident.message
    )
    assert (incident.num_layers, incident.causes[0].name) == (8, "domain_operation")


@pytest.mark.parametrize(
    ("tell", "words"),
    [
        (lambda loss: loss.detach(), "no graph"),
        (lambda loss: float(loss.detach()), "plain number"),
    ],
)
def test_the_incident_says_what_could_not_be_seen(tell, words):
    """A loss that was told without its graph is said to be the reason; a loss that was never told, too."""
    (incident,) = run(net(), [[bad_log]], tell=tell).incidents
    assert [words in because for because in gaps(incident)] == [True]


def test_no_loss_told_is_said():
    """Without a told loss nothing could be looked at, and how to change that is said."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with quiet_watch(model) as watch:
        bad_division(model(X)).backward()
        optimizer.step()
    assert "call watch.loss(loss)" in gaps(watch.incidents[0])[0]


def test_a_run_that_stays_bad_is_not_searched_for_ever(monkeypatch):
    """After ten bad losses in a row nobody looks any more; after a good one somebody does."""
    calls = []
    monkeypatch.setattr(loss_reader, "find_birthplace", lambda *_: calls.append(1))
    model = small_model()
    reader = loss_reader.LossReader(lambda: Layouts(model))
    for _ in range(30):
        reader.add(torch.tensor(math.nan, requires_grad=True) * 1)
        reader.take()
    assert len(calls) == loss_reader.LOOKS
    reader.add(1.0)
    reader.add(torch.tensor(math.nan, requires_grad=True) * 1)
    assert len(calls) == loss_reader.LOOKS + 1


def test_an_accelerator_is_not_waited_for(monkeypatch):
    """A loss that is not in host memory is not looked at: on the meta device looking would raise."""
    monkeypatch.setattr(loss_reader, "find_birthplace", lambda *_: pytest.fail("looked"))
    model = small_model()
    reader = loss_reader.LossReader(lambda: Layouts(model))
    reader.add(torch.zeros((), device="meta", requires_grad=True) * math.nan)
    record = StepRecord(0, 0, (), torch.empty(0).numpy(), torch.empty(0).long().numpy(), 0.0, 0.0, loss=math.nan)
    (incident,) = NonfiniteDetector().observe(record)
    assert "wait for the device" in incident.unavailable[0].because


def test_born_on_the_way_back():
    """The root of 0 is finite and its slope is not: the loss is finite, and the root is named from the graph."""
    watch = run(net(), [[good], [lambda out: (out * 0).square().sum().sqrt() + good(out)]])
    (incident,) = watch.incidents
    assert (incident.causes[0].name, incident.evidence["birthplace"]["direction"]) == ("nonfinite_gradient", "backward")
    watch = run(net(), [[lambda out: (out * 0).square().sum().sqrt() + good(out)]])
    cause = watch.incidents[0].causes[0]
    assert (cause.name, "square root" in cause.evidence) == ("domain_operation", True)
    assert "sqrt(x + 1e-12)" in cause.remedies[0].snippet
