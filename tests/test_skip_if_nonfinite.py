"""A step whose total norm is not finite is skipped without a trace where that is wanted, and told all the same."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from models import batch, loss_of, mlp
from torch import nn

import gradwatch
from gradwatch import ClipNorm, ClipValue, GradwatchWarning, _intervention
from gradwatch.records import StepRecord

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
    "fused SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True),
    "fused SGD momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True),
    "fused Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "fused AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "fused Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1, fused=True),
}
FUSED = {name: make for name, make in OPTIMIZERS.items() if name.startswith("fused")}


def snapshot(model, optimizer):
    """Weights and optimizer state."""
    return copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"]))


def bit_equal(before, after):
    """All weights, and all of the state."""
    (weights, state), (weights_after, state_after) = before, after
    return (
        all(torch.equal(a, b) for a, b in zip(weights, weights_after, strict=True))
        and state.keys() == state_after.keys()
        and all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(state_after[key][name]))
            for key, values in state.items()
            for name, value in values.items()
            if value is not None
        )
    )


def train(make, bad_steps, *, steps=6, bad=math.nan, seed=0, skip=True, clip=None, leave_out=False):
    """Train with some steps' gradients spoilt (or left out); return model, optimizer, watch and what moved."""
    torch.manual_seed(seed)
    model = mlp()
    optimizer = make(model.parameters())
    generator = torch.Generator().manual_seed(1)
    moved = []
    with gradwatch.watch(model, clip=clip, writers=[], skip_if_nonfinite=skip) as watch:
        for number in range(steps):
            model.zero_grad()
            loss_of(model, batch(model, generator)).backward()
            if number in bad_steps:
                if leave_out:
                    continue
                model[2].weight.grad[0, 0] = bad
            before = snapshot(model, optimizer)
            optimizer.step()
            moved.append(not bit_equal(before, snapshot(model, optimizer)))
            assert model[0].weight.grad is not None
            assert not hasattr(optimizer, "found_inf")
    return model, optimizer, watch, moved


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_weights_state_and_count_stay_bit_equal(make, bad):
    """Also at the very first step; the run goes on as if the bad batches had never come."""
    model, optimizer, watch, moved = train(make, {0, 3}, bad=bad)
    assert moved == [False, True, True, False, True, True]
    twin, twin_optimizer, _, _ = train(make, {0, 3}, leave_out=True)
    assert bit_equal(snapshot(model, optimizer), snapshot(twin, twin_optimizer))
    assert [record.skipped for record in watch.history] == [not move for move in moved]
    assert [record.held_back for record in watch.history] == [not move for move in moved]
    assert watch.step == 6


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_on_the_device_without_waiting(make, monkeypatch):
    """Where nobody may look at the norm, ``found_inf`` does it: weights, momenta and counts stay bit-equal.

    Forced here on the CPU. At the first step torch makes the state, which nothing can keep it from; what fused SGD
    would leave uninitialised there is cleared, so that the run goes on as if that batch had never come.
    """
    monkeypatch.setattr(_intervention, "on_host", lambda _: False)
    model, optimizer, watch, moved = train(make, {0, 3})
    twin, twin_optimizer, _, _ = train(make, {0, 3}, leave_out=True)
    assert moved[1:] == [True, True, False, True, True]
    assert bit_equal(snapshot(model, optimizer), snapshot(twin, twin_optimizer))
    assert [record.held_back for record in watch.history] == [True, False, False, True, False, False]
    assert not hasattr(optimizer, "grad_scale")


def test_on_a_device_without_a_fused_kernel_it_is_said_and_not_done(monkeypatch):
    """At once where the optimizer is named: the host would have to wait for the norm at every step."""
    monkeypatch.setattr(_intervention, "on_host", lambda _: False)
    model = mlp()
    optimizer = torch.optim.RMSprop(model.parameters())
    with pytest.warns(GradwatchWarning, match=r"cannot work with RMSprop: .*fused=True.* wait"):
        watch = gradwatch.watch(model, optimizer, skip_if_nonfinite=True, writers=[])
    loss_of(model, batch(model, torch.Generator().manual_seed(1))).backward()
    model[2].weight.grad[0, 0] = math.nan
    optimizer.step()
    watch.close()
    assert not watch.history[0].skipped
    assert model[2].weight.isnan().any()
    assert "cannot work with RMSprop" in watch.summary()


def test_the_incident_is_told_all_the_same():
    """``nonfinite``, with its place; the summary says what was skipped, and why."""
    _, _, watch, _ = train(OPTIMIZERS["AdamW"], {3})
    (incident,) = watch.incidents
    assert (incident.kind, incident.step, incident.layers[0]) == ("nonfinite", 3, "2.weight")
    assert math.isnan(watch.history[3].clipped_norm)
    assert "1 of 6 steps: the total norm was not finite (skip_if_nonfinite)" in watch.summary()


def test_off_by_default():
    """Without the option nothing is held back: watching never changes training."""
    model, _, watch, _ = train(OPTIMIZERS["AdamW"], {3}, skip=False)
    assert model[2].weight.isnan().any()
    assert not any(record.skipped for record in watch.history)


@pytest.mark.parametrize("clip", [ClipNorm(0.01), ClipNorm(0.01, math.inf), ClipValue(1e-3)], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "fused AdamW"])
def test_together_with_clipping(name, clip):
    """The other steps are clipped as ever."""
    _, _, watch, moved = train(OPTIMIZERS[name], {2}, clip=clip)
    assert moved == [True, True, False, True, True, True]
    assert [record.clipped for record in watch.history] == moved


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_under_a_grad_scaler(fused, unscale):
    """An overflow is the scaler's, and no incident; what goes bad after ``unscale_`` is ours."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    generator = torch.Generator().manual_seed(1)
    with gradwatch.watch(model, writers=[], skip_if_nonfinite=True) as watch:
        for number in range(6):
            model.zero_grad()
            scaler.scale(loss_of(model, batch(model, generator))).backward()
            if number in (0, 2):
                model[2].weight.grad[0, 0] = math.inf
            if unscale:
                scaler.unscale_(optimizer)
                if number == 4:
                    model[2].weight.grad[0, 0] = math.nan
            before = snapshot(model, optimizer)
            scaler.step(optimizer)
            scaler.update()
            is_bad = number in (0, 2) or (unscale and number == 4)
            assert bit_equal(before, snapshot(model, optimizer)) == is_bad
            assert watch.history[-1].skipped == is_bad
    assert [record.held_back for record in watch.history] == [unscale and number == 4 for number in range(6)]
    assert [incident.step for incident in watch.incidents] == ([4] if unscale else [])
    assert scaler.get_scale() == 1.0


def test_what_else_the_optimizer_owns_stays_too():
    """A step is skipped as a whole, with the parameters of other models."""
    model, other = mlp(), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1)
    before = [p.detach().clone() for p in other.parameters()]
    with gradwatch.watch(model, writers=[], skip_if_nonfinite=True):
        loss_of(model, batch(model, torch.Generator().manual_seed(1))).backward()
        other(torch.ones(1, 2)).sum().backward()
        model[0].bias.grad[0] = math.nan
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_closure_and_an_infinite_loss():
    """The norm is that of the gradients that the closure made."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = snapshot(model, optimizer)
    with gradwatch.watch(model, writers=[], skip_if_nonfinite=True) as watch:
        loss = loss_of(model, batch(model, torch.Generator().manual_seed(1))) * math.inf
        optimizer.step(loss.backward)
    assert bit_equal(before, snapshot(model, optimizer))
    assert watch.history[0].skipped


def test_a_step_that_raises_gives_the_gradients_back():
    """Where the skipped step raises, the hidden gradients are back at the end."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def explode(*_):
        raise RuntimeError("in a hook")

    optimizer.register_step_post_hook(explode)
    with gradwatch.watch(model, writers=[], skip_if_nonfinite=True):
        loss_of(model, batch(model, torch.Generator().manual_seed(1))).backward()
        model[0].bias.grad[0] = math.nan
        with pytest.raises(RuntimeError, match="in a hook"):
            optimizer.step()
    assert all(p.grad is not None for p in model.parameters())


def test_where_it_cannot_work_it_says_so():
    """LBFGS evaluates its closure several times, and a step inside the backward pass comes before the total norm."""
    model = nn.Linear(3, 1)
    lbfgs = torch.optim.LBFGS(model.parameters(), lr=0.1)
    with pytest.warns(GradwatchWarning, match="cannot work with LBFGS: it evaluates its closure several times"):
        watch = gradwatch.watch(model, lbfgs, writers=[], skip_if_nonfinite=True)
    with pytest.warns(GradwatchWarning, match="saw no optimizer step"):
        watch.close()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: optimizers[p].step() or optimizers[p].zero_grad())
    with (
        gradwatch.watch(model, writers=[], skip_if_nonfinite=True),
        pytest.warns(GradwatchWarning, match="inside the backward pass"),
    ):
        model(torch.ones(2, 3)).sum().backward()


def test_the_record_keeps_it():
    """``held_back`` goes through JSON; records from before it have none."""
    _, _, watch, _ = train(OPTIMIZERS["AdamW"], {3})
    record = watch.history[3]
    data = record.to_json()
    assert StepRecord.from_json(data, record.layers).held_back
    del data["held_back"]
    assert not StepRecord.from_json(data, record.layers).held_back
    assert dataclasses.replace(record, held_back=False).skipped


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"skip_if_nonfinite": 1}, TypeError, "skip_if_nonfinite=.* is of type int"),
        (
            {"skip_if_nonfinite": True, "clip": ClipNorm(1.0, error_if_nonfinite=True)},
            ValueError,
            "error_if_nonfinite=True, which stops",
        ),
    ],
)
def test_wrong_arguments_say_what_is_allowed(options, error, text):
    """At both entrances, before training starts."""
    from gradwatch.lightning import GradWatch

    for make in (lambda: gradwatch.watch(mlp(), **options), lambda: GradWatch(**options)):
        with pytest.raises(error, match=text) as caught:
            make()
        assert isinstance(caught.value, gradwatch.GradwatchError)
