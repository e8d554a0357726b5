"""Lightning's order of things: rows L1 to L8 of the hazards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fits import amp, clipped_norms, fit, inputs, module, quiet_watch, spiky, total_norms
from helpers import grad_norm

import gradwatch
from gradwatch.errors import GradwatchWarning


@pytest.mark.parametrize("accumulate", [1, 2])
def test_l01_the_norm_is_that_of_complete_gradients(pl, accumulate):
    """The recorded norm is the one that the module itself finds before the step, one record a step."""
    net, watch = module(pl), quiet_watch()
    records = fit(pl, net, watch, accumulate_grad_batches=accumulate)
    assert len(records) == watch.step == 4 // accumulate
    assert total_norms(records) == pytest.approx(net.norms, rel=1e-5)


def test_l01_the_norm_is_unscaled(pl):
    """With a GradScaler the recorded norm has no scale in it."""
    net = module(pl)
    records = fit(pl, net, quiet_watch(), plugins=[amp(pl)])
    assert total_norms(records) == pytest.approx(net.norms, rel=1e-5)
    assert clipped_norms(records) == pytest.approx(net.moves, rel=1e-3)


@pytest.mark.parametrize("scaled", [False, True])
def test_l01_our_clip_comes_before_everything_of_the_users(pl, scaled):
    """The module's own hook already finds the clipped gradients, and the weights move by no more."""
    net = module(pl)
    plugins = [amp(pl)] if scaled else None
    records = fit(pl, net, quiet_watch(clip=gradwatch.ClipNorm(0.1)), plugins=plugins)
    assert min(total_norms(records)) > 0.1
    assert net.norms == pytest.approx([0.1] * 4, rel=1e-3)
    assert net.moves == pytest.approx([0.1] * 4, rel=1e-3)
    assert clipped_norms(records) == pytest.approx([0.1] * 4, rel=1e-3)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_l01_the_record_is_from_before_lightnings_clip(pl, algorithm):
    """``gradient_clip_val`` does not change what is recorded as the norm, only what the optimizer sees of it."""
    net = module(pl)
    records = fit(pl, net, quiet_watch(), gradient_clip_val=0.05, gradient_clip_algorithm=algorithm)
    assert total_norms(records) == pytest.approx(net.norms, rel=1e-5)
    assert clipped_norms(records) == pytest.approx(net.moves, rel=1e-4)
    assert all(record.clipped for record in records)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("scaled", [False, True])
def test_l01_the_loss_is_the_mean_over_the_micro_batches(pl, accumulate, scaled):
    """It is neither scaled nor divided, and right in the shorter last window of an epoch, too."""
    net = module(pl)
    plugins = [amp(pl)] if scaled else None
    records = fit(pl, net, quiet_watch(), inputs(5), accumulate_grad_batches=accumulate, plugins=plugins, max_epochs=2)
    windows = [e + b for e in (0, 5) for b in range(0, 5, accumulate)]
    means = []
    for start in windows:
        window = net.losses[start : min(start + accumulate, 5 if start < 5 else 10)]
        means.append(sum(window) / len(window))
    assert [record.loss for record in records] == pytest.approx(means, rel=1e-3)


def fused_sgd(self: Any) -> Any:
    """Handles the loss scale itself."""
    return torch.optim.SGD(self.parameters(), lr=1.0, fused=True)


def test_l02_a_fused_optimizer_with_a_scaler_gives_the_unscaled_norm(pl):
    """A fused optimizer's gradients still carry the scale when the callback is called: the record does not."""
    plain, fused = module(pl), module(pl, configure_optimizers=fused_sgd)
    fused.load_state_dict(plain.state_dict())
    expected = fit(pl, plain, quiet_watch(), plugins=[amp(pl, 64.0)])
    records = fit(pl, fused, quiet_watch(), plugins=[amp(pl, 64.0)])
    assert total_norms(records) == pytest.approx(total_norms(expected), rel=1e-3)
    assert fused.norms[0] == pytest.approx(64 * records[0].total_norm, rel=1e-3)
    assert [record.loss for record in records] == pytest.approx(fused.losses, rel=1e-3)


@pytest.mark.parametrize("clip", [gradwatch.ClipNorm(0.1), gradwatch.ClipValue(0.01)])
def test_l02_a_fused_optimizer_with_a_scaler_is_clipped_by_unscaled_limits(pl, clip):
    """The limit is that of unscaled gradients, and the record says by how much the weights will move."""
    net = module(pl, configure_optimizers=fused_sgd)
    records = fit(pl, net, quiet_watch(clip=clip), plugins=[amp(pl, 64.0)])
    assert clipped_norms(records) == pytest.approx(net.moves, rel=1e-3)
    assert max(net.moves) < 0.101


def test_l03_only_a_given_scaler_makes_these_tests_worth_something(pl):
    """On a CPU ``precision="16-mixed"`` has no scaler; the one that the tests hand over is there and recorded."""
    with pytest.warns(UserWarning, match="not supported on CPU"):
        without = fit(pl, module(pl), quiet_watch(), precision="16-mixed")
    given = fit(pl, module(pl), quiet_watch(), plugins=[amp(pl)])
    assert [record.loss_scale for record in without] == [None] * 4
    assert [record.loss_scale for record in given] == [4.0] * 4


def overflow_at(*steps: int) -> Any:
    """``on_after_backward`` that makes one gradient infinite."""

    def on_after_backward(self: Any) -> None:
        if len(self.losses) - 1 in steps:
            next(self.parameters()).grad[0, 0] = math.inf

    return on_after_backward


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [None, gradwatch.ClipNorm(0.1)])
def test_l04_an_overflow_is_a_skipped_step_and_no_incident(pl, fused, clip):
    """The step is there, counted as Lightning counts it, marked as skipped; nothing moved, nobody is alarmed."""
    methods = {"configure_optimizers": fused_sgd} if fused else {}
    net, watch = module(pl, on_after_backward=overflow_at(1, 3), **methods), quiet_watch(clip=clip)
    records = fit(pl, net, watch, inputs(6), plugins=[amp(pl)])
    assert [record.step for record in records] == [0, 1, 2, 3, 4, 5]
    assert [record.skipped for record in records] == [False, True, False, True, False, False]
    assert [math.isnan(record.clipped_norm) for record in records] == [r.skipped for r in records]
    assert [move == 0 for move in net.moves] == [record.skipped for record in records]
    assert records[1].num_nonfinite[0] == 1
    assert [record.loss_scale for record in records] == [4.0, 4.0, 2.0, 2.0, 1.0, 1.0]
    assert not [incident for incident in watch.incidents if incident.kind == "nonfinite"]
    assert net.trainer.global_step == watch.step


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_l05_clipping_twice_warns_and_records_what_came_in_and_what_went_out(pl, algorithm):
    """One warning; the record has the norm before anybody's clip, after ours, and the one that moved the weights."""
    net, reference = module(pl), module(pl)
    reference.load_state_dict(net.state_dict())
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    with pytest.warns(GradwatchWarning, match="clipped twice") as caught:
        records = fit(pl, net, quiet_watch(clip=gradwatch.ClipNorm(0.1)), **options)
    assert len([w for w in caught if w.category is GradwatchWarning]) == 1
    fit(pl, reference, quiet_watch())
    assert records[0].total_norm == pytest.approx(reference.norms[0], rel=1e-5)
    assert net.norms == pytest.approx([0.1] * 4, rel=1e-4), "ours, as the module's hook finds it"
    assert [record.own_clipped_norm for record in records] == pytest.approx(net.norms, rel=1e-4)
    assert clipped_norms(records) == pytest.approx(net.moves, rel=1e-3)
    assert max(net.moves) < 0.09


def manually(step: Any) -> dict[str, Any]:
    """For a module that calls its optimizers itself."""
    methods = {"training_step": step, "on_before_optimizer_step": lambda self, optimizer: None}
    return {**methods, "automatic_optimization": False}


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("scaled", [False, True])
def test_l06_manual_optimization_is_seen_once_a_step(pl, wrapped, scaled):
    """Through Lightning's wrapper and past it: one record a step with norm and loss, and our clip moves the weights."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=wrapped)
        optimizer.zero_grad()
        self.manual_backward(self.batch_loss(batch))
        self.norms.append(grad_norm(self) / (4.0 if scaled else 1.0))
        if scaled and not wrapped:
            self.trainer.precision_plugin.scaler.step(optimizer)
            self.trainer.precision_plugin.scaler.update()
        else:
            optimizer.step()

    net, watch = module(pl, **manually(training_step)), quiet_watch(clip=gradwatch.ClipNorm(0.1))
    records = fit(pl, net, watch, plugins=[amp(pl)] if scaled else None)
    assert [record.step for record in records] == [0, 1, 2, 3]
    assert [record.loss for record in records] == pytest.approx(net.losses, rel=1e-3)
    assert total_norms(records) == pytest.approx(net.norms, rel=1e-3)
    assert net.moves == pytest.approx([0.1] * 4, rel=1e-3)


def test_l06_manual_accumulation_takes_the_mean_loss(pl):
    """With a step on every second batch the loss is the mean of the two, as they were given."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.batch_loss(batch))
        if batch_idx % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()

    net = module(pl, **manually(training_step))
    records = fit(pl, net, quiet_watch())
    first, second, third, fourth = net.losses
    assert [record.loss for record in records] == pytest.approx([(first + second) / 2, (third + fourth) / 2])


def test_l07_two_optimizers_are_two_series(pl):
    """Each record has its own optimizer's parameters and index, as in ``trainer.optimizers``, whoever steps first."""
    own_norms = []

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        for index in (1, 0):  # the second one first; the gradients of both are there
            self.manual_backward(self.batch_loss(batch))
            own_norms.append(grad_norm(self.net[2 * index]))
            self.optimizers()[index].step()
            self.optimizers()[index].zero_grad()

    def configure_optimizers(self: Any) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.SGD(self.net[2].parameters(), lr=0.2)]

    net = module(pl, **manually(training_step), configure_optimizers=configure_optimizers)
    watch = quiet_watch()
    records = fit(pl, net, watch)
    assert [record.optimizer for record in records] == [1, 0] * 4
    assert [record.names for record in records[:2]] == [("net.2.weight", "net.2.bias"), ("net.0.weight", "net.0.bias")]
    assert total_norms(records) == pytest.approx(own_norms, rel=1e-5)
    assert [record.lr for record in records[:2]] == [0.2, 0.1]
    assert [record.loss for record in records] == pytest.approx(net.losses)
    assert [record.step for record in records] == list(range(net.trainer.global_step))


def test_l08_lbfgs_is_one_step_with_its_first_gradient(pl):
    """Lightning's hook is called at every closure evaluation: the record is that of the first one."""
    firsts = []

    def on_before_optimizer_step(self: Any, optimizer: Any) -> None:
        self.norms.append(grad_norm(self))
        if len(firsts) < self.trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            firsts.append((self.norms[-1], self.losses[-1]))

    def configure_optimizers(self: Any) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    net = module(pl, configure_optimizers=configure_optimizers, on_before_optimizer_step=on_before_optimizer_step)
    watch = quiet_watch()
    records = fit(pl, net, watch)
    assert len(net.norms) > 2 * len(records)
    assert watch.step == len(records) == 4
    assert total_norms(records) == pytest.approx([norm for norm, _ in firsts], rel=1e-5)
    assert [record.loss for record in records] == pytest.approx([loss for _, loss in firsts])


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # that is what is tested
@pytest.mark.parametrize("scaled", [False, True])
def test_l08_a_training_step_without_a_loss_is_a_step_without_gradients(pl, scaled):
    """Absent gradients, no loss, no incident; the steps around it are as usual."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 2 else self.batch_loss(batch)

    net, watch = module(pl, training_step=training_step), quiet_watch(clip=gradwatch.ClipNorm(0.1))
    records = fit(pl, net, watch, inputs(5), plugins=[amp(pl)] if scaled else None)
    assert [record.absent.all() for record in records] == [False, False, True, False, False]
    assert [record.loss is None for record in records] == [False, False, True, False, False]
    assert net.moves[2] == 0
    assert watch.incidents == []


def test_a_bad_batch_is_one_incident_with_lightnings_clip_on(pl):
    """What Lightning clips away is still seen."""
    watch = quiet_watch()
    fit(pl, module(pl), watch, spiky(30, 20), gradient_clip_val=0.1)
    assert [(incident.kind, incident.step) for incident in watch.incidents] == [("data_outlier", 20)]
