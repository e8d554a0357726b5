"""The signal through time, against recurrences that are unrolled cell by cell and differentiated by autograd."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from gradwatch._probes import fused_rnn
from gradwatch._probes.through_time import ThroughTime, profile_of
from gradwatch.errors import GradwatchWarning

NUM, STEPS, SIZE, HIDDEN = 5, 9, 3, 4
KINDS = {"tanh": nn.RNN, "relu": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def build(kind, **options):
    """A fused module of this kind."""
    extra = {"nonlinearity": kind} if kind in ("tanh", "relu") else {}
    return KINDS[kind](SIZE, HIDDEN, **extra, **options)


@contextmanager
def probed(model):
    """A probe like the monitor's, without one: a process-wide hook that tells every call of the model's modules."""
    names, time = {id(m): name for name, m in model.named_modules()}, ThroughTime()

    def hook(module, args, kwargs, output):
        if id(module) in names and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
            time.saw(names[id(module)], module, args, output, kwargs)

    handle = torch_module.register_module_forward_hook(hook, with_kwargs=True)
    try:
        yield time
    finally:
        handle.remove()


def profiles(time):
    """What a probed step has shown, on the host, by module and layer."""
    return {(s.module, s.layer): profile_of(s.label, s.data.numpy()) for s in time.finish()}


def one_step(module, layer, suffix, given, state):
    """One time step of one layer by the book: the new state, h first."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_ih, w_hh, b_ih, b_hh = (getattr(module, f"{name}_l{layer}{suffix}", None) for name in names)
    w_hr = getattr(module, f"weight_hr_l{layer}{suffix}", None)
    a, b = given @ w_ih.T, state[0] @ w_hh.T
    a, b = (a, b) if b_ih is None else (a + b_ih, b + b_hh)
    if module.mode == "GRU":
        (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
        r, z = (ar + br).sigmoid(), (az + bz).sigmoid()
        n = (an + r * bn).tanh()
        return ((1 - z) * n + z * state[0],)
    if module.mode == "LSTM":
        i, f, g, o = (a + b).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h if w_hr is None else h @ w_hr.T), c
    return ((a + b).tanh() if module.mode == "RNN_TANH" else (a + b).relu(),)


def unrolled(module, x, first=None, lengths=None):
    """Outputs [T, B, D * H] and last states, and of each layer and direction the states that autograd may ask for."""
    directions = 2 if module.bidirectional else 1
    gated = module.mode == "LSTM"
    out_size = module.proj_size or module.hidden_size
    lengths = [len(x)] * x.shape[1] if lengths is None else lengths
    states, lasts, layer_input = {}, [], x
    for layer in range(module.num_layers):
        sides = []
        for d in range(directions):
            k = layer * directions + d
            per_sample, last_of = [], []
            trace = [[] for _ in range(x.shape[1])]
            for b, length in enumerate(lengths):
                if first is None:
                    state = [x.new_zeros(out_size)] + ([x.new_zeros(module.hidden_size)] if gated else [])
                else:
                    state = [s[k, b] for s in first]
                order = range(length - 1, -1, -1) if d else range(length)
                rows = {}
                for t in order:
                    state = one_step(module, layer, "_reverse" if d else "", layer_input[t, b], state)
                    trace[b].append(state[0])
                    rows[t] = state[0]
                filled = [rows.get(t, x.new_zeros(out_size)) for t in range(len(x))]
                per_sample.append(torch.stack(filled))
                last_of.append(state)
            sides.append(torch.stack(per_sample, 1))
            lasts.append([torch.stack(parts) for parts in zip(*last_of, strict=True)])
            states[f"{layer} reverse" if d else str(layer)] = trace
        layer_input = torch.cat(sides, -1)
    last = [torch.stack(parts) for parts in zip(*lasts, strict=True)]
    return layer_input, last, states


def reference(loss, states):
    """Norm of dL/dh_t over the samples, by autograd through the graph of :func:`unrolled`."""
    found = {}
    for name, trace in states.items():
        flat = [h for sample in trace for h in sample]
        grads = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
        steps = max(map(len, trace))
        squares = [0.0] * steps
        for sample in trace:
            for t in range(len(sample)):
                gradient = next(grads)
                squares[t] += 0.0 if gradient is None else float(gradient.double().square().sum())
        found[name] = np.sqrt(squares)
    return found


def weigh(y, *states):
    """A loss that treats each output differently; the same for both ways of computing it."""
    generator = torch.Generator().manual_seed(7)
    return sum((t * torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device)).sum() for t in (y, *states))


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


VARIANTS = {
    "plain": {},
    "without a bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "two layers, bidirectional, batch first": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}
CASES = [(kind, name) for kind in KINDS for name in VARIANTS] + [("lstm", "projected")]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "given states"])
@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_fused_kernels_agree_with_hand_unrolled_cells(kind, variant, given):
    """dL/dh_t of every layer and direction to 1e-5, with gradients coming to outputs and last states."""
    options = VARIANTS.get(variant, {"proj_size": 2, "num_layers": 2, "bidirectional": True})
    model = build(kind, **options)
    batch_first = options.get("batch_first", False)
    x = torch.randn(STEPS, NUM, SIZE)
    count = model.num_layers * (2 if model.bidirectional else 1)
    sizes = [model.proj_size or HIDDEN] + ([HIDDEN] if kind == "lstm" else [])
    first = [torch.randn(count, NUM, size) for size in sizes] if given else None
    hx = None if first is None else tuple(first) if kind == "lstm" else first[0]
    with probed(model) as time:
        y, last = model(x.transpose(0, 1) if batch_first else x, hx)
        weigh(y.transpose(0, 1) if batch_first else y, *as_tuple(last)).backward()
        before = [p.grad.clone() for p in model.parameters()]
        found = profiles(time)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))
    y, last, states = unrolled(model, x, first)
    expected = reference(weigh(y, *last), states)
    assert {layer for _, layer in found} == set(expected)
    for (_, layer), profile in found.items():
        np.testing.assert_allclose(profile.norm, expected[layer], rtol=1e-5, atol=0)


@pytest.mark.parametrize("shuffled", [False, True], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_of_different_lengths(kind, shuffled):
    """Each sample ends, and its backward direction begins, at its own length."""
    model = build(kind, num_layers=2, bidirectional=True)
    lengths = [3, 9, 1, 6, 8] if shuffled else [9, 8, 6, 3, 1]
    x = torch.randn(STEPS, NUM, SIZE)
    first = [torch.randn(4, NUM, HIDDEN) for _ in range(2 if kind == "lstm" else 1)]
    packed = pack_padded_sequence(x, lengths, enforce_sorted=not shuffled)
    with probed(model) as time:
        y, last = model(packed, tuple(first) if kind == "lstm" else first[0])
        weigh(pad_packed_sequence(y)[0], *as_tuple(last)).backward()
        found = profiles(time)
    y, last, states = unrolled(model, x, first, lengths)
    expected = reference(weigh(y, *last), states)
    assert len(found) == 4
    for (_, layer), profile in found.items():
        np.testing.assert_allclose(profile.norm, expected[layer], rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_without_a_batch(kind):
    """[time, features] is one sample."""
    model = build(kind)
    x = torch.randn(STEPS, SIZE)
    with probed(model) as time:
        y, _ = model(x)
        weigh(y.unsqueeze(1)).backward()
        found = profiles(time)
    y, _, states = unrolled(model, x.unsqueeze(1))
    np.testing.assert_allclose(found["", "0"].norm, reference(weigh(y), states)["0"], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_direct_gradients_and_the_response_to_the_last_one(kind):
    """With a loss on every step ``direct`` is what the loss itself gives, and ``response`` follows the last alone."""
    model = build(kind).double()
    x = torch.randn(STEPS, 1, SIZE, dtype=torch.float64)
    with probed(model) as time:
        y, _ = model(x)
        y.retain_grad()
        weigh(y).backward()
        profile = profiles(time)["", "0"]
    np.testing.assert_allclose(profile.direct, y.grad.norm(dim=(1, 2)))
    out, _, states = unrolled(model, x)
    if kind != "lstm":  # there the cell's state counts too
        alone = reference((out[-1] * y.grad[-1]).sum(), states)["0"]
        np.testing.assert_allclose(profile.response, alone / alone[-1], rtol=1e-9)
    assert profile.response[-1] == 1
    assert profile.norm[-1] == pytest.approx(profile.direct[-1])


def test_the_response_counts_back_from_each_samples_own_end():
    """Samples that end early do not make the signal seem to fade less, or more."""
    model = nn.RNN(SIZE, HIDDEN, nonlinearity="relu")
    with torch.no_grad():
        model.weight_hh_l0.copy_(0.5 * torch.eye(HIDDEN))
        model.bias_ih_l0.fill_(5.0)  # every unit is on, so that each step halves the signal exactly
    y_at = [8, 3]
    with probed(model) as time:
        y, _ = model(torch.randn(STEPS, 2, SIZE))
        (y[y_at[0], 0].sum() + 1e-3 * y[y_at[1], 1].sum()).backward()
        profile = profiles(time)["", "0"]
    np.testing.assert_allclose(profile.response, 0.5 ** np.arange(STEPS - 1, -1, -1.0), rtol=1e-6)


@pytest.mark.parametrize("change", [lambda y: y.add_(1), lambda y: y.mul_(2), lambda y: y.zero_()])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_changing_the_output_in_place_afterwards(kind, batch_first, change):
    """The gradient is that of the states as the kernel gave them; what torch allows works, and nothing else."""
    model = build(kind, batch_first=batch_first)
    x = torch.randn(NUM, STEPS, SIZE) if batch_first else torch.randn(STEPS, NUM, SIZE)

    def loss():
        y, _ = model(x)
        change(y)
        return weigh(y.transpose(0, 1) if batch_first else y)

    try:
        loss().backward()
    except RuntimeError as error:
        with probed(model), pytest.raises(RuntimeError, match=re.escape(str(error)[:40])):
            loss().backward()
        return
    with probed(model) as time:
        loss().backward()
        profile = profiles(time)["", "0"]
    y, _, states = unrolled(model, x.transpose(0, 1) if batch_first else x)
    y = y + 0
    change(y)
    expected = reference(weigh(y), states)["0"]
    np.testing.assert_allclose(profile.norm, expected, rtol=1e-5, atol=1e-12)


def test_dropout_between_layers_leaves_only_what_is_exact():
    """Of a vanilla RNN the last layer follows from its outputs; of gates nothing does, and that is said."""
    model = build("tanh", num_layers=2, dropout=0.5)
    x = torch.randn(STEPS, NUM, SIZE)
    with probed(model) as time:
        y, _ = model(x)
        torch.manual_seed(3)
        weigh(y).backward()
        found = profiles(time)
    assert set(found) == {("", "1")}
    assert "dropout" in time.unavailable[0].because
    # dL/dh_{t-1} = direct + (dL/dh_t * (1 - h_t^2)) W_hh, by the book from the outputs
    direct = weigh_gradient(y)
    signal, norms = direct[-1], [direct[-1].norm()]
    for t in range(STEPS - 1, 0, -1):
        signal = direct[t - 1] + (signal * (1 - y[t].detach() ** 2)) @ model.weight_hh_l1.detach()
        norms.append(signal.norm())
    np.testing.assert_allclose(found["", "1"].norm, [float(n) for n in norms[::-1]], rtol=1e-5)
    gated = build("gru", num_layers=2, dropout=0.5)
    with probed(gated) as time:
        weigh(gated(x)[0]).backward()
        assert time.finish() == []
    assert "dropout" in time.unavailable[0].because
    gated.eval()
    with probed(gated) as time:
        weigh(gated(x)[0]).backward()
        assert len(time.finish()) == 2
    assert time.unavailable == ()


def weigh_gradient(y):
    leaf = y.detach().requires_grad_()
    return torch.autograd.grad(weigh(leaf), leaf)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_long_sequences_are_followed_through_their_last_steps(kind, monkeypatch):
    """The window begins with the true state, not with zero."""
    monkeypatch.setattr(fused_rnn, "MAX_STEPS", 4)
    model = build(kind, num_layers=2)
    x = torch.randn(STEPS, NUM, SIZE)
    with probed(model) as time:
        weigh(model(x)[0]).backward()
        found = profiles(time)
    y, _, states = unrolled(model, x)
    assert set(found) == {("", "1")}
    np.testing.assert_allclose(found["", "1"].norm, reference(weigh(y), states)["1"][-4:], rtol=1e-5)
    assert "last 4 only" in time.unavailable[0].because


def test_at_most_eight_samples_are_followed():
    """Of a large batch the first eight, so that the cost does not grow with it."""
    model = build("gru")
    x = torch.randn(STEPS, 20, SIZE)
    with probed(model) as time:
        y, _ = model(x)
        y.retain_grad()
        weigh(y).backward()
        profile = profiles(time)["", "0"]
    np.testing.assert_allclose(profile.direct, y.grad[:, :8].double().norm(dim=(1, 2)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------- hand-written loops


class Loop(nn.Module):
    """A cell in a loop, with a head at every step."""

    def __init__(self, cell, *, keep=False):
        super().__init__()
        self.cell, self.head, self.keep = cell, nn.Linear(HIDDEN, 2), keep

    def forward(self, x):
        h, self.states, outputs = None, [], []
        for given in x:
            h = self.cell(given, h)
            self.states.append(h[0] if isinstance(h, tuple) else h)
            outputs.append(self.head(self.states[-1]))
        if self.keep:
            for state in self.states:
                state.retain_grad()
        return torch.stack(outputs)


class OwnCell(nn.Module):
    """A recurrence of the user's own, made of two linear layers."""

    def __init__(self):
        super().__init__()
        self.i2h, self.h2h = nn.Linear(SIZE, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x, h):
        h = x.new_zeros(len(x), HIDDEN) if h is None else h
        return torch.tanh(self.i2h(x) + self.h2h(h))


@pytest.mark.parametrize("make", [nn.RNNCell, nn.LSTMCell, nn.GRUCell, lambda *_: OwnCell()])
def test_loops_over_cells(make):
    """The gradient of each call's output is dL/dh_t; the shared head and what the cell is made of are no recurrence."""
    model = Loop(make(SIZE, HIDDEN), keep=True)
    with probed(model) as time:
        model(torch.randn(STEPS, NUM, SIZE)).square().sum().backward()
        found = profiles(time)
    assert set(found) == {("cell", "0")}
    assert found["cell", "0"].kind == type(model.cell).__name__
    np.testing.assert_allclose(
        found["cell", "0"].norm, [float(h.grad.double().norm()) for h in model.states], rtol=1e-6
    )
    model.states.clear()


def test_a_recurrence_without_a_cell_module():
    """``tanh(i2h(x) + h2h(h))`` in the loop itself: the layer that reads the state is the recurrence."""

    class Inline(OwnCell):
        def forward(self, x):
            h = x.new_zeros(x.shape[1], HIDDEN)
            for given in x:
                h = torch.tanh(self.i2h(given) + self.h2h(h))
            return h

    model = Inline()
    with probed(model) as time:
        model(torch.randn(STEPS, NUM, SIZE)).sum().backward()
        assert set(profiles(time)) == {("h2h", "0")}


def test_a_cell_whose_state_is_normalised_in_between():
    """A layer between two calls of a torch cell does not hide the recurrence."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.norm = nn.GRUCell(SIZE, HIDDEN), nn.LayerNorm(HIDDEN)

        def forward(self, x):
            h = x.new_zeros(x.shape[1], HIDDEN)
            for given in x:
                h = self.norm(self.cell(given, h))
            return h

    model = Normed()
    with probed(model) as time:
        model(torch.randn(STEPS, NUM, SIZE)).sum().backward()
        found = profiles(time)
    assert len(found["cell", "0"].norm) == STEPS
    assert set(found) == {("cell", "0")}


def test_a_fused_module_called_step_by_step():
    """A decoder that feeds one frame at a time is a loop, too."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(SIZE, HIDDEN)

        def forward(self, x):
            h, self.states = None, []
            for given in x:
                _, h = self.rnn(given.unsqueeze(0), h)
                h.retain_grad()
                self.states.append(h)
            return h

    model = Decoder()
    with probed(model) as time:
        model(torch.randn(STEPS, NUM, SIZE)).sum().backward()
        found = profiles(time)
    np.testing.assert_allclose(found["rnn", "0"].norm, [float(h.grad.double().norm()) for h in model.states], rtol=1e-6)
    model.states.clear()


class Shared(nn.Module):
    """Whatever one module is used for several times."""

    def __init__(self, part, use):
        super().__init__()
        self.part, self.use = part, use
        self.layers = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(6))

    def forward(self, x):
        return self.use(self, x)


def over_time(model, x):
    return torch.stack([model.part(frame) for frame in x])


def siamese(model, x):
    return sum(model.part(torch.randn_like(x)) for _ in range(6))


def between_layers(model, x):
    for layer in model.layers:
        x = model.part(layer(x))
    return x


@pytest.mark.parametrize(
    ("part", "use"),
    [
        (nn.Linear(HIDDEN, HIDDEN), over_time),
        (nn.Linear(HIDDEN, HIDDEN), siamese),
        (nn.Tanh(), between_layers),
        (nn.PReLU(), between_layers),
        (nn.LayerNorm(HIDDEN), between_layers),
    ],
)
def test_what_is_used_often_is_no_recurrence(part, use):
    """A head shared by all steps, a siamese network, one activation for all layers: no output feeds back."""
    model = Shared(part, use)
    with probed(model) as time:
        model(torch.randn(STEPS, HIDDEN)).sum().backward()
        assert time.finish() == []


def test_micro_batches_are_not_one_long_sequence():
    """Calls that begin anew are another sequence: the profile has the steps of one."""
    model = Loop(nn.GRUCell(SIZE, HIDDEN))
    with probed(model) as time:
        for _ in range(3):
            model(torch.randn(STEPS, NUM, SIZE)).sum().backward()
        found = profiles(time)
    assert len(found["cell", "0"].norm) == STEPS


def test_truncated_back_propagation_shows_as_its_windows():
    """A detached state begins a new window."""

    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(SIZE, HIDDEN)

        def forward(self, x):
            h, total = None, 0.0
            for t, given in enumerate(x):
                h = self.cell(given, h if t % 5 else h if h is None else h.detach())
                total = total + h.sum()
            return total

    model = Truncated()
    with probed(model) as time:
        model(torch.randn(13, NUM, SIZE)).backward()
        assert len(profiles(time)["cell", "0"].norm) == 5


# --------------------------------------------------------------------------------------------------- a good guest


class Classifier(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn, self.head = build(kind, **options), nn.Linear(HIDDEN, 2)

    def forward(self, x):
        return self.head(torch.dropout(self.rnn(x)[0], 0.1, self.training))


MODELS = {
    **{kind: lambda kind=kind: Classifier(kind) for kind in KINDS},
    "two layers with dropout": lambda: Classifier("lstm", num_layers=2, dropout=0.3),
    "cells": lambda: Loop(nn.LSTMCell(SIZE, HIDDEN)),
    "own cell": lambda: Loop(OwnCell()),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_stays_bit_equal(name):
    """50 steps with the probe on each end in the very same weights, and the same random state."""

    def weights(*, probe):
        torch.manual_seed(5)
        model = MODELS[name]()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(50):
            optimizer.zero_grad()
            x = torch.randn(STEPS, NUM, SIZE)
            if probe:
                with probed(model) as time:
                    model(x).square().mean().backward()
                    assert time.finish() or time.unavailable
            else:
                model(x).square().mean().backward()
            optimizer.step()
        return [*(p.detach() for p in model.parameters()), torch.get_rng_state()]

    assert all(torch.equal(a, b) for a, b in zip(weights(probe=True), weights(probe=False), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_kept_alive_and_no_hook_stays(name):
    """After ``finish`` neither probe nor model nor output lives on, though the user keeps the loss and its graph."""
    model = MODELS[name]()
    with probed(model) as time:
        y = model(torch.randn(STEPS, NUM, SIZE))
        loss = y.square().mean()
        loss.backward(retain_graph=True)
        time.finish()
    loss.backward()  # a hook that were left behind would note this one
    assert not time._fused
    assert not time._loops._loops
    gone = [weakref.ref(time), weakref.ref(model), weakref.ref(y)]
    kept = loss
    del time, model, y, loss
    gc.collect()
    assert kept is not None
    assert [ref() for ref in gone] == [None] * 3


def test_without_finish_the_graph_alone_keeps_it():
    """A step that never comes leaves nothing behind once the loss is gone."""
    model = Classifier("gru")
    with probed(model) as time:
        loss = model(torch.randn(STEPS, NUM, SIZE)).sum()
    gone = [weakref.ref(time), weakref.ref(model)]
    del loss, time, model
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.parametrize("name", MODELS)
def test_the_model_can_be_copied_and_pickled_meanwhile(name):
    """Nothing is set on it."""
    model = MODELS[name]()
    if isinstance(model, Loop):
        model.forward_states = None
    with probed(model):
        loss = model(torch.randn(STEPS, NUM, SIZE)).sum()
        if isinstance(model, Loop):
            model.states = []
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    loss.backward()
    assert all(p.grad is None for m in (copied, pickled) for p in m.parameters())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(kind, packed):
    """On the meta device a look at a value would raise."""
    model = build(kind, num_layers=2, bidirectional=True).to("meta")
    x = torch.randn(STEPS, NUM, SIZE, device="meta")
    given = pack_padded_sequence(x, [9, 8, 8, 2, 1]) if packed else x
    with probed(model) as time:
        try:
            y, _ = model(given)
        except NotImplementedError:
            pytest.skip("torch has no such kernel on the meta device")
        (y.data if packed else y).sum().backward()
        signals = time.finish()
    assert [signal.data.shape for signal in signals] == [(3, STEPS)] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rounds_the_run_but_not_the_look(kind):
    """Under bfloat16 the profile is that of float32 within bfloat16's rounding."""
    model = build(kind)
    x = torch.randn(STEPS, NUM, SIZE)
    found = []
    for enabled in (False, True):
        with probed(model) as time, torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y, _ = model(x)
            y.float().sum().backward()
            found.append(profiles(time)["", "0"].norm)
    np.testing.assert_allclose(found[1], found[0], rtol=0.05)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["gru", "cells"])
def test_recomputation_is_not_counted(kind, reentrant):
    """Under activation checkpointing the forward pass runs twice: one sequence all the same, or none."""
    model = MODELS[kind]()
    x = torch.randn(STEPS, NUM, SIZE, requires_grad=True)
    with probed(model) as time:
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()
        found = profiles(time)
    assert [len(profile.norm) for profile in found.values()] == ([] if reentrant else [STEPS])


def test_nothing_is_recorded_without_gradients():
    """An evaluation between two steps is no part of them."""
    model = Classifier("lstm")
    with probed(model) as time, torch.no_grad():
        time.saw("rnn", model.rnn, (torch.randn(STEPS, NUM, SIZE),), model.rnn(torch.randn(STEPS, NUM, SIZE)))
    assert time.finish() == []
    assert not time._fused
    frozen = Classifier("lstm").requires_grad_(requires_grad=False)
    with probed(frozen) as time:
        frozen(torch.randn(STEPS, NUM, SIZE))
        assert time.finish() == []


@pytest.mark.parametrize("name", ["tanh", "cells"])
def test_a_batched_backward_pass_is_left_alone(name):
    """Under vmap a gradient is no plain tensor: it works as without us, and nothing of it is kept."""
    model = MODELS[name]().eval()
    x = torch.randn(STEPS, NUM, SIZE)

    def jacobian():
        y = model(x)[-1].sum(0)
        return torch.autograd.grad(y, list(model.parameters()), torch.eye(2), is_grads_batched=True)

    expected = jacobian()
    with probed(model) as time:
        got = jacobian()
        assert time.finish() == []
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_a_failure_of_ours_stops_no_backward_pass(monkeypatch):
    """It is told, and the gradients are the user's."""
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda *_, **__: 1 / 0)
    model = MODELS["cells"]()
    with probed(model) as time:
        loss = model(torch.randn(STEPS, NUM, SIZE)).sum()
        with pytest.warns(GradwatchWarning, match="could not follow the signal through time"):
            loss.backward()
        assert time.finish() == []
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_backward_in_two_parts_adds_up():
    """Two losses with a backward pass each give the gradient of their sum."""
    model = build("gru")
    x = torch.randn(STEPS, NUM, SIZE)
    found = []
    for parts in (1, 2):
        with probed(model) as time:
            y, _ = model(x)
            if parts == 1:
                (y[-1].sum() + y[0].square().sum()).backward()
            else:
                y[-1].sum().backward(retain_graph=True)
                y[0].square().sum().backward()
            found.append(profiles(time)["", "0"].norm)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_a_first_state_given_by_name():
    """``rnn(x, hx=h)`` does not begin at zero."""
    model = build("tanh")
    x, h = torch.randn(STEPS, NUM, SIZE), torch.randn(1, NUM, HIDDEN)
    found = []
    for args, kwargs in (((x, h), {}), ((x,), {"hx": h}), ((), {"input": x, "hx": h})):
        with probed(model) as time:
            weigh(model(*args, **kwargs)[0]).backward()
            found.append(profiles(time)["", "0"].norm)
    assert found[0] == found[1] == found[2]
