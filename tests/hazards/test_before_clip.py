"""What was measured before somebody's clipping, when not everything is clipped, or known, at once."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import gradwatch


def two_parts() -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 1)})


def norm(parameters) -> float:
    return float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def test_a06_gradients_that_come_after_a_clipping_are_measured():
    """The encoder is clipped before the decoder has gradients: the record has both, each from before its clipping."""
    for also_the_decoder in (False, True):
        model = two_parts()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with gradwatch.watch(model, writers=[]) as watch:
            for _ in range(2):
                optimizer.zero_grad()
                (model["encoder"](torch.ones(2, 4)).square().sum() * 100).backward()
                true = [norm(model["encoder"].parameters())]
                nn.utils.clip_grad_norm_(model["encoder"].parameters(), 1.0)
                (model["decoder"](torch.ones(2, 4)).square().sum() * 100).backward()
                true.append(norm(model["decoder"].parameters()))
                if also_the_decoder:
                    nn.utils.clip_grad_norm_(model["decoder"].parameters(), 1.0)
                optimizer.step()
        for record in watch.history:
            assert not record.absent.any()
            assert record.total_norm == pytest.approx((true[0] ** 2 + true[1] ** 2) ** 0.5, rel=1e-5)


def test_a06_a_layer_unfrozen_between_two_clipped_steps():
    """The step at which the layout changes has its norm from before the clipping, too."""
    model = two_parts()
    model["encoder"].requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradwatch.watch(model, writers=[]) as watch:
        for step in range(3):
            if step == 1:
                model["encoder"].requires_grad_()
            optimizer.zero_grad()
            (model["decoder"](model["encoder"](torch.ones(2, 4))).square().sum() * 100).backward()
            true = norm(model.parameters())
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            assert watch.total_norm == pytest.approx(true, rel=1e-5)
            assert watch.history[-1].clipped_norm == pytest.approx(0.1, rel=1e-4)


def step_inside_backward(model: nn.Module) -> None:
    for parameter in model.parameters():
        optimizer = torch.optim.SGD([parameter], lr=0.01)
        parameter.register_post_accumulate_grad_hook(lambda p, o=optimizer: o.step() or o.zero_grad())


def test_a17_two_watches_of_one_backward_pass():
    """Both models step inside the same backward pass: each watch has one record for it."""
    model = two_parts()
    step_inside_backward(model)
    with (
        gradwatch.watch(model["encoder"], writers=[]) as first,
        gradwatch.watch(model["decoder"], writers=[]) as second,
    ):
        for _ in range(3):
            model["decoder"](model["encoder"](torch.ones(2, 4))).sum().backward()
    assert (first.step, second.step) == (3, 3)


class Explodes(torch.autograd.Function):
    """Fails in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise KeyError("backward")


def test_a17_a_backward_pass_that_raised_leaves_nothing_behind():
    """Its shares are not counted among the next pass's."""
    model = two_parts()
    step_inside_backward(model)
    with gradwatch.watch(model, writers=[]) as watch:
        with pytest.raises(KeyError):
            model["decoder"](Explodes.apply(model["encoder"](torch.ones(2, 4)))).sum().mul(100).backward()
        model["decoder"](torch.ones(2, 4)).sum().backward()
    assert watch.step == 1
    assert watch.total_norm == pytest.approx((4 * 2**2 + 2**2) ** 0.5)


def test_a_closed_watch_touches_nothing():
    """After ``close()`` neither ``observe`` nor anything else measures or clips; entering it again says so."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = gradwatch.watch(model, writers=[], clip=gradwatch.ClipNorm(1e-3))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    watch.close()
    optimizer.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    watch.observe(optimizer)
    assert float(model.weight.grad.norm()) > 1
    assert watch.step == 1
    with pytest.warns(gradwatch.GradwatchWarning, match="closed and sees nothing"), watch:
        pass


def test_a_watch_that_nobody_keeps_says_so():
    """``gradwatch.watch(model)`` as a bare statement watches nothing, which is told."""

    def bare_statement():
        gradwatch.watch(nn.Linear(1, 1), writers=[])
        gc.collect()

    with pytest.warns(gradwatch.GradwatchWarning, match="dropped before any step"):
        bare_statement()


def test_a_closed_watch_keeps_no_parameter_alive():
    """The records stay, the model's memory does not: also where the first gradients were clipped by the user."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.watch(model, writers=[]) as watch:
        model(torch.ones(1, 3)).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    alive = weakref.ref(model.weight)
    del model, optimizer
    gc.collect()
    assert alive() is None
    assert watch.history[0].total_norm > 1


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_is_skipped_even_where_the_user_wants_errors(fused):
    """``error_if_nonfinite=True`` is for real faults: a GradScaler's overflow is a skipped step, and nobody raises."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    clip = gradwatch.ClipNorm(1.0, error_if_nonfinite=True)
    with gradwatch.watch(model, writers=[], clip=clip) as watch:
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(1, 3)).sum()).backward()
            if step == 1:
                model.weight.grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
    assert [record.skipped for record in watch.history] == [False, True, False]
    assert watch.incidents == []


def test_sharded_parameters_of_a_single_process_are_measured(tmp_path):
    """In a real process group of one: there is nobody to talk to, and nothing is warned of."""
    code = f"""
import warnings
import torch, torch.distributed as dist, gradwatch
from gradwatch.errors import GradwatchWarning
from torch.distributed.fsdp import fully_shard
warnings.simplefilter("error", GradwatchWarning)
from torch.distributed.device_mesh import init_device_mesh
dist.init_process_group("gloo", init_method="file://{tmp_path}/rendezvous", rank=0, world_size=1)
model = torch.nn.Linear(4, 1)
fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with gradwatch.watch(model, writers=[], clip=gradwatch.ClipNorm(1.0)) as watch:
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
dist.destroy_process_group()
record, = watch.history
print(record.names, *record.grad_norm.tolist(), round(record.total_norm ** 2, 9), round(record.clipped_norm, 5))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n")[-2] == "('weight', 'bias') 4.0 2.0 20.0 1.0"
    assert "gradwatch" not in done.stderr
