"""Watching never changes training, leaves nothing behind and holds no more memory than it says."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import torch
from models import MODELS, batch, loss_of, mlp
from torch.optim import optimizer as torch_optimizer

import gradwatch


def weights_after(make, *, watched, steps=200):
    """All parameters and buffers after some steps of AdamW, and the state of the random generator."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    batches = [batch(model, generator) for _ in range(10)]

    def train(watch=None):
        for step in range(steps):
            loss = loss_of(model, batches[step % 10])
            if watch is not None:
                watch.loss(loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    if watched:
        with gradwatch.watch(model, writers=[], every=3) as watch:
            train(watch)
        assert watch.step == steps
    else:
        train()
    return {**model.state_dict(), "random state": torch.get_rng_state()}


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_bit_equal_after_200_steps(model):
    """With ``clip=None`` a watched run ends in the very bits of an unwatched one, dropout's random numbers included."""
    plain, watched = weights_after(MODELS[model], watched=False), weights_after(MODELS[model], watched=True)
    assert plain.keys() == watched.keys()
    for name in plain:
        assert torch.equal(plain[name], watched[name]), name


def test_five_thousand_steps_leave_memory_flat_and_no_hook(tmp_path):
    """After the history is full nothing grows, with TensorBoard and JSONL writing; nothing of ours stays in torch."""
    taps = (torch.amp.GradScaler.step, torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = torch.randn(8, 4)
    writers = [gradwatch.JSONLWriter(tmp_path / "run.jsonl")]
    with gradwatch.watch(model, logdir=tmp_path / "before", writers=[]):  # on a slow machine a picture is drawn midway:
        model(data).square().mean().backward()  # what that imports is there already
        optimizer.step()
    sizes = []
    tracemalloc.start()
    with gradwatch.watch(model, logdir=tmp_path, writers=writers, history=100) as watch:
        for step in range(5_000):
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step in {1_000, 4_999}:
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert watch.step == 5_000
    assert [watch.history[0].step, len(watch.history)] == [4_900, 100]
    assert sizes[1] - sizes[0] < 500_000
    assert not torch_optimizer._global_optimizer_pre_hooks
    assert not torch_optimizer._global_optimizer_post_hooks
    assert taps == (torch.amp.GradScaler.step, torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_a_history_of_one_record():
    """``history=`` bounds what is kept, and ``every=`` thins only what is sampled."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, writers=[], every=2, history=3) as watch:
        for _ in range(4):
            loss_of(model, batch(model, torch.Generator())).backward()
            optimizer.step()
    records = watch.history
    assert [record.step for record in records] == [1, 2, 3]
    assert [record.update_ratio is not None for record in records] == [False, True, False]
    assert [record.weight_norm is not None for record in records] == [False, True, False]
    assert [record.grad_max is not None for record in records] == [False, True, False]
    assert all(record.grad_norm.shape == (8,) for record in records)


@pytest.mark.parametrize("every", [None, 30])
def test_when_samples_are_taken(every):
    """By default every 10th of the first hundred steps and every 20th later; a number that was asked for is kept."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, writers=[], every=every) as watch:
        for _ in range(200):
            model(torch.randn(4, 3)).sum().backward()
            optimizer.step()
    for name in ("grad_max", "weight_norm", "update_ratio"):
        sampled = [record.step for record in watch.history if getattr(record, name) is not None]
        assert sampled == ([*range(0, 100, 10), *range(100, 200, 20)] if every is None else [*range(0, 200, 30)])
