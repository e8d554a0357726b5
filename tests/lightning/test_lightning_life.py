"""Beginning, end and state of the callback: rows L9, L10 and L13 to L15 of the hazards."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from fits import (
    NETS,
    PACKAGES,
    LineWriter,
    clipped_norms,
    event_files,
    fit,
    inputs,
    module,
    packed_rows,
    points,
    quiet_watch,
    spiky,
    total_norms,
    trainer,
)
from helpers import torch_as_it_is

import gradwatch
from gradwatch.errors import GradwatchWarning
from gradwatch.lightning import GradWatch
from gradwatch.writers.jsonl import read_jsonl


def failing_at(step: int, error: BaseException) -> Any:
    """A ``training_step`` that raises."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == step:
            raise error
        return self.batch_loss(batch)

    return training_step


@pytest.mark.parametrize(("error", "surfaces"), [(OSError("disk"), OSError), (KeyboardInterrupt(), SystemExit)])
@pytest.mark.parametrize("own_logdir", [False, True])
def test_l09_after_an_exception_hooks_are_gone_and_files_are_complete(pl, tmp_path, error, surfaces, own_logdir):
    """``teardown`` is not called then: all steps so far are on disk, and torch is as it was."""
    before = torch_as_it_is()
    watch = quiet_watch(logdir=tmp_path / "own" if own_logdir else None)
    logger = False if own_logdir else pl.loggers.TensorBoardLogger(tmp_path, name="run")
    with pytest.raises(surfaces):
        fit(pl, module(pl, training_step=failing_at(3, error)), watch, logger=logger)
    assert torch_as_it_is() == before
    assert watch.step == packed_rows(tmp_path) == 3
    assert "3 steps" in watch.summary()


def test_l09_an_exception_while_setting_up_is_the_users_own(pl):
    """Nothing of ours hides it or is left behind."""

    def on_fit_start(self: Any) -> None:
        raise OSError("no data")

    with pytest.raises(OSError, match="no data"):
        fit(pl, module(pl, on_fit_start=on_fit_start), quiet_watch())


def test_l10_no_attribute_is_called_like_lightnings(pl):
    """Lightning sets ``log`` and ``log_dict`` on every callback; all that is ours still works afterwards."""
    watch = quiet_watch()
    ours = {name for kind in (GradWatch, *GradWatch.__mro__[1:2]) for name in vars(kind)} | set(vars(watch))
    assert ours.isdisjoint({"log", "log_dict"})
    fit(pl, module(pl), watch)
    watch.loss(1.0)
    assert callable(watch.log)
    assert len(watch.history) == watch.step == 4
    assert math.isfinite(watch.total_norm)


def checkpointed(pl: Any, directory: Path) -> Any:
    """One file an epoch."""
    return pl.callbacks.ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1)


def test_l13_a_checkpoint_loads_with_weights_only(pl, tmp_path):
    """Incidents and baselines in it are plain values."""
    watch = quiet_watch()
    trainer(pl, watch, checkpointed(pl, tmp_path)).fit(module(pl), spiky(30, 20))
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["callbacks"][watch.state_key]
    assert watch.incidents
    assert saved == watch.state_dict()


def plain_sgd(self: Any) -> Any:
    """With momentum, which a checkpoint keeps, too."""
    return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def exploding_late(self: Any, batch: Any, batch_idx: int) -> Any:
    """A ``training_step`` whose loss grows a billion times as large for a while, after where we resume."""
    return self.batch_loss(batch) * (1e9 if 55 <= self.global_step < 62 else 1)


def test_l13_a_resumed_run_says_what_an_uninterrupted_one_says(pl, tmp_path):
    """Step numbers, norms, incidents and baselines are the same."""
    net = module(pl, training_step=exploding_late, configure_optimizers=plain_sgd)
    weights = copy.deepcopy(net.state_dict())
    whole, first, second = quiet_watch(), quiet_watch(), quiet_watch()
    options = {"gradient_clip_val": 0.5}
    trainer(pl, whole, max_epochs=2, **options).fit(net, spiky(40, 20))
    net = module(pl, training_step=exploding_late, configure_optimizers=plain_sgd)
    net.load_state_dict(weights)
    trainer(pl, first, checkpointed(pl, tmp_path), **options).fit(net, spiky(40, 20))
    resumed = trainer(pl, second, max_epochs=2, **options)
    net = module(pl, training_step=exploding_late, configure_optimizers=plain_sgd)
    resumed.fit(net, spiky(40, 20), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert whole.step == second.step == 80
    assert [record.step for record in second.history] == list(range(40, 80))
    assert total_norms(second.history) == total_norms(whole.history)[40:]
    assert [record.weight_norm is None for record in second.history] == [i % 10 > 0 for i in range(40)]
    assert whole.incidents == second.incidents
    assert [incident.step > 40 for incident in whole.incidents] == [False, True]
    assert whole.state_dict() == second.state_dict()


def test_l13_the_same_callback_can_be_resumed_again(pl, tmp_path):
    """A callback that has already run takes the state of the checkpoint, not its own later one."""
    watch = quiet_watch()
    trainer(pl, watch, checkpointed(pl, tmp_path), max_epochs=2).fit(module(pl), inputs())
    assert watch.step == 8
    tracks = watch.state_dict()["tracks"]
    trainer(pl, watch, max_epochs=2).fit(module(pl), inputs(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert watch.step == 8
    assert [record.step for record in watch.history[-4:]] == [4, 5, 6, 7]
    assert watch.state_dict()["tracks"] == tracks


@pytest.mark.parametrize("stage", ["test", "validate", "predict"])
def test_l13_looking_at_an_old_checkpoint_does_not_turn_the_clock_back(pl, tmp_path, stage):
    """``trainer.test(ckpt_path=...)`` restores callbacks, too; what the fit has found stays readable."""
    watch = quiet_watch()
    run = trainer(pl, watch, checkpointed(pl, tmp_path), max_epochs=2)
    net = module(pl)
    run.fit(net, inputs())
    getattr(run, stage)(net, inputs(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert watch.step == len(watch.history) == 8
    watch.load_state_dict({**watch.state_dict(), "num_steps": 5})  # by hand it still works
    assert watch.step == 5


def test_l13_two_of_them_live_in_one_checkpoint(pl, tmp_path):
    """Different options are different keys, and each finds its own state again."""
    clip = gradwatch.ClipNorm(0.1)
    one, two = quiet_watch(), quiet_watch(clip=clip, every=3)
    assert len({one.state_key, two.state_key, quiet_watch(every=3).state_key, quiet_watch(history=3).state_key}) == 4
    trainer(pl, one, two, checkpointed(pl, tmp_path)).fit(module(pl), inputs())
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["callbacks"]
    assert saved[one.state_key]["num_steps"] == saved[two.state_key]["num_steps"] == 4
    again = quiet_watch(), quiet_watch(clip=clip, every=3)
    trainer(pl, *again, max_epochs=2).fit(module(pl), inputs(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert [watch.step for watch in again] == [8, 8]
    assert [sum(r.weight_norm is not None for r in watch.history) for watch in again] == [0, 1]


class Halving:
    """A clipping rule that says nothing about itself."""

    norm_type = 2.0
    needs = ()
    per_parameter = False

    def apply(self, parameters: Any, statistics: Any, scale: Any) -> None:
        for parameter in parameters:
            parameter.grad.mul_(0.5)


def test_l13_the_key_of_a_users_own_rule_is_the_same_tomorrow():
    """It does not hold a memory address, with which no checkpoint would ever fit."""
    assert quiet_watch(clip=Halving()).state_key == quiet_watch(clip=Halving()).state_key
    assert quiet_watch(clip=Halving()).state_key != quiet_watch().state_key


def test_l14_the_callback_pickles_before_and_after_a_fit(pl, tmp_path):
    """The copy goes on counting; neither files nor hooks nor the LightningModule go along."""
    watch = quiet_watch(logdir=tmp_path / "logs", writers=[LineWriter(tmp_path / "records.txt")])
    pickle.loads(pickle.dumps(watch))
    net = module(pl, on_after_backward=lambda self: copy.deepcopy(watch) and None)
    fit(pl, net, watch)
    other = pickle.loads(pickle.dumps(watch))
    assert len(pickle.dumps(watch)) < 100_000
    assert other.state_dict() == watch.state_dict()
    fit(pl, module(pl), other)
    assert other.step == 8
    assert watch.step == 4


def test_l14_ddp_spawn_trains_and_only_the_first_rank_writes(pl, tmp_path):
    """Two real processes: the callback travels, the records are those of averaged gradients, one event file."""
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="run")
    clip, lines = gradwatch.ClipNorm(0.1), gradwatch.JSONLWriter(tmp_path / "lines")
    watch = GradWatch(clip=clip, writers=[lines])
    options = {"strategy": "ddp_spawn", "devices": 2, "logger": logger, "num_nodes": 1}
    # both processes read all batches, so that the mean of their gradients is that of one
    trainer(pl, watch, **options, use_distributed_sampler=False).fit(NETS[pl](), inputs(2))
    torch.manual_seed(0)
    expected = fit(pl, NETS[pl](), quiet_watch(clip=clip), inputs(2))
    run = read_jsonl(tmp_path / "lines")
    records = run.records
    assert run.sessions == (0,)
    assert [record.names for record in records] == [record.names for record in expected]
    assert total_norms(list(records)) == pytest.approx(total_norms(expected), rel=1e-5)
    assert clipped_norms(list(records)) == pytest.approx([0.1, 0.1], rel=1e-4)
    assert len(event_files(tmp_path)) == 1
    assert packed_rows(tmp_path) == 2
    assert list(points(tmp_path, "gradwatch/log10 gradient norm")) == [0, 1]


def test_l15_one_instance_serves_both_packages():
    """It is a Callback of both, and goes on counting from one package's Trainer to the other's."""
    watch = quiet_watch()
    for number, package in enumerate(PACKAGES, start=1):
        assert isinstance(watch, package.Callback)
        fit(package, module(package), watch)
        assert watch.step == 4 * number


def test_l15_both_packages_are_there():
    """Or the tests of the row would test one of them twice."""
    assert not issubclass(lightning.pytorch.Callback, pytorch_lightning.Callback)
    assert not issubclass(pytorch_lightning.Callback, lightning.pytorch.Callback)


def test_a_second_fit_goes_on(pl):
    """Steps, history and baselines, with another Trainer, too."""
    watch, net = quiet_watch(), module(pl)
    fit(pl, net, watch)
    fit(pl, net, watch)
    assert [record.step for record in watch.history] == list(range(8))
    assert total_norms(watch.history) == pytest.approx(net.norms, rel=1e-5)


def test_a_deep_copy_is_a_watch_of_its_own(pl):
    """A copy before the first fit begins at zero, one after it goes on; the original notices neither."""
    watch = quiet_watch()
    early = copy.deepcopy(watch)
    fit(pl, module(pl), watch)
    late = copy.deepcopy(watch)
    fit(pl, module(pl), early)
    fit(pl, module(pl), late)
    assert [early.step, late.step, watch.step] == [4, 8, 4]
    assert late.step == late.history[-1].step + 1


def test_a_fit_without_a_step_is_not_silent(pl):
    """Nothing stepped: it says so instead of reporting a healthy run."""
    with pytest.warns(GradwatchWarning, match="no optimizer step"):
        fit(pl, module(pl), quiet_watch(), max_epochs=0)
