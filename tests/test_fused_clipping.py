"""With a fused optimizer clipping is free: the step itself divides, and the weights are those of clip-then-step."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from models import batch, loss_of, mlp
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import gradwatch
from gradwatch import ClipNorm, ClipValue, GradwatchWarning

OPTIMIZERS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, fused=True),
    "AdamW amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, fused=True),
    "SGD momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05, fused=True),
}
MAX_NORM = 0.05


def adamw(parameters, **options):
    return torch.optim.AdamW(parameters, lr=0.01, **{"fused": True, **options})


def backward(model, generator, scaler=None):
    model.zero_grad()
    loss = loss_of(model, batch(model, generator))
    (loss if scaler is None else scaler.scale(loss)).backward()


def trained(make, clip, *, by_torch, scaling="none", steps=20):
    """Model, optimizer and watch after some steps clipped by torch's function or by ours."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaling != "none")
    generator = torch.Generator().manual_seed(1)
    with gradwatch.watch(model, clip=None if by_torch else clip, writers=[]) as watch:
        for _ in range(steps):
            backward(model, generator, scaler)
            if by_torch or scaling == "unscaled":
                scaler.unscale_(optimizer)
            if by_torch:
                nn.utils.clip_grad_norm_(model.parameters(), clip.max_norm, clip.norm_type)
            scaler.step(optimizer)
            scaler.update()
    return model, optimizer, watch


def distance(model, other):
    """Relative, of all weights."""
    ours, theirs = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, other))
    return ((ours - theirs).norm() / theirs.norm()).item()


class _Spy:
    """What each optimizer is lent while it steps: the hooks come after the watch's."""

    def __enter__(self):
        self.lent = []
        self._handles = [
            register_optimizer_step_pre_hook(lambda o, *_: self.lent.append(getattr(o, "grad_scale", None))),
        ]
        return self

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


@pytest.mark.parametrize("scaling", ["none", "scaled", "unscaled"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_weights_equal_clip_then_step(make, scaling):
    """Over 20 steps within 1e-6, with no scaler, under one and after its ``unscale_``; the record is right, too."""
    clip = ClipNorm(MAX_NORM)
    ours, optimizer, watch = trained(make, clip, by_torch=False, scaling=scaling)
    theirs, reference, watch_theirs = trained(make, clip, by_torch=True, scaling=scaling)
    assert distance(ours, theirs) < 1e-6
    for record, expected in zip(watch.history, watch_theirs.history, strict=True):
        assert record.total_norm == pytest.approx(expected.total_norm, rel=1e-5)
        assert record.clipped_norm == pytest.approx(expected.clipped_norm, rel=1e-5)
        assert record.own_clipped_norm == pytest.approx(record.clipped_norm, rel=1e-5)
        assert not record.skipped
        assert record.loss_scale == (None if scaling == "none" else 2.0**10)
    assert watch.history[0].clipped
    assert optimizer.state_dict()["state"].keys() == reference.state_dict()["state"].keys()
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("norm_type", [1.0, 3.5, math.inf])
def test_norms_of_any_order(norm_type):
    """What decides is one number, whichever norm it comes from."""
    clip = ClipNorm({1.0: 1.0, 3.5: 0.02, math.inf: 0.005}[norm_type], norm_type)
    ours, _, watch = trained(OPTIMIZERS["AdamW"], clip, by_torch=False)
    theirs, _, _ = trained(OPTIMIZERS["AdamW"], clip, by_torch=True)
    assert distance(ours, theirs) < 1e-6
    assert watch.history[0].clipped


def test_the_step_itself_divides():
    """No pass of our own: right before the update the gradients are as the backward pass left them."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = adamw(model.parameters())
    with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]) as watch, _Spy() as spy:
        backward(model, torch.Generator().manual_seed(1))
        before = [p.grad.clone() for p in model.parameters()]
        versions = [p.grad._version for p in model.parameters()]
        optimizer.step()
    (lent,) = spy.lent
    assert lent.dtype == torch.float32
    assert lent.item() == pytest.approx((watch.total_norm + 1e-6) / MAX_NORM, rel=1e-5)
    assert [p.grad._version for p in model.parameters()] == versions
    for parameter, unclipped in zip(model.parameters(), before, strict=True):  # torch's kernel writes them back
        torch.testing.assert_close(parameter.grad, unclipped / lent)


def test_who_reads_gradients_after_the_step_sees_clipped_ones():
    """As after ``clip_grad_norm_``: torch's kernel writes back what it has divided."""
    ours, _, _ = trained(OPTIMIZERS["AdamW"], ClipNorm(MAX_NORM), by_torch=False)
    theirs, _, _ = trained(OPTIMIZERS["AdamW"], ClipNorm(MAX_NORM), by_torch=True)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-8)


def test_below_the_limit_nothing_changes():
    """The optimizer is lent nothing, and the weights are bit-equal to those of a run without clipping."""
    with _Spy() as spy:
        clipped, _, _ = trained(OPTIMIZERS["AdamW"], ClipNorm(1e9), by_torch=False)
        plain, _, _ = trained(OPTIMIZERS["AdamW"], None, by_torch=False)
    assert all(torch.equal(a, b) for a, b in zip(clipped.parameters(), plain.parameters(), strict=True))
    assert set(spy.lent) == {None}


def test_a_nonfinite_norm_divides_nothing():
    """The healthy gradients stay as they are."""
    model = mlp()
    optimizer = adamw(model.parameters())
    with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]) as watch, _Spy() as spy:
        backward(model, torch.Generator().manual_seed(1))
        model[2].weight.grad[0, 0] = math.nan
        optimizer.step()
    assert spy.lent == [None]
    assert watch.incidents[0].kind == "nonfinite"


@pytest.mark.parametrize("unscale", [False, True])
def test_an_overflow_is_still_the_scalers(unscale):
    """Its ``found_inf`` stays: the step is skipped, no weight moves, no incident."""
    model = mlp()
    optimizer, scaler = adamw(model.parameters()), torch.amp.GradScaler("cpu", init_scale=4.0)
    generator = torch.Generator().manual_seed(1)
    with gradwatch.watch(model, clip=ClipNorm(MAX_NORM, error_if_nonfinite=True), writers=[]) as watch:
        for bad in (False, True, False):
            backward(model, generator, scaler)
            if bad:
                model[2].weight.grad[0, 0] = math.inf
            if unscale:
                scaler.unscale_(optimizer)
            before = [p.detach().clone() for p in model.parameters()]
            scaler.step(optimizer)
            scaler.update()
            same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            assert same == bad
    assert [record.skipped for record in watch.history] == [False, True, False]
    assert scaler.get_scale() == 2.0
    assert not watch.incidents


def test_the_scalers_own_attributes_come_back():
    """What was there before the step is there after it, also None: the scaler deletes it itself."""
    model = mlp()
    optimizer = adamw(model.parameters())
    scale = torch.tensor(8.0)
    for before in (scale, None):
        optimizer.grad_scale = before
        with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]):
            backward(model, torch.Generator().manual_seed(1))
            optimizer.step()
        assert optimizer.grad_scale is before


@pytest.mark.parametrize("ends", ["next step", "close"])
def test_a_step_that_raises_leaves_nothing_behind(ends):
    """Whatever was lent is taken back at the optimizer's next event, or when the watch ends."""
    model = mlp()
    optimizer = adamw(model.parameters())

    def explode(*_):
        raise RuntimeError("in a hook")

    watch = gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[])
    failing = optimizer.register_step_post_hook(explode)
    backward(model, torch.Generator().manual_seed(1))
    with pytest.raises(RuntimeError, match="in a hook"):
        optimizer.step()
    failing.remove()
    if ends == "next step":
        model.zero_grad()
        (loss_of(model, batch(model, torch.Generator().manual_seed(1))) * 1e-6).backward()
        optimizer.step()
        assert watch.history[-1].total_norm < MAX_NORM
        assert not watch.history[-1].clipped
        assert watch.history[-1].loss_scale is None
    else:
        watch.close()
    assert not hasattr(optimizer, "grad_scale")
    watch.close()


def test_states_and_copies_are_unaffected():
    """In mid-step the optimizer's state dict, its copy and its pickle carry nothing of ours."""
    model = mlp()
    optimizer = adamw(model.parameters())
    seen = []

    def inspect(which, *_):
        if which is optimizer:
            seen.append((hasattr(which, "grad_scale"), which.state_dict().keys(), pickle.dumps(which)))
            seen.append(hasattr(copy.deepcopy(which), "grad_scale"))

    with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]):
        handle = register_optimizer_step_pre_hook(inspect)
        backward(model, torch.Generator().manual_seed(1))
        optimizer.step()
        handle.remove()
    (lent, keys, pickled), copied = seen
    assert lent
    assert set(keys) == {"state", "param_groups"}
    assert not hasattr(pickle.loads(pickled), "grad_scale")
    assert not copied


def two_groups(model):
    half = list(model.parameters())
    return adamw([{"params": half[:2]}, {"params": half[2:], "lr": 0.1}])


def one_group_not_fused(model):
    half = list(model.parameters())
    return adamw([{"params": half[:2]}, {"params": half[2:], "fused": False}])


def with_a_stranger(model):
    stranger = nn.Parameter(torch.ones(3))
    stranger.grad = torch.ones(3)
    return adamw([*model.parameters(), stranger])


def with_a_hook_of_its_own(model):
    optimizer = adamw(model.parameters())
    optimizer.register_step_pre_hook(lambda *_: None)
    return optimizer


class Cautious(torch.optim.AdamW):
    """Reads gradients ahead of torch's step."""

    def step(self, closure=None):
        self.seen = self.param_groups[0]["params"][0].grad.clone()
        return super().step(closure)


CASES = {
    "two groups": (two_groups, True),
    "not fused": (lambda model: adamw(model.parameters(), fused=None), False),
    "one group not fused": (one_group_not_fused, False),
    "owns another gradient": (with_a_stranger, False),
    "a hook of the user's": (with_a_hook_of_its_own, False),
    "a step of the user's": (lambda model: Cautious(model.parameters(), fused=True), False),
}


@pytest.mark.parametrize(("make", "divides"), CASES.values(), ids=CASES)
def test_only_where_it_is_the_same(make, divides):
    """In every other case the gradients are clipped in place before anybody reads them, as ever."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = make(model)
    before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]) as watch, _Spy() as spy:
        backward(model, torch.Generator().manual_seed(1))
        optimizer.step()
    assert [lent is not None for lent in spy.lent[:1]] == [divides]
    assert watch.history[0].clipped_norm == pytest.approx(MAX_NORM, rel=1e-4)
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(MAX_NORM, rel=1e-4)
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(not torch.equal(a, b) for a, b in zip(before, owned, strict=True))


def test_double_precision_keeps_its_own():
    """The kernel's factor has float32: float64 parameters are clipped in place, to the last digit."""
    results = []
    for by_torch in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(8, 8, dtype=torch.float64)
        optimizer = adamw(model.parameters())
        with gradwatch.watch(model, clip=None if by_torch else ClipNorm(1e-3), writers=[]):
            for _ in range(5):
                model.zero_grad()
                model(torch.ones(2, 8, dtype=torch.float64)).square().sum().backward()
                if by_torch:
                    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                optimizer.step()
        results.append(model)
    assert distance(*results) < 1e-13


def test_value_clipping_stays_as_it_is():
    """A clamp is no factor: it happens before the step."""
    model = mlp()
    optimizer = adamw(model.parameters())
    with gradwatch.watch(model, clip=ClipValue(1e-4), writers=[]), _Spy() as spy:
        backward(model, torch.Generator().manual_seed(1))
        optimizer.step()
    assert spy.lent == [None]
    assert max(p.grad.abs().max().item() for p in model.parameters()) <= 1.001e-4


def test_a_second_watch_sees_what_the_optimizer_sees():
    """Two watches that clip one optimizer: the stricter decides, and both records are true."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = adamw(model.parameters())
    with (
        gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]) as first,
        gradwatch.watch(model, clip=ClipNorm(MAX_NORM / 2), writers=[]) as second,
    ):
        backward(model, torch.Generator().manual_seed(1))
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        with pytest.warns(GradwatchWarning, match="twice"):
            optimizer.step()
    for watch in (first, second):
        assert watch.total_norm == pytest.approx(norm, rel=1e-5)
        assert watch.history[0].clipped_norm == pytest.approx(MAX_NORM / 2, rel=1e-3)
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(MAX_NORM / 2, rel=1e-3)


def test_two_watches_of_two_optimizers_are_independent():
    """Each is lent its own factor."""
    models, generator = [mlp(), mlp()], torch.Generator().manual_seed(1)
    optimizers = [adamw(model.parameters()) for model in models]
    watches = [gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]) for model in models]
    with _Spy() as spy:
        for model, optimizer in zip(models, optimizers, strict=True):
            backward(model, generator)
            optimizer.step()
    assert all(lent is not None for lent in spy.lent)
    for watch in watches:
        watch.close()
        assert watch.history[0].clipped_norm == pytest.approx(MAX_NORM, rel=1e-4)


def test_with_a_closure():
    """The factor belongs to the gradients that the closure made."""
    torch.manual_seed(0)
    model = mlp()
    optimizer = adamw(model.parameters())
    with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[]) as watch:
        optimizer.step(lambda: backward(model, torch.Generator().manual_seed(1)))
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(MAX_NORM, rel=1e-4)
    assert watch.history[0].clipped


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
def test_a_compiled_step_obeys():
    """``torch.compile(optimizer.step)`` reads the factor of each step anew."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch.compiler.reset()
        model = mlp()
        optimizer = adamw(model.parameters())
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        generator = torch.Generator().manual_seed(1)
        with gradwatch.watch(model, clip=ClipNorm(MAX_NORM), writers=[], probes=False) as watch:
            for _ in range(3):
                backward(model, generator)
                step()
        assert watch.step == 3
        results.append(model)
    assert distance(*results) < 1e-6


@pytest.mark.parametrize("name", ["AdamW", "SGD momentum"])
def test_on_a_device_nobody_waits(name):
    """On ``device="meta"``, where any look at a value raises, factor and skip are both lent to the step."""
    model = nn.Linear(4, 4, device="meta")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer = OPTIMIZERS[name](model.parameters())
    lent = []
    watch = gradwatch.watch(model, clip=ClipNorm(MAX_NORM), skip_if_nonfinite=True, writers=[])
    handle = register_optimizer_step_pre_hook(lambda o, *_: lent.extend((o.grad_scale, o.found_inf)))
    with pytest.raises(RuntimeError, match="supported devices"):  # torch has no such kernel
        optimizer.step()
    handle.remove()
    assert [(tensor.device.type, tensor.dtype) for tensor in lent] == [("meta", torch.float32)] * 2
    assert watch._monitor._tracks.live()[0].pending is not None
    watch._monitor._intervention.end()
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")
    watch._subscription.close()
    watch._finalizer.detach()
