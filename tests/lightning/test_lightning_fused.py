"""A Trainer with a fused optimizer clips for free, skips non-finite steps and keeps to the overhead it may have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fits import amp, fit, inputs, module, quiet_watch, same_bits, trainer
from helpers import grad_norm

from gradwatch import ClipNorm, GradwatchWarning

LIMIT = 0.05


def _fused(pl: Any, **methods: Any) -> Any:
    """A module with a fused AdamW."""
    torch.manual_seed(0)
    configure = {"configure_optimizers": lambda self: torch.optim.AdamW(self.parameters(), lr=0.01, fused=True)}
    return module(pl, **configure, **methods)


def _distance(one: Any, other: Any) -> float:
    a, b = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (one, other))
    return ((a - b).norm() / b.norm()).item()


def test_clipping_equals_lightnings_own(pl: Any) -> None:
    """Within 1e-6 the weights of ``gradient_clip_val``; the module's hook before the step sees what is not clipped."""
    ours, theirs = _fused(pl), _fused(pl)
    records = fit(pl, ours, quiet_watch(clip=ClipNorm(LIMIT)), inputs(10), max_epochs=2)
    trainer(pl, max_epochs=2, gradient_clip_val=LIMIT).fit(theirs, inputs(10))
    assert _distance(ours, theirs) < 1e-6
    assert len(records) == 20
    assert [record.total_norm for record in records] == pytest.approx(ours.norms, rel=1e-5)
    assert all(record.clipped_norm == pytest.approx(min(LIMIT, record.total_norm), rel=1e-4) for record in records)
    assert ours.norms[0] == pytest.approx(theirs.norms[0], rel=1e-5)


def test_under_a_grad_scaler(pl: Any) -> None:
    """The scaler's factor and ours are one: the weights are those of a run that clips unscaled gradients."""
    ours, theirs = _fused(pl), _fused(pl)
    records = fit(pl, ours, quiet_watch(clip=ClipNorm(LIMIT)), inputs(10), plugins=[amp(pl)])
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for batch in inputs(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = theirs.batch_loss(batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), LIMIT)
        scaler.step(optimizer)
        scaler.update()
    assert _distance(ours, theirs) < 1e-5
    assert all(record.clipped for record in records[:3])
    assert {record.loss_scale for record in records} == {4.0}


def test_gradients_changed_before_the_step(pl: Any) -> None:
    """The module's own hook comes after ours: the limit is for what it leaves."""

    def on_before_optimizer_step(self: Any, optimizer: Any) -> None:
        for parameter in self.parameters():
            parameter.grad.mul_(100.0)

    def on_before_zero_grad(self: Any, optimizer: Any) -> None:
        self.norms.append(grad_norm(self))

    net = _fused(pl, on_before_optimizer_step=on_before_optimizer_step, on_before_zero_grad=on_before_zero_grad)
    records = fit(pl, net, quiet_watch(clip=ClipNorm(LIMIT)))
    assert [record.clipped_norm for record in records] == pytest.approx([LIMIT] * 4, rel=1e-3)


def test_lightning_clips_too(pl: Any) -> None:
    """Told once; the stricter limit decides, whichever it is."""
    for lightnings in (LIMIT / 2, LIMIT * 2):
        net = _fused(pl)
        with pytest.warns(GradwatchWarning, match="twice"):
            records = fit(pl, net, quiet_watch(clip=ClipNorm(LIMIT)), inputs(1), gradient_clip_val=lightnings)
        assert records[0].clipped_norm == pytest.approx(min(LIMIT, lightnings), rel=1e-3)
        assert records[0].total_norm == pytest.approx(net.norms[0], rel=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_nonfinite_step_is_skipped(pl: Any, *, fused: bool) -> None:
    """The weights stay bit-equal over it, the run goes on, and the incident is told."""
    bad = inputs(4).dataset.clone()
    bad[2:4] = math.nan
    loader = torch.utils.data.DataLoader(bad, batch_size=2)
    good = torch.utils.data.DataLoader(torch.cat([bad[:2], bad[4:]]), batch_size=2)
    make = (lambda: _fused(pl)) if fused else (lambda: torch.manual_seed(0) and module(pl))
    net, twin = make(), make()
    watch = quiet_watch(skip_if_nonfinite=True)
    records = fit(pl, net, watch, loader)
    fit(pl, twin, quiet_watch(), good)
    assert same_bits(net, twin)
    assert [record.held_back for record in records] == [False, True, False, False]
    assert [(incident.kind, incident.step) for incident in watch.incidents] == [("nonfinite", 1)]


def test_max_overhead(pl: Any) -> None:
    """Tiny steps cost far less than watching: from the fifth on nothing optional is left, and the summary says so."""
    watch = quiet_watch(every=2, max_overhead=1e-6)
    records = fit(pl, module(pl), watch, inputs(20))
    assert [record.step for record in records if record.grad_max is not None] == [0, 2, 4]
    assert all(record.total_norm > 0 for record in records)
    assert "max_overhead" in watch.summary()


def test_options_are_part_of_the_state_key(pl: Any) -> None:
    """Two callbacks that differ in these options are told apart in a checkpoint."""
    options = [{}, {"skip_if_nonfinite": True}, {"max_overhead": 0.01}]
    assert len({quiet_watch(**option).state_key for option in options}) == 3
