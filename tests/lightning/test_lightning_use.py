"""What else a user of Lightning does with the callback in the list."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fits import amp, fit, inputs, module, quiet_watch, same_bits, spiky, total_norms, trainer
from torch import nn

import gradwatch
from gradwatch.errors import GradwatchWarning
from gradwatch.lightning import GradWatch


def adam(self: Any) -> Any:
    """A healthy rate."""
    return torch.optim.Adam(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}])
def test_weights_are_the_same_to_the_last_bit(pl, scaled, options):
    """Watching without a clip changes nothing, whatever else is on."""
    weights = []
    for callbacks in ([], [quiet_watch(every=2)]):
        torch.manual_seed(3)
        net = module(pl, configure_optimizers=adam)
        plugins = [amp(pl)] if scaled else None
        trainer(pl, *callbacks, plugins=plugins, max_epochs=2, **options).fit(net, inputs(10))
        weights.append(net)
    assert same_bits(*weights)


def test_training_goes_on_if_measuring_fails(pl, monkeypatch):
    """One warning, and the run is the user's."""
    from gradwatch import _measurement

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("boom")

    net = module(pl)
    monkeypatch.setattr(_measurement, "measure", broken)
    with pytest.warns(GradwatchWarning) as caught:
        fit(pl, net, quiet_watch())
    assert [str(w.message) for w in caught if "boom" in str(w.message)]
    assert min(net.moves) > 0


def test_error_if_nonfinite_stops_the_fit(pl):
    """The user asked for it."""

    def on_after_backward(self: Any) -> None:
        if len(self.losses) == 3:
            next(self.parameters()).grad[0, 0] = float("nan")

    watch = quiet_watch(clip=gradwatch.ClipNorm(1.0, error_if_nonfinite=True))
    with pytest.raises(RuntimeError, match="error_if_nonfinite=True"):
        fit(pl, module(pl, on_after_backward=on_after_backward), watch)


def test_validation_in_between_changes_nothing(pl):
    """Neither in the records nor in the counting."""
    net, watch = module(pl), quiet_watch()
    trainer(pl, watch, val_check_interval=1).fit(net, inputs(), inputs(2))
    assert watch.step == 4
    assert total_norms(watch.history) == pytest.approx(net.norms, rel=1e-5)


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_without_training_it_keeps_still(pl, tmp_path, stage):
    """No warning, no file, no error, and nothing to read."""
    watch = GradWatch()
    run = trainer(pl, watch, logger=pl.loggers.TensorBoardLogger(tmp_path))
    getattr(run, stage)(module(pl), inputs())
    assert watch.step == len(watch.history) == 0
    assert "no training yet" in watch.summary()


def test_without_an_optimizer_it_says_so(pl):
    """``configure_optimizers`` may return None: the fit runs, and the callback says that it saw no step."""
    net = module(pl, configure_optimizers=lambda self: None)
    with (
        pytest.warns(UserWarning, match="this fit will run with no optimizer"),
        pytest.warns(GradwatchWarning, match="no optimizer step"),
    ):
        fit(pl, net, quiet_watch())


def test_a_module_with_nothing_to_train_is_refused_before_training(pl):
    """A ValueError, as at the other entrance."""

    def configure_model(self: Any) -> None:
        self.requires_grad_(requires_grad=False)

    with pytest.raises(ValueError, match="requires_grad"):
        fit(pl, module(pl, configure_model=configure_model), quiet_watch())


def test_the_learning_rate_finder_leaves_no_trace(pl):
    """Its hundred steps with an exploding rate are no training: neither counted nor an incident of the run."""
    watch = quiet_watch()
    net = module(pl, configure_optimizers=lambda self: torch.optim.SGD(self.parameters(), lr=self.lr))
    net.lr = 1e-3
    run = trainer(pl, watch)
    pl.tuner.Tuner(run).lr_find(net, inputs(40), num_training=20, max_lr=100.0)
    assert watch.step == 0
    assert watch.incidents == []
    run.fit(net, inputs())
    assert watch.step == 4
    assert [record.step for record in watch.history] == [0, 1, 2, 3]


def test_early_stopping_and_learning_rate_monitor_live_beside_it(pl, tmp_path):
    """An early end is an end like any other."""

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = self.batch_loss(batch)
        self.log("loss", loss)
        return loss

    stop = pl.callbacks.EarlyStopping("loss", stopping_threshold=1e9, check_on_train_epoch_end=True)
    watch, logger = quiet_watch(), pl.loggers.CSVLogger(tmp_path)
    run = trainer(pl, watch, stop, pl.callbacks.LearningRateMonitor(), max_epochs=9, logger=logger)
    run.fit(module(pl, training_step=training_step), inputs())
    assert watch.step == 4


def test_stochastic_weight_averaging_is_no_trouble(pl):
    """It copies the module and replaces the schedule in the midst of the fit."""
    net, watch = module(pl, configure_optimizers=adam), quiet_watch()
    swa = pl.callbacks.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1)
    trainer(pl, watch, swa, max_epochs=3).fit(net, inputs())
    assert total_norms(watch.history) == pytest.approx(net.norms[: watch.step], rel=1e-5)
    assert watch.step >= 12


def test_a_compiled_module_keeps_its_names(pl):
    """``torch.compile`` round the LightningModule adds no prefix."""
    net = module(pl, training_step=lambda self, batch, batch_idx: (self.net(batch) - 1).square().mean())
    watch = quiet_watch()
    compiled = torch.compile(net, backend="eager")
    trainer(pl, watch).fit(compiled, inputs())
    assert watch.step == 4
    assert watch.history[0].names == ("net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias")
    assert total_norms(watch.history) == pytest.approx(net.norms, rel=1e-5)


def test_layers_frozen_and_thawed_by_a_callback_are_followed(pl):
    """A head first, the whole model later: only what trains is looked at."""

    def configure_optimizers(self: Any) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_start(self: Any) -> None:
        self.net[0].requires_grad_(requires_grad=self.current_epoch > 0)

    net = module(pl, configure_optimizers=configure_optimizers, on_train_epoch_start=on_train_epoch_start)
    watch = quiet_watch()
    fit(pl, net, watch, max_epochs=2)
    assert [len(record.names) for record in watch.history] == [2] * 4 + [4] * 4
    assert not [incident for incident in watch.incidents if incident.kind in ("vanishing", "disconnected")]


def test_a_module_made_in_configure_model_is_watched(pl):
    """As big models are."""

    def configure_model(self: Any) -> None:
        if isinstance(self.net, nn.Sequential):
            self.net = nn.Linear(4, 1)

    watch = quiet_watch()
    fit(pl, module(pl, configure_model=configure_model), watch)
    assert watch.history[0].names == ("net.weight", "net.bias")


def test_a_loss_that_lightning_does_not_see_can_be_told(pl):
    """``watch.loss`` in manual optimization with a plain ``backward()``."""
    watch = quiet_watch()

    def training_step(self: Any, batch: Any, batch_idx: int) -> None:
        loss = self.batch_loss(batch)
        watch.loss(loss)
        loss.backward()
        self.optimizers().step()
        self.optimizers().zero_grad()

    net = module(pl, training_step=training_step)
    net.automatic_optimization = False
    records = fit(pl, net, watch)
    assert [record.loss for record in records] == pytest.approx(net.losses)


def test_it_speaks_on_the_terminal_by_default(pl, capsys):
    """One block an incident and one closing line, without a word of configuration."""
    watch = GradWatch()
    fit(pl, module(pl), watch, spiky(30, 20), gradient_clip_val=0.1)
    told = capsys.readouterr().err
    assert "data outlier · step 20" in told
    assert "30 steps" in told


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"clip": 1.0}, TypeError),
        ({"every": 0}, ValueError),
        ({"history": 0}, ValueError),
        ({"logdir": 3}, TypeError),
        ({"writers": [print]}, TypeError),
        ({"detectors": [print]}, TypeError),
    ],
)
def test_wrong_options_are_refused_at_once(options, error):
    """Before any training, naming the argument."""
    with pytest.raises(error, match=next(iter(options))):
        GradWatch(**options)


def test_an_unwritable_logdir_is_refused_before_training(pl, tmp_path):
    """An OSError out of our tree, and nothing is left behind."""
    (tmp_path / "file").touch()
    net = module(pl)
    with pytest.raises(OSError, match="logdir"):
        fit(pl, net, quiet_watch(logdir=tmp_path / "file" / "runs"))
    assert net.losses == []


def test_the_module_and_its_copies_stay_clean(pl):
    """Nothing of ours is on the module: it can be copied during the fit."""
    copies = []
    net = module(pl, on_after_backward=lambda self: copies.append(copy.deepcopy(self.net)))
    attributes = set(vars(net))
    fit(pl, net, quiet_watch(clip=gradwatch.ClipNorm(1.0)))
    assert len(copies) == 4
    assert not [name for name in set(vars(net)) - attributes if "watch" in name]
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_birthplace_of_a_nonfinite_loss_is_found(pl):
    """Lightning hands over the loss with its graph, scaled or not: the operation and the bracket are read off it."""

    def training_step(self: Any, batch: Any, _batch_idx: int) -> Any:
        return (self.net(batch) * 0 - 1).log().mean()

    for options in ({}, {"accumulate_grad_batches": 2}):
        watch = quiet_watch()
        records = fit(pl, module(pl, training_step=training_step), watch, **options)
        assert records[0].birthplace.operation == "logarithm"
        assert watch.incidents[0].causes[0].name == "domain_operation"
