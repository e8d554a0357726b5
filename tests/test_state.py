"""A resumed run says the same as an uninterrupted one."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from models import batch, loss_of, mlp

import gradwatch
from gradwatch.errors import StateError


def run(steps, *, state=None, saved_model=None, start=0):
    """Train on digits; the loss jumps at step 40, NaNs are injected from step 60 on. Returns watch and states."""
    torch.manual_seed(0)
    model = mlp(6, torch.nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if saved_model is not None:
        model.load_state_dict(saved_model["model"])
        optimizer.load_state_dict(saved_model["optimizer"])
    generator = torch.Generator().manual_seed(1)
    batches = [batch(model, generator) for _ in range(steps)]
    watch = gradwatch.watch(model, writers=[], clip=gradwatch.ClipNorm(5.0), every=7)
    if state is not None:
        watch.load_state_dict(state)
    for step in range(start, steps):
        loss = loss_of(model, batches[step]) * (1e4 if 40 <= step < 50 else 1.0)
        watch.loss(loss)
        loss.backward()
        if step in {60, 62, 63}:
            model[4].weight.grad[0, 0] = math.nan
        if step in {60, 62, 63}:
            before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        if step in {60, 62, 63}:  # the user repairs the damage, so that the run goes on
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.data.copy_(value)
            optimizer.state.clear()
        optimizer.zero_grad()
    watch.close()
    return watch, {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


@pytest.mark.parametrize("interrupted_at", [5, 45, 61, 63])
def test_a_resumed_run_says_the_same(interrupted_at):
    """Interrupted before, in and between incidents: records, incidents, counters and summary go on unbroken."""
    whole, _ = run(110)
    first, models = run(interrupted_at)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    second, _ = run(110, state=state, saved_model=models, start=interrupted_at)
    assert second.step == whole.step == 110
    assert [i.to_json() for i in second.incidents] == [i.to_json() for i in whole.incidents]
    assert {i.kind for i in whole.incidents} >= {"data_outlier", "nonfinite"}
    for record, expected in zip(second.history, whole.history[interrupted_at:], strict=True):
        assert record.step == expected.step
        np.testing.assert_array_equal(record.grad_norm, expected.grad_norm)
        assert (record.update_ratio is None) == (expected.update_ratio is None)  # the sampling goes on in step
    ours, theirs = second._monitor.summary(), whole._monitor.summary()
    assert (ours.num_steps, ours.num_clipped, ours.num_skipped) == (theirs.num_steps, theirs.num_clipped, 0)
    for row, expected in zip(ours.layers, theirs.layers, strict=True):
        assert (row.name, row.first, row.worst_step) == (expected.name, expected.first, expected.worst_step)


def test_the_state_is_a_fixed_point():
    """Saving, loading and saving again gives the same state: nothing is lost, nothing aliased."""
    watch, _ = run(70)
    state = watch.state_dict()
    other = gradwatch.watch(mlp(6, torch.nn.Tanh), writers=[], clip=gradwatch.ClipNorm(5.0), every=7)
    other.load_state_dict(state)
    again = other.state_dict()
    assert again == state
    assert other.incidents == watch.incidents
    with pytest.warns(gradwatch.GradwatchWarning, match="no optimizer step") if other.step == 0 else _nothing():
        other.close()


class _nothing:  # noqa: N801 - stands where a context manager stands
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def test_optimizers_keep_their_numbers():
    """Two optimizers, stepping in another order after the resume, keep index and sampling counter by what they own."""

    def gan():
        models = torch.nn.ModuleDict({"g": torch.nn.Linear(2, 2), "d": torch.nn.Linear(2, 1)})
        return models, {name: torch.optim.SGD(module.parameters(), lr=0.1) for name, module in models.items()}

    def step(models, optimizer):
        models["d"](models["g"](torch.ones(1, 2))).sum().backward()
        optimizer.step()

    models, optimizers = gan()
    with gradwatch.watch(models, writers=[]) as first:
        step(models, optimizers["d"])
        step(models, optimizers["g"])
        step(models, optimizers["d"])
    assert [(r.optimizer, r.names[0]) for r in first.history] == [(0, "d.weight"), (1, "g.weight"), (0, "d.weight")]
    models, optimizers = gan()
    with gradwatch.watch(models, writers=[]) as second:
        second.load_state_dict(first.state_dict())
        step(models, optimizers["g"])
        step(models, optimizers["d"])
    assert [(r.step, r.optimizer, r.names[0]) for r in second.history] == [(3, 1, "g.weight"), (4, 0, "d.weight")]


@pytest.mark.parametrize("state", [{}, {"version": 99}, None, [1]])
def test_a_foreign_state_is_refused(state):
    """With a clear error of our tree, and nothing is lost."""
    model = mlp()
    watch = gradwatch.watch(model, writers=[])
    with pytest.raises(StateError, match="no state_dict of a watch"):
        watch.load_state_dict(state)
    with pytest.warns(gradwatch.GradwatchWarning):
        watch.close()
