"""The forward probe, against a plain reference in float64 that the tests compute by hooks on the modules."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from helpers import quiet_watch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradwatch
from gradwatch._probes.activations import MAX_ROWS, sample_of
from gradwatch._probes.alertness import ON_DEMAND, Suspicion
from gradwatch._probes.forward import ForwardProbe
from gradwatch._probes.schedule import Probes, Probing
from gradwatch._probes.sighting import Sighting
from gradwatch.records import Activations


def seen(model, step):
    """What the probe sees of ``step()``, a forward and backward pass, on the host."""
    probe = ForwardProbe(model)
    assert probe.arm() is None
    try:
        step()
        found = probe.take()
    finally:
        probe.disarm()
    assert found is not None
    return Sighting(found.calls, found.places).activations({"activations": found.values.numpy()}, 1.0)


def row_of(found, module, kind=None, which=0):
    """One row as a dict of its columns."""
    rows = [i for i, name in enumerate(found.modules) if name == module and kind in (None, found.kinds[i])]
    columns = [name for name in vars(found) if name not in ("modules", "kinds")]
    return {name: float(getattr(found, name)[rows[which]]) for name in columns}


def run(model, *args):
    """One backward pass of a loss that weighs each output differently."""
    y = model(*args)
    y = y[0] if isinstance(y, tuple) else y
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()


class Reference:
    """Inputs, outputs and output gradients of each module, cloned: by hooks of the test's own."""

    def __init__(self, model):
        self.given, self.result, self.grad = {}, {}, {}
        self.handles = []
        for name, module in model.named_modules():
            self.handles.append(module.register_forward_pre_hook(self.before(name)))
            self.handles.append(module.register_forward_hook(self.after(name)))

    def before(self, name):
        def note(module, args):
            self.given[name] = args[0].detach().double().clone()

        return note

    def after(self, name):
        def note(module, args, output):
            self.result[name] = output.detach().double().clone()
            output.register_hook(lambda grad: self.grad.__setitem__(name, grad.double().clone()))

        return note

    def close(self):
        for handle in self.handles:
            handle.remove()


def units_last(tensor, *, channels_first):
    """``[num_rows, num_units]``."""
    tensor = tensor.movedim(1, -1) if channels_first and tensor.dim() > 2 else tensor
    return tensor.reshape(-1, tensor.shape[-1])


FLAT_ENDS = {
    "Sigmoid": lambda y: y * (1 - y) < 0.025 / 4,
    "Tanh": lambda y: 1 - y**2 < 0.025,
    "Hardtanh": lambda y: y.abs() >= 1,
    "Softsign": lambda y: (1 - y.abs()) ** 2 < 0.025,
    "Softmax": lambda y: (y.amax(-1, keepdim=True) > 0.99).expand_as(y),
}


@pytest.mark.parametrize(
    "kind", ["ReLU", "ReLU6", "Sigmoid", "Tanh", "Hardtanh", "Softsign", "Softmax", "GELU", "SiLU"]
)
@pytest.mark.parametrize("channels_first", [False, True], ids=["linear", "conv"])
def test_every_column_agrees_with_the_reference(kind, channels_first):
    """Of inputs small enough that all rows and units are looked at, means, spreads, shares and gradients, to 1e-5."""
    act = nn.Softmax(1 if channels_first else -1) if kind == "Softmax" else getattr(nn, kind)()
    if channels_first:
        model, x = nn.Sequential(nn.Conv2d(2, 5, 3), act, nn.Conv2d(5, 3, 3)), 3 * torch.randn(6, 2, 5, 5) + 1
    else:
        model, x = nn.Sequential(nn.Linear(7, 12), act, nn.Linear(12, 3)), 3 * torch.randn(20, 7) + 1
    for parameter in model[0].parameters():
        parameter.data *= 4
    reference = Reference(model)
    found = seen(model, lambda: run(model, x))
    reference.close()
    assert found.modules == ("0", "1", "2")
    assert found.kinds[1] == kind
    for name in found.modules:
        row, given = row_of(found, name), reference.given[name]
        assert row["in_mean"] == pytest.approx(float(given.mean()), rel=1e-5, abs=1e-6)
        assert row["in_std"] == pytest.approx(float(given.std(correction=0)), rel=1e-5)
        assert row["out_grad"] == pytest.approx(float(reference.grad[name].norm()), rel=1e-5)
    out = units_last(reference.result["1"], channels_first=channels_first)
    act_row = row_of(found, "1")
    assert act_row["out_mean"] == pytest.approx(float(out.mean()), rel=1e-5, abs=1e-7)
    assert act_row["out_std"] == pytest.approx(float(out.std(correction=0)), rel=1e-5)
    zero = (out == 0).double() if kind in ("ReLU", "ReLU6") else None
    flat = FLAT_ENDS[kind](out).double() if kind in FLAT_ENDS else None
    for columns, table, full in (
        (("zero_share", "dead_share"), zero, 1.0),
        (("saturated_share", "saturated_units"), flat, 0.99),
    ):
        shares = (math.nan, math.nan) if table is None else (table.mean(), (table.mean(0) >= full).double().mean())
        for column, share in zip(columns, shares, strict=True):
            assert act_row[column] == pytest.approx(float(share), abs=1e-6, nan_ok=True)
    first = units_last(reference.given["0"], channels_first=channels_first)
    spread = first.std(0, correction=0)
    row = row_of(found, "0")
    assert row["in_max"] == pytest.approx(float(first.abs().max()))
    assert row["in_spread"] == pytest.approx(float(spread.max() / spread.median()), rel=1e-4)
    assert found.from_data.tolist() == [1, 0, 0]
    assert found.joined.tolist() == [1, 1, 1]
    assert np.isnan(found.in_max[1:]).all()
    assert math.isnan(row["out_mean"])


@pytest.mark.parametrize(
    ("batch", "steps"), [(64, 1000), (128, 300), (8, 1024), (96, 50), (256, 64), (17, 129), (300, 24)]
)
def test_rows_of_sequences_are_spread_over_time(batch, steps):
    """Every quarter of the sequence and of the batch gets its share of the rows that are looked at."""
    time = torch.arange(steps, dtype=torch.float32).repeat(batch, 1)
    sample = torch.arange(batch, dtype=torch.float32)[:, None].expand(batch, steps)
    for values, most in ((time, steps), (sample, batch)):
        looked = sample_of(values[..., None], channels_first=False)
        assert MAX_ROWS / 2.5 <= looked.numel() <= 1.5 * MAX_ROWS
        quarters = np.histogram(looked.numpy(), bins=4, range=(0, most))[0] / looked.numel()
        assert quarters.min() > 0.12, quarters


@pytest.mark.parametrize("size", [8, 14, 28, 32, 56, 64, 112, 224])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_spread_over_the_image(size, memory_format):
    """Not the left edge alone: every quarter of the rows and of the columns gets its share."""
    column = torch.arange(size, dtype=torch.float32).expand(2, 3, size, size)
    for values in (column, column.transpose(2, 3)):
        looked = sample_of(values.contiguous(memory_format=memory_format), channels_first=True)
        quarters = np.histogram(looked.numpy(), bins=4, range=(0, size))[0] / looked.numel()
        assert quarters.min() > 0.1, quarters


def test_a_sample_stands_for_the_whole():
    """Means, spreads and shares of far more rows and units than are looked at are about those of all."""
    model = nn.Sequential(nn.Linear(50, 1000), nn.ReLU(), nn.Linear(1000, 2))
    x = torch.randn(16, 500, 50) + 0.5
    nn.init.constant_(model[0].bias[:300].data, -100.0)  # 30 % of the units are dead
    reference = Reference(model)
    found = seen(model, lambda: run(model, x))
    reference.close()
    row, out = row_of(found, "1"), reference.result["1"]
    assert row["out_mean"] == pytest.approx(float(out.mean()), rel=0.15)
    assert row["out_std"] == pytest.approx(float(out.std()), rel=0.15)
    assert row["zero_share"] == pytest.approx(float((out == 0).double().mean()), abs=0.06)
    assert row["dead_share"] == pytest.approx(0.3, abs=0.06)
    assert row["out_grad"] == pytest.approx(float(reference.grad["1"].norm()), rel=1e-5)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "channels_last", "0-dim", "1-dim", "5-dim"])
def test_any_layout_in_memory(layout):
    """A sample is that of the same values in a plain tensor."""
    x = torch.randn(6, 5, 4, 3)
    views = {
        "transposed": x.permute(3, 0, 2, 1),
        "sliced": x[::2, 1:, :, ::2],
        "expanded": x[:, :1].expand(6, 5, 4, 3),
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "0-dim": x[0, 0, 0, 0],
        "1-dim": x[:, 0, 0, 0],
        "5-dim": x[:, :, None].expand(6, 5, 2, 4, 3),
    }
    view = views[layout]
    for channels_first in (False, True):
        plain = sample_of(view.clone(memory_format=torch.contiguous_format), channels_first=channels_first)
        assert torch.equal(sample_of(view, channels_first=channels_first), plain)


class Swish(nn.Module):
    """An activation of the user's own, that autograd knows."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Functional(nn.Module):
    """As the first tutorial writes it: functions, and pooling in between."""

    def __init__(self, act):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)
        self.hidden, self.head = nn.Linear(27, 6), nn.Linear(6, 2)
        self.act = act

    def forward(self, x):
        x = self.pool(self.act(self.conv(x)))
        return self.head(self.act(self.hidden(x.flatten(1))))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "hardtanh", "gelu", "silu", "leaky_relu"])
def test_activations_are_known_by_what_they_do(name):
    """As a class of the user's own and as a function they show like torch's modules do, wherever they stand."""
    function = getattr(torch, name, None) or getattr(functional, name)
    kind = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "leaky_relu": "LeakyReLU"}.get(name, name.capitalize())
    model = nn.Sequential(nn.Linear(4, 5), Swish(function), nn.Linear(5, 2))
    found = seen(model, lambda: run(model, torch.randn(3, 4)))
    assert found.kinds == ("Linear", kind, "Linear")
    model = Functional(function)
    found = seen(model, lambda: run(model, torch.randn(3, 1, 8, 8)))
    assert [*zip(found.modules, found.kinds, strict=True)] == [
        ("conv", "Conv2d"),
        ("conv", kind),
        ("hidden", "Linear"),
        ("hidden", kind),
        ("head", "Linear"),
    ]
    assert np.isfinite(found.out_grad).all()
    assert np.isfinite(found.out_std[[1, 3]]).all()


class Shared(nn.Module):
    """One activation's output goes to two layers, with others in between, as in a ResNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.down = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        x = functional.relu(self.stem(x))
        return self.b(functional.relu(self.a(x))) + self.down(x)


def test_an_activation_that_two_layers_read_is_one_row():
    """And it belongs to the layer before it."""
    model = Shared()
    found = seen(model, lambda: run(model, torch.randn(3, 4)))
    assert [m for m, kind in zip(found.modules, found.kinds, strict=True) if kind == "ReLU"] == ["stem", "a"]
    assert row_of(found, "down")["in_mean"] == row_of(found, "stem", "ReLU")["out_mean"]


def test_a_module_used_twice_has_two_rows():
    """Each with its own numbers."""
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    found = seen(model, lambda: run(model, torch.randn(5, 4)))
    assert found.modules == ("0", "1", "0")
    assert found.out_grad[0] != found.out_grad[2]
    assert found.from_data.tolist() == [1, 0, 0]


class Loop(nn.Module):
    """Calls one cell for every time step."""

    def __init__(self, steps):
        super().__init__()
        self.cell, self.steps = nn.Linear(4, 4), steps

    def forward(self, x):
        for _ in range(self.steps):
            x = torch.tanh(self.cell(x))
        return x


def test_loops_are_bounded():
    """However long the loop, a module has few rows, and so has the function after it."""
    model = Loop(500)
    found = seen(model, lambda: run(model, torch.randn(2, 4)))
    assert found.kinds.count("Linear") == 4
    assert len(found.kinds) <= 12


class InPlace(nn.Module):
    """Changes a layer's output in place: of a view, and of a tensor that is none."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.a(x)
        h += x
        h = self.b(h)
        return h.relu_()


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)], ids=["tensor", "view"])
def test_gradients_of_outputs_that_are_changed_in_place(shape):
    """The gradient is that of the value as the layer gave it."""
    model, plain = InPlace(), InPlace()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(*shape)
    found = seen(model, lambda: run(model, x))
    a = plain.a(x)
    a.retain_grad()
    b = plain.b(a + x)
    b.retain_grad()
    run(b.relu)
    assert row_of(found, "a")["out_grad"] == pytest.approx(float(a.grad.norm()), rel=1e-5)
    assert row_of(found, "b", "Linear")["out_grad"] == pytest.approx(float(b.grad.norm()), rel=1e-5)


def test_what_an_in_place_relu_was_given_is_not_known():
    """It has been overwritten: its input is not its output."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    found = seen(model, lambda: run(model, torch.randn(5, 4)))
    assert math.isnan(found.in_mean[1])
    assert found.zero_share[1] > 0
    assert found.in_mean[2] == found.out_mean[1]


def test_only_the_first_micro_batch_is_looked_at():
    """What comes after the first backward pass has begun is another batch."""
    model = nn.Linear(3, 2)

    def step():
        for scale in (1.0, 100.0):
            run(model, scale * torch.ones(2, 3))

    found = seen(model, step)
    assert found.modules == ("",)
    assert found.in_mean.tolist() == [1.0]


def test_gradients_left_from_the_step_before():
    """Their norm, of the first layer that the backward pass comes to; nothing where they were zeroed or freed."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    assert np.isnan(seen(model, lambda: run(model, torch.ones(2, 3))).carried_grad).all()
    left = float(model[1].weight.grad.norm())
    found = seen(model, lambda: run(model, torch.ones(2, 3)))
    assert found.carried_grad[1] == pytest.approx(left)
    assert math.isnan(found.carried_grad[0])
    model.zero_grad(set_to_none=False)
    assert seen(model, lambda: run(model, torch.ones(2, 3))).carried_grad[1] == 0


def test_nothing_is_seen_of_evaluation():
    """Without gradients and in eval mode there is no row; in training mode one that says it ran without a graph."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))

    def step():
        model.eval()
        with torch.no_grad():
            model(torch.ones(2, 3))
        with torch.inference_mode():
            model(torch.ones(2, 3))
        model.train()
        run(model, torch.ones(2, 3))

    found = seen(model, step)
    assert found.modules == ("0", "1", "2")

    def under_no_grad():
        with torch.no_grad():
            features = model[:2](torch.ones(2, 3))
        run(model[2], features)

    found = seen(model, under_no_grad)
    assert [*zip(found.modules, found.joined.tolist(), strict=True)] == [("0", 0), ("2", 1)]
    assert math.isnan(found.out_grad[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_is_counted_once(reentrant):
    """The recomputation inside the backward pass is no call."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.ones(2, 3, requires_grad=True)
    found = seen(model, lambda: run(lambda v: checkpoint(model, v, use_reentrant=reentrant), x))
    assert [name for name in found.modules if name != "1"] == ["0", "2"]
    if not reentrant:
        assert np.isfinite(found.out_grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    """Half precision does not overflow in a norm, and float64 is measured as well."""
    model = nn.Sequential(nn.Linear(4, 512), nn.Tanh(), nn.Linear(512, 3)).to(dtype)
    x = torch.randn(16, 4, dtype=dtype)
    outputs = []

    def step():
        h = model[0](x)
        h.register_hook(outputs.append)
        (model[2](model[1](h)) * 500).sum().backward()

    found = seen(model, step)
    row = row_of(found, "0")
    assert row["in_mean"] == pytest.approx(float(x.double().mean()), rel=1e-3, abs=1e-4)
    assert row["out_grad"] == pytest.approx(float(outputs[0].double().norm()), rel=1e-5)


@pytest.mark.parametrize("size", [1e-25, 1e-32, 1e25])
def test_gradients_that_float32_cannot_square(size):
    """A tiny gradient is not a measured zero, and a huge one is not infinite."""
    model = nn.Linear(3, 4)

    def step():
        (model(torch.ones(2, 3)) * size).sum().backward()

    assert seen(model, step).out_grad[0] == pytest.approx(size * math.sqrt(8), rel=1e-5)


def test_nonfinite_values_are_told_as_they_are():
    """A NaN in one call shows in its row and in those behind it, and hides nothing of the others."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    nn.init.constant_(model[2].bias, math.nan)
    found = seen(model, lambda: run(model, torch.ones(2, 3)))
    assert np.isfinite(found.out_mean[1])
    assert math.isnan(found.out_mean[3])
    assert math.isnan(found.out_grad[2])


class Odd(nn.Module):
    """Integers, keywords, complex numbers, dicts, Nones and an empty batch."""

    def __init__(self):
        super().__init__()
        self.embed, self.head, self.wave = nn.Embedding(9, 4), nn.Linear(4, 2), nn.Linear(4, 4, dtype=torch.cfloat)
        self.table = Table()

    def forward(self, tokens):
        h = self.embed(input=tokens)
        self.head(h[:0])
        h = h + self.wave(h.to(torch.cfloat)).abs()
        return self.head(input=h) + self.table({"x": h})["y"]


class Table(nn.Module):
    """A layer with weights of its own that gives a dict."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, given):
        return {"y": (given["x"] * self.weight).sum(-1, keepdim=True), "none": None}


def test_odd_inputs_and_outputs():
    """What cannot be described is left out; the rest is there."""
    model = Odd()
    found = seen(model, lambda: run(model, torch.arange(6).reshape(2, 3)))
    assert found.modules == ("embed", "head")
    assert math.isnan(found.in_mean[0])
    assert np.isfinite(found.in_mean[1])
    assert found.from_data.tolist() == [0, 0]


def test_a_module_that_gives_its_own_parameter():
    """No hook stays on the user's parameter."""

    class Prompt(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self):
            return self.weight

    prompt = Prompt()
    found = seen(prompt, lambda: prompt().sum().backward())
    assert found.modules == ("",)
    assert not prompt.weight._backward_hooks
    assert not getattr(prompt.weight, "_post_accumulate_grad_hooks", None)


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_and_transformers(batch_first):
    """Leaf modules with weights show, and what attention gives; nothing is changed or warned of."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = seen(model, lambda: run(model, torch.randn(5, 7, 8)))
    assert {"layers.0.self_attn", "layers.0.linear1", "layers.1.norm2"} <= set(found.modules)
    softmax = np.array(found.kinds) == "Softmax"  # no module stands for it
    assert softmax.sum() == 2
    assert np.isfinite(found.saturated_share[softmax]).all()
    assert np.isfinite(found.out_grad[~softmax]).all()
    assert "ReLU" in found.kinds


def test_a_derivative_inside_of_the_forward_pass():
    """The gradient of the loss counts, not that of the derivative before it (double backward)."""
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.linspace(0, 1, 5)[:, None].requires_grad_()

    def loss():
        u = model(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return (u.square() + slope.square()).sum(), u

    def step():
        loss()[0].backward()

    found = seen(model, step)
    total, u = loss()
    expected = torch.autograd.grad(total, u)[0].norm()
    assert row_of(found, "2")["out_grad"] == pytest.approx(float(expected), rel=1e-5)


def test_a_loss_scale_is_taken_out():
    """Under a GradScaler the gradients of the outputs are those of the loss itself."""
    norms = []
    for scaled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10)
        with quiet_watch(model, probes=Probes(every=1)) as watch:
            for _ in range(3):
                optimizer.zero_grad()
                scaler.scale(model(torch.ones(4, 6)).square().mean()).backward()
                scaler.step(optimizer)
                scaler.update()
        norms.append(watch.history[2].activations.out_grad)
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)


def _steps(model, optimizer, num, watch=None, loss=lambda step: 1.0):
    for step in range(num):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        if watch is not None and loss(step) is not None:
            watch.loss(loss(step))
        optimizer.step()


def looked_at(watch):
    """The steps that were looked at."""
    return [record.step for record in watch.history if record.activations is not None]


def test_the_first_steps_and_every_nth_are_looked_at():
    """Not the very first, at which torch may still compile."""
    model = nn.Linear(3, 2)
    with quiet_watch(model, probes=Probes(every=10)) as watch:
        _steps(model, torch.optim.SGD(model.parameters(), lr=1e-3), 35, watch)
    assert looked_at(watch) == [1, 2, 3, 4, 10, 20, 30]


def test_where_something_begins_the_next_steps_are_looked_at():
    """At once, although none is due."""
    model = nn.Linear(3, 2)
    with quiet_watch(model, probes=Probes(every=50)) as watch:
        _steps(
            model, torch.optim.SGD(model.parameters(), lr=1e-3), 40, watch, lambda step: 100.0 if step == 20 else 1.0
        )
    assert looked_at(watch) == [1, 2, 3, 4, 21, 22, 23]


@pytest.mark.parametrize("loss", [lambda s: 10.0 ** (s % 3), lambda s: None if s % 2 else 1.0], ids=["leaps", "untold"])
def test_a_restless_loss_does_not_make_the_probes_dear(loss):
    """A loss that leaps about all the time, or that is told now and then, costs few looks."""
    model = nn.Linear(3, 2)
    with quiet_watch(model, probes=Probes(every=20)) as watch:
        _steps(model, torch.optim.SGD(model.parameters(), lr=1e-3), 400, watch, loss)
    assert len(looked_at(watch)) <= 4 + 400 // 20 + 5 * ON_DEMAND


def test_by_default_the_looks_become_fewer_in_a_long_run():
    """Every 20th step of the first 300, every 40th from then on; one that was told keeps its distance."""
    model = nn.Linear(3, 2)
    for probes, later in ((Probes(), [320, 360, 400]), (Probes(every=20), [320, 340, 360, 380, 400])):
        with quiet_watch(model, probes=probes) as watch:
            _steps(model, torch.optim.SGD(model.parameters(), lr=1e-6), 401, watch, lambda _step: 1.0)
        assert looked_at(watch) == [1, 2, 3, 4, *range(20, 301, 20), *later]


def test_two_optimizers_of_different_size_are_no_leap():
    """Each is held against its own last step."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    optimizers = [torch.optim.SGD(part.parameters(), lr=1e-6) for part in model]
    with quiet_watch(model, probes=Probes(every=50)) as watch:
        for _ in range(30):
            for scale, optimizer in zip((1.0, 1000.0), optimizers, strict=True):
                optimizer.zero_grad()
                (scale * model(torch.ones(2, 3)).sum()).backward()
                optimizer.step()
    assert max(looked_at(watch)) <= 12


def test_an_optimizer_inside_the_backward_pass():
    """Its steps are looked at, too, and the probe does not stay armed."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizers = {p: torch.optim.SGD([p], lr=1e-3) for p in model.parameters()}
    handles = [p.register_post_accumulate_grad_hook(lambda q: optimizers[q].step()) for p in model.parameters()]
    with quiet_watch(model, probes=Probes(every=10)) as watch:
        for _ in range(25):
            run(model, torch.ones(2, 3))
            model.zero_grad()
    assert looked_at(watch) == [1, 2, 3, 4, 10, 20]
    assert watch.history[1].activations.modules == ("0", "1", "2")
    for handle in handles:
        handle.remove()


def test_lbfgs_is_looked_at_in_its_first_evaluation():
    """One step, one look."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = (model(torch.ones(2, 3)) - 1).square().sum()
        loss.backward()
        return loss

    with quiet_watch(model, probes=Probes(every=1)) as watch:
        for _ in range(3):
            optimizer.step(closure)
    assert looked_at(watch) == [1, 2]
    assert all(record.activations.modules == ("",) for record in list(watch.history)[1:])


def test_nothing_is_kept_alive():
    """Neither inputs nor outputs nor the model, while the probe is armed and after."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    probe = ForwardProbe(model)
    probe.arm()
    x = torch.randn(3, 4)
    y = model(x)
    refs = [weakref.ref(x), weakref.ref(y), weakref.ref(model[1])]
    del x, y, model
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3
    probe.disarm()


def test_memory_is_flat():
    """Of many calls of large tensors only a bounded sample is kept."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(300)))
    probe = ForwardProbe(model)
    probe.arm()
    loss = model(torch.randn(512, 256)).sum()
    pending = sum(sample.values.numel() for sample in probe._statistics._pending)
    assert pending <= (1 << 20) + 64 * 96
    assert sum(value.numel() for value in probe._statistics.values) < 10_000
    loss.backward()
    assert len(probe.take().calls) == 600


def test_a_failure_is_told_once_and_later_gaps_are_explained(monkeypatch):
    """The training goes on; later records say why there is nothing."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setattr("gradwatch._probes.forward.first_tensor", lambda _: 1 / 0)
    with (
        pytest.warns(gradwatch.GradwatchWarning, match="the forward probe failed at module ''"),
        quiet_watch(model) as watch,
    ):
        _steps(model, optimizer, 5)
    assert watch.step == 5
    assert "failed" in watch.history[3].unavailable[0].because


def test_suspicion():
    """Leaps and new zeros are; a skipped step and an unknown loss are not."""

    def record(norm=1.0, loss=1.0, zeros=0, **more):
        grad = np.array([0.0] * zeros + [1.0] * (3 - zeros))
        return gradwatch.StepRecord(0, 0, (), grad, np.zeros(3, np.int64), norm, norm, loss=loss, **more)

    suspicion = Suspicion()
    assert [suspicion.of(record()), suspicion.of(record(20.0)), suspicion.of(record(20.0))] == [False, True, False]
    assert suspicion.of(record(20.0, loss=5.0))
    assert not suspicion.of(record(20.0, loss=None))
    assert not suspicion.of(record(20.0, loss=5.0))
    assert suspicion.of(record(20.0, loss=5.0, zeros=1))
    assert not suspicion.of(record(1e5, skipped=True))


def test_activations_survive_json():
    """Also what is NaN, and 0 as 0."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    found = seen(model, lambda: run(model, torch.ones(2, 3)))
    again = Activations.from_json(found.to_json())
    for name, column in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), column)


def test_a_probing_without_probes_says_so():
    """Never a silent gap."""
    model = nn.Linear(3, 2)
    with quiet_watch(model, probes=False) as watch:
        _steps(model, torch.optim.SGD(model.parameters(), lr=1e-3), 3)
    assert "switched off" in watch.history[1].unavailable[0].because
    assert isinstance(watch._monitor._tracks.probing, Probing)
