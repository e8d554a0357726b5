"""On a GPU, where there is one: watching and clipping never make the host wait, and find what they find on the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import gradwatch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

STEPS = 100


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def _train(model, optimizer, watch, device):
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(16, 32, generator=generator).to(device) for _ in range(STEPS)]
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        for x in batches:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            watch.loss(loss)
            loss.backward()
            optimizer.step()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("probes", [True, False])
def test_no_step_waits_for_the_device(tmp_path, fused, probes):
    """100 clipped steps under ``set_sync_debug_mode("error")``; the records are those of the same run on the CPU."""
    found = {}
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(_net()).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
        options = {"clip": gradwatch.ClipNorm(0.05), "skip_if_nonfinite": fused, "probes": probes}
        with gradwatch.watch(model, logdir=tmp_path / device, writers=[], **options) as watch:
            _train(model, optimizer, watch, device)
        found[device] = watch
    cpu, cuda = (found[device].history for device in ("cpu", "cuda"))
    assert len(cpu) == len(cuda) == STEPS
    assert all(record.clipped for record in list(cuda)[:10])
    for here, there in zip(cpu, cuda, strict=True):
        np.testing.assert_allclose(there.grad_norm, here.grad_norm, rtol=1e-2)
        assert there.clipped_norm == pytest.approx(here.clipped_norm, rel=1e-2)
    assert [i.kind for i in found["cuda"].incidents] == [i.kind for i in found["cpu"].incidents]


def test_a_nonfinite_step_is_skipped_without_a_wait():
    """The device decides by itself, and the record says so; weights stay bit-equal over the bad step."""
    model = _net().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    bad, good = torch.full((16, 32), float("nan"), device="cuda"), torch.randn(16, 32, device="cuda")
    with gradwatch.watch(model, skip_if_nonfinite=True, writers=[]) as watch:
        torch.cuda.set_sync_debug_mode("error")
        try:
            for x in (good, bad, good):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                before = [parameter.detach().clone() for parameter in model.parameters()]
                optimizer.step()
                stayed = torch.stack([(a == b).all() for a, b in zip(before, model.parameters(), strict=True)]).all()
                if x is bad:
                    frozen = stayed
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert bool(frozen)
    assert [record.skipped for record in watch.history] == [False, True, False]
