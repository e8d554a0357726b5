"""Where the callback writes: rows L11 and L12 of the hazards."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from fits import (
    NORM,
    event_files,
    fit,
    inputs,
    module,
    packed_rows,
    plain_tags,
    points,
    quiet_watch,
    spiky,
    total_norms,
    trainer,
)

from gradwatch import _transfer


def noting_step(self: Any, batch: Any, batch_idx: int) -> Any:
    """A ``training_step`` that logs something of its own."""
    self.log("mark", float(self.global_step))
    return self.batch_loss(batch)


def adversaries(self: Any) -> Any:
    """Two optimizers, each with half of the parameters."""
    return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, 2)]


def manual_step(self: Any, batch: Any, batch_idx: int) -> None:
    """Both optimizers step in every batch: ``global_step`` counts two."""
    for optimizer in self.optimizers():
        optimizer.zero_grad()
        self.manual_backward(self.batch_loss(batch))
        optimizer.step()
    self.log("mark", float(batch_idx))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_l11_our_scalars_stand_where_the_users_stand(pl, tmp_path, accumulate):
    """One optimizer: the same batch is the same step in the chart, over epochs and with validation in between."""
    watch, net = quiet_watch(), module(pl, training_step=noting_step)
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    options = {"max_epochs": 2, "val_check_interval": 2, "accumulate_grad_batches": accumulate}
    trainer(pl, watch, logger=logger, **options).fit(net, inputs(), inputs(2))
    marks, norms = points(tmp_path, "mark"), points(tmp_path, NORM)
    assert list(marks) == list(norms) == list(range(8 // accumulate))
    assert [10**value for value in norms.values()] == pytest.approx(total_norms(watch.history), rel=1e-4)


def test_l11_two_optimizers_stand_at_the_batch_they_belong_to(pl, tmp_path):
    """``global_step`` runs twice as fast as the axis of ``self.log``: both our series stand on the latter."""
    watch = quiet_watch()
    net = module(pl, training_step=manual_step, configure_optimizers=adversaries, automatic_optimization=False)
    fit(pl, net, watch, logger=pl.loggers.TensorBoardLogger(tmp_path))
    marks = points(tmp_path, "mark")
    first, second = points(tmp_path, NORM), points(tmp_path, NORM.replace("/", "/optimizer1/"))
    assert list(marks) == list(first) == list(second) == [0, 1, 2, 3]
    norms = [10**value for pair in zip(first.values(), second.values(), strict=True) for value in pair]
    assert norms == pytest.approx(total_norms(watch.history), rel=1e-4)


def test_l11_a_record_that_arrives_late_stands_where_it_belongs(pl, tmp_path, monkeypatch):
    """On CUDA records come batches later: here only with the end of the fit."""
    monkeypatch.setattr(_transfer._Parcel, "has_arrived", lambda self: False)
    net = module(pl, training_step=noting_step)
    fit(pl, net, quiet_watch(), inputs(5), accumulate_grad_batches=2, logger=pl.loggers.TensorBoardLogger(tmp_path))
    assert list(points(tmp_path, "mark")) == list(points(tmp_path, NORM)) == [0, 1, 2]


def test_l11_after_a_resume_the_axis_goes_on(pl, tmp_path):
    """As the user's own values do."""
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path, filename="half")
    trainer(pl, quiet_watch(), checkpoint).fit(module(pl, training_step=noting_step), inputs())
    logger = pl.loggers.TensorBoardLogger(tmp_path)
    resumed = trainer(pl, quiet_watch(), max_epochs=2, logger=logger)
    resumed.fit(module(pl, training_step=noting_step), inputs(), ckpt_path=tmp_path / "half.ckpt")
    assert list(points(tmp_path, "mark")) == list(points(tmp_path, NORM)) == [4, 5, 6, 7]


def test_l12_everything_is_in_the_users_one_event_file(pl, tmp_path):
    """A second event file in the directory would freeze the user's own charts."""
    fit(pl, module(pl, training_step=noting_step), quiet_watch(), logger=pl.loggers.TensorBoardLogger(tmp_path))
    assert len(event_files(tmp_path)) == 1
    assert packed_rows(tmp_path) == 4
    assert {"mark", NORM} <= set(plain_tags(tmp_path))


def test_l12_a_second_fit_with_the_same_logger_stays_in_one_file_each(pl, tmp_path):
    """Lightning closes the logger's file at the end of a fit and opens another; ours are wherever the user's are."""
    watch, logger = quiet_watch(), pl.loggers.TensorBoardLogger(tmp_path)
    net = module(pl, training_step=noting_step)
    run = trainer(pl, watch, logger=logger)
    run.fit(net, inputs())
    run.fit_loop.max_epochs = 2
    run.fit(net, inputs())
    assert watch.step == 8
    assert len(event_files(tmp_path)) <= 2


def rows_of(directory: Any) -> list[dict[str, str]]:
    """What a CSVLogger has written."""
    (file,) = directory.rglob("metrics.csv")
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_l12_another_logger_gets_the_plain_scalars(pl, tmp_path):
    """In the user's own table, at the user's own steps."""
    watch, net = quiet_watch(), module(pl, training_step=noting_step)
    fit(pl, net, watch, logger=pl.loggers.CSVLogger(tmp_path))
    ours = {int(row["step"]): float(row[NORM]) for row in rows_of(tmp_path) if row.get(NORM)}
    marks = [int(row["step"]) for row in rows_of(tmp_path) if row.get("mark")]
    assert list(ours) == marks == [0, 1, 2, 3]
    assert [10**value for value in ours.values()] == pytest.approx(total_norms(watch.history), rel=1e-4)
    assert event_files(tmp_path) == []


def test_l12_another_logger_is_not_flooded_but_told_of_every_incident(pl, tmp_path):
    """Every ``log_every_n_steps``, and the step of an incident in any case."""
    watch = quiet_watch()
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(pl, module(pl), watch, spiky(30, 21), logger=logger, log_every_n_steps=10, gradient_clip_val=0.1)
    rows = {int(row["step"]): row for row in rows_of(tmp_path) if row.get(NORM)}
    assert [incident.step for incident in watch.incidents] == [21]
    assert list(rows) == [0, 10, 20, 21]
    assert float(rows[21]["gradwatch/incidents so far"]) == 1


def test_l12_several_loggers_all_get_theirs(pl, tmp_path):
    """Each in its own way."""
    loggers = [
        pl.loggers.TensorBoardLogger(tmp_path / "one"),
        pl.loggers.CSVLogger(tmp_path / "two"),
        pl.loggers.TensorBoardLogger(tmp_path / "three"),
    ]
    fit(pl, module(pl), quiet_watch(), logger=loggers)
    assert packed_rows(tmp_path / "one") == packed_rows(tmp_path / "three") == 4
    assert len([row for row in rows_of(tmp_path / "two") if row.get(NORM)]) == 4


def test_l12_without_a_logger_nothing_is_written(pl, tmp_path):
    """The records are there all the same."""
    assert len(fit(pl, module(pl), quiet_watch())) == 4
    assert list(tmp_path.rglob("*.*")) == []


def test_l12_a_logdir_of_its_own_leaves_the_users_logger_alone(pl, tmp_path):
    """What is asked for goes there and nowhere else, on the axis of optimizer steps."""
    logger = pl.loggers.TensorBoardLogger(tmp_path / "users")
    fit(pl, module(pl, training_step=noting_step), quiet_watch(logdir=tmp_path / "ours"), logger=logger)
    assert packed_rows(tmp_path / "ours") == 4
    assert "mark" in plain_tags(tmp_path / "users")
    assert not [tag for tag in plain_tags(tmp_path / "users") if tag.startswith("gradwatch/")]


def test_l12_a_fast_dev_run_writes_nothing(pl, tmp_path):
    """Its loggers are dummies; the one step is measured."""
    watch = quiet_watch()
    trainer(pl, watch, logger=pl.loggers.TensorBoardLogger(tmp_path), fast_dev_run=True).fit(module(pl), inputs())
    assert watch.step == 1
    assert event_files(tmp_path) == []
